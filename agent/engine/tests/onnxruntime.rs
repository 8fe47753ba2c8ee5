//! The real ONNX Runtime, on models that are written here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod support;

use std::fs;
use std::process::Command;

use half::{bf16, f16};
use support::models::{identity, looks_up};
use support::onnx::{
    Element, Graph, Message, external_tensor, int_attribute, ints_attribute, map_type, node, node_of,
    optional_type, sequence_type, string_tensor, tensor, tensor_attribute, tensor_type, value,
};
use support::runtime;
use terrace_engine::{Engine as _, LoadError, RunError, Session, SessionOptions, TensorSpec};
use terrace_oip::{Datatype, Tensor, TensorData};

fn load(model: &[u8]) -> Result<Box<dyn Session>, LoadError> {
    runtime().load(model, SessionOptions { threads: 1, providers: &[], weights: None })
}

fn loaded(model: &[u8]) -> Box<dyn Session> {
    load(model).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(model: &[u8]) -> LoadError {
    load(model).err().expect("the model is refused")
}

fn tensor_of(name: &str, shape: &[usize], data: TensorData) -> Tensor {
    Tensor::new(name, shape.to_vec(), data).unwrap()
}

fn floats(name: &str, shape: &[usize], elements: &[f32]) -> Tensor {
    tensor_of(name, shape, TensorData::Fp32(elements.to_vec().into()))
}

/// For each datatype: how ONNX calls it, and three elements, the extremes among them.
fn every_datatype() -> [(Element, TensorData); 14] {
    [
        (Element::Bool, TensorData::Bool(vec![true, false, true])),
        (Element::Uint8, TensorData::Uint8(vec![0, 7, u8::MAX].into())),
        (Element::Uint16, TensorData::Uint16(vec![0, 7, u16::MAX].into())),
        (Element::Uint32, TensorData::Uint32(vec![0, 7, u32::MAX].into())),
        (Element::Uint64, TensorData::Uint64(vec![0, 7, u64::MAX].into())),
        (Element::Int8, TensorData::Int8(vec![i8::MIN, -1, i8::MAX].into())),
        (Element::Int16, TensorData::Int16(vec![i16::MIN, -1, i16::MAX].into())),
        (Element::Int32, TensorData::Int32(vec![i32::MIN, -1, i32::MAX].into())),
        (Element::Int64, TensorData::Int64(vec![i64::MIN, -1, i64::MAX].into())),
        (Element::Float16, TensorData::Fp16(vec![f16::MIN, f16::EPSILON, f16::INFINITY].into())),
        (Element::Bfloat16, TensorData::Bf16(vec![bf16::MIN, bf16::EPSILON, bf16::INFINITY].into())),
        (Element::Float, TensorData::Fp32(vec![f32::MIN, f32::EPSILON, f32::INFINITY].into())),
        (Element::Double, TensorData::Fp64(vec![f64::MIN, f64::EPSILON, f64::INFINITY].into())),
        (Element::String, TensorData::Bytes(["", "größer", " a\nb\n"].map(Vec::from).to_vec())),
    ]
}

#[test]
fn every_datatype_goes_through_unchanged() {
    let mut seen = Vec::new();
    for (element, data) in every_datatype() {
        let mut session = loaded(&identity(element, &[3]));
        let signature = session.signature().clone();
        for spec in [&signature.inputs[0], &signature.outputs[0]] {
            assert_eq!((spec.datatype, &*spec.shape), (data.datatype(), &[3_i64][..]), "{element:?}");
        }
        assert_eq!((&*signature.inputs[0].name, &*signature.outputs[0].name), ("x", "y"));
        let outputs = session.run(&[tensor_of("x", &[3], data.clone())], None).unwrap();
        assert_eq!(outputs, [tensor_of("y", &[3], data.clone())]);
        seen.push(data.datatype());
    }
    assert_eq!(seen, Datatype::ALL);
}

#[test]
fn any_size_fits_where_the_model_leaves_it_open() {
    for (declared, sizes) in [
        (&[-1, 2][..], &[&[0, 2][..], &[1, 2], &[7, 2]][..]),
        (&[-1, -1, -1], &[&[1, 1, 1], &[2, 0, 3], &[1, 4, 2]]),
        (&[], &[&[]]),
        (&[0], &[&[0]]),
        (&[2, 0, 3], &[&[2, 0, 3]]),
    ] {
        for (element, three) in every_datatype() {
            let mut session = loaded(&identity(element, declared));
            assert_eq!(session.signature().inputs[0].shape, declared);
            for shape in sizes {
                let data = repeated(&three, shape.iter().product());
                let outputs = session.run(&[tensor_of("x", shape, data.clone())], None);
                assert_eq!(outputs, Ok(vec![tensor_of("y", shape, data)]), "{element:?} {shape:?}");
            }
        }
    }
}

/// The elements over and over, `count` in all.
fn repeated(data: &TensorData, count: usize) -> TensorData {
    fn of<T: Clone, V: From<Vec<T>>>(elements: &[T], count: usize) -> V {
        elements.iter().cycle().take(count).cloned().collect::<Vec<T>>().into()
    }
    match data {
        TensorData::Bool(elements) => TensorData::Bool(of(elements, count)),
        TensorData::Uint8(elements) => TensorData::Uint8(of(elements, count)),
        TensorData::Uint16(elements) => TensorData::Uint16(of(elements, count)),
        TensorData::Uint32(elements) => TensorData::Uint32(of(elements, count)),
        TensorData::Uint64(elements) => TensorData::Uint64(of(elements, count)),
        TensorData::Int8(elements) => TensorData::Int8(of(elements, count)),
        TensorData::Int16(elements) => TensorData::Int16(of(elements, count)),
        TensorData::Int32(elements) => TensorData::Int32(of(elements, count)),
        TensorData::Int64(elements) => TensorData::Int64(of(elements, count)),
        TensorData::Fp16(elements) => TensorData::Fp16(of(elements, count)),
        TensorData::Bf16(elements) => TensorData::Bf16(of(elements, count)),
        TensorData::Fp32(elements) => TensorData::Fp32(of(elements, count)),
        TensorData::Fp64(elements) => TensorData::Fp64(of(elements, count)),
        TensorData::Bytes(elements) => TensorData::Bytes(of(elements, count)),
    }
}

#[test]
fn what_does_not_fit_the_signature_is_refused_before_the_runtime_sees_it() {
    let mut session = loaded(&identity(Element::Float, &[-1, 2]));
    for input in [
        floats("x", &[2], &[0.0; 2]),
        floats("x", &[1, 3], &[0.0; 3]),
        floats("z", &[1, 2], &[0.0; 2]),
        tensor_of("x", &[1, 2], TensorData::Fp64(vec![0.0; 2].into())),
    ] {
        let refused = session.run(std::slice::from_ref(&input), None);
        assert!(matches!(refused, Err(RunError::InvalidInput(_))), "{input:?}: {refused:?}");
    }
    let mut session = loaded(&identity(Element::String, &[1]));
    for text in [&b"a\0b"[..], b"\xff"] {
        let refused = session.run(&[tensor_of("x", &[1], TensorData::Bytes(vec![text.to_vec()]))], None);
        assert!(matches!(refused, Err(RunError::InvalidInput(_))), "{refused:?}");
    }
}

/// `sum = a + b`, `difference = a - b`, `text`: a constant.
fn arithmetic() -> Vec<u8> {
    let two = tensor_type(Element::Float, &[2]);
    Graph {
        nodes: vec![
            node("Add", &["a", "b"], &["sum"], &[]),
            node("Sub", &["a", "b"], &["difference"], &[]),
            node("Identity", &["constant"], &["text"], &[]),
        ],
        constants: vec![string_tensor("constant", &[1], &[b"done"])],
        inputs: vec![value("a", &two), value("b", &two)],
        outputs: vec![
            value("sum", &two),
            value("difference", &two),
            value("text", &tensor_type(Element::String, &[1])),
        ],
        ..Graph::default()
    }
    .model()
}

#[test]
fn the_outputs_asked_for_come_in_the_order_asked_and_all_come_otherwise() {
    let mut session = loaded(&arithmetic());
    // In another order than the model's: it is the names that count.
    let inputs = [floats("b", &[2], &[1.0, 2.0]), floats("a", &[2], &[10.0, 20.0])];
    let sum = floats("sum", &[2], &[11.0, 22.0]);
    let difference = floats("difference", &[2], &[9.0, 18.0]);
    let text = tensor_of("text", &[1], TensorData::Bytes(vec![b"done".to_vec()]));
    assert_eq!(session.run(&inputs, None), Ok(vec![sum.clone(), difference.clone(), text.clone()]));
    for (asked, expected) in
        [(&["difference"][..], vec![difference.clone()]), (&["text", "sum"], vec![text, sum])]
    {
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(session.run(&inputs, Some(&asked)), Ok(expected));
    }
    let unknown = session.run(&inputs, Some(&["product".to_owned()]));
    assert!(matches!(unknown, Err(RunError::InvalidInput(_))), "{unknown:?}");
}

/// `y = x * scale`, where `scale` is a scalar that is 2 unless it is given, and `text` what `says` holds.
fn with_options() -> Vec<u8> {
    let row = tensor_type(Element::Float, &[-1, 2]);
    let text = tensor_type(Element::String, &[1]);
    Graph {
        nodes: vec![node("Mul", &["x", "scale"], &["y"], &[]), node("Identity", &["says"], &["text"], &[])],
        constants: vec![
            tensor("scale", Element::Float, &[], &2.0_f32.to_le_bytes()),
            string_tensor("says", &[1], &[b"nothing"]),
        ],
        inputs: vec![
            value("x", &row),
            value("scale", &tensor_type(Element::Float, &[])),
            value("says", &text),
        ],
        outputs: vec![value("y", &row), value("text", &text)],
        ..Graph::default()
    }
    .model()
}

#[test]
fn an_input_that_has_a_value_in_the_model_may_be_left_out_or_given() {
    let mut session = loaded(&with_options());
    let signature = session.signature().clone();
    let names = |specs: &[TensorSpec]| specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&signature.inputs), ["x"]);
    let mut optional = names(&signature.optional);
    optional.sort_unstable();
    assert_eq!(optional, ["says", "scale"]);
    let scale = signature.optional.iter().find(|spec| spec.name == "scale").unwrap();
    assert_eq!((scale.datatype, &*scale.shape), (Datatype::Fp32, &[][..]));

    let x = floats("x", &[1, 2], &[1.0, 2.0]);
    let says = |text: &[u8]| tensor_of("says", &[1], TensorData::Bytes(vec![text.to_vec()]));
    let text = |text: &[u8]| tensor_of("text", &[1], TensorData::Bytes(vec![text.to_vec()]));
    for (inputs, y, told) in [
        (vec![x.clone()], [2.0, 4.0], &b"nothing"[..]),
        (vec![floats("scale", &[], &[10.0]), x.clone()], [10.0, 20.0], b"nothing"),
        (vec![x.clone(), says(b"something")], [2.0, 4.0], b"something"),
        // What one request gave is not there for the next one.
        (vec![x.clone()], [2.0, 4.0], b"nothing"),
    ] {
        let outputs = session.run(&inputs, None);
        assert_eq!(outputs, Ok(vec![floats("y", &[1, 2], &y), text(told)]));
    }
    for wrong in [
        vec![floats("scale", &[], &[1.0])],
        vec![x.clone(), floats("scale", &[1], &[1.0])],
        vec![x.clone(), tensor_of("scale", &[], TensorData::Fp64(vec![1.0].into()))],
        vec![x.clone(), says(b"\xff")],
        vec![x, floats("scales", &[], &[1.0])],
    ] {
        let refused = session.run(&wrong, None);
        assert!(matches!(refused, Err(RunError::InvalidInput(_))), "{wrong:?}: {refused:?}");
    }
}

/// A model with one node, whose only output is of this type.
fn with_output(node: Message, kind: &Message) -> Vec<u8> {
    Graph {
        nodes: vec![node],
        inputs: vec![value("x", &tensor_type(Element::Float, &[1]))],
        outputs: vec![value("y", kind)],
        ..Graph::default()
    }
    .model()
}

#[test]
fn what_the_protocol_cannot_carry_is_refused_at_load_by_its_name() {
    let float = tensor_type(Element::Float, &[1]);
    let zip = ints_attribute("classlabels_int64s", &[5]);
    let sequence_input = Graph {
        nodes: vec![node("SequenceLength", &["x"], &["y"], &[])],
        inputs: vec![value("x", &sequence_type(&float))],
        outputs: vec![value("y", &tensor_type(Element::Int64, &[]))],
        ..Graph::default()
    };
    let map_input = Graph {
        nodes: vec![node_of("ai.onnx.ml", "CastMap", &["x"], &["y"], &[])],
        inputs: vec![value("x", &map_type(&tensor_type(Element::Float, &[])))],
        outputs: vec![value("y", &tensor_type(Element::Float, &[1, 1]))],
        ..Graph::default()
    };
    let optional_input = Graph {
        nodes: vec![node("OptionalHasElement", &["x"], &["y"], &[])],
        inputs: vec![value("x", &optional_type(&float))],
        outputs: vec![value("y", &tensor_type(Element::Bool, &[]))],
        ..Graph::default()
    };
    for (model, expected) in [
        (
            with_output(node("SequenceConstruct", &["x"], &["y"], &[]), &sequence_type(&float)),
            "output \"y\" is a sequence",
        ),
        (
            with_output(
                node_of("ai.onnx.ml", "ZipMap", &["x"], &["y"], &[zip]),
                &sequence_type(&map_type(&float)),
            ),
            "output \"y\" is a sequence",
        ),
        (
            with_output(node("Optional", &["x"], &["y"], &[]), &optional_type(&float)),
            "output \"y\" is optional",
        ),
        (sequence_input.model(), "input \"x\" is a sequence"),
        (map_input.model(), "input \"x\" is a map"),
        (optional_input.model(), "input \"x\" is optional"),
    ] {
        let said = refused(&model).to_string();
        assert!(said.starts_with(expected), "{said}");
        assert!(said.ends_with("export the model with tensors instead"), "{said}");
    }
}

#[test]
fn a_tensor_of_another_element_type_is_refused() {
    // The runtime knows the type and has no use for it.
    let said = refused(&identity(Element::Complex64, &[1])).to_string();
    assert!(said.contains("complex64"), "{said}");
    // The runtime takes it, and the protocol has no name for it.
    let float8 = tensor_type(Element::Float8e4m3fn, &[1]);
    let cast = node("Cast", &["x"], &["y"], &[int_attribute("to", 17)]);
    let model = Graph {
        nodes: vec![cast],
        inputs: vec![value("x", &tensor_type(Element::Float, &[1]))],
        outputs: vec![value("y", &float8)],
        ..Graph::default()
    };
    let said = refused(&model.model_of(19)).to_string();
    assert!(said.starts_with("output \"y\" is a tensor of "), "{said}");
}

#[test]
fn bytes_that_are_no_model_are_refused_in_one_line() {
    let good = identity(Element::Float, &[1]);
    let without_operator = with_output(node("NoSuchOperator", &["x"], &["y"], &[]), &Message::default());
    // What follows the graph are the operators' versions, and some of those may be missing.
    let graph_ends = good.len() - support::onnx::VERSIONS_BYTES;
    let parts = (0..graph_ends).map(|length| good[..length].to_vec());
    for bytes in parts.chain([vec![7; 100], b"not a model".to_vec(), without_operator]) {
        let LoadError::Refused(said) = refused(&bytes) else { panic!("{bytes:?}") };
        assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
    }
}

#[test]
fn a_model_cannot_read_files() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, [42; 16]).unwrap();
    let whole = secret.canonicalize().unwrap();
    let here = std::env::current_dir().unwrap();
    let beneath = whole.strip_prefix(&here).unwrap().to_str().unwrap();
    let whole = whole.to_str().unwrap();
    let above = format!("../..{whole}");
    let kind = tensor_type(Element::Uint8, &[16]);
    for location in [beneath, whole, &above, "Cargo.toml", "../null", "../zero", "..", ".", "", "a"] {
        let lies_elsewhere = external_tensor("c", Element::Uint8, &[16], &[("location", location)]);
        let as_constant = Graph {
            nodes: vec![node("Identity", &["c"], &["y"], &[])],
            constants: vec![lies_elsewhere.clone()],
            outputs: vec![value("y", &kind)],
            ..Graph::default()
        };
        let as_attribute = Graph {
            nodes: vec![node("Constant", &[], &["y"], &[tensor_attribute("value", &lies_elsewhere)])],
            outputs: vec![value("y", &kind)],
            ..Graph::default()
        };
        for graph in [as_constant, as_attribute] {
            let said = refused(&graph.model());
            assert!(matches!(said, LoadError::Refused(_)), "{location:?}: {said}");
        }
    }
}

#[test]
fn a_model_cannot_read_memory() {
    let bytes = [42_u8; 4096];
    let marker = "*/_ORT_MEM_ADDR_/*";
    let (at, length) = ((bytes.as_ptr() as usize).to_string(), bytes.len().to_string());
    let lies_here = external_tensor(
        "c",
        Element::Uint8,
        &[4096],
        &[("location", marker), ("offset", &at), ("length", &length)],
    );
    let kind = tensor_type(Element::Uint8, &[4096]);
    let model = Graph {
        nodes: vec![node("Identity", &["c"], &["y"], &[])],
        constants: vec![lies_here.clone()],
        outputs: vec![value("y", &kind)],
        ..Graph::default()
    };
    refused(&model.model());
    let model = Graph {
        nodes: vec![node("Constant", &[], &["y"], &[tensor_attribute("value", &lies_here)])],
        outputs: vec![value("y", &kind)],
        ..Graph::default()
    };
    refused(&model.model());
}

#[test]
fn a_run_that_fails_is_told_and_the_next_one_works() {
    let mut session = loaded(&looks_up());
    let index = |index| [tensor_of("x", &[1], TensorData::Int64(vec![index].into()))];
    for _ in 0..2 {
        let failed = session.run(&index(777_777), None).unwrap_err();
        assert!(matches!(failed, RunError::Failed(_)), "{failed:?}");
        assert_eq!(failed.to_string(), "the model failed to run");
        let answer = session.run(&index(1), None);
        assert_eq!(answer, Ok(vec![tensor_of("y", &[1], TensorData::Int64(vec![6].into()))]));
    }
}

#[test]
fn texts_of_a_model_that_are_no_utf8_fail_the_run_instead_of_being_changed() {
    let model = Graph {
        nodes: vec![node("Identity", &["c"], &["y"], &[])],
        constants: vec![string_tensor("c", &[1], &[b"\xff\xfe"])],
        outputs: vec![value("y", &tensor_type(Element::String, &[1]))],
        ..Graph::default()
    };
    let failed = loaded(&model.model()).run(&[], None);
    assert!(matches!(failed, Err(RunError::Failed(_))), "{failed:?}");
}

/// Set in the process that [`the_runtime_prints_nothing_of_a_request`] watches.
const WATCHED: &str = "TERRACE_TEST_WATCHED";

#[test]
fn the_runtime_prints_nothing_of_a_request() {
    #[allow(clippy::disallowed_methods)] // a flag from one process of this test to the other
    if std::env::var_os(WATCHED).is_some() {
        let index = tensor_of("x", &[1], TensorData::Int64(vec![777_777].into()));
        loaded(&looks_up()).run(&[index], None).unwrap_err();
        return;
    }
    let watched = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_runtime_prints_nothing_of_a_request", "--nocapture"])
        .env(WATCHED, "1")
        .output()
        .unwrap();
    let printed = [watched.stdout, watched.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(watched.status.success() && printed[0].contains("1 passed"), "{printed:?}");
    assert!(!printed.concat().contains("777777"), "{printed:?}");
    assert_eq!(printed[1], "", "the runtime prints on its own");
}
