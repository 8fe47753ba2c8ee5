//! The targets.

use std::cell::Cell;

use bytes::Bytes;
use terrace_coding::{Coding, FREE, RATIO, UnpackError, Unpacker};
use terrace_oip::proto::{ModelInferRequest, ModelInferResponse};
use terrace_oip::{DecodeError, DecodedResponse, Fault, InferRequest, Memory, RelayedResponse, grpc};

/// A kind of input, and what must hold for it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub check: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 4] = [
    Target { name: "json", check: json },
    Target { name: "request", check: request },
    Target { name: "grpc", check: grpc },
    Target { name: "coded", check: coded },
];

/// A request that is JSON as a whole, and answers of other tiers.
fn json(body: &[u8]) {
    let message = Bytes::copy_from_slice(body);
    checked(frugal(body.len(), |memory| InferRequest::from_http_within(&message, None, memory)));
    if let Err(error) = bounded(body.len(), || DecodedResponse::from_json(body)) {
        well_told(&error);
    }
    match frugal(body.len(), |memory| RelayedResponse::from_http(&message, None, memory)) {
        Ok(relayed) => {
            let text = relayed.to_json();
            let text = text.unwrap_or_else(|error| panic!("a relayed answer cannot be written: {error}"));
            assert_eq!(
                RelayedResponse::from_json(&text.concat().into()).as_ref(),
                Ok(&relayed),
                "relaying changes an answer"
            );
        }
        Err(error) => well_told(&error),
    }
}

/// A request with binary tensors behind its JSON. The first two bytes are the length of that.
fn request(input: &[u8]) {
    let Some((length, body)) = input.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    let message = Bytes::copy_from_slice(body);
    checked(frugal(body.len(), |memory| InferRequest::from_http_within(&message, Some(length), memory)));
    if let Err(error) = bounded(body.len(), || DecodedResponse::from_http(body, Some(length))) {
        well_told(&error);
    }
}

/// A message of gRPC.
fn grpc(message: &[u8]) {
    if let Some(request) = grpc_message::<ModelInferRequest>(message) {
        checked(frugal(2 * message.len(), |memory| InferRequest::from_grpc_within(request.clone(), memory)));
    }
    if let Some(answer) = grpc_message::<ModelInferResponse>(message) {
        let read =
            frugal(3 * message.len(), |memory| DecodedResponse::from_grpc_within(answer.clone(), memory));
        if let Err(error) = read {
            well_told(&error);
        }
    }
}

/// A message of a kind, if it is one.
fn grpc_message<M: grpc::Kind>(message: &[u8]) -> Option<M> {
    let memory = match bounded(0, || grpc::check::<M>(message)) {
        Ok(memory) => memory,
        Err(error) => {
            well_told(&error);
            return None;
        }
    };
    assert!(grpc::toil::<M>(message) <= message.len());
    let bytes = Bytes::copy_from_slice(message);
    at_most(ANYWAY + 2 * memory, || grpc::decode(bytes, Memory::UNBOUNDED)).ok()
}

/// A body in a coding. The first byte says which, and how large the pieces are in which it comes.
fn coded(input: &[u8]) {
    const LIMIT: usize = 8 << 20;
    // zstd's window, which is no larger whatever a frame says.
    const WINDOW: usize = 9 << 20;
    let Some((first, body)) = input.split_first() else { return };
    let (coding, size) = (Coding::ALL[usize::from(first % 3)], usize::from(first / 3) * 13 + 1);
    let most = LIMIT.min(FREE.max(body.len() * RATIO)) + (64 << 10);
    let unpack = || -> Result<Vec<u8>, UnpackError> {
        let mut unpacker = Unpacker::new(coding, LIMIT)?;
        for mut piece in body.chunks(size) {
            while unpacker.step(&mut piece)? {
                // It grows by half.
                let held = unpacker.held();
                assert!(held <= most + most / 2 + WINDOW, "{held} bytes of {}", body.len());
            }
        }
        unpacker.finish()
    };
    // A vector that grows is there twice for a moment.
    match at_most(3 * most + WINDOW, unpack) {
        Ok(bytes) => {
            assert!(bytes.len() <= most, "{} bytes of {}", bytes.len(), body.len());
            let Some(packed) = terrace_coding::pack(coding, &[&bytes], true) else {
                panic!("what was unpacked cannot be packed")
            };
            let mut again = Unpacker::new(coding, LIMIT).ok();
            let whole = again.as_mut().map(|again| {
                let mut piece = &*packed;
                while again.step(&mut piece) == Ok(true) {}
            });
            assert!(whole.is_some(), "no decoder");
            let again = again.map(Unpacker::finish);
            // Zeros may be packed too well to be taken.
            let is_dense = bytes.len() > FREE && bytes.len() / RATIO > packed.len();
            assert!(is_dense || again == Some(Ok(bytes)), "packing changes a body");
        }
        Err(error) => assert!(error.to_string().len() < 200, "{error}"),
    }
}

/// What is read is written and read again, and is the same.
fn checked(request: Result<InferRequest, DecodeError>) {
    let request = match request {
        Ok(request) => request,
        Err(error) => return well_told(&error),
    };
    let (body, length) = written(&request);
    let again = InferRequest::from_http(&body, Some(length));
    let again = again.unwrap_or_else(|error| panic!("a request cannot be read again: {error}"));
    // Numbers that are none differ from themselves, but not in their bytes.
    let (twice, _) = written(&again);
    assert!(body == twice, "a request changes when it is passed on");
}

/// A request as it is passed on over HTTP, and the length of its JSON.
fn written(request: &InferRequest) -> (Vec<u8>, usize) {
    let mut body = request.http_head().unwrap_or_else(|error| panic!("a request cannot be written: {error}"));
    let length = body.len();
    body.extend(request.raw_inputs(&Bytes::new()).concat());
    (body, length)
}

/// What is read takes no less memory than it asks for.
fn frugal<T>(input: usize, read: impl Fn(Memory<'_>) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    let asked = Cell::new(0);
    let take = |bytes| {
        asked.set(asked.get() + bytes);
        true
    };
    let got = bounded(input, || read(Memory::new(&take)));
    let most = asked.replace(0);
    let take = |bytes| {
        asked.set(asked.get() + bytes);
        asked.get() < most
    };
    let refused = read(Memory::new(&take)).err();
    // Where it fails otherwise, it may have failed before that.
    let is_refused = refused.is_some_and(|error| *error.fault() == Fault::NoMemory);
    assert!(is_refused || most == 0 || got.is_err(), "it does with less than it asks for");
    got
}

/// An error says where, and is no way to have a text repeated.
fn well_told(error: &DecodeError) {
    const LONG: usize = 2000;
    let text = error.to_string();
    assert!(text.len() < LONG, "an error of {} bytes", text.len());
    let is_whole = matches!(
        error.fault(),
        Fault::NotUtf8 { .. }
            | Fault::Syntax { .. }
            | Fault::NotProtobuf
            | Fault::NoMemory
            | Fault::Kind { .. }
            | Fault::TooMany { .. }
            | Fault::HeaderTooLong { .. }
            | Fault::BinaryTooLong { .. }
    );
    assert!(is_whole || !error.path().is_empty(), "an error that says nothing of where: {text}");
}

/// What one byte of a message may take, at most: an empty text of gRPC is two bytes there, and 32 in a list that may be
/// there twice and a half while it grows.
const A_BYTE: usize = 64;
/// What anything takes: errors, 256 inputs that hold nothing.
const ANYWAY: usize = 512 << 10;

fn bounded<T>(input: usize, work: impl FnOnce() -> T) -> T {
    at_most(ANYWAY + A_BYTE * input, work)
}

/// Does work that takes no more memory than that.
fn at_most<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let mut done = None;
    let counted = allocation_counter::measure(|| done = Some(work()));
    assert!(counted.bytes_max <= bytes as u64, "{} bytes of memory, more than {bytes}", counted.bytes_max);
    done.unwrap_or_else(|| panic!("the work was not done"))
}
