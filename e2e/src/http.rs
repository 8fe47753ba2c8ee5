//! A small HTTP/1.1 client whose connections are in the caller's hands.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::LIMIT;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, with a query if there is one.
    pub path: String,
    /// Headers beside `host` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From the first byte sent to the last one read.
    pub took: Duration,
}

impl Request {
    /// `GET path`
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// `POST path` with a body.
    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, path: path.into(), headers: Vec::new(), body: body.into() }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(&self, address: SocketAddr) -> Result<http::Request<Full<Bytes>>> {
        let mut request = http::Request::builder()
            .method(self.method.clone())
            .uri(self.path.as_str())
            .header(header::HOST, address.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).context("not a request")
    }
}

impl Reply {
    /// A header's value; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(address, stream).await
    }

    /// Over a connection that is there already.
    pub async fn over(
        address: SocketAddr,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; an error reaches whoever waits for a reply.
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Sends one request and reads its whole reply.
    pub async fn send(&mut self, request: &Request) -> Result<Reply> {
        let request = request.build(self.address)?;
        let started = Instant::now();
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            anyhow::Ok((head, body.collect().await?.to_bytes()))
        };
        let (head, body) = timeout(LIMIT, exchange).await.context("no reply")??;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, took: started.elapsed() })
    }
}

/// One request on a connection of its own.
pub async fn send(address: SocketAddr, request: &Request) -> Result<Reply> {
    Connection::open(address).await?.send(request).await
}

/// Writes bytes as they are, then reads until the other side closes or says nothing for a while.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Result<String> {
    const SILENCE: Duration = Duration::from_millis(500);
    let mut stream = TcpStream::connect(address).await?;
    // A server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let limit = if answer.is_empty() { LIMIT } else { SILENCE };
        match timeout(limit, stream.read(&mut piece)).await {
            Ok(Ok(read @ 1..)) => answer.extend_from_slice(&piece[..read]),
            Ok(Ok(0) | Err(_)) | Err(_) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
}
