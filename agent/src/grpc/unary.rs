//! ModelInfer as it is called nearly always: one message, not compressed. Its bytes are taken as they come and sent as
//! they are, past tonic, whose streams, codecs and boxes cost more than a small model's run. All else is tonic's.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use terrace_oip::grpc;
use terrace_oip::proto::{ModelInferRequest, ModelInferResponse};
use tokio::time::timeout;
use tonic::Status;

use super::held::patience;
use crate::refusal::{Refusal, busy};
use crate::rest::body::{Limits, Pieces};
use crate::room::Taken;

/// The method's path.
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Says how messages of a call are compressed.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");
/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Whether a request is such a call.
pub fn is_plain<B>(request: &Request<B>) -> bool {
    request.uri().path() == PATH
        && request.method() == Method::POST
        && request.headers().get(ENCODING).is_none_or(|encoding| encoding == "identity")
}

/// Reads a call's message, in time. The room that it takes is given back when the second is dropped.
pub async fn read<B>(
    body: B,
    headers: &HeaderMap,
    started: Instant,
    limits: &Limits,
) -> Result<(ModelInferRequest, Taken), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let left = patience(headers).checked_sub(started.elapsed()).unwrap_or(Duration::ZERO);
    let (bytes, taken) = timeout(left, collect(body, limits))
        .await
        .map_err(|_| Status::deadline_exceeded("the request did not arrive in time"))??;
    Ok((message(bytes)?, taken))
}

async fn collect<B>(mut body: B, limits: &Limits) -> Result<(Bytes, Taken), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let most = limits.bytes.saturating_add(PREFIX);
    let (mut whole, mut taken, mut claimed) = (Pieces::default(), Taken::default(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::cancelled("the call ended before its message was whole"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() == 0 {
            claimed = size(&data);
        }
        let needed = claimed.max(whole.len() + data.len());
        if needed > most {
            return Err(Refusal::TooLarge { limit: limits.bytes }.into());
        }
        limits.room.cover(&mut taken, needed).map_err(busy)?;
        whole.push(data, claimed);
    }
    Ok((whole.into_bytes(), taken))
}

/// How large a message will be with what precedes it, if its first bytes say so already.
fn size(first: &[u8]) -> usize {
    let length = first.get(1..PREFIX).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    length.map_or(0, |length| (length as usize).saturating_add(PREFIX))
}

/// The only message of a call.
fn message(mut bytes: Bytes) -> Result<ModelInferRequest, Status> {
    if bytes.is_empty() {
        return Err(Status::internal("Missing request message."));
    }
    if bytes.len() < PREFIX {
        return Err(Status::internal("the call ended inside of its message"));
    }
    let (compressed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if compressed != 0 {
        return Err(Status::internal("the message is compressed, and no header grpc-encoding says how"));
    }
    if length != bytes.len() {
        return Err(Status::internal("the call has not the one message that its length tells"));
    }
    grpc::check(&bytes).map_err(|error| Status::invalid_argument(error.to_string()))?;
    prost::Message::decode(bytes).map_err(|error: prost::DecodeError| Status::internal(error.to_string()))
}

/// An answer, or why there is none, as it is sent.
pub fn response(answer: Result<ModelInferResponse, Status>) -> Response {
    let message = match answer {
        Ok(message) => message,
        Err(status) => return status.into_http(),
    };
    let mut response = Response::new(Body::new(Framed::of(&message)));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// A message, and the word that all went well behind it.
struct Framed {
    message: Option<Bytes>,
    is_ended: bool,
}

impl Framed {
    fn of(message: &ModelInferResponse) -> Self {
        let length = prost::Message::encoded_len(message);
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        // No answer comes near 4 GiB.
        bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // There is room for all of it.
        let _ = prost::Message::encode(message, &mut bytes);
        Self { message: Some(bytes.freeze()), is_ended: false }
    }
}

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.is_ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tonic::Code;

    use super::*;
    use crate::room::Room;

    fn limits() -> Limits {
        Limits { bytes: 100, room: Room::new(1 << 20) }
    }

    fn framed(compressed: u8, length: u32, message: &[u8]) -> Bytes {
        [&[compressed], &length.to_be_bytes()[..], message].concat().into()
    }

    async fn read_one(bytes: Bytes) -> Result<ModelInferRequest, Code> {
        let read = read(Full::new(bytes), &HeaderMap::new(), Instant::now(), &limits()).await;
        read.map(|(message, _)| message).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn a_call_is_one_message_of_the_length_that_it_tells() {
        let named = b"\x0a\x01m";
        assert_eq!(read_one(framed(0, 3, named)).await.unwrap().model_name, "m");
        assert_eq!(read_one(framed(0, 0, b"")).await.unwrap(), ModelInferRequest::default());
        for (bytes, expected) in [
            (Bytes::new(), Code::Internal),
            (Bytes::from_static(b"\0\0\0"), Code::Internal),
            (framed(0, 4, named), Code::Internal),
            (framed(0, 2, named), Code::Internal),
            (framed(1, 3, named), Code::Internal),
            (framed(0, 3, b"\xff\xff\xff"), Code::InvalidArgument),
            (framed(0, 101, &[0; 101]), Code::ResourceExhausted),
            (framed(0, u32::MAX, named), Code::ResourceExhausted),
        ] {
            assert_eq!(read_one(bytes).await.unwrap_err(), expected);
        }
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_then_that_it_is_good() {
        let answer = ModelInferResponse { model_name: "m".to_owned(), ..ModelInferResponse::default() };
        let response = response(Ok(answer));
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[STATUS], "0");
        assert_eq!(collected.to_bytes(), framed(0, 3, b"\x0a\x01m"));
    }

    #[test]
    fn a_refusal_is_told_in_the_headers() {
        let response = response(Err(Status::not_found("no such model")));
        assert_eq!(
            (response.status(), &response.headers()[STATUS]),
            (http::StatusCode::OK, &HeaderValue::from_static("5"))
        );
    }

    #[test]
    fn only_what_is_not_compressed_is_plain() {
        let request =
            |path: &str, encoding: &str| Request::post(path).header(ENCODING, encoding).body(()).unwrap();
        assert!(is_plain(&Request::post(PATH).body(()).unwrap()));
        assert!(is_plain(&request(PATH, "identity")));
        assert!(!is_plain(&Request::get(PATH).body(()).unwrap()));
        assert!(!is_plain(&request(PATH, "gzip")));
        assert!(!is_plain(&request("/inference.GRPCInferenceService/ModelReady", "identity")));
    }
}
