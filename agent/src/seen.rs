//! What a node knows of itself and of other tiers, as files and the admin port tell of it.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use terrace_crds::Tier;
use terrace_tiering::{BreakerState, LocalModel, LocalState, Node, RemoteState, Snapshot};

use crate::serve::millis;

/// A [`Snapshot`] as text. What is left out is as on a node that has seen nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Seen {
    /// The node itself.
    pub device: SeenHere,
    /// The edge, beyond the node.
    pub edge: SeenTier,
    /// The cloud, beyond the node.
    pub cloud: SeenTier,
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SeenHere {
    loaded: bool,
    placed: bool,
    queue_depth: usize,
    in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "milliseconds")]
    shortest_run_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "milliseconds")]
    longest_run_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "milliseconds")]
    predicted_latency_ms: Option<f64>,
    /// How many answers that is learned from.
    #[serde(skip_serializing_if = "is_none")]
    answers: u32,
}

/// Whether there are none.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Another tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SeenTier {
    /// None where nothing is said of it: it may be asked, then.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<bool>,
    breaker: Breaker,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "milliseconds")]
    rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "milliseconds")]
    predicted_latency_ms: Option<f64>,
    in_flight: usize,
}

/// What a circuit breaker says, by its name in rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Breaker {
    #[default]
    Closed,
    Open,
    HalfOpen,
}

impl Default for SeenHere {
    fn default() -> Self {
        Self {
            loaded: true,
            placed: true,
            queue_depth: 0,
            in_flight: 0,
            shortest_run_ms: None,
            longest_run_ms: None,
            predicted_latency_ms: None,
            answers: 0,
        }
    }
}

impl Default for SeenTier {
    fn default() -> Self {
        Self {
            available: None,
            breaker: Breaker::Closed,
            rtt_ms: None,
            predicted_latency_ms: None,
            in_flight: 0,
        }
    }
}

impl From<&Snapshot> for Seen {
    fn from(snapshot: &Snapshot) -> Self {
        let local = &snapshot.local;
        let device = SeenHere {
            loaded: snapshot.node.model == LocalModel::Serving,
            placed: snapshot.node.model != LocalModel::NotPlaced,
            queue_depth: local.queued,
            in_flight: local.in_flight,
            shortest_run_ms: local.shortest_run.map(millis),
            longest_run_ms: local.longest_run.map(millis),
            predicted_latency_ms: local.predicted.map(millis),
            answers: local.answers,
        };
        Self { device, edge: (&snapshot.edge).into(), cloud: (&snapshot.cloud).into() }
    }
}

impl From<&RemoteState> for SeenTier {
    fn from(state: &RemoteState) -> Self {
        Self {
            available: Some(state.available),
            breaker: match state.breaker {
                BreakerState::Closed => Breaker::Closed,
                BreakerState::Open => Breaker::Open,
                BreakerState::HalfOpen => Breaker::HalfOpen,
            },
            rtt_ms: state.rtt.map(millis),
            predicted_latency_ms: state.predicted_p90.map(millis),
            in_flight: state.in_flight,
        }
    }
}

impl Seen {
    /// The same for decisions of a node of this tier.
    pub fn snapshot(&self, tier: Tier) -> Snapshot {
        let here = &self.device;
        let model = match (here.placed, here.loaded) {
            (false, _) => LocalModel::NotPlaced,
            (true, false) => LocalModel::NotLoaded,
            (true, true) => LocalModel::Serving,
        };
        let mut snapshot = Snapshot::of(Node { tier, model });
        snapshot.local = LocalState {
            queued: here.queue_depth,
            in_flight: here.in_flight,
            shortest_run: duration(here.shortest_run_ms),
            longest_run: duration(here.longest_run_ms),
            predicted: duration(here.predicted_latency_ms),
            answers: here.answers,
        };
        snapshot.edge = self.edge.state();
        snapshot.cloud = self.cloud.state();
        snapshot
    }

    /// How long an answer of `tier` would take, to a node of tier `here`, as far as the node knew.
    pub const fn predicted_ms(&self, tier: Tier, here: Tier) -> Option<f64> {
        match tier {
            tier if tier as usize == here as usize => self.device.predicted_latency_ms,
            Tier::Device => None,
            Tier::Edge => self.edge.predicted_latency_ms,
            Tier::Cloud => self.cloud.predicted_latency_ms,
        }
    }
}

impl SeenTier {
    /// The node knew a way there: of what it knows none to, it knows nothing else either.
    pub fn is_reached(&self) -> bool {
        let Self { available, breaker, rtt_ms, predicted_latency_ms, in_flight } = *self;
        available == Some(true)
            || breaker != Breaker::Closed
            || rtt_ms.or(predicted_latency_ms).is_some()
            || in_flight > 0
    }

    fn state(&self) -> RemoteState {
        RemoteState {
            available: self.available.unwrap_or(true),
            breaker: match self.breaker {
                Breaker::Closed => BreakerState::Closed,
                Breaker::Open => BreakerState::Open,
                Breaker::HalfOpen => BreakerState::HalfOpen,
            },
            predicted_p90: duration(self.predicted_latency_ms),
            rtt: duration(self.rtt_ms),
            in_flight: self.in_flight,
        }
    }
}

/// A time that something took, where it is known.
fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(time) if !(time.is_finite() && time >= 0.0) => {
            Err(D::Error::custom("must be a number of milliseconds, 0 or more"))
        }
        time => Ok(time),
    }
}

fn duration(milliseconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(milliseconds? / 1e3).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_as_text() {
        let mut snapshot = Snapshot::of(Node { tier: Tier::Edge, model: LocalModel::NotLoaded });
        snapshot.local.queued = 3;
        snapshot.local.answers = 17;
        snapshot.local.longest_run = Some(Duration::from_micros(1_500));
        snapshot.cloud = RemoteState {
            available: false,
            breaker: BreakerState::HalfOpen,
            predicted_p90: Some(Duration::from_millis(80)),
            rtt: Some(Duration::from_micros(2_250)),
            in_flight: 4,
        };
        let text = serde_json::to_string(&Seen::from(&snapshot)).unwrap();
        assert!(text.contains(r#""breaker":"half-open""#), "{text}");
        let seen: Seen = serde_json::from_str(&text).unwrap();
        assert_eq!(seen.snapshot(Tier::Edge), snapshot);
    }

    #[test]
    fn what_is_left_out_is_as_on_a_node_that_has_seen_nothing() {
        let seen: Seen = serde_json::from_str(r#"{"edge": {"rttMs": 4}}"#).unwrap();
        let mut expected = Snapshot::of(Node { tier: Tier::Device, model: LocalModel::Serving });
        expected.edge.rtt = Some(Duration::from_millis(4));
        assert_eq!(seen.snapshot(Tier::Device), expected);
        assert!(serde_json::from_str::<Seen>(r#"{"edge": {"rtt": 4}}"#).is_err());
    }
}
