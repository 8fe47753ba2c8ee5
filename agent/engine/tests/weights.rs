//! Weights that sessions share, by the real ONNX Runtime. One test: it measures this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod support;

use std::fs;
use std::path::Path;

use support::onnx::{Element, Graph, node, tensor, tensor_type, value};
use support::runtime;
use terrace_engine::{Batching, Model, ModelOptions, Request};
use terrace_oip::{Tensor, TensorData};

/// Rows and columns of each of two matrices: 16 MiB each.
const SIDE: i64 = 2048;
const MIB: u64 = 1 << 20;

/// `y = x × a × b`, with weights that are neither all alike nor a permutation of each other.
fn two_matrices() -> Vec<u8> {
    let weights = |seed: usize| -> Vec<u8> {
        let count = usize::try_from(SIDE * SIDE).unwrap();
        let one = |index: usize| ((index * seed % 1999) as f32 - 999.0) / 1e5;
        (0..count).flat_map(|index| one(index).to_le_bytes()).collect()
    };
    let kind = tensor_type(Element::Float, &[-1, SIDE]);
    Graph {
        nodes: vec![node("MatMul", &["x", "a"], &["xa"], &[]), node("MatMul", &["xa", "b"], &["y"], &[])],
        constants: vec![
            tensor("a", Element::Float, &[SIDE, SIDE], &weights(7)),
            tensor("b", Element::Float, &[SIDE, SIDE], &weights(13)),
        ],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        ..Graph::default()
    }
    .model()
}

fn load(model: &[u8], scratch: Option<&Path>, memory: Option<u64>) -> Model {
    let options = ModelOptions {
        name: "matrices".to_owned(),
        crash_label: [b'0'; 64],
        threads: 1,
        providers: Vec::new(),
        instances: 4,
        queue: 8,
        batching: Batching::AtMost(1),
        scratch: scratch.map(Path::to_owned),
        memory,
    };
    Model::load(&runtime(), model, &options, &[], |_| Ok(())).unwrap()
}

/// Memory of this process that is no file's.
fn anonymous() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

async fn answers(model: &Model) -> Vec<f32> {
    let mut answers = Vec::new();
    for first in 0..8_usize {
        let row = (0..usize::try_from(SIDE).unwrap()).map(|index| ((first + index) % 17) as f32 - 8.0);
        let shape = vec![1, usize::try_from(SIDE).unwrap()];
        let input = Tensor::new("x", shape, TensorData::Fp32(row.collect())).unwrap();
        let outputs = model.infer(Request::new(vec![input])).await.unwrap();
        let TensorData::Fp32(numbers) = outputs[0].data() else { panic!("no floats") };
        answers.extend_from_slice(numbers);
    }
    answers
}

#[tokio::test]
async fn four_sessions_share_their_weights_where_there_is_no_room_for_four() {
    let model = two_matrices();
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path().join("not there yet");
    // Whatever the runtime keeps for itself from its first session on.
    drop(load(&model, None, None));

    let before = anonymous();
    let shared = load(&model, Some(&scratch), Some(0));
    let of_shared = anonymous().saturating_sub(before);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "what is mapped needs no name any more");
    let answers_of_shared = answers(&shared).await;

    let before = anonymous();
    let own = load(&model, None, None);
    let of_own = anonymous().saturating_sub(before);
    // Four times 32 MiB, some of it in what was freed before.
    assert!(of_own > 64 * MIB, "{} MiB", of_own / MIB);
    assert!(of_shared < 16 * MIB, "none of 32 MiB: {} MiB", of_shared / MIB);

    let answers_of_own = answers(&own).await;
    assert!(answers_of_own.iter().any(|number| number.abs() > 1e-3));
    let largest = answers_of_own.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
    for (one, other) in answers_of_shared.iter().zip(&answers_of_own) {
        assert!((one - other).abs() <= 1e-5 * largest, "{one} {other}");
    }
}
