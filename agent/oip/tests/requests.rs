//! Requests as clients send them, and every way to get one wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::cell::Cell;

use bytes::Bytes;
use terrace_oip::{InferRequest, Memory, Parameter, RequestedOutput, TensorData, WireTensor};

/// Makes a request with so many of something.
type Body<'a> = &'a dyn Fn(usize) -> String;

fn refusal(body: &str) -> String {
    InferRequest::from_json(body.as_bytes()).expect_err(body).to_string()
}

/// A request whose only input has these fields.
fn input(fields: &str) -> String {
    format!(r#"{{"inputs":[{{{fields}}}]}}"#)
}

#[test]
fn a_whole_request_is_read() {
    let request = InferRequest::from_json(
        br#" {"id":"42","parameters":{"privacy_required":true,"max_latency_ms":20},"model":{"un":["known"]},
             "inputs":[{"name":"image","shape":[1,2,2],"datatype":"FP32","parameters":{"k":"v"},
                        "data":[[[0.5,1],[-2e-3,4.0]]],"unknown":null},
                       {"name":"text","shape":[2],"datatype":"BYTES","data":["a\u00e9\n",""]}],
             "outputs":[{"name":"label","parameters":{"classification":3}}]} "#,
    )
    .unwrap();
    assert_eq!(request.id.as_deref(), Some("42"));
    assert_eq!(request.parameters.get("privacy_required"), Some(&Parameter::Bool(true)));
    assert_eq!(request.parameters.get("max_latency_ms"), Some(&Parameter::Int(20)));

    let [image, text] = &request.inputs[..] else { panic!("two inputs") };
    assert_eq!((image.tensor.name(), image.tensor.shape()), ("image", &[1, 2, 2][..]));
    assert_eq!(image.tensor.data(), &TensorData::Fp32(vec![0.5, 1.0, -2e-3, 4.0].into()));
    assert_eq!(image.parameters.get("k"), Some(&Parameter::String("v".into())));
    assert_eq!(text.tensor.data(), &TensorData::Bytes(vec!["aé\n".into(), vec![]]));

    let parameters = [("classification".to_owned(), Parameter::Int(3))].into_iter().collect();
    assert_eq!(request.outputs, Some(vec![RequestedOutput { name: "label".to_owned(), parameters }]));
}

#[test]
fn a_field_that_can_only_be_a_parameter_is_refused_where_the_caller_knows_it() {
    const INPUT: &str = r#""name":"x","shape":[1],"datatype":"INT8","data":[1]"#;
    fn meant(name: &str) -> Option<&'static str> {
        (name == "Urgent").then_some("urgent")
    }
    let read = |body: &str| {
        let read = InferRequest::from_http_but(
            &Bytes::copy_from_slice(body.as_bytes()),
            None,
            Memory::UNBOUNDED,
            meant,
        );
        read.map_err(|error| error.to_string())
    };
    let belongs = |place: &str| Err(format!("{place}Urgent: urgent belongs in the request's parameters"));
    for (body, place) in [
        (format!(r#"{{"Urgent":{{}},"inputs":[{{{INPUT}}}]}}"#), ""),
        (format!(r#"{{"inputs":[{{{INPUT},"Urgent":true}}]}}"#), r#"inputs[0] ("x")."#),
        (format!(r#"{{"inputs":[{{{INPUT}}}],"outputs":[{{"name":"y","Urgent":1}}]}}"#), "outputs[0]."),
    ] {
        assert_eq!(read(&body), belongs(place), "{body}");
        assert!(InferRequest::from_json(body.as_bytes()).is_ok(), "{body}");
        assert!(read(&body.replace("Urgent", "urgent")).is_ok(), "{body}");
    }
    for place in ["Parameters", "params", "parameter", "PARAMS", "infer_parameters"] {
        let body = format!(r#"{{"{place}":{{"a":[{{}}],"Urgent":1}},"inputs":[{{{INPUT}}}]}}"#);
        assert_eq!(read(&body), belongs(&format!("{place}.")), "{body}");
        assert!(read(&body.replace("Urgent", "urgent")).is_ok(), "{body}");
        assert!(read(&body.replace(r#"{"a":[{}],"Urgent":1}"#, r#"["Urgent"]"#)).is_ok(), "{body}");
        assert!(read(&body.replace(r#""Urgent":1"#, r#""b":2,"b":"#)).is_err(), "{body}");
        let body = format!(r#"{{"inputs":[{{{INPUT},"{place}":{{"Urgent":1}}}}]}}"#);
        assert_eq!(read(&body), belongs(&format!("inputs[0] (\"x\").{place}.")), "{body}");
    }
    let inside = format!(r#"{{"parameters":{{"Urgent":1}},"other":{{"Urgent":1}},"inputs":[{{{INPUT}}}]}}"#);
    assert!(read(&inside).is_ok());
}

#[test]
fn absent_null_and_empty_optional_fields_mean_the_same() {
    let bare = InferRequest::from_json(br#"{"inputs":[]}"#).unwrap();
    for body in [
        r#"{"id":null,"parameters":null,"inputs":[],"outputs":null}"#,
        r#"{"parameters":{},"inputs":[],"outputs":[]}"#,
    ] {
        assert_eq!(InferRequest::from_json(body.as_bytes()).unwrap(), bare);
    }
    assert_eq!((bare.id, bare.outputs), (None, None));
}

#[test]
fn the_order_of_a_tensors_fields_changes_nothing() {
    let fields = [r#""name":"x""#, r#""shape":[2,1]"#, r#""datatype":"INT8""#, r#""data":[[-1],[2]]"#];
    let expected = InferRequest::from_json(input(&fields.join(",")).as_bytes()).unwrap();
    for first in 0..4 {
        for second in (0..4).filter(|second| *second != first) {
            let mut order = vec![fields[first], fields[second]];
            order.extend(fields.iter().filter(|field| **field != fields[first] && **field != fields[second]));
            for _ in 0..2 {
                order[2..].reverse();
                assert_eq!(
                    InferRequest::from_json(input(&order.join(",")).as_bytes()).as_ref(),
                    Ok(&expected)
                );
            }
        }
    }
}

#[test]
fn scalars_and_empty_tensors_are_tensors() {
    for (shape, data, elements) in [("[]", "[7]", 1), ("[0]", "[]", 0), ("[3,0]", "[[],[],[]]", 0)] {
        let body = input(&format!(r#""name":"x","shape":{shape},"datatype":"FP64","data":{data}"#));
        let request = InferRequest::from_json(body.as_bytes()).unwrap();
        assert_eq!(request.inputs[0].tensor.data().len(), elements, "{shape}");
    }
}

#[test]
fn a_missing_field_is_named_with_its_input() {
    for (body, message) in [
        ("{}", "inputs: missing"),
        (r#"{"inputs":[{}]}"#, "inputs[0].name: missing"),
        (r#"{"inputs":[{"name":"a"}]}"#, r#"inputs[0] ("a").shape: missing"#),
        (r#"{"inputs":[{"name":"a","shape":[1]}]}"#, r#"inputs[0] ("a").datatype: missing"#),
        (r#"{"inputs":[{"name":"a","shape":[1],"data":[1]}]}"#, r#"inputs[0] ("a").datatype: missing"#),
        (r#"{"inputs":[{"shape":[1],"datatype":"INT8","data":[1]}]}"#, "inputs[0].name: missing"),
        (r#"{"inputs":[{"name":"a","shape":[1],"datatype":"INT8"}]}"#, r#"inputs[0] ("a").data: missing"#),
        (r#"{"inputs":[],"outputs":[{"parameters":{}}]}"#, "outputs[0].name: missing"),
    ] {
        assert_eq!(refusal(body), message);
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_what_it_is() {
    for (body, message) in [
        ("[]", "expected an object, got an array"),
        (r#"{"inputs":{}}"#, "inputs: expected an array, got an object"),
        (r#"{"inputs":null}"#, "inputs: expected an array, got null"),
        (r#"{"inputs":[7]}"#, "inputs[0]: expected an object, got a number"),
        (r#"{"id":7,"inputs":[]}"#, "id: expected a string, got a number"),
        (r#"{"inputs":[{"name":true}]}"#, "inputs[0].name: expected a string, got a boolean"),
        (
            r#"{"inputs":[{"name":"a","datatype":5}]}"#,
            r#"inputs[0] ("a").datatype: expected a string, got a number"#,
        ),
        (
            r#"{"inputs":[{"name":"a","shape":2}]}"#,
            r#"inputs[0] ("a").shape: expected an array, got a number"#,
        ),
        (r#"{"inputs":[{"shape":["2"]}]}"#, "inputs[0].shape[0]: expected a whole number, got a string"),
        (r#"{"inputs":[],"parameters":[]}"#, "parameters: expected an object, got an array"),
        (r#"{"inputs":[],"outputs":["y"]}"#, "outputs[0]: expected an object, got a string"),
    ] {
        assert_eq!(refusal(body), message);
    }
}

#[test]
fn elements_of_the_wrong_kind_or_range_are_named_by_index() {
    for (datatype, data, message) in [
        ("UINT8", "[1,2,300]", "element 2: out of range for UINT8"),
        ("UINT8", "[-1]", "element 0: out of range for UINT8"),
        ("INT8", "[[1,-128],[128,0]]", "element 2: out of range for INT8"),
        ("UINT16", "[65536]", "element 0: out of range for UINT16"),
        ("INT16", "[-32769]", "element 0: out of range for INT16"),
        ("UINT32", "[4294967296]", "element 0: out of range for UINT32"),
        ("INT32", "[2147483648]", "element 0: out of range for INT32"),
        ("UINT64", "[18446744073709551616]", "element 0: out of range for UINT64"),
        ("INT64", "[9223372036854775808]", "element 0: out of range for INT64"),
        ("INT64", "[1,1.5]", "element 1: expected an integer, got a number with a fraction or an exponent"),
        ("FP16", "[65520]", "element 0: out of range for FP16"),
        ("BF16", "[1e39]", "element 0: out of range for BF16"),
        ("FP32", "[0,1e39]", "element 1: out of range for FP32"),
        ("FP64", "[1e309]", "element 0: out of range for FP64"),
        ("FP32", "[0.5,null]", "element 1: expected a number, got null"),
        ("FP32", r#"["0.5"]"#, "element 0: expected a number, got a string"),
        ("INT32", "[true]", "element 0: expected an integer, got a boolean"),
        ("BOOL", "[true,1]", "element 1: expected a boolean, got a number"),
        ("BYTES", r#"["a",65]"#, "element 1: expected a string, got a number"),
        ("FP32", "[1,{}]", "element 1: expected a number, got an object"),
        ("FP32", "[1,[2]]", "element 1: expected a number, got an array"),
    ] {
        let before = format!(r#""name":"image","datatype":"{datatype}","shape":[9],"data":{data}"#);
        let after = format!(r#""data":{data},"shape":[9],"name":"image","datatype":"{datatype}""#);
        for fields in [before, after] {
            assert_eq!(refusal(&input(&fields)), format!(r#"inputs[0] ("image").data: {message}"#));
        }
    }
    let body = input(r#""name":"image","datatype":"FP32","shape":[1],"data":7"#);
    assert_eq!(refusal(&body), r#"inputs[0] ("image").data: expected an array, got a number"#);
    let body = input(r#""name":"image","datatype":"FP32","shape":[1],"data":[NaN]"#);
    assert_eq!(
        refusal(&body),
        r#"inputs[0] ("image").data: element 0: not JSON: NaN and Infinity are no JSON numbers at line 1 column 66"#
    );
}

#[test]
fn a_shape_that_the_data_does_not_have_costs_nothing_and_says_so() {
    for (shape, data, message) in [
        (
            "[1000000000000]",
            "[1,2]",
            ": shape [1000000000000] asks for 1000000000000 elements, the data has 2",
        ),
        (
            "[9223372036854775807,9223372036854775807]",
            "[1]",
            ": shape [9223372036854775807, 9223372036854775807] asks for more than can be counted elements, the data has 1",
        ),
        ("[2,2]", "[1,2,3]", ": shape [2, 2] asks for 4 elements, the data has 3"),
        ("[]", "[]", ": shape [] asks for 1 elements, the data has 0"),
        ("[2]", "[[1],[2]]", ".data: nested as [2, 1], but the shape is [2]"),
        ("[3,2]", "[[1,2,3],[4,5,6]]", ".data: nested as [2, 3], but the shape is [3, 2]"),
        ("[3]", "[[1,2],[3]]", ".data: rows of different lengths at depth 2"),
        ("[-1]", "[1]", ".shape[0]: expected a whole number, 0 or more"),
        ("[1,1.0]", "[1]", ".shape[1]: expected a whole number, 0 or more"),
        ("[1,1e3]", "[1]", ".shape[1]: expected a whole number, 0 or more"),
        ("[99999999999999999999]", "[1]", ".shape[0]: expected a whole number, 0 or more"),
    ] {
        for datatype in ["FP64", "UINT8"] {
            let fields = format!(r#""name":"image","datatype":"{datatype}","shape":{shape},"data":{data}"#);
            assert_eq!(refusal(&input(&fields)), format!(r#"inputs[0] ("image"){message}"#));
        }
    }
}

#[test]
fn an_unknown_datatype_brings_the_known_ones() {
    assert_eq!(
        refusal(&input(r#""name":"a","datatype":"float32","shape":[1],"data":[1]"#)),
        "inputs[0] (\"a\").datatype: unknown datatype, the known ones are BOOL, UINT8, UINT16, UINT32, UINT64, \
         INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES"
    );
}

#[test]
fn a_repeated_key_or_name_is_refused_wherever_it_is() {
    let x = r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#;
    for (body, message) in [
        (r#"{"id":"a","id":"a","inputs":[]}"#.to_owned(), "id: given more than once"),
        (r#"{"what ever":1,"what ever":2,"inputs":[]}"#.to_owned(), r#"["what ever"]: given more than once"#),
        (r#"{"inputs":[],"parameters":{"p":1,"\u0070":2}}"#.to_owned(), "parameters.p: given more than once"),
        (input(r#""name":"a","data":[1],"data":[1]"#), r#"inputs[0] ("a").data: given more than once"#),
        (
            format!(r#"{{"inputs":[{x},{x}]}}"#),
            r#"inputs[1] ("x").name: the same name as that of number 0 in this list"#,
        ),
        (
            r#"{"inputs":[],"outputs":[{"name":"a"},{"name":"b"},{"name":"b"}]}"#.to_owned(),
            r#"outputs[2] ("b").name: the same name as that of number 1 in this list"#,
        ),
    ] {
        assert_eq!(refusal(&body), message);
    }
}

#[test]
fn a_parameter_that_is_no_scalar_is_named() {
    for (value, found) in [("{}", "an object"), ("[1]", "an array"), ("null", "null")] {
        let expected = format!("parameters.headers: expected a boolean, a number or a string, got {found}");
        assert_eq!(refusal(&format!(r#"{{"parameters":{{"headers":{value}}},"inputs":[]}}"#)), expected);
        let fields = format!(r#""name":"x","parameters":{{"headers":{value}}}"#);
        assert_eq!(refusal(&input(&fields)), format!(r#"inputs[0] ("x").{expected}"#));
        let body = format!(r#"{{"inputs":[],"outputs":[{{"parameters":{{"headers":{value}}}}}]}}"#);
        assert_eq!(refusal(&body), format!("outputs[0].{expected}"));
    }
    for (value, message) in [
        ("9223372036854775808", "out of range for an integer parameter (int64)"),
        ("1e309", "out of range for a number parameter (double)"),
    ] {
        let body = format!(r#"{{"parameters":{{"p":{value}}},"inputs":[]}}"#);
        assert_eq!(refusal(&body), format!("parameters.p: {message}"));
    }
}

#[test]
fn a_body_that_is_no_text_says_where() {
    let error = InferRequest::from_json(b"{\"inputs\":[\xff]}").unwrap_err();
    assert_eq!(error.to_string(), "not JSON: the body is not UTF-8 from byte 11 on");
    assert_eq!(error.category(), "syntax");
}

#[test]
fn everything_that_can_be_many_is_limited() {
    let many =
        |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let inputs = |count| {
        let tensor = |index| format!(r#"{{"name":"x{index}","shape":[1],"datatype":"INT8","data":[1]}}"#);
        format!(r#"{{"inputs":[{}]}}"#, many(count, &tensor))
    };
    let outputs = |count| {
        format!(
            r#"{{"inputs":[],"outputs":[{}]}}"#,
            many(count, &|index| format!(r#"{{"name":"y{index}"}}"#))
        )
    };
    let parameters = |count| {
        format!(r#"{{"inputs":[],"parameters":{{{}}}}}"#, many(count, &|index| format!(r#""p{index}":1"#)))
    };
    let fields =
        |count: usize| format!(r#"{{"inputs":[],{}}}"#, many(count - 1, &|index| format!(r#""f{index}":1"#)));
    let shape = |count| {
        let dimensions = many(count, &|_| "1".to_owned());
        input(&format!(r#""name":"x","datatype":"INT8","shape":[{dimensions}],"data":[1]"#))
    };
    let nested = |depth: usize| {
        let data = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let dimensions = many(32, &|_| "1".to_owned());
        input(&format!(r#""name":"x","datatype":"INT8","shape":[{dimensions}],"data":{data}"#))
    };
    let skipped = |depth: usize| format!(r#"{{"inputs":[],"u":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));

    let cases: [(Body<'_>, usize, &str); 7] = [
        (&inputs, 256, "inputs[256]: more than 256 tensors"),
        (&outputs, 256, "outputs[256]: more than 256 outputs"),
        (&parameters, 64, "parameters: more than 64 parameters"),
        (&fields, 64, "more than 64 fields"),
        (&shape, 32, r#"inputs[0] ("x").shape[32]: more than 32 dimensions"#),
        (&nested, 32, r#"inputs[0] ("x").data: more than 32 levels of nesting"#),
        (&skipped, 64, "u: more than 64 levels of nesting"),
    ];
    for (body, limit, message) in cases {
        assert!(InferRequest::from_json(body(limit).as_bytes()).is_ok(), "{message}");
        assert_eq!(refusal(&body(limit + 1)), message);
    }
}

#[test]
fn tensors_are_read_inside_other_json_too() {
    #[derive(serde::Deserialize)]
    struct Case {
        inputs: Vec<WireTensor>,
    }
    let text = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"BOOL","data":[true,false]}]}"#;
    let case: Case = serde_json::from_str(text).unwrap();
    assert_eq!(case.inputs[0].0.data(), &TensorData::Bool(vec![true, false]));
    let case: Case = serde_json::from_reader(text.as_bytes()).unwrap();
    assert_eq!(case.inputs[0].0.shape(), [2]);

    let error = serde_json::from_str::<Case>(&text.replace("true", "1")).err().unwrap();
    assert!(
        error.to_string().starts_with(r#"("x").data: element 0: expected a boolean, got a number"#),
        "{error}"
    );
}

#[test]
fn who_reads_long_arrays_asks_at_times_whether_anybody_waits() {
    const MANY: usize = 300_000;
    let short = vec!["0.5"; MANY].join(",");
    let long = vec!["1e3"; MANY].join(",");
    let row = format!("[{}]", vec!["0.5"; MANY / 300].join(","));
    let rows = vec![row; 300].join(",");
    for (shape, data) in
        [(format!("[{MANY}]"), short), (format!("[{MANY}]"), long), ("[300,1000]".into(), rows)]
    {
        let body =
            format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":[{data}]}}]}}"#);
        let body = Bytes::from(body);
        let looks = Cell::new(0);
        let read = |most: usize| {
            looks.set(0);
            let take = |bytes: usize| {
                looks.set(looks.get() + usize::from(bytes == 0));
                looks.get() <= most
            };
            let read = InferRequest::from_http_within(&body, None, Memory::new(&take));
            // To name the input, all of it would be gone through once more.
            read.map_err(|error| assert!(!error.to_string().contains("\"x\""), "{error}")).is_ok()
        };
        assert!(read(usize::MAX));
        assert_eq!(looks.get(), MANY / (32 << 10), "{shape}");
        assert_eq!((read(3), looks.get()), (false, 4), "{shape}");
    }
}
