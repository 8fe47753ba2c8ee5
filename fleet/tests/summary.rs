//! What a model's status says, by what its nodes report.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::collections::BTreeMap;

use serde_json::json;
use terrace_crds::Tier;
use terrace_crds::node::{ModelError, ModelPhase, NodeModelStatus};
use terrace_fleet::{ModelPlan, NodeFacts, ObservedNode, Obstacle, Summary, summarize};

const NEW: &str = "imodel-digits-new";
const OLD: &str = "imodel-digits-old";

fn plan() -> ModelPlan {
    let model = json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": {"namespace": "default", "name": "digits"},
        "spec": {
            "source": {"uri": "https://models.example/d.onnx", "sha256": "a".repeat(64)},
            "placement": {"nodeSelector": {"arch": "arm64"}},
        },
    });
    ModelPlan::parse(&serde_json::from_value(model).unwrap()).unwrap()
}

fn facts(tier: Tier, arch: &str) -> NodeFacts {
    NodeFacts { tier, labels: BTreeMap::from([("arch".to_owned(), arch.to_owned())]) }
}

fn reports(phase: ModelPhase, serving: Option<&str>) -> NodeModelStatus {
    let error = (phase == ModelPhase::Failed).then(|| ModelError {
        reason: "DigestMismatch".to_owned(),
        message: "the file is another one".to_owned(),
    });
    NodeModelStatus {
        namespace: "default".to_owned(),
        name: "digits".to_owned(),
        phase,
        desired_revision: Some(NEW.to_owned()),
        serving_revision: serving.map(str::to_owned),
        serving_sha256: None,
        execution_provider: None,
        execution: None,
        error,
    }
}

/// Nodes by what they say: `None` says nothing, offline ones come last.
fn summary(online: &[Option<NodeModelStatus>], offline: usize, obstacle: Option<&Obstacle>) -> Summary {
    let facts = facts(Tier::Device, "arm64");
    let names: Vec<String> = (0..online.len() + offline).map(|node| format!("node-{node}")).collect();
    let nodes: Vec<ObservedNode<'_>> = names
        .iter()
        .enumerate()
        .map(|(position, name)| ObservedNode {
            name,
            facts: &facts,
            online: position < online.len(),
            told: online.get(position).map(|_| NEW),
            reported: online.get(position).and_then(Option::as_ref),
        })
        .collect();
    summarize(&plan(), Some(NEW), obstacle, &nodes)
}

fn reasons(summary: &Summary) -> [(bool, &str); 3] {
    [&summary.ready, &summary.reconciling, &summary.stalled].map(|verdict| (verdict.holds, &*verdict.reason))
}

#[test]
fn a_model_is_ready_when_every_node_that_is_online_serves_the_revision() {
    let serves = Some(reports(ModelPhase::Serving, Some(NEW)));
    let all = summary(&[serves.clone(), serves.clone(), serves], 1, None);
    assert_eq!(all.ready_text, "3/3 (+1 offline)");
    assert_eq!(reasons(&all), [(true, "AllReady"), (false, "AllReady"), (false, "AllReady")]);
    assert!(all.ready.message.contains("all 3 nodes; 1 more are offline"), "{}", all.ready.message);
    let counts = all.counts;
    assert_eq!(
        (counts.desired, counts.updated, counts.ready, counts.failed, counts.offline),
        (3, 3, 3, 0, 1)
    );
}

#[test]
fn a_node_that_serves_something_else_or_says_nothing_is_waited_for() {
    let mut stale = reports(ModelPhase::Serving, Some(NEW));
    stale.desired_revision = Some(OLD.to_owned());
    for report in [
        None,
        Some(reports(ModelPhase::Serving, Some(OLD))),
        Some(reports(ModelPhase::Fetching, Some(OLD))),
        Some(stale),
    ] {
        let one = summary(&[Some(reports(ModelPhase::Serving, Some(NEW))), report], 0, None);
        assert_eq!(one.ready_text, "1/2");
        assert_eq!(reasons(&one), [(false, "Progressing"), (true, "Progressing"), (false, "Progressing")]);
        assert!(one.ready.message.contains("node-1 ("), "{}", one.ready.message);
    }
}

#[test]
fn a_node_that_failed_is_named_with_its_reason_and_stalls_the_model() {
    let failed = Some(reports(ModelPhase::Failed, Some(OLD)));
    let serves = Some(reports(ModelPhase::Serving, Some(NEW)));
    let one = summary(&[serves.clone(), failed.clone()], 0, None);
    assert_eq!(
        reasons(&one),
        [(false, "DigestMismatch"), (false, "DigestMismatch"), (true, "DigestMismatch")]
    );
    assert!(
        one.stalled.message.contains("1 of 2 nodes cannot serve imodel-digits-new"),
        "{}",
        one.stalled.message
    );
    assert!(one.stalled.message.contains("node-1: DigestMismatch: the file is another one"));
    let many =
        summary(&[failed.clone(), failed.clone(), failed.clone(), failed.clone(), failed, None], 0, None);
    assert!(many.stalled.message.contains("and 2 more"), "{}", many.stalled.message);
    assert_eq!((many.reconciling.holds, many.counts.failed), (true, 5));
}

#[test]
fn without_an_eligible_node_the_counts_of_why_are_told() {
    let (edge, amd) = (facts(Tier::Edge, "arm64"), facts(Tier::Device, "amd64"));
    let node = |name, facts| ObservedNode { name, facts, online: true, told: None, reported: None };
    let none = summarize(&plan(), Some(NEW), None, &[node("a", &edge), node("b", &amd), node("c", &amd)]);
    assert_eq!(reasons(&none)[2], (true, "NoEligibleNode"));
    let message = &none.ready.message;
    assert!(
        message.contains("2 × NodeSelectorMismatch (the model needs a node with arch=arm64"),
        "{message}"
    );
    assert!(message.contains("1 × TierMismatch"), "{message}");
    let nobody = summarize(&plan(), Some(NEW), None, &[]);
    assert!(nobody.ready.message.contains("no node runs an agent"));
    assert_eq!(nobody.ready_text, "0/0");
}

#[test]
fn an_obstacle_is_told_and_what_serves_is_still_counted() {
    let obstacle = Obstacle { reason: "PolicyNotFound", message: "there is no policy".to_owned() };
    let held = summary(&[Some(reports(ModelPhase::Serving, Some(NEW)))], 0, Some(&obstacle));
    assert_eq!(
        reasons(&held),
        [(false, "PolicyNotFound"), (false, "PolicyNotFound"), (true, "PolicyNotFound")]
    );
    assert_eq!(held.ready_text, "1/1");
}

#[test]
fn a_model_whose_nodes_are_all_offline_waits_for_them() {
    let away = summary(&[], 2, None);
    assert_eq!(reasons(&away), [(false, "NodesOffline"), (true, "NodesOffline"), (false, "NodesOffline")]);
    assert_eq!(away.ready_text, "0/0 (+2 offline)");
}
