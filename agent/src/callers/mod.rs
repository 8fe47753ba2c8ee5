//! Who may call the data ports, and what each caller may use: one layer for REST and gRPC.
//!
//! Wired by `main`, asked by `listen` before a request is read. `caller` and `denied` say what is decided, `tokens`, `jwt`
//! and `certificate` who it is; they read no file and no clock. Knows nothing of models but their namespaces.

pub mod args;
mod caller;
mod certificate;
mod denied;
mod door;
mod files;
mod jwt;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::status::{Board, Verdict};
pub use args::CallerArgs;
pub use caller::Caller;
pub use denied::Denied;
pub use door::{Door, Port};
use files::{Reloaded, Watched};
use jwt::{Keys, Rules};
pub use tls::Peer;
use tls::Tls;
use tokens::Tokens;

/// Files that say who may call are what they should be.
pub const CALLER_FILES_READ: &str = "CallerFilesRead";
/// How often the files are looked at: a rotated certificate and a removed token count this soon.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Keys are read again for a token that names an unknown one, at most this often.
const REREAD_EVERY: Duration = Duration::from_secs(1);

/// What decides who may call.
#[derive(Debug)]
pub struct Callers {
    /// Nobody is asked.
    is_open: bool,
    tls: Option<Arc<Reloaded<Tls>>>,
    /// Who a client certificate without an identity of its own stands for.
    certificates: Option<Caller>,
    tokens: Option<Arc<Reloaded<Tokens>>>,
    jwts: Option<Jwts>,
}

#[derive(Debug)]
struct Jwts {
    keys: Arc<Reloaded<Keys>>,
    rules: Rules,
    /// When the keys were last read again because a token named an unknown one.
    reread: Mutex<Option<Instant>>,
}

impl Callers {
    /// Reads every file that `args` name; the error says which flag to change.
    pub fn open(args: &CallerArgs) -> anyhow::Result<Self> {
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => Some(Reloaded::open(
                "the TLS certificate (--tls-cert, --tls-key, --client-ca)",
                tls::Files {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_ca: args.client_ca.clone(),
                    is_required: args.require_client_cert,
                },
            )?),
            _ => None,
        };
        let certificates =
            args.client_ca.as_ref().map(|_| Caller::of(args.client_cert_namespaces.iter().cloned()));
        let tokens = args.caller_tokens.as_ref();
        let tokens = tokens
            .map(|path| Reloaded::open("the tokens (--caller-tokens)", tokens::Files(path.clone())))
            .transpose()?;
        let keys = args.jwt_jwks.as_ref();
        let keys = keys
            .map(|path| Reloaded::open("the keys of JWTs (--jwt-jwks)", jwt::File(path.clone())))
            .transpose()?;
        let jwts = keys.map(|keys| Jwts {
            keys,
            rules: Rules {
                issuers: args.jwt_issuers.clone(),
                audiences: args.jwt_audiences.clone(),
                leeway: args.jwt_leeway.as_secs(),
            },
            reread: Mutex::new(None),
        });
        if tokens.as_ref().is_some_and(|tokens| tokens.now().is_empty()) {
            warn!("--caller-tokens holds no token yet: nobody has one that is taken");
        }
        Ok(Self { is_open: !args.asks_anyone(), tls, certificates, tokens, jwts })
    }

    /// Whether everybody may use everything.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether connections are encrypted.
    pub const fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Follows the files for ever. What is broken changes nothing, and is told.
    pub async fn follow(self: Arc<Self>, board: &Board) {
        let watched = self.watched();
        if watched.is_empty() {
            return std::future::pending().await;
        }
        let mut told: Option<Vec<String>> = None;
        loop {
            let (looked, files) = (watched.clone(), watched.clone());
            // A disk that hangs keeps this waiting, and nobody else.
            let changed = tokio::task::spawn_blocking(move || {
                looked.iter().filter(|files| files.look()).map(|files| files.what()).collect::<Vec<_>>()
            });
            for what in changed.await.unwrap_or_default() {
                info!(what, "read again: it has changed");
            }
            let faults: Vec<String> = files.iter().filter_map(|files| files.fault()).collect();
            if told.as_ref() != Some(&faults) {
                for fault in faults.iter().filter(|fault| !told.iter().flatten().any(|known| known == *fault))
                {
                    warn!(
                        fault,
                        "a file that says who may call cannot be used; what it said before still holds"
                    );
                }
                board.condition(CALLER_FILES_READ, verdict(&faults));
                told = Some(faults);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn watched(&self) -> Vec<Arc<dyn Watched>> {
        let mut watched: Vec<Arc<dyn Watched>> = Vec::new();
        watched.extend(self.tls.clone().map(|tls| tls as Arc<dyn Watched>));
        watched.extend(self.tokens.clone().map(|tokens| tokens as Arc<dyn Watched>));
        watched.extend(self.jwts.as_ref().map(|jwts| Arc::clone(&jwts.keys) as Arc<dyn Watched>));
        watched
    }

    /// Who calls: by the token, where there is one, else by the connection's certificate. A token that is refused is not
    /// made good by a certificate.
    pub async fn identify(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Denied> {
        if self.is_open {
            return Ok(Caller::anyone());
        }
        let takes_tokens = self.tokens.is_some() || self.jwts.is_some();
        if takes_tokens && let Some(token) = bearer(headers)? {
            return self.of_token(token).await;
        }
        let (Some(rest), Some(tls), Some(peer)) = (&self.certificates, &self.tls, peer) else {
            return Err(Denied::NoCredentials);
        };
        peer.caller(&tls.now(), rest)
    }

    async fn of_token(&self, token: &str) -> Result<Caller, Denied> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.tokens.as_ref().and_then(|tokens| tokens.now().caller(&digest));
        if let Some(caller) = known {
            return Ok(caller);
        }
        let Some(jwts) = self.jwts.as_ref().filter(|_| jwt::looks_like_one(token)) else {
            return Err(Denied::UnknownToken);
        };
        match jwts.keys.now().caller(token, &digest, &jwts.rules, unix_now()) {
            Err(Denied::UnknownKey) => {
                jwts.reread().await;
                jwts.keys.now().caller(token, &digest, &jwts.rules, unix_now())
            }
            told => told,
        }
    }
}

impl Jwts {
    /// Looks at the file of keys before its time. Who comes while it is looked at waits, and sees what was found.
    async fn reread(&self) {
        let mut last = self.reread.lock().await;
        if last.is_some_and(|last| last.elapsed() < REREAD_EVERY) {
            return;
        }
        let keys = Arc::clone(&self.keys);
        // What goes wrong is told by whoever follows the files.
        let _ = tokio::task::spawn_blocking(move || keys.look()).await;
        *last = Some(Instant::now());
    }
}

/// The token of an `Authorization` header, if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Denied::NotBearer);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Denied::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::NotBearer);
    }
    Ok(Some(token.trim()))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn verdict(faults: &[String]) -> Verdict {
    if faults.is_empty() {
        return Verdict { holds: true, reason: "Read", message: "every file could be used".to_owned() };
    }
    Verdict {
        holds: false,
        reason: "CallerFileUnusable",
        message: format!("{}; what it said before still holds", faults.join("; ")),
    }
}
