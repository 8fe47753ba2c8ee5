//! What holds for every tensor, and for every body.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use bytes::Bytes;
use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;
use terrace_oip::{
    DecodedResponse, InferRequest, InferResponse, Memory, Parameters, RelayedResponse, Tensor, TensorData,
    WireTensor,
};

fn data(len: usize) -> impl Strategy<Value = TensorData> {
    prop_oneof![
        vec(any::<bool>(), len).prop_map(TensorData::Bool),
        vec(any::<u8>(), len).prop_map(|values| TensorData::Uint8(values.into())),
        vec(any::<u16>(), len).prop_map(|values| TensorData::Uint16(values.into())),
        vec(any::<u32>(), len).prop_map(|values| TensorData::Uint32(values.into())),
        vec(any::<u64>(), len).prop_map(|values| TensorData::Uint64(values.into())),
        vec(any::<i8>(), len).prop_map(|values| TensorData::Int8(values.into())),
        vec(any::<i16>(), len).prop_map(|values| TensorData::Int16(values.into())),
        vec(any::<i32>(), len).prop_map(|values| TensorData::Int32(values.into())),
        vec(any::<i64>(), len).prop_map(|values| TensorData::Int64(values.into())),
        vec(any::<u16>().prop_map(f16::from_bits).prop_filter("finite", |v| v.is_finite()), len)
            .prop_map(|values| TensorData::Fp16(values.into())),
        vec(any::<u16>().prop_map(bf16::from_bits).prop_filter("finite", |v| v.is_finite()), len)
            .prop_map(|values| TensorData::Bf16(values.into())),
        vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), len)
            .prop_map(|values| TensorData::Fp32(values.into())),
        vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), len)
            .prop_map(|values| TensorData::Fp64(values.into())),
        vec(any::<String>().prop_map(String::into_bytes), len).prop_map(TensorData::Bytes),
    ]
}

fn tensor() -> impl Strategy<Value = Tensor> {
    (any::<String>(), vec(0_usize..4, 0..4)).prop_flat_map(|(name, shape)| {
        data(shape.iter().product())
            .prop_map(move |data| Tensor::new(name.clone(), shape.clone(), data).unwrap())
    })
}

fn json(tensor: &Tensor) -> serde_json::Value {
    let parameters = Parameters::new();
    let outputs = std::slice::from_ref(tensor);
    let response =
        InferResponse { model_name: "", model_version: None, id: None, parameters: &parameters, outputs };
    let mut body: serde_json::Value = serde_json::from_slice(&response.to_json().unwrap()).unwrap();
    body["outputs"][0].take()
}

fn read(tensor: &serde_json::Value) -> Result<Tensor, String> {
    serde_json::from_str(&tensor.to_string())
        .map(|WireTensor(tensor)| tensor)
        .map_err(|error| error.to_string())
}

/// Flat data nested in rows of the shape.
fn nest(flat: &[serde_json::Value], shape: &[usize]) -> serde_json::Value {
    match shape {
        [] | [_] => flat.to_vec().into(),
        [rows, inner @ ..] => {
            let size: usize = inner.iter().product();
            (0..*rows).map(|row| nest(&flat[row * size..(row + 1) * size], inner)).collect::<Vec<_>>().into()
        }
    }
}

/// Equal to the bit: −0 is not 0.
fn bits(tensor: &Tensor) -> String {
    format!("{tensor:?}")
}

proptest! {
    #[test]
    fn what_is_written_reads_back_to_the_bit(tensor in tensor()) {
        let parameters = Parameters::new();
        let outputs = [tensor];
        let response = InferResponse { model_name: "m", model_version: None, id: None, parameters: &parameters, outputs: &outputs };
        let decoded = DecodedResponse::from_json(&response.to_json().unwrap()).unwrap();
        prop_assert_eq!(bits(&decoded.outputs[0]), bits(&outputs[0]));
    }

    #[test]
    fn nested_data_is_the_same_as_flat_data_to_any_depth_of_the_shape(tensor in tensor(), depth in any::<prop::sample::Index>()) {
        // Below a depth, what is left of the shape is flat.
        let (outer, inner) = tensor.shape().split_at(depth.index(tensor.shape().len().max(1)));
        let rows = [outer, &[inner.iter().product()]].concat();
        let mut nested = json(&tensor);
        let flat = nested["data"].as_array().unwrap().clone();
        nested["data"] = nest(&flat, &rows);
        prop_assert_eq!(read(&nested).map(|read| bits(&read)), Ok(bits(&tensor)));
    }

    #[test]
    fn a_tensor_with_another_number_of_elements_is_refused(tensor in tensor(), more in 1_usize..1_000_000_000_000) {
        let mut claimed = json(&tensor);
        claimed["shape"] = vec![tensor.data().len() + more].into();
        let error = read(&claimed).unwrap_err();
        prop_assert!(error.contains(&format!("asks for {} elements, the data has {}", tensor.data().len() + more, tensor.data().len())), "{}", error);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_message_and_never_a_panic(body in vec(any::<u8>(), 0..200)) {
        let _ = InferRequest::from_json(&body);
        let _ = DecodedResponse::from_json(&body);
        let body = Bytes::from(body);
        let _ = RelayedResponse::from_json(&body);
        let _ = RelayedResponse::from_http(&body, Some(body.len() / 2), Memory::UNBOUNDED);
    }

    #[test]
    fn a_damaged_request_is_an_error_or_a_message_no_larger_than_its_body(
        tensor in tensor(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut body = format!(r#"{{"inputs":[{}]}}"#, json(&tensor)).into_bytes();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(request) = InferRequest::from_json(&body) {
            for input in request.inputs {
                prop_assert!(capacity(input.tensor.data()) <= 24 * body.len());
            }
        }
        let _ = RelayedResponse::from_json(&body.into());
    }

    #[test]
    fn relaying_changes_no_byte_of_the_outputs(tensors in vec(tensor(), 0..3)) {
        let parameters = Parameters::new();
        let response = InferResponse { model_name: "m", model_version: None, id: None, parameters: &parameters, outputs: &tensors };
        let body = response.to_json().unwrap();
        let relayed = RelayedResponse::from_json(&body.clone().into()).unwrap();
        prop_assert_eq!(relayed.to_json().unwrap().concat(), body);
    }

    #[test]
    fn an_answer_is_checked_without_its_tensors_and_nothing_that_they_are_is_refused(
        tensors in vec(tensor(), 0..3), binary in any::<bool>(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let parameters = Parameters::new();
        let response = InferResponse { model_name: "m", model_version: None, id: None, parameters: &parameters, outputs: &tensors };
        let json = response.to_json_but(|_| binary, || true).unwrap();
        let length = binary.then_some(json.len());
        let mut body = json;
        if binary {
            for tensor in &tensors {
                body.extend_from_slice(tensor.data().clone().into_raw().as_ref());
            }
        }
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let checked = RelayedResponse::from_http(&body.clone().into(), length, Memory::UNBOUNDED).map(|read| read.outlines);
        if let Ok(decoded) = DecodedResponse::from_http(&body, length) {
            let outlines = checked.unwrap();
            prop_assert_eq!(outlines.len(), decoded.outputs.len());
            for (outline, tensor) in outlines.iter().zip(&decoded.outputs) {
                prop_assert_eq!(&outline.name, tensor.name());
                prop_assert_eq!(outline.datatype, Some(tensor.datatype()));
                prop_assert_eq!(&outline.shape, tensor.shape());
            }
        }
    }
}

/// Bytes on the heap.
fn capacity(data: &TensorData) -> usize {
    match data {
        TensorData::Bool(values) => values.capacity(),
        TensorData::Uint8(values) => values.capacity(),
        TensorData::Int8(values) => values.capacity(),
        TensorData::Uint16(values) => values.capacity() * 2,
        TensorData::Int16(values) => values.capacity() * 2,
        TensorData::Fp16(values) => values.capacity() * 2,
        TensorData::Bf16(values) => values.capacity() * 2,
        TensorData::Uint32(values) => values.capacity() * 4,
        TensorData::Int32(values) => values.capacity() * 4,
        TensorData::Fp32(values) => values.capacity() * 4,
        TensorData::Uint64(values) => values.capacity() * 8,
        TensorData::Int64(values) => values.capacity() * 8,
        TensorData::Fp64(values) => values.capacity() * 8,
        TensorData::Bytes(values) => values.capacity() * 24 + values.iter().map(Vec::capacity).sum::<usize>(),
    }
}
