//! TLS of the data ports: the agent's certificate, and whose client certificates are taken.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::caller::Caller;
use super::certificate;
use super::denied::Denied;
use super::files::{Fingerprint, Source};

/// How long a connection's certificate holds without another look: one that expires, or whose authority is taken away, is
/// noticed this soon.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What a handshake is made with.
pub struct Tls {
    /// The settings of rustls.
    pub config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Where it is read from.
#[derive(Debug)]
pub struct Files {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Nobody connects without one.
    pub is_required: bool,
}

impl Source for Files {
    type Contents = Tls;

    fn fingerprint(&self) -> Fingerprint {
        let files = [&self.certificate, &self.key].into_iter().chain(&self.client_ca);
        Fingerprint::of(files.map(PathBuf::as_path))
    }

    fn load(&self) -> Result<Tls, String> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| format!("{}: no private key in PEM: {error}", self.key.display()))?;
        let verifier = self.client_ca.as_ref().map(|file| self.verifier(file)).transpose()?;
        let builder = match &verifier {
            Some(verifier) => ServerConfig::builder().with_client_cert_verifier(Arc::clone(verifier)),
            None => ServerConfig::builder().with_no_client_auth(),
        };
        // Says so, too, where the key is another certificate's.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("{} and {}: {error}", self.certificate.display(), self.key.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), verifier })
    }
}

impl Files {
    fn verifier(&self, file: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let told = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(file)? {
            authorities.add(certificate).map_err(|error| told(&error))?;
        }
        let builder = WebPkiClientVerifier::builder(Arc::new(authorities));
        let builder = if self.is_required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| told(&error))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let told = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| told(&error))?;
    if certificates.is_empty() { Err(told(&"no certificate in PEM")) } else { Ok(certificates) }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    const MAX_BYTES: u64 = 4 << 20;
    let told = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
    let size = fs::metadata(file).map_err(|error| told(&error))?.len();
    if size > MAX_BYTES {
        return Err(told(&format!("has more than {MAX_BYTES} bytes")));
    }
    fs::read(file).map_err(|error| told(&error))
}

/// The client certificate of one connection.
#[derive(Debug)]
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    known: Mutex<Option<Known>>,
}

/// What was found of it.
#[derive(Debug)]
struct Known {
    /// With which authorities.
    with: Arc<Tls>,
    when: Instant,
    caller: Result<Caller, Denied>,
}

impl Peer {
    /// Of a connection whose handshake is done.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Self { chain, known: Mutex::new(None) }
    }

    /// Who it is. Checked again when authorities change, and now and then: connections outlive certificates, and so do
    /// sessions that are taken up again without a look at them.
    pub fn caller(&self, tls: &Arc<Tls>, rest: &Caller) -> Result<Caller, Denied> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            known.as_ref().filter(|known| Arc::ptr_eq(&known.with, tls) && known.when.elapsed() < LOOK_AGAIN);
        if let Some(known) = fresh {
            return known.caller.clone();
        }
        let caller = self.check(tls, rest);
        *known = Some(Known { with: Arc::clone(tls), when: Instant::now(), caller: caller.clone() });
        caller
    }

    fn check(&self, tls: &Tls, rest: &Caller) -> Result<Caller, Denied> {
        let (Some(verifier), Some((certificate, between))) = (&tls.verifier, self.chain.split_first()) else {
            return Err(Denied::NoCredentials);
        };
        verifier
            .verify_client_cert(certificate, between, UnixTime::now())
            .map_err(|_| Denied::CertificateRefused)?;
        certificate::caller(certificate, rest)
    }
}
