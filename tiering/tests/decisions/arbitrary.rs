//! Arbitrary policies, requests and nodes.

use proptest::prelude::*;
use proptest::sample::subsequence;
use terrace_crds::mode::{Ensemble, Mode, Speculative};
use terrace_crds::{Tier, TierPolicySpec};
use terrace_tiering::{LocalModel, Node, Policy, Stated};

use crate::Sketch;

pub(crate) fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(Tier::ALL.to_vec())
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    let model = prop::sample::select(vec![LocalModel::Serving, LocalModel::NotLoaded, LocalModel::NotPlaced]);
    (tier(), model).prop_map(|(tier, model)| Node { tier, model })
}

/// `None`: the model has no policy.
pub(crate) fn sketch() -> impl Strategy<Value = Option<Sketch>> {
    let order = subsequence(Tier::ALL.to_vec(), 1..=3).prop_shuffle();
    let sketch = (
        prop::option::of(1_u64..400),
        prop::option::of(any::<bool>()),
        any::<(bool, bool)>(),
        prop::option::of(any::<bool>()),
        prop::option::of(order),
        prop::option::of(rules()),
    )
        .prop_map(|(max_latency_ms, private, (edge, cloud), enabled, order, rules)| Sketch {
            max_latency_ms,
            private,
            edge,
            cloud,
            enabled,
            order,
            rules,
            ..Sketch::default()
        });
    prop::option::weighted(0.9, sketch)
}

/// Rules of a policy's own: some match, some fail, some read what costs.
fn rules() -> impl Strategy<Value = Vec<(String, Tier)>> {
    let conditions = [
        "true",
        "request.maxLatencyMs < 50",
        "request.complexity < 0.5",
        "request.batch / 0 == 1",
        "node.labels.rack == 'a'",
        "tiers.edge.available && !tiers.cloud.available",
        "node.tier == 'edge' && model.loaded",
    ];
    let condition = prop::sample::select(conditions.to_vec()).prop_map(str::to_owned);
    prop::collection::vec((condition, tier()), 1..6)
}

pub(crate) fn policy(sketch: Option<&Sketch>) -> Policy {
    sketch.map_or_else(Policy::local_only, Sketch::policy)
}

pub(crate) fn stated() -> impl Strategy<Value = Stated> {
    (
        prop::option::of(0.0..400.0),
        prop::option::weighted(0.3, any::<bool>()),
        prop::option::of(0.0..=1.0),
        prop::option::weighted(0.2, tier()),
        prop::option::weighted(0.1, tier()),
    )
        .prop_map(|(max_latency_ms, privacy_required, complexity, tier, hop)| Stated {
            max_latency_ms,
            privacy_required,
            complexity,
            tier,
            hop,
        })
}

/// The fields of a mode, for a policy that configures both tiers.
pub(crate) fn modes() -> impl Strategy<Value = TierPolicySpec> {
    let verifier = prop::sample::select(vec![Tier::Edge, Tier::Cloud]);
    let speculative =
        (verifier, prop::option::of(0.0..=1.0)).prop_map(|(verifier, threshold)| TierPolicySpec {
            mode: Some(Mode::Speculative),
            speculative: Some(Speculative { threshold, verifier, parallel_after: None }),
            ..TierPolicySpec::default()
        });
    let members = subsequence(Tier::ALL.to_vec(), 2..=3).prop_shuffle();
    let ensemble = (members, 1_u16..=2).prop_map(|(members, quorum)| TierPolicySpec {
        mode: Some(Mode::Ensemble),
        ensemble: Some(Ensemble { members, combine: None, weights: None, quorum: Some(quorum) }),
        ..TierPolicySpec::default()
    });
    prop_oneof![Just(TierPolicySpec::default()), speculative, ensemble]
}
