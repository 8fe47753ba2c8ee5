//! A listener with limits: connections, the time that headers may take, and an end that waits for answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;
use tracing::{debug, warn};

/// The longest that a client may take to send the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// When the headers of a request had been read: its clock starts here.
#[derive(Clone, Copy, Debug)]
pub struct Started(pub Instant);

/// What a listener permits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long requests in flight may take to finish once the listener ends.
    pub drain: Duration,
}

/// Binds `address`; the error says which flag to change.
pub async fn bind(address: SocketAddr, flag: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there; stop it, or choose another address with"
            }
            io::ErrorKind::PermissionDenied => {
                "this user may not listen there; choose a port above 1023 with"
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address; choose another with",
            _ => "choose another address with",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}: {advice} {flag}"))
    })
}

/// Serves `router` until `ending` turns true, then answers what is in flight, within the drain time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let told = ending.clone();
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    accept_failed(&error).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection ended before it was served");
                continue;
            }
            let (server, router, watcher, ending) =
                (server.clone(), router.clone(), connections.watcher(), told.clone());
            tokio::spawn(async move {
                if begins(&stream, ending).await {
                    let connection = server.serve_connection(io_of(stream), entry(router)).into_owned();
                    if let Err(error) = watcher.watch(connection).await {
                        debug!(error, "a connection ended early");
                    }
                }
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, connections.shutdown()).await.is_err() {
        warn!(drain_timeout = ?limits.drain, "requests were still in flight when the drain time was over");
    }
    Ok(())
}

/// Whether a connection sends anything in time. Hyper's own patience begins only with the first byte.
async fn begins(stream: &TcpStream, mut ending: watch::Receiver<bool>) -> bool {
    tokio::select! {
        readable = tokio::time::timeout(HEADER_TIMEOUT, stream.readable()) => matches!(readable, Ok(Ok(()))),
        _ = ending.wait_for(|ending| *ending) => false,
    }
}

fn io_of(stream: TcpStream) -> TokioIo<TcpStream> {
    TokioIo::new(stream)
}

/// The router as hyper calls it: stamps each request with the time at which its headers had been read.
fn entry(
    router: Router,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future = impl Future<Output = Result<axum::response::Response, Infallible>> + Send + 'static,
> + Send
+ 'static {
    service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Started(Instant::now()));
        router.clone().call(request)
    })
}

/// Out of file descriptors, mostly: wait for some to come back instead of spinning.
async fn accept_failed(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    warn!(%error, "cannot accept a connection; trying again in a second");
    tokio::time::sleep(Duration::from_secs(1)).await;
}
