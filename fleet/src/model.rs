//! A checked `InferenceModel`.
//!
//! The checks are those of the CRD's schema and rules, and what they cannot say: an agent that reads manifests
//! from a folder has no API server before it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use terrace_crds::InferenceModel;
use terrace_crds::confidence::Confidence;
use terrace_crds::model::{
    Batching, CasesSource, ModelSource, Placement, PolicyReference, Runtime, Swap, Upstream, Upstreams,
    Verification,
};
use terrace_tiering::{Fault, Measure, Policy};

use crate::digest::Sha256;
use crate::provider::execution_providers;
use crate::source::SourceUri;

const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_mins(15);
const MIN_SYNC_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TOLERANCE: f64 = 1e-4;
const MAX_THREADS: u16 = 256;
const MAX_INSTANCES: u16 = 64;
/// The most rows that may run at once, as in the CRD's schema.
const MAX_BATCH: u16 = 1024;
const MAX_LABEL_CHARS: usize = 63;
const MAX_UPSTREAM_NAME_CHARS: usize = 253;
const MAX_SELECTOR_LABELS: usize = 32;
/// As in the CRD's schema.
const MAX_ALLOWED_NAMESPACES: usize = 64;
/// What stands for every namespace.
const EVERY_NAMESPACE: &str = "*";

/// What an `InferenceModel` asks for, checked, with every default written out. Two models that mean the same are
/// equal.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPlan {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uri: SourceUri,
    pub(crate) digest: DigestSource,
    pub(crate) placement: Placement,
    pub(crate) upstreams: Upstreams,
    pub(crate) runtime: Runtime,
    pub(crate) verification: Option<Verification>,
    pub(crate) confidence: Option<Confidence>,
    pub(crate) policy: Option<String>,
    pub(crate) allowed_namespaces: Vec<String>,
}

/// Where the digest of a model's file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestSource {
    /// From the model itself.
    Pinned(Sha256),
    /// From a published checksum file.
    Published {
        /// The checksum file.
        from: SourceUri,
        /// How often it is read.
        interval: Duration,
    },
}

impl ModelPlan {
    /// What `model` asks for, or everything that is wrong with it.
    pub fn parse(model: &InferenceModel) -> Result<Self, Vec<Fault>> {
        let mut checks = Checks(Vec::new());
        let spec = &model.spec;
        let namespace = checks.label("metadata.namespace", model.metadata.namespace.as_deref());
        let name = checks.label("metadata.name", model.metadata.name.as_deref());
        let uri = checks.uri("spec.source.uri", &spec.source.uri);
        let digest = checks.digest_source(&spec.source);
        let placement = checks.placement(&spec.placement);
        let upstreams = checks.upstreams(&spec.upstreams);
        let runtime = checks.runtime(&spec.runtime);
        let verification = spec.verification.as_ref().and_then(|asked| checks.verification(asked));
        let confidence = spec.confidence.as_ref().and_then(|asked| checks.confidence(asked));
        let policy = spec.policy_ref.as_ref().map(|reference| checks.policy(reference));
        let allowed_namespaces = checks.allowed_namespaces(&spec.allowed_namespaces);
        match (uri, digest) {
            (Some(uri), Some(digest)) if checks.0.is_empty() => Ok(Self {
                namespace,
                name,
                uri,
                digest,
                placement,
                upstreams,
                runtime,
                verification,
                confidence,
                policy,
                allowed_namespaces,
            }),
            _ => Err(checks.0),
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its file comes from.
    pub const fn uri(&self) -> &SourceUri {
        &self.uri
    }

    /// Where the digest of its file comes from.
    pub const fn digest(&self) -> &DigestSource {
        &self.digest
    }

    /// The name of its policy, in its namespace.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// Whether it has what `policy` goes by.
    pub const fn suits(&self, policy: &Policy) -> bool {
        self.confidence.is_some() || !policy.mode().needs_confidence()
    }
}

/// Collects faults. A check that fails gives a value all the same, so that the next can be made.
struct Checks(Vec<Fault>);

impl Checks {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Fault::new(field, message));
    }

    fn take<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(field, error.to_string())).ok()
    }

    fn label(&mut self, field: &str, text: Option<&str>) -> String {
        match text {
            None | Some("") => self.fault(field, "is missing"),
            Some(text) if !is_label(text) => self.fault(
                field,
                "must be a DNS label: at most 63 lower-case letters, digits and hyphens, no hyphen at either end",
            ),
            Some(_) => {}
        }
        text.unwrap_or_default().to_owned()
    }

    fn uri(&mut self, field: &str, text: &str) -> Option<SourceUri> {
        self.take(field, SourceUri::parse(text))
    }

    fn digest_source(&mut self, source: &ModelSource) -> Option<DigestSource> {
        let interval = source.sync_interval.map(|interval| {
            if interval < MIN_SYNC_INTERVAL.into() {
                self.fault("spec.source.syncInterval", "must be at least 1s");
            }
            interval.into()
        });
        if interval.is_some() && source.sha256_from.is_none() {
            self.fault("spec.source.syncInterval", "needs sha256From: a fixed sha256 never changes");
        }
        let pinned = source.sha256.as_ref().map(|text| self.take("spec.source.sha256", Sha256::parse(text)));
        let from = source.sha256_from.as_ref().map(|text| self.uri("spec.source.sha256From", text));
        match (pinned, from) {
            (Some(pinned), None) => pinned.map(DigestSource::Pinned),
            (None, Some(from)) => {
                let interval = interval.unwrap_or(DEFAULT_SYNC_INTERVAL);
                from.map(|from| DigestSource::Published { from, interval })
            }
            (Some(_), Some(_)) | (None, None) => {
                self.fault(
                    "spec.source",
                    "needs exactly one of sha256 and sha256From: what runs is always pinned by digest",
                );
                None
            }
        }
    }

    fn placement(&mut self, placement: &Placement) -> Placement {
        if placement.node_selector.len() > MAX_SELECTOR_LABELS {
            self.fault("spec.placement.nodeSelector", "must have at most 32 labels");
        }
        placement.clone()
    }

    fn upstreams(&mut self, upstreams: &Upstreams) -> Upstreams {
        self.upstream("spec.upstreams.edge.model", upstreams.edge.as_ref());
        self.upstream("spec.upstreams.cloud.model", upstreams.cloud.as_ref());
        upstreams.clone()
    }

    fn upstream(&mut self, field: &str, upstream: Option<&Upstream>) {
        if upstream.is_some_and(|upstream| !is_upstream_name(&upstream.model)) {
            self.fault(
                field,
                "must be a model's name as in a URL, such as digits or vision.digits: at most 253 letters, digits, dots, hyphens and underscores, the first a letter or digit",
            );
        }
    }

    fn runtime(&mut self, runtime: &Runtime) -> Runtime {
        let execution_providers = execution_providers(runtime).unwrap_or_else(|faults| {
            self.0.extend(faults);
            Vec::new()
        });
        Runtime {
            execution_providers,
            threads: Some(self.count("spec.runtime.threads", runtime.threads, MAX_THREADS)),
            instances: Some(self.count("spec.runtime.instances", runtime.instances, MAX_INSTANCES)),
            batching: runtime.batching.as_ref().and_then(|batching| self.batching(batching)),
            // What is the default anyway is no other revision.
            swap: runtime.swap.filter(|swap| *swap != Swap::Overlap),
        }
    }

    /// None where nothing is asked for: then each node finds out.
    fn batching(&mut self, batching: &Batching) -> Option<Batching> {
        let most = batching.max_size?;
        let most = self.count("spec.runtime.batching.maxSize", Some(most), MAX_BATCH);
        Some(Batching { max_size: Some(most) })
    }

    fn count(&mut self, field: &str, count: Option<u16>, most: u16) -> u16 {
        let count = count.unwrap_or(1);
        if !(1..=most).contains(&count) {
            self.fault(field, format!("must be from 1 to {most}"));
        }
        count
    }

    /// `None` also where nothing is to be verified.
    fn verification(&mut self, asked: &Verification) -> Option<Verification> {
        if asked.max_latency.is_some_and(|ceiling| ceiling <= Duration::ZERO.into()) {
            self.fault("spec.verification.maxLatency", "must be positive");
        }
        if asked.max_latency.is_some() && asked.cases.is_none() {
            self.fault("spec.verification.maxLatency", "needs cases: it is measured on them");
        }
        let cases = self.cases(asked.cases.as_ref()?);
        Some(Verification { cases: Some(cases), max_latency: asked.max_latency })
    }

    fn cases(&mut self, cases: &CasesSource) -> CasesSource {
        let uri = self.uri("spec.verification.cases.uri", &cases.uri);
        self.take("spec.verification.cases.sha256", Sha256::parse(&cases.sha256));
        let tolerance = cases.tolerance.unwrap_or(DEFAULT_TOLERANCE);
        if !(0.0..=1.0).contains(&tolerance) {
            self.fault("spec.verification.cases.tolerance", "must be from 0 to 1");
        }
        CasesSource {
            uri: uri.map_or_else(|| cases.uri.clone(), |uri| uri.to_string()),
            sha256: cases.sha256.clone(),
            tolerance: Some(tolerance),
        }
    }

    fn confidence(&mut self, asked: &Confidence) -> Option<Confidence> {
        match Measure::parse(asked) {
            Ok(measure) => Some(measure.to_spec()),
            Err(faults) => {
                self.0.extend(faults);
                None
            }
        }
    }

    fn policy(&mut self, reference: &PolicyReference) -> String {
        self.label("spec.policyRef.name", Some(&reference.name))
    }

    /// In order: who means the same writes the same.
    fn allowed_namespaces(&mut self, allowed: &[String]) -> Vec<String> {
        const FIELD: &str = "spec.allowedNamespaces";
        if allowed.len() > MAX_ALLOWED_NAMESPACES {
            self.fault(FIELD, "must have at most 64 namespaces; * is every one");
        }
        if allowed.iter().any(|name| name != EVERY_NAMESPACE && !is_label(name)) {
            self.fault(FIELD, "must hold namespaces, or * for every one");
        }
        let sorted: BTreeSet<&String> = allowed.iter().collect();
        if sorted.len() != allowed.len() {
            self.fault(FIELD, "must not name a namespace twice");
        }
        sorted.into_iter().cloned().collect()
    }
}

/// `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`
fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL_CHARS
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.is_empty()
}

/// `[A-Za-z0-9][A-Za-z0-9._-]*`
fn is_upstream_name(text: &str) -> bool {
    text.len() <= MAX_UPSTREAM_NAME_CHARS
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
