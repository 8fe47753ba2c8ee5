//! Another tier's answer, still as that tier encoded it.

use bytes::Bytes;
use terrace_oip::proto::ModelInferResponse;
use terrace_oip::{DecodeError, DecodedResponse, RelayedResponse, grpc};

use super::error::UpstreamError;
use crate::message::Message;

/// Another tier's answer: an inference response, still as that tier encoded it.
#[derive(Clone, Debug)]
pub enum Relayed {
    /// Over HTTP.
    Http(HttpAnswer),
    /// Over gRPC.
    Grpc(Box<ModelInferResponse>),
}

/// An answer over HTTP that was read once.
#[derive(Clone, Debug)]
pub struct HttpAnswer(Message);

impl Relayed {
    /// An answer over HTTP, if it is one.
    pub fn http(message: Message) -> Result<Self, UpstreamError> {
        if message.json_length.is_some_and(|length| length > message.bytes.len()) {
            return Err(UpstreamError::Malformed("its JSON is said to be longer than it is".to_owned()));
        }
        let answer = HttpAnswer(message);
        answer.response().map_err(|error| malformed(&error))?;
        Ok(Self::Http(answer))
    }

    /// An answer over gRPC, if it is one.
    pub fn grpc(message: ModelInferResponse) -> Result<Self, UpstreamError> {
        grpc::check_response(&message).map_err(|error| malformed(&error))?;
        Ok(Self::Grpc(Box::new(message)))
    }

    /// The response with its tensors.
    pub fn decode(self) -> Result<DecodedResponse, DecodeError> {
        match self {
            Self::Http(HttpAnswer(message)) => {
                DecodedResponse::from_http(&message.bytes, message.json_length)
            }
            Self::Grpc(message) => DecodedResponse::from_grpc(*message),
        }
    }

    /// How much there is to read or to write as text.
    pub fn text_size(&self) -> usize {
        match self {
            Self::Http(answer) => answer.0.json().len(),
            Self::Grpc(message) => message.raw_output_contents.iter().map(Bytes::len).sum(),
        }
    }
}

impl HttpAnswer {
    /// The response, its tensors untouched.
    pub fn response(&self) -> Result<RelayedResponse<'_>, DecodeError> {
        RelayedResponse::from_json(self.0.json())
    }

    /// The binary tensors behind it.
    pub fn tail(&self) -> Bytes {
        self.0.tail()
    }

    /// Whether there are any, be they empty.
    pub const fn is_binary(&self) -> bool {
        self.0.json_length.is_some()
    }
}

fn malformed(error: &DecodeError) -> UpstreamError {
    UpstreamError::Malformed(error.to_string())
}
