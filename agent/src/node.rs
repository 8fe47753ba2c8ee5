//! What the ports and the sync share: one value a process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use terrace_crds::Tier;

use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::rest::body;
use crate::status::Board;
use crate::upstream::Upstream;

/// This node, as its ports see it.
#[derive(Debug)]
pub struct Node {
    /// The tier that it is, by its place in [`Tier::ALL`]: in a cluster it is told, and may be told another one.
    tier: AtomicUsize,
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
}

impl Node {
    /// A node that answers for nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            tier: AtomicUsize::new(place(parts.tier)),
            default_namespace: parts.default_namespace,
            body: parts.body,
            registry: Registry::default(),
            upstream: parts.upstream,
            board: parts.board,
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

    /// How large a request's body may be.
    pub fn body_limits(&self) -> body::Limits {
        self.body.clone()
    }

    /// The same, to look at.
    pub const fn limits(&self) -> &body::Limits {
        &self.body
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
