//! A model and its large weights, apart: ONNX calls it external data.

use super::wire::{Field, Value, fields, put_bytes, put_number};

/// Smaller weights stay in the model: each that is apart is a mapping of its own.
const LEAST: usize = 16 << 10;
/// Where weights begin: at whole cache lines, as kernels like it.
const ALIGNMENT: usize = 64;
/// How deep graphs lie in graphs at most.
const DEPTH: usize = 64;

/// Numbers of fields in onnx.proto.
mod number {
    pub const MODEL_GRAPH: u64 = 7;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const TENSOR_NAME: u64 = 8;
    pub const TENSOR_RAW_DATA: u64 = 9;
    pub const TENSOR_EXTERNAL_DATA: u64 = 13;
    pub const TENSOR_DATA_LOCATION: u64 = 14;
    pub const ENTRY_KEY: u64 = 1;
    pub const ENTRY_VALUE: u64 = 2;
}

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// A model whose large weights lie elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Apart<'a> {
    /// The model without them.
    pub model: Vec<u8>,
    /// The weights, and where each begins in their file, in order.
    pub weights: Vec<(usize, &'a [u8])>,
}

impl Apart<'_> {
    /// How large the weights' file is.
    pub fn size(&self) -> usize {
        self.weights.last().map_or(0, |(offset, weights)| offset + weights.len())
    }
}

/// Takes a model's large weights out of it, to be looked for in `file`. None where it has none, where it names files of
/// its own, or where it is not understood: it is loaded as it is then.
pub fn take_apart<'a>(model: &'a [u8], file: &str) -> Option<Apart<'a>> {
    let parts = fields(model)?;
    if names_files(Kind::Model, model, DEPTH) {
        return None;
    }
    let mut graphs = parts.iter().filter(|field| field.number == number::MODEL_GRAPH);
    let (graph, None) = (graphs.next()?.bytes()?, graphs.next()) else { return None };
    let mut apart = Apart { model: Vec::new(), weights: Vec::new() };
    let graph = graph_without_weights(graph, file, &mut apart.weights)?;
    if apart.weights.is_empty() {
        return None;
    }
    for field in parts {
        if field.number == number::MODEL_GRAPH {
            put_bytes(&mut apart.model, field.number, &graph);
        } else {
            apart.model.extend_from_slice(field.whole);
        }
    }
    Some(apart)
}

fn graph_without_weights<'a>(
    graph: &'a [u8],
    file: &str,
    weights: &mut Vec<(usize, &'a [u8])>,
) -> Option<Vec<u8>> {
    let mut rest = Vec::new();
    for field in fields(graph)? {
        let tensor = match field.bytes() {
            Some(bytes) if field.number == number::GRAPH_INITIALIZER => fields(bytes)?,
            _ => Vec::new(),
        };
        if let Some(raw) = raw_data(&tensor) {
            let end = weights.last().map_or(0, |(offset, weights)| offset + weights.len());
            let offset = end.next_multiple_of(ALIGNMENT);
            put_bytes(&mut rest, field.number, &elsewhere(&tensor, file, offset, raw.len()));
            weights.push((offset, raw));
        } else {
            rest.extend_from_slice(field.whole);
        }
    }
    Some(rest)
}

/// The elements of a tensor that is large and has a name.
fn raw_data<'a>(tensor: &[Field<'a>]) -> Option<&'a [u8]> {
    let mut raw = tensor.iter().filter(|field| field.number == number::TENSOR_RAW_DATA);
    let (raw, None) = (raw.next()?.bytes()?, raw.next()) else { return None };
    let is_named = tensor.iter().any(|field| field.number == number::TENSOR_NAME);
    (raw.len() >= LEAST && is_named).then_some(raw)
}

/// The same tensor, its elements in a file.
fn elsewhere(tensor: &[Field<'_>], file: &str, offset: usize, length: usize) -> Vec<u8> {
    let mut moved = Vec::new();
    for field in tensor.iter().filter(|field| {
        field.number != number::TENSOR_RAW_DATA && field.number != number::TENSOR_DATA_LOCATION
    }) {
        moved.extend_from_slice(field.whole);
    }
    for (key, value) in [("location", file), ("offset", &offset.to_string()), ("length", &length.to_string())]
    {
        let mut entry = Vec::new();
        put_bytes(&mut entry, number::ENTRY_KEY, key.as_bytes());
        put_bytes(&mut entry, number::ENTRY_VALUE, value.as_bytes());
        put_bytes(&mut moved, number::TENSOR_EXTERNAL_DATA, &entry);
    }
    put_number(&mut moved, number::TENSOR_DATA_LOCATION, EXTERNAL);
    moved
}

/// Messages of onnx.proto in which tensors lie.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Kind {
    /// What a field of it is.
    const fn of(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            _ => None,
        }
    }
}

/// Whether a tensor anywhere in a message has its elements in a file already, or may have: such a model must not find
/// one because of ours.
fn names_files(kind: Kind, message: &[u8], depth: usize) -> bool {
    let (Some(fields), Some(depth)) = (fields(message), depth.checked_sub(1)) else { return true };
    fields.iter().any(|field| match (kind, field.number, field.value) {
        (Kind::Tensor, number::TENSOR_EXTERNAL_DATA, _) => true,
        (Kind::Tensor, number::TENSOR_DATA_LOCATION, Value::Varint(location)) => location == EXTERNAL,
        (_, number, Value::Bytes(bytes)) => {
            kind.of(number).is_some_and(|kind| names_files(kind, bytes, depth))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::slice;

    use proptest::prelude::*;

    use super::*;

    fn message(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message);
        message
    }

    fn tensor(name: &str, raw: &[u8]) -> Vec<u8> {
        message(|tensor| {
            put_number(tensor, 2, 1);
            put_bytes(tensor, number::TENSOR_NAME, name.as_bytes());
            put_bytes(tensor, number::TENSOR_RAW_DATA, raw);
        })
    }

    fn external(tensor: &[u8]) -> Vec<u8> {
        message(|external| {
            external.extend_from_slice(tensor);
            put_number(external, number::TENSOR_DATA_LOCATION, EXTERNAL);
        })
    }

    fn model(initializers: &[Vec<u8>], node: &[u8]) -> Vec<u8> {
        message(|model| {
            put_number(model, 1, 8);
            let graph = message(|graph| {
                put_bytes(graph, 1, node);
                for tensor in initializers {
                    put_bytes(graph, number::GRAPH_INITIALIZER, tensor);
                }
                put_bytes(graph, 2, b"graph");
            });
            put_bytes(model, number::MODEL_GRAPH, &graph);
            put_bytes(model, 14, b"metadata");
        })
    }

    fn in_an_attribute(tensor: &[u8]) -> Vec<u8> {
        message(|node| put_bytes(node, 5, &message(|attribute| put_bytes(attribute, 5, tensor))))
    }

    fn in_a_branch(initializer: &[u8]) -> Vec<u8> {
        let branch = message(|graph| put_bytes(graph, number::GRAPH_INITIALIZER, initializer));
        message(|node| put_bytes(node, 5, &message(|attribute| put_bytes(attribute, 6, &branch))))
    }

    #[test]
    fn only_what_is_large_is_taken_out_and_all_else_stays() {
        let (large, small) = (vec![7; LEAST + 1], vec![9; LEAST - 1]);
        let whole = model(&[tensor("a", &large), tensor("b", &small), tensor("c", &large)], b"");
        let apart = take_apart(&whole, "weights").unwrap();
        assert_eq!(apart.weights, [(0, &*large), ((LEAST + 1).next_multiple_of(ALIGNMENT), &*large)]);
        assert!(apart.model.len() < 2 * LEAST, "{}", apart.model.len());
        let graph = fields(&apart.model).unwrap()[1].bytes().unwrap();
        let in_graph: Vec<&[u8]> = fields(graph).unwrap().iter().filter_map(Field::bytes).collect();
        assert_eq!(in_graph[2], tensor("b", &small));
        assert_eq!(in_graph[4], b"graph");
        let moved = fields(in_graph[1]).unwrap();
        assert!(moved.iter().all(|field| field.number != number::TENSOR_RAW_DATA));
        assert_eq!(moved[0].value, Value::Varint(1), "its datatype is still there");
    }

    #[test]
    fn a_model_that_names_files_is_left_as_it_is() {
        let large = tensor("large", &vec![1; LEAST]);
        let small = tensor("small", &[1]);
        assert!(take_apart(&model(slice::from_ref(&large), b""), "weights").is_some());
        let hostile = [
            model(&[large.clone(), external(&small)], b""),
            model(slice::from_ref(&large), &in_an_attribute(&external(&small))),
            model(slice::from_ref(&large), &in_a_branch(&external(&small))),
        ];
        for hostile in hostile {
            assert_eq!(take_apart(&hostile, "weights"), None);
        }
        assert!(take_apart(&model(&[large], &in_a_branch(&small)), "weights").is_some());
    }

    #[test]
    fn a_graph_within_graphs_without_end_is_left_as_it_is() {
        let mut branch = in_a_branch(b"");
        for _ in 0..DEPTH {
            let graph = message(|graph| put_bytes(graph, 1, &branch));
            branch =
                message(|node| put_bytes(node, 5, &message(|attribute| put_bytes(attribute, 6, &graph))));
        }
        assert_eq!(take_apart(&model(&[tensor("large", &vec![1; LEAST])], &branch), "weights"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_or_left(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = take_apart(&bytes, "weights");
        }

        #[test]
        fn weights_lie_apart_aligned_and_whole(sizes in prop::collection::vec(0..3 * LEAST, 1..6)) {
            let tensors: Vec<Vec<u8>> = sizes.iter().map(|size| vec![3; *size]).collect();
            let large = tensors.iter().filter(|raw| raw.len() >= LEAST).count();
            let whole = model(&tensors.iter().map(|raw| tensor("w", raw)).collect::<Vec<_>>(), b"");
            let apart = take_apart(&whole, "weights");
            prop_assert_eq!(apart.as_ref().map_or(0, |apart| apart.weights.len()), large);
            let mut end = 0;
            for (offset, weights) in apart.iter().flat_map(|apart| &apart.weights) {
                prop_assert!(*offset >= end && offset % ALIGNMENT == 0);
                end = offset + weights.len();
            }
            prop_assert_eq!(apart.map_or(0, |apart| apart.size()), end);
        }
    }
}
