//! How many tiers a policy asks, checked: one, one and perhaps a verifier, or several at once.

use std::time::Duration;

use terrace_crds::policy::Tiers;
use terrace_crds::{Tier, TierPolicySpec, mode as spec};

pub use terrace_crds::mode::Combine;

use crate::policy::Fault;

/// The confidence above which a node's own answer counts, unless its policy says otherwise.
const DEFAULT_THRESHOLD: f64 = 0.9;
const MAX_WEIGHT: f64 = 1e6;

/// How many tiers are asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mode {
    /// The one that the rules choose.
    #[default]
    Select,
    /// The node and, where it is not sure of its answer, a verifier.
    Speculative(Speculative),
    /// Several at once.
    Ensemble(Ensemble),
}

/// Who answers where the node is not sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculative {
    /// The node's answer counts where its confidence is above this.
    pub threshold: f64,
    /// Who answers else; never the device.
    pub verifier: Tier,
    /// The verifier is asked, too, where the node has not answered after so long.
    pub parallel_after: Option<Duration>,
}

/// Who is asked at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensemble {
    /// The tiers, each with what it counts in a weighted mean. No tier is named twice.
    pub members: Vec<Member>,
    /// How their answers become one.
    pub combine: Combine,
    /// How many of them must answer; from 1 to all.
    pub quorum: usize,
}

/// A tier that is asked together with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// The tier.
    pub tier: Tier,
    /// What it counts; positive.
    pub weight: f64,
}

impl Mode {
    /// The mode that `spec` asks for. Adds what is wrong with it to `faults`.
    pub(crate) fn parse(policy: &TierPolicySpec, faults: &mut Vec<Fault>) -> Self {
        let mode = policy.mode.unwrap_or_default();
        for (named, name, field, is_there) in [
            (spec::Mode::Speculative, "Speculative", "spec.speculative", policy.speculative.is_some()),
            (spec::Mode::Ensemble, "Ensemble", "spec.ensemble", policy.ensemble.is_some()),
        ] {
            match (mode == named, is_there) {
                (true, false) => faults.push(Fault::new(field, format!("is missing: mode: {name} needs it"))),
                (false, true) => {
                    let message = format!("goes with mode: {name} alone, and this policy has mode: {mode:?}");
                    faults.push(Fault::new(field, message));
                }
                (true, true) | (false, false) => {}
            }
        }
        let speculative = policy.speculative.as_ref().map(|asked| speculative(asked, &policy.tiers, faults));
        let ensemble = policy.ensemble.as_ref().map(|asked| ensemble(asked, &policy.tiers, faults));
        match (mode, speculative, ensemble) {
            (spec::Mode::Speculative, Some(speculative), _) => Self::Speculative(speculative),
            (spec::Mode::Ensemble, _, Some(ensemble)) => Self::Ensemble(ensemble),
            _ => Self::Select,
        }
    }

    /// Writes the mode into `spec`, with every default written out; what every policy has had since there are modes is
    /// left out.
    pub(crate) fn write(&self, policy: &mut TierPolicySpec) {
        match self {
            Self::Select => {}
            Self::Speculative(speculative) => {
                policy.mode = Some(spec::Mode::Speculative);
                policy.speculative = Some(spec::Speculative {
                    threshold: Some(speculative.threshold),
                    verifier: speculative.verifier,
                    parallel_after: speculative.parallel_after.map(Into::into),
                });
            }
            Self::Ensemble(ensemble) => {
                let weights = || ensemble.members.iter().map(|member| member.weight).collect();
                policy.mode = Some(spec::Mode::Ensemble);
                policy.ensemble = Some(spec::Ensemble {
                    members: ensemble.members.iter().map(|member| member.tier).collect(),
                    combine: Some(ensemble.combine),
                    weights: (ensemble.combine == Combine::WeightedMean).then(weights),
                    quorum: u16::try_from(ensemble.quorum).ok(),
                });
            }
        }
    }

    /// Whether it goes by how sure a model is of its answers.
    pub const fn needs_confidence(&self) -> bool {
        !matches!(self, Self::Select)
    }

    /// The name in manifests.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Select => "Select",
            Self::Speculative(_) => "Speculative",
            Self::Ensemble(_) => "Ensemble",
        }
    }
}

fn speculative(asked: &spec::Speculative, tiers: &Tiers, faults: &mut Vec<Fault>) -> Speculative {
    let threshold = asked.threshold.unwrap_or(DEFAULT_THRESHOLD);
    if !(0.0..=1.0).contains(&threshold) {
        faults.push(Fault::new("spec.speculative.threshold", "must be from 0 to 1"));
    }
    if asked.verifier == Tier::Device {
        faults.push(Fault::new(
            "spec.speculative.verifier",
            "must be Edge or Cloud: the device is what is verified",
        ));
    } else if !is_configured(tiers, asked.verifier) {
        faults.push(Fault::new(
            "spec.speculative.verifier",
            format!("names a tier that spec.tiers.{} does not configure", asked.verifier),
        ));
    }
    let parallel_after = asked.parallel_after.map(Duration::from);
    Speculative { threshold, verifier: asked.verifier, parallel_after }
}

fn ensemble(asked: &spec::Ensemble, tiers: &Tiers, faults: &mut Vec<Fault>) -> Ensemble {
    let mut fault = |field: &str, message: String| {
        faults.push(Fault::new(format!("spec.ensemble.{field}"), message));
    };
    let members = &asked.members;
    if !(2..=Tier::ALL.len()).contains(&members.len()) {
        fault("members", "must name two or three tiers".to_owned());
    }
    if members.iter().enumerate().any(|(position, tier)| members[..position].contains(tier)) {
        fault("members", "must name each tier once at most".to_owned());
    }
    for tier in members.iter().filter(|tier| !is_configured(tiers, **tier)) {
        fault("members", format!("names a tier that spec.tiers.{tier} does not configure"));
    }
    let combine = asked.combine.unwrap_or_default();
    if (combine == Combine::WeightedMean) != asked.weights.is_some() {
        fault("weights", "go with combine: WeightedMean, which needs them, and with no other".to_owned());
    }
    let weights = asked.weights.clone().unwrap_or_else(|| vec![1.0; members.len()]);
    if weights.len() != members.len() {
        fault("weights", "must have one number for each member".to_owned());
    }
    if !weights.iter().all(|weight| *weight > 0.0 && *weight <= MAX_WEIGHT) {
        fault("weights", "must be above 0, and at most 1000000".to_owned());
    }
    let quorum = usize::from(asked.quorum.unwrap_or(1));
    if !(1..=members.len()).contains(&quorum) {
        fault("quorum", "must be from 1 to the number of members".to_owned());
    }
    let members = members.iter().zip(weights).map(|(tier, weight)| Member { tier: *tier, weight }).collect();
    Ensemble { members, combine, quorum }
}

/// Whether a policy says how `tier` is reached; the device is the node itself.
const fn is_configured(tiers: &Tiers, tier: Tier) -> bool {
    match tier {
        Tier::Device => true,
        Tier::Edge => tiers.edge.is_some(),
        Tier::Cloud => tiers.cloud.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Policy;

    fn spec(fields: &Value) -> TierPolicySpec {
        let mut policy = json!({"tiers": {"edge": {"url": "http://edge"}, "cloud": {"url": "http://cloud"}}});
        for (name, value) in fields.as_object().unwrap() {
            policy[name] = value.clone();
        }
        serde_json::from_value(policy).unwrap()
    }

    fn faults(fields: &Value) -> Vec<String> {
        let faults = Policy::parse(&spec(fields)).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    fn speculative(fields: &Value) -> Value {
        json!({"mode": "Speculative", "speculative": fields})
    }

    fn ensemble(fields: &Value) -> Value {
        json!({"mode": "Ensemble", "ensemble": fields})
    }

    #[test]
    fn a_mode_has_its_own_field_and_no_other() {
        let (one, other) = (json!({"verifier": "Cloud"}), json!({"members": ["Device", "Cloud"]}));
        for (fields, expected) in [
            (json!({}), &[][..]),
            (json!({"mode": "Select"}), &[]),
            (json!({"mode": "Speculative", "speculative": one}), &[]),
            (json!({"mode": "Ensemble", "ensemble": other}), &[]),
            (json!({"mode": "Speculative"}), &["spec.speculative"]),
            (json!({"mode": "Ensemble"}), &["spec.ensemble"]),
            (json!({"speculative": one}), &["spec.speculative"]),
            (json!({"mode": "Select", "ensemble": other}), &["spec.ensemble"]),
            (json!({"mode": "Ensemble", "speculative": one}), &["spec.speculative", "spec.ensemble"]),
        ] {
            assert_eq!(faults(&fields), expected, "{fields}");
        }
    }

    #[test]
    fn a_mode_without_its_fields_is_told_from_fields_without_their_mode() {
        let told = |fields: &Value| {
            let found = Policy::parse(&spec(fields)).unwrap_err();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let missing = "spec.speculative: is missing: mode: Speculative needs it";
        assert_eq!(told(&json!({"mode": "Speculative"})), [missing]);
        let alone = "spec.ensemble: goes with mode: Ensemble alone, and this policy has mode: Select";
        assert_eq!(told(&json!({"ensemble": {"members": ["Device", "Edge"]}})), [alone]);
    }

    #[test]
    fn what_a_speculation_asks_for_is_checked() {
        for (fields, expected) in [
            (json!({"verifier": "Edge", "threshold": 0}), None),
            (json!({"verifier": "Edge", "threshold": 1, "parallelAfter": "0s"}), None),
            (json!({"verifier": "Edge", "threshold": 1.01}), Some("spec.speculative.threshold")),
            (json!({"verifier": "Edge", "threshold": -0.1}), Some("spec.speculative.threshold")),
            (json!({"verifier": "Device"}), Some("spec.speculative.verifier")),
        ] {
            assert_eq!(faults(&speculative(&fields)).first().map(String::as_str), expected, "{fields}");
        }
        let mut unreachable = speculative(&json!({"verifier": "Cloud"}));
        unreachable["tiers"] = json!({"edge": {"url": "http://edge"}});
        assert_eq!(faults(&unreachable), ["spec.speculative.verifier"]);
    }

    #[test]
    fn what_an_ensemble_asks_for_is_checked() {
        for (fields, expected) in [
            (json!({"members": ["Edge", "Cloud"]}), None),
            (json!({"members": ["Device", "Edge", "Cloud"], "combine": "Vote", "quorum": 3}), None),
            (json!({"members": ["Device", "Cloud"], "combine": "WeightedMean", "weights": [1, 2.5]}), None),
            (json!({"members": ["Device"]}), Some("spec.ensemble.members")),
            (json!({"members": ["Edge", "Edge"]}), Some("spec.ensemble.members")),
            (
                json!({"members": ["Device", "Edge"], "combine": "WeightedMean"}),
                Some("spec.ensemble.weights"),
            ),
            (json!({"members": ["Device", "Edge"], "weights": [1, 1]}), Some("spec.ensemble.weights")),
            (
                json!({"members": ["Device", "Edge"], "combine": "WeightedMean", "weights": [1, 1, 1]}),
                Some("spec.ensemble.weights"),
            ),
            (
                json!({"members": ["Device", "Edge"], "combine": "WeightedMean", "weights": [1, 0]}),
                Some("spec.ensemble.weights"),
            ),
            (json!({"members": ["Device", "Edge"], "quorum": 3}), Some("spec.ensemble.quorum")),
            (json!({"members": ["Device", "Edge"], "quorum": 0}), Some("spec.ensemble.quorum")),
        ] {
            assert_eq!(faults(&ensemble(&fields)).first().map(String::as_str), expected, "{fields}");
        }
        let mut unreachable = ensemble(&json!({"members": ["Device", "Edge", "Cloud"]}));
        unreachable["tiers"] = json!({"cloud": {"url": "http://cloud"}});
        assert_eq!(faults(&unreachable), ["spec.ensemble.members"]);
    }

    #[test]
    fn a_resolved_mode_is_the_same_with_its_defaults_written_out() {
        for (short, long) in [
            (
                speculative(&json!({"verifier": "Edge"})),
                speculative(&json!({"verifier": "Edge", "threshold": 0.9})),
            ),
            (
                ensemble(&json!({"members": ["Edge", "Device"]})),
                ensemble(&json!({"members": ["Edge", "Device"], "combine": "Mean", "quorum": 1})),
            ),
            (json!({"mode": "Select"}), json!({})),
        ] {
            let (short, long) = (Policy::parse(&spec(&short)).unwrap(), Policy::parse(&spec(&long)).unwrap());
            assert_eq!(short, long);
            assert_eq!(short.to_spec(), long.to_spec());
            assert_eq!(Policy::parse(&short.to_spec()).unwrap(), short);
        }
        let weighted =
            ensemble(&json!({"members": ["Edge", "Device"], "combine": "WeightedMean", "weights": [3, 1]}));
        let policy = Policy::parse(&spec(&weighted)).unwrap();
        assert_eq!(Policy::parse(&policy.to_spec()).unwrap(), policy);
    }
}
