//! Confidence: what the docs say of each method, and what holds whatever a model answers.

#![allow(clippy::float_cmp)] // 0 and 1 are exact
#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::time::{Duration, Instant};

use proptest::prelude::*;
use terrace_crds::confidence::ConfidenceMethod::{Entropy, Margin, Probability, Softmax};
use terrace_crds::confidence::{Confidence, ConfidenceMethod};
use terrace_tiering::{Elements, Measure};

const METHODS: [ConfidenceMethod; 4] = [Softmax, Probability, Margin, Entropy];

fn measure(method: ConfidenceMethod, temperature: f64) -> Measure {
    let spec = Confidence { output: "scores".to_owned(), method, temperature: Some(temperature) };
    Measure::parse(&spec).unwrap()
}

fn rows(measure: &Measure, scores: &[f64], shape: &[usize]) -> Vec<f64> {
    measure.rows(Elements::F64(scores), shape).unwrap().as_slice().to_vec()
}

/// Of one decision.
fn of(method: ConfidenceMethod, temperature: f64, scores: &[f64]) -> f64 {
    measure(method, temperature).rows(Elements::F64(scores), &[1, scores.len()]).unwrap().least()
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[test]
fn each_method_by_hand() {
    let thirds = [0.5, 0.3, 0.2];
    let logits = thirds.map(f64::ln);
    let entropy = 1.0 + thirds.iter().map(|p| p * p.ln()).sum::<f64>() / 3_f64.ln();
    for (method, scores, expected) in [
        (Softmax, &logits[..], 0.5),
        (Softmax, &[0.0; 4], 0.25),
        (Softmax, &[3.0, 3.0], 0.5),
        (Probability, &thirds, 0.5),
        (Probability, &[1.0, 0.0], 1.0),
        (Margin, &thirds, 0.2),
        (Margin, &[0.4, 0.4, 0.2], 0.0),
        (Margin, &[1.0, 0.0], 1.0),
        (Entropy, &thirds, entropy),
        (Entropy, &[0.25; 4], 0.0),
        (Entropy, &[0.0, 1.0], 1.0),
        // As if they added up to 1.
        (Entropy, &[0.1, 0.1], 0.0),
    ] {
        let confidence = of(method, 1.0, scores);
        assert!(near(confidence, expected), "{method:?} {scores:?}: {confidence}, not {expected}");
    }
}

#[test]
fn a_single_score_stands_for_two_classes() {
    for temperature in [0.5, 1.0, 3.0] {
        for p in [0.0, 0.1, 0.5, 0.8, 1.0] {
            for method in [Probability, Margin, Entropy] {
                let (single, both) = (of(method, temperature, &[p]), of(method, temperature, &[p, 1.0 - p]));
                assert!(near(single, both), "{method:?} {p}: {single} and {both}");
            }
        }
        for z in [-40.0, -1.0, 0.0, 2.5, 700.0] {
            assert!(near(of(Softmax, temperature, &[z]), of(Softmax, temperature, &[z, 0.0])));
        }
    }
    assert!(near(of(Probability, 1.0, &[0.1]), 0.9), "sure that it is not");
}

#[test]
fn temperature_means_the_same_for_logits_and_for_probabilities() {
    let logits = [1.0, 0.2, -0.7_f64];
    let sum: f64 = logits.iter().map(|z| z.exp()).sum();
    let probabilities = logits.map(|z| z.exp() / sum);
    for temperature in [0.3, 1.0, 1.7, 20.0] {
        let (one, other) = (of(Softmax, temperature, &logits), of(Probability, temperature, &probabilities));
        assert!(near(one, other), "{temperature}: {one} and {other}");
    }
}

#[test]
fn what_says_nothing_is_not_sure() {
    for method in METHODS {
        for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(of(method, 1.0, &[0.9, broken]), 0.0, "{method:?} {broken}");
        }
        for temperature in [0.01, 1.0, 100.0] {
            let measure = measure(method, temperature);
            for (shape, what) in [
                (&[1, 0][..], "a row without scores"),
                (&[2, 0, 10], "rows without decisions"),
                (&[0, 10], "no row"),
                (&[0], "no detection"),
            ] {
                let none = measure.rows(Elements::F32(&[]), shape).unwrap();
                assert_eq!((none.as_slice(), none.least(), none.get(0)), (&[][..], 0.0, 0.0), "{what}");
            }
        }
    }
    for method in [Probability, Margin, Entropy] {
        assert_eq!(of(method, 1.0, &[4.0, -2.0]), 0.0, "{method:?}: these are no probabilities");
        assert_eq!(of(method, 1.0, &[0.0, 0.0]), 0.0, "{method:?}: nothing is probable");
        assert!(of(method, 1.0, &[1.0003, 0.0]) > 0.99, "{method:?}: rounding is no fault");
    }
}

#[test]
fn rows_and_decisions_are_told_apart_by_their_axes() {
    let by = measure(Probability, 1.0);
    assert_eq!(rows(&by, &[0.9, 0.1, 0.6, 0.4], &[2, 2]), [0.9, 0.6]);
    let tokens = [0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4];
    assert_eq!(rows(&by, &tokens, &[2, 2, 2]), [0.7, 0.6], "a row is as sure as its least sure decision");
    assert_eq!(rows(&by, &[0.9, 0.2, 0.5], &[3]), [0.9, 0.8, 0.5], "one score a row");
    assert_eq!(rows(&by, &[0.7], &[]), [0.7], "a scalar");
    let whole = by.clone().declared(&[3]);
    assert_eq!(rows(&whole, &[0.2, 0.7, 0.1], &[3]), [0.7], "the scores of one decision");
    assert_eq!(rows(&by.clone().declared(&[-1]), &[0.2, 0.7], &[2]), [0.8, 0.7]);
    assert_eq!(rows(&by.declared(&[-1, 2]), &[0.2, 0.8], &[1, 2]), [0.8]);
}

#[test]
fn only_floating_point_numbers_are_scores() {
    let by = measure(Softmax, 1.0);
    // 1.0 in half precision and in bfloat16.
    for scores in [Elements::F16(&[0x3c00, 0]), Elements::Bf16(&[0x3f80, 0]), Elements::F32(&[1.0, 0.0])] {
        let confidence = by.rows(scores, &[1, 2]).unwrap().least();
        assert!(near(confidence, of(Softmax, 1.0, &[1.0, 0.0])));
    }
    let text = [b"one".to_vec(), b"two".to_vec()];
    for others in [
        Elements::I64(&[1, 2]),
        Elements::U8(&[1, 2]),
        Elements::Bool(&[true, false]),
        Elements::Bytes(&text),
    ] {
        assert!(by.rows(others, &[1, 2]).is_err());
    }
}

#[test]
fn a_shape_without_elements_costs_nothing_however_long_its_axes_are_said_to_be() {
    const LONG: usize = 1 << 40;
    let begun = Instant::now();
    for method in METHODS {
        let by = measure(method, 1.0);
        for shape in [
            &[LONG, 0][..],
            &[0, LONG],
            &[1, LONG, 0],
            &[LONG, 1, 0],
            &[LONG, LONG, LONG, 0],
            &[usize::MAX, 0, usize::MAX],
        ] {
            assert_eq!(by.rows(Elements::F32(&[]), shape).unwrap().least(), 0.0, "{shape:?}");
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[test]
fn a_shape_of_other_elements_is_no_shape_of_scores() {
    let by = measure(Softmax, 1.0);
    for shape in [&[1, 3][..], &[2, 2], &[3], &[], &[0, 2], &[1 << 40, 2], &[usize::MAX, usize::MAX, 2]] {
        assert!(by.rows(Elements::F32(&[0.5, 0.5]), shape).is_err(), "{shape:?}");
    }
    assert!(by.rows(Elements::F32(&[]), &[1 << 40, 2]).is_err());
}

#[test]
fn a_measure_that_means_nothing_is_not_accepted() {
    let spec =
        |output: &str, temperature| Confidence { output: output.to_owned(), method: Softmax, temperature };
    assert!(Measure::parse(&spec("probabilities", None)).is_ok());
    for (output, temperature, field) in [
        ("", None, "spec.confidence.output"),
        (&*"a".repeat(257), None, "spec.confidence.output"),
        ("a", Some(0.0), "spec.confidence.temperature"),
        ("a", Some(-1.0), "spec.confidence.temperature"),
        ("a", Some(f64::NAN), "spec.confidence.temperature"),
        ("a", Some(100.5), "spec.confidence.temperature"),
    ] {
        let faults = Measure::parse(&spec(output, temperature)).unwrap_err();
        assert_eq!(faults[0].field, field);
    }
    let resolved = Measure::parse(&spec("a", None)).unwrap().to_spec();
    assert_eq!(resolved, spec("a", Some(1.0)));
}

fn method() -> impl Strategy<Value = ConfidenceMethod> {
    prop::sample::select(METHODS.to_vec())
}

/// Anything that a float can hold.
fn anything() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(prop_oneof![3 => any::<f64>(), 1 => 0.0..=1.0], 0..12)
}

/// How long an axis is said to be.
fn axis() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0_usize..4, 1 => any::<usize>()]
}

/// Scores that fit the method: logits, or probabilities that add up to 1.
fn fitting(method: ConfidenceMethod, parts: &[f64]) -> Vec<f64> {
    let sum: f64 = parts.iter().sum();
    parts.iter().map(|part| if method == Softmax { part * 20.0 - 10.0 } else { part / sum }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_confidence_is_from_0_to_1_whatever_the_scores(
        method in method(), temperature in 0.01_f64..=100.0, scores in anything(),
    ) {
        let confidence = of(method, temperature, &scores);
        prop_assert!((0.0..=1.0).contains(&confidence), "{method:?} {temperature} {scores:?}: {confidence}");
    }

    #[test]
    fn no_more_is_kept_than_there_are_elements(
        method in method(), scores in anything(), shape in prop::collection::vec(axis(), 0..5), whole in any::<bool>(),
    ) {
        let by = measure(method, 1.0);
        let by = if whole { by.declared(&[4]) } else { by };
        // Most shapes are not of these elements; of those that are, each row has one at least.
        if let Ok(rows) = by.rows(Elements::F64(&scores), &shape) {
            prop_assert!(rows.as_slice().len() <= scores.len(), "{shape:?}: {rows:?}");
        }
        let rows = by.rows(Elements::F64(&[]), &shape);
        prop_assert_eq!(rows.is_ok(), shape.contains(&0), "{:?}", shape);
    }

    #[test]
    fn the_order_of_classes_is_of_no_account(
        method in method(), temperature in 0.1_f64..=10.0,
        parts in prop::collection::vec(0.001_f64..1.0, 1..8), turn in 0_usize..8,
    ) {
        let scores = fitting(method, &parts);
        let mut turned = scores.clone();
        turned.rotate_left(turn % scores.len());
        prop_assert!(near(of(method, temperature, &scores), of(method, temperature, &turned)));
    }

    #[test]
    fn a_higher_temperature_makes_nobody_surer(
        method in method(), low in 0.05_f64..=20.0, high in 0.05_f64..=20.0,
        parts in prop::collection::vec(0.001_f64..1.0, 2..8),
    ) {
        let scores = fitting(method, &parts);
        let (low, high) = if low < high { (low, high) } else { (high, low) };
        prop_assert!(of(method, high, &scores) <= of(method, low, &scores) + 1e-9, "{method:?} {scores:?}");
    }

    #[test]
    fn logits_may_be_shifted(shift in -1e6_f64..1e6, parts in prop::collection::vec(0.001_f64..1.0, 2..8)) {
        let scores = fitting(Softmax, &parts);
        let shifted: Vec<f64> = scores.iter().map(|score| score + shift).collect();
        prop_assert!((of(Softmax, 1.0, &scores) - of(Softmax, 1.0, &shifted)).abs() < 1e-6);
    }

    #[test]
    fn a_batch_is_its_rows_and_as_sure_as_the_least(
        method in method(), temperature in 0.1_f64..=10.0,
        batch in prop::collection::vec(prop::collection::vec(0.001_f64..1.0, 3), 1..6),
    ) {
        let batch: Vec<Vec<f64>> = batch.iter().map(|parts| fitting(method, parts)).collect();
        let by = measure(method, temperature);
        let together = by.rows(Elements::F64(&batch.concat()), &[batch.len(), 3]).unwrap();
        let alone: Vec<f64> = batch.iter().map(|row| of(method, temperature, row)).collect();
        prop_assert_eq!(together.as_slice(), &alone[..]);
        prop_assert_eq!(together.least(), alone.iter().copied().fold(1.0, f64::min));
    }
}
