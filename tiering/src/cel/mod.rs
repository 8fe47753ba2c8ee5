//! Terrace CEL: the expressions of a policy's rules, a small and typed part of the Common Expression Language.
//!
//! A text is compiled once, when its policy is parsed: [`lex`](self::lex) → [`parse`](self::parse) →
//! [`check`](self::check) → a tree of typed nodes that [`eval`](self::eval) walks for each request without taking
//! memory. What a text can cost is bounded when it is compiled: there are no loops, and its length, nesting and lists
//! are capped. Called by `rules` and `complexity`; knows nothing of tiers and their order.

mod ast;
mod check;
mod eval;
mod lex;
mod parse;
mod tree;
mod variables;

use std::collections::BTreeSet;
use std::fmt;

use tree::Node;

pub(crate) use eval::Variables;
pub use eval::{EvalError, Value};
pub(crate) use variables::{Declarations, Type};
pub use variables::{RemoteField, Variable};

/// The longest text, in characters; also in the CRD's schema.
pub const MAX_LENGTH: usize = 1024;
/// How deep parentheses, calls and signs may nest.
pub(crate) const MAX_DEPTH: usize = 24;
/// The most operators, operands and calls.
pub(crate) const MAX_NODES: usize = 256;
/// The most items of a list.
pub(crate) const MAX_ITEMS: usize = 64;

/// What is wrong with a text, and where. Displayed as `1:14: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// The line, counted from 1.
    pub line: usize,
    /// The character in the line, counted from 1.
    pub column: usize,
    /// What is wrong, and what is accepted.
    pub message: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for CompileError {}

/// What is wrong at a byte of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrong {
    at: usize,
    message: String,
}

impl Wrong {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    fn in_text(self, text: &str) -> CompileError {
        let before = &text[..text.floor_char_boundary(self.at)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        CompileError { line, column, message: self.message }
    }
}

/// A text that was compiled. Two are equal where their texts are.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    text: Box<str>,
    root: Node,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// The expression that `text` says, whose value has the type `wanted`.
    pub(crate) fn compile(
        text: &str,
        wanted: Type,
        declarations: &Declarations<'_>,
    ) -> Result<Self, CompileError> {
        if let Some((at, _)) = text.char_indices().nth(MAX_LENGTH) {
            let message = format!("is longer than {MAX_LENGTH} characters: split it into several rules");
            return Err(Wrong::new(at, message).in_text(text));
        }
        parse::parse(text)
            .and_then(|parsed| check::check(&parsed, wanted, declarations))
            .map(|root| Self { text: text.into(), root })
            .map_err(|wrong| wrong.in_text(text))
    }

    /// The text, as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Adds the labels of nodes that it may read.
    pub(crate) fn labels<'a>(&'a self, labels: &mut BTreeSet<&'a str>) {
        self.root.variables(&mut |variable| {
            if let Variable::Label(key) = variable {
                labels.insert(key);
            }
        });
    }

    /// Its value, where it is a condition.
    pub(crate) fn test(&self, scope: &dyn Variables) -> Result<bool, EvalError> {
        match eval::eval(&self.root, scope)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(EvalError::Mismatch),
        }
    }

    /// Its value, where it is a number.
    pub(crate) fn number(&self, scope: &dyn Variables) -> Result<f64, EvalError> {
        match eval::eval(&self.root, scope)? {
            Value::Double(number) => Ok(number),
            _ => Err(EvalError::Mismatch),
        }
    }
}

#[cfg(test)]
mod tests;
