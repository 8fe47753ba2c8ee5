//! The gRPC binding: every datatype both ways, and every way to get it wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use terrace_oip::grpc::check_response;
use terrace_oip::proto::infer_parameter::ParameterChoice;
use terrace_oip::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use terrace_oip::proto::model_infer_response::InferOutputTensor;
use terrace_oip::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use terrace_oip::{Datatype, DecodedResponse, InferRequest, Parameter, Parameters, Tensor, TensorData, grpc};

fn input(name: &str, datatype: Datatype, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_string(),
        shape: shape.to_vec(),
        parameters: HashMap::new(),
        contents: Some(contents),
    }
}

fn of(inputs: Vec<InferInputTensor>, raw: Vec<Vec<u8>>) -> ModelInferRequest {
    let raw_input_contents = raw.into_iter().map(Bytes::from).collect();
    ModelInferRequest { inputs, raw_input_contents, ..ModelInferRequest::default() }
}

fn refusal(message: ModelInferRequest) -> String {
    InferRequest::from_grpc(message).expect_err("accepted").to_string()
}

fn none() -> InferTensorContents {
    InferTensorContents::default()
}

#[test]
fn typed_contents_of_every_datatype_are_read() {
    let c = none;
    for (datatype, contents, data) in [
        (
            Datatype::Bool,
            InferTensorContents { bool_contents: vec![true, false], ..c() },
            TensorData::Bool(vec![true, false]),
        ),
        (
            Datatype::Int8,
            InferTensorContents { int_contents: vec![-128, 127], ..c() },
            TensorData::Int8(vec![-128, 127].into()),
        ),
        (
            Datatype::Int16,
            InferTensorContents { int_contents: vec![-1, 1], ..c() },
            TensorData::Int16(vec![-1, 1].into()),
        ),
        (
            Datatype::Int32,
            InferTensorContents { int_contents: vec![i32::MIN, 1], ..c() },
            TensorData::Int32(vec![i32::MIN, 1].into()),
        ),
        (
            Datatype::Int64,
            InferTensorContents { int64_contents: vec![i64::MIN, 1], ..c() },
            TensorData::Int64(vec![i64::MIN, 1].into()),
        ),
        (
            Datatype::Uint8,
            InferTensorContents { uint_contents: vec![0, 255], ..c() },
            TensorData::Uint8(vec![0, 255].into()),
        ),
        (
            Datatype::Uint16,
            InferTensorContents { uint_contents: vec![0, 65535], ..c() },
            TensorData::Uint16(vec![0, 65535].into()),
        ),
        (
            Datatype::Uint32,
            InferTensorContents { uint_contents: vec![0, u32::MAX], ..c() },
            TensorData::Uint32(vec![0, u32::MAX].into()),
        ),
        (
            Datatype::Uint64,
            InferTensorContents { uint64_contents: vec![0, u64::MAX], ..c() },
            TensorData::Uint64(vec![0, u64::MAX].into()),
        ),
        (
            Datatype::Fp32,
            InferTensorContents { fp32_contents: vec![0.5, f32::INFINITY], ..c() },
            TensorData::Fp32(vec![0.5, f32::INFINITY].into()),
        ),
        (
            Datatype::Fp64,
            InferTensorContents { fp64_contents: vec![0.5, -1.0], ..c() },
            TensorData::Fp64(vec![0.5, -1.0].into()),
        ),
        (
            Datatype::Bytes,
            InferTensorContents { bytes_contents: vec![Bytes::from_static(b"\xff\0"), Bytes::new()], ..c() },
            TensorData::Bytes(vec![b"\xff\0".to_vec(), vec![]]),
        ),
    ] {
        let request =
            InferRequest::from_grpc(of(vec![input("x", datatype, &[2, 1], contents)], vec![])).unwrap();
        assert_eq!(request.inputs[0].tensor, Tensor::new("x", vec![2, 1], data.clone()).unwrap());
        // The same raw, and back.
        let raw = data.clone().into_raw().as_ref().to_vec();
        let again =
            InferRequest::from_grpc(of(vec![input("x", datatype, &[2, 1], none())], vec![raw.clone()]))
                .unwrap();
        assert_eq!(again.inputs, request.inputs, "{datatype}");
        let output = vec![again.inputs[0].tensor.clone()];
        let message = grpc::response("m".to_owned(), "1".to_owned(), None, &Parameters::new(), output);
        assert_eq!(
            (&*message.outputs[0].datatype, &*message.outputs[0].shape),
            (datatype.as_str(), &[2, 1][..])
        );
        assert_eq!(message.raw_output_contents, [raw], "{datatype}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_field() {
    let x = |datatype, shape: &[i64], contents| input("x", datatype, shape, contents);
    let floats = |count| InferTensorContents { fp32_contents: vec![0.0; count], ..none() };
    let strange = InferInputTensor { datatype: "FLOAT".to_owned(), ..x(Datatype::Fp32, &[1], floats(1)) };
    for (message, said) in [
        (of(vec![strange], vec![]), r#"inputs[0] ("x").datatype: unknown datatype"#),
        (
            of(vec![x(Datatype::Fp32, &[-1], floats(1))], vec![]),
            r#"inputs[0] ("x").shape: expected a whole number"#,
        ),
        (
            of(vec![x(Datatype::Fp32, &[1; 33], floats(1))], vec![]),
            r#"inputs[0] ("x").shape: more than 32 dimensions"#,
        ),
        (
            of(vec![x(Datatype::Fp32, &[2], floats(1))], vec![]),
            r#"inputs[0] ("x"): shape [2] asks for 2 elements, the data has 1"#,
        ),
        (
            of(vec![x(Datatype::Fp64, &[1], floats(1))], vec![]),
            r#"inputs[0] ("x"): shape [1] asks for 1 elements, the data has 0"#,
        ),
        (
            of(vec![x(Datatype::Fp16, &[1], floats(1))], vec![]),
            r#"inputs[0] ("x").contents: FP16 and BF16 have no typed contents"#,
        ),
        (
            of(
                vec![x(Datatype::Int8, &[2], InferTensorContents { int_contents: vec![1, 128], ..none() })],
                vec![],
            ),
            r#"inputs[0] ("x").contents: element 1: out of range for INT8"#,
        ),
        (
            of(vec![x(Datatype::Fp32, &[1], floats(1))], vec![vec![0; 4]]),
            r#"inputs[0] ("x"): has its elements twice"#,
        ),
        (
            of(vec![x(Datatype::Fp32, &[1], none())], vec![vec![0; 3]]),
            r#"inputs[0] ("x"): 3 bytes are not a FP32 tensor"#,
        ),
        (
            of(vec![x(Datatype::Fp32, &[1], none())], vec![vec![0; 4]; 2]),
            "raw_input_contents: 2 raw contents for 1 inputs",
        ),
        (
            of(vec![x(Datatype::Fp32, &[1], floats(1)); 2], vec![]),
            r#"inputs[1] ("x").name: the same name as that of number 0"#,
        ),
        (
            ModelInferRequest {
                outputs: vec![
                    InferRequestedOutputTensor { name: "y".to_owned(), parameters: HashMap::new() };
                    2
                ],
                ..ModelInferRequest::default()
            },
            r#"outputs[1] ("y").name: the same name"#,
        ),
    ] {
        let refused = refusal(message);
        assert!(refused.starts_with(said), "{refused}, not {said}");
    }
}

#[test]
fn parameters_go_both_ways() {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let message = ModelInferRequest {
        id: "7".to_owned(),
        parameters: HashMap::from([
            ("b".to_owned(), parameter(ParameterChoice::BoolParam(true))),
            ("i".to_owned(), parameter(ParameterChoice::Int64Param(-1))),
            ("s".to_owned(), parameter(ParameterChoice::StringParam("text".to_owned()))),
            ("d".to_owned(), parameter(ParameterChoice::DoubleParam(0.5))),
            ("u".to_owned(), parameter(ParameterChoice::Uint64Param(7))),
        ]),
        ..ModelInferRequest::default()
    };
    let request = InferRequest::from_grpc(message).unwrap();
    assert_eq!(request.id.as_deref(), Some("7"));
    let names: Vec<&str> = request.parameters.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "d", "i", "s", "u"]);
    assert_eq!(request.parameters.get("u"), Some(&Parameter::Int(7)));
    let told = grpc::response(String::new(), String::new(), None, &request.parameters, vec![]);
    assert_eq!(told.parameters["d"].parameter_choice, Some(ParameterChoice::DoubleParam(0.5)));

    for (choice, said) in [
        (None, "parameters.p: missing"),
        (Some(ParameterChoice::DoubleParam(f64::NAN)), "parameters.p: out of range"),
        (Some(ParameterChoice::Uint64Param(u64::MAX)), "parameters.p: out of range"),
    ] {
        let parameters = HashMap::from([("p".to_owned(), InferParameter { parameter_choice: choice })]);
        let refused = refusal(ModelInferRequest { parameters, ..ModelInferRequest::default() });
        assert!(refused.starts_with(said), "{refused}");
    }
}

#[test]
fn a_request_is_passed_on_over_http_as_it_is() {
    let message = ModelInferRequest {
        id: "7".to_owned(),
        inputs: vec![
            input(
                "x",
                Datatype::Fp32,
                &[2],
                InferTensorContents { fp32_contents: vec![0.5, f32::NAN], ..none() },
            ),
            input(
                "t",
                Datatype::Bytes,
                &[1],
                InferTensorContents { bytes_contents: vec![Bytes::from_static(b"\xff")], ..none() },
            ),
        ],
        outputs: vec![InferRequestedOutputTensor { name: "y".to_owned(), parameters: HashMap::new() }],
        ..ModelInferRequest::default()
    };
    let request = InferRequest::from_grpc(message).unwrap();
    let mut body = request.http_head().unwrap();
    let json_length = body.len();
    request.raw_inputs(&Bytes::new()).iter().for_each(|raw| body.extend_from_slice(raw));
    let read = InferRequest::from_http(&body, Some(json_length)).unwrap();
    assert_eq!((read.id, read.outputs.clone()), (request.id, request.outputs));
    assert!(read.inputs[1] == request.inputs[1]);
    let (_, _, data) = read.inputs[0].tensor.clone().into_parts();
    assert_eq!(data.into_raw().as_ref()[..4], 0.5_f32.to_le_bytes());
    assert_eq!(read.parameters.get("binary_data_output"), Some(&Parameter::Bool(true)));
}

#[test]
fn a_request_that_came_over_http_goes_on_over_grpc_with_the_bytes_that_it_came_with() {
    let json = br#"{"id":"7","parameters":{"binary_data_output":true,"note":"x"},"inputs":[
        {"name":"x","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}},
        {"name":"t","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}],
        "outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#;
    let binary = Bytes::from_static(b"\x00\x00\x00\x3f\x00\x00\x80\x3f\x02\x00\x00\x00ab");
    let body = [&json[..], &binary].concat();
    let request = InferRequest::from_http(&body, Some(json.len())).unwrap();
    let raw = request.raw_inputs(&binary);
    assert_eq!(
        raw.iter().map(|raw| raw.as_ptr()).collect::<Vec<_>>(),
        [binary.as_ptr(), binary[8..].as_ptr()]
    );

    let mut message = ModelInferRequest::decode(&*request.grpc_head()).unwrap();
    assert!(
        !message.parameters.contains_key("binary_data_output") && message.parameters.contains_key("note")
    );
    assert!(message.outputs[0].parameters.is_empty());
    message.raw_input_contents = raw;
    let read = InferRequest::from_grpc(message).unwrap();
    assert!(read.inputs == request.inputs && read.id == request.id);
    // Elements that came as JSON are written.
    let written =
        InferRequest::from_json(br#"{"inputs":[{"name":"x","datatype":"UINT8","shape":[2],"data":[1,2]}]}"#);
    assert_eq!(written.unwrap().raw_inputs(&Bytes::new()), [&[1_u8, 2][..]]);
}

#[test]
fn an_answer_is_checked_before_it_is_passed_on() {
    let output = |name: &str, shape: &[i64]| InferOutputTensor {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
        ..InferOutputTensor::default()
    };
    let raw = |sizes: &[usize]| sizes.iter().map(|size| Bytes::from(vec![0; *size])).collect();
    let message = |outputs: Vec<InferOutputTensor>, raw| ModelInferResponse {
        outputs,
        raw_output_contents: raw,
        ..ModelInferResponse::default()
    };
    let good = message(vec![output("x", &[2]), output("y", &[0])], raw(&[8, 0]));
    assert!(check_response(&good).is_ok());
    let read = DecodedResponse::from_grpc(good).unwrap();
    assert_eq!((read.outputs.len(), read.outputs[0].data()), (2, &TensorData::Fp32(vec![0.0, 0.0].into())));
    for bad in [
        message(vec![output("x", &[2])], raw(&[7])),
        message(vec![output("x", &[i64::MAX, i64::MAX])], raw(&[8])),
        message(vec![output("x", &[-1])], raw(&[4])),
        message(vec![output("x", &[1]), output("y", &[1])], raw(&[4])),
        message(vec![output("x", &[1]), output("x", &[1])], raw(&[4, 4])),
        message(vec![InferOutputTensor { datatype: "FP33".to_owned(), ..output("x", &[1]) }], raw(&[4])),
    ] {
        assert!(check_response(&bad).is_err() && DecodedResponse::from_grpc(bad).is_err());
    }
    let typed = InferTensorContents { fp32_contents: vec![0.5], ..none() };
    let typed = message(vec![InferOutputTensor { contents: Some(typed), ..output("x", &[1]) }], Vec::new());
    assert_eq!(
        DecodedResponse::from_grpc(typed).unwrap().outputs[0].data(),
        &TensorData::Fp32(vec![0.5].into())
    );
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut length = bytes.len();
    let mut field = vec![number << 3 | 2];
    while length >= 0x80 {
        field.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).unwrap());
    [&field, bytes].concat()
}

#[test]
fn a_message_that_holds_too_much_is_refused_by_its_bytes() {
    let said = |message: &[u8]| {
        grpc::check::<ModelInferRequest>(message).map(drop).map_err(|error| error.to_string())
    };
    let good = of(
        vec![input(
            "x",
            Datatype::Fp32,
            &[1, 2],
            InferTensorContents { fp32_contents: vec![1.0, 2.0], ..none() },
        )],
        vec![],
    );
    assert_eq!(said(&prost::Message::encode_to_vec(&good)), Ok(()));
    assert_eq!(said(&[]), Ok(()));
    for (one, most, expected) in [
        (field(4, b""), 64, "parameters: more than 64 parameters"),
        (field(5, b""), 256, "inputs: more than 256 tensors"),
        (field(6, b""), 256, "outputs: more than 256 outputs"),
        (field(7, b""), 256, "raw_input_contents: more than 256 raw contents"),
        (field(1, b""), 1024, "more than 1024 fields"),
        (field(99, b""), 1024, "more than 1024 fields"),
    ] {
        assert_eq!(said(&one.repeat(most)), Ok(()), "{expected}");
        assert_eq!(said(&one.repeat(most + 1)), Err(expected.to_owned()));
    }
    for (inner, expected) in [
        (field(3, &[1; 33]), "inputs[0].shape: more than 32 dimensions"),
        (field(3, &[0xff, 1]).repeat(33), "inputs[0].shape: more than 32 dimensions"),
        ([3 << 3, 1].repeat(33), "inputs[0].shape: more than 32 dimensions"),
        (field(4, b"").repeat(65), "inputs[0].parameters: more than 64 parameters"),
        (b"\x1b".to_vec(), "inputs[0]: not a protobuf message"),
    ] {
        assert_eq!(said(&field(5, &inner)), Err(expected.to_owned()));
    }
    let output = field(6, &field(2, b"").repeat(65));
    assert_eq!(said(&output), Err("outputs[0].parameters: more than 64 parameters".to_owned()));
    for broken in
        [&b"\x0a"[..], b"\x0a\x05ab", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x09a"]
    {
        assert_eq!(said(broken), Err("not a protobuf message".to_owned()), "{broken:?}");
    }
}

#[test]
fn numbers_that_are_raw_are_no_toil_and_texts_are() {
    let raw = vec![0_u8; 1600];
    let of_type = |datatype| {
        let message = of(vec![input("x", datatype, &[400], none())], vec![raw.clone()]);
        let message = prost::Message::encode_to_vec(&message);
        (grpc::toil::<ModelInferRequest>(&message), message.len())
    };
    let (toil, length) = of_type(Datatype::Fp32);
    assert_eq!(toil, length - 1500);
    let (toil, length) = of_type(Datatype::Bytes);
    assert_eq!(toil, length);
    let contents = InferTensorContents { fp32_contents: vec![1.0; 400], ..none() };
    let typed =
        prost::Message::encode_to_vec(&of(vec![input("x", Datatype::Fp32, &[400], contents)], vec![]));
    assert_eq!(grpc::toil::<ModelInferRequest>(&typed), typed.len());
    assert_eq!(grpc::toil::<ModelInferRequest>(b"\xff"), 1);
}
