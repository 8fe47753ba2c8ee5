//! Where a remote tier is: what a policy says, and what that means on one node.
//!
//! A policy is the same on every node, and a site is not: so the policy holds a [`Place`], and a node that knows its sites
//! gets the endpoints from it. What cannot be resolved is not reached, with the reason; nothing else stands in for it.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use terrace_crds::node::NodeSite;
use terrace_crds::policy::SITE_LABEL;
use url::Url;

use crate::decide::SkipReason;

/// What stands for the name of the node's site in a URL.
pub const SITE: &str = "{site}";
/// A site to try a URL with.
const ANY_SITE: &str = "site";
/// The longest DNS label.
const MAX_LABEL: usize = 63;

/// The sites of a node, by the labels that name them.
pub type Sites = BTreeMap<String, NodeSite>;

/// Where a tier is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the same URL for every node.
    Url(Url),
    /// At a URL with the name of the node's site in it.
    SiteUrl(SiteUrl),
    /// At the ready edge agents of the node's site.
    Site {
        /// The label whose value names the site.
        label: String,
    },
}

/// A URL with `{site}` in it, which is one for every name that a site can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteUrl(String);

impl SiteUrl {
    /// None where `text` is no URL with any site in it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = Self(text.to_owned());
        let tried = url.at(ANY_SITE)?;
        // Anywhere else a site would be dropped, or rewritten.
        let place =
            tried.host_str().is_some_and(|host| host.contains(ANY_SITE)) || tried.path().contains(ANY_SITE);
        (place && !text.replace(SITE, "").contains(['{', '}'])).then_some(url)
    }

    /// As the policy says it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL of one site.
    fn at(&self, site: &str) -> Option<Url> {
        Url::parse(&self.0.replace(SITE, site)).ok()
    }
}

impl Place {
    /// The label whose value on a node must be known to reach the tier from there.
    pub fn site_label(&self) -> Option<&str> {
        match self {
            Self::Url(_) => None,
            Self::SiteUrl(_) => Some(SITE_LABEL),
            Self::Site { label } => Some(label),
        }
    }

    /// Where a node with these sites reaches the tier, in the order in which it asks; never empty.
    pub(crate) fn endpoints(&self, sites: &Sites) -> Result<Vec<Url>, SkipReason> {
        match self {
            Self::Url(url) => Ok(vec![url.clone()]),
            Self::SiteUrl(url) => {
                let site = sites.get(SITE_LABEL).filter(|site| is_dns_label(&site.name));
                let url = site.and_then(|site| url.at(&site.name)).ok_or(SkipReason::SiteUnknown)?;
                Ok(vec![url])
            }
            Self::Site { label } => {
                let site = sites.get(label).ok_or(SkipReason::SiteUnknown)?;
                let addresses = site.edge.iter().filter_map(|edge| Some((edge.address, edge.http_port?)));
                let urls: Vec<Url> = addresses
                    .filter_map(|address| Url::parse(&format!("http://{}", SocketAddr::from(address))).ok())
                    .collect();
                if urls.is_empty() { Err(SkipReason::NoEdgeAgent) } else { Ok(urls) }
            }
        }
    }
}

/// Whether a site's name changes nothing of a URL but the label that it stands in.
fn is_dns_label(name: &str) -> bool {
    (1..=MAX_LABEL).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use terrace_crds::node::EdgeAddress;

    use super::*;

    fn sites(label: &str, name: &str, edge: &[(&str, Option<u16>)]) -> Sites {
        let edge = edge.iter().map(|(address, http_port)| EdgeAddress {
            node: format!("node-of-{address}"),
            address: address.parse().unwrap(),
            http_port: *http_port,
            grpc_port: Some(8001),
        });
        [(label.to_owned(), NodeSite { name: name.to_owned(), edge: edge.collect() })].into()
    }

    fn at(url: &str, site: &str) -> Result<Vec<String>, SkipReason> {
        let place = Place::SiteUrl(SiteUrl::parse(url).unwrap());
        let urls = place.endpoints(&sites(SITE_LABEL, site, &[]))?;
        Ok(urls.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_site_stands_in_a_host_or_a_path() {
        for (url, expected) in [
            ("https://gateway.{site}.example:8443", "https://gateway.oslo-2.example:8443/"),
            ("http://gw-{site}/models", "http://gw-oslo-2/models"),
            ("http://edge.example/{site}/a/{site}", "http://edge.example/oslo-2/a/oslo-2"),
        ] {
            assert_eq!(at(url, "oslo-2"), Ok(vec![expected.to_owned()]), "{url}");
        }
        assert_eq!(at("http://{site}.example/{site}", "Oslo").unwrap(), ["http://oslo.example/Oslo"]);
    }

    #[test]
    fn a_url_that_is_none_with_a_site_in_it_is_none() {
        for url in [
            "http://edge.example:{site}",
            "{site}://edge.example",
            "http://{zone}.example/{site}",
            "http://{site}}.example",
            "http://[{site}]",
            "http://{site}.{",
            "http://{site}.0x",
        ] {
            assert_eq!(SiteUrl::parse(url), None, "{url}");
        }
    }

    #[test]
    fn a_site_whose_name_would_change_more_of_the_url_than_its_place_is_unknown() {
        let long = "a".repeat(64);
        for site in
            ["", "a.b", "a_b", "-a", "a-", "a/b", "a@b", "a:1", "a#", "a?", "{site}", "\u{e9}", " a", &long]
        {
            assert_eq!(at("http://{site}.example", site), Err(SkipReason::SiteUnknown), "{site}");
        }
        // What a parser takes for an address is one, and is judged as one.
        assert_eq!(at("http://{site}", "0x"), Ok(vec!["http://0.0.0.0/".to_owned()]));
        assert_eq!(at("http://1.{site}", "99999999999"), Err(SkipReason::SiteUnknown));
    }

    #[test]
    fn a_site_without_a_ready_agent_has_no_endpoint_and_a_node_without_the_label_has_no_site() {
        let place = Place::Site { label: "example.com/store".to_owned() };
        assert_eq!(place.endpoints(&Sites::new()), Err(SkipReason::SiteUnknown));
        assert_eq!(
            place.endpoints(&sites(SITE_LABEL, "oslo", &[("10.0.0.1", Some(80))])),
            Err(SkipReason::SiteUnknown)
        );
        assert_eq!(place.endpoints(&sites("example.com/store", "oslo", &[])), Err(SkipReason::NoEdgeAgent));
        let other_protocol = sites("example.com/store", "oslo", &[("10.0.0.1", None)]);
        assert_eq!(place.endpoints(&other_protocol), Err(SkipReason::NoEdgeAgent));
        let url = Place::SiteUrl(SiteUrl::parse("http://{site}").unwrap());
        assert_eq!(url.endpoints(&Sites::new()), Err(SkipReason::SiteUnknown));
    }

    #[test]
    fn agents_are_asked_in_the_order_that_the_node_was_told() {
        let place = Place::Site { label: SITE_LABEL.to_owned() };
        let sites = sites(
            SITE_LABEL,
            "a_b.c",
            &[("10.0.1.7", Some(8000)), ("fd00::7", Some(80)), ("10.0.1.3", Some(1))],
        );
        let urls: Vec<String> = place.endpoints(&sites).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://10.0.1.7:8000/", "http://[fd00::7]/", "http://10.0.1.3:1/"]);
    }

    proptest! {
        #[test]
        fn whatever_a_site_is_called_the_rest_of_the_url_stays(name in ".*") {
            if let Ok(urls) = at("https://gw.{site}.example:8443/base", &name) {
                let url = Url::parse(&urls[0]).unwrap();
                prop_assert_eq!(url.host_str().unwrap(), format!("gw.{}.example", name.to_ascii_lowercase()));
                prop_assert_eq!((url.port(), url.path(), url.username()), (Some(8443), "/base", ""));
            }
        }
    }
}
