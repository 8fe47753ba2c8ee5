//! What holds whatever the policy, the request and the node.

use std::cell::Cell;

use proptest::prelude::*;
use terrace_crds::Tier;
use terrace_tiering::{LocalModel, Requirements, Snapshot, Source, Stated, decide};

use crate::arbitrary::{node, policy, sketch, stated};
use crate::{Sketch, tiers};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_private_leaves_the_node(
        sketch in sketch(), node in node(), parameters in stated(), headers in stated(), complexity in 0.0..=1.0,
    ) {
        let policy = policy(sketch.as_ref());
        let private = sketch.is_none_or(|sketch| sketch.private == Some(true))
            || parameters.privacy_required == Some(true)
            || headers.privacy_required == Some(true);
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, parameters, headers) else {
            return Ok(());
        };
        let decision = decide(&policy, &requirements, &Snapshot::of(node), || complexity);
        prop_assert_eq!(decision.privacy_required, private);
        if private {
            prop_assert!(tiers(&decision).iter().all(|tier| *tier == node.tier), "{:?}", decision);
        }
    }

    #[test]
    fn nothing_is_forwarded_twice(
        sketch in sketch(), node in node(), parameters in stated(), headers in stated(), complexity in 0.0..=1.0,
    ) {
        let policy = policy(sketch.as_ref());
        let headers = Stated { hop: Some(Tier::Device), ..headers };
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, parameters, headers) else {
            return Ok(());
        };
        let decision = decide(&policy, &requirements, &Snapshot::of(node), || complexity);
        prop_assert!(tiers(&decision).iter().all(|tier| *tier == node.tier), "{:?}", decision);
    }

    #[test]
    fn a_request_only_tightens(
        sketch in sketch(), node in node(), parameters in stated(), headers in stated(),
    ) {
        let policy = policy(sketch.as_ref());
        let tighten = |parameters, headers| Requirements::tighten(&policy, node.tier, parameters, headers);
        let silent = tighten(Stated::default(), Stated::default()).unwrap();
        let Ok(both) = tighten(parameters, headers) else { return Ok(()) };
        let Ok(parameters) = tighten(parameters, Stated::default()) else { return Ok(()) };
        let Ok(headers) = tighten(Stated::default(), headers) else { return Ok(()) };
        let limit = |requirements: &Requirements| requirements.max_latency_ms().unwrap_or(f64::INFINITY);
        for looser in [silent, parameters, headers] {
            prop_assert!(both.privacy_required() >= looser.privacy_required());
            prop_assert!(limit(&both) <= limit(&looser));
            prop_assert!(both.complexity() >= looser.complexity());
            prop_assert!(looser.tier().is_none() || both.forwarded() || both.tier() == looser.tier());
            prop_assert!(both.forwarded() >= looser.forwarded());
        }
    }

    #[test]
    fn a_candidate_can_answer_and_is_named_once(
        sketch in sketch(), node in node(), stated in stated(), complexity in 0.0..=1.0,
    ) {
        let policy = policy(sketch.as_ref());
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, stated, Stated::default()) else {
            return Ok(());
        };
        let decision = decide(&policy, &requirements, &Snapshot::of(node), || complexity);
        let mut named = tiers(&decision);
        for tier in &named {
            let here = *tier == node.tier && node.model == LocalModel::Serving;
            prop_assert!(here || *tier != node.tier && policy.remote(*tier).is_some_and(|remote| remote.endpoints().is_ok()), "{:?}", decision);
        }
        named.extend(decision.skipped.iter().map(|skipped| skipped.tier));
        let count = named.len();
        named.sort_unstable();
        named.dedup();
        prop_assert_eq!(named.len(), count);
        prop_assert!(count > 0, "a decision for nobody says why: {:?}", decision);
        let primaries = decision.candidates.iter().filter(|candidate| candidate.source == Source::Primary);
        prop_assert!(primaries.count() <= 1);
        prop_assert!(decision.candidates.iter().skip(1).all(|candidate| candidate.source == Source::Fallback));
    }

    #[test]
    fn a_tier_that_is_asked_for_is_the_only_one(
        sketch in sketch(), node in node(), stated in stated(), complexity in 0.0..=1.0,
    ) {
        let policy = policy(sketch.as_ref());
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, stated, Stated::default()) else {
            return Ok(());
        };
        let decision = decide(&policy, &requirements, &Snapshot::of(node), || complexity);
        if let Some(asked) = requirements.tier() {
            prop_assert!(tiers(&decision).iter().all(|tier| *tier == asked), "{:?}", decision);
        }
    }

    /// A private, forwarded, unpolicied or directed request reaches no rule; a stated complexity needs no
    /// estimate; from 50 to 200 ms the rules say the edge whatever the complexity.
    #[test]
    fn complexity_is_estimated_only_where_a_default_rule_must_know(
        sketch in sketch(), node in node(), stated in stated(), complexity in 0.0..=1.0,
    ) {
        let sketch = sketch.map(|sketch| Sketch { rules: None, ..sketch });
        let policy = policy(sketch.as_ref());
        let Ok(requirements) = Requirements::tighten(&policy, node.tier, stated, Stated::default()) else {
            return Ok(());
        };
        let estimated = Cell::new(false);
        let decision = decide(&policy, &requirements, &Snapshot::of(node), || {
            estimated.set(true);
            complexity
        });
        let rules = sketch.is_some()
            && !requirements.privacy_required()
            && !requirements.forwarded()
            && requirements.tier().is_none();
        let needed = rules && requirements.max_latency_ms().is_none_or(|limit| !(50.0..200.0).contains(&limit));
        prop_assert_eq!(estimated.get(), needed && stated.complexity.is_none());
        prop_assert_eq!(decision.complexity, needed.then(|| stated.complexity.unwrap_or(complexity)));
    }
}
