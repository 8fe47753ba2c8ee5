//! Responses: written, decoded, relayed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::cell::Cell;

use bytes::Bytes;
use half::f16;
use terrace_oip::{
    DecodedResponse, EncodeError, InferResponse, Parameter, Parameters, RelayedResponse, Tensor, TensorData,
};

fn tensor(name: &str, data: TensorData) -> Tensor {
    Tensor::new(name, vec![data.len()], data).unwrap()
}

fn written(outputs: &[Tensor]) -> Result<String, String> {
    let parameters = Parameters::new();
    let response =
        InferResponse { model_name: "m", model_version: None, id: None, parameters: &parameters, outputs };
    response.to_json().map(|body| String::from_utf8(body).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn a_response_has_the_protocols_fields_and_the_shortest_numbers() {
    let parameters: Parameters =
        [("tier".to_owned(), "edge".into()), ("confidence".to_owned(), 0.75.into())].into_iter().collect();
    let outputs = [
        Tensor::new("probs", vec![1, 3], TensorData::Fp32(vec![0.1, 1.0, -1e-7].into())).unwrap(),
        tensor("half", TensorData::Fp16(vec![f16::from_f32(0.1)].into())),
        tensor("label", TensorData::Bytes(vec!["sev\"en".into()])),
        tensor("yes", TensorData::Bool(vec![true])),
    ];
    let response = InferResponse {
        model_name: "default.digits",
        model_version: Some("3"),
        id: Some("4\n2"),
        parameters: &parameters,
        outputs: &outputs,
    };
    assert_eq!(
        String::from_utf8(response.to_json().unwrap()).unwrap(),
        concat!(
            r#"{"model_name":"default.digits","model_version":"3","id":"4\n2","#,
            r#""parameters":{"tier":"edge","confidence":0.75},"outputs":["#,
            r#"{"name":"probs","datatype":"FP32","shape":[1,3],"data":[0.1,1.0,-1e-7]},"#,
            r#"{"name":"half","datatype":"FP16","shape":[1],"data":[0.1]},"#,
            r#"{"name":"label","datatype":"BYTES","shape":[1],"data":["sev\"en"]},"#,
            r#"{"name":"yes","datatype":"BOOL","shape":[1],"data":[true]}]}"#
        )
    );
    assert_eq!(written(&[]).unwrap(), r#"{"model_name":"m","outputs":[]}"#);
}

#[test]
fn a_response_is_given_up_soon_after_nobody_waits_for_it() {
    let outputs = [tensor("y", TensorData::Uint8(vec![0; 1_000_000].into()))];
    let parameters = Parameters::new();
    let response = InferResponse {
        model_name: "m",
        model_version: None,
        id: None,
        parameters: &parameters,
        outputs: &outputs,
    };
    let looks = Cell::new(0);
    let waits_for = |patience| {
        looks.set(0);
        response.to_json_but(
            |_| false,
            || {
                looks.set(looks.get() + 1);
                looks.get() <= patience
            },
        )
    };
    assert!(matches!(waits_for(3), Err(EncodeError::NotAwaited)));
    assert_eq!(looks.get(), 4, "it is not written on");
    let whole = waits_for(usize::MAX).unwrap();
    assert_eq!(whole, response.to_json().unwrap());
    assert_eq!(looks.get(), whole.len() >> 16, "once in 64 KiB");
}

#[test]
fn what_json_cannot_carry_is_an_error_that_names_the_output_and_no_value() {
    for (data, message) in [
        (
            TensorData::Fp32(vec![0.0, f32::NAN].into()),
            r#"output "y": element 1 is not a finite number, which JSON cannot carry"#,
        ),
        (
            TensorData::Fp64(vec![f64::INFINITY].into()),
            r#"output "y": element 0 is not a finite number, which JSON cannot carry"#,
        ),
        (
            TensorData::Fp16(vec![f16::NEG_INFINITY].into()),
            r#"output "y": element 0 is not a finite number, which JSON cannot carry"#,
        ),
        (
            TensorData::Bytes(vec![b"ok".to_vec(), vec![0xff]]),
            r#"output "y": element 1 is not UTF-8, which JSON cannot carry"#,
        ),
    ] {
        assert_eq!(written(&[tensor("y", data)]), Err(message.to_owned()));
    }
    let parameters = [("confidence".to_owned(), Parameter::Double(f64::NAN))].into_iter().collect();
    let response = InferResponse {
        model_name: "m",
        model_version: None,
        id: None,
        parameters: &parameters,
        outputs: &[],
    };
    assert_eq!(
        response.to_json().unwrap_err().to_string(),
        r#"parameter "confidence": not a finite number, which JSON cannot carry"#
    );
}

#[test]
fn a_written_response_decodes_to_the_same() {
    let parameters: Parameters = [("tier".to_owned(), "edge".into())].into_iter().collect();
    let outputs = [
        tensor("a", TensorData::Int64(vec![i64::MIN, 0, i64::MAX].into())),
        tensor("b", TensorData::Uint8(vec![].into())),
    ];
    let response = InferResponse {
        model_name: "m",
        model_version: Some("1"),
        id: Some("x"),
        parameters: &parameters,
        outputs: &outputs,
    };
    let decoded = DecodedResponse::from_json(&response.to_json().unwrap()).unwrap();
    let expected = DecodedResponse {
        model_name: "m".to_owned(),
        model_version: Some("1".to_owned()),
        id: Some("x".to_owned()),
        parameters: parameters.clone(),
        outputs: outputs.to_vec(),
    };
    assert_eq!(decoded, expected);
}

#[test]
fn an_answer_that_is_none_is_refused() {
    for (body, decoded, relayed) in [
        ("[]", "expected an object, got an array", "expected an object, got an array"),
        (r#"{"outputs":[]}"#, "model_name: missing", "model_name: missing"),
        (r#"{"error":"no such model"}"#, "model_name: missing", "model_name: missing"),
        (r#"{"model_name":"m"}"#, "outputs: missing", "outputs: missing"),
        (
            r#"{"model_name":null}"#,
            "model_name: expected a string, got null",
            "model_name: expected a string, got null",
        ),
        (
            r#"{"model_name":"m","outputs":{}}"#,
            "outputs: expected an array, got an object",
            "outputs: expected an array, got an object",
        ),
        (
            r#"{"model_name":"m","outputs":[1,]}"#,
            "outputs[0]: expected an object, got a number",
            "outputs[0]: expected an object, got a number",
        ),
        (
            r#"{"model_name":"m","outputs":[],"parameters":{"p":{}}}"#,
            "parameters.p: expected a boolean, a number or a string, got an object",
            "parameters.p: expected a boolean, a number or a string, got an object",
        ),
    ] {
        assert_eq!(DecodedResponse::from_json(body.as_bytes()).unwrap_err().to_string(), decoded);
        assert_eq!(
            RelayedResponse::from_json(&Bytes::copy_from_slice(body.as_bytes())).unwrap_err().to_string(),
            relayed
        );
    }
    let deep = format!(r#"{{"model_name":"m","time":{}"#, "[".repeat(1_000_000));
    let error = RelayedResponse::from_json(&deep.into()).unwrap_err();
    assert_eq!(error.to_string(), "time: more than 64 levels of nesting");
}

#[test]
fn relaying_keeps_the_bytes_of_outputs_and_of_unknown_fields() {
    let outputs = "[ {\"name\":\"y\", \"shape\": [3],\"datatype\":\"FP64\", \"data\":[1.0e0, 0.10000000000000000555,\n \"\\u00e9\"], \"extra\":{}} ]";
    let statistics = r#"{ "queue" : 1.50 }"#;
    let body = format!(
        r#"{{"id":"a\u0062","time":null,"model_name":"up\"stream","outputs":{outputs},"model_version":null,"sta\ttistics":{statistics},"parameters":{{"a":1,"b":2.50}}}}"#
    );
    let mut response = RelayedResponse::from_json(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
    assert_eq!(response.outputs_json(), outputs.as_bytes());
    assert_eq!(response.model_name, "up\"stream");
    assert_eq!(response.id.as_deref(), Some("ab"));

    response.model_name = "ours".into();
    response.parameters.insert("a", "changed");
    response.parameters.insert("tier", "cloud");
    let relayed = String::from_utf8(response.to_json().unwrap().concat()).unwrap();
    assert_eq!(
        relayed,
        format!(
            r#"{{"model_name":"ours","id":"ab","parameters":{{"a":"changed","b":2.5,"tier":"cloud"}},"outputs":{outputs},"time":null,"sta\ttistics":{statistics}}}"#
        )
    );
    assert_eq!(RelayedResponse::from_json(&relayed.into()).unwrap().outputs_json(), outputs.as_bytes());

    response.parameters.insert("confidence", f64::INFINITY);
    assert!(response.to_json().is_err());
}
