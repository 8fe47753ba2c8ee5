//! A proxy of the libraries that an agent speaks HTTP with, and of nothing else: what those cost of a request that is passed on.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::thread;

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Mutex;

/// Starts one that passes requests on to a server, each once it is whole, in the pieces that it came in; a connection there
/// for each connection here. Its thread ends with the process.
pub fn start(server: SocketAddr) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let here = listener.local_addr()?;
    // As an agent of this machine has them.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    thread::spawn(move || runtime.block_on(listen(listener, server)));
    Ok(here)
}

async fn listen(listener: std::net::TcpListener, server: SocketAddr) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(converse(stream, server));
    }
}

async fn converse(client: TcpStream, server: SocketAddr) -> Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(server)).await?;
    tokio::spawn(connection);
    let sender = Mutex::new(sender);
    let service = service_fn(|request| pass_on(request, &sender));
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await?;
    Ok(())
}

type Whole = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn pass_on(
    request: Request<Incoming>,
    sender: &Mutex<SendRequest<Whole>>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, mut body) = request.into_parts();
    let mut pieces = Vec::new();
    while let Some(piece) = body.frame().await {
        pieces.push(Ok(piece?));
    }
    // Its head says how long it is.
    let request = Request::from_parts(head, StreamBody::new(stream::iter(pieces)));
    let (head, body) = sender.lock().await.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
