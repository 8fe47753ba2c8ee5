//! Tiny models, good and hostile.

use super::onnx::{Element, Graph, graph_attribute, int64s, node, sparse_zeros, tensor, tensor_type, value};

/// `y = x`.
pub fn identity(element: Element, shape: &[i64]) -> Vec<u8> {
    let kind = tensor_type(element, shape);
    Graph {
        nodes: vec![node("Identity", &["x"], &["y"], &[])],
        inputs: vec![value("x", &kind)],
        outputs: vec![value("y", &kind)],
        ..Graph::default()
    }
    .model()
}

/// Takes an index, and fails on every one but 0 and 1, or -2 and -1. The error names the index.
pub fn looks_up() -> Vec<u8> {
    let one = tensor_type(Element::Int64, &[1]);
    Graph {
        nodes: vec![node("Gather", &["table", "x"], &["y"], &[])],
        constants: vec![int64s("table", &[2], &[5, 6])],
        inputs: vec![value("x", &one)],
        outputs: vec![value("y", &one)],
        ..Graph::default()
    }
    .model()
}

/// Fails on zeros: it looks for the one at 9, and there are two.
pub fn fails_on_zeros() -> Vec<u8> {
    let one = tensor_type(Element::Int64, &[1]);
    Graph {
        nodes: vec![
            node("Add", &["x", "nine"], &["index"], &[]),
            node("Gather", &["table", "index"], &["y"], &[]),
        ],
        constants: vec![int64s("table", &[2], &[5, 6]), int64s("nine", &[1], &[9])],
        inputs: vec![value("x", &one)],
        outputs: vec![value("y", &one)],
        ..Graph::default()
    }
    .model()
}

/// More floats than a probe lets a tiny model have, and fewer than ONNX Runtime refuses to compute at load: 1 GB.
pub const BOMB: i64 = 250_000_000;

/// A sparse constant, which is written out in full while the model is loaded.
pub fn bomb_at_load() -> Vec<u8> {
    Graph {
        sparse_constants: vec![sparse_zeros("y", &[BOMB])],
        outputs: vec![value("y", &tensor_type(Element::Float, &[BOMB]))],
        ..Graph::default()
    }
    .model()
}

/// Computed while the model is loaded, or, where that fails, when it is run.
pub fn bomb_from_a_constant() -> Vec<u8> {
    Graph {
        nodes: vec![node("ConstantOfShape", &["s"], &["y"], &[])],
        constants: vec![int64s("s", &[1], &[BOMB])],
        outputs: vec![value("y", &tensor_type(Element::Float, &[-1]))],
        ..Graph::default()
    }
    .model()
}

/// As many floats as `size` and the input say together, so that they cannot be made before the first run.
pub fn bomb_at_run(size: i64) -> Vec<u8> {
    Graph {
        nodes: vec![node("Add", &["x", "size"], &["s"], &[]), node("ConstantOfShape", &["s"], &["y"], &[])],
        constants: vec![int64s("size", &[1], &[size])],
        inputs: vec![value("x", &tensor_type(Element::Int64, &[1]))],
        outputs: vec![value("y", &tensor_type(Element::Float, &[-1]))],
        ..Graph::default()
    }
    .model()
}

/// Adds the input to itself 2^63 - 1 times, once it runs.
pub fn endless() -> Vec<u8> {
    looping(true)
}

/// Adds the input to itself as often as another input says.
pub fn turning() -> Vec<u8> {
    looping(false)
}

fn looping(is_endless: bool) -> Vec<u8> {
    let (go_on, number) = (tensor_type(Element::Bool, &[]), tensor_type(Element::Int64, &[1]));
    let body = Graph {
        nodes: vec![
            node("Identity", &["more"], &["still_more"], &[]),
            node("Add", &["sum", "sum"], &["next_sum"], &[]),
        ],
        inputs: vec![
            value("round", &tensor_type(Element::Int64, &[])),
            value("more", &go_on),
            value("sum", &number),
        ],
        outputs: vec![value("still_more", &go_on), value("next_sum", &number)],
        ..Graph::default()
    };
    let body = graph_attribute("body", &body.message());
    let mut graph = Graph {
        nodes: vec![node("Loop", &["rounds", "yes", "x"], &["y"], &[body])],
        constants: vec![tensor("yes", Element::Bool, &[], &[1])],
        inputs: vec![value("x", &number)],
        outputs: vec![value("y", &number)],
        ..Graph::default()
    };
    if is_endless {
        graph.constants.push(int64s("rounds", &[], &[i64::MAX]));
    } else {
        graph.inputs.push(value("rounds", &tensor_type(Element::Int64, &[])));
    }
    graph.model()
}
