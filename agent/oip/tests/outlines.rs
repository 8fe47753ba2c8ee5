//! An answer that is passed on as it came, and whether it contradicts itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use bytes::Bytes;
use terrace_oip::grpc::check_response;
use terrace_oip::proto::model_infer_response::InferOutputTensor;
use terrace_oip::proto::{InferTensorContents, ModelInferResponse};
use terrace_oip::{Datatype, DecodedResponse, Memory, Outline, RelayedResponse};

fn body(outputs: &str) -> String {
    format!(r#"{{"model_name":"m","outputs":[{outputs}]}}"#)
}

/// What the check says of JSON with these bytes behind it, and that reading the tensors agrees where there is a fault.
fn checked(outputs: &str, tail: Option<&[u8]>) -> Result<Vec<Outline>, String> {
    let json = body(outputs);
    let length = tail.map(|_| json.len());
    let whole = [json.as_bytes(), tail.unwrap_or_default()].concat();
    let checked = RelayedResponse::from_http(&whole.clone().into(), length, Memory::UNBOUNDED)
        .map(|response| response.outlines)
        .map_err(|error| error.to_string());
    let decoded = DecodedResponse::from_http(&whole, length);
    assert!(checked.is_ok() || decoded.is_err(), "{outputs}: {checked:?}");
    checked
}

#[test]
fn an_output_has_as_many_elements_as_its_shape_says() {
    let of = |shape: &str, data: &str| {
        checked(&format!(r#"{{"name":"y","datatype":"FP32","shape":{shape},"data":{data}}}"#), None)
            .map(|outlines| outlines[0].shape.clone())
    };
    for (shape, data, expected) in [
        ("[1,3]", "[1, 2.5,\n3e0]", Ok(vec![1, 3])),
        ("[2,2]", "[[1,2],[3,4]]", Ok(vec![2, 2])),
        ("[]", "[7]", Ok(vec![])),
        ("[0,10]", "[]", Ok(vec![0, 10])),
        ("[2,0]", "[[],[]]", Ok(vec![2, 0])),
        ("[1,11]", "[1,2,3]", Err("shape [1, 11] asks for 11 elements, the data has 3")),
        ("[1,2]", "[1,2,3]", Err("shape [1, 2] asks for 2 elements, the data has 3")),
        ("[2,2]", "[[1,2],[3]]", Err("shape [2, 2] asks for 4 elements, the data has 3")),
        ("[1]", "[]", Err("shape [1] asks for 1 elements, the data has 0")),
        (
            "[18446744073709551615,2]",
            "[1]",
            Err("asks for more than can be counted elements, the data has 1"),
        ),
        ("[-1]", "[1]", Err("expected a whole number, 0 or more")),
        ("[1]", "1", Err("data: expected an array, got a number")),
        ("[1]", "null", Err("data: missing")),
        ("[1]", "[1,]", Err("not JSON")),
    ] {
        match (of(shape, data), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => {
                assert!(found.starts_with("outputs[0] (\"y\")") && found.contains(expected), "{found}");
            }
            other => panic!("{shape} {data}: {other:?}"),
        }
    }
}

#[test]
fn binary_elements_are_counted_by_their_bytes_and_texts_by_their_lengths() {
    let two = r#"{"name":"x","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8,"other":{"a":[1]}}},
        {"name":"t","shape":[2],"parameters":{"binary_data_size":9},"datatype":"BYTES","data":null}"#;
    let texts = [&[0; 8][..], &[1, 0, 0, 0, b'a', 0, 0, 0, 0]].concat();
    let outlines = checked(two, Some(&texts)).unwrap();
    let told: Vec<_> = outlines.iter().map(|one| (one.name.as_str(), one.datatype, &*one.shape)).collect();
    assert_eq!(told, [("x", Some(Datatype::Fp32), &[2][..]), ("t", Some(Datatype::Bytes), &[2])]);
    let one = |datatype: &str, shape: &str, size: usize| {
        format!(
            r#"{{"name":"y","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}"#
        )
    };
    for (output, tail, expected) in [
        (one("FP16", "[3]", 6), Some(6), None),
        (one("INT64", "[1,11]", 80), Some(80), Some("80 bytes are not a INT64 tensor of shape [1, 11]")),
        (one("BOOL", "[3]", 4), Some(4), Some("4 bytes are not a BOOL tensor of shape [3]")),
        (one("BYTES", "[3]", 8), Some(8), Some("shape [3] asks for 3 elements, the data has 2")),
        (one("BYTES", "[1]", 3), Some(3), Some("its four-byte length runs past the end of the tensor")),
        (one("FP32", "[1]", 4), Some(3), Some("binary_data_size is 4, and 3 bytes are left of the body")),
        (
            one("FP32", "[1]", 4),
            Some(5),
            Some("1 bytes follow that no tensor's binary_data_size accounts for"),
        ),
        (one("FP32", "[1]", 4), None, Some("no binary")),
        (one("FP32", "[1]", 4).replace("4}", "-4}"), Some(4), Some("expected a whole number, 0 or more")),
        (one("FP32", "[1]", 4).replace("}}", "},\"data\":[1]}"), Some(4), Some("twice")),
    ] {
        let tail = tail.map(|size| vec![0; size]);
        match (checked(&output, tail.as_deref()), expected) {
            (Ok(_), None) => {}
            (Err(found), Some("no binary")) => {
                assert!(found.contains("Inference-Header-Content-Length"), "{found}");
            }
            (Err(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
            other => panic!("{output}: {other:?}"),
        }
    }
}

#[test]
fn an_output_says_what_it_is_and_an_unknown_type_is_passed_on() {
    for (outputs, expected) in [
        (r#"{"datatype":"FP32","shape":[1],"data":[1]}"#, "outputs[0].name: missing"),
        (r#"{"name":"y","datatype":"FP32","data":[1]}"#, "outputs[0] (\"y\").shape: missing"),
        (r#"{"name":"y","shape":[1],"data":[1]}"#, "outputs[0] (\"y\").datatype: missing"),
        ("1", "outputs[0]: expected an object, got a number"),
    ] {
        assert_eq!(checked(outputs, None).unwrap_err(), expected);
    }
    let y = r#"{"name":"y","datatype":"FP32","shape":[1],"data":[1]}"#;
    let twice = checked(&format!("{y},{y}"), None).unwrap_err();
    assert!(twice.starts_with("outputs[1]") && twice.contains("name"), "{twice}");
    let many = vec![y; 257].join(",");
    assert!(checked(&many, None).is_err());
    let foreign = r#"{"name":"y","datatype":"FP8","shape":[2],"data":["a",{"b":[1,2,3]}],"extra":{}}"#;
    let whole = body(foreign);
    let outlines = RelayedResponse::from_json(&whole.clone().into()).unwrap().outlines;
    assert_eq!((outlines[0].datatype, outlines[0].shape.as_slice()), (None, &[2][..]));
}

#[test]
fn typed_elements_of_grpc_are_counted_in_their_types_field() {
    let answer = |datatype: &str, shape: &[i64], contents: InferTensorContents| ModelInferResponse {
        outputs: vec![InferOutputTensor {
            name: "y".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            contents: Some(contents),
            ..InferOutputTensor::default()
        }],
        ..ModelInferResponse::default()
    };
    let none = InferTensorContents::default;
    let texts = vec![Bytes::from_static(b"a"), Bytes::new()];
    for (datatype, contents) in [
        ("BOOL", InferTensorContents { bool_contents: vec![true; 2], ..none() }),
        ("UINT8", InferTensorContents { uint_contents: vec![1; 2], ..none() }),
        ("INT16", InferTensorContents { int_contents: vec![1; 2], ..none() }),
        ("UINT64", InferTensorContents { uint64_contents: vec![1; 2], ..none() }),
        ("INT64", InferTensorContents { int64_contents: vec![1; 2], ..none() }),
        ("FP32", InferTensorContents { fp32_contents: vec![1.0; 2], ..none() }),
        ("FP64", InferTensorContents { fp64_contents: vec![1.0; 2], ..none() }),
        ("BYTES", InferTensorContents { bytes_contents: texts, ..none() }),
    ] {
        let outlines = check_response(&answer(datatype, &[1, 2], contents.clone())).unwrap();
        assert_eq!(
            (outlines[0].datatype, outlines[0].shape.as_slice()),
            (Datatype::parse(datatype), &[1, 2][..])
        );
        for shape in [&[1, 3][..], &[], &[0]] {
            let error = check_response(&answer(datatype, shape, contents.clone())).unwrap_err().to_string();
            assert!(error.starts_with("outputs[0] (\"y\")") && error.contains("the data has 2"), "{error}");
        }
        // Nothing in this type's field.
        let other = if datatype == "FP32" { "INT64" } else { "FP32" };
        assert!(check_response(&answer(other, &[1, 2], contents)).is_err(), "{datatype}");
    }
    assert!(check_response(&answer("FP32", &[0], none())).is_ok());
}
