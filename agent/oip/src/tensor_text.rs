//! A tensor written as JSON: its data flat, or said to follow in binary.

use serde::ser::{Error as _, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::error::EncodeError;
use crate::half_text::{shortest_bf16, shortest_f16};
use crate::tensor::{Tensor, TensorData};
use crate::tensor_json::BINARY_SIZE;

/// Writes a tensor that has passed [`TensorText::check`].
pub(crate) struct TensorText<'a> {
    pub(crate) tensor: &'a Tensor,
    /// Its elements follow elsewhere, and only their size stands here.
    pub(crate) is_binary: bool,
}

impl TensorText<'_> {
    /// JSON can carry the tensor.
    pub(crate) fn check(&self) -> Result<(), EncodeError> {
        if self.is_binary {
            return Ok(());
        }
        let tensor = self.tensor;
        let infinite = match tensor.data() {
            TensorData::Fp16(values) => values.iter().position(|value| !value.is_finite()),
            TensorData::Bf16(values) => values.iter().position(|value| !value.is_finite()),
            TensorData::Fp32(values) => values.iter().position(|value| !value.is_finite()),
            TensorData::Fp64(values) => values.iter().position(|value| !value.is_finite()),
            TensorData::Bytes(values) => {
                let binary = values.iter().position(|value| std::str::from_utf8(value).is_err());
                return match binary {
                    Some(element) => Err(EncodeError::NotUtf8 { output: tensor.name().to_owned(), element }),
                    None => Ok(()),
                };
            }
            _ => None,
        };
        match infinite {
            Some(element) => Err(EncodeError::NotFinite { output: tensor.name().to_owned(), element }),
            None => Ok(()),
        }
    }

    /// About how many bytes its text takes, rather too many than too few.
    pub(crate) fn size(&self) -> usize {
        let tensor = self.tensor;
        let data = match tensor.data() {
            _ if self.is_binary => 0,
            TensorData::Bytes(values) => values.iter().map(|value| value.len() + 3).sum(),
            TensorData::Bool(values) => values.len() * 6,
            TensorData::Uint8(values) => values.len() * 4,
            TensorData::Int8(values) => values.len() * 5,
            TensorData::Uint16(values) => values.len() * 6,
            TensorData::Int16(values) => values.len() * 7,
            TensorData::Fp16(_) | TensorData::Bf16(_) => tensor.data().len() * 8,
            TensorData::Uint32(_) | TensorData::Int32(_) | TensorData::Fp32(_) => tensor.data().len() * 12,
            TensorData::Uint64(_) | TensorData::Int64(_) | TensorData::Fp64(_) => tensor.data().len() * 21,
        };
        data + tensor.name().len() + 128
    }
}

/// The parameter that says how many bytes follow.
struct BinarySize(usize);

impl Serialize for BinarySize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(BINARY_SIZE, self.0)])
    }
}

struct DataText<'a>(&'a TensorData);

impl Serialize for TensorText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("tensor", 4)?;
        object.serialize_field("name", self.tensor.name())?;
        object.serialize_field("datatype", self.tensor.datatype().as_str())?;
        object.serialize_field("shape", self.tensor.shape())?;
        if self.is_binary {
            object.serialize_field("parameters", &BinarySize(self.tensor.data().raw_size()))?;
        } else {
            object.serialize_field("data", &DataText(self.tensor.data()))?;
        }
        object.end()
    }
}

impl Serialize for DataText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            TensorData::Bool(values) => values.serialize(serializer),
            TensorData::Uint8(values) => values.serialize(serializer),
            TensorData::Uint16(values) => values.serialize(serializer),
            TensorData::Uint32(values) => values.serialize(serializer),
            TensorData::Uint64(values) => values.serialize(serializer),
            TensorData::Int8(values) => values.serialize(serializer),
            TensorData::Int16(values) => values.serialize(serializer),
            TensorData::Int32(values) => values.serialize(serializer),
            TensorData::Int64(values) => values.serialize(serializer),
            TensorData::Fp16(values) => {
                serializer.collect_seq(values.iter().map(|value| shortest_f16(*value)))
            }
            TensorData::Bf16(values) => {
                serializer.collect_seq(values.iter().map(|value| shortest_bf16(*value)))
            }
            TensorData::Fp32(values) => values.serialize(serializer),
            TensorData::Fp64(values) => values.serialize(serializer),
            TensorData::Bytes(values) => {
                let mut array = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    array.serialize_element(std::str::from_utf8(value).map_err(S::Error::custom)?)?;
                }
                array.end()
            }
        }
    }
}
