//! The HTTP clients: their resolver and their redirects ask the rules.
//!
//! They run on the process's rustls provider and trust the system's certificates: those of the files or folders that
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or else the distribution's. No proxy, no cookies, no referrer.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use url::Url;

use super::{Denied, Egress};

/// What every request says of its sender.
const USER_AGENT: &str = concat!("terrace/", env!("CARGO_PKG_VERSION"));
/// Redirects that are followed for one file.
const MAX_REDIRECTS: usize = 5;
/// How long a source may take until it is connected to.
const SOURCE_CONNECT: Duration = Duration::from_secs(10);
/// How long a source may send nothing.
const SOURCE_IDLE: Duration = Duration::from_secs(30);
/// How long the addresses of the API server are believed.
const RESOLVED_FOR: Duration = Duration::from_mins(5);
/// How soon they are asked for again where that failed.
const RESOLVE_AGAIN: Duration = Duration::from_secs(10);
/// Names that are resolved at once. A resolver that does not answer holds a thread for each until it gives up.
const LOOKUPS: usize = 16;

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectRefused {
    /// It never ends, or not soon.
    #[error("more than {MAX_REDIRECTS} redirects; name the file's last address as the source")]
    TooMany,
    /// It leads to where anyone on the path could change the file.
    #[error(
        "a redirect to http://{host}; use a source that stays on https://, or allow it with --allow-http-sources"
    )]
    Insecure {
        /// Where it leads.
        host: String,
    },
    /// It leads to what is no web server.
    #[error("a redirect to a {scheme} URL; only https:// and http:// are followed")]
    Scheme {
        /// What it leads to.
        scheme: String,
    },
    /// The rules forbid where it leads.
    #[error("a redirect: {0}")]
    Denied(Denied),
}

impl Egress {
    /// A client for files: follows redirects that the rules permit, gives up on a server that stalls. Ask
    /// [`Egress::check_url`] before every use.
    pub fn sources_client(&self, allow_http: bool) -> Result<Client, reqwest::Error> {
        build(|| {
            let egress = self.clone();
            self.builder().connect_timeout(SOURCE_CONNECT).read_timeout(SOURCE_IDLE).redirect(Policy::custom(
                move |attempt| match egress.follow(attempt.previous().len(), attempt.url(), allow_http) {
                    Ok(()) => attempt.follow(),
                    Err(refused) => attempt.error(refused),
                },
            ))
        })
    }

    /// Keeps up with the addresses of an API server that is known by name, for ever. What cannot be resolved keeps the
    /// addresses that it had; by that name it is guarded all the same.
    pub async fn follow_api_server(&self) {
        let names = self.api_server.names();
        while !names.is_empty() {
            let mut addresses = Vec::new();
            let mut is_known = true;
            for name in names {
                match tokio::net::lookup_host((name.as_str(), 0)).await {
                    Ok(found) => addresses.extend(found.map(|address| address.ip())),
                    Err(error) => {
                        debug!(host = name, %error, "the API server's name does not resolve; tried again");
                        is_known = false;
                    }
                }
            }
            if is_known {
                self.api_server.learn(addresses);
            }
            tokio::time::sleep(if is_known { RESOLVED_FOR } else { RESOLVE_AGAIN }).await;
        }
        std::future::pending::<()>().await;
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .referer(false)
            .dns_resolver(Resolver::new(self.clone()))
    }

    /// Whether the `count`th redirect is followed.
    fn follow(&self, count: usize, to: &Url, allow_http: bool) -> Result<(), RedirectRefused> {
        if count > MAX_REDIRECTS {
            return Err(RedirectRefused::TooMany);
        }
        match to.scheme() {
            "https" => {}
            "http" if allow_http => {}
            "http" => {
                return Err(RedirectRefused::Insecure { host: to.host_str().unwrap_or_default().to_owned() });
            }
            scheme => return Err(RedirectRefused::Scheme { scheme: scheme.chars().take(16).collect() }),
        }
        self.check_url(to).map_err(RedirectRefused::Denied)
    }
}

/// A machine without certificates can still read files.
fn build(builder: impl Fn() -> ClientBuilder) -> Result<Client, reqwest::Error> {
    builder().build().or_else(|error| {
        let client = builder().tls_certs_only([]).build()?;
        warn!(
            error = causes(&error),
            "no https:// address can be reached: install ca-certificates, or name trusted certificates with SSL_CERT_FILE"
        );
        Ok(client)
    })
}

/// An error and what caused it, as one text. What reqwest says itself is left out: it repeats the URL, which may hold
/// a secret, and adds little.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let told: Vec<String> =
        chain.filter(|error| !error.is::<reqwest::Error>()).map(ToString::to_string).collect();
    if told.is_empty() { "the request failed".to_owned() } else { told.join(": ") }
}

/// Resolves as the system does, and gives only addresses that the rules permit.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    egress: Egress,
    lookups: Arc<Semaphore>,
}

/// More names wait for the system's resolver than it is asked for at once.
#[derive(Debug, thiserror::Error)]
#[error("the resolver is busy with {LOOKUPS} names that it does not answer for")]
struct ResolverBusy;

/// A name for which the system knows no address.
#[derive(Debug, thiserror::Error)]
#[error("no address for that name")]
pub struct NoAddress(#[source] pub io::Error);

impl Resolver {
    pub(super) fn new(egress: Egress) -> Self {
        Self { egress, lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }

    /// The addresses of a name that may be connected to.
    pub(super) async fn lookup(&self, name: &str) -> Result<Vec<SocketAddr>, LookupError> {
        let permit = Arc::clone(&self.lookups).try_acquire_owned().map_err(|_| ResolverBusy)?;
        let host = name.to_owned();
        let resolved = tokio::task::spawn_blocking(move || {
            // Held until the system answers, also where nobody waits for it any more.
            let _permit = permit;
            (host.as_str(), 0).to_socket_addrs()
        })
        .await?
        .map_err(NoAddress)?;
        Ok(self.egress.permitted(name, resolved)?)
    }
}

type LookupError = Box<dyn std::error::Error + Send + Sync>;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let permitted: Addrs = Box::new(resolver.lookup(name.as_str()).await?.into_iter());
            Ok(permitted)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn egress(allowances: &[&str]) -> Egress {
        Egress::new(allowances.iter().map(|allowance| allowance.parse().unwrap()).collect())
    }

    fn follow(allowances: &[&str], to: &str, allow_http: bool) -> Result<(), RedirectRefused> {
        egress(allowances).follow(1, &Url::parse(to).unwrap(), allow_http)
    }

    #[test]
    fn redirects_are_followed_where_the_rules_permit() {
        for (to, allow_http) in [
            ("https://cdn.example/m", false),
            ("https://cdn.example/m", true),
            ("http://cdn.example/m", true),
        ] {
            assert_eq!(follow(&[], to, allow_http), Ok(()), "{to}");
        }
        assert!(matches!(
            follow(&["a.example"], "https://b.example", false),
            Err(RedirectRefused::Denied(_))
        ));
        for to in [
            "https://127.0.0.1",
            "https://169.254.169.254",
            "https://[::ffff:127.0.0.1]",
            "https://localhost",
        ] {
            assert!(matches!(follow(&[], to, true), Err(RedirectRefused::Denied(_))), "{to}");
        }
    }

    #[test]
    fn a_redirect_to_http_is_followed_only_where_http_sources_are_allowed() {
        let refused = follow(&[], "http://cdn.example/m?secret", false).unwrap_err();
        assert_eq!(refused, RedirectRefused::Insecure { host: "cdn.example".to_owned() });
        assert!(!refused.to_string().contains("secret"));
    }

    #[test]
    fn other_schemes_are_not_followed() {
        for to in ["file:///etc/passwd", "ftp://cdn.example/m", "data:text/plain,a"] {
            assert!(matches!(follow(&[], to, true), Err(RedirectRefused::Scheme { .. })), "{to}");
        }
    }

    #[test]
    fn the_sixth_redirect_is_not_followed() {
        let to = Url::parse("https://cdn.example/m").unwrap();
        assert_eq!(egress(&[]).follow(5, &to, false), Ok(()));
        assert_eq!(egress(&[]).follow(6, &to, false), Err(RedirectRefused::TooMany));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_not_connected_to() {
        let resolve =
            |allowances: &[&str]| Resolver::new(egress(allowances)).resolve("localhost".parse().unwrap());
        assert!(resolve(&[]).await.err().unwrap().is::<Denied>());
        assert!(resolve(&["localhost"]).await.unwrap().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn the_addresses_of_an_api_server_are_found_by_its_name_and_then_guarded() {
        // A name that resolves without a network; what is asked is asked by another one.
        let egress = egress(&[]).guarding(["localhost"]);
        let resolver = egress.clone();
        tokio::select! {
            () = resolver.follow_api_server() => {}
            () = async { while !egress.api_server.is_at(IpAddr::from([127, 0, 0, 1])) { tokio::task::yield_now().await; } } => {}
        }
    }
}
