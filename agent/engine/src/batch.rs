//! Requests that run as one: their inputs one behind the other along the first axis, their outputs cut apart again.
//! Pure.

use terrace_oip::{Tensor, TensorData};

use crate::Signature;

/// Whether a model takes any number of rows: the first axis of everything that it takes and gives is free. Whether rows
/// are independent of each other, only a try can tell.
pub fn takes_rows(signature: &Signature) -> bool {
    let specs = || signature.inputs.iter().chain(&signature.outputs);
    !signature.inputs.is_empty() && specs().all(|spec| spec.shape.first().is_some_and(|size| *size < 0))
}

/// How many rows a request has: as many in every input, and at least one.
pub fn rows(inputs: &[Tensor]) -> Option<usize> {
    let mut sizes = inputs.iter().map(|tensor| tensor.shape().first().copied());
    let first = sizes.next()??;
    (first > 0 && sizes.all(|size| size == Some(first))).then_some(first)
}

/// Whether two requests differ in their rows alone.
pub fn are_alike(one: &[Tensor], other: &[Tensor]) -> bool {
    one.len() == other.len()
        && one.iter().all(|tensor| {
            named(other, tensor.name()).is_some_and(|found| {
                found.datatype() == tensor.datatype() && found.shape().get(1..) == tensor.shape().get(1..)
            })
        })
}

/// The inputs of requests that are alike, one behind the other. None where they are not alike.
pub fn join(requests: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    let first = requests.first()?;
    first
        .iter()
        .map(|tensor| {
            let parts: Option<Vec<&Tensor>> =
                requests.iter().map(|request| named(request, tensor.name())).collect();
            let parts = parts?;
            let mut shape = tensor.shape().to_vec();
            *shape.first_mut()? = parts.iter().filter_map(|part| part.shape().first()).sum();
            let data: Vec<&TensorData> = parts.iter().map(|part| part.data()).collect();
            Tensor::new(tensor.name(), shape, concat(&data)?).ok()
        })
        .collect()
}

/// The outputs of a joined run, cut into those of requests with so many rows each. None where they have other rows.
pub fn split(outputs: &[Tensor], rows: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let all: usize = rows.iter().sum();
    let mut begin = 0;
    rows.iter()
        .map(|count| {
            let from = begin;
            begin += count;
            outputs
                .iter()
                .map(|output| {
                    let mut shape = output.shape().to_vec();
                    let size = shape.first_mut().filter(|size| **size == all)?;
                    *size = *count;
                    let row = output.data().len() / all;
                    let data = part(output.data(), from * row..(from + count) * row)?;
                    Tensor::new(output.name(), shape, data).ok()
                })
                .collect()
        })
        .collect()
}

fn named<'a>(tensors: &'a [Tensor], name: &str) -> Option<&'a Tensor> {
    tensors.iter().find(|tensor| tensor.name() == name)
}

/// Does the same for each datatype.
macro_rules! for_each_datatype {
    ($data:expr, $values:ident => $do:expr) => {
        match $data {
            TensorData::Bool($values) => TensorData::Bool($do.into()),
            TensorData::Uint8($values) => TensorData::Uint8($do.into()),
            TensorData::Uint16($values) => TensorData::Uint16($do.into()),
            TensorData::Uint32($values) => TensorData::Uint32($do.into()),
            TensorData::Uint64($values) => TensorData::Uint64($do.into()),
            TensorData::Int8($values) => TensorData::Int8($do.into()),
            TensorData::Int16($values) => TensorData::Int16($do.into()),
            TensorData::Int32($values) => TensorData::Int32($do.into()),
            TensorData::Int64($values) => TensorData::Int64($do.into()),
            TensorData::Fp16($values) => TensorData::Fp16($do.into()),
            TensorData::Bf16($values) => TensorData::Bf16($do.into()),
            TensorData::Fp32($values) => TensorData::Fp32($do.into()),
            TensorData::Fp64($values) => TensorData::Fp64($do.into()),
            TensorData::Bytes($values) => TensorData::Bytes($do.into()),
        }
    };
}

fn part(data: &TensorData, range: std::ops::Range<usize>) -> Option<TensorData> {
    Some(for_each_datatype!(data, values => values.get(range)?.to_vec()))
}

fn concat(parts: &[&TensorData]) -> Option<TensorData> {
    let (first, more) = parts.split_first()?;
    let room = parts.iter().map(|part| part.len()).sum::<usize>();
    Some(for_each_datatype!(first, values => behind(values, more, room)?))
}

/// The elements of a part, and those of more parts behind them.
fn behind<T: Elements + Clone>(first: &[T], more: &[&TensorData], room: usize) -> Option<Vec<T>> {
    let mut all = Vec::with_capacity(room);
    all.extend_from_slice(first);
    for part in more {
        all.extend_from_slice(T::of(part)?);
    }
    Some(all)
}

/// The elements of a tensor, if they are of this type.
trait Elements: Sized {
    fn of(data: &TensorData) -> Option<&[Self]>;
}

macro_rules! elements {
    ($($variant:ident $type:ty),*) => {$(
        impl Elements for $type {
            fn of(data: &TensorData) -> Option<&[Self]> {
                if let TensorData::$variant(values) = data { Some(values) } else { None }
            }
        }
    )*};
}

elements!(
    Bool bool, Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32, Int64 i64,
    Fp16 half::f16, Bf16 half::bf16, Fp32 f32, Fp64 f64, Bytes Vec<u8>
);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use terrace_oip::Datatype;

    use super::*;
    use crate::TensorSpec;

    fn tensor(name: &str, shape: &[usize], start: u32) -> Tensor {
        let count: usize = shape.iter().product();
        let values = (start..).take(count).map(|value| value as f32).collect();
        Tensor::new(name, shape.to_vec(), TensorData::Fp32(values)).unwrap()
    }

    #[test]
    fn a_model_takes_rows_where_every_first_axis_is_free() {
        let signature = |inputs: &[&[i64]], outputs: &[&[i64]]| {
            let specs = |shapes: &[&[i64]]| {
                let spec = |shape: &&[i64]| TensorSpec {
                    name: "x".to_owned(),
                    datatype: Datatype::Fp32,
                    shape: shape.to_vec(),
                };
                shapes.iter().map(spec).collect()
            };
            Signature {
                inputs: specs(inputs),
                optional: Vec::new(),
                outputs: specs(outputs),
                provider: "none".to_owned(),
            }
        };
        for (inputs, outputs, expected) in [
            (&[&[-1, 2][..]][..], &[&[-1][..]][..], true),
            (&[&[-1, -1], &[-1]], &[&[-1, 3]], true),
            (&[&[1, 2]], &[&[-1]], false),
            (&[&[-1, 2]], &[&[1]], false),
            (&[&[-1, 2]], &[&[]], false),
            (&[&[-1, 2], &[]], &[&[-1]], false),
            (&[], &[&[-1]], false),
        ] {
            assert_eq!(takes_rows(&signature(inputs, outputs)), expected, "{inputs:?} {outputs:?}");
        }
    }

    #[test]
    fn only_requests_that_differ_in_their_rows_alone_are_alike() {
        let one = [tensor("a", &[1, 2], 0), tensor("b", &[1], 0)];
        let swapped = [tensor("b", &[3], 9), tensor("a", &[3, 2], 9)];
        assert!(are_alike(&one, &swapped));
        for other in [
            vec![tensor("a", &[1, 2], 0)],
            vec![tensor("a", &[1, 3], 0), tensor("b", &[1], 0)],
            vec![tensor("a", &[1, 2, 1], 0), tensor("b", &[1], 0)],
            vec![tensor("a", &[1, 2], 0), tensor("c", &[1], 0)],
            vec![
                tensor("a", &[1, 2], 0),
                Tensor::new("b", vec![1], TensorData::Fp64(vec![0.0].into())).unwrap(),
            ],
        ] {
            assert!(!are_alike(&one, &other), "{other:?}");
            assert_eq!(join(&[&one, &other]).filter(|_| other.len() == 1 || other[1].name() == "c"), None);
        }
        assert_eq!((rows(&one), rows(&swapped)), (Some(1), Some(3)));
        assert_eq!(rows(&[tensor("a", &[2], 0), tensor("b", &[3], 0)]), None);
        assert_eq!(rows(&[tensor("a", &[0, 2], 0)]), None);
        assert_eq!(rows(&[tensor("a", &[], 0)]), None);
        assert_eq!(rows(&[]), None);
    }

    #[test]
    fn outputs_with_other_rows_cannot_be_cut() {
        assert_eq!(split(&[tensor("y", &[3, 2], 0)], &[1, 1]), None);
        assert_eq!(split(&[tensor("y", &[], 0)], &[1]), None);
    }

    #[test]
    fn every_datatype_is_joined_and_cut() {
        for datatype in Datatype::ALL {
            let raw = [0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1];
            let bytes = &raw[..2 * datatype.size().unwrap_or(1)];
            let text = format!(
                r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[2],"parameters":{{"binary_data_size":{}}}}}]}}"#,
                if datatype == Datatype::Bytes { 8 } else { bytes.len() }
            );
            let tail = if datatype == Datatype::Bytes { &[0; 8][..] } else { bytes };
            let body = [text.as_bytes(), tail].concat();
            let request = terrace_oip::InferRequest::from_http(&body, Some(text.len())).unwrap();
            let input = [request.inputs.into_iter().next().unwrap().tensor];
            let joined = join(&[&input, &input]).unwrap();
            assert_eq!(joined[0].shape(), [4]);
            assert_eq!(split(&joined, &[2, 2]).unwrap(), [input.to_vec(), input.to_vec()], "{datatype}");
        }
    }

    proptest! {
        #[test]
        fn what_is_joined_is_cut_into_what_it_was(rows in vec(1_usize..5, 1..6), inner in vec(0_usize..3, 0..3)) {
            let requests: Vec<Vec<Tensor>> = rows
                .iter()
                .enumerate()
                .map(|(place, rows)| {
                    let shape = [&[*rows][..], &inner].concat();
                    let start = u32::try_from(place).unwrap() * 1000;
                    vec![tensor("a", &shape, start), tensor("b", &[*rows], start + 500)]
                })
                .collect();
            let views: Vec<&[Tensor]> = requests.iter().map(Vec::as_slice).collect();
            let joined = join(&views).unwrap();
            prop_assert_eq!(super::rows(&joined), Some(rows.iter().sum()));
            prop_assert_eq!(split(&joined, &rows).unwrap(), requests);
        }
    }
}
