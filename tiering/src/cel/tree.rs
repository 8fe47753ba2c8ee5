//! An expression whose types are right.

use super::ast::Binary;
use super::variables::Variable;

/// An expression whose types are right.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    Read(Variable),
    /// Whether a variable has a value.
    Has(Variable),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    If(Box<[Self; 3]>),
    /// Of two texts, two booleans, or two numbers of either type.
    Compare(Binary, Box<Self>, Box<Self>),
    /// Of two numbers of one type.
    Calculate(Binary, Box<Self>, Box<Self>),
    /// Whether the first is among the others.
    Among(Box<Self>, Box<[Self]>),
    /// Whether a number is in a list that a variable has.
    In(Box<Self>, Variable),
    /// Whether a list that a variable has is this one.
    Same(Variable, Box<[Self]>),
    /// An item of a list that a variable has.
    Item(Variable, Box<Self>),
    /// How many characters a text has, or items a list.
    Size(Box<Self>),
    TextTest(TextTest, Box<Self>, Box<Self>),
    ToInt(Box<Self>),
    ToDouble(Box<Self>),
}

/// What can be asked of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

impl Node {
    /// Visits every variable that may be read.
    pub(super) fn variables<'a>(&'a self, visit: &mut dyn FnMut(&'a Variable)) {
        match self {
            Self::Bool(_) | Self::Int(_) | Self::Double(_) | Self::Text(_) => {}
            Self::Read(variable) | Self::Has(variable) => visit(variable),
            Self::Not(of) | Self::Negate(of) | Self::Size(of) | Self::ToInt(of) | Self::ToDouble(of) => {
                of.variables(visit);
            }
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Calculate(_, left, right)
            | Self::TextTest(_, left, right) => {
                left.variables(visit);
                right.variables(visit);
            }
            Self::If(parts) => parts.iter().for_each(|part| part.variables(visit)),
            Self::Among(of, items) => {
                of.variables(visit);
                items.iter().for_each(|item| item.variables(visit));
            }
            Self::In(of, list) => {
                of.variables(visit);
                visit(list);
            }
            Self::Same(list, items) => {
                visit(list);
                items.iter().for_each(|item| item.variables(visit));
            }
            Self::Item(list, index) => {
                visit(list);
                index.variables(visit);
            }
        }
    }
}
