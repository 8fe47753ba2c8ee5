//! Decisions: by tables, and by properties over arbitrary policies, requests and nodes.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

mod arbitrary;
mod fallback;
mod modes;
mod outlook;
mod properties;
mod rules;
mod seed;

use std::time::Duration;

use terrace_crds::policy::{Fallback, RemoteTier, RequestDefaults, TierRule, Tiers};
use terrace_crds::{Tier, TierPolicySpec};
use terrace_tiering::{Decision, LocalModel, Node, Policy, Requirements, Snapshot, Stated, decide};

/// A device that serves the model.
const DEVICE: Node = Node { tier: Tier::Device, model: LocalModel::Serving };

/// What a test says of a policy; the rest is at its default.
#[derive(Clone, Debug, Default)]
struct Sketch {
    max_latency_ms: Option<u64>,
    private: Option<bool>,
    edge: bool,
    cloud: bool,
    enabled: Option<bool>,
    order: Option<Vec<Tier>>,
    rules: Option<Vec<(String, Tier)>>,
    /// The fields of a mode; all others are those above.
    mode: TierPolicySpec,
}

impl Sketch {
    fn both_tiers() -> Self {
        Self { edge: true, cloud: true, ..Self::default() }
    }

    fn policy(&self) -> Policy {
        Policy::parse(&self.spec()).unwrap()
    }

    fn spec(&self) -> TierPolicySpec {
        let tier = |url: &str| RemoteTier { url: Some(url.to_owned()), ..Default::default() };
        TierPolicySpec {
            defaults: RequestDefaults {
                max_latency: self.max_latency_ms.map(|limit| Duration::from_millis(limit).into()),
                privacy_required: self.private,
            },
            tiers: Tiers {
                edge: self.edge.then(|| tier("http://edge:8000")),
                cloud: self.cloud.then(|| tier("https://cloud.example")),
            },
            fallback: Some(Fallback { enabled: self.enabled, order: self.order.clone() }),
            // The other modes have none.
            rules: self.rules.as_ref().filter(|_| self.mode.mode.is_none()).map(|rules| {
                let rule =
                    |(when, tier): &(String, Tier)| TierRule { when: when.clone(), tier: *tier, name: None };
                rules.iter().map(rule).collect()
            }),
            ..self.mode.clone()
        }
    }
}

/// The decision on a request that states `stated` in its parameters, of this complexity.
fn decided(policy: &Policy, node: Node, stated: Stated, complexity: f64) -> Decision {
    let requirements = Requirements::tighten(policy, node.tier, stated, Stated::default()).unwrap();
    decide(policy, &requirements, &Snapshot::of(node), || complexity)
}

/// The tiers to try, in order.
fn tiers(decision: &Decision) -> Vec<Tier> {
    decision.candidates.iter().map(|candidate| candidate.tier).collect()
}
