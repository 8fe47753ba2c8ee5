//! The default rules: which tier a request is for, by its complexity and its deadline.

use terrace_crds::Tier;

use crate::decide::Reason;

/// Below this complexity a request is easy.
const EASY: f64 = 0.3;
/// Below this complexity a request is moderate.
const MODERATE: f64 = 0.7;
/// A deadline below this many milliseconds is tight.
const TIGHT_MS: f64 = 50.0;
/// A deadline below this many milliseconds is moderate.
const MODERATE_MS: f64 = 200.0;

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) tier: Tier,
    pub(crate) reason: Reason,
    /// The complexity, where a rule had to know it.
    pub(crate) complexity: Option<f64>,
}

/// Easy and in a hurry: the device. Moderate, or in some hurry: the edge. All others: the cloud. Private requests
/// never come here.
///
/// `complexity` costs a pass over the inputs, the deadline nothing: it is asked first, and between the two
/// deadlines the edge is right whatever the complexity.
pub(crate) fn default_rules(max_latency_ms: Option<f64>, complexity: impl FnOnce() -> f64) -> Choice {
    let max_latency_ms = max_latency_ms.unwrap_or(f64::INFINITY);
    if (TIGHT_MS..MODERATE_MS).contains(&max_latency_ms) {
        return Choice { tier: Tier::Edge, reason: Reason::ModerateDeadline, complexity: None };
    }
    let complexity = complexity();
    let (tier, reason) = if complexity < EASY && max_latency_ms < TIGHT_MS {
        (Tier::Device, Reason::LowComplexityTightDeadline)
    } else if max_latency_ms < MODERATE_MS {
        (Tier::Edge, Reason::ModerateDeadline)
    } else if complexity < MODERATE {
        (Tier::Edge, Reason::ModerateComplexity)
    } else {
        (Tier::Cloud, Reason::HighComplexity)
    };
    Choice { tier, reason, complexity: Some(complexity) }
}
