//! The default rules: which tier a request is for, by its complexity and its deadline.

use std::sync::{Arc, LazyLock};

use terrace_crds::Tier;
use terrace_crds::policy::TierRule as Spec;

use super::{Choice, Failed, Rule, RuleName};
use crate::decide::Reason;

/// Below this complexity a request is easy.
const EASY: f64 = 0.3;
/// Below this complexity a request is moderate.
const MODERATE: f64 = 0.7;
/// A deadline below this many milliseconds is tight.
const TIGHT_MS: f64 = 50.0;
/// A deadline below this many milliseconds is moderate.
const MODERATE_MS: f64 = 200.0;

/// Easy and in a hurry: the device. Moderate, or in some hurry: the edge. All others: the cloud. Private requests
/// never come here.
///
/// `complexity` costs a pass over the inputs, the deadline nothing: it is asked first, and between the two
/// deadlines the edge is right whatever the complexity.
pub(crate) fn default_rules(max_latency_ms: Option<f64>, complexity: impl FnOnce() -> f64) -> Choice {
    let max_latency_ms = max_latency_ms.unwrap_or(f64::INFINITY);
    if (TIGHT_MS..MODERATE_MS).contains(&max_latency_ms) {
        return choice(Tier::Edge, Reason::ModerateDeadline);
    }
    let complexity = complexity();
    if complexity < EASY && max_latency_ms < TIGHT_MS {
        choice(Tier::Device, Reason::LowComplexityTightDeadline)
    } else if max_latency_ms < MODERATE_MS {
        choice(Tier::Edge, Reason::ModerateDeadline)
    } else if complexity < MODERATE {
        choice(Tier::Edge, Reason::ModerateComplexity)
    } else {
        choice(Tier::Cloud, Reason::HighComplexity)
    }
}

const fn choice(tier: Tier, reason: Reason) -> Choice {
    Choice { tier, reason, failed: Failed::NONE }
}

/// The default rules as a policy would write them, for those who want to see how they were decided. Their order within
/// a condition is that of [`default_rules`]: the deadline first.
pub(crate) fn in_cel() -> &'static [Rule] {
    static RULES: LazyLock<Arc<[Rule]>> = LazyLock::new(|| {
        let rule = |when: &str, tier, name: Option<&str>| Spec {
            when: when.to_owned(),
            tier,
            name: name.map(str::to_owned),
        };
        let rules = [
            rule("request.privacyRequired", Tier::Device, None),
            rule(
                "request.maxLatencyMs < 50 && request.complexity < 0.3",
                Tier::Device,
                Some("LowComplexityTightDeadline"),
            ),
            rule("request.maxLatencyMs < 200", Tier::Edge, Some("ModerateDeadline")),
            rule("request.complexity < 0.7", Tier::Edge, Some("ModerateComplexity")),
            rule("true", Tier::Cloud, Some("HighComplexity")),
        ];
        let mut rules = super::parse(Some(&rules), &[], &mut Vec::new()).unwrap_or_default().to_vec();
        if let Some((first, name)) = rules.first_mut().zip(RuleName::parse(Reason::PrivacyRequired.as_str()))
        {
            // No rule of a policy may have the name: it is asked where this one has been.
            first.name = name;
        }
        rules.into()
    });
    &RULES
}
