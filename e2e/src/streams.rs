//! A tier that is asked over gRPC, and that fails as HTTP/2 can: a stream by itself, or the connection that several requests
//! share.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::upstreams::LABEL;

type Script = dyn Fn(&Call<'_>) -> Turn + Send + Sync;

/// A call that came.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its message, behind its length.
    pub message: &'a [u8],
    /// By which connection, from 0.
    pub connection: usize,
    /// How many came by it before.
    pub earlier: usize,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// It brings outputs.
    Answered,
    /// The same after a pause.
    After(Duration),
    /// Its stream is reset.
    Reset(Reason),
    /// All connections break after a pause, without a word.
    Crash(Duration),
    /// Nothing, ever.
    Never,
}

/// A server on a port of its own. Gone when dropped, with its connections.
#[derive(Debug)]
pub struct Streams {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    calls: AtomicUsize,
    resets: AtomicUsize,
    pings: AtomicUsize,
    crash: Notify,
}

impl Streams {
    /// Starts one that does as `script` says.
    pub async fn start(script: impl Fn(&Call<'_>) -> Turn + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, counts) = (listener.local_addr()?, Arc::<Counts>::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&counts), Arc::new(script)));
        Ok(Self { address, counts, task })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// How many calls came whole.
    pub fn calls(&self) -> usize {
        self.counts.calls.load(Ordering::Relaxed)
    }

    /// How many streams were reset.
    pub fn resets(&self) -> usize {
        self.counts.resets.load(Ordering::Relaxed)
    }

    /// How often it was asked whether it lives.
    pub fn pings(&self) -> usize {
        self.counts.pings.load(Ordering::Relaxed)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, counts: Arc<Counts>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let connection = counts.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream, connection, Arc::clone(&counts), Arc::clone(&script)));
    }
}

async fn serve(stream: TcpStream, connection: usize, counts: Arc<Counts>, script: Arc<Script>) {
    let (all, earlier) = (Arc::clone(&counts), AtomicUsize::new(0));
    let earlier = Arc::new(earlier);
    let service = service_fn(move |request: Request<Incoming>| {
        let (counts, script, earlier) = (Arc::clone(&counts), Arc::clone(&script), Arc::clone(&earlier));
        async move {
            let message = request.into_body().collect().await.map_err(|_| Reason::CANCEL)?.to_bytes();
            counts.calls.fetch_add(1, Ordering::Relaxed);
            let earlier = earlier.fetch_add(1, Ordering::Relaxed);
            match script(&Call { message: &message, connection, earlier }) {
                Turn::Answered => {}
                Turn::After(pause) => sleep(pause).await,
                Turn::Reset(reason) => {
                    counts.resets.fetch_add(1, Ordering::Relaxed);
                    return Err(h2::Error::from(reason));
                }
                Turn::Crash(pause) => {
                    sleep(pause).await;
                    counts.crash.notify_waiters();
                    pending().await
                }
                Turn::Never => pending().await,
            }
            let mut status = HeaderMap::new();
            status.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [Frame::data(outputs()), Frame::trailers(status)].map(Ok::<_, h2::Error>);
            let mut answer = Response::new(StreamBody::new(stream::iter(frames)));
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok(answer)
        }
    });
    let watched = Watched { stream, frames: Frames::default(), counts: Arc::clone(&all) };
    let conversation =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(watched), service);
    tokio::select! {
        // A connection that breaks is the other side's affair.
        _ = conversation => {}
        () = all.crash.notified() => {}
    }
}

/// A connection whose client's frames are looked at.
struct Watched {
    stream: TcpStream,
    frames: Frames,
    counts: Arc<Counts>,
}

/// Finds pings among frames, however they are cut.
struct Frames {
    head: Vec<u8>,
    passed_over: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { head: Vec::new(), passed_over: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len() }
    }
}

impl Frames {
    /// How many pings these bytes complete.
    fn pings(&mut self, bytes: &[u8]) -> usize {
        let mut pings = 0;
        for byte in bytes {
            if self.passed_over > 0 {
                self.passed_over -= 1;
                continue;
            }
            self.head.push(*byte);
            if let [one, two, three, kind, flags, _, _, _, _] = self.head[..] {
                self.passed_over = u32::from_be_bytes([0, one, two, three]) as usize;
                // One that answers another is none.
                pings += usize::from(kind == 6 && flags & 1 == 0);
                self.head.clear();
            }
        }
        pings
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let pings = self.frames.pings(&buffer.filled()[before..]);
        self.counts.pings.fetch_add(pings, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The outputs of [`crate::upstreams::outputs`] as one message behind its length.
fn outputs() -> Bytes {
    let output = |name: &str, datatype: &str, shape: &[u8]| {
        field(5, &[field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, shape)].concat())
    };
    let probabilities: Vec<u8> = [0.1_f32; 10].iter().flat_map(|value| value.to_le_bytes()).collect();
    let message = [
        field(1, b"made-up"),
        output("probabilities", "FP32", &[1, 10]),
        output("label", "INT64", &[1]),
        field(6, &probabilities),
        field(6, &LABEL.to_le_bytes()),
    ]
    .concat();
    let length = (message.len() as u32).to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

/// A field of a message that is shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128, "its length is one byte");
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_found_however_frames_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (length, kind, flags) in [(0, 4, 0), (8, 6, 0), (300, 0, 1), (8, 6, 1), (8, 6, 0)] {
            bytes.extend([0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + length, 6);
        }
        for size in [1, 2, 7, 40, 1000] {
            let mut frames = Frames::default();
            assert_eq!(bytes.chunks(size).map(|piece| frames.pings(piece)).sum::<usize>(), 2, "{size}");
        }
    }
}
