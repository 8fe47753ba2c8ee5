//! A connection that has begun: which HTTP its client speaks, what its requests may take before anybody knows who sends
//! them, and how it ends.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use crate::activity::{Activity, Counted};
use crate::streams::Streams;

/// The longest that a client may take to send the headers of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection of HTTP/1 may be without a request, once it had one: longer than the proxies that keep connections
/// for others keep theirs, which is a minute with most. One that is closed just when they use it again is an error to
/// somebody.
pub const BETWEEN_REQUESTS: Duration = Duration::from_secs(75);
/// How large the head of a request may be: until it is whole, it is memory that nobody has asked for.
const HEAD_BYTES: usize = 32 << 10;
/// The same over HTTP/2, where many may be under way; only one of them is not whole.
const HEADER_LIST_BYTES: u32 = 16 << 10;
const STREAMS: u32 = 256;
/// How often the other side of an HTTP/2 connection must show that it lives.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a connection that is not used may take to end as its protocol has it.
const GOODBYE: Duration = Duration::from_secs(2);
/// With what a client begins that speaks HTTP/2.
const GREETING: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How connections are spoken on.
#[derive(Clone, Debug)]
pub struct Server {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl Server {
    /// As this agent speaks.
    pub fn new() -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(Streams));
        http1.timer(TokioTimer::new()).header_read_timeout(BETWEEN_REQUESTS).max_header_size(HEAD_BYTES);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_LIST_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(HEADER_TIMEOUT);
        Self { http1, http2 }
    }

    /// Answers requests until the connection ends, or is not used any more, or `ending` turns true and all are answered.
    pub async fn converse<S>(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        service: S,
        activity: Arc<Activity>,
        mut ending: watch::Receiver<bool>,
    ) where
        S: hyper::service::Service<Request<Incoming>, Response = Response, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let begun = tokio::select! {
            begun = timeout(HEADER_TIMEOUT, greeted(&mut stream)) => begun,
            _ = ending.wait_for(|ending| *ending) => return,
        };
        let Ok(Ok((first, is_http2))) = begun else {
            debug!("a connection ended before it was greeted");
            return;
        };
        let stream = TokioIo::new(Counted::new(first, stream, Arc::clone(&activity)));
        if is_http2 {
            let connection = self.http2.serve_connection(stream, service);
            see_through(connection, http2::Connection::graceful_shutdown, &activity, ending).await;
        } else {
            let connection = self.http1.serve_connection(stream, service);
            let conversation =
                see_through(connection, http1::Connection::graceful_shutdown, &activity, ending);
            tokio::select! {
                // First, so that the other sees what has come.
                biased;
                () = conversation => {}
                () = activity.stalls(HEADER_TIMEOUT) => debug!("a request's headers took too long"),
            }
        }
    }
}

/// The first bytes of a connection, and whether they are those of HTTP/2.
async fn greeted(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Bytes, bool)> {
    let (mut bytes, mut come) = ([0; GREETING.len()], 0);
    while come < GREETING.len() && bytes[..come] == GREETING[..come] {
        match stream.read(&mut bytes[come..]).await? {
            0 => break,
            more => come += more,
        }
    }
    Ok((Bytes::copy_from_slice(&bytes[..come]), bytes == *GREETING))
}

/// Runs a connection to its end. `finish` has it take no more requests and end after those that it has.
async fn see_through<C>(
    connection: C,
    finish: impl Fn(Pin<&mut C>),
    activity: &Activity,
    mut ending: watch::Receiver<bool>,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut unused = pin!(activity.dies_down(HEADER_TIMEOUT));
    let is_used = tokio::select! {
        ended = connection.as_mut() => return tell(ended),
        () = unused.as_mut() => false,
        _ = ending.wait_for(|ending| *ending) => true,
    };
    finish(connection.as_mut());
    if is_used {
        tokio::select! {
            ended = connection.as_mut() => return tell(ended),
            () = unused => {}
        }
    }
    debug!("a connection was idle for too long");
    if let Ok(ended) = timeout(GOODBYE, connection).await {
        tell(ended);
    }
}

fn tell(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}
