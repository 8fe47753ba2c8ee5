//! What this process may connect to, for sources and for tiers alike.
//!
//! Called by the agent when a manifest is read ([`Egress::check_url`]) and by its fetcher and its upstream, whose clients it
//! builds, and by the operator for checksum files. Nobody else builds a client. Must not import anything of Terrace.
//!
//! An address literal in a URL never reaches a resolver, and a name says nothing before it is resolved. So three
//! places ask the same rules: [`Egress::check_url`] before a URL is used, the clients' resolver for every address that
//! is about to be connected to, and the redirect policy for every URL that a server answers with.

mod address;
mod allowance;
mod api_server;
mod args;
mod client;
mod connection;
mod tier;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use url::{Host, Url};

use api_server::ApiServer;

pub use address::Guard;
pub use allowance::Allowance;
pub use args::EgressArgs;
pub use client::{NoAddress, RedirectRefused, causes};
pub use connection::{Established, Link};
pub use tier::{
    ConnectError, HttpVersion, Said, TIER_CONNECT, TierClient, TierTls, TierTlsError, Tiers, is_stream_reset,
};

/// The rules of this process. Without an allowance, every address but guarded ones ([`Guard`]); with one, only what
/// is listed. A guarded address is always reached through an address, a network or `localhost`, never through a name.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    allowances: Arc<[Allowance]>,
    api_server: Arc<ApiServer>,
}

/// Why something may not be reached, and what would change that. Never holds more of a URL than its host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct Denied {
    /// The host, as in the URL.
    host: String,
    why: Why,
    /// Whether there is no allowance yet, so that the first would narrow what may be reached.
    is_first: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// The URL has no host at all.
    NoHost,
    /// A name that no allowance holds, and there is no network that its address could be in.
    NameNotListed,
    /// An address in the URL that no allowance holds.
    NotListed { address: IpAddr },
    /// What the name resolved to, neither of them listed.
    ResolvedNotListed { address: IpAddr },
    /// An address in the URL that is never reached without being listed.
    Guarded { address: IpAddr, guard: Guard },
    /// What the name resolved to.
    ResolvedGuarded { address: IpAddr, guard: Guard },
}

impl Egress {
    /// The rules that these allowances make.
    pub fn new(allowances: Vec<Allowance>) -> Self {
        Self { allowances: allowances.into(), api_server: Arc::default() }
    }

    /// The same rules in a process that knows the API server of its cluster at these hosts: it is guarded.
    #[must_use]
    pub fn guarding<'a>(self, api_server: impl IntoIterator<Item = &'a str>) -> Self {
        Self { api_server: Arc::new(ApiServer::at(api_server)), ..self }
    }

    /// What can be said of a URL without resolving its host.
    pub fn check_url(&self, url: &Url) -> Result<(), Denied> {
        let denied = |host: &str, why| Err(self.denied(host, why));
        let host = url.host().ok_or_else(|| self.denied("", Why::NoHost))?;
        let text = host.to_string();
        match host {
            Host::Ipv4(address) => self.check_literal(&text, address.into()),
            Host::Ipv6(address) => self.check_literal(&text, address.into()),
            Host::Domain(name) if is_localhost(name) => {
                let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
                if self.lists_address(v4) || self.lists_address(v6) {
                    return Ok(());
                }
                denied(name, Why::ResolvedGuarded { address: v4, guard: Guard::Loopback })
            }
            Host::Domain(name) => {
                let may_be_in_a_network = self.allowances.iter().any(Allowance::is_network);
                if self.allowances.is_empty() || self.lists_name(name) || may_be_in_a_network {
                    return Ok(());
                }
                denied(name, Why::NameNotListed)
            }
        }
    }

    /// Those of a name's addresses that may be connected to; why not, if there are none.
    fn permitted(
        &self,
        name: &str,
        resolved: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Denied> {
        let (mut permitted, mut first) = (Vec::new(), None);
        for address in resolved {
            match self.judge(address.ip(), Some(name)) {
                Verdict::Permitted => permitted.push(address),
                verdict => first = first.or(Some((address.ip().to_canonical(), verdict))),
            }
        }
        match first {
            Some((address, Verdict::Guarded(guard))) if permitted.is_empty() => {
                Err(self.denied(name, Why::ResolvedGuarded { address, guard }))
            }
            Some((address, _)) if permitted.is_empty() => {
                Err(self.denied(name, Why::ResolvedNotListed { address }))
            }
            _ => Ok(permitted),
        }
    }

    fn check_literal(&self, text: &str, address: IpAddr) -> Result<(), Denied> {
        match self.judge(address, None) {
            Verdict::Permitted => Ok(()),
            Verdict::NotListed => Err(self.denied(text, Why::NotListed { address })),
            Verdict::Guarded(guard) => Err(self.denied(text, Why::Guarded { address, guard })),
        }
    }

    /// The rules.
    fn judge(&self, address: IpAddr, name: Option<&str>) -> Verdict {
        if self.lists_address(address) {
            return Verdict::Permitted;
        }
        if let Some(guard) = Guard::of(address) {
            return Verdict::Guarded(guard);
        }
        if self.api_server.is_at(address) || name.is_some_and(|name| self.api_server.is_called(name)) {
            return Verdict::Guarded(Guard::ApiServer);
        }
        if self.allowances.is_empty() || name.is_some_and(|name| self.lists_name(name)) {
            Verdict::Permitted
        } else {
            Verdict::NotListed
        }
    }

    fn lists_address(&self, address: IpAddr) -> bool {
        self.allowances.iter().any(|allowance| allowance.holds_address(address))
    }

    fn lists_name(&self, name: &str) -> bool {
        self.allowances.iter().any(|allowance| allowance.holds_name(name))
    }

    fn denied(&self, host: &str, why: Why) -> Denied {
        Denied { host: host.to_owned(), why, is_first: self.allowances.is_empty() }
    }
}

enum Verdict {
    Permitted,
    NotListed,
    Guarded(Guard),
}

impl Denied {
    fn message(&self) -> String {
        let host = &self.host;
        match &self.why {
            Why::NoHost => "the URL has no host".to_owned(),
            Why::NameNotListed | Why::NotListed { .. } => {
                let entry = host.trim_matches(['[', ']']);
                format!(
                    "{host} is not among what --allow-upstream lists; to reach it, add --allow-upstream {entry}"
                )
            }
            Why::ResolvedNotListed { address } => format!(
                "{host} resolves to {address}, and --allow-upstream lists neither; to reach it, add --allow-upstream {host} or --allow-upstream {address}"
            ),
            Why::Guarded { address, guard } => {
                format!("{host} is {guard}{}", Advice { address, guard: *guard, is_first: self.is_first })
            }
            Why::ResolvedGuarded { address, guard } => format!(
                "{host} resolves to {address}, {guard}{}",
                Advice { address, guard: *guard, is_first: self.is_first }
            ),
        }
    }
}

/// How a guarded address is allowed.
struct Advice<'a> {
    address: &'a IpAddr,
    guard: Guard,
    is_first: bool,
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            ", which is reached only where it is listed by address; if that is meant, add --allow-upstream ",
        )?;
        match (self.guard, self.address) {
            (Guard::Loopback, IpAddr::V4(_)) => f.write_str("127.0.0.0/8")?,
            (_, address) => write!(f, "{address}")?,
        }
        if self.is_first {
            f.write_str(", and everything else that this agent reaches: with an entry, only what is listed is reached")?;
        }
        Ok(())
    }
}

/// Names that mean this machine wherever they are resolved.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
