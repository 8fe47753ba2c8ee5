//! A reply as a response body: JSON, and behind it, without a copy, the outputs that the client wants in binary.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use terrace_coding::{Accepted, Coding};
use terrace_oip::{EncodeError, InferRequest, InferResponse, Parameters, Tensor};

use crate::answer::{self, Answer, SMALL, Small};
use crate::executor::Output;
use crate::heavy::heavy;
use crate::message::{JSON_LENGTH, content_type};
use crate::refusal::Refusal;
use crate::room::{Room, Taken};
use crate::serve::{Due, OURS, Reply, unwritten};
use crate::unpacking::texts;
use crate::upstream::{Decoded, Relayed};

/// Below this size a body is sent as it is: it fits into one packet anyway.
const ONE_PACKET: usize = 1400;

/// How much longer compressing takes than writing JSON.
const TOIL: usize = 4;

/// A reply's bytes.
#[derive(Debug)]
pub struct Encoded {
    /// The beginning, where it was written here.
    head: Vec<u8>,
    /// What follows, without a copy.
    tail: Vec<Bytes>,
    /// How much of both is JSON.
    json_length: usize,
    /// Some output is in binary, be it an empty one.
    is_binary: bool,
    /// All of it in a coding.
    packed: Option<(Coding, Vec<u8>)>,
    taken: Taken,
}

impl Encoded {
    /// Encodes a reply as its request asks.
    pub fn new(reply: Reply<'_>, room: &Room) -> Result<Self, Refusal> {
        let relayed = match reply.output {
            Output::Local { served, tensors } => {
                let Reply { request, model_name, parameters, due, .. } = reply;
                let response = response(request, &model_name, Some(served.revision()), &parameters);
                return Self::computed(response, request, (tensors, Taken::default()), due);
            }
            Output::Combined { version, tensors, taken } => {
                let Reply { request, model_name, parameters, due, .. } = reply;
                let response = response(request, &model_name, version.as_deref(), &parameters);
                return Self::computed(response, request, (tensors, taken), due);
            }
            Output::Relayed(Relayed::Http(relayed)) => relayed,
            Output::Relayed(relayed) => {
                let Decoded { response: told, taken } = relayed.rewritten(room, reply.due)?;
                let mut parameters = told.parameters;
                for ours in OURS {
                    parameters.remove(ours);
                }
                parameters.extend(reply.parameters);
                let Reply { request, model_name, due, .. } = reply;
                let response = response(request, &model_name, told.model_version.as_deref(), &parameters);
                return Self::computed(response, request, (told.outputs, taken), due);
            }
        };
        let mut relayed = *relayed;
        let response = &mut relayed.response;
        response.model_name = reply.model_name.into_owned();
        response.id.clone_from(&reply.request.id);
        for ours in OURS {
            response.parameters.remove(ours);
        }
        response.parameters.extend(reply.parameters);
        let mut tail = response.to_json().map_err(|error| unwritable(&error))?;
        let json_length = tail.iter().map(Bytes::len).sum();
        tail.push(relayed.tail());
        Ok(Self {
            head: Vec::new(),
            tail,
            json_length,
            is_binary: relayed.is_binary(),
            packed: None,
            taken: relayed.taken,
        })
    }

    /// In a coding, if its request asks for one and that gains something before it is `due`.
    pub fn packed(mut self, asked: &HeaderMap, due: Due) -> Self {
        let accepted = Accepted::of(texts(asked, &header::ACCEPT_ENCODING));
        let worth = |_: &Coding| accepted.is_required || self.size() >= ONE_PACKET;
        if let Some(coding) = accepted.coding.filter(worth) {
            let pieces: Vec<&[u8]> =
                std::iter::once(&*self.head).chain(self.tail.iter().map(|frame| &**frame)).collect();
            let packed = heavy(self.size().saturating_mul(TOIL), || {
                terrace_coding::pack_while(coding, &pieces, accepted.is_required, || due.is_ahead())
            });
            self.packed = packed.map(|packed| (coding, packed));
        }
        self
    }

    /// In room of its own, as far as there is some beside its request's.
    pub fn within(mut self, room: &Room, mut taken: Taken) -> Result<Self, Refusal> {
        let size = self.packed.as_ref().map_or_else(|| self.size(), |(_, packed)| packed.len());
        taken.merge(self.taken);
        self.taken = answer::room(room, taken, size)?;
        Ok(self)
    }

    /// Encodes outputs that are in memory here.
    fn computed(
        response: InferResponse<'_>,
        request: &InferRequest,
        (tensors, taken): (Vec<Tensor>, Taken),
        due: Due,
    ) -> Result<Self, Refusal> {
        let is_binary = |name: &str| request.wants_binary(name);
        let head = InferResponse { outputs: &tensors, ..response }
            .to_json_but(is_binary, || due.is_ahead())
            .map_err(|error| unwritable(&error))?;
        let binary: Vec<Tensor> = tensors.into_iter().filter(|tensor| is_binary(tensor.name())).collect();
        Ok(Self {
            json_length: head.len(),
            head,
            is_binary: !binary.is_empty(),
            tail: binary.into_iter().filter_map(raw).collect(),
            packed: None,
            taken,
        })
    }

    /// The response with status 200.
    pub fn into_response(mut self) -> Response {
        let json_length = self.is_binary.then_some(self.json_length);
        let varies = self.packed.is_some() || self.size() >= ONE_PACKET;
        let (coding, body) = match self.packed.take() {
            Some((coding, packed)) => {
                let packed = Self { head: packed, tail: Vec::new(), ..self };
                (Some(coding), packed.into_body())
            }
            None => (None, self.into_body()),
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        if varies {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        }
        headers.insert(header::CONTENT_TYPE, content_type(json_length));
        if let Some(length) = json_length {
            headers.insert(JSON_LENGTH, HeaderValue::from(length));
        }
        response
    }

    fn size(&self) -> usize {
        self.head.len() + self.tail.iter().map(Bytes::len).sum::<usize>()
    }

    fn into_body(mut self) -> Body {
        if self.size() <= SMALL {
            // A copy costs less than a second write.
            for frame in &self.tail {
                self.head.extend_from_slice(frame);
            }
            return Body::new(Small::new(Bytes::from(self.head), self.taken, None));
        }
        Body::new(Answer::new(std::iter::once(Bytes::from(self.head)).chain(self.tail), self.taken, None))
    }
}

/// A response, without its outputs.
fn response<'a>(
    request: &'a InferRequest,
    model_name: &'a str,
    model_version: Option<&'a str>,
    parameters: &'a Parameters,
) -> InferResponse<'a> {
    InferResponse { model_name, model_version, id: request.id.as_deref(), parameters, outputs: &[] }
}

/// An output's elements, in the memory that they are in; none where it has none.
fn raw(tensor: Tensor) -> Option<Bytes> {
    let (_, _, data) = tensor.into_parts();
    (data.raw_size() > 0).then(|| Bytes::from_owner(data.into_raw()))
}

/// In which form a client wants the outputs is its choice: one that cannot carry them is its request's fault, and no tier
/// could do better. So it is told the same whichever tier they come from.
fn unwritable(error: &EncodeError) -> Refusal {
    match error {
        EncodeError::NotAwaited => unwritten(),
        EncodeError::NotFinite { .. } | EncodeError::NotUtf8 { .. } => Refusal::Invalid(format!(
            "the outputs cannot be written as JSON: {error}; ask for them in binary (binary_data_output), or over gRPC"
        )),
        _ => Refusal::Failed(format!("the answer cannot be written: {error}")),
    }
}
