//! A tensor as JSON: an object with `name`, `shape`, `datatype`, `data` and perhaps `parameters`, in any order.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::elements::Elements;
use crate::error::{DecodeError, Fault, JsonKind};
use crate::json::{Reader, decode};
use crate::limits::{MAX_RANK, MAX_TENSORS};
use crate::parameters::Parameters;
use crate::raw::Tail;
use crate::tensor::{Datatype, Tensor, TensorData};

/// The parameter by which an input or output says that its elements are in the binary tensor extension's form.
pub(crate) const BINARY_SIZE: &str = "binary_data_size";

/// A tensor in the protocol's form inside other JSON, such as a file of verification cases. Its parameters are
/// checked and dropped.
///
/// Works with `serde_json` only, and not inside `#[serde(flatten)]` or `#[serde(untagged)]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WireTensor(pub Tensor);

impl<'de> Deserialize<'de> for WireTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let read = |reader: &mut Reader<'_>| read_tensor(reader, &mut Tail::none());
        let (tensor, _) = decode(text.get().as_bytes(), read).map_err(D::Error::custom)?;
        Ok(Self(tensor))
    }
}

/// Reads the array of tensors at the reader, whose elements stand there or come from the tail; names must differ.
pub(crate) fn read_tensors(
    reader: &mut Reader<'_>,
    tail: &mut Tail<'_>,
) -> Result<Vec<(Tensor, Parameters)>, DecodeError> {
    let mut tensors: Vec<(Tensor, Parameters)> = Vec::new();
    reader.array(|reader, index| {
        if index == MAX_TENSORS {
            return Err(Fault::TooMany { what: "tensors", limit: MAX_TENSORS }.into());
        }
        let tensor = read_tensor(reader, tail)?;
        let name = tensor.0.name();
        if let Some(first) = tensors.iter().position(|(known, _)| known.name() == name) {
            return Err(DecodeError::new(Fault::DuplicateName { first }).in_field("name").in_named(name));
        }
        tensors.push(tensor);
        Ok(())
    })?;
    Ok(tensors)
}

fn read_tensor(reader: &mut Reader<'_>, tail: &mut Tail<'_>) -> Result<(Tensor, Parameters), DecodeError> {
    let start = reader.clone();
    read_fields(reader, tail).map_err(|error| {
        // Who has no memory has no time to look for a name either.
        let name = if *error.fault() == Fault::NoMemory { None } else { name_of(start) };
        match name {
            Some(name) => error.in_named(&name),
            None => error,
        }
    })
}

fn read_fields(reader: &mut Reader<'_>, tail: &mut Tail<'_>) -> Result<(Tensor, Parameters), DecodeError> {
    let mut name = None;
    let mut shape: Option<Vec<usize>> = None;
    let mut datatype = None;
    let mut parameters = Parameters::new();
    let mut elements = None;
    let mut passed_over = None;

    reader.object(|reader, key| {
        match key {
            "name" => name = Some(reader.owned_string()?),
            "shape" => shape = Some(read_shape(reader)?),
            "datatype" => datatype = Some(read_datatype(reader)?),
            "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
            // Absent: KServe's client writes it beside elements that are binary and none.
            "data" if reader.kind()? == JsonKind::Null => {
                reader.skip()?;
            }
            "data" => {
                if let Some(datatype) = datatype {
                    elements = Some(Elements::read(reader, datatype, shape.as_deref())?);
                } else {
                    // Its type is yet to come: read it then.
                    passed_over = Some(reader.clone());
                    reader.skip()?;
                }
            }
            _ => reader.pass_over(key)?,
        }
        Ok(())
    })?;

    let name = name.ok_or_else(|| DecodeError::missing("name"))?;
    let shape = shape.ok_or_else(|| DecodeError::missing("shape"))?;
    let datatype = datatype.ok_or_else(|| DecodeError::missing("datatype"))?;
    if let Some(size) = binary_size(&mut parameters)? {
        if elements.is_some() || passed_over.is_some() {
            return Err(Fault::DataTwice.into());
        }
        let data = TensorData::from_raw(datatype, &shape, tail.take(size)?, reader.memory())?;
        return Ok((Tensor::new(name, shape, data).map_err(Fault::from)?, parameters));
    }
    let elements = match (elements, passed_over) {
        (Some(elements), _) => elements,
        (None, Some(mut reader)) => {
            Elements::read(&mut reader, datatype, Some(&shape)).map_err(|error| error.in_field("data"))?
        }
        (None, None) => return Err(DecodeError::missing("data")),
    };
    elements.check_nesting(&shape).map_err(|fault| DecodeError::new(fault).in_field("data"))?;
    Ok((Tensor::new(name, shape, elements.data).map_err(Fault::from)?, parameters))
}

/// How many bytes of the tail hold the elements, if they are there. How they came says nothing once they are read.
fn binary_size(parameters: &mut Parameters) -> Result<Option<usize>, DecodeError> {
    let Some(size) = parameters.remove(BINARY_SIZE) else { return Ok(None) };
    let size = to_size(size.as_i64());
    size.map(Some).map_err(|error| error.in_field(BINARY_SIZE).in_field("parameters"))
}

/// A number of bytes.
pub(crate) fn to_size(number: Option<i64>) -> Result<usize, DecodeError> {
    number.and_then(|size| usize::try_from(size).ok()).ok_or_else(|| Fault::NotADimension.into())
}

pub(crate) fn read_shape(reader: &mut Reader<'_>) -> Result<Vec<usize>, DecodeError> {
    let mut shape = Vec::new();
    reader.array(|reader, index| {
        if index == MAX_RANK {
            return Err(Fault::TooMany { what: "dimensions", limit: MAX_RANK }.into());
        }
        let dimension = reader.number("a whole number")?.to_integer("a dimension");
        shape.push(dimension.map_err(|_| Fault::NotADimension)?);
        Ok(())
    })?;
    Ok(shape)
}

fn read_datatype(reader: &mut Reader<'_>) -> Result<Datatype, DecodeError> {
    Ok(Datatype::parse(&reader.string()?).ok_or(Fault::UnknownDatatype)?)
}

/// For an error: the name of the tensor at the reader, as far as that can be found.
#[cold]
pub(crate) fn name_of(mut reader: Reader<'_>) -> Option<String> {
    let mut name = None;
    // It stops at the fault, too; where the name comes after that, the tensor's index has to do.
    let _ = reader.object(|reader, key| {
        if key == "name" && reader.kind()? == JsonKind::String {
            name = Some(reader.string()?.into_owned());
        } else {
            reader.skip()?;
        }
        Ok(())
    });
    name
}
