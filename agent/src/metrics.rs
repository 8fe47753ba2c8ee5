//! What this agent counts, in Prometheus' text format. Labels are bounded: models come from the spec alone, all
//! else from enumerations.

mod models;
mod tiers;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use terrace_crds::Tier;
use terrace_tiering::{Failed, Policy};
use tokio::runtime::Handle;

use crate::registry::{Entry, ModelKey};
use crate::upstream::Upstream;

/// The counters of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<ModelLabels, Histogram, fn() -> Histogram>,
    attempts: Family<AttemptLabels, Counter>,
    activations: Family<ActivationLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    rule_failures: Family<RuleLabels, Counter>,
    decisions_unrecorded: Counter,
    tasks: Gauge,
    confidences: Family<ModelLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    model: Arc<str>,
    tier: &'static str,
    source: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    tier: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActivationLabels {
    model: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    model: Arc<str>,
    rule: String,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The model that it asked for.
    pub model: &'a Arc<str>,
    /// Who answered, and as what; none where nobody did.
    pub answer: Option<(&'static str, &'static str)>,
    /// The status that the client saw.
    pub code: u16,
    /// From its headers to its answer.
    pub took: Duration,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("terrace");
        let requests = Family::default();
        registry.register("requests", "Inference requests, by the tier that answered", requests.clone());
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "request_duration",
            "Time from a request's headers to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let attempts = Family::default();
        registry.register("attempts", "Attempts at a tier, by outcome", attempts.clone());
        let activations = Family::default();
        registry.register("activations", "Revisions that were to be served, by outcome", activations.clone());
        let refused = Family::default();
        registry.register(
            "refused",
            "Calls and TLS handshakes of callers who may not, by reason",
            refused.clone(),
        );
        let rule_failures = Family::default();
        registry.register(
            "rule_failures",
            "Rules that had no value for a request and were passed over; complexity: the policy's expression",
            rule_failures.clone(),
        );
        let decisions_unrecorded = Counter::default();
        registry.register(
            "decisions_unrecorded",
            "Decisions that --record-decisions could not write in time",
            decisions_unrecorded.clone(),
        );
        let tasks = Gauge::default();
        registry.register(
            "tasks",
            "Tasks of the agent that live: connections, requests and the agent's own",
            tasks.clone(),
        );
        let confidences = Family::new_with_constructor(shares as fn() -> Histogram);
        registry.register(
            "confidence",
            "How sure the model was of an answer in mode Speculative, or the combined answer in mode Ensemble",
            confidences.clone(),
        );
        Self {
            registry,
            requests,
            durations,
            attempts,
            activations,
            refused,
            rule_failures,
            decisions_unrecorded,
            tasks,
            confidences,
        }
    }

    /// Counts a request for a model that exists.
    pub fn request(&self, finished: Finished<'_>) {
        let model = Arc::clone(finished.model);
        let (tier, source) = finished.answer.unwrap_or(("none", "none"));
        self.durations
            .get_or_create(&ModelLabels { model: Arc::clone(&model) })
            .observe(finished.took.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { model, tier, source, code: finished.code }).inc();
    }

    /// Counts a request that was refused before it said which model it asked for.
    pub fn unread(&self, code: u16) {
        let labels = RequestLabels { model: Arc::from(""), tier: "none", source: "none", code };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts one attempt at a tier.
    pub fn attempt(&self, tier: Tier, outcome: &'static str) {
        self.attempts.get_or_create(&AttemptLabels { tier: tier.as_str(), outcome }).inc();
    }

    /// Counts a call that its caller may not make.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// Counts what failed while the rules of a policy were asked.
    pub fn rules_failed(&self, model: &Arc<str>, policy: &Policy, failed: Failed) {
        let rules = failed.rules().filter_map(|place| policy.rules()?.get(place));
        let names = rules.map(|rule| rule.name().to_string());
        for rule in names.chain(failed.complexity().then(|| "complexity".to_owned())) {
            self.rule_failures.get_or_create(&RuleLabels { model: Arc::clone(model), rule }).inc();
        }
    }

    /// Counts a decision that was not recorded.
    pub fn decision_unrecorded(&self) {
        self.decisions_unrecorded.inc();
    }

    /// Counts how sure an answer was.
    pub fn confidence(&self, model: &Arc<str>, confidence: f64) {
        self.confidences.get_or_create(&ModelLabels { model: Arc::clone(model) }).observe(confidence);
    }

    /// Counts a revision that serves now, or cannot.
    pub fn activation(&self, model: &ModelKey, outcome: &str) {
        let outcome = outcome.to_owned();
        self.activations.get_or_create(&ActivationLabels { model: model.to_string(), outcome }).inc();
    }

    /// Everything, as Prometheus reads it; with what each model that serves has done since it was loaded, and what is known
    /// of other tiers.
    pub fn text(&self, entries: &[Arc<Entry>], upstream: &Upstream) -> String {
        let serving = entries.iter().filter_map(|entry| Some((&entry.key, &**entry.served()?)));
        if let Ok(runtime) = Handle::try_current() {
            self.tasks.set(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &models::registry(serving));
        let _ = encode_registry(&mut text, &tiers::registry(upstream, entries));
        let _ = encode_eof(&mut text);
        text
    }
}

/// From 50 µs (a tiny model) to 10 s.
fn histogram() -> Histogram {
    Histogram::new([
        0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 5.0, 10.0,
    ])
}

/// From 0 to 1; finer where thresholds lie.
fn shares() -> Histogram {
    Histogram::new([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0])
}
