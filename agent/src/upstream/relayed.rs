//! Another tier's answer, still as that tier encoded it.

use bytes::Bytes;
use terrace_oip::proto::ModelInferResponse;
use terrace_oip::{DecodeError, DecodedResponse, Outline, RelayedResponse, grpc};

use super::error::UpstreamError;
use crate::message::Message;

/// Another tier's answer: an inference response, still as that tier encoded it.
#[derive(Clone, Debug)]
pub enum Relayed {
    /// Over HTTP.
    Http(HttpAnswer),
    /// Over gRPC.
    Grpc(Box<GrpcAnswer>),
}

/// An answer over HTTP that was read once.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    message: Message,
    outlines: Vec<Outline>,
}

/// An answer over gRPC.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcAnswer {
    /// The message.
    pub message: ModelInferResponse,
    outlines: Vec<Outline>,
}

impl Relayed {
    /// An answer over HTTP, if it is one.
    pub fn http(message: Message) -> Result<Self, UpstreamError> {
        let outlines = RelayedResponse::check(&message.bytes, message.json_length);
        Ok(Self::Http(HttpAnswer { outlines: outlines.map_err(|error| malformed(&error))?, message }))
    }

    /// An answer over gRPC, if it is one.
    pub fn grpc(message: ModelInferResponse) -> Result<Self, UpstreamError> {
        let outlines = grpc::check_response(&message).map_err(|error| malformed(&error))?;
        Ok(Self::Grpc(Box::new(GrpcAnswer { message, outlines })))
    }

    /// The response with its tensors.
    pub fn decode(self) -> Result<DecodedResponse, DecodeError> {
        match self {
            Self::Http(HttpAnswer { message, .. }) => {
                DecodedResponse::from_http(&message.bytes, message.json_length)
            }
            Self::Grpc(answer) => DecodedResponse::from_grpc(answer.message),
        }
    }

    /// What its outputs are.
    pub fn outlines(&self) -> &[Outline] {
        match self {
            Self::Http(answer) => &answer.outlines,
            Self::Grpc(answer) => &answer.outlines,
        }
    }

    /// How much there is to read or to write as text.
    pub fn text_size(&self) -> usize {
        match self {
            Self::Http(answer) => answer.message.json().len(),
            Self::Grpc(answer) => answer.message.raw_output_contents.iter().map(Bytes::len).sum(),
        }
    }
}

impl HttpAnswer {
    /// The response, its tensors untouched.
    pub fn response(&self) -> Result<RelayedResponse<'_>, DecodeError> {
        RelayedResponse::from_json(self.message.json())
    }

    /// The binary tensors behind it.
    pub fn tail(&self) -> Bytes {
        self.message.tail()
    }

    /// Whether there are any, be they empty.
    pub const fn is_binary(&self) -> bool {
        self.message.json_length.is_some()
    }
}

fn malformed(error: &DecodeError) -> UpstreamError {
    UpstreamError::Malformed(error.to_string())
}
