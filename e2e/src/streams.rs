//! A tier that is asked over gRPC, and that resets the streams of some requests: one request fails, and the connection that
//! it shares with others is well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::upstreams::LABEL;

type Script = dyn Fn(&[u8]) -> Option<Reason> + Send + Sync;

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
    resets: AtomicUsize,
}

impl Streams {
    /// Starts one that answers but where `script` gives a reason to reset, by the message that came.
    pub async fn start(script: impl Fn(&[u8]) -> Option<Reason> + Send + Sync + 'static) -> Result<Self> {
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

    /// How many streams were reset.
    pub fn resets(&self) -> usize {
        self.counts.resets.load(Ordering::Relaxed)
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
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let (counts, script) = (Arc::clone(&counts), Arc::clone(&script));
        let service = service_fn(move |request: Request<Incoming>| {
            let (counts, script) = (Arc::clone(&counts), Arc::clone(&script));
            async move {
                let message = request.into_body().collect().await.map_err(|_| Reason::CANCEL)?.to_bytes();
                if let Some(reason) = script(&message) {
                    counts.resets.fetch_add(1, Ordering::Relaxed);
                    return Err(h2::Error::from(reason));
                }
                let mut status = HeaderMap::new();
                status.insert("grpc-status", HeaderValue::from_static("0"));
                let frames = [Frame::data(outputs()), Frame::trailers(status)].map(Ok::<_, h2::Error>);
                let mut answer = Response::new(StreamBody::new(stream::iter(frames)));
                answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                Ok(answer)
            }
        });
        connections.spawn(async move {
            // A connection that breaks is the other side's affair.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
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
