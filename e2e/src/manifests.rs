//! Manifests as their authors write them: text in a folder, replaced as a whole.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::digits::{self, Artifact};

/// A folder that an agent follows.
#[derive(Clone, Debug)]
pub struct Manifests(PathBuf);

/// An `InferenceModel`, to be varied and written.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    namespace: Option<String>,
    allowed: Vec<String>,
    tier: &'static str,
    uri: String,
    digest: Digest,
    instances: Option<u16>,
    replaces: bool,
    providers: Option<String>,
    cases: Option<Artifact>,
    policy: Option<String>,
    upstreams: Vec<(&'static str, String)>,
    confidence: Option<String>,
}

#[derive(Clone, Debug)]
enum Digest {
    Fixed(String),
    Published { from: String, interval: String },
}

/// A `TierPolicy`, to be varied and written.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    name: String,
    max_latency: Option<String>,
    private: Option<bool>,
    tiers: Vec<(&'static str, String, Vec<String>)>,
    fallback: Option<String>,
    more: Vec<String>,
    mode: Option<(&'static str, String)>,
}

impl Manifests {
    /// The folder `dir`.
    pub const fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Puts `text` in the place of the file `name`. A reader sees the old text or the new.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.0.join(format!(".{name}.new"));
        fs::write(&hidden, text)?;
        fs::rename(&hidden, self.0.join(name)).with_context(|| format!("cannot write {name}"))
    }

    /// Writes a model to a file of its name.
    pub fn model(&self, model: &Model) -> Result<()> {
        self.write(&format!("{}.yaml", model.name), &model.yaml())
    }

    /// Writes a policy to a file of its name.
    pub fn policy(&self, policy: &Policy) -> Result<()> {
        self.write(&format!("policy-{}.yaml", policy.name), &policy.yaml())
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.0.join(name)).with_context(|| format!("cannot remove {name}"))
    }
}

impl Model {
    /// A model of the digits with its cases, served by devices under the name `digits`.
    pub fn digits(which: &str) -> Result<Self> {
        Ok(Self::of("digits", &digits::model(which)?).with_cases(digits::cases_file(which)?))
    }

    /// A model from a file, without cases.
    pub fn of(name: &str, file: &Artifact) -> Self {
        Self {
            name: name.to_owned(),
            namespace: None,
            allowed: Vec::new(),
            tier: "Device",
            uri: file.uri.clone(),
            digest: Digest::Fixed(file.sha256.clone()),
            instances: None,
            replaces: false,
            providers: None,
            cases: None,
            policy: None,
            upstreams: Vec::new(),
            confidence: None,
        }
    }

    /// Under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// In another namespace than the default one.
    #[must_use]
    pub fn of_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// For callers of these namespaces as well.
    #[must_use]
    pub fn allowing(mut self, namespaces: &[&str]) -> Self {
        self.allowed = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
        self
    }

    /// On the nodes of another tier: `Edge`, `Cloud`.
    #[must_use]
    pub const fn on(mut self, tier: &'static str) -> Self {
        self.tier = tier;
        self
    }

    /// From elsewhere.
    #[must_use]
    pub fn from(mut self, uri: &str) -> Self {
        uri.clone_into(&mut self.uri);
        self
    }

    /// With another digest.
    #[must_use]
    pub fn pinned(mut self, sha256: &str) -> Self {
        self.digest = Digest::Fixed(sha256.to_owned());
        self
    }

    /// With the digest that a checksum file gives, read every `interval`.
    #[must_use]
    pub fn published(mut self, from: &str, interval: &str) -> Self {
        self.digest = Digest::Published { from: from.to_owned(), interval: interval.to_owned() };
        self
    }

    /// With so many sessions side by side.
    #[must_use]
    pub const fn instances(mut self, instances: u16) -> Self {
        self.instances = Some(instances);
        self
    }

    /// Taking the place of what serves before it is loaded.
    #[must_use]
    pub const fn replacing(mut self) -> Self {
        self.replaces = true;
        self
    }

    /// To be run by these execution providers: `[{name: OpenVINO}]`.
    #[must_use]
    pub fn on_providers(mut self, providers: &str) -> Self {
        self.providers = Some(providers.to_owned());
        self
    }

    /// To pass these cases.
    #[must_use]
    pub fn with_cases(mut self, cases: Artifact) -> Self {
        self.cases = Some(cases);
        self
    }

    /// To pass no cases.
    #[must_use]
    pub fn without_cases(mut self) -> Self {
        self.cases = None;
        self
    }

    /// Under a policy.
    #[must_use]
    pub fn policy(mut self, name: &str) -> Self {
        self.policy = Some(name.to_owned());
        self
    }

    /// As sure as this measure says: `{output: probabilities, method: Probability}`.
    #[must_use]
    pub fn confidence(mut self, measure: &str) -> Self {
        self.confidence = Some(measure.to_owned());
        self
    }

    /// Called otherwise on another tier: `edge`, `cloud`.
    #[must_use]
    pub fn called(mut self, tier: &'static str, name: &str) -> Self {
        self.upstreams.push((tier, name.to_owned()));
        self
    }

    /// The digest it is pinned to; empty where it is published.
    pub fn sha256(&self) -> &str {
        match &self.digest {
            Digest::Fixed(sha256) => sha256,
            Digest::Published { .. } => "",
        }
    }

    /// The manifest. `spec.source.uri` stands in line 7.
    pub fn yaml(&self) -> String {
        let mut text = header("InferenceModel", &self.name);
        if let Some(namespace) = &self.namespace {
            let _ = writeln!(text, "  namespace: {namespace}");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "spec:\n  source:\n    uri: {}", self.uri);
        let _ = match &self.digest {
            Digest::Fixed(sha256) => writeln!(text, "    sha256: {sha256:?}"),
            Digest::Published { from, interval } => {
                writeln!(text, "    sha256From: {from}\n    syncInterval: {interval}")
            }
        };
        let _ = writeln!(text, "  placement: {{tier: {}}}", self.tier);
        if !self.allowed.is_empty() {
            let _ = writeln!(text, "  allowedNamespaces: {:?}", self.allowed);
        }
        if self.instances.is_some() || self.replaces || self.providers.is_some() {
            text.push_str("  runtime:\n");
        }
        if let Some(instances) = self.instances {
            let _ = writeln!(text, "    instances: {instances}");
        }
        if self.replaces {
            text.push_str("    swap: Replace\n");
        }
        if let Some(providers) = &self.providers {
            let _ = writeln!(text, "    executionProviders: {providers}");
        }
        if let Some(Artifact { uri, sha256 }) = &self.cases {
            let _ = writeln!(text, "  verification:\n    cases: {{uri: {uri:?}, sha256: {sha256:?}}}");
        }
        if !self.upstreams.is_empty() {
            text.push_str("  upstreams:\n");
        }
        for (tier, name) in &self.upstreams {
            let _ = writeln!(text, "    {tier}: {{model: {name}}}");
        }
        if let Some(measure) = &self.confidence {
            let _ = writeln!(text, "  confidence: {measure}");
        }
        if let Some(policy) = &self.policy {
            let _ = writeln!(text, "  policyRef: {{name: {policy}}}");
        }
        text
    }
}

impl Policy {
    /// A policy without tiers.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// With an edge.
    #[must_use]
    pub fn edge(mut self, url: &str) -> Self {
        self.tiers.push(("edge", url.to_owned(), Vec::new()));
        self
    }

    /// With a cloud.
    #[must_use]
    pub fn cloud(mut self, url: &str) -> Self {
        self.tiers.push(("cloud", url.to_owned(), Vec::new()));
        self
    }

    /// The tier added last has a time-out.
    #[must_use]
    pub fn timeout(self, timeout: &str) -> Self {
        self.having(&format!("timeout: {timeout}"))
    }

    /// The tier added last has one more field: `protocol: GRPC`, `breaker: {failures: 2}`.
    #[must_use]
    pub fn having(mut self, field: &str) -> Self {
        if let Some(tier) = self.tiers.last_mut() {
            tier.2.push(field.to_owned());
        }
        self
    }

    /// Requests are due after this.
    #[must_use]
    pub fn max_latency(mut self, limit: &str) -> Self {
        self.max_latency = Some(limit.to_owned());
        self
    }

    /// Every request is private, or is not.
    #[must_use]
    pub const fn private(mut self, private: bool) -> Self {
        self.private = Some(private);
        self
    }

    /// With this fallback: `{enabled: false}`, `{order: [Edge, Device]}`.
    #[must_use]
    pub fn fallback(mut self, fallback: &str) -> Self {
        self.fallback = Some(fallback.to_owned());
        self
    }

    /// With more of a spec, as it is written here: `rules: [{when: 'true', tier: Edge}]`.
    #[must_use]
    pub fn with(mut self, yaml: &str) -> Self {
        self.more.push(yaml.to_owned());
        self
    }

    /// The node answers, and somebody else what it is not sure of: `{verifier: Cloud}`.
    #[must_use]
    pub fn speculative(mut self, speculative: &str) -> Self {
        self.mode = Some(("Speculative", speculative.to_owned()));
        self
    }

    /// Several answer at once: `{members: [Device, Cloud]}`.
    #[must_use]
    pub fn ensemble(mut self, ensemble: &str) -> Self {
        self.mode = Some(("Ensemble", ensemble.to_owned()));
        self
    }

    /// The manifest.
    pub fn yaml(&self) -> String {
        let mut text = header("TierPolicy", &self.name);
        let mut spec = String::new();
        if self.max_latency.is_some() || self.private.is_some() {
            spec.push_str("  defaults:\n");
        }
        if let Some(limit) = &self.max_latency {
            let _ = writeln!(spec, "    maxLatency: {limit}");
        }
        if let Some(private) = self.private {
            let _ = writeln!(spec, "    privacyRequired: {private}");
        }
        if !self.tiers.is_empty() {
            spec.push_str("  tiers:\n");
        }
        for (tier, url, fields) in &self.tiers {
            let fields: String = fields.iter().map(|field| format!(", {field}")).collect();
            let _ = writeln!(spec, "    {tier}: {{url: {url:?}{fields}}}");
        }
        if let Some(fallback) = &self.fallback {
            let _ = writeln!(spec, "  fallback: {fallback}");
        }
        for yaml in &self.more {
            let _ = writeln!(spec, "  {}", yaml.replace('\n', "\n  "));
        }
        if let Some((mode, fields)) = &self.mode {
            let _ = writeln!(spec, "  mode: {mode}\n  {}: {fields}", mode.to_lowercase());
        }
        text.push_str(if spec.is_empty() { "spec: {}\n" } else { "spec:\n" });
        text + &spec
    }
}

/// The first four lines of a manifest.
fn header(kind: &str, name: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_model_stands_in_line_seven() {
        let model = Model::of("m", &Artifact { uri: "file:///m.onnx".to_owned(), sha256: "0".to_owned() });
        assert_eq!(model.yaml().lines().nth(6), Some("    uri: file:///m.onnx"));
    }
}
