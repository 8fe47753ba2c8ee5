//! When a circuit breaker opens and closes, by examples and by properties.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::time::Duration;

use proptest::prelude::*;
use terrace_tiering::{Breaker, BreakerSettings, BreakerState, Failure, Pass, failure_weight};

const SETTINGS: BreakerSettings = BreakerSettings { failures: 3, period: secs(5), max_period: secs(60) };

/// How long a request may take: less than the period.
const TIMEOUT: Duration = secs(2);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn failure(pass: Pass, weight: f64, seed: u64) -> Failure {
    Failure { pass, weight, seed }
}

/// The one request that is let through to see.
fn probe(breaker: &mut Breaker, now: Duration) -> Pass {
    let pass = breaker.pass(now, &SETTINGS, TIMEOUT).unwrap();
    assert!(matches!(pass, Pass::Probe(_)));
    pass
}

/// A breaker that was opened at `now`, as often as this.
fn opened(times: u32, now: Duration) -> (Breaker, Duration) {
    let (mut breaker, mut now) = (Breaker::default(), now);
    for _ in 0..3 {
        let _ = breaker.failed(now, failure(Pass::Normal, 1.0, 0), &SETTINGS);
    }
    for _ in 1..times {
        while breaker.state(now) == BreakerState::Open {
            now += Duration::from_millis(500);
        }
        let pass = probe(&mut breaker, now);
        assert!(breaker.failed(now, failure(pass, 1.0, 0), &SETTINGS));
    }
    (breaker, now)
}

#[test]
fn failures_in_a_row_open_it_and_an_answer_between_them_does_not_count() {
    let mut breaker = Breaker::default();
    for _ in 0..10 {
        assert!(!breaker.failed(secs(1), failure(Pass::Normal, 1.0, 7), &SETTINGS));
        assert!(!breaker.failed(secs(1), failure(Pass::Normal, 1.0, 7), &SETTINGS));
        breaker.answered();
    }
    for count in 1..=3 {
        assert_eq!(breaker.pass(secs(1), &SETTINGS, TIMEOUT), Some(Pass::Normal));
        assert_eq!(breaker.failed(secs(1), failure(Pass::Normal, 1.0, 7), &SETTINGS), count == 3);
    }
    assert_eq!(breaker.state(secs(1)), BreakerState::Open);
    assert_eq!(breaker.pass(secs(5), &SETTINGS, TIMEOUT), None);
}

#[test]
fn a_tight_deadline_counts_for_what_it_left() {
    let (mut breaker, weight) = (Breaker::default(), failure_weight(Duration::from_millis(100), secs(1)));
    let mut needed = 0;
    while breaker.state(secs(1)) == BreakerState::Closed {
        let _ = breaker.failed(secs(1), failure(Pass::Normal, weight, 0), &SETTINGS);
        needed += 1;
    }
    assert_eq!(needed, 30);
    assert!((failure_weight(secs(9), secs(1)) - 1.0).abs() < 1e-9);
    // What had all of its time but a moment has failed, and not nearly failed.
    let settings = BreakerSettings { failures: 1, ..SETTINGS };
    let weight = failure_weight(Duration::from_millis(995), secs(1));
    assert!(Breaker::default().failed(secs(1), failure(Pass::Normal, weight, 0), &settings));
    assert!(failure_weight(Duration::from_millis(950), secs(1)) < 0.96);
    assert!((failure_weight(secs(0), secs(0)) - 1.0).abs() < 1e-9);
}

#[test]
fn half_open_it_lets_one_through() {
    let (mut breaker, now) = opened(1, secs(1));
    let now = now + secs(6);
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    probe(&mut breaker, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.pass(now, &SETTINGS, TIMEOUT), None);
    breaker.answered();
    assert_eq!(breaker.pass(now, &SETTINGS, TIMEOUT), Some(Pass::Normal));
    // One whose caller went away says nothing; the next may try at once.
    let (mut breaker, _) = opened(1, secs(1));
    let first = probe(&mut breaker, now);
    breaker.abandoned(now, first);
    probe(&mut breaker, now);
    // One that never ends is not waited for.
    probe(&mut breaker, now + secs(5));
}

#[test]
fn a_request_in_a_hurry_does_not_keep_it_open_for_those_that_have_time() {
    let (mut breaker, now) = opened(2, secs(1));
    let now = now + secs(10);
    // They share a whole failure between them, and each of them lets the next one try at once.
    for _ in 0..9 {
        let pass = probe(&mut breaker, now);
        assert!(!breaker.failed(now, failure(pass, 0.1, 0), &SETTINGS));
        assert_eq!((breaker.state(now), breaker.left(now)), (BreakerState::HalfOpen, None));
    }
    assert_eq!(breaker.times(), 4 + 9);
    let mut answers = breaker;
    probe(&mut answers, now);
    answers.answered();
    assert_eq!(answers.state(now), BreakerState::Closed);
    // Where nobody has time, and it does not answer, it is not asked for ever.
    let pass = probe(&mut breaker, now);
    assert!(breaker.failed(now, failure(pass, 0.1, 0), &SETTINGS));
    assert_eq!(breaker.left(now), Some(secs(20)));
    // What was added up then is over.
    let now = now + secs(20);
    let pass = probe(&mut breaker, now);
    assert!(!breaker.failed(now, failure(pass, 0.9, 0), &SETTINGS));
}

#[test]
fn who_shows_whether_it_answers_again_is_alone_for_as_long_as_it_may_take() {
    let (mut breaker, now) = opened(1, secs(1));
    let (now, timeout) = (now + secs(6), secs(30));
    let first = breaker.pass(now, &SETTINGS, timeout).unwrap();
    assert_eq!(breaker.pass(now + secs(29), &SETTINGS, timeout), None);
    // Its end was never told; the next one counts, and what becomes of the first after all changes nothing.
    let later = now + secs(30);
    let second = breaker.pass(later, &SETTINGS, timeout).unwrap();
    assert_ne!(first, second);
    breaker.abandoned(later, first);
    assert!(!breaker.failed(later, failure(first, 1.0, 0), &SETTINGS));
    assert_eq!(breaker.pass(later, &SETTINGS, timeout), None);
    assert!(breaker.failed(later, failure(second, 1.0, 0), &SETTINGS));
    // Also after an answer between them.
    breaker.answered();
    for _ in 0..3 {
        let _ = breaker.failed(later, failure(Pass::Normal, 1.0, 0), &SETTINGS);
    }
    let third = breaker.pass(later + secs(6), &SETTINGS, timeout).unwrap();
    assert!(third != first && third != second);
}

#[test]
fn both_breakers_that_a_request_passes_must_let_it_through() {
    use BreakerState::{Closed, HalfOpen, Open};
    for (one, other, both) in [
        (Closed, Closed, Closed),
        (Closed, HalfOpen, HalfOpen),
        (HalfOpen, Closed, HalfOpen),
        (HalfOpen, HalfOpen, HalfOpen),
        (Open, Closed, Open),
        (HalfOpen, Open, Open),
    ] {
        assert_eq!(one.and(other), both, "{one:?} {other:?}");
    }
}

#[test]
fn it_says_for_how_long_and_after_how_many() {
    let mut breaker = Breaker::default();
    assert_eq!((breaker.left(secs(1)), breaker.times()), (None, 0));
    for _ in 0..5 {
        let _ = breaker.failed(secs(1), failure(Pass::Normal, 1.0, 0), &SETTINGS);
    }
    assert_eq!((breaker.left(secs(2)), breaker.times()), (Some(secs(4)), 3));
    assert_eq!(breaker.left(secs(6)), None);
    // While one request tries, others are told when the next may.
    let pass = probe(&mut breaker, secs(7));
    assert_eq!(breaker.left(secs(8)), Some(secs(4)));
    assert!(breaker.failed(secs(8), failure(pass, 1.0, 0), &SETTINGS));
    assert_eq!((breaker.left(secs(8)), breaker.times()), (Some(secs(10)), 4));
    breaker.answered();
    assert_eq!((breaker.left(secs(8)), breaker.times()), (None, 0));
}

#[test]
fn it_stays_open_for_longer_each_time_up_to_a_limit() {
    for (times, expected) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (9, 60)] {
        let (breaker, now) = opened(times, secs(1));
        let just_before = (now + secs(expected)).saturating_sub(Duration::from_millis(1));
        assert_eq!(breaker.state(just_before), BreakerState::Open, "{times}");
        assert_eq!(breaker.state(now + secs(expected)), BreakerState::HalfOpen, "{times}");
    }
}

#[test]
fn what_was_under_way_when_it_opened_neither_opens_it_again_nor_takes_the_probe_away() {
    let (mut breaker, now) = opened(1, secs(1));
    assert!(!breaker.failed(now, failure(Pass::Normal, 1.0, 0), &SETTINGS));
    let probing = now + secs(5);
    probe(&mut breaker, probing);
    assert!(!breaker.failed(probing, failure(Pass::Normal, 1.0, 0), &SETTINGS));
    breaker.abandoned(probing, Pass::Normal);
    assert_eq!(breaker.pass(probing, &SETTINGS, TIMEOUT), None);
    // But an answer is an answer.
    breaker.answered();
    assert_eq!(breaker.state(probing), BreakerState::Closed);
}

proptest! {
    /// An endpoint that never answers is tried at most once a period, whoever asks when and whatever the seed.
    #[test]
    fn an_endpoint_that_is_away_is_tried_once_a_period(
        steps in prop::collection::vec((0_u64..3_000, any::<u64>()), 10..300), failures in 1_u32..6,
    ) {
        let settings = BreakerSettings { failures, ..SETTINGS };
        let (mut breaker, mut now, mut tried) = (Breaker::default(), secs(1), Vec::new());
        for (step, seed) in steps {
            now += Duration::from_millis(step);
            if let Some(pass) = breaker.pass(now, &settings, TIMEOUT) {
                tried.push(now);
                let _ = breaker.failed(now, failure(pass, 1.0, seed), &settings);
            }
        }
        let later = tried.iter().skip(failures as usize - 1).copied().collect::<Vec<_>>();
        prop_assert!(later.windows(2).all(|two| two[0] + settings.period <= two[1]), "{:?}", later);
    }

    /// It opens for at most a fifth longer than the longest period, and then lets one through.
    #[test]
    fn it_never_stays_open_for_ever(times in 1_u32..40, seed in any::<u64>()) {
        let (mut breaker, now) = opened(times, secs(1));
        let probing = now + secs(72);
        let pass = probe(&mut breaker, probing);
        let _ = breaker.failed(probing, failure(pass, 1.0, seed), &SETTINGS);
        prop_assert_eq!(breaker.state(probing + secs(72)), BreakerState::HalfOpen);
    }
}
