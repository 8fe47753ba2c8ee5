//! The clients for other tiers. Each keeps connections to one endpoint, asks the rules for every address that it connects
//! to, follows no redirect, and says of each connection how long it took and whether it was used before.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use tracing::warn;
use url::Url;

use super::client::Resolver;
use super::connection::{Established, Link, Stream, Transport, established};
use super::{Denied, Egress, causes};

/// How long a tier may take until it is connected to, with TLS; the request's deadline may be nearer.
pub const TIER_CONNECT: Duration = Duration::from_secs(1);

/// How long an idle connection to a tier is kept: less than servers keep theirs, so that no request is sent into one that is
/// being closed.
const POOLED: Duration = Duration::from_secs(10);
/// How many idle ones are kept for an endpoint.
const MAX_POOLED: usize = 64;
/// How long nothing comes until the other side's system is asked whether it lives, and how often then. That is TCP's question:
/// HTTP/2's own is counted against who asks it, and stock gRPC servers close the connection of whoever asks more often than
/// every five minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// After which time without a sign of it the connection ends. A server may take as long until it reads on.
const DEAD: Duration = Duration::from_secs(30);
/// How much of an answer may be under way on a stream, and on a connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// Makes clients for tiers.
#[derive(Clone, Debug)]
pub struct Tiers {
    egress: Egress,
    resolver: Resolver,
    /// Who vouches for servers where no authority is named; read once.
    system: Arc<OnceLock<Arc<dyn ServerCertVerifier>>>,
    open: Arc<AtomicUsize>,
}

/// Which versions of HTTP an endpoint is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1, and HTTP/2 where a TLS server offers it.
    Any,
    /// HTTP/2 alone, as gRPC needs it.
    Two,
}

/// What TLS goes by; what is read from files, as PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TierTls {
    /// The only authorities that vouch for the server; none: the system's.
    pub authorities: Option<Vec<u8>>,
    /// Who the client is: certificates and the key of the first.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must be for, and that it is asked for; none: the host that is connected to.
    pub server_name: Option<String>,
}

/// Why a client cannot be made. Says nothing of what was read.
#[derive(Debug, thiserror::Error)]
pub enum TierTlsError {
    /// No certificate where authorities should be.
    #[error("the authorities are no PEM certificates")]
    Authorities,
    /// No certificate, or no key, where the client's should be.
    #[error("the client's certificate and key are not PEM, or do not belong together")]
    Identity,
    /// The name is no DNS name.
    #[error("the server's name is no DNS name")]
    ServerName,
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl std::fmt::Debug for TierTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { authorities, identity, server_name } = self;
        write!(
            f,
            "authorities {}, identity {}, server name {server_name:?}",
            authorities.is_some(),
            identity.is_some()
        )
    }
}

impl Egress {
    /// What makes clients for tiers: one a process.
    pub fn tiers(&self) -> Tiers {
        Tiers {
            egress: self.clone(),
            resolver: Resolver::new(self.clone()),
            system: Arc::default(),
            open: Arc::default(),
        }
    }
}

impl Tiers {
    /// What can be said of a URL without resolving its host: to be asked once, before its client is used.
    pub fn check_url(&self, url: &Url) -> Result<(), Denied> {
        self.egress.check_url(url)
    }

    /// A client for one endpoint. Needs a process-wide provider of cryptography.
    pub fn client<B>(
        &self,
        version: HttpVersion,
        tls: Option<&TierTls>,
    ) -> Result<TierClient<B>, TierTlsError>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let server_name = tls.and_then(|tls| tls.server_name.clone()).map(ServerName::try_from);
        let server_name = server_name.transpose().map_err(|_| TierTlsError::ServerName)?;
        let tls = tls.map(|tls| self.tls(version, tls)).transpose()?;
        let mut tcp = HttpConnector::new_with_resolver(self.resolver.clone());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(TIER_CONNECT));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_tcp_user_timeout(Some(DEAD));
        let http2 = version == HttpVersion::Two;
        let connector = Connector { tcp, tls, server_name, http2, open: Arc::clone(&self.open) };
        Ok(TierClient { client: pooled(version, &connector), connector, version })
    }

    /// Connections to tiers that are open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn tls(&self, version: HttpVersion, tls: &TierTls) -> Result<Arc<ClientConfig>, TierTlsError> {
        let builder = ClientConfig::builder();
        let builder = match &tls.authorities {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem).ok_or(TierTlsError::Authorities)? {
                    roots.add(authority).map_err(|_| TierTlsError::Authorities)?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.dangerous().with_custom_certificate_verifier(self.system_verifier()?),
        };
        let mut config = match &tls.identity {
            Some((chain, key)) => {
                let chain = certificates(chain).ok_or(TierTlsError::Identity)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TierTlsError::Identity)?;
                builder.with_client_auth_cert(chain, key).map_err(|_| TierTlsError::Identity)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match version {
            HttpVersion::Any => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            HttpVersion::Two => vec![b"h2".to_vec()],
        };
        Ok(Arc::new(config))
    }

    /// A machine without certificates can still reach tiers over http, and those whose authority is named.
    fn system_verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TierTlsError> {
        if let Some(known) = self.system.get() {
            return Ok(Arc::clone(known));
        }
        let provider = CryptoProvider::get_default()
            .ok_or_else(|| rustls::Error::General("no provider of cryptography".to_owned()))?;
        let verifier = Verifier::new(Arc::clone(provider)).inspect_err(|error| {
            warn!(
                error = causes(error),
                "no https:// address of the system's authorities can be reached: install ca-certificates, or name trusted certificates with SSL_CERT_FILE"
            );
        })?;
        Ok(Arc::clone(self.system.get_or_init(|| Arc::new(verifier))))
    }
}

/// A client that has no connection yet.
fn pooled<B>(version: HttpVersion, connector: &Connector) -> Client<Connector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOLED)
        .pool_max_idle_per_host(MAX_POOLED)
        .http2_only(version == HttpVersion::Two)
        .http2_initial_stream_window_size(WINDOWS.0)
        .http2_initial_connection_window_size(WINDOWS.1)
        .build(connector.clone())
}

/// At least one.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.ok().filter(|certificates| !certificates.is_empty())
}

/// A client of one endpoint, with its connections. They are closed when the last clone is gone.
#[derive(Clone, Debug)]
pub struct TierClient<B> {
    client: Client<Connector, B>,
    connector: Connector,
    version: HttpVersion,
}

impl<B> TierClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request; dropped, it is taken back: on HTTP/1.1 with its connection, on HTTP/2 with its stream. One that was
    /// not begun because its connection was closed meanwhile goes by another connection.
    pub fn send(
        &self,
        mut request: Request<B>,
    ) -> (Link, impl Future<Output = Result<Response<Incoming>, ClientError>> + Send + use<B>) {
        let link = Link::new(capture_connection(&mut request));
        let (sending, answer) = (link.clone().note_sending(), self.client.request(request));
        let answer = async move {
            let (mut sending, mut answer) = (pin!(sending), pin!(answer));
            let mut is_noted = false;
            poll_fn(move |context| {
                let polled = answer.as_mut().poll(context);
                if !is_noted && polled.is_pending() {
                    is_noted = sending.as_mut().poll(context).is_ready();
                }
                polled
            })
            .await
        };
        (link, answer)
    }

    /// The same, without the connections that this one keeps.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self {
            client: pooled(self.version, &self.connector),
            connector: self.connector.clone(),
            version: self.version,
        }
    }

    /// Makes a connection and closes it: whether somebody is there.
    pub async fn connect(&self, to: Uri) -> Result<Established, ConnectError> {
        let mut connector = self.connector.clone();
        let connected = connector.call(to).await?.connected();
        established(&connected).ok_or_else(|| "no connection".into())
    }
}

/// Whether a request ended because its stream was reset: the connection that it shares with others is well, and the request
/// may have been worked on. A stream that was refused is none of these: nothing was done for it.
pub fn is_stream_reset(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<h2::Error>() {
        Some(error) => {
            error.is_reset() && !(error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        }
        None => error.source().is_some_and(is_stream_reset),
    }
}

/// What a server said over HTTP/2 in place of an answer, with its code of RFC 9113.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// That it does no more for this request.
    Reset(u32),
    /// That it does no more on this connection.
    GoAway(u32),
}

impl Said {
    /// What it said, if anything: what is said on this side, where the other one breaks the rules, is no word of its.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let Some(error) = error.downcast_ref::<h2::Error>() else { return Self::of(error.source()?) };
        let code = u32::from(error.reason().filter(|_| error.is_remote())?);
        Some(if error.is_reset() { Self::Reset(code) } else { Self::GoAway(code) })
    }

    /// Whether it did nothing for the request.
    pub fn is_refused(self) -> bool {
        self == Self::Reset(h2::Reason::REFUSED_STREAM.into())
    }

    /// Whether it began the request, and does not go on.
    pub fn is_cancelled(self) -> bool {
        self == Self::Reset(h2::Reason::CANCEL.into())
    }
}

/// Why there is no connection.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// No connection in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} ms", TIER_CONNECT.as_millis())]
struct ConnectTimedOut;

#[derive(Clone, Debug)]
struct Connector {
    tcp: HttpConnector<Resolver>,
    tls: Option<Arc<ClientConfig>>,
    /// Whom the server must be; none: the host that is connected to.
    server_name: Option<ServerName<'static>>,
    http2: bool,
    open: Arc<AtomicUsize>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut connector = self.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(TIER_CONNECT, connector.stream(to)).await;
            connected.map_err(|_| ConnectTimedOut)?.map(TokioIo::new)
        })
    }
}

impl Connector {
    async fn stream(&mut self, to: Uri) -> Result<Stream, ConnectError> {
        let begun = Instant::now();
        let host = to.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_encrypted = to.scheme_str() == Some("https");
        poll_fn(|context| self.tcp.poll_ready(context)).await?;
        let tcp = self.tcp.call(to).await?.into_inner();
        let took = begun.elapsed();
        let transport = match &self.tls {
            Some(tls) if is_encrypted => {
                let name = self.server_name.clone().map_or_else(|| ServerName::try_from(host), Ok)?;
                let tls = TlsConnector::from(Arc::clone(tls));
                Transport::Tls(Box::new(tls.connect(name, tcp).await?))
            }
            None if is_encrypted => return Err("https:// without TLS".into()),
            _ => Transport::Plain(tcp),
        };
        Ok(Stream::new(transport, took, self.http2, &self.open))
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<std::net::SocketAddr>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move { Ok(resolver.lookup(name.as_str()).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use http_body_util::Empty;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn client(allowances: &[&str]) -> (Tiers, TierClient<Empty<&'static [u8]>>) {
        let egress = Egress::new(allowances.iter().map(|allowance| allowance.parse().unwrap()).collect());
        let tiers = egress.tiers();
        let client = tiers.client(HttpVersion::Any, None).unwrap();
        (tiers, client)
    }

    fn is_denied(error: &(dyn Error + 'static)) -> bool {
        error.is::<Denied>() || error.source().is_some_and(is_denied)
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_connected_to_only_where_that_is_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to: Uri = format!("http://localhost:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
        let (_, client_of_nothing) = client(&[]);
        let error = client_of_nothing.connect(to.clone()).await.unwrap_err();
        assert!(is_denied(&*error), "{error:?}");
        let (_, listed) = client(&["127.0.0.0/8"]);
        assert!(!listed.connect(to).await.unwrap().is_shared());
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_takes_its_connection_along() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tiers, client) = client(&["127.0.0.0/8"]);
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let request = Request::post(uri).body(Empty::new()).unwrap();
        let (link, answer) = client.send(request);
        let asking = tokio::spawn(answer);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = [0; 4];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, tiers.open_connections()), (b"POST", 1));
        let sent = link.sent().unwrap();
        assert!(link.established().is_some_and(|connection| !connection.is_reused(sent)));
        asking.abort();
        while tiers.open_connections() > 0 {
            tokio::task::yield_now().await;
        }
        let mut rest = Vec::new();
        // Closed in one way or the other.
        let _ = stream.read_to_end(&mut rest).await;
    }

    #[test]
    fn what_is_no_certificate_makes_no_client() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (tiers, _) = client(&[]);
        let make = |tls: TierTls| tiers.client::<Empty<&'static [u8]>>(HttpVersion::Two, Some(&tls)).err();
        let some = |text: &str| Some(text.as_bytes().to_vec());
        let error = make(TierTls { authorities: some("secret"), ..TierTls::default() });
        assert!(matches!(error, Some(TierTlsError::Authorities)), "{error:?}");
        let pair = Some((b"secret".to_vec(), b"secret".to_vec()));
        let error = make(TierTls { identity: pair, ..TierTls::default() });
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        let name = Some("not a name".to_owned());
        let error = make(TierTls { server_name: name, ..TierTls::default() });
        assert!(matches!(error, Some(TierTlsError::ServerName)), "{error:?}");
    }
}
