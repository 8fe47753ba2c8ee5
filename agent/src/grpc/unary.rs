//! ModelInfer: its bytes are taken as they come and its answers sent as they are, past tonic, whose streams, codecs and
//! boxes cost more than a small model's run.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost::Message;
use terrace_oip::proto::ModelInferRequest;
use terrace_oip::{Memory, grpc};
use tonic::Status;

use super::message::{self, PREFIX, Refused, patience};
use crate::answer::{self, Answer, SMALL, Small};
use crate::decoding;
use crate::heavy::{LIGHT, heavy};
use crate::refusal::Refusal;
use crate::rest::body::Limits;
use crate::room::{Room, Taken};
use crate::serve::Due;

/// The method's path.
pub const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// A request that has been read.
#[derive(Debug)]
pub struct Read {
    /// The message.
    pub message: ModelInferRequest,
    /// About how many of its bytes have to be looked at until it is a request.
    pub toil: usize,
    /// The room that it takes.
    pub taken: Taken,
}

/// Reads a call's message, in time, and decodes it as far as there is room for that.
pub async fn read<B>(body: B, headers: &HeaderMap, started: Instant, limits: &Limits) -> Result<Read, Refused>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let left = patience(headers).checked_sub(started.elapsed()).unwrap_or(Duration::ZERO);
    let due = Due::by(Instant::now().checked_add(left));
    let (bytes, mut taken) = message::read(body, message::coding(headers)?, limits, left).await?;
    let toil = if bytes.len() > LIGHT { grpc::toil::<ModelInferRequest>(&bytes) } else { bytes.len() };
    let read = |memory: Memory<'_>| grpc::decode(bytes, memory);
    let message = heavy(toil, || decoding::within(&limits.room, &mut taken, due, read))?;
    Ok(Read { message, toil, taken })
}

/// An answer, encoded, and the room that it takes.
#[derive(Debug)]
pub struct Encoded {
    message: Bytes,
    taken: Taken,
}

impl Encoded {
    /// A message's, as far as there is room for it beside its request's.
    pub fn new(message: &impl Message, room: &Room, taken: Taken) -> Result<Self, Refusal> {
        let length = PREFIX + message.encoded_len();
        let taken = answer::room(room, taken, length)?;
        Ok(Self { message: framed(message, length), taken })
    }

    fn into_body(self) -> Body {
        if self.message.len() <= SMALL {
            return Body::new(Small::new(self.message, self.taken, Some(all_is_well())));
        }
        Body::new(Answer::new(std::iter::once(self.message), self.taken, Some(all_is_well())))
    }
}

/// What an inference comes to, as it is sent.
pub fn answer(answer: Result<Encoded, Status>) -> Response {
    match answer {
        Ok(encoded) => answered(encoded.into_body()),
        Err(status) => status.into_http(),
    }
}

/// A small answer as it is sent.
pub fn response(message: &impl Message) -> Response {
    let message = framed(message, PREFIX + message.encoded_len());
    answered(Encoded { message, taken: Taken::default() }.into_body())
}

fn answered(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// A message behind its prefix, of this length in all.
fn framed(message: &impl Message, length: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(length);
    bytes.put_u8(0);
    // No answer comes near 4 GiB.
    bytes.put_u32(u32::try_from(length - PREFIX).unwrap_or(u32::MAX));
    // There is room for all of it.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn all_is_well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, OK);
    trailers
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use terrace_oip::proto::ModelInferResponse;
    use tonic::Code;

    use super::*;
    use crate::room::Room;

    fn framed(message: &[u8]) -> Bytes {
        [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat().into()
    }

    async fn read_one(message: &[u8], room: usize) -> Result<ModelInferRequest, Code> {
        let limits = Limits { bytes: 1 << 20, room: Room::new(room) };
        let read = read(Full::new(framed(message)), &HeaderMap::new(), Instant::now(), &limits).await;
        read.map(|read| read.message).map_err(|refused| refused.status.code())
    }

    #[tokio::test]
    async fn a_message_is_a_request_for_inference() {
        assert_eq!(read_one(b"\x0a\x01m", 4096).await.unwrap().model_name, "m");
        assert_eq!(read_one(b"", 4096).await.unwrap(), ModelInferRequest::default());
        assert_eq!(read_one(b"\xff\xff\xff", 4096).await.unwrap_err(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn what_would_take_more_memory_than_there_is_is_not_decoded() {
        // An input whose elements are texts without a letter: two bytes each, and dozens in memory.
        let texts = |count: usize| {
            let elements = b"\x42\0".repeat(count);
            let seven = |bytes: usize, place: usize| u8::try_from((bytes >> place) & 0x7f).unwrap();
            let length = |bytes| [seven(bytes, 0) | 0x80, seven(bytes, 7) | 0x80, seven(bytes, 14)];
            let contents = [&b"\x2a"[..], &length(elements.len()), &elements].concat();
            let input = [&b"\x12\x05BYTES"[..], &contents].concat();
            [&b"\x2a"[..], &length(input.len()), &input].concat()
        };
        let read = read_one(&texts(10_000), 1 << 20).await.unwrap();
        assert_eq!(read.inputs[0].contents.as_ref().unwrap().bytes_contents.len(), 10_000);
        assert_eq!(read_one(&texts(20_000), 1 << 20).await.unwrap_err(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_then_that_it_is_good() {
        for size in [1, SMALL, 4 * SMALL] {
            let room = Room::new(1 << 20);
            let message =
                ModelInferResponse { model_name: "m".repeat(size), ..ModelInferResponse::default() };
            let response = answer(Ok(Encoded::new(&message, &room, Taken::default()).unwrap()));
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
            let is_free = || room.cover(&mut Taken::default(), 1 << 20).is_ok();
            assert!(!is_free(), "{size}");
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()[STATUS], "0");
            assert_eq!(collected.to_bytes(), framed(&message.encode_to_vec()), "{size}");
            assert!(is_free(), "{size}");
        }
        let message = ModelInferResponse { model_name: "m".repeat(1 << 20), ..ModelInferResponse::default() };
        let refused = Encoded::new(&message, &Room::new(1 << 19), Taken::default()).unwrap_err();
        assert_eq!(refused.status().as_u16(), 413);
    }

    #[test]
    fn a_refusal_is_told_in_the_headers() {
        let response = answer(Err(Status::not_found("no such model")));
        assert_eq!(
            (response.status(), &response.headers()[STATUS]),
            (http::StatusCode::OK, &HeaderValue::from_static("5"))
        );
    }
}
