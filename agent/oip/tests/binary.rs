//! The binary tensor extension: every datatype both ways, and every way to get it wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use bytes::Bytes;
use half::{bf16, f16};
use proptest::collection::vec;
use proptest::prelude::*;
use terrace_oip::{
    Datatype, DecodedResponse, InferRequest, InferResponse, Memory, Parameters, Tensor, TensorData,
};

/// A message of this JSON and these bytes after it.
fn message(json: &str, tail: &[u8]) -> (Vec<u8>, Option<usize>) {
    ([json.as_bytes(), tail].concat(), Some(json.len()))
}

fn input(name: &str, datatype: &str, shape: &str, size: usize) -> String {
    format!(
        r#"{{"name":"{name}","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}"#
    )
}

fn read(inputs: &[String], tail: &[u8]) -> Result<InferRequest, String> {
    let (body, json_length) = message(&format!(r#"{{"inputs":[{}]}}"#, inputs.join(",")), tail);
    InferRequest::from_http(&body, json_length).map_err(|error| error.to_string())
}

#[test]
fn the_bytes_of_every_datatype_are_those_that_numpy_writes() {
    for (data, bytes) in [
        (TensorData::Bool(vec![true, false]), &[1, 0][..]),
        (TensorData::Uint8(vec![0, 255].into()), &[0, 255]),
        (TensorData::Uint16(vec![1, 0x0203].into()), &[1, 0, 3, 2]),
        (TensorData::Uint32(vec![1, 0x0203_0405].into()), &[1, 0, 0, 0, 5, 4, 3, 2]),
        (
            TensorData::Uint64(vec![2, u64::MAX].into()),
            &[2, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        (TensorData::Int8(vec![-1, -128].into()), &[255, 128]),
        (TensorData::Int16(vec![-2, 1].into()), &[254, 255, 1, 0]),
        (TensorData::Int32(vec![-2, 1].into()), &[254, 255, 255, 255, 1, 0, 0, 0]),
        (
            TensorData::Int64(vec![-1, 1].into()),
            &[255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0],
        ),
        (TensorData::Fp16(vec![f16::from_f32(1.0), f16::NEG_INFINITY].into()), &[0, 0x3c, 0, 0xfc]),
        (TensorData::Bf16(vec![bf16::from_f32(1.0), bf16::from_f32(-2.0)].into()), &[0x80, 0x3f, 0, 0xc0]),
        (TensorData::Fp32(vec![1.0, -2.0].into()), &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]),
        (
            TensorData::Fp64(vec![1.0, -2.0].into()),
            &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0],
        ),
        (TensorData::Bytes(vec![b"ab".to_vec(), vec![]]), &[2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]),
    ] {
        let datatype = data.datatype();
        assert_eq!(data.raw_size(), bytes.len(), "{datatype}");
        assert_eq!(data.clone().into_raw().as_ref(), bytes, "{datatype}");
        // At any alignment: the JSON before them has any length.
        for pad in 0..8 {
            let name = "x".repeat(pad + 1);
            let request = read(&[input(&name, datatype.as_str(), "[2,1]", bytes.len())], bytes).unwrap();
            let read = &request.inputs[0];
            assert_eq!(read.tensor, Tensor::new(name, vec![2, 1], data.clone()).unwrap(), "{datatype}");
            assert!(read.parameters.is_empty(), "how it came is of no account any more");
        }
    }
}

#[test]
fn binary_and_json_tensors_mix_and_take_the_tail_in_their_order() {
    let json = r#"{"name":"j","datatype":"INT8","shape":[1],"data":[7]}"#.to_owned();
    let inputs = [
        input("a", "UINT8", "[2]", 2),
        json,
        input("none", "FP32", "[0,3]", 0),
        input("b", "UINT16", "[]", 2),
    ];
    let request = read(&inputs, &[1, 2, 3, 4]).unwrap();
    let data: Vec<&TensorData> = request.inputs.iter().map(|input| input.tensor.data()).collect();
    assert_eq!(
        data,
        [
            &TensorData::Uint8(vec![1, 2].into()),
            &TensorData::Int8(vec![7].into()),
            &TensorData::Fp32(vec![].into()),
            &TensorData::Uint16(vec![0x0403].into())
        ]
    );
}

#[test]
fn what_is_wrong_is_said_with_its_tensor() {
    for (inputs, tail, said) in [
        (vec![input("x", "FP32", "[2]", 8)], vec![0; 7], r#"inputs[0] ("x"): binary_data_size is 8, and 7 bytes are left of the body"#),
        (vec![input("x", "FP32", "[2]", 8)], vec![0; 9], "1 bytes follow that no tensor's binary_data_size accounts for"),
        (vec![input("x", "FP32", "[2]", 4)], vec![0; 4], r#"inputs[0] ("x"): 4 bytes are not a FP32 tensor of shape [2]"#),
        (vec![input("x", "FP64", "[9223372036854775807,9]", 8)], vec![0; 8], r#"inputs[0] ("x"): 8 bytes are not a FP64 tensor of shape [9223372036854775807, 9]"#),
        (vec![input("x", "UINT8", "[1]", usize::MAX >> 1)], vec![0; 1], r#"inputs[0] ("x"): binary_data_size is 9223372036854775807, and 1 bytes are left of the body"#),
        (vec![input("x", "BOOL", "[3]", 3)], vec![0, 1, 2], r#"inputs[0] ("x"): element 2: expected the byte 0 or 1 for a BOOL"#),
        (vec![input("x", "BYTES", "[1]", 5)], vec![2, 0, 0, 0, 65], r#"inputs[0] ("x"): element 0: its four-byte length runs past the end of the tensor"#),
        (vec![input("x", "BYTES", "[1]", 3)], vec![2, 0, 0], r#"inputs[0] ("x"): element 0: its four-byte length runs past the end of the tensor"#),
        (vec![input("x", "BYTES", "[1]", 4)], vec![255; 4], r#"inputs[0] ("x"): element 0: its four-byte length runs past the end of the tensor"#),
        (vec![input("x", "BYTES", "[2]", 4)], vec![0; 4], r#"inputs[0] ("x"): shape [2] asks for 2 elements, the data has 1"#),
        (
            vec![r#"{"name":"x","datatype":"UINT8","shape":[1],"data":[1],"parameters":{"binary_data_size":1}}"#.to_owned()],
            vec![1],
            r#"inputs[0] ("x"): has its elements twice, typed and raw; send one of them"#,
        ),
        (
            vec![r#"{"name":"x","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":-1}}"#.to_owned()],
            vec![1],
            r#"inputs[0] ("x").parameters.binary_data_size: expected a whole number, 0 or more"#,
        ),
        (
            vec![r#"{"name":"x","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":"1"}}"#.to_owned()],
            vec![1],
            r#"inputs[0] ("x").parameters.binary_data_size: expected a whole number, 0 or more"#,
        ),
    ] {
        assert_eq!(read(&inputs, &tail).unwrap_err(), said);
    }
}

#[test]
fn the_length_of_the_json_part_must_be_its_length() {
    let json = format!(r#"{{"inputs":[{}]}}"#, input("x", "UINT8", "[1]", 1));
    let body = [json.as_bytes(), &[7]].concat();
    let read = |length| InferRequest::from_http(&body, length).map_err(|error| error.to_string());
    assert!(read(Some(json.len())).is_ok());
    assert_eq!(
        read(Some(body.len() + 1)).unwrap_err(),
        format!(
            "Inference-Header-Content-Length is {}, and the body has {} bytes",
            body.len() + 1,
            body.len()
        )
    );
    assert!(read(Some(json.len() - 1)).unwrap_err().starts_with("not JSON"));
    assert!(read(Some(0)).unwrap_err().starts_with("not JSON"));
    // Without the header, of what follows the JSON nothing is known.
    let nothing = "inputs[0] (\"x\"): its elements are said to be binary, but the message has no header Inference-Header-Content-Length to say where they begin";
    assert_eq!(read(None).unwrap_err(), nothing);
    assert_eq!(
        InferRequest::from_json(&[json.as_bytes(), &[0xff, 0]].concat()).unwrap_err().to_string(),
        nothing
    );
}

#[test]
fn an_output_is_binary_where_the_request_says_so_of_it_or_of_all() {
    for (parameters, outputs, expected) in [
        ("{}", "[]", false),
        (r#"{"binary_data_output":true}"#, "[]", true),
        (r#"{"binary_data_output":true}"#, r#"[{"name":"y"}]"#, true),
        (r#"{"binary_data_output":true}"#, r#"[{"name":"y","parameters":{"binary_data":false}}]"#, false),
        ("{}", r#"[{"name":"y","parameters":{"binary_data":true}}]"#, true),
        ("{}", r#"[{"name":"z","parameters":{"binary_data":true}}]"#, false),
        (r#"{"binary_data_output":1}"#, "[]", false),
    ] {
        let body = format!(r#"{{"parameters":{parameters},"inputs":[],"outputs":{outputs}}}"#);
        let request = InferRequest::from_json(body.as_bytes()).unwrap();
        assert_eq!(request.wants_binary("y"), expected, "{body}");
    }
}

fn any_tensor(name: &'static str) -> impl Strategy<Value = Tensor> {
    (0..Datatype::ALL.len(), vec(0_usize..4, 0..4)).prop_flat_map(move |(datatype, shape)| {
        let count: usize = shape.iter().product();
        let datatype = Datatype::ALL[datatype];
        let size = datatype.size().unwrap_or(1);
        let data = vec(any::<u8>(), count * size).prop_map(move |bytes| match datatype {
            Datatype::Bool => TensorData::Bool(bytes.iter().map(|byte| byte % 2 == 1).collect()),
            Datatype::Bytes => {
                TensorData::Bytes(bytes.iter().map(|byte| vec![*byte; usize::from(byte % 5)]).collect())
            }
            // Any bits at all, those of NaN among them: read as the tensor they are.
            _ => {
                let json = format!(
                    r#"{{"inputs":[{}]}}"#,
                    input("x", datatype.as_str(), &format!("[{count}]"), bytes.len())
                );
                let body = [json.as_bytes(), &bytes].concat();
                let request = InferRequest::from_http(&body, Some(json.len())).unwrap();
                request.inputs.into_iter().next().unwrap().tensor.into_parts().2
            }
        });
        let shape = shape.clone();
        data.prop_map(move |data| Tensor::new(name, shape.clone(), data).unwrap())
    })
}

proptest! {
    /// Bits go through unchanged, also those that JSON cannot carry.
    #[test]
    fn what_is_written_in_binary_is_read_back_bit_for_bit(one in any_tensor("one"), two in any_tensor("two")) {
        let parameters = Parameters::new();
        let outputs = [one, two];
        let response = InferResponse { model_name: "m", model_version: Some("1"), id: None, parameters: &parameters, outputs: &outputs };
        let mut body = response.to_json_but(|_| true, || true).unwrap();
        let json_length = body.len();
        let raw: Vec<Vec<u8>> = outputs.iter().map(|tensor| tensor.data().clone().into_raw().as_ref().to_vec()).collect();
        for raw in &raw {
            body.extend_from_slice(raw);
        }
        let read = DecodedResponse::from_http(&body, Some(json_length)).unwrap();
        for ((read, written), raw) in read.outputs.into_iter().zip(&outputs).zip(raw) {
            prop_assert_eq!((read.name(), read.shape(), read.datatype()), (written.name(), written.shape(), written.datatype()));
            let (_, _, data) = read.into_parts();
            let again = data.into_raw();
            prop_assert_eq!(again.as_ref(), raw);
        }
    }

    /// Whatever bytes come, they are read or refused.
    #[test]
    fn no_bytes_break_the_reader(bytes in vec(any::<u8>(), 0..200), length in proptest::option::of(0_usize..220), datatype in 0_usize..14, size in 0_usize..40) {
        let datatype = Datatype::ALL[datatype];
        let _ = InferRequest::from_http(&bytes, length);
        let _ = read(&[input("x", datatype.as_str(), "[4]", size)], &bytes);
    }
}

#[test]
fn large_tensors_of_every_datatype_are_read_wherever_they_lie() {
    const COUNT: usize = 1200;
    for datatype in Datatype::ALL {
        let element = datatype.size().unwrap_or(6);
        let mut tail: Vec<u8> = (0..COUNT * element).map(|at| u8::from(at % 7 == 0)).collect();
        if datatype == Datatype::Bytes {
            tail = b"\x02\0\0\0ab".repeat(COUNT);
        }
        let both = [&tail[..], &tail].concat();
        let inputs = ["one", "two"].map(|name| input(name, datatype.as_str(), "[1200]", tail.len()));
        let copied = read(&inputs, &both).unwrap();
        for pad in 0..8 {
            let (body, json_length) =
                message(&format!(r#"{}{{"inputs":[{}]}}"#, " ".repeat(pad), inputs.join(",")), &both);
            let body = Bytes::from(body);
            let request = InferRequest::from_http_within(&body, json_length, Memory::UNBOUNDED).unwrap();
            assert_eq!(request, copied, "{datatype} {pad}");
            drop(body);
            let raw = request.inputs.into_iter().map(|input| input.tensor.into_parts().2.into_raw());
            for raw in raw {
                assert!(raw.as_ref() == tail, "{datatype} {pad}");
            }
        }
    }
}
