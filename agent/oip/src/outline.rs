//! What the outputs of an answer are, without their elements; and whether there are as many of those as the shapes say.
//! Elements are passed over where they lie: none is decoded, and none copied.

use bytes::Bytes;

use crate::error::{DecodeError, Fault, JsonKind};
use crate::json::Reader;
use crate::limits::{MAX_PARAMETERS, MAX_TENSORS};
use crate::proto::InferTensorContents;
use crate::raw::{Tail, count_texts};
use crate::tensor::{Datatype, ShapeMismatch, element_count};
use crate::tensor_json::{BINARY_SIZE, name_of, read_shape, to_size};

/// What an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its name.
    pub name: String,
    /// The type of its elements; none where it is none of the protocol's.
    pub datatype: Option<Datatype>,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// Reads the array of outputs at the reader; names differ.
pub(crate) fn read_outlines(
    reader: &mut Reader<'_>,
    tail: &mut Tail<'_>,
) -> Result<Vec<Outline>, DecodeError> {
    let mut outlines: Vec<Outline> = Vec::new();
    reader.array(|reader, index| {
        if index == MAX_TENSORS {
            return Err(Fault::TooMany { what: "tensors", limit: MAX_TENSORS }.into());
        }
        let start = reader.clone();
        let outline = read_outline(reader, tail).map_err(|error| match name_of(start) {
            Some(name) => error.in_named(&name),
            None => error,
        })?;
        if let Some(first) = outlines.iter().position(|known| known.name == outline.name) {
            return Err(DecodeError::new(Fault::DuplicateName { first })
                .in_field("name")
                .in_named(&outline.name));
        }
        outlines.push(outline);
        Ok(())
    })?;
    Ok(outlines)
}

fn read_outline(reader: &mut Reader<'_>, tail: &mut Tail<'_>) -> Result<Outline, DecodeError> {
    let (mut name, mut shape, mut datatype) = (None, None, None);
    let (mut count, mut size) = (None, None);
    reader.object(|reader, key| {
        match key {
            "name" => name = Some(reader.string()?.into_owned()),
            "shape" => shape = Some(read_shape(reader)?),
            "datatype" => datatype = Some(Datatype::parse(&reader.string()?)),
            "parameters" => size = reader.optional(read_binary_size)?.flatten(),
            "data" if reader.kind()? == JsonKind::Null => {
                reader.skip()?;
            }
            "data" => count = Some(reader.count()?),
            _ => {
                reader.skip()?;
            }
        }
        Ok(())
    })?;
    let name = name.ok_or_else(|| DecodeError::missing("name"))?;
    let shape = shape.ok_or_else(|| DecodeError::missing("shape"))?;
    let datatype = datatype.ok_or_else(|| DecodeError::missing("datatype"))?;
    match (size, count) {
        (Some(_), Some(_)) => return Err(Fault::DataTwice.into()),
        (Some(size), None) => check_raw(datatype, &shape, tail.take(size)?.bytes)?,
        (None, Some(count)) => check_count(&shape, count)?,
        (None, None) => return Err(DecodeError::missing("data")),
    }
    Ok(Outline { name, datatype, shape })
}

/// Of the parameters of an output, how many bytes of it follow in binary. What the others are is not ours to say.
fn read_binary_size(reader: &mut Reader<'_>) -> Result<Option<usize>, DecodeError> {
    let mut size = None;
    reader.members(MAX_PARAMETERS, "parameters", |reader, name| {
        if name == BINARY_SIZE {
            let number = reader.number("a whole number")?;
            size = Some(to_size(number.to_integer("a size").ok())?);
        } else {
            reader.skip()?;
        }
        Ok(())
    })?;
    Ok(size)
}

/// There are as many elements as the shape asks for.
pub(crate) fn check_count(shape: &[usize], actual: usize) -> Result<(), Fault> {
    let expected = element_count(shape);
    if expected == Some(actual) {
        return Ok(());
    }
    Err(ShapeMismatch { shape: shape.to_vec(), expected, actual }.into())
}

/// The same of elements as they are sent raw. Of those of another type than the protocol's nobody can tell.
pub(crate) fn check_raw(datatype: Option<Datatype>, shape: &[usize], raw: &[u8]) -> Result<(), DecodeError> {
    let Some(datatype) = datatype else { return Ok(()) };
    let Some(size) = datatype.size() else { return Ok(check_count(shape, count_texts(raw)?)?) };
    let expected = element_count(shape).and_then(|count| count.checked_mul(size));
    if expected == Some(raw.len()) {
        return Ok(());
    }
    Err(Fault::BinarySize { datatype: datatype.as_str(), shape: shape.to_vec(), actual: raw.len() }.into())
}

/// The same of typed elements, and of those that are raw.
pub(crate) fn check_message(
    datatype: Datatype,
    shape: &[usize],
    raw: Option<&Bytes>,
    typed: Option<&InferTensorContents>,
) -> Result<(), DecodeError> {
    match (raw, typed) {
        (Some(raw), _) => check_raw(Some(datatype), shape, raw),
        (None, typed) => {
            let count = typed.map_or(0, |typed| count_typed(datatype, typed));
            Ok(check_count(shape, count).map_err(|fault| DecodeError::new(fault).in_field("contents"))?)
        }
    }
}

/// How many elements of a type a message has in that type's field.
fn count_typed(datatype: Datatype, contents: &InferTensorContents) -> usize {
    match datatype {
        Datatype::Bool => contents.bool_contents.len(),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => contents.uint_contents.len(),
        Datatype::Uint64 => contents.uint64_contents.len(),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => contents.int_contents.len(),
        Datatype::Int64 => contents.int64_contents.len(),
        // These have none.
        Datatype::Fp16 | Datatype::Bf16 => 0,
        Datatype::Fp32 => contents.fp32_contents.len(),
        Datatype::Fp64 => contents.fp64_contents.len(),
        Datatype::Bytes => contents.bytes_contents.len(),
    }
}
