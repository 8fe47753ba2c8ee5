//! Whether a connection is used: hyper's patience is with bytes, and a client that sends one, or answers pings, could hold
//! a connection for ever.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long a connection may be without a request, once it had one.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// Less than this in that time is no answer on its way, but pings.
const TRICKLE: u64 = 64 << 10;

/// What happens on a connection.
#[derive(Debug, Default)]
pub struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// Its client does not take what is to be written.
    is_blocked: AtomicBool,
}

/// A request of HTTP/1 of which something has come and that has not begun, for whoever looks at it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Coming {
    /// After so many others.
    begun: u64,
    /// After so much had been answered.
    written: u64,
}

impl Activity {
    /// Resolves when no first request comes in time, or none for long. An answer that is still being sent is a use, too,
    /// although its request has ended: so large a one over a slow line takes as long as it takes.
    pub async fn dies_down(&self, first: Duration) {
        let mut patience = first;
        let (mut seen, mut sent) = (0, 0);
        loop {
            tokio::time::sleep(patience).await;
            let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (begun, ended, written) = (now(&self.begun), now(&self.ended), now(&self.written));
            let is_sending = begun > 0 && written - sent >= TRICKLE;
            if begun == seen && begun == ended && !is_sending {
                return;
            }
            (seen, sent, patience) = (begun, written, IDLE_TIMEOUT);
        }
    }

    /// Resolves when a request of HTTP/1 has been coming for so long and has not begun. To be polled by the task that reads,
    /// and after that: it is woken by nothing else.
    pub async fn stalls(&self, patience: Duration) {
        let mut known = None;
        let mut sleep = pin!(tokio::time::sleep(patience));
        poll_fn(|context| {
            let coming = self.coming();
            if coming != known {
                known = coming;
                sleep.as_mut().reset(Instant::now() + patience);
            }
            if known.is_some() { sleep.as_mut().poll(context) } else { Poll::Pending }
        })
        .await;
    }

    fn coming(&self) -> Option<Coming> {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let begun = now(&self.begun);
        let is_answered = begun == now(&self.ended) && !self.is_blocked.load(Ordering::Relaxed);
        let has_come = is_answered && now(&self.read) > 0;
        has_come.then(|| Coming { begun, written: now(&self.written) })
    }

    /// Bytes came. Those of a request that has begun are its body.
    fn read(&self, count: usize) {
        if self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed) {
            self.read.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct UnderWay(Arc<Activity>);

impl UnderWay {
    /// From now until it is dropped.
    pub fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.read.store(0, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream whose written bytes are counted.
#[derive(Debug)]
pub struct Counted<S> {
    /// What was read of it already.
    first: Bytes,
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Counted<S> {
    /// That of a connection, of which this was read already.
    pub const fn new(first: Bytes, stream: S, activity: Arc<Activity>) -> Self {
        Self { first, stream, activity }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        let written = ready!(written)?;
        self.activity.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = if self.first.is_empty() {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        } else {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            Poll::Ready(Ok(()))
        };
        self.activity.read(buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
