//! Another tier's answer, still as that tier encoded it.

use bytes::Bytes;
use terrace_oip::proto::ModelInferResponse;
use terrace_oip::{DecodeError, DecodedResponse, Fault, Outline, RelayedResponse, grpc};

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
    let text = error.to_string();
    if contradicts_itself(error) {
        UpstreamError::Contradictory(text)
    } else {
        UpstreamError::Malformed(text)
    }
}

/// Whether it is a response of the protocol, with outputs that are not what it says of them.
fn contradicts_itself(error: &DecodeError) -> bool {
    let of_an_element = matches!(
        error.fault(),
        Fault::OutOfRange { .. } | Fault::NotAnInteger | Fault::DuplicateName { .. } | Fault::UnknownDatatype
    );
    of_an_element || matches!(error.category(), "shape" | "binary")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_contradicts_itself_is_told_from_what_is_none() {
        let of = |body: &'static str, json_length| {
            Relayed::http(Message { bytes: Bytes::from_static(body.as_bytes()), json_length })
        };
        let output =
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}"#;
        let twice = concat!(
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]},"#,
            r#"{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}"#
        );
        let binary = concat!(
            r#"{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"#,
            r#""parameters":{"binary_data_size":8}}]}"#
        );
        for (body, json_length) in [(output, None), (twice, None), (binary, Some(binary.len()))] {
            let answer = of(body, json_length);
            assert!(matches!(answer, Err(UpstreamError::Contradictory(_))), "{body}: {answer:?}");
        }
        for body in ["<html>", "{}", r#"{"outputs":{"y":[1]}}"#, r#"{"outputs":[[1]]}"#, r#"{"outputs":[{"#] {
            let answer = of(body, None);
            assert!(matches!(answer, Err(UpstreamError::Malformed(_))), "{body}: {answer:?}");
        }
        let message = ModelInferResponse {
            outputs: vec![terrace_oip::proto::model_infer_response::InferOutputTensor {
                name: "y".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![2],
                ..Default::default()
            }],
            raw_output_contents: vec![Bytes::from_static(&[0; 4])],
            ..ModelInferResponse::default()
        };
        assert!(matches!(Relayed::grpc(message), Err(UpstreamError::Contradictory(_))));
    }
}
