//! Tiny models.

use super::onnx::{Element, Graph, node, tensor_type, value};

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
