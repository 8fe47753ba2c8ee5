//! The bytes of gRPC requests are counted as they arrive, as those of HTTP are: no length is stated before.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::requirements;
use crate::rest::body::PATIENCE;
use crate::room::{Room, Taken};

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
pub async fn hold(State(room): State<Room>, mut request: Request, next: Next) -> Response {
    let held = Held::default();
    request.extensions_mut().insert(held.clone());
    let patience = patience(request.headers());
    let request = request.map(|inner| {
        Body::new(HeldBody { inner, room, held, bytes: 0, patience: Box::pin(sleep(patience)) })
    });
    next.run(request).await
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
    room: Room,
    held: Held,
    bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if polled.is_pending() && self.patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Status::deadline_exceeded("the request did not arrive in time"))));
        }
        polled.map(|frame| {
            let frame = frame?.map_err(|error| Status::cancelled(error.to_string()));
            Some(frame.and_then(|frame| {
                self.bytes += frame.data_ref().map_or(0, Bytes::len);
                let mut taken = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
                let covered = self.room.cover(&mut taken, self.bytes);
                covered.map(|()| frame).map_err(|full| Status::resource_exhausted(full.to_string()))
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
