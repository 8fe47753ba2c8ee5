//! An inference response: written for our clients, decoded where the tensors of an answer are needed.

use bytes::Bytes;
use serde::Serialize;

use crate::awaited::AwaitedText;
use crate::error::{DecodeError, EncodeError};
use crate::json::{Reader, decode_within};
use crate::memory::Memory;
use crate::parameters::Parameters;
use crate::raw::{Part, Tail};
use crate::tensor::Tensor;
use crate::tensor_json::read_tensors;
use crate::tensor_text::TensorText;

/// An inference response to be written.
#[derive(Clone, Copy, Debug)]
pub struct InferResponse<'a> {
    /// The model that answered.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: Option<&'a str>,
    /// The request's id.
    pub id: Option<&'a str>,
    /// What the server says about the answer; left out when empty.
    pub parameters: &'a Parameters,
    /// The answer.
    pub outputs: &'a [Tensor],
}

/// An inference response with its tensors decoded. Output names differ.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedResponse {
    /// The model that answered.
    pub model_name: String,
    /// Its version.
    pub model_version: Option<String>,
    /// The request's id.
    pub id: Option<String>,
    /// What the server says about the answer.
    pub parameters: Parameters,
    /// The answer; parameters of single outputs are checked and dropped.
    pub outputs: Vec<Tensor>,
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    parameters: &'a Parameters,
    outputs: Vec<TensorText<'a>>,
}

impl InferResponse<'_> {
    /// Writes the body. Output data is flat.
    pub fn to_json(&self) -> Result<Vec<u8>, EncodeError> {
        self.to_json_but(|_| false, || true)
    }

    /// Writes the JSON part of a body in which the elements of some outputs follow it in binary, in their order: see
    /// [`crate::TensorData::into_raw`]. It is given up soon after nobody waits for it any more.
    pub fn to_json_but(
        &self,
        is_binary: impl Fn(&str) -> bool,
        is_awaited: impl Fn() -> bool,
    ) -> Result<Vec<u8>, EncodeError> {
        self.parameters.check()?;
        let outputs: Vec<TensorText<'_>> = self
            .outputs
            .iter()
            .map(|tensor| TensorText { tensor, is_binary: is_binary(tensor.name()) })
            .collect();
        outputs.iter().try_for_each(TensorText::check)?;

        // Small answers stay below the kilobyte up to which memory is had at once.
        let size = outputs.iter().map(TensorText::size).sum::<usize>() + 512;
        let mut text = AwaitedText::with_capacity(size, is_awaited);
        let written = serde_json::to_writer(
            &mut text,
            &Body {
                model_name: self.model_name,
                model_version: self.model_version,
                id: self.id,
                parameters: self.parameters,
                outputs,
            },
        );
        let body = text.into_body().ok_or(EncodeError::NotAwaited)?;
        written?;
        Ok(body)
    }
}

impl DecodedResponse {
    /// Reads a body that is JSON as a whole.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        Self::from_http(body, None)
    }

    /// Reads a body whose first `json_length` bytes are JSON, where a header says so, and what follows are binary
    /// tensors.
    pub fn from_http(body: &[u8], json_length: Option<usize>) -> Result<Self, DecodeError> {
        Self::from_part(Part::lent(body), json_length, Memory::UNBOUNDED)
    }

    /// The same, with a bound on what it takes in memory beside the body; large tensors stay where they lie in it, where
    /// they lie well.
    pub fn from_http_within(
        body: &Bytes,
        json_length: Option<usize>,
        memory: Memory<'_>,
    ) -> Result<Self, DecodeError> {
        Self::from_part(Part::whole(body), json_length, memory)
    }

    fn from_part(
        body: Part<'_>,
        json_length: Option<usize>,
        memory: Memory<'_>,
    ) -> Result<Self, DecodeError> {
        let (json, mut tail) = Tail::split(body, json_length)?;
        let response = decode_within(json, memory, |reader| Self::read(reader, &mut tail))?;
        tail.end()?;
        Ok(response)
    }

    fn read(reader: &mut Reader<'_>, tail: &mut Tail<'_>) -> Result<Self, DecodeError> {
        let mut model_name = None;
        let mut model_version = None;
        let mut id = None;
        let mut parameters = Parameters::new();
        let mut outputs = None;
        reader.object(|reader, key| {
            match key {
                "model_name" => model_name = Some(reader.string()?.into_owned()),
                "model_version" => model_version = reader.optional_string()?,
                "id" => id = reader.optional_string()?,
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                "outputs" => outputs = Some(read_tensors(reader, tail)?),
                _ => {
                    reader.skip()?;
                }
            }
            Ok(())
        })?;
        let model_name = model_name.ok_or_else(|| DecodeError::missing("model_name"))?;
        let outputs = outputs.ok_or_else(|| DecodeError::missing("outputs"))?;
        let outputs = outputs.into_iter().map(|(tensor, _)| tensor).collect();
        Ok(Self { model_name, model_version, id, parameters, outputs })
    }
}
