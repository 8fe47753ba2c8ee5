//! An inference request.

use crate::error::{DecodeError, Fault};
use crate::json::{Reader, decode};
use crate::limits::MAX_TENSORS;
use crate::parameters::Parameters;
use crate::tensor::Tensor;
use crate::tensor_json::read_tensors;

/// A checked inference request. Input names differ, and so do the names of requested outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// The sender's own name for the request, to be echoed.
    pub id: Option<String>,
    /// What the sender asks of the server.
    pub parameters: Parameters,
    /// What the model computes on.
    pub inputs: Vec<InputTensor>,
    /// Which outputs the sender wants, at least one; `None` for all.
    pub outputs: Option<Vec<RequestedOutput>>,
}

/// An input of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct InputTensor {
    /// Its name, shape and elements.
    pub tensor: Tensor,
    /// What the sender says about it.
    pub parameters: Parameters,
}

/// An output that a request wants.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// What the sender asks about it.
    pub parameters: Parameters,
}

impl InferRequest {
    /// Reads a body.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        decode(body, Self::read)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut id = None;
        let mut parameters = Parameters::new();
        let mut inputs = None;
        let mut outputs = None;
        reader.object(|reader, key| {
            match key {
                "id" => id = reader.optional_string()?,
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                "inputs" => inputs = Some(read_tensors(reader)?),
                "outputs" => outputs = reader.optional(read_requested)?.filter(|outputs| !outputs.is_empty()),
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        let inputs = inputs.ok_or_else(|| DecodeError::missing("inputs"))?;
        let inputs =
            inputs.into_iter().map(|(tensor, parameters)| InputTensor { tensor, parameters }).collect();
        Ok(Self { id, parameters, inputs, outputs })
    }
}

fn read_requested(reader: &mut Reader<'_>) -> Result<Vec<RequestedOutput>, DecodeError> {
    let mut outputs: Vec<RequestedOutput> = Vec::new();
    reader.array(|reader, index| {
        if index == MAX_TENSORS {
            return Err(Fault::TooMany { what: "outputs", limit: MAX_TENSORS }.into());
        }
        let mut name = None;
        let mut parameters = Parameters::new();
        reader.object(|reader, key| {
            match key {
                "name" => name = Some(reader.string()?.into_owned()),
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        let name = name.ok_or_else(|| DecodeError::missing("name"))?;
        if let Some(first) = outputs.iter().position(|known| known.name == name) {
            return Err(DecodeError::new(Fault::DuplicateName { first }).in_field("name").in_named(&name));
        }
        outputs.push(RequestedOutput { name, parameters });
        Ok(())
    })?;
    Ok(outputs)
}
