//! A connection to a tier: counted while it is open, and what requests that go by it can learn of it.
//!
//! Made by [`tier`](super::tier)'s connector alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Extensions;
use hyper_util::client::legacy::connect::{CaptureConnection, Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The connection that a request goes by, as soon as it has one.
#[derive(Clone, Debug)]
pub struct Link {
    connection: CaptureConnection,
    sent: Arc<OnceLock<Instant>>,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Established {
    /// How long it took until TCP stood.
    pub took: Duration,
    is_shared: bool,
    life: Arc<Life>,
}

/// What happened on a connection.
#[derive(Debug, Default)]
struct Life {
    answers: Mutex<Answers>,
    /// Something was written since anything came.
    is_sending: AtomicBool,
    is_cut: AtomicBool,
}

/// When it brought answers.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Since when somebody waits for one who waited in vain, if none came since.
    missed: Option<Instant>,
}

impl Link {
    pub(super) fn new(connection: CaptureConnection) -> Self {
        Self { connection, sent: Arc::default() }
    }

    /// None as long as the request waits for a connection.
    pub fn established(&self) -> Option<Established> {
        self.connection.connection_metadata().as_ref().and_then(established)
    }

    /// When the request was given to its connection; none as long as it waits for one.
    pub fn sent(&self) -> Option<Instant> {
        self.sent.get().copied()
    }

    /// Notes when that is.
    pub(super) async fn note_sending(mut self) {
        self.connection.wait_for_connection_metadata().await;
        let _ = self.sent.set(Instant::now());
    }
}

impl Established {
    pub(super) fn new(took: Duration, is_shared: bool) -> Self {
        Self { took, is_shared, life: Arc::default() }
    }

    /// Whether several requests are under way by it at once: it speaks HTTP/2.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether it had brought an answer when a request was sent.
    pub fn is_reused(&self, sent: Instant) -> bool {
        self.answers().first.is_some_and(|first| first <= sent)
    }

    /// It brought an answer.
    pub fn answered(&self) {
        let (mut answers, now) = (self.answers(), Instant::now());
        answers.first = answers.first.or(Some(now));
        (answers.last, answers.missed) = (Some(now), None);
    }

    /// A request that was sent at that time is not waited for any longer. For how long there was no answer to anybody
    /// although somebody waited.
    pub fn missed(&self, sent: Instant) -> Duration {
        let mut answers = self.answers();
        let since = answers.last.map_or(sent, |last| last.max(sent));
        answers.missed.get_or_insert(since).elapsed()
    }

    /// Whether the other side closed it while it was being sent more.
    pub fn is_cut(&self) -> bool {
        self.life.is_cut.load(Ordering::Relaxed)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // Each change is whole, so a panic elsewhere leaves nothing half-done.
        self.life.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn established(connected: &Connected) -> Option<Established> {
    let mut extensions = Extensions::new();
    connected.get_extras(&mut extensions);
    extensions.remove()
}

/// A connection that is counted while it is open.
pub(super) struct Stream {
    transport: Transport,
    established: Established,
    open: Arc<AtomicUsize>,
}

pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// One that took so long to come about. `http2` alone is spoken on it, or what TLS agreed on.
    pub(super) fn new(transport: Transport, took: Duration, http2: bool, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        let established = Established::new(took, http2 || transport.agreed_on_http2());
        Self { transport, established, open: Arc::clone(open) }
    }

    /// What writing came to. A server that has enough of a body may have said why before it closed, and that can still be
    /// read: so what cannot be written any more is not told as an error, and reading finds the answer or the end.
    fn written<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let life = &self.established.life;
        match written {
            Poll::Ready(Err(_)) if !self.established.is_shared && life.is_sending.load(Ordering::Relaxed) => {
                life.is_cut.store(true, Ordering::Relaxed);
                Poll::Pending
            }
            Poll::Ready(Ok(_)) => {
                life.is_sending.store(true, Ordering::Relaxed);
                written
            }
            _ => written,
        }
    }
}

impl Transport {
    fn agreed_on_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2"))
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a connection")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.established.clone());
        if self.transport.agreed_on_http2() { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if buffer.filled().len() > before {
            self.established.life.is_sending.store(false, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        };
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            // Nothing is kept back.
            Transport::Plain(stream) => return Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        match flushed {
            Poll::Ready(Err(_)) => self.written(flushed),
            _ => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_reused_by_what_is_sent_after_its_first_answer() {
        let connection = Established::new(Duration::ZERO, true);
        let before = Instant::now();
        assert!(!connection.is_reused(before));
        while Instant::now() == before {}
        connection.answered();
        assert!(!connection.is_reused(before));
        assert!(connection.is_reused(Instant::now()));
    }

    #[test]
    fn a_connection_is_silent_since_somebody_waits_in_vain() {
        let connection = Established::new(Duration::ZERO, true);
        let seconds = |before: u64| Instant::now().checked_sub(Duration::from_secs(before)).unwrap();
        let missed = |sent| connection.missed(sent).as_secs();
        assert_eq!((missed(seconds(2)), missed(seconds(1))), (2, 2), "the first of them waits the longest");
        connection.answered();
        assert_eq!((missed(seconds(5)), missed(seconds(5))), (0, 0), "another one was answered meanwhile");
    }
}
