//! How a model fares on all nodes: from what each node reports to the conditions of its status.

use std::collections::BTreeMap;

use terrace_crds::model::NodeCounts;
use terrace_crds::node::{ModelPhase, NodeModelStatus};

use crate::fit::NODE_SPEC_TOO_LARGE;
use crate::model::ModelPlan;
use crate::node::{NodeFacts, not_placed};

/// How many nodes a message names.
const NAMED: usize = 3;
/// How much of a node's own words a message repeats.
const MAX_ERROR_CHARS: usize = 512;

/// One node with an agent, as far as it matters for one model.
#[derive(Clone, Copy, Debug)]
pub struct ObservedNode<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its tier and labels.
    pub facts: &'a NodeFacts,
    /// Whether it is Ready in Kubernetes.
    pub online: bool,
    /// The revision of the model that its spec asks for, where it is to serve it.
    pub told: Option<&'a str>,
    /// What its agent says of the model.
    pub reported: Option<&'a NodeModelStatus>,
}

/// What stands in a model's way before any node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Why, as one CamelCase word.
    pub reason: &'static str,
    /// Why, for a person, with what to do about it.
    pub message: String,
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: bool,
    /// Why, as one CamelCase word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}

/// A model's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Eligible nodes, counted.
    pub counts: NodeCounts,
    /// `3/3 (+1 offline)`
    pub ready_text: String,
    /// Every eligible node that is online serves the revision.
    pub ready: Verdict,
    /// Nodes are on their way to it.
    pub reconciling: Verdict,
    /// Somebody must do something.
    pub stalled: Verdict,
}

/// How `plan` fares on `nodes`, which are to serve `revision` (none: it is not known yet).
///
/// An obstacle does not stop the count: what served goes on serving.
pub fn summarize(
    plan: &ModelPlan,
    revision: Option<&str>,
    obstacle: Option<&Obstacle>,
    nodes: &[ObservedNode<'_>],
) -> Summary {
    let eligible: Vec<ObservedNode<'_>> =
        nodes.iter().copied().filter(|node| not_placed(plan, node.facts).is_none()).collect();
    let (online, offline): (Vec<_>, Vec<_>) = eligible.iter().copied().partition(|node| node.online);
    let stands = |node: &ObservedNode<'_>| Standing::of(node, revision);
    let ready = online.iter().filter(|node| stands(node) == Standing::Ready).count();
    let failed: Vec<_> = online.iter().copied().filter(|node| stands(node) == Standing::Failed).collect();
    let waiting: Vec<_> = online.iter().copied().filter(|node| stands(node) == Standing::Waiting).collect();
    let counts = NodeCounts {
        desired: count(online.len()),
        updated: count(online.iter().filter(|node| revision.is_some() && node.told == revision).count()),
        ready: count(ready),
        failed: count(failed.len()),
        offline: count(offline.len()),
    };
    let ready_text = match offline.len() {
        0 => format!("{ready}/{}", online.len()),
        offline => format!("{ready}/{} (+{offline} offline)", online.len()),
    };
    let [ready, reconciling, stalled] = match (obstacle, revision) {
        (Some(obstacle), _) => held_up(obstacle.reason, &obstacle.message),
        (None, None) => on_the_way("Resolving", "the digest of the source is being read".to_owned()),
        (None, Some(_)) if eligible.is_empty() => held_up("NoEligibleNode", &why_none(plan, nodes)),
        (None, Some(_)) if online.is_empty() => on_the_way(
            "NodesOffline",
            format!("every node that should serve it is offline: {}", names(&offline)),
        ),
        (None, Some(revision)) if ready == online.len() => all_ready(revision, ready, offline.len()),
        (None, Some(revision)) if failed.is_empty() => on_the_way(
            "Progressing",
            format!("{ready} of {} nodes serve {revision}; waiting for {}", online.len(), phases(&waiting)),
        ),
        (None, Some(revision)) => some_failed(revision, online.len(), &failed, &waiting),
    };
    Summary { counts, ready_text, ready, reconciling, stalled }
}

/// Where a node stands with a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    Failed,
    Waiting,
}

impl Standing {
    fn of(node: &ObservedNode<'_>, revision: Option<&str>) -> Self {
        let (Some(revision), Some(reported)) = (revision, node.reported) else { return Self::Waiting };
        if reported.desired_revision.as_deref() != Some(revision) {
            return Self::Waiting;
        }
        match reported.phase {
            ModelPhase::Serving if reported.serving_revision.as_deref() == Some(revision) => Self::Ready,
            ModelPhase::Failed => Self::Failed,
            ModelPhase::NotPlaced if error(node).0 == NODE_SPEC_TOO_LARGE => Self::Failed,
            _ => Self::Waiting,
        }
    }
}

fn verdict(holds: bool, reason: &str, message: impl Into<String>) -> Verdict {
    Verdict { holds, reason: reason.to_owned(), message: message.into() }
}

fn held_up(reason: &str, message: &str) -> [Verdict; 3] {
    [verdict(false, reason, message), verdict(false, reason, message), verdict(true, reason, message)]
}

fn on_the_way(reason: &str, message: String) -> [Verdict; 3] {
    [
        verdict(false, reason, message.clone()),
        verdict(true, reason, message),
        verdict(false, reason, "nothing stands in the way"),
    ]
}

fn all_ready(revision: &str, ready: usize, offline: usize) -> [Verdict; 3] {
    let nodes = if ready == 1 { "the one node".to_owned() } else { format!("all {ready} nodes") };
    let message = match offline {
        0 => format!("{revision} serves on {nodes}"),
        _ => {
            format!("{revision} serves on {nodes}; {offline} more are offline, and catch up when they return")
        }
    };
    [
        verdict(true, "AllReady", message),
        verdict(false, "AllReady", "nothing is under way"),
        verdict(false, "AllReady", "nothing stands in the way"),
    ]
}

fn some_failed(
    revision: &str,
    online: usize,
    failed: &[ObservedNode<'_>],
    waiting: &[ObservedNode<'_>],
) -> [Verdict; 3] {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for node in failed {
        *reasons.entry(error(node).0).or_insert(0) += 1;
    }
    let reason = reasons.iter().max_by_key(|(_, count)| **count).map_or("Failed", |(reason, _)| reason);
    let told: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|node| {
            let (reason, message) = error(node);
            format!("{}: {reason}: {}", node.name, message.chars().take(MAX_ERROR_CHARS).collect::<String>())
        })
        .collect();
    let more = more(failed.len());
    let message = format!(
        "{} of {online} nodes cannot serve {revision}, and what served there goes on: {}{more}",
        failed.len(),
        told.join("; ")
    );
    let reconciling = if waiting.is_empty() {
        verdict(false, reason, "no other node is on its way")
    } else {
        verdict(true, "Progressing", format!("waiting for {}", phases(waiting)))
    };
    [verdict(false, reason, message.clone()), reconciling, verdict(true, reason, message)]
}

fn error<'a>(node: &ObservedNode<'a>) -> (&'a str, &'a str) {
    let error = node.reported.and_then(|reported| reported.error.as_ref());
    error.map_or(("Failed", "its agent does not say why"), |error| (&error.reason, &error.message))
}

/// Why no node is eligible, counted: `2 of 5 nodes with an agent: TierMismatch …`.
fn why_none(plan: &ModelPlan, nodes: &[ObservedNode<'_>]) -> String {
    if nodes.is_empty() {
        return "no node runs an agent: is the DaemonSet installed, and does it tolerate the nodes' taints?"
            .to_owned();
    }
    let mut whys: BTreeMap<(String, String), usize> = BTreeMap::new();
    for why in nodes.iter().filter_map(|node| not_placed(plan, node.facts)) {
        *whys.entry((why.reason, why.message)).or_insert(0) += 1;
    }
    let mut whys: Vec<_> = whys.into_iter().collect();
    whys.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let told: Vec<String> = whys
        .iter()
        .take(NAMED)
        .map(|((reason, message), count)| format!("{count} × {reason} ({message})"))
        .collect();
    let more = more(whys.len());
    format!(
        "none of {} nodes with an agent is eligible: {}{more}; change spec.placement or the nodes' labels",
        nodes.len(),
        told.join(", ")
    )
}

/// `node-a (Fetching), node-b (not told yet) and 4 more`
fn phases(nodes: &[ObservedNode<'_>]) -> String {
    let told: Vec<String> = nodes
        .iter()
        .take(NAMED)
        .map(|node| {
            let phase = node
                .reported
                .map_or_else(|| "no report".to_owned(), |reported| format!("{:?}", reported.phase));
            format!("{} ({phase})", node.name)
        })
        .collect();
    told.join(", ") + &more(nodes.len())
}

fn names(nodes: &[ObservedNode<'_>]) -> String {
    let told: Vec<&str> = nodes.iter().take(NAMED).map(|node| node.name).collect();
    told.join(", ") + &more(nodes.len())
}

fn more(all: usize) -> String {
    match all.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

fn count(nodes: usize) -> u32 {
    u32::try_from(nodes).unwrap_or(u32::MAX)
}
