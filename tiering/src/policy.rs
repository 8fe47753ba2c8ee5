//! A checked policy.
//!
//! The checks are those of the CRD's schema and rules: an agent that reads manifests from a folder has no API
//! server before it.

use std::fmt;
use std::time::Duration;

use terrace_crds::policy::{Fallback, RemoteTier as RemoteTierSpec, RequestDefaults, Tiers};
use terrace_crds::{Tier, TierPolicySpec};
use url::Url;

use crate::mode::Mode;

/// The longest that one attempt at a remote tier may take, unless its policy says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest URL, as in the CRD's schema.
const MAX_URL_LENGTH: usize = 2048;

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
    /// The server's base URL, without `/v2`.
    pub url: Url,
    /// The longest that one attempt may take.
    pub timeout: Duration,
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

    /// The policy that `spec` describes, or everything that is wrong with it.
    pub fn parse(spec: &TierPolicySpec) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let policy = Self {
            local_only: false,
            max_latency: positive(spec.defaults.max_latency, "spec.defaults.maxLatency", &mut faults),
            privacy_required: spec.defaults.privacy_required.unwrap_or(false),
            edge: remote_tier(spec.tiers.edge.as_ref(), "spec.tiers.edge", &mut faults),
            cloud: remote_tier(spec.tiers.cloud.as_ref(), "spec.tiers.cloud", &mut faults),
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
        let tier = |tier: &RemoteTier| RemoteTierSpec {
            url: tier.url.to_string(),
            timeout: Some(tier.timeout.into()),
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

fn remote_tier(spec: Option<&RemoteTierSpec>, field: &str, faults: &mut Vec<Fault>) -> Option<RemoteTier> {
    let spec = spec?;
    let timeout = positive(spec.timeout, &format!("{field}.timeout"), faults).unwrap_or(DEFAULT_TIMEOUT);
    match base_url(&spec.url) {
        Ok(url) => Some(RemoteTier { url, timeout }),
        Err(message) => {
            faults.push(Fault::new(format!("{field}.url"), message));
            None
        }
    }
}

fn base_url(text: &str) -> Result<Url, &'static str> {
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
        return Err("is not a URL such as https://gateway.example:8000");
    }
    Url::parse(text).map_err(|_| "is not a URL such as https://gateway.example:8000")
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

    fn with_edge(url: &str) -> TierPolicySpec {
        TierPolicySpec {
            tiers: Tiers {
                edge: Some(RemoteTierSpec { url: url.to_owned(), ..Default::default() }),
                cloud: None,
            },
            ..TierPolicySpec::default()
        }
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
        assert_eq!((edge.url.as_str(), edge.timeout), ("http://edge:8000/", Duration::from_secs(5)));
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
                edge: Some(RemoteTierSpec { url: "edge".to_owned(), timeout: Some(Duration::ZERO.into()) }),
                cloud: Some(RemoteTierSpec { url: "http://cloud?a".to_owned(), ..Default::default() }),
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
        for spec in [TierPolicySpec::default(), with_edge("http://edge/a"), with_order(Some(false), None)] {
            let policy = Policy::parse(&spec).unwrap();
            assert_eq!(Policy::parse(&policy.to_spec()).unwrap(), policy);
        }
    }
}
