//! What the ports and the sync share: one value a process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use terrace_crds::Tier;

use crate::executor::By;
use crate::metrics::Metrics;
use crate::record::{Record, Recorder};
use crate::registry::Registry;
use crate::rest::body;
use crate::serve::millis;
use crate::status::Board;
use crate::upstream::Upstream;

/// This node, as its ports see it.
#[derive(Debug)]
pub struct Node {
    /// The tier that it is, by its place in [`Tier::ALL`]: in a cluster it is told, and may be told another one.
    tier: AtomicUsize,
    /// Its labels, as far as rules of its policies read them.
    labels: ArcSwap<BTreeMap<String, String>>,
    /// The namespace of models that a client names without one.
    pub default_namespace: String,
    /// How large a request's body may be.
    body: body::Limits,
    /// The models that it answers for.
    pub registry: Registry,
    /// The way to other tiers.
    pub upstream: Upstream,
    /// What it reports.
    pub board: Board,
    /// What it counts.
    pub metrics: Metrics,
    /// Where decisions are recorded, if they are.
    pub recorder: Option<Recorder>,
    /// Set once a shutdown has begun.
    ending: AtomicBool,
}

/// What a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// The tier that it is.
    pub tier: Tier,
    /// The namespace of models that a client names without one.
    pub default_namespace: String,
    /// How large a request's body may be.
    pub body: body::Limits,
    /// The way to other tiers.
    pub upstream: Upstream,
    /// What it reports.
    pub board: Board,
    /// Where decisions are recorded, if they are.
    pub recorder: Option<Recorder>,
}

impl Node {
    /// A node that answers for nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            tier: AtomicUsize::new(place(parts.tier)),
            labels: ArcSwap::default(),
            default_namespace: parts.default_namespace,
            body: parts.body,
            registry: Registry::default(),
            upstream: parts.upstream,
            board: parts.board,
            recorder: parts.recorder,
            metrics: Metrics::new(),
            ending: AtomicBool::new(false),
        }
    }

    /// The tier that it is.
    pub fn tier(&self) -> Tier {
        Tier::ALL.get(self.tier.load(Ordering::Relaxed)).copied().unwrap_or_default()
    }

    /// It is of this tier from now on.
    pub fn become_tier(&self, tier: Tier) {
        self.tier.store(place(tier), Ordering::Relaxed);
    }

    /// Its labels, as far as rules of its policies read them.
    pub fn labels(&self) -> Arc<BTreeMap<String, String>> {
        self.labels.load_full()
    }

    /// It has these labels from now on.
    pub fn be_labelled(&self, labels: &BTreeMap<String, String>) {
        self.labels.store(Arc::new(labels.clone()));
    }

    /// How large a request's body may be.
    pub fn body_limits(&self) -> body::Limits {
        self.body.clone()
    }

    /// The same, to look at.
    pub const fn limits(&self) -> &body::Limits {
        &self.body
    }

    /// Records what became of a decision.
    pub fn record(&self, mut record: Record, by: By, code: u16, took: Duration) {
        let Some(recorder) = &self.recorder else { return };
        let (tier, source) = by.unzip();
        record.happened.tier = tier.map(str::to_owned);
        record.happened.source = source.map(str::to_owned);
        record.happened.code = code;
        record.happened.latency_ms = millis(took);
        if !recorder.record(record) {
            self.metrics.decision_unrecorded();
        }
    }

    /// Says that traffic should go elsewhere from now on.
    pub fn begin_shutdown(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Why traffic should go elsewhere; `None` when it may come.
    pub fn unready(&self) -> Option<String> {
        if self.ending.load(Ordering::Relaxed) {
            return Some("shutting down".to_owned());
        }
        self.board.unready()
    }
}

fn place(tier: Tier) -> usize {
    Tier::ALL.iter().position(|known| *known == tier).unwrap_or(0)
}
