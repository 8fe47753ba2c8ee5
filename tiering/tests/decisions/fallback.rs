//! What follows the choice, and what takes its place.

use terrace_crds::Tier::{self, Cloud, Device, Edge};
use terrace_crds::node::{EdgeAddress, NodeSite};
use terrace_crds::policy::SITE_LABEL;
use terrace_tiering::Source::{Fallback, Primary};
use terrace_tiering::{
    Lacking, LocalModel, Node, Policy, Reason, Sites, SkipReason, Skipped, Source, Stated,
};

use crate::{DEVICE, Sketch, decided, tiers};

const HARD: f64 = 1.0;
const EASY: f64 = 0.0;

fn hurry() -> Stated {
    Stated { max_latency_ms: Some(10.0), ..Stated::default() }
}

fn at(tier: Tier, model: LocalModel) -> Node {
    Node { tier, model }
}

fn sources(policy: &Policy, node: Node, stated: Stated, complexity: f64) -> Vec<(Tier, Source)> {
    let decision = decided(policy, node, stated, complexity);
    decision.candidates.iter().map(|candidate| (candidate.tier, candidate.source)).collect()
}

#[test]
fn the_fallback_order_follows_the_choice_without_it() {
    let order = |order: &[Tier]| Sketch { order: Some(order.to_vec()), ..Sketch::both_tiers() }.policy();
    let none = Stated::default();
    let nearest_first = Sketch::both_tiers().policy();
    assert_eq!(
        sources(&nearest_first, DEVICE, none, HARD),
        [(Cloud, Primary), (Device, Fallback), (Edge, Fallback)]
    );
    assert_eq!(
        sources(&nearest_first, DEVICE, hurry(), EASY),
        [(Device, Primary), (Edge, Fallback), (Cloud, Fallback)]
    );
    assert_eq!(
        sources(&order(&[Edge, Cloud, Device]), DEVICE, none, HARD),
        [(Cloud, Primary), (Edge, Fallback), (Device, Fallback)]
    );
    assert_eq!(sources(&order(&[Device]), DEVICE, none, HARD), [(Cloud, Primary), (Device, Fallback)]);
    assert_eq!(sources(&order(&[Cloud]), DEVICE, none, HARD), [(Cloud, Primary)]);
    let off = Sketch { enabled: Some(false), ..Sketch::both_tiers() }.policy();
    assert_eq!(sources(&off, DEVICE, none, HARD), [(Cloud, Primary)]);
}

#[test]
fn a_chosen_tier_that_is_not_configured_falls_to_the_fallback_order() {
    let edge_only = Sketch { edge: true, ..Sketch::default() };
    let decision = decided(&edge_only.policy(), DEVICE, Stated::default(), HARD);
    assert_eq!(decision.reason, Reason::TierNotConfigured);
    assert_eq!(tiers(&decision), [Device, Edge]);
    assert!(decision.candidates.iter().all(|candidate| candidate.source == Fallback));
    assert_eq!(decision.skipped, [Skipped { tier: Cloud, why: SkipReason::TierNotConfigured }]);
    assert_eq!(decision.complexity, Some(HARD));
}

#[test]
fn a_chosen_tier_that_is_not_configured_is_the_node_where_fallback_is_off() {
    let off = Sketch { edge: true, enabled: Some(false), ..Sketch::default() };
    let decision = decided(&off.policy(), DEVICE, Stated::default(), HARD);
    assert_eq!(decision.reason, Reason::TierNotConfigured);
    assert_eq!(sources(&off.policy(), DEVICE, Stated::default(), HARD), [(Device, Primary)]);
}

#[test]
fn the_nodes_own_tier_is_the_node_and_the_device_is_nowhere_else() {
    let policy = Sketch::both_tiers().policy();
    let gateway = at(Edge, LocalModel::Serving);
    assert_eq!(sources(&policy, gateway, Stated::default(), 0.5), [(Edge, Primary), (Cloud, Fallback)]);
    let decision = decided(&policy, gateway, hurry(), EASY);
    assert_eq!(decision.reason, Reason::TierNotConfigured);
    assert_eq!(tiers(&decision), [Edge, Cloud]);
    assert_eq!(decision.skipped, [Skipped { tier: Device, why: SkipReason::TierNotConfigured }]);
    let bare = Sketch::default().policy();
    assert_eq!(sources(&bare, gateway, Stated::default(), 0.5), [(Edge, Primary)]);
}

#[test]
fn a_model_that_is_not_here_is_passed_over() {
    let policy = Sketch::both_tiers().policy();
    for (model, why) in
        [(LocalModel::NotLoaded, SkipReason::NotLoaded), (LocalModel::NotPlaced, SkipReason::NotPlaced)]
    {
        let decision = decided(&policy, at(Device, model), hurry(), EASY);
        assert_eq!(tiers(&decision), [Edge, Cloud]);
        assert_eq!(decision.reason, Reason::LowComplexityTightDeadline);
        assert_eq!(decision.skipped, [Skipped { tier: Device, why }]);
    }
}

#[test]
fn a_requested_tier_answers_or_nobody() {
    let policy = Sketch::both_tiers().policy();
    for tier in Tier::ALL {
        let asked = Stated { tier: Some(tier), ..Stated::default() };
        let decision = decided(&policy, DEVICE, asked, HARD);
        assert_eq!(decision.reason, Reason::RequestedTier);
        assert_eq!(tiers(&decision), [tier]);
        assert_eq!(decision.complexity, None);
    }
}

#[test]
fn without_a_policy_the_node_answers() {
    for (lacking, reason) in
        [(Lacking::Policy, Reason::NoPolicy), (Lacking::Confidence, Reason::ConfidenceMissing)]
    {
        let decision = decided(&Policy::without(lacking), DEVICE, Stated::default(), HARD);
        assert_eq!(decision.reason, reason);
        assert_eq!(tiers(&decision), [Device]);
        assert!(decision.privacy_required);
        // An edit that takes a model's confidence away holds at once.
        let open = Sketch::both_tiers().policy();
        assert_eq!(open.tightened_by(&Policy::without(lacking)).lacking(), Some(lacking));
    }
}

#[test]
fn a_refusal_says_what_rules_each_tier_out() {
    let refusal = |policy: &Policy, node, stated| decided(policy, node, stated, HARD).refusal();
    let private = Stated { privacy_required: Some(true), ..Stated::default() };
    let open = Sketch::both_tiers().policy();
    assert_eq!(
        refusal(&open, at(Device, LocalModel::NotLoaded), private),
        "no tier may answer: device is this node, where the model is not loaded (its /status says why); the request is private"
    );
    assert_eq!(
        refusal(&Policy::local_only(), at(Edge, LocalModel::NotPlaced), Stated::default()),
        "no tier may answer: edge is this node, where the model does not belong; the model has no accepted policy"
    );
    assert_eq!(
        refusal(&Sketch::default().policy(), at(Device, LocalModel::NotPlaced), Stated::default()),
        "no tier may answer: cloud is not configured in the model's policy; device is this node, where the model does not belong; edge is not configured in the model's policy"
    );
}

/// A policy whose edge is the node's site, on a node that knows these sites.
fn at_site(sites: &Sites, enabled: bool) -> Policy {
    let spec = serde_json::from_value(serde_json::json!({
        "tiers": {"edge": {"site": {}}, "cloud": {"url": "https://cloud.example"}}, "fallback": {"enabled": enabled},
    }));
    Policy::parse(&spec.unwrap()).unwrap().at(sites)
}

fn site(edge: &[EdgeAddress]) -> Sites {
    [(SITE_LABEL.to_owned(), NodeSite { name: "oslo".to_owned(), edge: edge.to_vec() })].into()
}

#[test]
fn an_edge_that_the_site_does_not_have_falls_to_the_fallback_order() {
    let moderate = Stated { complexity: Some(0.5), ..Stated::default() };
    for (sites, why, reason) in [
        (Sites::new(), SkipReason::SiteUnknown, Reason::SiteUnknown),
        (site(&[]), SkipReason::NoEdgeAgent, Reason::NoEdgeAgent),
    ] {
        let decision = decided(&at_site(&sites, true), DEVICE, moderate, HARD);
        assert_eq!((decision.reason, tiers(&decision)), (reason, vec![Device, Cloud]));
        assert_eq!(decision.skipped, [Skipped { tier: Edge, why }]);
        let decision = decided(&at_site(&sites, false), DEVICE, moderate, HARD);
        assert_eq!((decision.reason, tiers(&decision)), (reason, vec![Device]));
        // Who asks for the edge is told, and is not answered by another tier.
        let asked = Stated { tier: Some(Edge), ..Stated::default() };
        let decision = decided(&at_site(&sites, true), DEVICE, asked, HARD);
        assert_eq!((decision.reason, tiers(&decision)), (Reason::RequestedTier, vec![]));
        assert!(decision.refusal().starts_with("no tier may answer: edge "), "{}", decision.refusal());
        // A gateway is the edge, whatever its site.
        let gateway = at(Edge, LocalModel::Serving);
        let decision = decided(&at_site(&sites, true), gateway, moderate, HARD);
        assert_eq!((decision.reason, tiers(&decision)), (Reason::ModerateComplexity, vec![Edge, Cloud]));
    }
    let agent = EdgeAddress {
        node: "gw".to_owned(),
        address: [10, 0, 0, 1].into(),
        http_port: Some(80),
        grpc_port: None,
    };
    let decision = decided(&at_site(&site(&[agent]), true), DEVICE, moderate, HARD);
    assert_eq!((decision.reason, tiers(&decision)), (Reason::ModerateComplexity, vec![Edge, Device, Cloud]));
}
