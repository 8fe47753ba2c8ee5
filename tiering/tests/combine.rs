//! Combining: each method by hand, what cannot be combined, and what holds whatever members answer.

#![allow(clippy::float_cmp)] // 0 and 1 are exact
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests fail like tests

use std::time::{Duration, Instant};

use proptest::prelude::*;
use terrace_crds::Tier::{self, Cloud, Device, Edge};
use terrace_crds::confidence::{Confidence, ConfidenceMethod};
use terrace_tiering::Combine::{MaxConfidence, Mean, Vote, WeightedMean};
use terrace_tiering::{
    Combine, CombineError, Combined, CombinedOutput, Elements, Measure, MemberAnswer, MemberOutput, combine,
};

const ALL: [Combine; 4] = [Mean, WeightedMean, Vote, MaxConfidence];

fn measure() -> Measure {
    let spec =
        Confidence { output: "scores".to_owned(), method: ConfidenceMethod::Probability, temperature: None };
    Measure::parse(&spec).unwrap()
}

/// A member that answers with scores for two or more rows, and a label for each.
#[derive(Debug)]
struct Answered {
    tier: Tier,
    weight: f64,
    scores: Vec<f64>,
    shape: Vec<usize>,
    labels: Vec<i64>,
}

impl Answered {
    fn rows<const N: usize>(tier: Tier, scores: &[[f64; N]]) -> Self {
        let labels = scores.iter().map(|row| {
            let best = row.iter().copied().fold(f64::MIN, f64::max);
            i64::try_from(row.iter().position(|score| *score >= best).unwrap()).unwrap()
        });
        Self {
            tier,
            weight: 1.0,
            labels: labels.collect(),
            scores: scores.concat(),
            shape: vec![scores.len(), N],
        }
    }

    fn weighing(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    fn answer(&self) -> MemberAnswer<'_> {
        let scores =
            MemberOutput { name: "scores", shape: &self.shape, elements: Elements::F64(&self.scores) };
        let labels =
            MemberOutput { name: "label", shape: &self.shape[..1], elements: Elements::I64(&self.labels) };
        MemberAnswer { tier: self.tier, weight: self.weight, outputs: vec![scores, labels] }
    }
}

fn combined(how: Combine, members: &[&Answered]) -> Combined {
    let answers: Vec<MemberAnswer<'_>> = members.iter().map(|member| member.answer()).collect();
    combine(how, &measure(), &answers).unwrap()
}

fn means(output: &CombinedOutput) -> &[f64] {
    match output {
        CombinedOutput::Mean(values) => values,
        other => panic!("no mean: {other:?}"),
    }
}

fn near(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| (one - other).abs() < 1e-12)
}

#[test]
fn a_mean_averages_scores_and_takes_the_rest_from_who_agrees_with_it() {
    let device = Answered::rows(Device, &[[0.9, 0.1], [0.6, 0.4]]);
    let cloud = Answered::rows(Cloud, &[[0.3, 0.7], [0.1, 0.9]]);
    let both = combined(Mean, &[&device, &cloud]);
    assert!(near(means(&both.outputs[0]), &[0.6, 0.4, 0.35, 0.65]), "{both:?}");
    assert_eq!(both.outputs[1], CombinedOutput::Rows(vec![0, 1]), "the device is for 0, the cloud for 1");
    assert!((both.confidence - 0.6).abs() < 1e-12, "{both:?}");
}

#[test]
fn a_mean_that_no_member_agrees_with_takes_the_most_confident() {
    let device = Answered::rows(Device, &[[0.5, 0.0, 0.45]]);
    let cloud = Answered::rows(Cloud, &[[0.0, 0.55, 0.45]]);
    let both = combined(Mean, &[&device, &cloud]);
    assert!(near(means(&both.outputs[0]), &[0.25, 0.275, 0.45]));
    assert_eq!(both.outputs[1], CombinedOutput::Whole(1));
}

#[test]
fn weights_say_what_each_member_counts_and_only_in_a_weighted_mean() {
    let device = Answered::rows(Device, &[[1.0, 0.0]]).weighing(1.0);
    let cloud = Answered::rows(Cloud, &[[0.2, 0.8]]).weighing(3.0);
    let both = combined(WeightedMean, &[&device, &cloud]);
    assert!(near(means(&both.outputs[0]), &[0.4, 0.6]), "{both:?}");
    assert_eq!(both.outputs[1], CombinedOutput::Whole(1));
    assert!(near(means(&combined(Mean, &[&device, &cloud]).outputs[0]), &[0.6, 0.4]));
}

#[test]
fn the_class_with_the_most_votes_wins_and_its_most_confident_voter_answers() {
    let device = Answered::rows(Device, &[[0.6, 0.4], [0.9, 0.1]]);
    let edge = Answered::rows(Edge, &[[0.8, 0.2], [0.2, 0.8]]);
    let cloud = Answered::rows(Cloud, &[[0.0, 1.0], [0.3, 0.7]]);
    let all = combined(Vote, &[&device, &edge, &cloud]);
    assert_eq!(
        all.outputs,
        vec![CombinedOutput::Whole(1); 2],
        "two to one in both rows; the edge is the surer voter"
    );
    assert!((all.confidence - 0.8).abs() < 1e-12);
}

#[test]
fn a_tie_of_votes_goes_to_the_most_confident() {
    let device = Answered::rows(Device, &[[0.6, 0.4], [0.9, 0.1]]);
    let cloud = Answered::rows(Cloud, &[[0.3, 0.7], [0.2, 0.8]]);
    let both = combined(Vote, &[&device, &cloud]);
    assert_eq!(both.outputs, vec![CombinedOutput::Rows(vec![1, 0]); 2]);
    assert!((both.confidence - 0.7).abs() < 1e-12);
    let twin = Answered::rows(Cloud, &[[0.4, 0.6], [0.1, 0.9]]);
    let even = combined(Vote, &[&device, &twin]);
    assert_eq!(even.outputs, vec![CombinedOutput::Whole(0); 2], "as sure as each other: the first counts");
}

#[test]
fn the_most_confident_member_answers_row_by_row() {
    let device = Answered::rows(Device, &[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]);
    let cloud = Answered::rows(Cloud, &[[0.2, 0.8], [0.1, 0.9], [0.5, 0.5]]);
    let both = combined(MaxConfidence, &[&device, &cloud]);
    assert_eq!(both.outputs, vec![CombinedOutput::Rows(vec![0, 1, 0]); 2]);
    assert!((both.confidence - 0.5).abs() < 1e-12);
}

#[test]
fn a_member_that_is_left_alone_answers_as_it_is() {
    let cloud = Answered::rows(Cloud, &[[0.3, 0.7], [0.1, 0.9]]).weighing(5.0);
    for how in ALL {
        let alone = combined(how, &[&cloud]);
        assert_eq!(alone.outputs, vec![CombinedOutput::Whole(0); 2]);
        assert!((alone.confidence - 0.7).abs() < 1e-12);
    }
    let mut without = cloud.answer();
    without.outputs.remove(0);
    let alone = combine(Mean, &measure(), &[without]).unwrap();
    assert_eq!(alone.confidence, 0.0, "nothing says that it is sure");
}

#[test]
fn an_output_without_rows_is_taken_whole_from_who_is_surest_of_the_request() {
    let device = Answered::rows(Device, &[[0.9, 0.1], [0.6, 0.4]]);
    let cloud = Answered::rows(Cloud, &[[0.3, 0.7], [0.2, 0.8]]);
    let version = [7_i64];
    let answers = [&device, &cloud].map(|member| {
        let mut answer = member.answer();
        answer.outputs.push(MemberOutput { name: "version", shape: &[1], elements: Elements::I64(&version) });
        answer
    });
    for how in ALL {
        let both = combine(how, &measure(), &answers).unwrap();
        assert_eq!(both.outputs[2], CombinedOutput::Whole(1), "{how:?}");
    }
}

#[test]
fn detections_of_any_number_are_those_of_one_member() {
    // One image; boxes, as many as each member found; scores for the image.
    let (few, many) = ([0.1_f64; 4], [0.2_f64; 12]);
    let (unsure, sure) = ([0.6, 0.4], [0.1, 0.9]);
    let answer = |tier, scores, boxes: &'static [usize; 2], values| MemberAnswer {
        tier,
        weight: 1.0,
        outputs: vec![
            MemberOutput { name: "scores", shape: &[1, 2], elements: Elements::F64(scores) },
            MemberOutput { name: "boxes", shape: boxes, elements: Elements::F64(values) },
        ],
    };
    let answers = [answer(Device, &unsure, &[1, 4], &few), answer(Cloud, &sure, &[3, 4], &many)];
    for how in [Vote, MaxConfidence] {
        let both = combine(how, &measure(), &answers).unwrap();
        assert_eq!(both.outputs, vec![CombinedOutput::Whole(1); 2], "{how:?}");
    }
    let error = combine(Mean, &measure(), &answers).unwrap_err().to_string();
    assert_eq!(error, "the output \"boxes\" is FP64 [1, 4] at device and FP64 [3, 4] at cloud");
}

#[test]
fn what_cannot_be_combined_names_the_member_and_the_output() {
    let device = Answered::rows(Device, &[[0.9, 0.1]]);
    let cloud = Answered::rows(Cloud, &[[0.3, 0.7]]);
    let wider = Answered::rows(Cloud, &[[0.3, 0.3, 0.4]]);
    let longer = Answered::rows(Cloud, &[[0.3, 0.7], [0.5, 0.5]]);
    let told = |how, one: MemberAnswer<'_>, other: MemberAnswer<'_>| {
        combine(how, &measure(), &[one, other]).unwrap_err().to_string()
    };
    for how in ALL {
        let mut lacking = cloud.answer();
        lacking.outputs.truncate(1);
        assert_eq!(
            told(how, device.answer(), lacking.clone()),
            "cloud answered without the output \"label\", which device has"
        );
        assert_eq!(
            told(how, lacking, device.answer()),
            "cloud answered without the output \"label\", which device has"
        );
        let mut integers = cloud.answer();
        integers.outputs[0].elements = Elements::I64(&[0, 1]);
        assert_eq!(
            told(how, device.answer(), integers.clone()),
            "the output \"scores\" is FP64 [1, 2] at device and INT64 [1, 2] at cloud"
        );
        let mut both_integers = device.answer();
        both_integers.outputs[0].elements = Elements::I64(&[1, 0]);
        assert!(told(how, both_integers, integers).starts_with("device answered without scores"), "{how:?}");
        assert!(told(how, device.answer(), longer.answer()).contains("[1, 2] at device"), "{how:?}");
    }
    for how in [Mean, WeightedMean, Vote] {
        assert!(told(how, device.answer(), wider.answer()).contains("[1, 3] at cloud"), "{how:?}");
    }
    assert_eq!(combine(Mean, &measure(), &[]), Err(CombineError::Nobody));
}

/// A member that answers with an output of scores alone, of this shape.
fn shaped<'a>(tier: Tier, shape: &'a [usize], scores: &'a [f64]) -> MemberAnswer<'a> {
    let scores = MemberOutput { name: "scores", shape, elements: Elements::F64(scores) };
    MemberAnswer { tier, weight: 1.0, outputs: vec![scores] }
}

#[test]
fn members_without_elements_cost_nothing_however_many_rows_they_claim() {
    const LONG: usize = 1 << 40;
    let begun = Instant::now();
    for how in ALL {
        for shape in [&[LONG, 0][..], &[1, LONG, 0], &[LONG, LONG, 0], &[LONG, LONG, LONG, 0], &[0, LONG]] {
            let both = [shaped(Device, shape, &[]), shaped(Cloud, shape, &[])];
            let none = combine(how, &measure(), &both).unwrap();
            let empty = match how {
                Mean | WeightedMean => CombinedOutput::Mean(Vec::new()),
                Vote | MaxConfidence => CombinedOutput::Whole(0),
            };
            assert_eq!((none.outputs, none.confidence), (vec![empty], 0.0), "{how:?} {shape:?}");
            let alone = combine(how, &measure(), &both[..1]).unwrap();
            assert_eq!(alone.confidence, 0.0, "{how:?} {shape:?}");
            let beside = [shaped(Device, &[2, 2], &[0.9, 0.1, 0.2, 0.8]), shaped(Cloud, shape, &[])];
            let error = combine(how, &measure(), &beside).unwrap_err().to_string();
            assert!(error.contains("FP64 [2, 2] at device"), "{error}");
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[test]
fn a_member_without_scores_for_its_rows_leaves_them_to_the_others() {
    let (sure, none) = (shaped(Device, &[1, 2], &[0.9, 0.1]), shaped(Cloud, &[1, 0], &[]));
    for (members, from) in [([sure.clone(), none.clone()], 0), ([none, sure], 1)] {
        let both = combine(MaxConfidence, &measure(), &members).unwrap();
        assert_eq!((both.outputs, both.confidence), (vec![CombinedOutput::Whole(from)], 0.9));
        for how in [Mean, WeightedMean, Vote] {
            assert!(combine(how, &measure(), &members).is_err(), "{how:?}: these are other classes");
        }
    }
}

/// Scores of a shape that they have, or of one that they do not.
fn anything() -> impl Strategy<Value = (Vec<usize>, Vec<f64>)> {
    let axis = prop_oneof![6 => 0_usize..3, 1 => any::<usize>()];
    prop::collection::vec(axis, 0..4).prop_flat_map(|shape| {
        let count = shape.iter().try_fold(1_usize, |count, axis| count.checked_mul(*axis));
        let count = count.filter(|count| *count < 50).unwrap_or(0);
        (Just(shape), prop::collection::vec(prop_oneof![3 => 0.0..=1.0, 1 => any::<f64>()], count))
    })
}

fn member(tier: Tier) -> impl Strategy<Value = Answered> {
    let row = prop::collection::vec(0.01_f64..1.0, 3).prop_map(|parts| {
        let sum: f64 = parts.iter().sum();
        [parts[0] / sum, parts[1] / sum, parts[2] / sum]
    });
    (prop::collection::vec(row, 4), 0.1_f64..10.0)
        .prop_map(move |(rows, weight)| Answered::rows(tier, &rows).weighing(weight))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_members_answer_nothing_grows_beyond_it(
        one in anything(), other in anything(), same in any::<bool>(), how in prop::sample::select(ALL.to_vec()),
    ) {
        let other = if same { (one.0.clone(), one.1.iter().map(|score| 1.0 - score).collect()) } else { other };
        let members = [shaped(Device, &one.0, &one.1), shaped(Cloud, &other.0, &other.1)];
        if let Ok(both) = combine(how, &measure(), &members) {
            prop_assert!((0.0..=1.0).contains(&both.confidence), "{both:?}");
            match &both.outputs[..] {
                [CombinedOutput::Mean(values)] => prop_assert_eq!(values.len(), one.1.len()),
                [CombinedOutput::Whole(member)] => prop_assert!(*member < 2),
                [CombinedOutput::Rows(rows)] => prop_assert!(rows.len() <= one.1.len().max(other.1.len())),
                others => prop_assert!(false, "{others:?}"),
            }
        }
    }

    #[test]
    fn a_combination_is_within_its_members(
        device in member(Device), edge in member(Edge), cloud in member(Cloud),
        how in prop::sample::select(ALL.to_vec()),
    ) {
        let all = [&device, &edge, &cloud];
        let combined = combined(how, &all);
        prop_assert!((0.0..=1.0).contains(&combined.confidence));
        for (place, output) in combined.outputs.iter().enumerate() {
            match output {
                CombinedOutput::Mean(values) => {
                    prop_assert!(place == 0 && matches!(how, Mean | WeightedMean));
                    for (element, value) in values.iter().enumerate() {
                        let of = all.map(|member| member.scores[element]);
                        let (low, high) = (of.iter().copied().fold(1.0, f64::min), of.iter().copied().fold(0.0, f64::max));
                        prop_assert!((low - 1e-12..=high + 1e-12).contains(value));
                    }
                }
                CombinedOutput::Whole(member) => prop_assert!(*member < 3),
                CombinedOutput::Rows(rows) => {
                    prop_assert_eq!(rows.len(), 4);
                    prop_assert!(rows.iter().all(|member| *member < 3));
                }
            }
        }
        let most = all.map(|m| m.scores.iter().copied().fold(0.0, f64::max)).into_iter().fold(0.0, f64::max);
        prop_assert!(combined.confidence <= most + 1e-12);
    }

    #[test]
    fn members_that_say_the_same_are_one(device in member(Device), how in prop::sample::select(ALL.to_vec())) {
        let twin = Answered { tier: Cloud, scores: device.scores.clone(), shape: device.shape.clone(), labels: device.labels.clone(), weight: 2.0 };
        let (alone, both) = (combined(how, &[&device]), combined(how, &[&device, &twin]));
        prop_assert!((alone.confidence - both.confidence).abs() < 1e-12);
        if let CombinedOutput::Mean(values) = &both.outputs[0] {
            prop_assert!(near(values, &device.scores));
        }
        prop_assert_eq!(&both.outputs[1], &CombinedOutput::Whole(0));
    }
}
