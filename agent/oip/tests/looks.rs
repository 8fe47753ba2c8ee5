//! Whatever takes long to read is given up once nobody waits for it: at times it is looked whether anybody does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

use std::cell::Cell;

use bytes::Bytes;
use terrace_oip::proto::ModelInferRequest;
use terrace_oip::{DecodeError, InferRequest, Memory, grpc};

/// What is read is about so long.
const LENGTH: usize = 4 << 20;
/// How often it is looked at least.
const LOOKS: usize = LENGTH >> 20;
const GIVEN_UP: &str = "takes more memory than there is";

/// Whether reading is given up where nobody waits any more after so many looks: of all, or of those after memory was taken
/// for the last time.
fn assert_looks<T>(what: &str, late: bool, read: impl Fn(Memory<'_>) -> Result<T, DecodeError>) {
    let (taken, most) = (Cell::new(0), Cell::new(0));
    let counting = |bytes: usize| {
        taken.set(taken.get() + usize::from(bytes > 0));
        true
    };
    let _ = read(Memory::new(&counting));
    most.set(if late { taken.get() } else { 0 });
    let (taken, looks) = (Cell::new(0), Cell::new(0));
    let take = |bytes: usize| {
        taken.set(taken.get() + usize::from(bytes > 0));
        looks.set(looks.get() + usize::from(bytes == 0 && taken.get() >= most.get()));
        bytes > 0 || looks.get() < LOOKS
    };
    let ended = read(Memory::new(&take)).map(drop).map_err(|error| error.to_string());
    let is_given_up = ended.as_ref().is_err_and(|error| error.ends_with(GIVEN_UP));
    assert!(is_given_up, "{what}, looked {} times: {ended:?}", looks.get());
}

#[test]
fn json_is_given_up_wherever_it_takes_long() {
    let whole = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}"#;
    let begun = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":["#;
    // Whoever reads them to the end finds them wrong there, but the second.
    for (what, begins, more) in [
        ("space in front", "", " "),
        ("space behind", whole, " "),
        ("space within", "{\"id\"", "\n"),
        ("a text", "{\"id\":\"", "x"),
        ("a text of escapes", "{\"id\":\"", "\\n"),
        ("a name", "{\"", "x"),
        ("elements before their type", "{\"inputs\":[{\"name\":\"x\",\"data\":[", "1,"),
        ("another field", "{\"other\":[", "0.25,"),
        ("rows in another field", "{\"other\":[", "[],"),
        ("members of another field", "{\"other\":{", "\"a\":1,"),
        ("elements", begun, "1,"),
        ("elements with an exponent", begun, "1e-5,"),
        ("rows without an element", begun, "[],"),
    ] {
        let body = Bytes::from(format!("{begins}{}", more.repeat(LENGTH / more.len())));
        assert_looks(what, false, |memory| InferRequest::from_http_within(&body, None, memory));
    }
}

#[test]
fn what_is_binary_is_given_up_while_it_is_copied() {
    for (datatype, elements, each) in [
        ("FP32", LENGTH / 4, &[0_u8; 4][..]),
        ("BOOL", LENGTH, &[1]),
        ("BYTES", LENGTH / 8, b"\x04\0\0\0text"),
    ] {
        let size = elements * each.len();
        let json = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{elements}],"parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        // It lies where no machine reads numbers.
        let lead = 8 - json.len() % 8 + 1;
        let body = Bytes::from([&vec![b' '; lead][..], json.as_bytes(), &each.repeat(elements)].concat());
        let length = Some(lead + json.len());
        let odd = |memory: Memory<'_>| InferRequest::from_http_within(&body.slice(..), length, memory);
        assert_looks(datatype, true, odd);
    }
}

/// A field of a message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut head = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        head.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    head.push(u8::try_from(length).unwrap());
    [&head, value].concat()
}

fn message(datatype: &str, contents: &[u8]) -> Bytes {
    let input = [field(1, b"x"), field(2, datatype.as_bytes()), field(5, contents)].concat();
    field(5, &input).into()
}

#[test]
fn a_message_is_given_up_while_it_is_checked_and_while_it_is_decoded() {
    let numbers = vec![1; LENGTH];
    for (what, message) in [
        ("texts", message("BYTES", &[0x42, 0].repeat(LENGTH / 2))),
        ("truths", message("BOOL", &field(1, &numbers))),
        ("long integers", message("INT64", &field(3, &numbers))),
        ("numbers by themselves", message("INT64", &[3 << 3, 1].repeat(LENGTH / 2))),
        ("decimals", message("FP32", &field(6, &vec![0; LENGTH]))),
        ("names again and again", field(5, &field(1, b"x").repeat(LENGTH / 3)).into()),
        ("contents again and again", field(5, &field(5, &[3 << 3, 1]).repeat(LENGTH / 4)).into()),
    ] {
        // What is packed and as large as it is in memory is not looked into before.
        if !["truths", "decimals"].contains(&what) {
            assert_looks(what, false, |memory| grpc::decode::<ModelInferRequest>(message.clone(), memory));
        }
        assert_looks(what, true, |memory| grpc::decode::<ModelInferRequest>(message.clone(), memory));
        let decoded = |memory: Memory<'_>| grpc::decode::<ModelInferRequest>(message.clone(), memory);
        assert!(decoded(Memory::UNBOUNDED).is_ok(), "{what}");
    }
}

#[test]
fn a_decoded_message_is_given_up_while_it_is_taken_apart() {
    for (what, bytes) in [
        ("texts", message("BYTES", &[0x42, 0].repeat(LENGTH / 2))),
        ("small integers", message("INT8", &field(2, &vec![1; LENGTH]))),
    ] {
        let message: ModelInferRequest = grpc::decode::<ModelInferRequest>(bytes, Memory::UNBOUNDED).unwrap();
        assert_looks(what, true, |memory| InferRequest::from_grpc_within(message.clone(), memory));
    }
}

#[test]
fn what_is_given_up_at_any_look_is_said_to_be_and_never_half_read() {
    let texts = message("BYTES", &[0x42, 1, b'x'].repeat(1 << 16));
    let looks = Cell::new(0);
    let count = |bytes: usize| {
        looks.set(looks.get() + usize::from(bytes == 0));
        true
    };
    let whole = grpc::decode::<ModelInferRequest>(texts.clone(), Memory::new(&count)).unwrap();
    for last in 1..=looks.get() {
        let looks = Cell::new(0);
        let take = |bytes: usize| {
            looks.set(looks.get() + usize::from(bytes == 0));
            looks.get() < last
        };
        match grpc::decode::<ModelInferRequest>(texts.clone(), Memory::new(&take)) {
            // At its very end there is nothing left to give up.
            Ok(read) => assert!(read == whole && last == looks.get(), "{last}"),
            Err(error) => assert!(error.to_string().ends_with(GIVEN_UP), "{error}"),
        }
    }
}
