//! One call to a tier over the Open Inference Protocol's gRPC binding: one message there, one back, and a status behind it.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue, Request, StatusCode, Version, header};
use tonic::{Code, Status};
use url::Url;

use super::body::{Whole, whole};
use super::error::{UpstreamError, grpc_error};
use super::flight::Time;
use super::relayed::Relayed;
use super::{Ask, Sender, post};
use crate::pieces::Pieces;
use crate::rest::body::Limits;

/// The method.
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// How long the call may take, in gRPC's words.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The call, as it is sent.
pub fn request(ask: &Ask<'_>, base: &Url) -> Option<Request<Pieces>> {
    let body = ask.outgoing.grpc(ask.model)?;
    let to = base.join(PATH).ok()?.as_str().parse().ok()?;
    let mut request = post(to, ask, HeaderValue::from_static("application/grpc"), body);
    *request.version_mut() = Version::HTTP_2;
    let fields = request.headers_mut();
    fields.insert(header::TE, HeaderValue::from_static("trailers"));
    fields.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    if let Some(left) = ask.left() {
        fields.insert(TIMEOUT, HeaderValue::try_from(timeout(left)).ok()?);
    }
    Some(request)
}

/// A time in gRPC's words: the finest unit in which it has no more than eight digits, which are all that are allowed.
fn timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let seconds = u128::from(left.as_secs());
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (seconds, 'S'), (seconds / 60, 'M')];
    let (count, unit) =
        units.into_iter().find(|(count, _)| *count <= MOST).unwrap_or(((seconds / 3_600).min(MOST), 'H'));
    format!("{count}{unit}")
}

/// Makes it, and reads the answer.
pub async fn exchange(
    sender: &Sender,
    request: Request<Pieces>,
    limits: &Limits,
    time: Time,
) -> Result<Relayed, UpstreamError> {
    let (head, body) = sender.send(request).await?.into_parts();
    if head.status != StatusCode::OK {
        // Something that does not speak gRPC: a proxy, say.
        return Err(UpstreamError::Status { status: head.status, late: None, in_protocol: false });
    }
    let framed = Limits { bytes: limits.bytes.saturating_add(PREFIX), room: limits.room.clone() };
    let Whole { bytes, trailers, taken } = whole(body, &framed).await?;
    let status = [&trailers, &head.headers].into_iter().find_map(Status::from_header_map);
    match status {
        Some(status) if status.code() == Code::Ok => {
            Relayed::grpc(message(bytes)?, taken, &limits.room, time)
        }
        Some(status) => Err(refusal(&status)),
        None => Err(UpstreamError::Malformed("no grpc-status".to_owned())),
    }
}

/// The message that a body holds.
fn message(mut bytes: Bytes) -> Result<Bytes, UpstreamError> {
    let malformed = |why: &str| UpstreamError::Malformed(why.to_owned());
    if bytes.len() < PREFIX {
        return Err(malformed("no message"));
    }
    if bytes.get_u8() != 0 {
        return Err(malformed("a compressed message, which was not asked for"));
    }
    if bytes.get_u32() as usize != bytes.len() {
        return Err(malformed("not one message"));
    }
    Ok(bytes)
}

/// What a status means, in the words of HTTP.
fn refusal(status: &Status) -> UpstreamError {
    let status = match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
            return UpstreamError::Rejected { message: grpc_error(status.message()) };
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::NotFound | Code::Unimplemented => StatusCode::NOT_FOUND,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // A proxy answers in the same form.
    UpstreamError::Status { status, late: None, in_protocol: false }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use terrace_oip::proto::ModelInferResponse;
    use terrace_tiering::{Blame, blame};

    use super::*;

    fn framed(message: &ModelInferResponse) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
    }

    #[test]
    fn a_time_is_said_as_finely_as_eight_digits_can() {
        for (left, said) in [
            (Duration::ZERO, "0u"),
            (Duration::from_micros(99_999_999), "99999999u"),
            (Duration::from_micros(100_000_999), "100000m"),
            (Duration::from_secs(86_400), "86400000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(6_000_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout(left), said, "{left:?}");
        }
    }

    #[test]
    fn an_answer_is_one_message_that_is_whole() {
        let answer = ModelInferResponse { model_name: "digits".to_owned(), ..ModelInferResponse::default() };
        let good = framed(&answer);
        assert_eq!(message(good.clone().into()).unwrap(), answer.encode_to_vec());
        let mut compressed = good.clone();
        compressed[0] = 1;
        let (short, two) = (good[..good.len() - 1].to_vec(), [good.clone(), good].concat());
        for bad in [Vec::new(), vec![0; 4], compressed, short, two] {
            assert!(matches!(message(bad.clone().into()), Err(UpstreamError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_status_says_whether_the_request_was_wrong_or_the_tier() {
        let of = |code| refusal(&Status::new(code, "shape"));
        assert!(
            matches!(of(Code::InvalidArgument), UpstreamError::Rejected { message } if message == "shape")
        );
        for (code, blamed) in [
            (Code::NotFound, Blame::Nobody),
            (Code::ResourceExhausted, Blame::Nobody),
            (Code::Unauthenticated, Blame::Nobody),
            (Code::Unavailable, Blame::Either),
            (Code::DeadlineExceeded, Blame::Either),
            (Code::Internal, Blame::Model),
            (Code::Unknown, Blame::Model),
        ] {
            assert_eq!(of(code).unanswered().map(blame), Some(blamed), "{code:?}");
        }
    }
}
