//! The value of a typed tree. Takes no memory; how long it takes is bounded by the tree and by the texts that it reads.

use std::cmp::Ordering;

use super::ast::Binary;
use super::tree::{Node, TextTest};
use super::variables::Variable;

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Text(&'a str),
    /// An input's shape.
    Shape(&'a [usize]),
}

/// Why an expression has no value for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It reads what the request, the node or a tier does not have.
    #[error("a value that it reads is not there")]
    Absent,
    /// A whole number is too large or too small.
    #[error("a whole number is out of range")]
    OutOfRange,
    /// A whole number is divided by 0.
    #[error("a whole number is divided by 0")]
    DividedByZero,
    /// A list has no item there.
    #[error("a list has no item at that place")]
    NoSuchItem,
    /// A complexity that is no number.
    #[error("it gives no number")]
    NotANumber,
    /// A value has another type than its variable declares; a fault of this program.
    #[error("a value has another type than its variable")]
    Mismatch,
}

/// Where variables have their values from.
pub(crate) trait Variables {
    /// The value of a variable.
    fn read(&self, variable: &Variable) -> Result<Value<'_>, EvalError>;
    /// Whether it has one.
    fn has(&self, variable: &Variable) -> bool;
}

/// The value of `node`.
pub(super) fn eval<'a>(node: &'a Node, variables: &'a dyn Variables) -> Result<Value<'a>, EvalError> {
    let value = |node: &'a Node| eval(node, variables);
    let test = |node: &'a Node| match eval(node, variables)? {
        Value::Bool(holds) => Ok(holds),
        _ => Err(EvalError::Mismatch),
    };
    let shape = |list: &'a Variable| match variables.read(list)? {
        Value::Shape(items) => Ok(items),
        _ => Err(EvalError::Mismatch),
    };
    Ok(match node {
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::Int(*value),
        Node::Double(value) => Value::Double(*value),
        Node::Text(value) => Value::Text(value),
        Node::Read(variable) => variables.read(variable)?,
        Node::Has(variable) => Value::Bool(variables.has(variable)),
        Node::Not(of) => Value::Bool(!test(of)?),
        Node::Negate(of) => match value(of)? {
            Value::Int(value) => Value::Int(value.checked_neg().ok_or(EvalError::OutOfRange)?),
            Value::Double(value) => Value::Double(-value),
            _ => return Err(EvalError::Mismatch),
        },
        // What either side settles alone stands, also where the other has no value.
        Node::And(left, right) => Value::Bool(match test(left) {
            Ok(false) => false,
            Ok(true) => test(right)?,
            Err(error) => {
                if test(right) == Ok(false) {
                    false
                } else {
                    return Err(error);
                }
            }
        }),
        Node::Or(left, right) => Value::Bool(match test(left) {
            Ok(true) => true,
            Ok(false) => test(right)?,
            Err(error) => {
                if test(right) == Ok(true) {
                    true
                } else {
                    return Err(error);
                }
            }
        }),
        Node::If(parts) => {
            let [condition, then, otherwise] = &**parts;
            value(if test(condition)? { then } else { otherwise })?
        }
        Node::Compare(operator, left, right) => Value::Bool(compare(*operator, value(left)?, value(right)?)?),
        Node::Calculate(operator, left, right) => calculate(*operator, value(left)?, value(right)?)?,
        Node::Among(of, items) => {
            let (of, mut found) = (value(of)?, false);
            for item in items {
                found |= compare(Binary::Equal, of, value(item)?)?;
            }
            Value::Bool(found)
        }
        Node::In(of, list) => match value(of)? {
            Value::Int(of) => Value::Bool(shape(list)?.iter().any(|item| length(*item) == of)),
            _ => return Err(EvalError::Mismatch),
        },
        Node::Same(list, items) => {
            let list = shape(list)?;
            let mut is_same = list.len() == items.len();
            for (place, item) in items.iter().enumerate() {
                let item = value(item)?;
                is_same &= list.get(place).is_some_and(|one| item == Value::Int(length(*one)));
            }
            Value::Bool(is_same)
        }
        Node::Item(list, index) => match value(index)? {
            Value::Int(index) => {
                let index = usize::try_from(index).map_err(|_| EvalError::NoSuchItem)?;
                Value::Int(length(*shape(list)?.get(index).ok_or(EvalError::NoSuchItem)?))
            }
            _ => return Err(EvalError::Mismatch),
        },
        Node::Size(of) => match value(of)? {
            Value::Text(text) => Value::Int(length(text.chars().count())),
            Value::Shape(items) => Value::Int(length(items.len())),
            _ => return Err(EvalError::Mismatch),
        },
        Node::TextTest(test, of, part) => match (value(of)?, value(part)?) {
            (Value::Text(of), Value::Text(part)) => Value::Bool(match test {
                TextTest::StartsWith => of.starts_with(part),
                TextTest::EndsWith => of.ends_with(part),
                TextTest::Contains => of.contains(part),
            }),
            _ => return Err(EvalError::Mismatch),
        },
        Node::ToInt(of) => match value(of)? {
            Value::Double(value) => Value::Int(to_int(value)?),
            _ => return Err(EvalError::Mismatch),
        },
        Node::ToDouble(of) => match value(of)? {
            Value::Int(value) => Value::Double(value as f64),
            _ => return Err(EvalError::Mismatch),
        },
    })
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Two to the 63rd: the least number that is too large for an `int`.
const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0;

/// The whole part of a number.
#[allow(clippy::cast_possible_truncation)] // checked
fn to_int(value: f64) -> Result<i64, EvalError> {
    if value.is_nan() || value >= TOO_LARGE || value <= -TOO_LARGE {
        return Err(EvalError::OutOfRange);
    }
    Ok(value as i64)
}

fn compare(operator: Binary, left: Value<'_>, right: Value<'_>) -> Result<bool, EvalError> {
    use Value::{Bool, Double, Int, Text};
    let order = match (left, right) {
        (Bool(left), Bool(right)) => Some(left.cmp(&right)),
        (Int(left), Int(right)) => Some(left.cmp(&right)),
        (Text(left), Text(right)) => Some(left.cmp(right)),
        (Double(left), Double(right)) => left.partial_cmp(&right),
        (Int(left), Double(right)) => order(left, right),
        (Double(left), Int(right)) => order(right, left).map(Ordering::reverse),
        _ => return Err(EvalError::Mismatch),
    };
    Ok(match operator {
        Binary::Equal => order == Some(Ordering::Equal),
        Binary::Less => order == Some(Ordering::Less),
        Binary::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Binary::Greater => order == Some(Ordering::Greater),
        Binary::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        _ => return Err(EvalError::Mismatch),
    })
}

/// How a whole number stands to another one, exactly: not every `int` is a `double`.
#[allow(clippy::cast_possible_truncation)] // checked
fn order(left: i64, right: f64) -> Option<Ordering> {
    if right.is_nan() {
        None
    } else if right >= TOO_LARGE {
        Some(Ordering::Less)
    } else if right < -TOO_LARGE {
        Some(Ordering::Greater)
    } else {
        let whole = right.trunc();
        Some(
            left.cmp(&(whole as i64))
                .then_with(|| 0.0_f64.partial_cmp(&(right - whole)).unwrap_or(Ordering::Equal)),
        )
    }
}

fn calculate<'a>(operator: Binary, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, EvalError> {
    use Value::{Double, Int};
    match (left, right) {
        (Int(_), Int(0)) if matches!(operator, Binary::Divide | Binary::Remainder) => {
            Err(EvalError::DividedByZero)
        }
        (Int(left), Int(right)) => {
            let result = match operator {
                Binary::Add => left.checked_add(right),
                Binary::Subtract => left.checked_sub(right),
                Binary::Multiply => left.checked_mul(right),
                Binary::Divide => left.checked_div(right),
                Binary::Remainder => left.checked_rem(right),
                _ => return Err(EvalError::Mismatch),
            };
            result.map(Int).ok_or(EvalError::OutOfRange)
        }
        (Double(left), Double(right)) => Ok(Double(match operator {
            Binary::Add => left + right,
            Binary::Subtract => left - right,
            Binary::Multiply => left * right,
            Binary::Divide => left / right,
            _ => return Err(EvalError::Mismatch),
        })),
        _ => Err(EvalError::Mismatch),
    }
}
