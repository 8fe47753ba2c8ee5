//! No value of a request stands in an error about it, neither displayed nor debugged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use bytes::Bytes;
use proptest::prelude::*;
use terrace_oip::{DecodedResponse, InferRequest, RelayedResponse};

const NUMBER: &str = "7314159265";
const TEXT: &str = "canary-7b1f";

fn assert_silent(body: &str) {
    let errors = [
        InferRequest::from_http(body.as_bytes(), Some(body.len())).err(),
        DecodedResponse::from_json(body.as_bytes()).err(),
        RelayedResponse::from_json(&Bytes::copy_from_slice(body.as_bytes())).err(),
    ];
    assert!(errors[0].is_some(), "accepted, so it shows nothing: {body}");
    for error in errors.into_iter().flatten() {
        for shown in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
            assert!(!shown.contains(TEXT) && !shown.contains("731415"), "{shown}\n{body}");
        }
    }
}

#[test]
fn what_a_request_looks_like_to_a_developer_holds_no_value() {
    let body = br#"{"parameters": {"patient": "4711canary", "age": 4711, "weight": 47.11, "ill": true},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [47.11]},
                   {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["4711canary"]}]}"#;
    let request = terrace_oip::InferRequest::from_json(body).unwrap();
    let shown = format!("{request:?}");
    assert!(shown.contains("FP32[1]") && shown.contains("BYTES[1]") && shown.contains("patient"), "{shown}");
    for value in ["canary", "4711", "47.11", "true"] {
        assert!(!shown.contains(value), "{value} in {shown}");
    }
}

#[test]
fn no_value_in_any_wrong_place_is_shown() {
    let text = format!("\"{TEXT}\"");
    let decorated = format!("\"\\n{TEXT}\\u00e9\"");
    let list = format!("[{NUMBER},\"{TEXT}\"]");
    let object = format!("{{\"k\":\"{TEXT}\"}}");
    let fraction = format!("{NUMBER}.5");
    let huge = format!("{NUMBER}e999");
    let broken = [
        format!("{NUMBER}x"),
        format!("[{NUMBER} {NUMBER}]"),
        format!("\"{TEXT}"),
        format!("\"{TEXT}\\x\""),
        format!("\"{TEXT}\n\""),
        format!("{{\"k\" \"{TEXT}\"}}"),
        format!("0{NUMBER}"),
        format!("{NUMBER}."),
        format!("-{TEXT}"),
        TEXT.to_owned(),
    ];
    let values = [NUMBER, &text, &decorated, &list, &object, &fraction, &huge, "true", "null"];
    let values = values.into_iter().chain(broken.iter().map(String::as_str)).collect::<Vec<_>>();

    let places: &[&dyn Fn(&str) -> String] = &[
        &|value| value.to_owned(),
        &|value| format!(r#"{{"id":{value},"inputs":[7]}}"#),
        &|value| format!(r#"{{"unknown":{value},"inputs":[7]}}"#),
        &|value| format!(r#"{{"parameters":{value},"inputs":[7]}}"#),
        &|value| format!(r#"{{"parameters":{{"p":{value}}},"inputs":[7]}}"#),
        &|value| format!(r#"{{"parameters":{{"p":[{value}]}},"inputs":[7]}}"#),
        &|value| format!(r#"{{"inputs":{value},"model_name":{value},"outputs":{value}}}"#),
        &|value| format!(r#"{{"inputs":[{value}],"model_name":"m","outputs":[{value}]}}"#),
        &|value| format!(r#"{{"inputs":[{{"datatype":{value}}}],"model_name":"m","model_version":{value}}}"#),
        &|value| format!(r#"{{"inputs":[{{"name":"x","shape":{value}}}]}}"#),
        &|value| format!(r#"{{"inputs":[],"outputs":{value},"inputs":[]}}"#),
        &|value| format!(r#"{{"inputs":[],"outputs":[{{"name":"y","parameters":{{"p":{value}}}}}],"id":7}}"#),
    ];
    for value in &values {
        for place in places {
            assert_silent(&place(value));
        }
        for datatype in ["BOOL", "UINT8", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"] {
            for shape in ["[3]", "[1,2]", "[7,7]"] {
                for data in [(*value).to_owned(), format!("[{value}]"), format!("[[{value}],[{value}]]")] {
                    let tensor =
                        format!(r#""name":"x","datatype":"{datatype}","shape":{shape},"data":{data}"#);
                    assert_silent(&format!(
                        r#"{{"inputs":[{{{tensor}}}],"model_name":"m","outputs":[{{{tensor}}}]}}"#
                    ));
                    let tensor =
                        format!(r#""data":{data},"name":"x","shape":{shape},"datatype":"{datatype}""#);
                    assert_silent(&format!(
                        r#"{{"inputs":[{{{tensor}}}],"model_name":"m","outputs":[{{{tensor}}}]}}"#
                    ));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_value_is_shown_however_the_body_is_damaged(at in 0_usize..1_000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut body = format!(
            r#"{{"id":"{TEXT}","parameters":{{"p":"{TEXT}","q":{NUMBER}}},"inputs":[{{"name":"x","shape":[2,1],"datatype":"FP32","data":[[{NUMBER}],[{NUMBER}]]}},{{"name":"y","shape":[1],"parameters":{{"p":"{TEXT}"}},"datatype":"BYTES","data":["{TEXT}"]}}],"outputs":[{{"name":"z","parameters":{{"p":{NUMBER}}}}}]}}"#
        ).into_bytes();
        InferRequest::from_json(&body).unwrap();
        let at = at % body.len();
        if cut { body.truncate(at); } else { body[at] = byte; }
        // A quote that moved can make a value a key, and keys are shown: only whole values count here.
        if let Err(error) = InferRequest::from_json(&body) {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains("7314159265"), "{}", shown);
            prop_assert!(!shown.contains("canary-7b1f") || byte == b'"' , "{}", shown);
        }
    }
}
