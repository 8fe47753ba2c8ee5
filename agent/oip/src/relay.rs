//! An upstream's inference response on its way to our client: its tensors stay the bytes that they are.

use std::borrow::Cow;

use crate::error::{DecodeError, EncodeError};
use crate::json::{Reader, decode};
use crate::outline::{Outline, read_outlines};
use crate::parameters::Parameters;
use crate::raw::{Part, Tail};

/// An upstream's inference response. What is typed here may be changed; outputs and fields that the protocol
/// does not know are passed on as they came. Their syntax is checked, and that outputs are an array.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayedResponse<'a> {
    /// The model that answered.
    pub model_name: Cow<'a, str>,
    /// Its version.
    pub model_version: Option<Cow<'a, str>>,
    /// The request's id.
    pub id: Option<Cow<'a, str>>,
    /// What the server says about the answer; left out when empty.
    pub parameters: Parameters,
    outputs: &'a str,
    rest: Vec<(String, &'a str)>,
}

impl<'a> RelayedResponse<'a> {
    /// Reads a body.
    pub fn from_json(body: &'a [u8]) -> Result<Self, DecodeError> {
        decode(body, Self::read)
    }

    /// Whether a body can be read so, and what its outputs are. The first `json_length` bytes are JSON, where a header says
    /// so, and what follows are binary tensors. Each output has as many elements as its shape says, each once.
    pub fn check(body: &'a [u8], json_length: Option<usize>) -> Result<Vec<Outline>, DecodeError> {
        let (json, mut tail) = Tail::split(Part::lent(body), json_length)?;
        let mut outlines = Vec::new();
        let read = |reader: &mut Reader<'a>| {
            Self::read_with(reader, |reader| {
                outlines = read_outlines(reader, &mut tail)?;
                Ok("")
            })
        };
        decode(json, read)?;
        tail.end()?;
        Ok(outlines)
    }

    /// The outputs' text, an array.
    pub fn outputs_json(&self) -> &'a str {
        self.outputs
    }

    /// Writes the body.
    pub fn to_json(&self) -> Result<Vec<u8>, EncodeError> {
        self.parameters.check()?;
        let rest = self.rest.iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>();
        let mut body = Vec::with_capacity(self.outputs.len() + rest + 1024);

        body.extend_from_slice(br#"{"model_name":"#);
        serde_json::to_writer(&mut body, &self.model_name)?;
        if let Some(version) = &self.model_version {
            body.extend_from_slice(br#","model_version":"#);
            serde_json::to_writer(&mut body, version)?;
        }
        if let Some(id) = &self.id {
            body.extend_from_slice(br#","id":"#);
            serde_json::to_writer(&mut body, id)?;
        }
        if !self.parameters.is_empty() {
            body.extend_from_slice(br#","parameters":"#);
            serde_json::to_writer(&mut body, &self.parameters)?;
        }
        body.extend_from_slice(br#","outputs":"#);
        body.extend_from_slice(self.outputs.as_bytes());
        for (key, value) in &self.rest {
            body.push(b',');
            serde_json::to_writer(&mut body, key)?;
            body.push(b':');
            body.extend_from_slice(value.as_bytes());
        }
        body.push(b'}');
        Ok(body)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Self::read_with(reader, Reader::raw_array)
    }

    fn read_with(
        reader: &mut Reader<'a>,
        mut read_outputs: impl FnMut(&mut Reader<'a>) -> Result<&'a str, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let mut model_name = None;
        let mut model_version = None;
        let mut id = None;
        let mut parameters = Parameters::new();
        let mut outputs = None;
        let mut rest = Vec::new();
        reader.object(|reader, key| {
            match key {
                "model_name" => model_name = Some(reader.string()?),
                "model_version" => model_version = reader.optional(Reader::string)?,
                "id" => id = reader.optional(Reader::string)?,
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                "outputs" => outputs = Some(read_outputs(reader)?),
                _ => rest.push((key.to_owned(), reader.raw()?)),
            }
            Ok(())
        })?;
        Ok(Self {
            model_name: model_name.ok_or_else(|| DecodeError::missing("model_name"))?,
            model_version,
            id,
            parameters,
            outputs: outputs.ok_or_else(|| DecodeError::missing("outputs"))?,
            rest,
        })
    }
}
