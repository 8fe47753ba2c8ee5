//! A small gRPC client: unary calls, each on a connection of its own, with the words of errors.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Waiting, Poll};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::pki::TlsClient;
use crate::wait::LIMIT;

/// `OK`, and codes of errors.
pub const OK: u32 = 0;
/// Too much, or there is no room.
pub const RESOURCE_EXHAUSTED: u32 = 8;
/// The call is not as calls are.
pub const INTERNAL: u32 = 13;
/// The request is wrong.
pub const INVALID_ARGUMENT: u32 = 3;
/// No such call.
pub const UNIMPLEMENTED: u32 = 12;
/// No such model.
pub const NOT_FOUND: u32 = 5;
/// Not for this caller.
pub const PERMISSION_DENIED: u32 = 7;
/// Nobody knows who calls.
pub const UNAUTHENTICATED: u32 = 16;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub code: u32,
    /// What it says.
    pub words: String,
    /// The message, as protobuf; empty where there is none.
    pub message: Bytes,
}

/// A connection that is kept.
pub struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    scheme: &'static str,
}

impl Connection {
    /// Connects, with TLS where a client for it is given.
    pub async fn open(address: SocketAddr, tls: Option<&TlsClient>) -> Result<Self> {
        match tls {
            Some(tls) => Self::over(address, "https", tls.connect(address, &["h2"]).await?).await,
            None => Self::over(address, "http", TcpStream::connect(address).await?).await,
        }
    }

    async fn over(
        address: SocketAddr,
        scheme: &'static str,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self> {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Ends with the sender; an error reaches whoever waits for a reply.
        tokio::spawn(connection);
        Ok(Self { address, sender, scheme })
    }

    /// Calls a method of the inference service with a message in protobuf.
    pub async fn call(&mut self, method: &str, token: Option<&str>, message: &[u8]) -> Result<Reply> {
        let url = format!("{}://{}/inference.GRPCInferenceService/{method}", self.scheme, self.address);
        let request = request(&url, token).body(Full::new(framed(message)?))?;
        let exchange = async {
            self.sender.ready().await?;
            Reply::read(self.sender.send_request(request).await?).await
        };
        timeout(LIMIT, exchange).await.context("no reply")?
    }
}

/// A message as it is sent.
pub fn framed(message: &[u8]) -> Result<Bytes> {
    Ok([&[0], &u32::try_from(message.len())?.to_be_bytes()[..], message].concat().into())
}

fn request(url: &str, token: Option<&str>) -> http::request::Builder {
    let request =
        http::Request::post(url).header("content-type", "application/grpc").header("te", "trailers");
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// A call of which so much is sent, and whose end never comes.
pub struct Stalled(JoinHandle<Result<Reply>>);

impl Stalled {
    /// Begins it, on a connection of its own, with headers beside the usual ones.
    pub async fn begin(
        address: SocketAddr,
        (method, token): (&str, Option<&str>),
        headers: &[(&str, &str)],
        sent: Bytes,
    ) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request =
            request(&format!("http://{address}/inference.GRPCInferenceService/{method}"), token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Endless(Some(sent)))?;
        Ok(Self(tokio::spawn(async move {
            sender.ready().await?;
            Reply::read(sender.send_request(request).await?).await
        })))
    }

    /// The answer, if there is one although the call has not ended.
    pub async fn reply(self) -> Result<Reply> {
        timeout(LIMIT, self.0).await.context("no reply")??
    }

    /// Whether it has been answered.
    pub fn is_answered(&self) -> bool {
        self.0.is_finished()
    }
}

/// Some bytes, and then nothing for ever.
struct Endless(Option<Bytes>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Waiting<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

impl Reply {
    async fn read(response: http::Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        let text = |trailers: &HeaderMap, name: &str| {
            trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let message = body.to_bytes();
        Ok(Self {
            code: text(&trailers, "grpc-status").parse().context("no grpc-status")?,
            words: text(&trailers, "grpc-message"),
            message: message.slice(message.len().min(5)..),
        })
    }
}

/// What has parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The request.
    Request,
    /// Its input.
    Input,
    /// The output that it asks for.
    Output,
}

/// A request about one image, with a parameter of this name that is true.
pub fn inference(model: &str, image: &[f32], parameter: &str) -> Vec<u8> {
    inference_with(model, image, (Of::Request, parameter))
}

/// The same with the parameter elsewhere.
pub fn inference_with(model: &str, image: &[f32], (of, parameter): (Of, &str)) -> Vec<u8> {
    // InferParameter.bool_param
    let entry = [field(1, parameter.as_bytes()), field(2, &[1 << 3, 1])].concat();
    let at = |place: Of, number: u8| if place == of { field(number, &entry) } else { Vec::new() };
    let shape = [1, u8::try_from(image.len()).unwrap_or(u8::MAX)];
    let input = [field(1, b"image"), field(2, b"FP32"), field(3, &shape), at(Of::Input, 4)].concat();
    let output = [field(1, b"label"), at(Of::Output, 2)].concat();
    let raw: Vec<u8> = image.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let fields = [field(1, model.as_bytes()), at(Of::Request, 4), field(5, &input), field(6, &output)];
    [fields.concat(), field(7, &raw)].concat()
}

/// A field that has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut head = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        head.push(length as u8 | 0x80);
        length >>= 7;
    }
    head.push(length as u8);
    [&head, value].concat()
}

/// A message whose first field is a text, which is what most calls take.
pub fn named(name: &str) -> Vec<u8> {
    [&[0x0a, u8::try_from(name.len()).unwrap_or(u8::MAX)], name.as_bytes()].concat()
}
