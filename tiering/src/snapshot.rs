//! What a node knows of itself and of other tiers at one moment: all that a decision may go by beyond policy and
//! request. Taken once a request, by the agent; copied freely.

use std::time::Duration;

use terrace_crds::Tier;

use crate::breaker::BreakerState;
use crate::budget::LocalTime;
use crate::decide::Node;

/// A node's view of one model at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// The node that decides, and where it stands with the model.
    pub node: Node,
    /// How busy the model is here.
    pub local: LocalState,
    /// The edge, as this node last saw it.
    pub edge: RemoteState,
    /// The cloud, as this node last saw it.
    pub cloud: RemoteState,
}

/// How busy a node's own model is, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LocalState {
    /// Requests that wait for the model.
    pub queued: usize,
    /// Requests that it runs now.
    pub in_flight: usize,
    /// The shortest that an answer took of late. None before the first.
    pub shortest_run: Option<Duration>,
    /// The longest that a run took of late. None before the first.
    pub longest_run: Option<Duration>,
    /// How long an answer takes, nine times out of ten. None before the first.
    pub predicted: Option<Duration>,
    /// How many answers that is learned from.
    pub answers: u32,
}

/// Another tier, as this node last saw it: the best of its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RemoteState {
    /// The policy says how to reach it, and something there would be asked now.
    pub available: bool,
    /// What its circuit breaker says.
    pub breaker: BreakerState,
    /// How long an answer takes, nine times out of ten. None where nothing is known yet.
    pub predicted_p90: Option<Duration>,
    /// How long a connection to it took. None before the first.
    pub rtt: Option<Duration>,
    /// Requests that it has from this node now.
    pub in_flight: usize,
}

impl LocalState {
    /// How long its answers take.
    pub const fn time(&self) -> LocalTime {
        let Self { longest_run, shortest_run: shortest, predicted, answers, .. } = *self;
        LocalTime { longest_run, shortest, predicted, answers }
    }
}

impl RemoteState {
    /// How long an answer takes where there was one: what is known before is how long connecting took.
    pub fn learned(&self) -> Option<Duration> {
        self.predicted_p90.filter(|_| self.predicted_p90 != self.rtt)
    }
}

impl Snapshot {
    /// Of a node that has seen nothing yet; whatever the policy configures is available.
    pub fn of(node: Node) -> Self {
        let fresh = RemoteState { available: true, ..RemoteState::default() };
        Self { node, local: LocalState::default(), edge: fresh, cloud: fresh }
    }

    /// What is known of a tier beyond the node; none of the device, which is never reached so.
    pub const fn remote(&self, tier: Tier) -> Option<&RemoteState> {
        match tier {
            Tier::Device => None,
            Tier::Edge => Some(&self.edge),
            Tier::Cloud => Some(&self.cloud),
        }
    }
}
