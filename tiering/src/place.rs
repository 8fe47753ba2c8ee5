//! Where a remote tier is: what a policy says, and what that means on one node.
//!
//! A policy is the same on every node, and a site is not: so the policy holds a [`Place`], and a node that knows its sites
//! gets the endpoints from it. What cannot be resolved is not reached, with the reason; nothing else stands in for it.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use terrace_crds::Tier;
use terrace_crds::node::{EdgeAddress, NodeSite};
use terrace_crds::policy::{EdgeSite, Protocol, RemoteTier as RemoteTierSpec, SITE_LABEL};
use url::Url;

use crate::decide::SkipReason;
use crate::policy::Fault;

/// What stands for the name of the node's site in a URL.
pub const SITE: &str = "{site}";
/// A site to try a URL with.
const ANY_SITE: &str = "site";
/// The longest DNS label.
const MAX_LABEL: usize = 63;
/// The longest URL, as in the CRD's schema.
const MAX_URL_LENGTH: usize = 2048;
/// What is said of a URL that is none.
const NO_URL: &str = "is not a URL such as https://gateway.example:8000";

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
    /// Where a tier is, as `spec` says in `field`; what is wrong joins the faults.
    pub(crate) fn parse(
        spec: &RemoteTierSpec,
        tier: Tier,
        field: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        let mut fault = |field: String, message: &str| {
            faults.push(Fault::new(field, message));
            None
        };
        match (&spec.url, &spec.site) {
            (Some(url), None) => {
                place_at(url, tier).map_or_else(|message| fault(format!("{field}.url"), message), Some)
            }
            (None, Some(_)) if tier != Tier::Edge => {
                fault(format!("{field}.site"), "is the edge's alone; give a url")
            }
            (None, Some(site)) => match site.label.as_deref().unwrap_or(SITE_LABEL) {
                label if is_label_key(label) => Some(Self::Site { label: label.to_owned() }),
                _ => fault(
                    format!("{field}.site.label"),
                    "must be the key of a label, such as example.com/store",
                ),
            },
            (None, None) if tier != Tier::Edge => fault(format!("{field}.url"), "is missing"),
            (Some(_), Some(_)) | (None, None) => fault(field.to_owned(), "needs exactly one of url and site"),
        }
    }

    /// The same as `url` and `site` of a spec.
    pub(crate) fn to_spec(&self) -> (Option<String>, Option<EdgeSite>) {
        match self {
            Self::Url(url) => (Some(url.to_string()), None),
            Self::SiteUrl(url) => (Some(url.as_str().to_owned()), None),
            Self::Site { label } => (None, Some(EdgeSite { label: Some(label.clone()) })),
        }
    }

    /// The URL, with any site in it; none where there is no URL.
    pub(crate) fn sample(&self) -> Option<Url> {
        match self {
            Self::Url(url) => Some(url.clone()),
            Self::SiteUrl(url) => url.at(ANY_SITE),
            Self::Site { .. } => None,
        }
    }

    /// The label whose value on a node must be known to reach the tier from there.
    pub fn site_label(&self) -> Option<&str> {
        match self {
            Self::Url(_) => None,
            Self::SiteUrl(_) => Some(SITE_LABEL),
            Self::Site { label } => Some(label),
        }
    }

    /// Where a node with these sites reaches the tier, in the order in which it asks; never empty.
    ///
    /// A site's agents are asked in this protocol; `is_encrypted`: over TLS.
    pub(crate) fn endpoints(
        &self,
        sites: &Sites,
        protocol: Protocol,
        is_encrypted: bool,
    ) -> Result<Vec<Url>, SkipReason> {
        match self {
            Self::Url(url) => Ok(vec![url.clone()]),
            Self::SiteUrl(url) => {
                let site = sites.get(SITE_LABEL).filter(|site| is_dns_label(&site.name));
                let url = site.and_then(|site| url.at(&site.name)).ok_or(SkipReason::SiteUnknown)?;
                Ok(vec![url])
            }
            Self::Site { label } => {
                let site = sites.get(label).ok_or(SkipReason::SiteUnknown)?;
                let port = |edge: &EdgeAddress| match protocol {
                    Protocol::HTTP => edge.http_port,
                    Protocol::GRPC => edge.grpc_port,
                };
                let scheme = if is_encrypted { "https" } else { "http" };
                let addresses = site.edge.iter().filter_map(|edge| Some((edge.address, port(edge)?)));
                let urls: Vec<Url> = addresses
                    .filter_map(|address| {
                        Url::parse(&format!("{scheme}://{}", SocketAddr::from(address))).ok()
                    })
                    .collect();
                if urls.is_empty() { Err(SkipReason::NoEdgeAgent) } else { Ok(urls) }
            }
        }
    }
}

fn place_at(text: &str, tier: Tier) -> Result<Place, &'static str> {
    check_base_url(text)?;
    if !text.contains(['{', '}']) {
        return Url::parse(text).map(Place::Url).map_err(|_| NO_URL);
    }
    if tier != Tier::Edge {
        return Err("must not hold { or }: only the edge's url may, for the site of the node");
    }
    let message =
        "may hold {site} in its host and its path, as in http://gateway.{site}.example, and no other { or }";
    SiteUrl::parse(text).filter(|_| text.contains(SITE)).map(Place::SiteUrl).ok_or(message)
}

fn check_base_url(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_URL_LENGTH {
        return Err("must have at most 2048 characters");
    }
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or("must start with https:// or http://")?;
    if rest.contains(['?', '#']) {
        return Err("must have neither a query nor a fragment: it is a base URL, to which /v2/… is added");
    }
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err(
            "must not hold a user name or a password: everyone who can read the policy would read them",
        );
    }
    if rest
        .trim_end_matches('/')
        .split_once('/')
        .is_some_and(|(_, path)| path.rsplit('/').next() == Some("v2"))
    {
        return Err("must not end in /v2: it is a base URL, to which /v2/… is added");
    }
    // A URL parser drops or rewrites these; what is written should be what is called.
    if rest.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') || rest.starts_with('/') {
        return Err(NO_URL);
    }
    Ok(())
}

/// `[prefix/]name`, as in the schema.
fn is_label_key(key: &str) -> bool {
    let within = |text: &str, max: usize, inner: &[u8], upper: bool| {
        let outer = |byte: u8| byte.is_ascii_alphanumeric() && (upper || !byte.is_ascii_uppercase());
        (1..=max).contains(&text.len())
            && text.bytes().all(|byte| outer(byte) || inner.contains(&byte))
            && text.bytes().next().is_some_and(outer)
            && text.bytes().next_back().is_some_and(outer)
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| within(prefix, 253, b"-.", false)) && within(name, 63, b"-_.", true)
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
    use terrace_crds::TierPolicySpec;
    use terrace_crds::policy::{TierAuth, TierTls, Tiers};

    use super::*;
    use crate::policy::Policy;

    fn remote(url: &str) -> RemoteTierSpec {
        RemoteTierSpec { url: Some(url.to_owned()), ..RemoteTierSpec::default() }
    }

    fn of_site(label: Option<&str>) -> RemoteTierSpec {
        let site = Some(EdgeSite { label: label.map(str::to_owned) });
        RemoteTierSpec { site, ..RemoteTierSpec::default() }
    }

    fn policy(edge: RemoteTierSpec) -> TierPolicySpec {
        TierPolicySpec { tiers: Tiers { edge: Some(edge), cloud: None }, ..TierPolicySpec::default() }
    }

    fn with_edge(url: &str) -> TierPolicySpec {
        policy(remote(url))
    }

    fn with_site(label: Option<&str>) -> TierPolicySpec {
        policy(of_site(label))
    }

    fn fields(spec: &TierPolicySpec) -> Vec<String> {
        let faults = Policy::parse(spec).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    /// Where a node is that reaches `place` over HTTP without TLS.
    fn reached(place: &Place, sites: &Sites) -> Result<Vec<Url>, SkipReason> {
        place.endpoints(sites, Protocol::HTTP, false)
    }

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
        let urls = reached(&place, &sites(SITE_LABEL, site, &[]))?;
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
        assert_eq!(reached(&place, &Sites::new()), Err(SkipReason::SiteUnknown));
        assert_eq!(
            reached(&place, &sites(SITE_LABEL, "oslo", &[("10.0.0.1", Some(80))])),
            Err(SkipReason::SiteUnknown)
        );
        assert_eq!(reached(&place, &sites("example.com/store", "oslo", &[])), Err(SkipReason::NoEdgeAgent));
        let other_protocol = sites("example.com/store", "oslo", &[("10.0.0.1", None)]);
        assert_eq!(reached(&place, &other_protocol), Err(SkipReason::NoEdgeAgent));
        let url = Place::SiteUrl(SiteUrl::parse("http://{site}").unwrap());
        assert_eq!(reached(&url, &Sites::new()), Err(SkipReason::SiteUnknown));
    }

    #[test]
    fn agents_are_asked_in_the_order_that_the_node_was_told() {
        let place = Place::Site { label: SITE_LABEL.to_owned() };
        let sites = sites(
            SITE_LABEL,
            "a_b.c",
            &[("10.0.1.7", Some(8000)), ("fd00::7", Some(80)), ("10.0.1.3", Some(1))],
        );
        let urls: Vec<String> = reached(&place, &sites).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://10.0.1.7:8000/", "http://[fd00::7]/", "http://10.0.1.3:1/"]);
    }

    #[test]
    fn an_edge_has_a_url_or_a_site_and_a_cloud_a_url() {
        assert_eq!(fields(&with_site(None)), Vec::<String>::new());
        let mut spec = with_site(Some("example.com/store"));
        assert_eq!(fields(&spec), Vec::<String>::new());
        spec.tiers.cloud = spec.tiers.edge.take();
        assert_eq!(fields(&spec), ["spec.tiers.cloud.site"]);
        spec.tiers.cloud = Some(remote("http://{site}.example"));
        assert_eq!(fields(&spec), ["spec.tiers.cloud.url"]);
        let mut both = with_site(None);
        both.tiers.edge.as_mut().unwrap().url = Some("http://edge".to_owned());
        assert_eq!(fields(&both), ["spec.tiers.edge"]);
        let neither = Tiers { edge: Some(RemoteTierSpec::default()), cloud: None };
        assert_eq!(
            fields(&TierPolicySpec { tiers: neither, ..TierPolicySpec::default() }),
            ["spec.tiers.edge"]
        );
    }

    #[test]
    fn the_label_of_a_site_is_the_key_of_a_label() {
        let long = |letters: usize| "a".repeat(letters);
        let longest = format!("{}/{}", long(253), long(63));
        for label in ["store", "Store_1.a", "example.com/store", "topology.kubernetes.io/zone", &longest] {
            assert_eq!(fields(&with_site(Some(label))), Vec::<String>::new(), "{label}");
        }
        for label in
            ["", "/store", "example.com/", "a/b/c", "Example.com/store", "-a", "a.", "a b", "a=b", &long(64)]
        {
            assert_eq!(fields(&with_site(Some(label))), ["spec.tiers.edge.site.label"], "{label}");
        }
    }

    #[test]
    fn a_site_in_a_url_is_replaced_and_any_other_brace_is_refused() {
        assert_eq!(fields(&with_edge("http://gateway.{site}.example")), Vec::<String>::new());
        for url in
            ["http://{zone}.example", "http://{site", "http://site}", "http://edge:{site}", "http://{}"]
        {
            assert_eq!(fields(&with_edge(url)), ["spec.tiers.edge.url"], "{url}");
        }
    }

    #[test]
    fn where_a_node_is_changes_what_it_reaches_and_nothing_of_what_the_policy_says() {
        let here = |name: &str| {
            Sites::from([(
                SITE_LABEL.to_owned(),
                terrace_crds::node::NodeSite { name: name.to_owned(), edge: vec![] },
            )])
        };
        let policy = Policy::parse(&with_edge("http://{site}.example")).unwrap();
        let endpoint =
            |policy: &Policy| policy.remote(Tier::Edge).unwrap().endpoints().map(|urls| urls[0].to_string());
        assert_eq!(endpoint(&policy), Err(SkipReason::SiteUnknown));
        let oslo = policy.clone().at(&here("oslo"));
        assert_eq!(endpoint(&oslo), Ok("http://oslo.example/".to_owned()));
        assert_eq!(oslo.to_spec(), policy.to_spec());
        let bergen = oslo.at(&here("bergen"));
        assert_eq!(endpoint(&bergen), Ok("http://bergen.example/".to_owned()));
        assert_eq!(bergen.at(&Sites::new()), policy);
        assert_eq!(policy.site_label(), Some(SITE_LABEL));
        let fixed = Policy::parse(&with_edge("http://edge")).unwrap();
        assert_eq!(fixed.site_label(), None);
        assert_eq!(fixed.clone().at(&here("oslo")), fixed);
    }

    #[test]
    fn agents_of_a_site_are_asked_as_the_policy_says() {
        let sites = sites(SITE_LABEL, "oslo", &[("10.0.1.7", Some(8000))]);
        let edge = |spec: RemoteTierSpec| {
            let policy = Policy::parse(&policy(spec)).unwrap().at(&sites);
            policy.remote(Tier::Edge).unwrap().endpoints().map(|urls| urls[0].to_string())
        };
        let tls = Some(TierTls::default());
        let grpc = Some(Protocol::GRPC);
        for (spec, expected) in [
            (of_site(None), "http://10.0.1.7:8000/"),
            (RemoteTierSpec { tls: tls.clone(), ..of_site(None) }, "https://10.0.1.7:8000/"),
            (RemoteTierSpec { protocol: grpc, ..of_site(None) }, "http://10.0.1.7:8001/"),
            (RemoteTierSpec { protocol: grpc, tls: tls.clone(), ..of_site(None) }, "https://10.0.1.7:8001/"),
        ] {
            assert_eq!(edge(spec.clone()), Ok(expected.to_owned()), "{spec:?}");
            // What is written of it means the same.
            let written = Policy::parse(&policy(spec)).unwrap().to_spec().tiers.edge.unwrap();
            assert_eq!(edge(written), Ok(expected.to_owned()));
        }
        let auth = Some(TierAuth { bearer: Some("gateway".to_owned()), basic: None });
        let bare = RemoteTierSpec { auth: auth.clone(), ..of_site(None) };
        assert_eq!(fields(&policy(bare.clone())), ["spec.tiers.edge.auth"]);
        assert_eq!(fields(&policy(RemoteTierSpec { tls, ..bare })), Vec::<String>::new());
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
