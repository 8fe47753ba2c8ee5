//! Modes that do not go by rules: who is asked, and who never is.

use std::time::Duration;

use proptest::prelude::*;
use terrace_crds::Tier::{self, Cloud, Device, Edge};
use terrace_crds::TierPolicySpec;
use terrace_crds::mode::{Ensemble, Mode, Speculative};
use terrace_tiering::Source::{Fallback, Primary};
use terrace_tiering::{Decision, LocalModel, Node, Plan, Policy, Reason, SkipReason, Skipped, Stated};

use crate::arbitrary::{modes, node, policy, sketch, stated};
use crate::{DEVICE, Sketch, decided, tiers};

fn speculative(verifier: Tier) -> TierPolicySpec {
    TierPolicySpec {
        mode: Some(Mode::Speculative),
        speculative: Some(Speculative { threshold: None, verifier, parallel_after: None }),
        ..TierPolicySpec::default()
    }
}

fn ensemble(members: &[Tier], quorum: u16) -> TierPolicySpec {
    let members = members.to_vec();
    TierPolicySpec {
        mode: Some(Mode::Ensemble),
        ensemble: Some(Ensemble { members, combine: None, weights: None, quorum: Some(quorum) }),
        ..TierPolicySpec::default()
    }
}

fn both(mode: TierPolicySpec) -> Policy {
    Sketch { mode, ..Sketch::both_tiers() }.policy()
}

fn plainly(policy: &Policy, node: Node) -> Decision {
    decided(policy, node, Stated::default(), 1.0)
}

fn members(decision: &Decision) -> Vec<Tier> {
    match &decision.plan {
        Plan::Ensemble(members) => members.iter().map(|member| member.tier).collect(),
        Plan::Walk | Plan::Speculate(_) => Vec::new(),
    }
}

#[test]
fn a_speculation_begins_with_the_node_whatever_the_rules_would_say() {
    let policy = both(speculative(Cloud));
    for complexity in [0.0, 0.5, 1.0] {
        let decision = decided(&policy, DEVICE, Stated::default(), complexity);
        assert!(matches!(decision.plan, Plan::Speculate(plan) if plan.verifier == Cloud));
        assert_eq!((decision.reason, decision.complexity), (Reason::Speculative, None));
        let named: Vec<_> = decision.candidates.iter().map(|one| (one.tier, one.source)).collect();
        assert_eq!(named, [(Device, Primary), (Edge, Fallback), (Cloud, Fallback)]);
        assert!(decision.asks_others(Device));
    }
}

#[test]
fn where_the_node_cannot_answer_the_fallback_order_does() {
    let decision = plainly(&both(speculative(Cloud)), Node { tier: Device, model: LocalModel::NotPlaced });
    assert_eq!((&decision.plan, decision.reason), (&Plan::Walk, Reason::Speculative));
    assert_eq!(tiers(&decision), [Edge, Cloud]);
    assert_eq!(decision.skipped, [Skipped { tier: Device, why: SkipReason::NotPlaced }]);
}

#[test]
fn a_node_that_is_the_verifier_is_verified_by_nobody() {
    let gateway = Node { tier: Edge, model: LocalModel::Serving };
    let decision = plainly(&both(speculative(Edge)), gateway);
    assert_eq!((&decision.plan, decision.reason), (&Plan::Walk, Reason::VerifierHere));
    assert_eq!(tiers(&decision), [Edge, Cloud]);
    let decision = plainly(&both(speculative(Cloud)), gateway);
    assert!(matches!(decision.plan, Plan::Speculate(_)), "the node is the device of its callers");
}

#[test]
fn an_ensemble_asks_its_members_that_can_be_asked() {
    let policy = both(ensemble(&[Cloud, Device], 1));
    let decision = plainly(&policy, DEVICE);
    assert_eq!(members(&decision), [Cloud, Device]);
    assert_eq!(decision.reason, Reason::Ensemble);
    assert_eq!(tiers(&decision), [Device, Edge, Cloud], "the fallback order stands behind them");
    let decision = plainly(&policy, Node { tier: Device, model: LocalModel::NotLoaded });
    assert_eq!(members(&decision), [Cloud]);
    assert_eq!(decision.skipped, [Skipped { tier: Device, why: SkipReason::NotLoaded }]);
    let at_the_edge = plainly(&policy, Node { tier: Edge, model: LocalModel::Serving });
    assert_eq!(members(&at_the_edge), [Cloud], "the device is nowhere but on itself");
}

#[test]
fn a_quorum_that_cannot_be_met_leaves_the_fallback_order() {
    let policy = both(ensemble(&[Cloud, Device], 2));
    assert_eq!(members(&plainly(&policy, DEVICE)), [Cloud, Device]);
    let decision = plainly(&policy, Node { tier: Device, model: LocalModel::NotPlaced });
    assert_eq!((&decision.plan, decision.reason), (&Plan::Walk, Reason::QuorumNotMet));
    assert_eq!(tiers(&decision), [Edge, Cloud]);
}

#[test]
fn a_request_that_is_settled_knows_no_mode() {
    for mode in [speculative(Cloud), ensemble(&[Device, Edge, Cloud], 2)] {
        let policy = both(mode);
        for (stated, tier, reason) in [
            (Stated { privacy_required: Some(true), ..Stated::default() }, Device, Reason::PrivacyRequired),
            (Stated { hop: Some(Device), ..Stated::default() }, Device, Reason::Forwarded),
            (Stated { tier: Some(Edge), ..Stated::default() }, Edge, Reason::RequestedTier),
        ] {
            let decision = decided(&policy, DEVICE, stated, 1.0);
            assert_eq!((&decision.plan, decision.reason), (&Plan::Walk, reason));
            assert_eq!(tiers(&decision), [tier]);
        }
    }
}

#[test]
fn a_parallel_start_is_part_of_the_plan() {
    let mut mode = speculative(Edge);
    let asked = mode.speculative.as_mut().unwrap();
    asked.parallel_after = Some(Duration::from_millis(5).into());
    asked.threshold = Some(0.7);
    let Plan::Speculate(plan) = plainly(&both(mode), DEVICE).plan else { panic!("no speculation") };
    assert_eq!((plan.threshold, plan.parallel_after), (0.7, Some(Duration::from_millis(5))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_private_and_nothing_forwarded_leaves_the_node_in_any_mode(
        sketch in sketch(), mode in modes(), node in node(), stated in stated(), hop in any::<bool>(),
    ) {
        let sketch = sketch.map(|sketch| Sketch { mode, rules: None, edge: true, cloud: true, ..sketch });
        let policy = policy(sketch.as_ref());
        let stated = Stated { hop: hop.then_some(Device).or(stated.hop), tier: None, ..stated };
        let decision = decided(&policy, node, stated, 0.5);
        let stays = sketch.is_none_or(|sketch| sketch.private == Some(true))
            || stated.privacy_required == Some(true)
            || stated.hop.is_some();
        if stays {
            prop_assert_eq!(&decision.plan, &Plan::Walk);
            prop_assert!(!decision.asks_others(node.tier), "{:?}", decision);
        }
    }

    #[test]
    fn whoever_is_asked_can_answer(
        sketch in sketch(), mode in modes(), node in node(), stated in stated(),
    ) {
        let sketch = sketch.map(|sketch| Sketch { mode, rules: None, edge: true, cloud: true, ..sketch });
        let policy = policy(sketch.as_ref());
        let stated = Stated { tier: None, ..stated };
        let decision = decided(&policy, node, stated, 0.5);
        let mut asked = tiers(&decision);
        asked.extend(members(&decision));
        if let Plan::Speculate(plan) = decision.plan {
            prop_assert_ne!(plan.verifier, node.tier);
            prop_assert_eq!(tiers(&decision)[0], node.tier);
            asked.push(plan.verifier);
        }
        for tier in asked {
            let here = tier == node.tier && node.model == LocalModel::Serving;
            prop_assert!(here || tier != node.tier && policy.remote(tier).is_some_and(|remote| remote.endpoints().is_ok()), "{:?}", decision);
        }
    }
}
