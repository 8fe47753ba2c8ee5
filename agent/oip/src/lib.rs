//! The wire types of the Open Inference Protocol v2, as the servers
//! and clients of `KServe` and Triton speak it: JSON, the binary tensor extension, protobuf.
//!
//! The agent calls it for every request and response, the engine for its verification cases and for the tensor
//! that it computes on. It must not import a runtime, an HTTP or gRPC server, ort, or another crate of Terrace:
//! bytes in, checked types out, and back.
//!
//! * Requests: [`InferRequest::from_http`], [`InferRequest::from_grpc`], and both `_within` a bound on memory;
//!   [`InferRequest::http_head`],
//!   [`InferRequest::grpc_head`] and [`InferRequest::raw_inputs`] to pass one on in another form.
//! * Responses: [`InferResponse::to_json_but`]; [`RelayedResponse`] passes an upstream's answer on without decoding
//!   its tensors, but counts their elements; [`DecodedResponse`] decodes them.
//! * Tensors elsewhere in JSON: [`WireTensor`].
//! * Server and model metadata, health, errors: [`metadata`].
//!
//! ```
//! use terrace_oip::{InferRequest, TensorData};
//!
//! let body = br#"{"inputs":[{"name":"x","datatype":"UINT8","shape":[1,3],"data":[[1,2,3]]}]}"#;
//! let request = InferRequest::from_json(body)?;
//! assert_eq!(request.inputs[0].tensor.data(), &TensorData::Uint8(vec![1, 2, 3].into()));
//!
//! let error = InferRequest::from_json(&body.map(|byte| if byte == b'2' { b'-' } else { byte })).unwrap_err();
//! assert_eq!(error.path(), "inputs[0] (\"x\").data: element 1");
//! # Ok::<(), terrace_oip::DecodeError>(())
//! ```
//!
//! What arrives is checked here once and nowhere again: element types and ranges, the number of elements
//! against the shape, names that occur once, limits ([`limits`]). Every failure is a [`DecodeError`] that names
//! the field and shows nothing of what was in it. Nothing is allocated by a size that a request merely claims; and what a
//! message takes beyond its own bytes, [`Memory`] may refuse before it is allocated.
//!
//! Deliberate readings of a protocol that leaves them open: fields that it does not know are ignored (as
//! `KServe` and Triton do) but for those that the caller knows better ([`InferRequest::from_http_but`]), a repeated key is
//! refused in every object that is read, `null` stands for an absent optional field, an empty list of requested outputs
//! asks for all, `BOOL` takes `true` and `false` only, `data` may be flat or nested.

mod awaited;
mod elements;
mod error;
mod forward;
pub mod grpc;
mod half_text;
mod json;
pub mod limits;
mod memory;
pub mod metadata;
mod outline;
mod parameters;
pub mod proto;
mod raw;
mod relay;
mod request;
mod response;
pub mod tensor;
mod tensor_json;
mod tensor_text;
mod values;
mod wire;

pub use error::{DecodeError, EncodeError, Fault, JsonKind};
pub use json::Meant;
pub use memory::Memory;
pub use outline::Outline;
pub use parameters::{Parameter, Parameters};
pub use raw::Raw;
pub use relay::RelayedResponse;
pub use request::{InferRequest, InputTensor, RequestedOutput};
pub use response::{DecodedResponse, InferResponse};
pub use tensor::{Datatype, ShapeMismatch, Tensor, TensorData};
pub use tensor_json::WireTensor;
