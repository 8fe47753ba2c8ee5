//! Authorities that vouch for nobody outside a test, and what they sign: certificates, and tokens of ServiceAccounts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::Connection;

/// An authority of certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate of a server at 127.0.0.1.
    pub fn server(&self) -> Result<Pair> {
        self.issue(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)), 2100)
    }

    /// A certificate of a server with this DNS name.
    pub fn server_named(&self, name: &str) -> Result<Pair> {
        self.issue(SanType::DnsName(name.try_into()?), 2100)
    }

    /// A certificate of a client with this URI.
    pub fn client(&self, uri: &str) -> Result<Pair> {
        self.issue(SanType::URI(uri.try_into()?), 2100)
    }

    /// The same, and its time is long over.
    pub fn expired_client(&self, uri: &str) -> Result<Pair> {
        self.issue(SanType::URI(uri.try_into()?), 2020)
    }

    fn issue(&self, name: SanType, until: i32) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names.push(name);
        params.not_before = date_time_ymd(2010, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        Ok(Pair { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// A client that speaks TLS.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// Whom the server must be; none: its address.
    name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// One that trusts authorities, and shows a certificate where it has one.
    pub fn new(authority: &str, certificate: Option<&Pair>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(authority?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
            )?,
        };
        Ok(Self { config: Arc::new(config), name: None })
    }

    /// The same, for servers with this name.
    pub fn expecting(self, name: &str) -> Result<Self> {
        Ok(Self { name: Some(ServerName::try_from(name.to_owned())?), ..self })
    }

    /// Connects for HTTP/1.1.
    pub async fn open(&self, address: SocketAddr) -> Result<Connection> {
        Connection::over(address, self.connect(address, &["http/1.1"]).await?).await
    }

    /// Connects, offering these protocols.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("no TLS connection")
    }
}

/// Who makes tokens as an API server does, with ES256.
pub struct TokenIssuer {
    key: EcdsaKeyPair,
    id: String,
}

/// What the tokens of tests say of who made them.
pub const ISSUER: &str = "https://kubernetes.default.svc";
/// For whom they are.
pub const AUDIENCE: &str = "terrace";

impl TokenIssuer {
    /// A new one, whose key has this name.
    pub fn new(id: &str) -> Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { key, id: id.to_owned() })
    }

    /// Its public key as a JWK.
    pub fn jwk(&self) -> Value {
        // One byte says that the point is written whole; then its coordinates.
        let point = self.key.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let message = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes())?;
        Ok(format!("{message}.{}", base64url(signature.as_ref())))
    }

    /// A token of a ServiceAccount that holds for an hour.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        self.sign(&claims(namespace, account)?)
    }
}

/// What a token of a ServiceAccount says that holds for an hour.
pub fn claims(namespace: &str, account: &str) -> Result<Value> {
    let now = now()?;
    Ok(json!({
        "iss": ISSUER, "aud": [AUDIENCE], "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "iat": now, "nbf": now, "exp": now + 3600,
    }))
}

/// Seconds since 1970.
pub fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// Base64 with the alphabet of URLs, without padding.
pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        text.extend((0..=three.len()).map(|place| DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char));
    }
    text
}
