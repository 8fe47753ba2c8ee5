//! What this node reports: the status of its InferenceNode, kept up to date by whoever changes something.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use terrace_crds::InferenceNodeStatus;
use terrace_crds::node::{AgentStatus, ModelError, ModelPhase, NodeModelStatus};
use tokio::sync::watch;

use crate::registry::ModelKey;

/// Everything asked for is served.
pub const READY: &str = "Ready";
/// Every manifest of a standalone agent's folder is accepted.
pub const MANIFESTS_ACCEPTED: &str = "ManifestsAccepted";
/// Every policy that a standalone agent's models name is in its folder.
pub const POLICIES_FOUND: &str = "PoliciesFound";
/// What the node must know to serve again is on its disk.
pub const JOURNAL_WRITTEN: &str = "JournalWritten";
/// The cluster tells this agent what to serve. Known on the node alone: an agent that is cut off cannot report it.
pub const CONNECTED: &str = "Connected";

/// The status, shared. Readers are woken only when it changes.
#[derive(Debug)]
pub struct Board(watch::Sender<Contents>);

#[derive(Clone, Debug, Default)]
struct Contents {
    /// Whether a spec was read at all, from the journal or from its source.
    has_spec: bool,
    /// The generation of the InferenceNode whose spec is followed.
    generation: Option<i64>,
    /// The node was ready for traffic once. From then on a model that is new to it takes its time.
    was_ready: bool,
    agent: Option<AgentStatus>,
    models: BTreeMap<ModelKey, NodeModelStatus>,
    conditions: BTreeMap<&'static str, Condition>,
}

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: bool,
    /// Why, as one word.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

impl Board {
    /// A board of an agent that has read nothing yet.
    pub fn new(agent: AgentStatus) -> Self {
        Self(watch::Sender::new(Contents { agent: Some(agent), ..Contents::default() }))
    }

    /// Says that there is a spec; until then the node is not ready.
    pub fn spec_read(&self) {
        self.change(|contents| contents.has_spec = true);
    }

    /// Says that every model of a spec is under way.
    pub fn spec_followed(&self, generation: Option<i64>) {
        self.change(|contents| {
            contents.has_spec = true;
            contents.generation = generation;
        });
    }

    /// Wakes whoever waits for a change.
    pub fn changes(&self) -> impl Future<Output = ()> + use<> {
        let mut contents = self.0.subscribe();
        async move {
            // The board outlives whoever reads it.
            let _ = contents.changed().await;
        }
    }

    /// Changes what is said of one model.
    pub fn model(&self, key: &ModelKey, edit: impl FnOnce(&mut NodeModelStatus)) {
        self.change(|contents| {
            let model = contents.models.entry(key.clone()).or_insert_with(|| NodeModelStatus {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                phase: ModelPhase::Pending,
                desired_revision: None,
                serving_revision: None,
                serving_sha256: None,
                execution_provider: None,
                execution: None,
                error: None,
            });
            edit(model);
        });
    }

    /// Why the desired revision of a model does not serve.
    pub fn error(&self, key: &ModelKey) -> Option<ModelError> {
        self.0.borrow().models.get(key).and_then(|model| model.error.clone())
    }

    /// Says nothing of a model any more.
    pub fn forget(&self, key: &ModelKey) {
        self.change(|contents| {
            contents.models.remove(key);
        });
    }

    /// States a condition. Its time moves only when it turns.
    pub fn condition(&self, kind: &'static str, verdict: Verdict) {
        self.change(|contents| contents.state(kind, verdict));
    }

    /// The status as it stands.
    pub fn status(&self) -> InferenceNodeStatus {
        let contents = self.0.borrow();
        InferenceNodeStatus {
            observed_generation: contents.generation,
            conditions: contents.conditions.values().cloned().collect(),
            agent: contents.agent.clone(),
            models: contents.models.values().cloned().collect(),
        }
    }

    /// Why the node is not ready for traffic; `None` once each model that it should serve answered, or was known to be
    /// unable to: from then on a model that is new to it, or tried again, takes nothing from the others. Depends on
    /// nothing outside the node.
    pub fn unready(&self) -> Option<String> {
        let contents = self.0.borrow();
        if contents.was_ready {
            return None;
        }
        unready(&contents)
    }

    fn change(&self, edit: impl FnOnce(&mut Contents)) {
        self.0.send_modify(|contents| {
            edit(contents);
            contents.was_ready |= unready(contents).is_none();
            let verdict = ready(contents);
            contents.state(READY, verdict);
        });
    }
}

/// Why a node that has just begun is not ready for traffic.
fn unready(contents: &Contents) -> Option<String> {
    if !contents.has_spec {
        return Some("nothing has said yet what this node should serve".to_owned());
    }
    let loading = names(contents, |model| {
        model.serving_revision.is_none()
            && !matches!(model.phase, ModelPhase::Serving | ModelPhase::Failed | ModelPhase::NotPlaced)
    });
    (!loading.is_empty()).then(|| format!("still loading {loading}"))
}

impl Contents {
    fn state(&mut self, kind: &'static str, verdict: Verdict) {
        let status = if verdict.holds { "True" } else { "False" };
        let since = self
            .conditions
            .get(kind)
            .filter(|condition| condition.status == status)
            .map_or_else(|| Time(Timestamp::now()), |condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
            last_transition_time: since,
            observed_generation: None,
        };
        self.conditions.insert(kind, condition);
    }
}

/// Whether everything asked for is served.
fn ready(contents: &Contents) -> Verdict {
    let failed = names(contents, |model| model.phase == ModelPhase::Failed);
    let moving = names(contents, |model| {
        !matches!(model.phase, ModelPhase::Serving | ModelPhase::NotPlaced | ModelPhase::Failed)
    });
    if !contents.has_spec {
        Verdict {
            holds: false,
            reason: "NoSpec",
            message: "nothing has said yet what this node should serve".to_owned(),
        }
    } else if !failed.is_empty() {
        Verdict {
            holds: false,
            reason: "ModelFailed",
            message: format!("cannot serve the desired revision of {failed}"),
        }
    } else if !moving.is_empty() {
        Verdict { holds: false, reason: "Progressing", message: format!("on the way: {moving}") }
    } else {
        Verdict { holds: true, reason: "AllServing", message: format!("{} models", contents.models.len()) }
    }
}

fn names(contents: &Contents, matches: impl Fn(&NodeModelStatus) -> bool) -> String {
    let names: Vec<String> =
        contents.models.iter().filter(|(_, model)| matches(model)).map(|(key, _)| key.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(AgentStatus {
            version: "0".to_owned(),
            runtime: "none".to_owned(),
            execution_providers: Vec::new(),
        })
    }

    fn key() -> ModelKey {
        ModelKey::from_url("digits", "default")
    }

    fn condition(board: &Board, kind: &str) -> Condition {
        board.status().conditions.into_iter().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn a_node_without_a_spec_is_not_ready() {
        let board = board();
        assert!(board.unready().unwrap().contains("nothing has said"));
        board.spec_read();
        assert_eq!(board.unready(), None);
    }

    #[test]
    fn a_node_is_ready_for_traffic_while_an_update_loads_and_when_one_failed() {
        let board = board();
        board.model(&key(), |model| model.phase = ModelPhase::Loading);
        board.spec_read();
        assert_eq!(board.unready().unwrap(), "still loading default.digits");
        board.model(&key(), |model| model.serving_revision = Some("r1".to_owned()));
        assert_eq!(board.unready(), None);
        assert_eq!(condition(&board, READY).reason, "Progressing");
        board.model(&key(), |model| model.phase = ModelPhase::Failed);
        assert_eq!(board.unready(), None);
        assert_eq!(condition(&board, READY).reason, "ModelFailed");
        let new = ModelKey::from_url("letters", "default");
        board.model(&new, |model| model.phase = ModelPhase::Fetching);
        assert_eq!(board.unready(), None, "what is new takes nothing from what serves");
    }

    #[test]
    fn the_time_of_a_condition_moves_only_when_it_turns() {
        let board = board();
        let refused =
            |message: &str| Verdict { holds: false, reason: "Refused", message: message.to_owned() };
        board.condition(MANIFESTS_ACCEPTED, refused("one"));
        let first = condition(&board, MANIFESTS_ACCEPTED);
        board.condition(MANIFESTS_ACCEPTED, refused("two"));
        let second = condition(&board, MANIFESTS_ACCEPTED);
        assert_eq!(first.last_transition_time, second.last_transition_time);
        assert_eq!(second.message, "two");
    }
}
