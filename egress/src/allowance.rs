//! One entry of `--allow-upstream`.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use url::Host;

/// What may be reached: a name (with all its addresses that are not guarded), or addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// This very name, in lower case.
    Name(String),
    /// Every name that ends so; it begins with a dot.
    Below(String),
    /// These addresses, whatever name leads there.
    Network(IpNet),
    /// All loopback addresses.
    Localhost,
}

/// Why a text is no allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowanceError {
    /// It says nothing.
    #[error("is empty; expected a host name, an address or a network such as 10.0.0.0/8")]
    Empty,
    /// It is a URL, or has a port.
    #[error("expected only the host, without scheme, port and path: models.example, 10.0.0.7 or 10.0.0.0/8")]
    NotOnlyAHost,
    /// It has a star where none is understood.
    #[error("a star stands only for the first part of a name: *.models.example")]
    Star,
    /// It looks like a network and is none.
    #[error("expected a network such as 10.0.0.0/8 or fd00::/8")]
    NotANetwork,
    /// It is no name that a host can have.
    #[error("is no host name, address or network")]
    NotAName,
}

impl Allowance {
    /// Whether it names addresses, whatever name leads there.
    pub(super) const fn is_network(&self) -> bool {
        matches!(self.0, Kind::Network(_) | Kind::Localhost)
    }

    pub(super) fn holds_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match &self.0 {
            Kind::Network(network) => network.contains(&address),
            Kind::Localhost => address.is_loopback(),
            Kind::Name(_) | Kind::Below(_) => false,
        }
    }

    pub(super) fn holds_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match &self.0 {
            Kind::Name(allowed) => name == *allowed,
            Kind::Below(end) => name.len() > end.len() && name.ends_with(end),
            Kind::Network(_) | Kind::Localhost => false,
        }
    }
}

impl FromStr for Allowance {
    type Err = AllowanceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(AllowanceError::Empty);
        }
        if let Some((address, prefix)) = text.split_once('/') {
            return network(address, prefix).map(Kind::Network).map(Self);
        }
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self(Kind::Network(address.to_canonical().into())));
        }
        if text.contains([':', '@', '?', '#']) {
            return Err(AllowanceError::NotOnlyAHost);
        }
        if let Some(name) = text.strip_prefix("*.") {
            return Ok(Self(Kind::Below(format!(".{}", host_name(name)?))));
        }
        Ok(Self(match host_name(text)? {
            name if name == "localhost" => Kind::Localhost,
            name => Kind::Name(name),
        }))
    }
}

fn network(address: &str, prefix: &str) -> Result<IpNet, AllowanceError> {
    if address.contains(':') && address.ends_with(':') && prefix.starts_with('/') {
        return Err(AllowanceError::NotOnlyAHost); // https://…
    }
    let Ok(address) = address.parse::<IpAddr>() else {
        let is_numeric = address.starts_with(|c: char| c.is_ascii_digit());
        return Err(if is_numeric { AllowanceError::NotANetwork } else { AllowanceError::NotOnlyAHost });
    };
    let prefix: u8 = prefix.parse().map_err(|_| AllowanceError::NotANetwork)?;
    let network = match (address, address.to_canonical()) {
        // A network of mapped addresses is one of IPv4 addresses, which is what they are compared as.
        (IpAddr::V6(_), IpAddr::V4(mapped)) if prefix >= 96 => {
            Ipv4Net::new(mapped, prefix - 96).map(IpNet::V4)
        }
        _ => IpNet::new(address, prefix),
    };
    network.map(|network| network.trunc()).map_err(|_| AllowanceError::NotANetwork)
}

/// A name as URLs have it: in lower case and ASCII.
fn host_name(text: &str) -> Result<String, AllowanceError> {
    if text.contains('*') {
        return Err(AllowanceError::Star);
    }
    match Host::parse(text.trim_end_matches('.')) {
        Ok(Host::Domain(name)) => Ok(name),
        // Such as 127.1, which few would read as 127.0.0.1.
        _ => Err(AllowanceError::NotAName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whole_and_in_any_case() {
        for (allowance, held, not_held) in [
            (
                "Models.Example",
                &["models.example", "MODELS.example", "models.example."][..],
                &["a.models.example", "xmodels.example", "models.example.org", ""][..],
            ),
            ("models.example.", &["models.example"], &["example"]),
            (
                "*.models.example",
                &["a.models.example", "a.b.Models.Example."],
                &["models.example", ".models.example", "xmodels.example", "a.models.example.org"],
            ),
            ("bücher.example", &["xn--bcher-kva.example"], &["bucher.example"]),
        ] {
            let parsed: Allowance = allowance.parse().unwrap();
            assert!(!parsed.is_network());
            for name in held {
                assert!(parsed.holds_name(name), "{allowance} {name}");
            }
            for name in not_held {
                assert!(!parsed.holds_name(name), "{allowance} {name}");
            }
            assert!(!parsed.holds_address("10.0.0.1".parse().unwrap()));
        }
    }

    #[test]
    fn networks_match_addresses_in_any_form() {
        for (allowance, held, not_held) in [
            ("10.0.0.7", &["10.0.0.7", "::ffff:10.0.0.7"][..], &["10.0.0.8", "64:ff9b::a00:7"][..]),
            ("10.1.2.3/8", &["10.0.0.7", "10.255.255.255"], &["11.0.0.1", "::10.0.0.7"]),
            ("fd00::/8", &["fd12::1"], &["fe80::1", "10.0.0.1"]),
            ("[::1]", &["::1"], &["127.0.0.1", "::2"]),
            ("::1", &["::1"], &["127.0.0.1"]),
            ("::ffff:127.0.0.1", &["127.0.0.1", "::ffff:127.0.0.1"], &["::1"]),
            ("::ffff:127.0.0.0/104", &["127.9.9.9"], &["128.0.0.1"]),
            ("localhost", &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"], &["10.0.0.1", "::2"]),
            ("LOCALHOST.", &["127.0.0.1"], &["0.0.0.0"]),
            ("0.0.0.0/0", &["127.0.0.1", "8.8.8.8", "169.254.169.254"], &["::1", "2606:4700::1111"]),
        ] {
            let parsed: Allowance = allowance.parse().unwrap();
            assert!(parsed.is_network());
            for address in held {
                assert!(parsed.holds_address(address.parse().unwrap()), "{allowance} {address}");
            }
            for address in not_held {
                assert!(!parsed.holds_address(address.parse().unwrap()), "{allowance} {address}");
            }
            assert!(!parsed.holds_name("models.example") && !parsed.holds_name("localhost"));
        }
    }

    #[test]
    fn what_is_no_allowance_is_refused() {
        use AllowanceError::{Empty, NotAName, NotANetwork, NotOnlyAHost, Star};
        for (text, why) in [
            ("", Empty),
            (" ", Empty),
            ("https://models.example", NotOnlyAHost),
            ("https://models.example/m", NotOnlyAHost),
            ("models.example:443", NotOnlyAHost),
            ("127.0.0.1:8000", NotOnlyAHost),
            ("user@models.example", NotOnlyAHost),
            ("models.example/path", NotOnlyAHost),
            ("*", Star),
            ("a.*.example", Star),
            ("*.*.example", Star),
            ("10.0.0.0/33", NotANetwork),
            ("10.0.0/8", NotANetwork),
            ("10.0.0.0/", NotANetwork),
            ("fd00::/129", NotANetwork),
            ("10.0.0.256", NotAName),
            ("127.1", NotAName),
            ("*.", NotAName),
            ("*.127.0.0.1", NotAName),
            ("mod els.example", NotAName),
        ] {
            assert_eq!(text.parse::<Allowance>(), Err(why), "{text}");
        }
    }
}
