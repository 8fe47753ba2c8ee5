//! What is learned of a tier's latency, by examples and by properties.

use std::time::Duration;

use proptest::prelude::*;
use terrace_tiering::Latency;

/// How far a predicted time may be from a sample: half a bucket.
const BUCKET: f64 = 1.1;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Samples, ten milliseconds apart, and the time after them.
fn learned(took: impl IntoIterator<Item = u64>) -> (Latency, Duration) {
    let (mut latency, mut now) = (Latency::default(), ms(1_000));
    for took in took {
        latency.observe(now, ms(took));
        now += ms(10);
    }
    (latency, now)
}

#[test]
fn nothing_is_predicted_of_what_was_never_seen_but_what_is_expected() {
    let mut latency = Latency::default();
    assert_eq!(latency.predicted_p90(ms(5), None), None);
    assert_eq!(latency.predicted_p90(ms(5), Some(ms(3))), Some(ms(3)));
    assert_eq!(latency.shortest(), None);
    assert!(latency.admits(ms(5), ms(1), None) && latency.admits_shortest(ms(5), Duration::ZERO));
    assert!(!latency.admits(ms(5), ms(1), Some(ms(3))), "a connection alone takes longer");
}

#[test]
fn nine_of_ten_answers_come_in_the_predicted_time() {
    let (latency, now) = learned((0..60).map(|sample| if sample % 20 == 0 { 900 } else { 20 }));
    let predicted = latency.predicted_p90(now, None).unwrap_or_default();
    assert!((ms(18)..ms(23)).contains(&predicted), "{predicted:?}");
    let (latency, now) = learned((0..60).map(|sample| if sample % 5 == 0 { 900 } else { 20 }));
    let predicted = latency.predicted_p90(now, None).unwrap_or_default();
    assert!((ms(750)..ms(1_000)).contains(&predicted), "{predicted:?}");
    assert_eq!(latency.shortest(), Some(ms(20)));
}

#[test]
fn a_tier_that_turns_slow_is_known_to_be_within_a_few_requests() {
    let (mut latency, mut now) = learned((0..200).map(|_| 20));
    assert!(latency.admits(now, ms(50), Some(ms(1))));
    let mut needed = 0;
    while latency.admits(now, ms(50), Some(ms(1))) {
        // Each of them is given up.
        latency.observe_at_least(now, ms(50));
        needed += 1;
        now += ms(50);
    }
    assert!((2..=10).contains(&needed), "{needed}");
}

#[test]
fn a_request_that_was_given_up_took_longer_than_its_limit() {
    let (mut latency, now) = (Latency::default(), ms(1));
    latency.observe_at_least(now, ms(50));
    assert!(!latency.admits(now, ms(50), Some(ms(1))));
    assert!(latency.admits(now, ms(80), Some(ms(1))), "that it takes 80 ms is not known");
}

#[test]
fn a_request_that_was_given_up_early_is_no_sign_of_speed() {
    let (mut latency, mut now) = learned((0..50).map(|_| 400));
    for _ in 0..200 {
        latency.observe_at_least(now, ms(5));
        now += ms(1);
    }
    let predicted = latency.predicted_p90(now, None).unwrap_or_default();
    assert!((ms(330)..ms(480)).contains(&predicted), "{predicted:?}");
}

#[test]
fn an_excluded_tier_is_tried_again_by_one_request() {
    let (mut latency, now) = learned((0..100).map(|_| 400));
    let prior = Some(ms(1));
    assert!(!latency.admits(now, ms(50), prior));
    let mut later = now;
    while !latency.admits(later, ms(50), prior) {
        later += ms(100);
        assert!(later < now + ms(60_000), "never tried again");
    }
    assert!(later > now + ms(10_000), "tried again after {:?}", later.saturating_sub(now));
    assert!(!latency.admits(later, ms(50), prior), "by more than one request");
    // It was fast again: all may go.
    latency.observe(later, ms(10));
    for sample in 1..40 {
        latency.observe(later + ms(sample), ms(10));
    }
    assert!(latency.admits(later + ms(40), ms(50), prior));
    // Or it was not: none may.
    let (mut latency, _) = learned((0..100).map(|_| 400));
    assert!(latency.admits(later, ms(50), prior));
    latency.observe_at_least(later, ms(50));
    assert!(!latency.admits(later, ms(50), prior));
    assert!(!latency.admits(later + ms(5_000), ms(50), prior));
}

#[test]
fn a_node_whose_first_run_was_slow_is_tried_again_too() {
    let (mut latency, now) = learned([300]);
    assert!(!latency.admits_shortest(now, ms(50)));
    let again = now + ms(60_000);
    assert!(latency.admits_shortest(again, ms(50)));
    assert!(!latency.admits_shortest(again + ms(100), ms(50)));
    latency.observe(again + ms(200), ms(10));
    // Slow answers since, from a queue, say nothing of what it can do.
    (0..60).for_each(|_| latency.observe(again + ms(300), ms(400)));
    assert!(latency.admits_shortest(again + ms(301), ms(50)));
}

proptest! {
    /// Whatever was seen, what is predicted lies between the least and the greatest of it, and no tier that has longer
    /// than that is left out; one that was never in time is.
    #[test]
    fn what_is_predicted_lies_within_what_was_seen(took in prop::collection::vec(1_u64..20_000, 1..80)) {
        let (mut latency, now) = learned(took.clone());
        let (least, greatest) = (took.iter().min().copied().unwrap_or(0), took.iter().max().copied().unwrap_or(0));
        let predicted = latency.predicted_p90(now, None).unwrap_or_default();
        prop_assert!(predicted.as_secs_f64() * BUCKET >= ms(least).as_secs_f64(), "{:?}", predicted);
        prop_assert!(predicted.as_secs_f64() <= ms(greatest).as_secs_f64() * BUCKET, "{:?}", predicted);
        prop_assert_eq!(latency.shortest(), Some(ms(least)));
        prop_assert!(latency.admits(now, ms(greatest).mul_f64(BUCKET), None));
        prop_assert!(!latency.admits(now, ms(least).mul_f64(0.8), Some(Duration::ZERO)));
    }

    /// Answers that take longer never make the prediction shorter.
    #[test]
    fn slower_is_never_predicted_to_be_faster(
        took in prop::collection::vec(1_u64..5_000, 1..40), more in 1_u64..5_000, at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(took.len());
        let mut slower = took.clone();
        slower[at] += more;
        let (one, now) = learned(took);
        let (other, _) = learned(slower);
        prop_assert!(one.predicted_p90(now, None) <= other.predicted_p90(now, None));
    }

    /// However it was seen, it fades: in the end only what is expected of it holds.
    #[test]
    fn every_estimate_fades(took in prop::collection::vec((1_u64..20_000, any::<bool>()), 1..200)) {
        let (mut latency, mut now) = (Latency::default(), Duration::ZERO);
        for (took, is_answer) in took {
            if is_answer { latency.observe(now, ms(took)) } else { latency.observe_at_least(now, ms(took)) }
            now += ms(1);
        }
        let later = now + Duration::from_secs(60);
        prop_assert_eq!(latency.predicted_p90(later, Some(ms(2))), Some(ms(2)));
        prop_assert_eq!(latency.predicted_p90(later, None), None);
        prop_assert!(latency.admits(later, ms(2), Some(ms(2))));
    }

    /// A clock that jumps back breaks nothing.
    #[test]
    fn any_order_of_times_gives_a_number(steps in prop::collection::vec((0_u64..1_000_000, 0_u64..100_000), 1..50)) {
        let mut latency = Latency::default();
        for (now, took) in steps {
            latency.observe(ms(now), ms(took));
            latency.observe_at_least(ms(now / 2), ms(took));
            let predicted = latency.predicted_p90(ms(now), Some(ms(1)));
            prop_assert!(predicted.is_some_and(|predicted| predicted < Duration::from_secs(120)));
        }
    }
}
