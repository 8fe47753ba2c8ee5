//! From what was written to a typed tree, or what is wrong with it.

use super::Wrong;
use super::ast::{Binary, Expr, Kind};
use super::tree::{Node, TextTest};
use super::variables::{Declarations, Place, Type, Variable};

/// The typed tree of `expr`, whose value has the type `wanted`.
pub(super) fn check(expr: &Expr, wanted: Type, declared: &Declarations<'_>) -> Result<Node, Wrong> {
    let (node, found) = Checker { declared }.value(expr)?;
    match (wanted, found) {
        (wanted, found) if wanted == found => Ok(node),
        (Type::Double, Type::Int) => Ok(Node::ToDouble(Box::new(node))),
        (Type::Double, found) => Err(misgives(expr, "a number", found)),
        (wanted, found) => Err(misgives(expr, &with_article(wanted), found)),
    }
}

fn misgives(expr: &Expr, wanted: &str, found: Type) -> Wrong {
    Wrong::new(start(expr), format!("must give {wanted}, and gives {}", with_article(found)))
}

fn with_article(of: Type) -> String {
    if of == Type::Int { format!("an {of}") } else { format!("a {of}") }
}

/// Where an expression begins.
fn start(expr: &Expr) -> usize {
    match &expr.kind {
        Kind::Binary(_, left, _) | Kind::If(left, _, _) => start(left),
        Kind::Select(of, _) | Kind::Index(of, _) | Kind::Call(Some(of), _, _) => start(of),
        _ => expr.at,
    }
}

type Typed = (Node, Type);

struct Checker<'a> {
    declared: &'a Declarations<'a>,
}

impl Checker<'_> {
    fn value(&self, expr: &Expr) -> Result<Typed, Wrong> {
        match &expr.kind {
            Kind::Bool(value) => Ok((Node::Bool(*value), Type::Bool)),
            Kind::Int(value) => Ok((Node::Int(*value), Type::Int)),
            Kind::Double(value) => Ok((Node::Double(*value), Type::Double)),
            Kind::Text(value) => Ok((Node::Text(value.as_str().into()), Type::Text)),
            Kind::Name(_) | Kind::Select(..) => self.read(expr),
            Kind::Index(of, index) => {
                if let Some(list) = self.list(of)? {
                    let index = self.of_type(index, Type::Int, "the place in a list")?;
                    return Ok((Node::Item(list, Box::new(index)), Type::Int));
                }
                self.read(expr)
            }
            Kind::Call(of, name, arguments) => self.call(expr.at, of.as_deref(), name, arguments),
            Kind::List(_) => Err(Wrong::new(
                expr.at,
                "a list may stand behind in, and may be compared with an input's shape; nowhere else",
            )),
            Kind::Not(of) => {
                let of = self.of_type(of, Type::Bool, "what ! negates")?;
                Ok((Node::Not(Box::new(of)), Type::Bool))
            }
            Kind::Negate(of) => match self.value(of)? {
                (node, type_ @ (Type::Int | Type::Double)) => Ok((Node::Negate(Box::new(node)), type_)),
                (_, found) => {
                    Err(Wrong::new(expr.at, format!("- needs a number, and has {}", with_article(found))))
                }
            },
            Kind::Binary(operator, left, right) => self.binary(expr.at, *operator, left, right),
            Kind::If(condition, then, otherwise) => {
                let condition = self.of_type(condition, Type::Bool, "the condition before ?")?;
                let ((then, type_), (otherwise, other)) = (self.value(then)?, self.value(otherwise)?);
                if type_ != other {
                    let message =
                        format!("both values of a condition need one type, and are {type_} and {other}");
                    return Err(Wrong::new(expr.at, message));
                }
                Ok((Node::If(Box::new([condition, then, otherwise])), type_))
            }
        }
    }

    /// A value of one type.
    fn of_type(&self, expr: &Expr, wanted: Type, what: &str) -> Result<Node, Wrong> {
        match self.value(expr)? {
            (node, found) if found == wanted => Ok(node),
            (_, found) => Err(Wrong::new(
                start(expr),
                format!("{what} must be {}, and is {}", with_article(wanted), with_article(found)),
            )),
        }
    }

    /// Where a chain of names leads; none where it is no such chain.
    fn place(&self, expr: &Expr) -> Result<Option<Place>, Wrong> {
        let wrong = |message| Wrong::new(expr.at, message);
        match &expr.kind {
            Kind::Name(name) => Place::root(name).map(Some).map_err(wrong),
            Kind::Select(of, field) => {
                let Some(of) = self.place(of)? else { return Ok(None) };
                of.field(field, self.declared).map(Some).map_err(wrong)
            }
            Kind::Index(of, key) => {
                let Some(of) = self.place(of)? else { return Ok(None) };
                let Kind::Text(key) = &key.kind else {
                    return match of {
                        Place::Variable(_) => Ok(None),
                        of => Err(Wrong::new(
                            key.at,
                            format!("a key of {} must be a text in quotes", of.name()),
                        )),
                    };
                };
                of.entry(key, self.declared).map(Some).map_err(wrong)
            }
            _ => Ok(None),
        }
    }

    /// A variable that has a value.
    fn read(&self, expr: &Expr) -> Result<Typed, Wrong> {
        match self.place(expr)? {
            Some(Place::Variable(variable)) => match variable.type_of() {
                Some(type_) => Ok((Node::Read(variable), type_)),
                None => Err(Wrong::new(expr.at, format!("{variable} is no value by itself"))),
            },
            Some(place) => Err(Wrong::new(start(expr), place.not_a_value())),
            None => Err(Wrong::new(expr.at, "has neither fields nor entries")),
        }
    }

    /// The variable whose value is a list, where `expr` is one.
    fn list(&self, expr: &Expr) -> Result<Option<Variable>, Wrong> {
        Ok(match self.place(expr)? {
            Some(Place::Variable(variable)) if variable.type_of() == Some(Type::Ints) => Some(variable),
            _ => None,
        })
    }

    fn binary(&self, at: usize, operator: Binary, left: &Expr, right: &Expr) -> Result<Typed, Wrong> {
        match operator {
            Binary::And | Binary::Or => {
                let sides = format!("both sides of {}", operator.sign());
                let left = Box::new(self.of_type(left, Type::Bool, &sides)?);
                let right = Box::new(self.of_type(right, Type::Bool, &sides)?);
                let node =
                    if operator == Binary::And { Node::And(left, right) } else { Node::Or(left, right) };
                Ok((node, Type::Bool))
            }
            Binary::Equal | Binary::NotEqual => self.equality(at, operator, left, right),
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                let ((left, one), (right, other)) = (self.value(left)?, self.value(right)?);
                let comparable = match (one, other) {
                    (Type::Int | Type::Double, Type::Int | Type::Double) => true,
                    (Type::Ints, _) => false,
                    (one, other) => one == other,
                };
                if !comparable {
                    return Err(mismatch(at, operator, one, other));
                }
                Ok((Node::Compare(operator, Box::new(left), Box::new(right)), Type::Bool))
            }
            Binary::In => self.membership(at, left, right),
            Binary::Add | Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder => {
                let ((left, one), (right, other)) = (self.value(left)?, self.value(right)?);
                let type_ = match (one, other) {
                    (Type::Int, Type::Int) => Type::Int,
                    (Type::Double, Type::Double) if operator != Binary::Remainder => Type::Double,
                    _ => return Err(mismatch(at, operator, one, other)),
                };
                Ok((Node::Calculate(operator, Box::new(left), Box::new(right)), type_))
            }
        }
    }

    fn equality(&self, at: usize, operator: Binary, left: &Expr, right: &Expr) -> Result<Typed, Wrong> {
        let negated = |node| if operator == Binary::NotEqual { Node::Not(Box::new(node)) } else { node };
        for (list, other) in [(left, right), (right, left)] {
            if let Kind::List(items) = &list.kind {
                let Some(variable) = self.list(other)? else {
                    return Err(Wrong::new(list.at, "a list can be compared with an input's shape alone"));
                };
                let items = self.items(items, Type::Int)?;
                return Ok((negated(Node::Same(variable, items)), Type::Bool));
            }
        }
        let ((one, type_), (other, other_type)) = (self.value(left)?, self.value(right)?);
        if type_ != other_type || type_ == Type::Ints {
            return Err(mismatch(at, operator, type_, other_type));
        }
        known_value(&one, &other, right)?;
        known_value(&other, &one, left)?;
        Ok((negated(Node::Compare(Binary::Equal, Box::new(one), Box::new(other))), Type::Bool))
    }

    fn membership(&self, at: usize, left: &Expr, right: &Expr) -> Result<Typed, Wrong> {
        if let Kind::List(list) = &right.kind {
            let (of, type_) = self.value(left)?;
            if type_ == Type::Ints {
                return Err(Wrong::new(at, "a list cannot be in a list"));
            }
            let items = self.items(list, type_)?;
            for (item, written) in items.iter().zip(list) {
                known_value(&of, item, written)?;
            }
            return Ok((Node::Among(Box::new(of), items), Type::Bool));
        }
        if let Some(list) = self.list(right)? {
            let of = self.of_type(left, Type::Int, "what is looked for in a shape")?;
            return Ok((Node::In(Box::new(of), list), Type::Bool));
        }
        match self.place(right)? {
            Some(map @ (Place::Inputs | Place::Headers | Place::Labels)) => {
                let Kind::Text(key) = &left.kind else {
                    let message = format!("a key of {} must be a text in quotes", map.name());
                    return Err(Wrong::new(start(left), message));
                };
                let entry = map.entry(key, self.declared).map_err(|message| Wrong::new(left.at, message))?;
                Ok((has(entry), Type::Bool))
            }
            _ => Err(Wrong::new(
                start(right),
                "behind in stands a list, a shape, request.inputs, request.headers or node.labels",
            )),
        }
    }

    fn items(&self, items: &[Expr], wanted: Type) -> Result<Box<[Node]>, Wrong> {
        items.iter().map(|item| self.of_type(item, wanted, "each item of this list")).collect()
    }

    fn call(&self, at: usize, of: Option<&Expr>, name: &str, arguments: &[Expr]) -> Result<Typed, Wrong> {
        match (name, of, arguments) {
            ("has", None, [argument]) => self.has(at, argument),
            ("size", None, [of]) | ("size", Some(of), []) => self.size(of),
            ("int", None, [of]) => match self.value(of)? {
                (node, Type::Int) => Ok((node, Type::Int)),
                (node, Type::Double) => Ok((Node::ToInt(Box::new(node)), Type::Int)),
                (_, found) => {
                    Err(Wrong::new(at, format!("int() takes a number, and has {}", with_article(found))))
                }
            },
            ("double", None, [of]) => match self.value(of)? {
                (node, Type::Double) => Ok((node, Type::Double)),
                (node, Type::Int) => Ok((Node::ToDouble(Box::new(node)), Type::Double)),
                (_, found) => {
                    Err(Wrong::new(at, format!("double() takes a number, and has {}", with_article(found))))
                }
            },
            ("startsWith" | "endsWith" | "contains", Some(of), [part]) => {
                let test = match name {
                    "startsWith" => TextTest::StartsWith,
                    "endsWith" => TextTest::EndsWith,
                    _ => TextTest::Contains,
                };
                let of = self.of_type(of, Type::Text, &format!("what {name}() is asked of"))?;
                let part = self.of_type(part, Type::Text, &format!("what {name}() looks for"))?;
                Ok((Node::TextTest(test, Box::new(of), Box::new(part)), Type::Bool))
            }
            (
                "all" | "exists" | "exists_one" | "existsOne" | "map" | "filter" | "transformList"
                | "transformMap",
                ..,
            ) => Err(Wrong::new(at, format!("{name}() is not known here: there are no macros that loop"))),
            ("matches" | "find" | "findAll", ..) => Err(Wrong::new(
                at,
                format!(
                    "{name}() is not known here: regular expressions cannot be bounded; use startsWith, endsWith, contains or in"
                ),
            )),
            ("has" | "size" | "int" | "double" | "startsWith" | "endsWith" | "contains", ..) => {
                Err(Wrong::new(at, format!("{name} is called as {}", usage(name))))
            }
            _ => Err(Wrong::new(
                at,
                format!(
                    "{name}() is not known: expected has, size, int, double, startsWith, endsWith or contains"
                ),
            )),
        }
    }

    fn has(&self, at: usize, argument: &Expr) -> Result<Typed, Wrong> {
        if let Kind::Index(..) = argument.kind {
            return Err(Wrong::new(at, "has() takes a field; of an entry ask 'key' in …"));
        }
        match self.place(argument)? {
            Some(place @ (Place::Variable(_) | Place::Input(_)))
                if matches!(argument.kind, Kind::Select(..)) =>
            {
                Ok((has(place), Type::Bool))
            }
            Some(_) => {
                Err(Wrong::new(start(argument), "is always there; has() takes a field that may be unknown"))
            }
            None => Err(Wrong::new(start(argument), "has() takes a field, as in has(request.maxLatencyMs)")),
        }
    }

    fn size(&self, of: &Expr) -> Result<Typed, Wrong> {
        match self.place(of)? {
            Some(Place::Inputs) => Ok((Node::Read(Variable::InputCount), Type::Int)),
            Some(map @ (Place::Headers | Place::Labels)) => {
                Err(Wrong::new(start(of), format!("{} has no size here: ask for its entries", map.name())))
            }
            _ => match self.value(of)? {
                (node, Type::Text | Type::Ints) => Ok((Node::Size(Box::new(node)), Type::Int)),
                (_, found) => Err(Wrong::new(start(of), format!("{} has no size", with_article(found)))),
            },
        }
    }
}

/// Whether a place has a value.
fn has(place: Place) -> Node {
    match place {
        Place::Variable(variable) => Node::Has(variable),
        Place::Input(name) => Node::Has(Variable::Input(name)),
        _ => Node::Bool(true),
    }
}

/// A variable that takes few values is compared with one of them.
fn known_value(variable: &Node, value: &Node, written: &Expr) -> Result<(), Wrong> {
    if let (Node::Read(variable), Node::Text(text)) = (variable, value)
        && let Some(values) = variable.values()
        && !values.contains(&&**text)
    {
        let message = format!("{variable} is never {text:?}: expected one of {}", values.join(", "));
        return Err(Wrong::new(start(written), message));
    }
    Ok(())
}

fn mismatch(at: usize, operator: Binary, left: Type, right: Type) -> Wrong {
    let advice = match (operator, left, right) {
        (_, Type::Int, Type::Double) | (_, Type::Double, Type::Int) => {
            ": write a number with a point (2.0), or double(…)"
        }
        (Binary::Add, Type::Text, Type::Text) => ": texts are not joined here",
        (_, Type::Ints, Type::Ints) => ": two shapes are compared item by item",
        _ => "",
    };
    Wrong::new(at, format!("{} does not take {left} and {right}{advice}", operator.sign()))
}

fn usage(name: &str) -> &'static str {
    match name {
        "has" => "has(a.field)",
        "size" => "size(text)",
        "int" => "int(number)",
        "double" => "double(number)",
        "startsWith" => "text.startsWith(text)",
        "endsWith" => "text.endsWith(text)",
        _ => "text.contains(text)",
    }
}
