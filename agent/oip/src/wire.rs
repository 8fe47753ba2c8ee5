//! The bytes of gRPC's requests and answers, looked over before anything is made of them. Each tensor of a message may be two
//! bytes there and hundreds in memory; so what there may be only so many of is counted first.

use bytes::{Buf, Bytes};

use crate::error::{DecodeError, Fault};
use crate::limits::{MAX_MESSAGE_FIELDS, MAX_PARAMETERS, MAX_RANK, MAX_TENSORS};
use crate::memory::{Memory, Pace, of_text};
use crate::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::proto::{ModelInferRequest, ModelInferResponse};
use crate::tensor::Datatype;

/// By how much a list may be larger than what is in it: it doubles when it is full.
const GROWTH: usize = 2;
/// What a parameter takes, about, with its place in a map.
const PARAMETER: usize = 128;
/// A copy takes a small part of the time that looking at each byte does.
const COPIED: usize = 16;

/// How many packed numbers are counted at once.
const PIECE: usize = 64 << 10;

/// What a message is, and under which numbers its fields come.
pub trait Kind: prost::Message + Default {
    /// Its tensors, and what they are called.
    const TENSORS: (u64, &str);
    /// The outputs that it asks for.
    const REQUESTED: Option<u64>;
    /// The raw elements of its tensors, and what they are called.
    const RAW: (u64, &str);
}

impl Kind for ModelInferRequest {
    const TENSORS: (u64, &str) = (5, "inputs");
    const REQUESTED: Option<u64> = Some(6);
    const RAW: (u64, &str) = (7, "raw_input_contents");
}

impl Kind for ModelInferResponse {
    const TENSORS: (u64, &str) = (5, "outputs");
    const REQUESTED: Option<u64> = None;
    const RAW: (u64, &str) = (6, "raw_output_contents");
}

/// A message of these bytes, which are checked before it is made. Its raw elements stay where they are.
pub fn decode<M: Kind>(message: Bytes, memory: Memory<'_>) -> Result<M, DecodeError> {
    memory.take(check_within::<M>(&message, memory)?)?;
    let mut awaited = Awaited { rest: message, pace: Pace::new(memory), is_given_up: false };
    let decoded = M::decode(&mut awaited);
    if awaited.is_given_up {
        return Err(Fault::NoMemory.into());
    }
    decoded.map_err(|_| Fault::NotProtobuf.into())
}

/// Bytes that end once nobody waits for what becomes of them: a decoder looks at no clock.
struct Awaited<'a> {
    rest: Bytes,
    pace: Pace<'a>,
    is_given_up: bool,
}

impl Awaited<'_> {
    /// A number is at most so long, and decoders rely on what they have seen of it.
    const NUMBER: usize = 10;

    fn went_on(&mut self, bytes: usize) {
        if self.pace.step(bytes).is_err() && self.rest.len() > Self::NUMBER {
            self.is_given_up = true;
            self.rest.clear();
        }
    }
}

impl Buf for Awaited<'_> {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.rest
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        self.went_on(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let bytes = self.rest.split_to(length);
        self.went_on(0);
        bytes
    }
}

/// Checks the bytes of a message: they hold no more of anything than one may have. How much memory the message takes beside
/// its bytes, about and rather too much than too little; its raw elements stay where they are.
pub fn check<M: Kind>(message: &[u8]) -> Result<usize, DecodeError> {
    check_within::<M>(message, Memory::UNBOUNDED)
}

fn check_within<M: Kind>(message: &[u8], memory: Memory<'_>) -> Result<usize, DecodeError> {
    let pace = &Pace::new(memory);
    let (mut fields, mut parameters, mut inputs, mut outputs, mut raw) = (0, 0, 0, 0, 0);
    let mut memory = 0;
    for field in Fields::paced(message, pace) {
        count(&mut fields, MAX_MESSAGE_FIELDS, "fields")?;
        memory += match field? {
            (4, value) => count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map(|()| PARAMETER + value.len())
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?,
            (field, Value::Bytes(input)) if field == M::TENSORS.0 => {
                let index = inputs;
                let checked = count(&mut inputs, MAX_TENSORS, "tensors").map_err(DecodeError::new);
                checked
                    .and_then(|()| check_input(input, pace).map_err(|error| error.in_item(index)))
                    .map_err(|error| error.in_field(M::TENSORS.1))?
            }
            (field, Value::Bytes(output)) if Some(field) == M::REQUESTED => {
                let index = outputs;
                let checked = count(&mut outputs, MAX_TENSORS, "outputs").map_err(DecodeError::new);
                checked
                    .and_then(|()| check_output(output, pace).map_err(|error| error.in_item(index)))
                    .map_err(|error| error.in_field("outputs"))?
            }
            (field, _) if field == M::RAW.0 => count(&mut raw, MAX_TENSORS, "raw contents")
                .map(|()| GROWTH * size_of::<Bytes>())
                .map_err(|fault| DecodeError::new(fault).in_field(M::RAW.1))?,
            // Names.
            (_, value) => of_text(value.len()),
        };
    }
    Ok(memory)
}

/// About how many bytes of such a message have to be looked at one by one until it is read: numbers that are raw are only
/// copied.
pub fn toil<M: Kind>(message: &[u8]) -> usize {
    let mut raw = 0;
    for field in Fields::few(message).take(MAX_MESSAGE_FIELDS) {
        match field {
            Ok((field, Value::Bytes(tensor))) if field == M::TENSORS.0 && holds_texts(tensor) => {
                return message.len();
            }
            Ok((field, Value::Bytes(elements))) if field == M::RAW.0 => raw += elements.len(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    message.len() - raw + raw / COPIED
}

/// Whether a tensor is one of texts, or hides what it is.
fn holds_texts(input: &[u8]) -> bool {
    /// It stands near the beginning.
    const NEAR: usize = 16;
    let datatype = Fields::few(input).take(NEAR).find_map(|field| match field {
        Ok((2, Value::Bytes(name))) => Some(name),
        _ => None,
    });
    datatype.is_none_or(|name| name == Datatype::Bytes.as_str().as_bytes())
}

/// What a tensor takes; those of answers have the same fields.
fn check_input(input: &[u8], pace: &Pace<'_>) -> Result<usize, DecodeError> {
    let (mut dimensions, mut parameters) = (0, 0);
    let mut memory = GROWTH * size_of::<InferInputTensor>();
    for field in Fields::paced(input, pace) {
        memory += match field? {
            (3, value) => {
                let more = match value {
                    Value::Number => 1,
                    Value::Bytes(packed) => varints(packed, pace)?,
                };
                dimensions += more;
                if dimensions > MAX_RANK {
                    let fault = Fault::TooMany { what: "dimensions", limit: MAX_RANK };
                    return Err(DecodeError::new(fault).in_field("shape"));
                }
                more * GROWTH * size_of::<i64>()
            }
            (4, value) => count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map(|()| PARAMETER + value.len())
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?,
            (5, Value::Bytes(contents)) => {
                contents_memory(contents, pace).map_err(|error| error.in_field("contents"))?
            }
            // Its name is copied for errors, too.
            (_, value) => 2 * of_text(value.len()),
        };
    }
    Ok(memory)
}

/// What typed elements take: a number of one byte may be eight in memory, and a text of none a few dozen.
fn contents_memory(contents: &[u8], pace: &Pace<'_>) -> Result<usize, DecodeError> {
    let mut memory = 0;
    for field in Fields::paced(contents, pace) {
        memory += match field? {
            (1 | 6 | 7, Value::Bytes(packed)) => packed.len(),
            (2 | 4, Value::Bytes(packed)) => varints(packed, pace)? * size_of::<i32>(),
            (3 | 5, Value::Bytes(packed)) => varints(packed, pace)? * size_of::<i64>(),
            (8, Value::Bytes(_)) => size_of::<Bytes>(),
            (_, Value::Number) => size_of::<i64>(),
            (_, Value::Bytes(_)) => 0,
        };
    }
    Ok(memory * GROWTH)
}

/// How many numbers are packed there: each ends with the byte whose highest bit is not set.
fn varints(packed: &[u8], pace: &Pace<'_>) -> Result<usize, Fault> {
    packed.chunks(PIECE).try_fold(0, |count, piece| {
        pace.step(piece.len())?;
        Ok(count + piece.iter().filter(|byte| **byte < 0x80).count())
    })
}

/// What a requested output takes.
fn check_output(output: &[u8], pace: &Pace<'_>) -> Result<usize, DecodeError> {
    let mut parameters = 0;
    let mut memory = GROWTH * size_of::<InferRequestedOutputTensor>();
    for field in Fields::paced(output, pace) {
        memory += match field? {
            (2, value) => count(&mut parameters, MAX_PARAMETERS, "parameters")
                .map(|()| PARAMETER + value.len())
                .map_err(|fault| DecodeError::new(fault).in_field("parameters"))?,
            (_, value) => of_text(value.len()),
        };
    }
    Ok(memory)
}

fn count(so_far: &mut usize, limit: usize, what: &'static str) -> Result<(), Fault> {
    *so_far += 1;
    if *so_far > limit { Err(Fault::TooMany { what, limit }) } else { Ok(()) }
}

/// The fields of a message, one after the other.
struct Fields<'a> {
    rest: &'a [u8],
    pace: Option<&'a Pace<'a>>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// How many bytes it is, if it is any.
    const fn len(&self) -> usize {
        match self {
            Self::Number => 0,
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some(Err(given_up)) = self.pace.map(|pace| pace.step(0)) {
            self.rest = &[];
            return Some(Err(given_up.into()));
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or_else(|| Fault::NotProtobuf.into()))
    }
}

impl<'a> Fields<'a> {
    /// Of which there may be any number.
    const fn paced(message: &'a [u8], pace: &'a Pace<'a>) -> Self {
        Self { rest: message, pace: Some(pace) }
    }

    /// Of which only the first are wanted.
    const fn few(message: &'a [u8]) -> Self {
        Self { rest: message, pace: None }
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => self.varint().map(|_| Value::Number)?,
            1 => self.take(8).map(|_| Value::Number)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Number)?,
            // Groups are older than the protocol.
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (place, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.rest = self.rest.get(place + 1..)?;
                return Some(value);
            }
        }
        None
    }
}
