//! How hard a request is, as a number from 0 to 1: what its policy says that this means.

mod entropy;

use terrace_crds::policy::{Complexity as Spec, ComplexityMethod};

use crate::cel::{Declarations, EvalError, Expression, Type};
use crate::policy::Fault;
use crate::rules::Scope;

pub use entropy::{Elements, entropy};
pub(crate) use entropy::{from_bf16, from_f16};

/// How a policy measures a request that does not state its complexity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Complexity {
    /// The Shannon entropy of the inputs, as a share of its maximum.
    #[default]
    Entropy,
    /// The bytes of the inputs, as a share of `full_bytes`; 1 from there on.
    InputSize {
        /// The bytes of a request that counts as 1.
        full_bytes: u64,
    },
    /// What an expression says, brought between 0 and 1.
    Expression(Box<ComplexityExpression>),
}

/// An expression that says how hard a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComplexityExpression(Expression);

impl Complexity {
    /// What `spec.complexity` says, or what is wrong with it.
    pub(crate) fn parse(spec: Option<&Spec>, headers: &[String], faults: &mut Vec<Fault>) -> Self {
        const FULL_BYTES: &str = "spec.complexity.fullBytes";
        const EXPRESSION: &str = "spec.complexity.expression";
        let Some(spec) = spec else { return Self::Entropy };
        let method = spec.method.unwrap_or_default();
        if spec.full_bytes.is_some() && method != ComplexityMethod::InputSize {
            faults.push(Fault::new(FULL_BYTES, "belongs to method InputSize alone"));
        }
        if spec.expression.is_some() && method != ComplexityMethod::Expression {
            faults.push(Fault::new(EXPRESSION, "belongs to method Expression alone"));
        }
        match method {
            ComplexityMethod::Entropy => Self::Entropy,
            ComplexityMethod::InputSize => match spec.full_bytes {
                Some(full_bytes @ 1..) => Self::InputSize { full_bytes },
                Some(0) => {
                    faults.push(Fault::new(FULL_BYTES, "must be at least 1"));
                    Self::Entropy
                }
                None => {
                    let message = "is missing: the bytes of a request that counts as 1";
                    faults.push(Fault::new(FULL_BYTES, message));
                    Self::Entropy
                }
            },
            ComplexityMethod::Expression => {
                let Some(text) = &spec.expression else {
                    faults.push(Fault::new(
                        EXPRESSION,
                        "is missing: what says how hard a request is, from 0 to 1",
                    ));
                    return Self::Entropy;
                };
                match Expression::compile(text, Type::Double, &Declarations { headers, complexity: false }) {
                    Ok(expression) => Self::Expression(Box::new(ComplexityExpression(expression))),
                    Err(error) => {
                        faults.push(Fault::new(EXPRESSION, error.to_string()));
                        Self::Entropy
                    }
                }
            }
        }
    }

    /// The same as a spec; none where it is the default.
    pub(crate) fn to_spec(&self) -> Option<Spec> {
        match self {
            Self::Entropy => None,
            Self::InputSize { full_bytes } => Some(Spec {
                method: Some(ComplexityMethod::InputSize),
                full_bytes: Some(*full_bytes),
                expression: None,
            }),
            Self::Expression(expression) => Some(Spec {
                method: Some(ComplexityMethod::Expression),
                full_bytes: None,
                expression: Some(expression.0.text().to_owned()),
            }),
        }
    }

    /// How hard the request of `scope` is, from 0 to 1. An expression that fails, or gives no number, leaves it unknown.
    pub(crate) fn measure(&self, scope: &Scope<'_>) -> Result<f64, EvalError> {
        match self {
            Self::Entropy => Ok(scope.facts().entropy()),
            Self::InputSize { full_bytes } => Ok(of_size(scope.facts().bytes(), *full_bytes)),
            Self::Expression(expression) => match expression.0.number(scope)? {
                number if number.is_nan() => Err(EvalError::NotANumber),
                number => Ok(number.clamp(0.0, 1.0)),
            },
        }
    }

    /// The expression, where it is one.
    pub(crate) fn expression(&self) -> Option<&Expression> {
        match self {
            Self::Expression(expression) => Some(&expression.0),
            Self::Entropy | Self::InputSize { .. } => None,
        }
    }
}

fn of_size(bytes: u64, full_bytes: u64) -> f64 {
    (bytes as f64 / full_bytes as f64).min(1.0)
}
