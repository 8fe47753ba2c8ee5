//! On a device with both other tiers configured, the choice is the seed's `select_tier`, to the letter.

use proptest::prelude::*;
use terrace_crds::Tier;
use terrace_tiering::{Policy, Reason, Source, Stated};

use crate::{DEVICE, Sketch, decided};

/// `select_tier` of the seed, transcribed line by line.
fn select_tier(complexity: f64, max_latency_ms: Option<f64>, privacy_required: Option<bool>) -> Tier {
    let max_latency = max_latency_ms.unwrap_or(f64::INFINITY);
    let privacy_required = privacy_required.unwrap_or(false);
    if privacy_required {
        return Tier::Device;
    }
    if complexity < 0.3 && max_latency < 50.0 {
        Tier::Device
    } else if complexity < 0.7 || max_latency < 200.0 {
        Tier::Edge
    } else {
        Tier::Cloud
    }
}

/// The same four rules, as a policy would write them.
fn in_cel() -> Policy {
    let rules = [
        ("request.privacyRequired", Tier::Device),
        ("request.complexity < 0.3 && request.maxLatencyMs < 50", Tier::Device),
        ("request.complexity < 0.7 || request.maxLatencyMs < 200", Tier::Edge),
        ("true", Tier::Cloud),
    ];
    Sketch { rules: Some(rules.map(|(when, tier)| (when.to_owned(), tier)).to_vec()), ..Sketch::both_tiers() }
        .policy()
}

/// The default rules, the seed's own words, and the same rules in CEL say one thing.
fn agree(complexity: f64, max_latency_ms: Option<f64>, privacy: Option<bool>, is_stated: bool) {
    let mut stated = stated(max_latency_ms, privacy);
    stated.complexity = is_stated.then_some(complexity);
    let estimate = if is_stated { 0.5 } else { complexity };
    let row = format!("complexity {complexity}, {max_latency_ms:?} ms, private {privacy:?}");
    let by_default = decided(&Sketch::both_tiers().policy(), DEVICE, stated, estimate);
    let by_cel = decided(&in_cel(), DEVICE, stated, estimate);
    let expected = select_tier(complexity, max_latency_ms, privacy);
    assert_eq!(by_default.candidates[0].tier, expected, "{row}");
    assert_eq!(by_cel.candidates, by_default.candidates, "{row}");
    assert!(by_cel.failed.is_none(), "{row}");
    let place = match expected {
        _ if privacy == Some(true) => "PrivacyRequired",
        Tier::Device => "Rule[1]",
        Tier::Edge => "Rule[2]",
        Tier::Cloud => "Rule[3]",
    };
    assert_eq!(by_cel.reason.as_str(), place, "{row}");
}

#[test]
fn a_dense_grid_of_requests() {
    let boundaries = [0.3_f64.next_down(), 0.3_f64.next_up(), 0.7_f64.next_down(), 0.7_f64.next_up()];
    let complexities = (0..=100).map(|step| f64::from(step) / 100.0).chain(boundaries);
    for complexity in complexities {
        let boundaries =
            [50_f64.next_down(), 50_f64.next_up(), 200_f64.next_down(), 200_f64.next_up(), f64::MAX];
        let deadlines = (0..=60).map(|step| f64::from(step) * 5.0).chain(boundaries);
        for max_latency_ms in deadlines.map(Some).chain([None]) {
            for privacy in [None, Some(false), Some(true)] {
                agree(complexity, max_latency_ms, privacy, false);
            }
        }
    }
}

fn stated(max_latency_ms: Option<f64>, privacy_required: Option<bool>) -> Stated {
    Stated { max_latency_ms, privacy_required, ..Stated::default() }
}

#[test]
fn every_branch_and_boundary() {
    use Reason::{
        HighComplexity, LowComplexityTightDeadline, ModerateComplexity, ModerateDeadline, PrivacyRequired,
    };
    use Tier::{Cloud, Device, Edge};
    let policy = Sketch::both_tiers().policy();
    for (complexity, max_latency_ms, privacy, tier, reason) in [
        (0.0, None, Some(true), Device, PrivacyRequired),
        (1.0, Some(500.0), Some(true), Device, PrivacyRequired),
        (0.0, Some(0.0), None, Device, LowComplexityTightDeadline),
        (0.299_999, Some(49.999), Some(false), Device, LowComplexityTightDeadline),
        (0.299_999, Some(50.0), None, Edge, ModerateDeadline),
        (0.3, Some(49.999), None, Edge, ModerateDeadline),
        (1.0, Some(49.999), None, Edge, ModerateDeadline),
        (1.0, Some(0.0), None, Edge, ModerateDeadline),
        (0.0, Some(50.0), None, Edge, ModerateDeadline),
        (1.0, Some(50.0), None, Edge, ModerateDeadline),
        (1.0, Some(199.999), None, Edge, ModerateDeadline),
        (0.0, Some(200.0), None, Edge, ModerateComplexity),
        (0.699_999, Some(200.0), None, Edge, ModerateComplexity),
        (0.699_999, None, None, Edge, ModerateComplexity),
        (0.0, None, None, Edge, ModerateComplexity),
        (0.3, None, None, Edge, ModerateComplexity),
        (0.7, Some(199.999), None, Edge, ModerateDeadline),
        (0.7, Some(200.0), None, Cloud, HighComplexity),
        (0.7, None, None, Cloud, HighComplexity),
        (1.0, None, Some(false), Cloud, HighComplexity),
    ] {
        let row = format!("complexity {complexity}, {max_latency_ms:?} ms, private {privacy:?}");
        let decision = decided(&policy, DEVICE, stated(max_latency_ms, privacy), complexity);
        assert_eq!(decision.candidates[0].tier, tier, "{row}");
        assert_eq!(decision.candidates[0].source, Source::Primary, "{row}");
        assert_eq!(decision.reason, reason, "{row}");
        assert_eq!(select_tier(complexity, max_latency_ms, privacy), tier, "the seed itself: {row}");
    }
}

#[test]
fn a_deadline_of_the_policy_meets_the_boundaries_exactly() {
    for (max_latency_ms, tier) in
        [(49, Tier::Device), (50, Tier::Edge), (199, Tier::Edge), (200, Tier::Cloud)]
    {
        let policy = Sketch { max_latency_ms: Some(max_latency_ms), ..Sketch::both_tiers() }.policy();
        let complexity = if tier == Tier::Device { 0.0 } else { 1.0 };
        let decision = decided(&policy, DEVICE, Stated::default(), complexity);
        assert_eq!(decision.candidates[0].tier, tier, "{max_latency_ms} ms");
    }
}

fn complexity() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..=1.0,
        prop::sample::select(vec![0.0, 0.3_f64.next_down(), 0.3, 0.7_f64.next_down(), 0.7, 1.0]),
    ]
}

fn max_latency_ms() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..400.0,
        prop::sample::select(vec![0.0, 50_f64.next_down(), 50.0, 200_f64.next_down(), 200.0, f64::MAX]),
    ]
}

proptest! {
    #[test]
    fn the_choice_is_the_seeds(
        complexity in complexity(),
        max_latency_ms in prop::option::of(max_latency_ms()),
        privacy in prop::option::of(any::<bool>()),
        complexity_is_stated in any::<bool>(),
    ) {
        agree(complexity, max_latency_ms, privacy, complexity_is_stated);
    }
}
