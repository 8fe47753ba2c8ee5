//! The bytes of gRPC requests are counted as they arrive, as those of HTTP are: no length is stated before. What is
//! compressed is unpacked here, within the same limits, and the service sees none of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::messages::Messages;
use crate::refusal::Refusal;
use crate::requirements;
use crate::rest::body::{Limits, PATIENCE};
use crate::room::Taken;
use crate::unpacking::texts;

/// The coding of a call's messages.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// The codings that a side reads.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The room that a request's bytes take, for whoever answers it.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<Taken>>);

impl Held {
    /// Takes the room over.
    pub fn take(&self) -> Taken {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Has a request's body take room while it is read.
pub async fn hold(State(limits): State<Limits>, mut request: Request, next: Next) -> Response {
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    let patience = patience(request.headers());
    let coding = terrace_coding::of_content(texts(request.headers(), &ENCODING));
    let Ok(coding) = coding else { return unknown_coding() };
    // What is passed on is in none.
    request.headers_mut().remove(ENCODING);
    let request = request.map(|inner| {
        Body::new(HeldBody {
            inner,
            messages: Messages::new(coding, limits),
            ready: VecDeque::new(),
            held,
            patience: Box::pin(sleep(patience)),
        })
    });
    next.run(request).await
}

/// As gRPC has it: what is not read, and what is.
fn unknown_coding() -> Response {
    let said = format!(
        "the messages' grpc-encoding is none that this agent reads; send one of {}, or none",
        terrace_coding::Coding::NAMES
    );
    let mut response: Response = Status::unimplemented(said).into_http();
    let codings = HeaderValue::from_static(terrace_coding::Coding::NAMES);
    response.headers_mut().insert(ACCEPT_ENCODING, codings);
    response
}

/// How long a request may take to arrive: until its deadline, if it states one. What is wrong with what it states, it
/// hears from who reads it.
pub(super) fn patience(headers: &HeaderMap) -> Duration {
    let stated = [requirements::from_headers(headers), requirements::from_grpc_timeout(headers)];
    let limits = stated.into_iter().flatten().filter_map(|stated| stated.max_latency_ms);
    let limits = limits.filter_map(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
    limits.fold(PATIENCE, Duration::min)
}

struct HeldBody {
    inner: Body,
    messages: Messages,
    /// What is to be passed on.
    ready: VecDeque<Bytes>,
    held: Held,
    patience: Pin<Box<Sleep>>,
}

impl HeldBody {
    /// Takes what has come, and room for it.
    fn feed(&mut self, data: Bytes) -> Result<(), Refusal> {
        let mut taken = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.messages.feed(data, &mut taken, &mut self.ready)
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let polled = Pin::new(&mut self.inner).poll_frame(context);
            if polled.is_pending() && self.patience.as_mut().poll(context).is_ready() {
                return Poll::Ready(Some(Err(Status::deadline_exceeded(
                    "the request did not arrive in time",
                ))));
            }
            let Some(frame) = ready!(polled) else { return Poll::Ready(None) };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Some(Err(Status::cancelled(error.to_string())))),
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Err(refusal) = self.feed(data) {
                        return Poll::Ready(Some(Err(refusal.into())));
                    }
                }
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What is unpacked has another size.
        SizeHint::default()
    }
}
