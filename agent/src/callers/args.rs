//! The flags that say who may call, and which of them must be there.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::caller::is_namespace;

/// The longest that clocks may be apart.
const MAX_LEEWAY: Duration = Duration::from_mins(5);

/// Who may call the data ports.
#[derive(Clone, Debug, Args)]
pub struct CallerArgs {
    /// Certificate of the data ports, in PEM, with those between it and its authority. With it both ports speak TLS
    /// alone. Read again when it changes.
    #[arg(long, env = "TERRACE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(long, env = "TERRACE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Authorities whose client certificates say who calls, in PEM.
    #[arg(long, env = "TERRACE_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,

    /// Refuse connections without a client certificate, also those that show a token, and probes.
    #[arg(long, env = "TERRACE_REQUIRE_CLIENT_CERT", requires = "client_ca")]
    pub require_client_cert: bool,

    /// Namespaces of client certificates without a URI `spiffe://…/ns/NAMESPACE/sa/NAME`; `*` is every one. Repeatable.
    /// Without it such certificates are refused.
    #[arg(
        long = "client-cert-namespace",
        env = "TERRACE_CLIENT_CERT_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        value_parser = namespace,
        requires = "client_ca"
    )]
    pub client_cert_namespaces: Vec<String>,

    /// File, or folder of files, of lines `NAMESPACE[,NAMESPACE…] TOKEN`: bearer tokens that are taken, and whose models
    /// each is for; `*` is every namespace. Read again when it changes.
    #[arg(long, env = "TERRACE_CALLER_TOKENS", value_name = "PATH")]
    pub caller_tokens: Option<PathBuf>,

    /// JWKS with the keys of JWTs that are taken as bearer tokens: those of ServiceAccounts. Read again when it changes.
    #[arg(long, env = "TERRACE_JWT_JWKS", value_name = "FILE", requires_all = ["jwt_issuers", "jwt_audiences"])]
    pub jwt_jwks: Option<PathBuf>,

    /// Who must have made a JWT: its claim `iss`. Repeatable; one must be it.
    #[arg(
        long = "jwt-issuer",
        env = "TERRACE_JWT_ISSUERS",
        value_name = "ISSUER",
        value_delimiter = ',',
        requires = "jwt_jwks"
    )]
    pub jwt_issuers: Vec<String>,

    /// For whom a JWT must be made: its claim `aud`. Repeatable; one must be in it.
    #[arg(
        long = "jwt-audience",
        env = "TERRACE_JWT_AUDIENCES",
        value_name = "AUDIENCE",
        value_delimiter = ',',
        requires = "jwt_jwks"
    )]
    pub jwt_audiences: Vec<String>,

    /// How far the clock of who makes JWTs may be from this one's: at most `5m`.
    #[arg(long, env = "TERRACE_JWT_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = leeway)]
    pub jwt_leeway: Duration,

    /// Ask nobody who they are: whoever reaches the data ports may use every model.
    #[arg(long, env = "TERRACE_ALLOW_ANONYMOUS")]
    pub allow_anonymous: bool,
}

impl CallerArgs {
    /// Whether callers are asked who they are.
    pub const fn asks_anyone(&self) -> bool {
        self.client_ca.is_some() || self.caller_tokens.is_some() || self.jwt_jwks.is_some()
    }

    /// What is wrong with how these flags and the addresses of the data ports go together.
    pub fn check(&self, ports: &[(&str, SocketAddr)]) -> Result<(), String> {
        if self.allow_anonymous && self.asks_anyone() {
            return Err("--allow-anonymous lets everybody in, and --client-ca, --caller-tokens or --jwt-jwks say who may \
                 come in: give one or the other"
                .to_owned());
        }
        let reached = ports.iter().find(|(_, address)| !is_loopback(address.ip()));
        match reached {
            Some((flag, address)) if !self.asks_anyone() && !self.allow_anonymous => Err(format!(
                "{flag} {address} is reached from other machines, and nothing says who may call: give --caller-tokens, \
                 --jwt-jwks with --jwt-issuer and --jwt-audience, or --client-ca with --tls-cert and --tls-key; or \
                 --allow-anonymous, if whoever reaches it may use every model"
            )),
            _ => Ok(()),
        }
    }

    /// Whether tokens cross a network in the clear.
    pub fn tokens_are_seen(&self, ports: &[(&str, SocketAddr)]) -> bool {
        self.tls_cert.is_none()
            && self.asks_anyone()
            && ports.iter().any(|(_, address)| !is_loopback(address.ip()))
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn namespace(text: &str) -> Result<String, String> {
    if text == super::caller::EVERY || is_namespace(text) {
        return Ok(text.to_owned());
    }
    Err("expected a namespace, or * for every one".to_owned())
}

fn leeway(text: &str) -> Result<Duration, String> {
    let duration: Duration =
        text.parse::<terrace_crds::Duration>().map(Into::into).map_err(|error| error.to_string())?;
    if duration > MAX_LEEWAY { Err("expected at most 5m".to_owned()) } else { Ok(duration) }
}
