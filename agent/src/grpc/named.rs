//! Calls that name models and little else: their messages are read here, and none of them may be large.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{BufMut as _, BytesMut};

use super::message::{self, ENCODING, PREFIX};
use crate::rest::body::Limits;

/// More than any name is.
const BYTES: usize = 64 << 10;

/// The methods that read what they are sent; of another, nothing is read.
const METHODS: [&str; 6] =
    ["ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"];

/// What they may have of what an inference may.
pub fn limits(of_inferences: &Limits) -> Limits {
    Limits { bytes: of_inferences.bytes.min(BYTES), room: of_inferences.room.clone() }
}

/// Reads a call's message for the service, which sees it uncompressed.
pub async fn read(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let method = parts.uri.path().strip_prefix("/inference.GRPCInferenceService/");
    if !method.is_some_and(|method| METHODS.contains(&method)) {
        return next.run(Request::from_parts(parts, Body::empty())).await;
    }
    let read = async {
        let coding = message::coding(&parts.headers)?;
        message::read(body, coding, &limits, message::patience(&parts.headers)).await
    };
    let (message, _taken) = match read.await {
        Ok(read) => read,
        Err(refused) => return refused.status.into_http(),
    };
    parts.headers.remove(ENCODING);
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // It is no longer than the limit.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    next.run(Request::from_parts(parts, Body::from(framed.freeze()))).await
}
