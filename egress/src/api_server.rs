//! Where the cluster's API server is: a source or a tier that leads there would have this process ask what only it may ask.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use crate::address::canonical;

/// The API servers that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct ApiServer {
    /// By name: what they resolve to is theirs.
    names: Vec<String>,
    /// By address.
    addresses: Vec<IpAddr>,
    /// What the names resolved to last.
    resolved: RwLock<Vec<IpAddr>>,
}

impl ApiServer {
    /// At these hosts: names, or addresses with or without brackets.
    pub(crate) fn at<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut server = Self::default();
        for host in hosts {
            match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) => server.addresses.push(canonical(address)),
                Err(_) => server.names.push(name(host)),
            }
        }
        server
    }

    /// Whether it is at this address. An IPv6 address that stands for an IPv4 address is that one.
    pub(crate) fn is_at(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.addresses.contains(&address)
            || self.resolved.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    /// Whether it has this name.
    pub(crate) fn is_called(&self, host: &str) -> bool {
        self.names.contains(&name(host))
    }

    /// What has to be resolved to know its addresses.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// It is at these addresses now.
    pub(crate) fn learn(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(canonical).collect();
        *self.resolved.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// As names are compared.
fn name(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}
