//! Who would be passed over, before anybody is asked.

use std::time::Duration;

use terrace_crds::Tier::{self, Cloud, Device, Edge};
use terrace_crds::TierPolicySpec;
use terrace_crds::mode::{Ensemble, Mode, Speculative};
use terrace_tiering::SkipReason::{BreakerOpen, DeadlineExceeded, PredictedTooLate, TooManyInFlight};
use terrace_tiering::{BreakerState, Outlook, Requirements, Snapshot, Stated, decide, outlook, passed_over};

use crate::{DEVICE, Sketch, tiers};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn looked_at(
    mode: &TierPolicySpec,
    snapshot: &Snapshot,
    max_latency_ms: Option<f64>,
) -> (Vec<Tier>, Outlook) {
    let policy = Sketch { mode: mode.clone(), ..Sketch::both_tiers() }.policy();
    let stated = Stated { max_latency_ms, ..Stated::default() };
    let requirements = Requirements::tighten(&policy, Device, stated, Stated::default()).unwrap();
    let decision = decide(&policy, &requirements, snapshot, || 1.0);
    (tiers(&decision), outlook(&policy, &decision, snapshot, requirements.max_latency()))
}

#[test]
fn an_endpoint_is_passed_over_for_its_breaker_and_then_for_its_requests() {
    for (breaker, in_flight, expected) in [
        (BreakerState::Closed, 7, None),
        (BreakerState::Closed, 8, Some(TooManyInFlight)),
        (BreakerState::HalfOpen, 0, None),
        (BreakerState::HalfOpen, 9, Some(TooManyInFlight)),
        (BreakerState::Open, 0, Some(BreakerOpen)),
        (BreakerState::Open, 8, Some(BreakerOpen)),
    ] {
        assert_eq!(passed_over(breaker, in_flight, 8), expected, "{breaker:?} {in_flight}");
    }
}

#[test]
fn each_candidate_of_the_rules_is_looked_at_with_what_the_deadline_leaves_it() {
    let mut snapshot = Snapshot::of(DEVICE);
    snapshot.cloud.predicted_p90 = Some(ms(80));
    snapshot.edge.predicted_p90 = Some(ms(80));
    snapshot.local.shortest_run = Some(ms(3));
    snapshot.local.longest_run = Some(ms(10));
    let looked = |snapshot: &Snapshot, deadline| {
        let (order, looked) = looked_at(&TierPolicySpec::default(), snapshot, deadline);
        order.into_iter().zip(looked.candidates).collect::<Vec<_>>()
    };
    for (deadline, expected) in [
        (None, [(Cloud, None), (Device, None), (Edge, None)]),
        // Half is kept for the node, which has answered little.
        (Some(250.0), [(Cloud, None), (Device, None), (Edge, None)]),
        // Half is too little for who comes before it, and nothing is kept from who comes after.
        (Some(100.0), [(Edge, Some(PredictedTooLate)), (Device, None), (Cloud, None)]),
        (
            Some(2.0),
            [
                (Edge, Some(PredictedTooLate)),
                (Device, Some(PredictedTooLate)),
                (Cloud, Some(PredictedTooLate)),
            ],
        ),
        (Some(0.0), [Edge, Device, Cloud].map(|tier| (tier, Some(DeadlineExceeded)))),
    ] {
        assert_eq!(looked(&snapshot, deadline), expected, "{deadline:?}");
    }
    snapshot.edge.breaker = BreakerState::Open;
    assert_eq!(looked(&snapshot, Some(150.0))[0], (Edge, Some(BreakerOpen)));
}

#[test]
fn a_verifier_has_what_the_node_leaves_of_the_deadline() {
    let mode = |parallel_after: Option<Duration>| TierPolicySpec {
        mode: Some(Mode::Speculative),
        speculative: Some(Speculative {
            threshold: None,
            verifier: Cloud,
            parallel_after: parallel_after.map(Into::into),
        }),
        ..TierPolicySpec::default()
    };
    let mut snapshot = Snapshot::of(DEVICE);
    snapshot.cloud.predicted_p90 = Some(ms(60));
    snapshot.local.predicted = Some(ms(50));
    let verifier = |mode: &TierPolicySpec, deadline| looked_at(mode, &snapshot, deadline).1.verifier;
    assert_eq!(verifier(&mode(None), Some(200.0)), None);
    assert_eq!(verifier(&mode(None), Some(100.0)), Some(PredictedTooLate));
    assert_eq!(verifier(&mode(Some(Duration::ZERO)), Some(100.0)), None);
    assert_eq!(verifier(&mode(None), Some(50.0)), Some(DeadlineExceeded));
}

#[test]
fn each_member_of_an_ensemble_is_looked_at() {
    let mode = TierPolicySpec {
        mode: Some(Mode::Ensemble),
        ensemble: Some(Ensemble {
            members: vec![Cloud, Device, Edge],
            combine: None,
            weights: None,
            quorum: None,
        }),
        ..TierPolicySpec::default()
    };
    let mut snapshot = Snapshot::of(DEVICE);
    snapshot.cloud.in_flight = 1024;
    snapshot.edge.breaker = BreakerState::Open;
    let (_, looked) = looked_at(&mode, &snapshot, None);
    assert_eq!(looked.members, [Some(TooManyInFlight), None, Some(BreakerOpen)]);
}
