//! A tensor's elements as the bytes that the binary tensor extension and gRPC carry: little-endian, row-major, without
//! gaps; each element of `BYTES` behind its length in four bytes.

use bytes::Bytes;
use zerocopy::IntoBytes;

use crate::error::{DecodeError, Fault};
use crate::memory::{Memory, Pace, of_text};
use crate::outline::check_raw;
use crate::tensor::{Datatype, TensorData};
use crate::values::{Number, Values};

#[cfg(target_endian = "big")]
compile_error!("tensors lie in memory as they are sent, which is little-endian");

/// How many bytes are copied at once: whole numbers of each type.
const PIECE: usize = 1 << 20;

/// How many bytes precede an element of `BYTES`.
const LENGTH_BYTES: usize = 4;

/// Elements as bytes, without a copy of them.
#[derive(Debug)]
pub struct Raw(TensorData);

impl Datatype {
    /// The size of an element; `None` where each has its own.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl TensorData {
    /// Reads the elements of a tensor of this shape. The bytes may lie anywhere, aligned or not; numbers stay there where they
    /// can.
    pub(crate) fn from_raw(
        datatype: Datatype,
        shape: &[usize],
        raw: Part<'_>,
        memory: Memory<'_>,
    ) -> Result<Self, DecodeError> {
        if datatype.size().is_some() {
            check_raw(Some(datatype), shape, raw.bytes)?;
        }
        Ok(match datatype {
            Datatype::Bool => Self::Bool(booleans(raw.bytes, memory)?),
            Datatype::Uint8 => Self::Uint8(numbers(raw, memory)?),
            Datatype::Uint16 => Self::Uint16(numbers(raw, memory)?),
            Datatype::Uint32 => Self::Uint32(numbers(raw, memory)?),
            Datatype::Uint64 => Self::Uint64(numbers(raw, memory)?),
            Datatype::Int8 => Self::Int8(numbers(raw, memory)?),
            Datatype::Int16 => Self::Int16(numbers(raw, memory)?),
            Datatype::Int32 => Self::Int32(numbers(raw, memory)?),
            Datatype::Int64 => Self::Int64(numbers(raw, memory)?),
            Datatype::Fp16 => Self::Fp16(numbers(raw, memory)?),
            Datatype::Bf16 => Self::Bf16(numbers(raw, memory)?),
            Datatype::Fp32 => Self::Fp32(numbers(raw, memory)?),
            Datatype::Fp64 => Self::Fp64(numbers(raw, memory)?),
            Datatype::Bytes => return texts(raw.bytes, memory).map(Self::Bytes),
        })
    }

    /// How many bytes [`TensorData::into_raw`] has.
    pub fn raw_size(&self) -> usize {
        match (self, self.datatype().size()) {
            (Self::Bytes(texts), _) => texts.iter().map(|text| LENGTH_BYTES + text.len()).sum(),
            (_, size) => self.len() * size.unwrap_or_default(),
        }
    }

    /// The elements as bytes.
    pub fn into_raw(self) -> Raw {
        if let Self::Bytes(_) = self {
            let mut raw = Vec::with_capacity(self.raw_size());
            self.append_raw(&mut raw);
            return Raw(Self::Uint8(raw.into()));
        }
        Raw(self)
    }

    /// Writes the elements behind what is there.
    pub(crate) fn append_raw(&self, raw: &mut Vec<u8>) {
        match self {
            Self::Bytes(texts) => {
                for text in texts {
                    // No body comes near 4 GiB.
                    raw.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                    raw.extend_from_slice(text);
                }
            }
            numbers => raw.extend_from_slice(bytes_of(numbers)),
        }
    }
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        bytes_of(&self.0)
    }
}

/// The memory of elements that are as large as each other; texts lie apart.
fn bytes_of(data: &TensorData) -> &[u8] {
    match data {
        TensorData::Bool(values) => values.as_bytes(),
        TensorData::Uint8(values) => values,
        TensorData::Uint16(values) => values.as_bytes(),
        TensorData::Uint32(values) => values.as_bytes(),
        TensorData::Uint64(values) => values.as_bytes(),
        TensorData::Int8(values) => values.as_bytes(),
        TensorData::Int16(values) => values.as_bytes(),
        TensorData::Int32(values) => values.as_bytes(),
        TensorData::Int64(values) => values.as_bytes(),
        TensorData::Fp16(values) => values.as_bytes(),
        TensorData::Bf16(values) => values.as_bytes(),
        TensorData::Fp32(values) => values.as_bytes(),
        TensorData::Fp64(values) => values.as_bytes(),
        TensorData::Bytes(_) => &[],
    }
}

/// Where they lie, if they may stay there; else one allocation and one copy, whatever the alignment.
fn numbers<T: Number>(raw: Part<'_>, memory: Memory<'_>) -> Result<Values<T>, Fault> {
    if let Some(values) = raw.shared().and_then(Values::within) {
        return Ok(values);
    }
    memory.take(raw.bytes.len())?;
    // Each piece is as long as a number, so none is made up; and nothing is written twice, as zeros would be.
    let number = |bytes| T::read_from_bytes(bytes).unwrap_or_else(|_| T::new_zeroed());
    let mut numbers = Vec::with_capacity(raw.bytes.len() / size_of::<T>());
    for piece in raw.bytes.chunks(PIECE) {
        memory.look()?;
        numbers.extend(piece.chunks_exact(size_of::<T>()).map(number));
    }
    Ok(numbers.into())
}

fn booleans(raw: &[u8], memory: Memory<'_>) -> Result<Vec<bool>, DecodeError> {
    memory.take(raw.len())?;
    let mut booleans = Vec::with_capacity(raw.len());
    for piece in raw.chunks(PIECE) {
        memory.look()?;
        if let Some(element) = piece.iter().position(|byte| *byte > 1) {
            return Err(DecodeError::new(Fault::NotABoolean).in_element(booleans.len() + element));
        }
        booleans.extend(piece.iter().map(|byte| *byte == 1));
    }
    Ok(booleans)
}

/// Counted first, since four bytes become dozens.
fn texts(raw: &[u8], memory: Memory<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let pace = Pace::new(memory);
    let (mut rest, mut count, mut bytes) = (raw, 0, 0);
    while !rest.is_empty() {
        pace.step(0)?;
        let text =
            text(&mut rest).ok_or_else(|| DecodeError::new(Fault::LengthTooLarge).in_element(count))?;
        count += 1;
        bytes += of_text(text.len());
    }
    memory.take(count * size_of::<Vec<u8>>() + bytes)?;
    let mut texts = Vec::with_capacity(count);
    rest = raw;
    while let Some(text) = text(&mut rest) {
        pace.step(text.len())?;
        texts.push(text.to_vec());
    }
    Ok(texts)
}

/// How many elements of `BYTES` these are.
pub(crate) fn count_texts(raw: &[u8]) -> Result<usize, DecodeError> {
    let (mut count, mut rest) = (0, raw);
    while !rest.is_empty() {
        text(&mut rest).ok_or_else(|| DecodeError::new(Fault::LengthTooLarge).in_element(count))?;
        count += 1;
    }
    Ok(count)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (text, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

/// Raw elements, and the message that they are a part of, where that may be kept for their sake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) bytes: &'a [u8],
    message: Option<&'a Bytes>,
}

impl<'a> Part<'a> {
    /// How many bytes there are at least where a copy costs more than to share them.
    const LARGE: usize = 4 << 10;

    /// All of a message.
    pub(crate) fn whole(message: &'a Bytes) -> Self {
        Self { bytes: message, message: Some(message) }
    }

    /// Of a message that is not kept.
    pub(crate) const fn lent(bytes: &'a [u8]) -> Self {
        Self { bytes, message: None }
    }

    fn shared(self) -> Option<Bytes> {
        let message = self.message.filter(|_| self.bytes.len() >= Self::LARGE)?;
        Some(message.slice_ref(self.bytes))
    }

    fn split(self, at: usize) -> Option<(Self, Self)> {
        let (first, rest) = self.bytes.split_at_checked(at)?;
        Some((Self { bytes: first, ..self }, Self { bytes: rest, ..self }))
    }
}

/// The binary part of a message: what follows its JSON, in the order of the tensors that it belongs to.
#[derive(Debug)]
pub(crate) struct Tail<'a> {
    /// `None` where the message has no such part.
    rest: Option<Part<'a>>,
}

impl<'a> Tail<'a> {
    /// Of a message without one.
    pub(crate) const fn none() -> Self {
        Self { rest: None }
    }

    /// Splits a message whose first `json_length` bytes are JSON.
    pub(crate) fn split(
        message: Part<'a>,
        json_length: Option<usize>,
    ) -> Result<(&'a [u8], Self), DecodeError> {
        let Some(json_length) = json_length else { return Ok((message.bytes, Self::none())) };
        let (json, rest) = message
            .split(json_length)
            .ok_or(Fault::HeaderTooLong { claimed: json_length, actual: message.bytes.len() })?;
        Ok((json.bytes, Self { rest: Some(rest) }))
    }

    /// The next so many bytes.
    pub(crate) fn take(&mut self, size: usize) -> Result<Part<'a>, Fault> {
        let rest = self.rest.ok_or(Fault::NoBinary)?;
        let too_short = Fault::BinaryTooShort { claimed: size, left: rest.bytes.len() };
        let (taken, rest) = rest.split(size).ok_or(too_short)?;
        self.rest = Some(rest);
        Ok(taken)
    }

    /// Nothing is left.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        match self.rest.map_or(0, |rest| rest.bytes.len()) {
            0 => Ok(()),
            bytes => Err(Fault::BinaryTooLong { bytes }),
        }
    }
}
