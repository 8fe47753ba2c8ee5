//! How sure a model is of its answers.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How sure a model is of an answer, read from one of its outputs; a number from 0 to 1. What each method computes
/// stands in docs/policies.md.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Confidence {
    /// The output that holds the scores: floating-point numbers, along its last axis one for each class.
    #[schemars(length(min = 1, max = 256))]
    pub output: String,
    /// How the scores are read.
    pub method: ConfidenceMethod,
    /// Calibration: above 1 the model counts as less sure than its scores say, below 1 as more. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100.0))]
    // An API server takes a whole number for one that is not below a minimum of 0.01.
    #[x_kube(validation = Rule::new("self >= 0.01").message("temperature must be from 0.01 to 100"))]
    pub temperature: Option<f64>,
}

/// How scores are read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfidenceMethod {
    /// The scores are logits; the largest probability that their softmax gives.
    Softmax,
    /// The scores are probabilities; the largest.
    Probability,
    /// The scores are probabilities; the largest less the second.
    Margin,
    /// The scores are probabilities; 1 less their entropy, as a share of the most that it can be.
    Entropy,
}
