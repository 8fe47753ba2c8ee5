//! What requests take in memory, which is known before it is taken: an allocator that counts says whether that is true.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::cell::Cell;

use bytes::Bytes;
use prost::Message as _;
use terrace_oip::proto::ModelInferRequest;
use terrace_oip::proto::model_infer_request::InferInputTensor;
use terrace_oip::{DecodeError, Fault, InferRequest, Memory, grpc};

/// Elements of each request.
const MANY: usize = 300_000;
/// What anything takes.
const ANYWAY: usize = 64 << 10;

/// A request over HTTP, and the length of its JSON where there is more.
fn http(datatype: &str, element: &str, is_shape_known: bool) -> (Vec<u8>, Option<usize>) {
    let data = vec![element; MANY].join(",");
    let (shape, data) = (format!("\"shape\":[{MANY}]"), format!("\"data\":[{data}]"));
    let (one, other) = if is_shape_known { (&shape, &data) } else { (&data, &shape) };
    (format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}",{one},{other}}}]}}"#).into_bytes(), None)
}

fn binary(datatype: &str, elements: &[u8]) -> (Vec<u8>, Option<usize>) {
    let size = elements.len();
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{MANY}],"parameters":{{"binary_data_size":{size}}}}}]}}"#
    );
    ([json.as_bytes(), elements].concat(), Some(json.len()))
}

/// The bytes of a message of one input, with elements in their field of its contents, or raw.
fn message(datatype: &str, contents: &[u8], raw: Option<&[u8]>) -> Bytes {
    let input = InferInputTensor {
        name: "x".to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![i64::try_from(MANY).unwrap()],
        ..InferInputTensor::default()
    };
    let mut input = input.encode_to_vec();
    if raw.is_none() {
        prost::encoding::encode_key(5, prost::encoding::WireType::LengthDelimited, &mut input);
        prost::encoding::encode_varint(contents.len() as u64, &mut input);
        input.extend_from_slice(contents);
    }
    let mut message = Vec::new();
    for (tag, bytes) in [(5, Some(&*input)), (7, raw)] {
        let Some(bytes) = bytes else { continue };
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(bytes.len() as u64, &mut message);
        message.extend_from_slice(bytes);
    }
    message.into()
}

/// A field of numbers that are packed.
fn packed(tag: u32, numbers: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(numbers.len() as u64, &mut field);
    [&field, numbers].concat()
}

/// Reads what asks for memory, of which there is so much. What it asked for, the most that it took, and how it ended.
fn measured<R, T>(
    most: usize,
    ready: R,
    read: impl FnOnce(R, Memory<'_>) -> Result<T, DecodeError>,
) -> (usize, usize, Option<Fault>) {
    let asked = Cell::new(0);
    let take = |bytes| {
        let is_there = asked.get() + bytes <= most;
        asked.set(asked.get() + if is_there { bytes } else { 0 });
        is_there
    };
    let mut fault = None;
    let counted = allocation_counter::measure(|| {
        fault = read(ready, Memory::new(&take)).err().map(|error| error.fault().clone());
    });
    (asked.get(), usize::try_from(counted.bytes_max).unwrap(), fault)
}

/// Where there is enough, no more is taken than was asked for; where there is too little, no more than there is. A vector
/// that grows is there twice for a moment, to this allocator.
fn assert_frugal<R, T>(
    what: &str,
    ready: impl Fn() -> R,
    read: impl Fn(R, Memory<'_>) -> Result<T, DecodeError>,
) {
    let (asked, took, fault) = measured(usize::MAX, ready(), &read);
    println!("{what}: asks for {} KiB and takes {} KiB", asked >> 10, took >> 10);
    assert_eq!(fault, None, "{what}");
    assert!(took <= 2 * asked + ANYWAY, "{what}: asks for {asked} bytes and takes {took}");
    assert!(asked <= 4 * took + ANYWAY, "{what}: asks for {asked} bytes and takes {took}");
    for share in [2, 10, 1000] {
        let (_, took, fault) = measured(asked / share, ready(), &read);
        assert_eq!(fault, Some(Fault::NoMemory), "{what}, 1/{share}");
        assert!(
            took <= 2 * asked / share + ANYWAY,
            "{what}: {took} bytes where there are 1/{share} of {asked}"
        );
    }
}

#[test]
fn a_request_over_http_takes_no_more_memory_than_it_asks_for() {
    let texts = b"\x01\0\0\0x".repeat(MANY);
    for (what, (body, json_length)) in [
        ("texts without a letter", http("BYTES", "\"\"", true)),
        ("texts", http("BYTES", "\"abcdefgh\"", true)),
        ("texts of escapes", http("BYTES", "\"\\u0041\\n\"", false)),
        ("texts, their shape behind them", http("BYTES", "\"\"", false)),
        ("long numbers", http("FP64", "1", true)),
        ("long numbers, their shape behind them", http("FP64", "1", false)),
        ("short numbers", http("UINT8", "1", true)),
        ("short decimals", http("FP32", "0.5", true)),
        ("short decimals, their shape behind them", http("FP32", "0.5", false)),
        ("binary texts without a letter", binary("BYTES", &vec![0; 4 * MANY])),
        ("binary texts", binary("BYTES", &texts)),
        ("binary numbers", binary("FP32", &vec![0; 4 * MANY])),
        ("binary truths", binary("BOOL", &vec![0; MANY])),
    ] {
        let body = ending_at(1, &body);
        assert_frugal(what, || (), |(), memory| InferRequest::from_http_within(&body, json_length, memory));
    }
}

#[test]
fn numbers_that_lie_well_take_no_memory() {
    let (body, json_length) = binary("FP32", &vec![0; 4 * MANY]);
    let body = ending_at(0, &body);
    let read = |(), memory: Memory<'_>| InferRequest::from_http_within(&body, json_length, memory);
    assert_free(measured(ANYWAY, (), read));

    let message = ending_at(0, &message("FP32", &[], Some(&vec![0; 4 * MANY])));
    let message = ModelInferRequest::decode(message).unwrap();
    assert_free(measured(ANYWAY, message, InferRequest::from_grpc_within));
}

fn assert_free((asked, took, fault): (usize, usize, Option<Fault>)) {
    assert_eq!(fault, None);
    assert!(asked.max(took) <= ANYWAY, "asks for {asked} bytes and takes {took}");
}

/// A copy of these bytes that ends so many bytes behind where any number may lie.
fn ending_at(place: usize, bytes: &[u8]) -> Bytes {
    let mut copy: Vec<u8> = Vec::with_capacity(bytes.len() + 16);
    let lead = (copy.as_ptr().wrapping_add(bytes.len()).align_offset(8) + place) % 8;
    copy.resize(lead, b' ');
    copy.extend_from_slice(bytes);
    let copy = Bytes::from(copy).slice(lead..);
    assert_eq!(copy.as_ptr_range().end.addr() % 8, place);
    copy
}

#[test]
fn a_message_of_grpc_takes_no_more_memory_than_was_known_before() {
    let texts = b"\x42\x01x".repeat(MANY);
    for (what, bytes) in [
        ("texts without a letter", message("BYTES", &b"\x42\0".repeat(MANY), None)),
        ("texts", message("BYTES", &texts, None)),
        ("raw texts without a letter", message("BYTES", &[], Some(&vec![0; 4 * MANY]))),
        ("raw numbers", message("FP32", &[], Some(&vec![0; 4 * MANY]))),
        ("truths", message("BOOL", &packed(1, &vec![1; MANY]), None)),
        ("small integers", message("INT8", &packed(2, &vec![1; MANY]), None)),
        ("integers", message("INT32", &packed(2, &vec![1; MANY]), None)),
        ("long integers", message("INT64", &packed(3, &vec![1; MANY]), None)),
        ("long integers, each by itself", message("INT64", &[3 << 3, 1].repeat(MANY), None)),
        ("bytes", message("UINT8", &packed(4, &vec![1; MANY]), None)),
        ("long naturals", message("UINT64", &packed(5, &vec![1; MANY]), None)),
        ("decimals", message("FP32", &packed(6, &vec![0; 4 * MANY]), None)),
        ("long decimals", message("FP64", &packed(7, &vec![0; 8 * MANY]), None)),
    ] {
        let bytes = ending_at(1, &bytes);
        let known = grpc::check::<ModelInferRequest>(&bytes).unwrap();
        let mut decoded = None;
        let counted = allocation_counter::measure(|| decoded = ModelInferRequest::decode(bytes.clone()).ok());
        let took = usize::try_from(counted.bytes_max).unwrap();
        println!("{what}: known are {} KiB, decoded {} KiB", known >> 10, took >> 10);
        assert!(took <= known + known / 2 + ANYWAY, "{what}: {known} bytes are known and {took} taken");
        assert!(known <= 4 * took + ANYWAY, "{what}: {known} bytes are known and {took} taken");
        if what.contains("small") || what.contains("texts") || what.contains("raw") || what == "bytes" {
            let decoded = || decoded.clone().unwrap();
            assert_frugal(what, decoded, InferRequest::from_grpc_within);
        }
    }
}
