//! Inputs for a model that nobody gave any: zeros of the declared shapes.

use half::{bf16, f16};
use terrace_oip::{Datatype, Tensor, TensorData};

use crate::TensorSpec;

/// One zero tensor for each input; dynamic dimensions are 1, texts are empty. The error is the name of an input that
/// would take more than `most` bytes.
pub fn zeros(inputs: &[TensorSpec], most: u64) -> Result<Vec<Tensor>, String> {
    let mut left = most;
    let mut tensors = Vec::with_capacity(inputs.len());
    for spec in inputs {
        let too_large = || spec.name.clone();
        let shape: Vec<usize> =
            spec.shape.iter().map(|dimension| usize::try_from(*dimension).unwrap_or(1)).collect();
        let count = elements(&shape).ok_or_else(too_large)?;
        let bytes = u64::try_from(count).ok().and_then(|count| count.checked_mul(size_of_one(spec.datatype)));
        left = bytes.and_then(|bytes| left.checked_sub(bytes)).ok_or_else(too_large)?;
        let tensor = Tensor::new(spec.name.clone(), shape, data(spec.datatype, count));
        tensors.push(tensor.map_err(|_| too_large())?);
    }
    Ok(tensors)
}

/// How many elements there are; none where that cannot be counted.
fn elements(shape: &[usize]) -> Option<usize> {
    let none = shape.contains(&0).then_some(0);
    none.or_else(|| shape.iter().try_fold(1_usize, |count, dimension| count.checked_mul(*dimension)))
}

const fn size_of_one(datatype: Datatype) -> u64 {
    match datatype {
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => 1,
        Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => 2,
        Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => 4,
        Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => 8,
        // Here and in the runtime, each with a length and a pointer.
        Datatype::Bytes => 64,
    }
}

fn data(datatype: Datatype, count: usize) -> TensorData {
    match datatype {
        Datatype::Bool => TensorData::Bool(vec![false; count]),
        Datatype::Uint8 => TensorData::Uint8(vec![0; count].into()),
        Datatype::Uint16 => TensorData::Uint16(vec![0; count].into()),
        Datatype::Uint32 => TensorData::Uint32(vec![0; count].into()),
        Datatype::Uint64 => TensorData::Uint64(vec![0; count].into()),
        Datatype::Int8 => TensorData::Int8(vec![0; count].into()),
        Datatype::Int16 => TensorData::Int16(vec![0; count].into()),
        Datatype::Int32 => TensorData::Int32(vec![0; count].into()),
        Datatype::Int64 => TensorData::Int64(vec![0; count].into()),
        Datatype::Fp16 => TensorData::Fp16(vec![f16::ZERO; count].into()),
        Datatype::Bf16 => TensorData::Bf16(vec![bf16::ZERO; count].into()),
        Datatype::Fp32 => TensorData::Fp32(vec![0.0; count].into()),
        Datatype::Fp64 => TensorData::Fp64(vec![0.0; count].into()),
        Datatype::Bytes => TensorData::Bytes(vec![Vec::new(); count]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".to_owned(), datatype, shape: shape.to_vec() }
    }

    #[test]
    fn every_datatype_and_shape_gets_zeros_that_fit_it() {
        for datatype in Datatype::ALL {
            for (declared, expected) in [
                (&[][..], &[][..]),
                (&[3], &[3]),
                (&[-1, 2, -1], &[1, 2, 1]),
                (&[0], &[0]),
                (&[i64::MIN], &[1]),
            ] {
                let tensors = zeros(&[spec(datatype, declared)], 1 << 20).unwrap();
                assert_eq!((tensors[0].name(), tensors[0].shape()), ("x", expected));
                assert_eq!(tensors[0].datatype(), datatype);
            }
        }
        let [texts] = &zeros(&[spec(Datatype::Bytes, &[2])], 1 << 20).unwrap()[..] else { panic!("one") };
        assert_eq!(*texts.data(), TensorData::Bytes(vec![vec![], vec![]]));
    }

    #[test]
    fn inputs_that_take_too_much_together_are_not_made() {
        let floats = |count| spec(Datatype::Fp32, &[count]);
        assert_eq!(zeros(&[floats(256), floats(256)], 2048).unwrap().len(), 2);
        for inputs in [
            vec![floats(256), floats(257)],
            vec![floats(i64::MAX)],
            vec![spec(Datatype::Bool, &[i64::MAX, i64::MAX])],
            vec![spec(Datatype::Bytes, &[33])],
        ] {
            assert_eq!(zeros(&inputs, 2048), Err("x".to_owned()));
        }
    }
}
