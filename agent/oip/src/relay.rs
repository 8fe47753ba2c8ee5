//! An upstream's inference response on its way to our client: its tensors stay the bytes that they are.

use bytes::Bytes;

use crate::error::{DecodeError, EncodeError};
use crate::json::{Reader, decode_within};
use crate::memory::Memory;
use crate::outline::{Outline, read_outlines};
use crate::parameters::Parameters;
use crate::raw::{Part, Tail};

/// An upstream's inference response. What is typed here may be changed; outputs and fields that the protocol does not know
/// are passed on as they came, and share their message's bytes. Each output has as many elements as its shape says.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayedResponse {
    /// The model that answered.
    pub model_name: String,
    /// Its version.
    pub model_version: Option<String>,
    /// The request's id.
    pub id: Option<String>,
    /// What the server says about the answer; left out when empty.
    pub parameters: Parameters,
    /// What its outputs are.
    pub outlines: Vec<Outline>,
    outputs: Text,
    rest: Vec<(String, Text)>,
}

/// Text that is a part of a message.
#[derive(Clone, PartialEq)]
struct Text(Bytes);

impl RelayedResponse {
    /// Reads a body that is JSON as a whole.
    pub fn from_json(body: &Bytes) -> Result<Self, DecodeError> {
        Self::from_http(body, None, Memory::UNBOUNDED)
    }

    /// Reads a body whose first `json_length` bytes are JSON, where a header says so, and what follows are binary tensors;
    /// as long as somebody waits for it.
    pub fn from_http(
        body: &Bytes,
        json_length: Option<usize>,
        memory: Memory<'_>,
    ) -> Result<Self, DecodeError> {
        let (json, mut tail) = Tail::split(Part::whole(body), json_length)?;
        let response = decode_within(json, memory, |reader| Self::read(reader, &mut tail, body))?;
        tail.end()?;
        Ok(response)
    }

    /// The outputs' text, an array.
    pub fn outputs_json(&self) -> &[u8] {
        &self.outputs.0
    }

    /// Writes the body, in pieces: the outputs are not copied where they are large.
    pub fn to_json(&self) -> Result<Vec<Bytes>, EncodeError> {
        /// How many bytes there are at least where a copy costs more than to share them.
        const LARGE: usize = 4 << 10;
        self.parameters.check()?;
        let (mut pieces, mut body) = (Vec::new(), Vec::with_capacity(1024));
        let mut append = |body: &mut Vec<u8>, Text(text): &Text| {
            if text.len() < LARGE {
                body.extend_from_slice(text);
            } else {
                pieces.extend([std::mem::take(body).into(), text.clone()]);
            }
        };

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
        append(&mut body, &self.outputs);
        for (key, value) in &self.rest {
            body.push(b',');
            serde_json::to_writer(&mut body, key)?;
            body.push(b':');
            append(&mut body, value);
        }
        body.push(b'}');
        pieces.push(body.into());
        Ok(pieces)
    }

    fn read(reader: &mut Reader<'_>, tail: &mut Tail<'_>, message: &Bytes) -> Result<Self, DecodeError> {
        let mut model_name = None;
        let mut model_version = None;
        let mut id = None;
        let mut parameters = Parameters::new();
        let mut outputs = None;
        let mut rest = Vec::new();
        let text = |text: &str| Text(message.slice_ref(text.as_bytes()));
        reader.object(|reader, key| {
            match key {
                "model_name" => model_name = Some(reader.owned_string()?),
                "model_version" => model_version = reader.optional_string()?,
                "id" => id = reader.optional_string()?,
                "parameters" => parameters = reader.optional(Parameters::read)?.unwrap_or_default(),
                "outputs" => outputs = Some(reader.with_text(|reader| read_outlines(reader, tail))?),
                _ => rest.push((key.to_owned(), text(reader.raw()?))),
            }
            Ok(())
        })?;
        let model_name = model_name.ok_or_else(|| DecodeError::missing("model_name"))?;
        let (outlines, outputs) = outputs.ok_or_else(|| DecodeError::missing("outputs"))?;
        Ok(Self { model_name, model_version, id, parameters, outlines, outputs: text(outputs), rest })
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
