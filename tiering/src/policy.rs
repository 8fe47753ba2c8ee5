//! A checked policy.
//!
//! The checks are those of the CRD's schema and rules: an agent that reads manifests from a folder has no API
//! server before it.

use std::fmt;
use std::time::Duration;

use terrace_crds::policy::{
    EdgeSite, Fallback, RemoteTier as RemoteTierSpec, RequestDefaults, SITE_LABEL, Tiers,
};
use terrace_crds::{Tier, TierPolicySpec};
use url::Url;

use crate::decide::SkipReason;
use crate::mode::Mode;
use crate::place::{Place, SITE, SiteUrl, Sites};

/// The longest that one attempt at a remote tier may take, unless its policy says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest URL, as in the CRD's schema.
const MAX_URL_LENGTH: usize = 2048;
/// What is said of a URL that is none.
const NO_URL: &str = "is not a URL such as https://gateway.example:8000";

/// What is wrong with one field of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field's path: `spec.tiers.edge.url`.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub message: String,
}

impl Fault {
    /// A fault of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for Fault {}

/// Which tiers may answer the requests of a model, and what holds where a request states nothing stricter.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// There is no policy: the node answers, or nobody.
    local_only: bool,
    max_latency: Option<Duration>,
    privacy_required: bool,
    edge: Option<RemoteTier>,
    cloud: Option<RemoteTier>,
    /// `None` where fallback is off.
    fallback: Option<Vec<Tier>>,
    mode: Mode,
}

/// A tier that is reached over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTier {
    /// Where it is, on any node.
    place: Place,
    /// Where it is reached from this node.
    endpoints: Result<Vec<Url>, SkipReason>,
    /// The longest that one attempt may take.
    pub timeout: Duration,
}

impl RemoteTier {
    fn new(place: Place, timeout: Duration) -> Self {
        let endpoints = place.endpoints(&Sites::new());
        Self { place, endpoints, timeout }
    }

    /// Where it is, as the policy says it for every node.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The base URLs, without `/v2`, at which this node reaches it, in the order in which it asks; never empty. Else why
    /// this node does not reach it.
    pub fn endpoints(&self) -> Result<&[Url], SkipReason> {
        self.endpoints.as_deref().map_err(|why| *why)
    }

    fn at(self, sites: &Sites) -> Self {
        Self { endpoints: self.place.endpoints(sites), ..self }
    }
}

impl Policy {
    /// This policy, as private as `other` is: an edit that keeps more to the node holds before anything else of it does.
    #[must_use]
    pub fn tightened_by(self, other: &Self) -> Self {
        if other.local_only {
            return Self::local_only();
        }
        Self { privacy_required: self.privacy_required || other.privacy_required, ..self }
    }

    /// This policy on a node with these sites. Where it was before makes no difference.
    #[must_use]
    pub fn at(self, sites: &Sites) -> Self {
        Self { edge: self.edge.map(|edge| edge.at(sites)), ..self }
    }

    /// The label whose value on a node must be known to reach every tier from there.
    pub fn site_label(&self) -> Option<&str> {
        self.edge.as_ref().and_then(|edge| edge.place.site_label())
    }

    /// The policy that `spec` describes, or everything that is wrong with it.
    pub fn parse(spec: &TierPolicySpec) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let policy = Self {
            local_only: false,
            max_latency: positive(spec.defaults.max_latency, "spec.defaults.maxLatency", &mut faults),
            privacy_required: spec.defaults.privacy_required.unwrap_or(false),
            edge: remote_tier(spec.tiers.edge.as_ref(), Tier::Edge, &mut faults),
            cloud: remote_tier(spec.tiers.cloud.as_ref(), Tier::Cloud, &mut faults),
            fallback: fallback(spec.fallback.as_ref(), &mut faults),
            mode: Mode::parse(spec, &mut faults),
        };
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// For a model that names no policy, or one that cannot be had: the node answers, or nobody; every request
    /// is private.
    pub const fn local_only() -> Self {
        Self {
            local_only: true,
            max_latency: None,
            privacy_required: true,
            edge: None,
            cloud: None,
            fallback: None,
            mode: Mode::Select,
        }
    }

    /// Whether this stands for the lack of a policy.
    pub const fn is_local_only(&self) -> bool {
        self.local_only
    }

    /// The longest that a request may take where it states nothing shorter.
    pub const fn max_latency(&self) -> Option<Duration> {
        self.max_latency
    }

    /// Whether every request is private.
    pub const fn privacy_required(&self) -> bool {
        self.privacy_required
    }

    /// How `tier` is reached over the network. The device is never reached so.
    pub const fn remote(&self, tier: Tier) -> Option<&RemoteTier> {
        match tier {
            Tier::Device => None,
            Tier::Edge => self.edge.as_ref(),
            Tier::Cloud => self.cloud.as_ref(),
        }
    }

    /// The tiers to try after the chosen one, each once; `None` where fallback is off.
    pub fn fallback(&self) -> Option<&[Tier]> {
        self.fallback.as_deref()
    }

    /// How many tiers are asked.
    pub const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The same policy as a spec with every default written out, and nothing in it that has no effect. Two specs
    /// that mean the same give the same one. The lack of a policy gives that of a private policy without tiers.
    pub fn to_spec(&self) -> TierPolicySpec {
        let tier = |tier: &RemoteTier| {
            let (url, site) = match &tier.place {
                Place::Url(url) => (Some(url.to_string()), None),
                Place::SiteUrl(url) => (Some(url.as_str().to_owned()), None),
                Place::Site { label } => (None, Some(EdgeSite { label: Some(label.clone()) })),
            };
            RemoteTierSpec { url, site, timeout: Some(tier.timeout.into()) }
        };
        let mut spec = TierPolicySpec {
            defaults: RequestDefaults {
                max_latency: self.max_latency.map(Into::into),
                privacy_required: Some(self.privacy_required),
            },
            tiers: Tiers { edge: self.edge.as_ref().map(tier), cloud: self.cloud.as_ref().map(tier) },
            fallback: Some(Fallback { enabled: Some(self.fallback.is_some()), order: self.fallback.clone() }),
            ..TierPolicySpec::default()
        };
        self.mode.write(&mut spec);
        spec
    }
}

fn positive(
    duration: Option<terrace_crds::Duration>,
    field: &str,
    faults: &mut Vec<Fault>,
) -> Option<Duration> {
    let duration = Duration::from(duration?);
    if duration.is_zero() {
        faults.push(Fault::new(field, "must be positive"));
    }
    Some(duration)
}

fn remote_tier(spec: Option<&RemoteTierSpec>, tier: Tier, faults: &mut Vec<Fault>) -> Option<RemoteTier> {
    let spec = spec?;
    let field = format!("spec.tiers.{tier}");
    let timeout = positive(spec.timeout, &format!("{field}.timeout"), faults).unwrap_or(DEFAULT_TIMEOUT);
    let mut fault = |field: String, message: &str| {
        faults.push(Fault::new(field, message));
        None
    };
    let place = match (&spec.url, &spec.site) {
        (Some(url), None) => {
            place_at(url, tier).map(Some).unwrap_or_else(|message| fault(format!("{field}.url"), message))
        }
        (None, Some(_)) if tier != Tier::Edge => {
            fault(format!("{field}.site"), "is the edge's alone; give a url")
        }
        (None, Some(site)) => match site.label.as_deref().unwrap_or(SITE_LABEL) {
            label if is_label_key(label) => Some(Place::Site { label: label.to_owned() }),
            _ => {
                fault(format!("{field}.site.label"), "must be the key of a label, such as example.com/store")
            }
        },
        (Some(_), Some(_)) | (None, None) => fault(field, "needs exactly one of url and site"),
    };
    place.map(|place| RemoteTier::new(place, timeout))
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
    // A URL parser drops or rewrites these; what is written should be what is called.
    if rest.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') || rest.starts_with('/') {
        return Err(NO_URL);
    }
    Ok(())
}

fn fallback(spec: Option<&Fallback>, faults: &mut Vec<Fault>) -> Option<Vec<Tier>> {
    const FIELD: &str = "spec.fallback.order";
    let enabled = spec.and_then(|fallback| fallback.enabled).unwrap_or(true);
    let order = spec.and_then(|fallback| fallback.order.clone()).unwrap_or_else(|| Tier::ALL.to_vec());
    if order.is_empty() {
        faults.push(Fault::new(FIELD, "must name at least one tier; enabled: false switches fallback off"));
    }
    if order.iter().enumerate().any(|(position, tier)| order[..position].contains(tier)) {
        faults.push(Fault::new(FIELD, "must name each tier once at most"));
    }
    enabled.then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> RemoteTierSpec {
        RemoteTierSpec { url: Some(url.to_owned()), ..RemoteTierSpec::default() }
    }

    fn with_site(label: Option<&str>) -> TierPolicySpec {
        let site = Some(EdgeSite { label: label.map(str::to_owned) });
        let edge = Some(RemoteTierSpec { site, ..RemoteTierSpec::default() });
        TierPolicySpec { tiers: Tiers { edge, cloud: None }, ..TierPolicySpec::default() }
    }

    fn with_edge(url: &str) -> TierPolicySpec {
        TierPolicySpec { tiers: Tiers { edge: Some(remote(url)), cloud: None }, ..TierPolicySpec::default() }
    }

    fn with_order(enabled: Option<bool>, order: Option<Vec<Tier>>) -> TierPolicySpec {
        TierPolicySpec { fallback: Some(Fallback { enabled, order }), ..TierPolicySpec::default() }
    }

    fn fields(spec: &TierPolicySpec) -> Vec<String> {
        let faults = Policy::parse(spec).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn an_empty_spec_has_no_deadline_is_not_private_and_falls_back_nearest_first() {
        let policy = Policy::parse(&TierPolicySpec::default()).unwrap();
        assert_eq!(policy.max_latency(), None);
        assert!(!policy.privacy_required());
        assert!(!policy.is_local_only());
        assert_eq!(policy.fallback(), Some(&Tier::ALL[..]));
        assert!(Tier::ALL.into_iter().all(|tier| policy.remote(tier).is_none()));
    }

    #[test]
    fn a_tier_has_five_seconds_unless_it_says_otherwise() {
        let policy = Policy::parse(&with_edge("http://edge:8000")).unwrap();
        let edge = policy.remote(Tier::Edge).unwrap();
        assert_eq!(edge.timeout, Duration::from_secs(5));
        assert_eq!(edge.endpoints().unwrap()[0].as_str(), "http://edge:8000/");
        assert_eq!(policy.remote(Tier::Cloud), None);
    }

    #[test]
    fn urls_are_accepted_and_refused_as_in_the_schema() {
        for url in
            ["http://edge", "https://edge.example:8443/gateway/", "http://[::1]:8000", "http://10.0.0.1"]
        {
            assert_eq!(fields(&with_edge(url)), Vec::<String>::new(), "{url}");
        }
        let long = format!("http://edge/{}", "a".repeat(2048));
        for url in [
            "",
            "edge:8000",
            "ftp://edge",
            "HTTP://edge",
            "http:edge",
            "http://",
            "http:///v2",
            "http://user@edge",
            "http://user:secret@edge",
            "http://@edge",
            "http://edge?key=1",
            "http://edge/?",
            "http://edge#a",
            "http://edge\\@other",
            "http://ed\tge",
            "http://edge /a",
            "http://edge:port",
            &long,
        ] {
            assert_eq!(fields(&with_edge(url)), ["spec.tiers.edge.url"], "{url}");
        }
        assert_eq!(fields(&with_edge("https://gateway.example/a@b")), Vec::<String>::new());
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
    fn a_fault_does_not_repeat_what_may_be_a_password() {
        let faults = Policy::parse(&with_edge("http://user:hunter2@edge")).unwrap_err();
        assert!(!faults[0].to_string().contains("hunter2"), "{}", faults[0]);
    }

    #[test]
    fn an_order_names_each_tier_once_and_at_least_one() {
        assert_eq!(fields(&with_order(None, Some(vec![Tier::Edge, Tier::Device]))), Vec::<String>::new());
        assert_eq!(fields(&with_order(None, Some(vec![]))), ["spec.fallback.order"]);
        let twice = vec![Tier::Edge, Tier::Device, Tier::Edge];
        assert_eq!(fields(&with_order(None, Some(twice.clone()))), ["spec.fallback.order"]);
        assert_eq!(fields(&with_order(Some(false), Some(twice))), ["spec.fallback.order"]);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let spec = TierPolicySpec {
            defaults: RequestDefaults { max_latency: Some(Duration::ZERO.into()), privacy_required: None },
            tiers: Tiers {
                edge: Some(RemoteTierSpec { timeout: Some(Duration::ZERO.into()), ..remote("edge") }),
                cloud: Some(remote("http://cloud?a")),
            },
            fallback: Some(Fallback { enabled: None, order: Some(vec![]) }),
            ..TierPolicySpec::default()
        };
        assert_eq!(
            fields(&spec),
            [
                "spec.defaults.maxLatency",
                "spec.tiers.edge.timeout",
                "spec.tiers.edge.url",
                "spec.tiers.cloud.url",
                "spec.fallback.order"
            ]
        );
    }

    #[test]
    fn specs_that_mean_the_same_resolve_to_the_same_one() {
        let resolved = |spec: &TierPolicySpec| Policy::parse(spec).unwrap().to_spec();
        let explicit = with_order(Some(true), Some(Tier::ALL.to_vec()));
        assert_eq!(resolved(&TierPolicySpec::default()), resolved(&explicit));
        let off = with_order(Some(false), None);
        assert_eq!(resolved(&off), resolved(&with_order(Some(false), Some(vec![Tier::Cloud]))));
        assert_ne!(resolved(&off), resolved(&explicit));
        assert_eq!(resolved(&with_edge("http://edge")), resolved(&with_edge("http://edge/")));
    }

    #[test]
    fn a_resolved_spec_is_the_same_policy() {
        for spec in [
            TierPolicySpec::default(),
            with_edge("http://edge/a"),
            with_edge("http://{site}.example"),
            with_site(None),
            with_order(Some(false), None),
        ] {
            let policy = Policy::parse(&spec).unwrap();
            assert_eq!(Policy::parse(&policy.to_spec()).unwrap(), policy);
        }
    }
}
