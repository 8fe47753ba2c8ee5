//! A listener with limits: connections, the time that headers may take, and an end that waits for answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use http::{HeaderValue, Version, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower_service::Service as _;
use tracing::{debug, warn};

use crate::activity::{Activity, UnderWay};
use crate::callers::{Door, Peer};
use crate::conversation::{HEADER_TIMEOUT, Server};
use crate::streams;

/// The longest that a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of what is written to a connection may lie unsent in the kernel. More is taken only once its client has taken some
/// of that: so it shows whether a client takes its answer, and none is held where nobody counts it.
const UNSENT_BYTES: u32 = 64 << 10;

/// What answers the requests of a port.
pub trait App: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;
}

impl App for Router {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        self.clone().call(request).await.unwrap_or_else(|never| match never {})
    }
}

/// When the headers of a request had been read: its clock starts here.
#[derive(Clone, Copy, Debug)]
pub struct Started(pub Instant);

/// What answers on a port.
#[derive(Debug)]
pub struct Served<A> {
    /// Where requests go.
    pub app: A,
    /// Who is let in; none where everybody is, without encryption.
    pub door: Option<Arc<Door>>,
    /// What is permitted.
    pub limits: Limits,
}

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

/// Serves until `ending` turns true, then answers what is in flight, within the drain time.
pub async fn serve(
    listener: TcpListener,
    served: Served<impl App>,
    mut ending: watch::Receiver<bool>,
) -> io::Result<()> {
    let Served { app, door, limits } = served;
    let permits = Arc::new(Semaphore::new(limits.connections));
    let server = Server::new();
    // Each connection has one; nothing is sent.
    let (open, mut connections) = mpsc::channel::<Infallible>(1);
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
            if let Err(error) = prepare(&stream) {
                debug!(%error, "a connection ended before it was served");
                continue;
            }
            let visit =
                Visit { server: server.clone(), app: app.clone(), door: door.clone(), ending: told.clone() };
            let open = open.clone();
            tokio::spawn(async move {
                visit.run(stream).await;
                drop((permit, open));
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = ending.wait_for(|ending| *ending) => {}
    }
    drop((listener, open));
    if tokio::time::timeout(limits.drain, connections.recv()).await.is_err() {
        // Each connection that is not used has ended.
        let connections = limits.connections - permits.available_permits();
        warn!(drain_timeout = ?limits.drain, connections, "requests were still in flight when the drain time was over");
    }
    Ok(())
}

/// Has a connection send at once what there is, and keep little of what its client does not take.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// A connection, from its first byte to its end.
struct Visit<A> {
    server: Server,
    app: A,
    door: Option<Arc<Door>>,
    ending: watch::Receiver<bool>,
}

impl<A: App> Visit<A> {
    async fn run(self, stream: TcpStream) {
        let mut ending = self.ending.clone();
        let beginning = async {
            if !begins(&stream).await {
                return None;
            }
            let Some((door, tls)) = self.door.as_ref().and_then(|door| Some((door, door.tls()?))) else {
                return Some(Begun::Plain(stream));
            };
            match shake_hands(stream, tls).await {
                Ok(stream) => Some(Begun::Encrypted(Box::new(stream))),
                Err(Some(reason)) => {
                    door.no_connection(reason);
                    None
                }
                Err(None) => None,
            }
        };
        let begun = tokio::select! {
            begun = beginning => begun,
            _ = ending.wait_for(|ending| *ending) => None,
        };
        match begun {
            Some(Begun::Plain(stream)) => self.converse(stream, None).await,
            Some(Begun::Encrypted(stream)) => {
                let peer = Door::peer(stream.get_ref().1.peer_certificates());
                self.converse(stream, peer).await;
            }
            None => {}
        }
    }

    async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Option<Peer>,
    ) {
        let activity = Arc::new(Activity::default());
        let guard = Guard { door: self.door, peer: peer.map(Arc::new) };
        let service = entry(self.app, guard, Arc::clone(&activity));
        self.server.converse(stream, service, activity, self.ending).await;
    }
}

/// A connection that may be spoken on.
enum Begun {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// Whether a connection sends anything in time. Hyper's own patience begins only with the first byte.
async fn begins(stream: &TcpStream) -> bool {
    let readable = tokio::time::timeout(HEADER_TIMEOUT, stream.readable()).await;
    matches!(readable, Ok(Ok(())))
}

/// The encrypted connection; else why not, in one word. A client that goes away by itself is nothing to count.
async fn shake_hands(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
) -> Result<TlsStream<TcpStream>, Option<&'static str>> {
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await;
    let error = match shaken {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => return Err(Some("HandshakeTimedOut")),
    };
    let told = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    Err(match told {
        Some(rustls::Error::NoCertificatesPresented) => Some("NoCertificate"),
        Some(rustls::Error::InvalidCertificate(_)) => Some("CertificateRefused"),
        Some(_) => Some("HandshakeFailed"),
        None => None,
    })
}

/// Who asks whom for each request of a connection.
#[derive(Clone)]
struct Guard {
    door: Option<Arc<Door>>,
    peer: Option<Arc<Peer>>,
}

/// The app as hyper calls it: stamps each request with the time at which its headers had been read, and with who calls.
fn entry(
    app: impl App,
    guard: Guard,
    activity: Arc<Activity>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future = impl Future<Output = Result<Response, Infallible>> + Send + 'static,
> + Send
+ 'static {
    service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Started(Instant::now()));
        let under_way = UnderWay::begin(&activity);
        let (app, guard) = (app.clone(), guard.clone());
        let is_held_back =
            request.version() == Version::HTTP_11 && request.headers().contains_key(header::EXPECT);
        async move {
            let _under_way = under_way;
            let denied = match &guard.door {
                Some(door) => {
                    let admitted = door.admit(&mut request, guard.peer.as_deref()).await;
                    admitted.err().map(|denied| (door, denied))
                }
                None => None,
            };
            let mut answer = match denied {
                Some((door, denied)) => door.turn_away(denied, request),
                None => app.answer(request).await,
            };
            if is_held_back && !answer.status().is_success() {
                // Its client was not told to go on, and may do so or not: what comes next could be either.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // From now on its client is waited for.
            streams::moved();
            Ok(answer)
        }
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

#[cfg(test)]
mod tests;
