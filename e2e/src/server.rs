//! A web server under a test's control: it records every byte that it is sent, and answers as slowly, as wrongly or
//! as incompletely as it is told to. Tests use it as a tier and as a place to fetch models from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /v2/models/digits/infer`
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How many requests came by its connection before.
    pub earlier: usize,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The status.
    pub status: u16,
    /// Headers beside `content-length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How it is sent.
    pub pace: Pace,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as it goes.
    AtOnce,
    /// After a pause.
    After(Duration),
    /// In pieces of so many bytes with a pause before each.
    Pieces(usize, Duration),
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// Never; the connection stays open.
    Never,
    /// Not at all: the connection is closed.
    HangUp,
    /// The same after a pause.
    HangUpAfter(Duration),
    /// Not at all: the connection is reset, so that the other side's system says that it broke.
    Reset,
    /// The body alone, as if it were a whole answer; the connection stays open.
    Bare,
}

/// A server on a port of its own. Gone when dropped, with its connections.
#[derive(Debug)]
pub struct Server {
    url: String,
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Record {
    bytes: Vec<u8>,
    requests: Vec<Seen>,
    connections: usize,
}

/// What is done by what is asked for, if anything.
type Early = dyn Fn(&str) -> Option<Plan> + Send + Sync;

/// What is answered, and what is answered before a body is read.
struct Script {
    plan: Box<dyn Fn(&Seen) -> Plan + Send + Sync>,
    early: Box<Early>,
}

impl Seen {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The path that is asked for.
    pub fn path(&self) -> &str {
        self.target.split(' ').nth(1).unwrap_or_default()
    }
}

impl Plan {
    /// `200` with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// This status with this body.
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), pace: Pace::AtOnce }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sent like this.
    #[must_use]
    pub const fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }
}

impl Script {
    fn of(plan: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Self {
        Self { plan: Box::new(plan), early: Box::new(|_| None) }
    }
}

impl Server {
    /// Starts one that answers as `script` says.
    pub async fn start(script: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Result<Self> {
        Self::listen("http", None, Script::of(script)).await
    }

    /// The same, but where `early` has a plan by what is asked for, that is done before the body is read, and the connection
    /// is closed at once.
    pub async fn start_hasty(
        early: impl Fn(&str) -> Option<Plan> + Send + Sync + 'static,
        script: impl Fn(&Seen) -> Plan + Send + Sync + 'static,
    ) -> Result<Self> {
        let script = Script { early: Box::new(early), ..Script::of(script) };
        Self::listen("http", None, script).await
    }

    /// The same over TLS, with a certificate that only [`authority`] vouches for. Records what was encrypted.
    pub async fn start_tls(script: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Result<Self> {
        Self::listen("https", Some(tls(false)?), Script::of(script)).await
    }

    /// The same for clients alone that show a certificate of their own authority: `e2e/tests/tls/client.pem`.
    pub async fn start_mutual(script: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Result<Self> {
        Self::listen("https", Some(tls(true)?), Script::of(script)).await
    }

    async fn listen(scheme: &'static str, tls: Option<TlsAcceptor>, script: Script) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let record = Arc::new(Mutex::new(Record::default()));
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&record), Arc::new(script)));
        Ok(Self { url, record, task })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Every byte that it was sent, on whatever connection.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.record).bytes.clone()
    }

    /// Every whole request that it was sent.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.record).requests.clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        lock(&self.record).connections
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server shows, and whether it asks its clients who they are.
fn tls(mutual: bool) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../tests/tls/server.pem"))?;
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tests/tls/server.key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if mutual {
        let mut clients = RootCertStore::empty();
        clients.add(CertificateDer::from_pem_slice(include_bytes!("../tests/tls/client-ca.pem"))?)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider).build()?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    Ok(Arc::new(builder.with_single_cert(vec![certificate], key)?).into())
}

/// The certificate of the authority that vouches for servers with TLS.
pub fn authority() -> PathBuf {
    crate::checkout().join("e2e/tests/tls/ca.pem")
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    record: Arc<Mutex<Record>>,
    script: Arc<Script>,
) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        lock(&record).connections += 1;
        let _ = stream.set_nodelay(true);
        let (tls, record, script) = (tls.clone(), Arc::clone(&record), Arc::clone(&script));
        connections.spawn(async move {
            match tls {
                None => serve(stream, record, script).await,
                // A client that does not trust this server ends the handshake.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, record, script).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection until either side has enough.
async fn serve<S>(stream: S, record: Arc<Mutex<Record>>, script: Arc<Script>)
where
    S: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let mut wire = Wire { stream, record, unread: Vec::new() };
    let mut earlier = 0;
    // A connection that breaks is the other side's affair.
    while let Ok(Some(seen)) = wire.request(earlier, &script).await {
        earlier += 1;
        let plan = (script.plan)(&seen);
        lock(&wire.record).requests.push(seen);
        if wire.answer(plan).await.is_err() {
            return;
        }
    }
}

/// One side of a connection.
struct Wire<S> {
    stream: S,
    record: Arc<Mutex<Record>>,
    unread: Vec<u8>,
}

/// A connection that can be ended without a goodbye.
trait Reset {
    /// What is not sent yet is thrown away when it is dropped, and the other side is told that it is gone.
    fn reset(&self) -> Result<()>;
}

impl Reset for TcpStream {
    fn reset(&self) -> Result<()> {
        Ok(self.set_zero_linger()?)
    }
}

impl Reset for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(&self) -> Result<()> {
        self.get_ref().0.reset()
    }
}

impl<S: AsyncRead + AsyncWrite + Reset + Unpin> Wire<S> {
    /// The next request; none once the other side has closed.
    async fn request(&mut self, earlier: usize, script: &Script) -> Result<Option<Seen>> {
        let end = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break end;
            }
            if !self.read().await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let target = lines.next().unwrap_or_default().to_owned();
        if let Some(plan) = (script.early)(&target) {
            self.answer(plan).await?;
            anyhow::bail!("closed early, as planned");
        }
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(Ok(0), |(_, length)| length.parse())?;
        while self.unread.len() < length {
            if !self.read().await? {
                return Ok(None);
            }
        }
        let body = self.unread.drain(..length).collect();
        Ok(Some(Seen { target, headers, body, earlier }))
    }

    /// Reads some more; false once the other side has closed.
    async fn read(&mut self) -> Result<bool> {
        let mut piece = [0; 16 << 10];
        let read = self.stream.read(&mut piece).await?;
        lock(&self.record).bytes.extend_from_slice(&piece[..read]);
        self.unread.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    async fn answer(&mut self, plan: Plan) -> Result<()> {
        let mut bytes =
            format!("HTTP/1.1 {} Planned\r\ncontent-length: {}\r\n", plan.status, plan.body.len());
        for (name, value) in &plan.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        bytes += "\r\n";
        let head = bytes.len();
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(&plan.body);
        match plan.pace {
            Pace::AtOnce => self.stream.write_all(&bytes).await?,
            Pace::After(pause) => {
                sleep(pause).await;
                self.stream.write_all(&bytes).await?;
            }
            Pace::Pieces(size, pause) => {
                for piece in bytes.chunks(size) {
                    sleep(pause).await;
                    self.stream.write_all(piece).await?;
                }
            }
            Pace::CutAfter(length) => {
                self.stream.write_all(&bytes[..bytes.len().min(head + length)]).await?;
                anyhow::bail!("cut, as planned");
            }
            Pace::Never => {
                // Until the other side gives up.
                while self.read().await? {}
                anyhow::bail!("given up, as planned");
            }
            Pace::HangUpAfter(pause) => {
                sleep(pause).await;
                anyhow::bail!("hung up, as planned");
            }
            Pace::HangUp => anyhow::bail!("hung up, as planned"),
            Pace::Reset => {
                self.stream.reset()?;
                anyhow::bail!("reset, as planned");
            }
            Pace::Bare => self.stream.write_all(&plan.body).await?,
        }
        self.stream.flush().await.context("cannot send")
    }
}

/// Where `pattern` first stands in `bytes`.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    // Each change is whole, so a panic elsewhere leaves nothing half-done.
    record.lock().unwrap_or_else(PoisonError::into_inner)
}
