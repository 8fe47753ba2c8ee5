//! One call to a tier over the Open Inference Protocol's gRPC binding: one message there, one back, and a status behind it.

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue, Request, StatusCode, Version, header};
use prost::Message as _;
use terrace_oip::proto::ModelInferResponse;
use tonic::{Code, Status};
use url::Url;

use super::body::whole;
use super::error::{UpstreamError, grpc_error};
use super::relayed::Relayed;
use super::{Ask, Sender, post};
use crate::pieces::Pieces;

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
        // At most eight digits are allowed.
        let micros = left.as_micros().min(99_999_999);
        fields.insert(TIMEOUT, HeaderValue::try_from(format!("{micros}u")).ok()?);
    }
    Some(request)
}

/// Makes it, and reads the answer.
pub async fn exchange(
    sender: &Sender,
    request: Request<Pieces>,
    max_bytes: usize,
) -> Result<Relayed, UpstreamError> {
    let (head, body) = sender.send(request).await?.into_parts();
    if head.status != StatusCode::OK {
        // Something that does not speak gRPC: a proxy, say.
        return Err(UpstreamError::Status { status: head.status, late: None });
    }
    let (bytes, trailers) = whole(body, max_bytes.saturating_add(PREFIX)).await?;
    let status = [&trailers, &head.headers].into_iter().find_map(Status::from_header_map);
    match status {
        Some(status) if status.code() == Code::Ok => message(bytes),
        Some(status) => Err(refusal(&status)),
        None => Err(UpstreamError::Malformed("no grpc-status".to_owned())),
    }
}

fn message(mut bytes: Bytes) -> Result<Relayed, UpstreamError> {
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
    // Its elements stay where they are.
    Relayed::grpc(ModelInferResponse::decode(bytes).map_err(|_| malformed("no ModelInferResponse"))?)
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
    UpstreamError::Status { status, late: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &ModelInferResponse) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat()
    }

    #[test]
    fn an_answer_is_one_message_that_is_whole() {
        let answer = ModelInferResponse { model_name: "digits".to_owned(), ..ModelInferResponse::default() };
        let good = framed(&answer);
        assert!(matches!(message(good.clone().into()), Ok(Relayed::Grpc(read)) if read.message == answer));
        let mut compressed = good.clone();
        compressed[0] = 1;
        let (short, two) = (good[..good.len() - 1].to_vec(), [good.clone(), good].concat());
        for bad in [Vec::new(), vec![0; 4], compressed, short, two, [&[0, 0, 0, 0, 1][..], &[0xff]].concat()]
        {
            assert!(matches!(message(bad.clone().into()), Err(UpstreamError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_status_says_whether_the_request_was_wrong_or_the_tier() {
        let of = |code| refusal(&Status::new(code, "shape"));
        assert!(
            matches!(of(Code::InvalidArgument), UpstreamError::Rejected { message } if message == "shape")
        );
        for (code, weight) in [
            (Code::NotFound, None),
            (Code::ResourceExhausted, None),
            (Code::Unauthenticated, None),
            (Code::Unavailable, Some(1.0)),
            (Code::Internal, Some(1.0)),
            (Code::Unknown, Some(1.0)),
        ] {
            assert_eq!(of(code).weight(), weight, "{code:?}");
        }
    }
}
