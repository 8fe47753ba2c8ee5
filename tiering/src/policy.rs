//! A checked policy.
//!
//! The checks are those of the CRD's schema and rules: an agent that reads manifests from a folder has no API
//! server before it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use terrace_crds::policy::{Fallback, RequestDefaults, Tiers};
use terrace_crds::{Tier, TierPolicySpec};

use crate::complexity::Complexity;
use crate::mode::Mode;
use crate::place::Sites;
use crate::remote::{RemoteTier, positive, remote_tier};
use crate::rules::{self, Rule};

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

/// What a model lacks whose requests stay on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// An accepted policy.
    Policy,
    /// A confidence, which its policy goes by.
    Confidence,
}

/// Which tiers may answer the requests of a model, and what holds where a request states nothing stricter.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// There is no policy to go by: the node answers, or nobody.
    lacking: Option<Lacking>,
    max_latency: Option<Duration>,
    privacy_required: bool,
    edge: Option<RemoteTier>,
    cloud: Option<RemoteTier>,
    /// `None` where fallback is off.
    fallback: Option<Vec<Tier>>,
    /// `None` where the default rules hold.
    rules: Option<Arc<[Rule]>>,
    complexity: Complexity,
    request_headers: Vec<String>,
    mode: Mode,
}

impl Policy {
    /// This policy, as private as `other` is: an edit that keeps more to the node holds before anything else of it does.
    #[must_use]
    pub fn tightened_by(self, other: &Self) -> Self {
        if let Some(lacking) = other.lacking {
            return Self::without(lacking);
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
        self.edge.as_ref().and_then(|edge| edge.place().site_label())
    }

    /// The policy that `spec` describes, or everything that is wrong with it.
    pub fn parse(spec: &TierPolicySpec) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let request_headers = rules::headers(spec, &mut faults);
        let policy = Self {
            lacking: None,
            max_latency: positive(spec.defaults.max_latency, "spec.defaults.maxLatency", &mut faults),
            privacy_required: spec.defaults.privacy_required.unwrap_or(false),
            edge: remote_tier(spec.tiers.edge.as_ref(), Tier::Edge, &mut faults),
            cloud: remote_tier(spec.tiers.cloud.as_ref(), Tier::Cloud, &mut faults),
            fallback: fallback(spec.fallback.as_ref(), &mut faults),
            rules: rules::parse(spec.rules.as_deref(), &request_headers, &mut faults),
            complexity: Complexity::parse(spec.complexity.as_ref(), &request_headers, &mut faults),
            request_headers,
            mode: Mode::parse(spec, &mut faults),
        };
        if policy.mode != Mode::Select {
            rules::refuse_unasked(spec, &mut faults);
        }
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// For a model that names no policy, or one that cannot be had: the node answers, or nobody; every request
    /// is private.
    pub const fn local_only() -> Self {
        Self::without(Lacking::Policy)
    }

    /// The same for a model that lacks something else that its policy goes by.
    pub const fn without(lacking: Lacking) -> Self {
        Self {
            lacking: Some(lacking),
            max_latency: None,
            privacy_required: true,
            edge: None,
            cloud: None,
            fallback: None,
            rules: None,
            complexity: Complexity::Entropy,
            request_headers: Vec::new(),
            mode: Mode::Select,
        }
    }

    /// What the model lacks, where this stands for the lack of a policy.
    pub const fn lacking(&self) -> Option<Lacking> {
        self.lacking
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

    /// The policy's own rules; `None` where the default ones hold.
    pub fn rules(&self) -> Option<&[Rule]> {
        self.rules.as_deref()
    }

    /// How a request that does not state its complexity is measured.
    pub const fn complexity(&self) -> &Complexity {
        &self.complexity
    }

    /// The headers that its rules may read, in lower case.
    pub fn request_headers(&self) -> &[String] {
        &self.request_headers
    }

    /// The labels of nodes that its rules read.
    pub fn labels(&self) -> BTreeSet<&str> {
        let rules = self.rules.iter().flat_map(|rules| rules.iter().map(|rule| &rule.when));
        let mut labels = BTreeSet::new();
        for expression in rules.chain(self.complexity.expression()) {
            expression.labels(&mut labels);
        }
        labels
    }

    /// How many tiers are asked.
    pub const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The same policy as a spec with every default written out, and nothing in it that has no effect. Two specs
    /// that mean the same give the same one. The lack of a policy gives that of a private policy without tiers.
    pub fn to_spec(&self) -> TierPolicySpec {
        let mut spec = TierPolicySpec {
            defaults: RequestDefaults {
                max_latency: self.max_latency.map(Into::into),
                privacy_required: Some(self.privacy_required),
            },
            tiers: Tiers {
                edge: self.edge.as_ref().map(RemoteTier::to_spec),
                cloud: self.cloud.as_ref().map(RemoteTier::to_spec),
            },
            fallback: Some(Fallback { enabled: Some(self.fallback.is_some()), order: self.fallback.clone() }),
            rules: self.rules.as_ref().map(|rules| rules.iter().map(Rule::to_spec).collect()),
            complexity: self.complexity.to_spec(),
            request_headers: self.request_headers.clone(),
            ..TierPolicySpec::default()
        };
        self.mode.write(&mut spec);
        spec
    }
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
    use terrace_crds::policy::RemoteTier as RemoteTierSpec;

    use super::*;

    fn with_edge(url: &str) -> TierPolicySpec {
        TierPolicySpec {
            tiers: Tiers {
                edge: Some(RemoteTierSpec { url: Some(url.to_owned()), ..Default::default() }),
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
        assert_eq!(policy.lacking(), None);
        assert_eq!(policy.fallback(), Some(&Tier::ALL[..]));
        assert!(Tier::ALL.into_iter().all(|tier| policy.remote(tier).is_none()));
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
    fn a_cloud_without_a_url_lacks_it_and_an_edge_lacks_one_of_two() {
        let bare = || Some(RemoteTierSpec::default());
        for (tiers, field) in [
            (Tiers { edge: None, cloud: bare() }, "spec.tiers.cloud.url"),
            (Tiers { edge: bare(), cloud: None }, "spec.tiers.edge"),
        ] {
            assert_eq!(fields(&TierPolicySpec { tiers, ..TierPolicySpec::default() }), [field]);
        }
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let spec = TierPolicySpec {
            defaults: RequestDefaults { max_latency: Some(Duration::ZERO.into()), privacy_required: None },
            tiers: Tiers {
                edge: Some(RemoteTierSpec {
                    url: Some("edge".to_owned()),
                    timeout: Some(Duration::ZERO.into()),
                    ..Default::default()
                }),
                cloud: Some(RemoteTierSpec { url: Some("http://cloud?a".to_owned()), ..Default::default() }),
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
