//! An inference request.

use bytes::Bytes;

use crate::error::{DecodeError, Fault};
use crate::json::{Meant, NO_NAMES, Reader, decode_within};
use crate::limits::MAX_TENSORS;
use crate::memory::Memory;
use crate::parameters::{Parameter, Parameters};
use crate::raw::{Part, Tail};
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
    /// Reads a body that is JSON as a whole.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        Self::from_http(body, None)
    }

    /// Reads a body whose first `json_length` bytes are JSON, where a header says so, and what follows are binary
    /// tensors.
    pub fn from_http(body: &[u8], json_length: Option<usize>) -> Result<Self, DecodeError> {
        Self::from_parts(Part::lent(body), json_length, Memory::UNBOUNDED, NO_NAMES)
    }

    /// The same, with a bound on what it takes in memory beside the body; large tensors stay where they lie in it, where
    /// they lie well.
    pub fn from_http_within(
        body: &Bytes,
        json_length: Option<usize>,
        memory: Memory<'_>,
    ) -> Result<Self, DecodeError> {
        Self::from_http_but(body, json_length, memory, NO_NAMES)
    }

    /// The same, but for fields that the protocol does not have and that are `meant` to be parameters of the request: they
    /// are refused with the place where they belong, since who states something does not mean it to be ignored.
    pub fn from_http_but(
        body: &Bytes,
        json_length: Option<usize>,
        memory: Memory<'_>,
        meant: Meant,
    ) -> Result<Self, DecodeError> {
        Self::from_parts(Part::whole(body), json_length, memory, meant)
    }

    fn from_parts(
        body: Part<'_>,
        json_length: Option<usize>,
        memory: Memory<'_>,
        meant: Meant,
    ) -> Result<Self, DecodeError> {
        let (json, mut tail) = Tail::split(body, json_length)?;
        let request = decode_within(json, memory, |reader| {
            reader.refuse(meant);
            Self::read(reader, &mut tail)
        })?;
        tail.end()?;
        Ok(request)
    }

    /// Whether the sender wants an output in binary: what it says of this one, or else of all.
    pub fn wants_binary(&self, output: &str) -> bool {
        let asked = self.outputs.iter().flatten().find(|asked| asked.name == output);
        let of_this = asked.and_then(|asked| asked.parameters.get("binary_data")?.as_bool());
        let of_all = || self.parameters.get("binary_data_output").and_then(Parameter::as_bool);
        of_this.or_else(of_all).unwrap_or(false)
    }

    fn read(reader: &mut Reader<'_>, tail: &mut Tail<'_>) -> Result<Self, DecodeError> {
        let mut id = None;
        let mut parameters = Parameters::new();
        let mut inputs = None;
        let mut outputs = None;
        reader.object(|reader, key| {
            match key {
                "id" => id = reader.optional_string()?,
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                "inputs" => inputs = Some(read_tensors(reader, tail)?),
                "outputs" => outputs = reader.optional(read_requested)?.filter(|outputs| !outputs.is_empty()),
                _ => reader.pass_over(key)?,
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
                "name" => name = Some(reader.owned_string()?),
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                _ => reader.pass_over(key)?,
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
