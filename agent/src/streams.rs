//! Streams of HTTP/2: each answer goes out at its client's pace, for as long as the client takes some of it.
//!
//! Run by `conversation` in place of hyper's own way to run them; asked by `answer`, which tells whether it moves.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use crate::activity::IDLE_TIMEOUT;

thread_local! {
    /// Whether the answer moved of the stream that is being polled here, if one is.
    static MOVED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// The answer of the stream that is being polled begins, or some of it has left.
pub fn moved() {
    MOVED.with(|moved| moved.set(moved.get().map(|_| true)));
}

/// Whether a stream is being polled here: the other side takes as much of its answer as it likes, and may hold up none of
/// the connection by that.
pub fn is_one() -> bool {
    MOVED.get().is_some()
}

/// Runs streams.
#[derive(Clone, Copy, Debug)]
pub struct Streams;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(patiently(stream));
    }
}

/// Runs a stream until it ends, or until nothing of its answer was taken for long: it is reset then, since nobody holds it
/// any more. A stream whose answer leaves at once sees no clock.
async fn patiently(stream: impl Future<Output = ()>) {
    let mut stream = pin!(stream);
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        MOVED.set(Some(false));
        let polled = stream.as_mut().poll(context);
        let has_moved = MOVED.take() == Some(true);
        if polled.is_ready() {
            return polled;
        }
        if has_moved {
            let until = Instant::now() + IDLE_TIMEOUT;
            match &mut patience {
                Some(patience) => patience.as_mut().reset(until),
                None => patience = Some(Box::pin(sleep_until(until))),
            }
        }
        let Some(patience) = &mut patience else { return Poll::Pending };
        let over = patience.as_mut().poll(context);
        if over.is_ready() {
            debug!("an answer was given up: its client takes nothing of it");
        }
        over
    })
    .await;
}
