//! What a node is told: by tables, and by properties over arbitrary fleets.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests fail like tests

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use terrace_crds::node::NodeModel;
use terrace_crds::{InferenceModel, InferenceNodeSpec, Tier, TierPolicySpec};
use terrace_fleet::{
    Desired, ModelPlan, NamedPolicy, NodeFacts, NoteReason, Sha256, WantedModel, desired, hold, policy_hash,
};
use terrace_tiering::Policy;

const ONE: Sha256 = Sha256::from_bytes([1; 32]);
const TWO: Sha256 = Sha256::from_bytes([2; 32]);

fn plan(name: &str, spec: Value) -> ModelPlan {
    let mut model = json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel",
        "metadata": {"namespace": "default", "name": name}
    });
    model["spec"] = spec;
    let model: InferenceModel = serde_json::from_value(model).unwrap();
    ModelPlan::parse(&model).unwrap()
}

/// A spec of one pinned file, and `more`.
fn pinned(more: Value) -> Value {
    merged(json!({"source": {"uri": "file:///m.onnx", "sha256": ONE}}), more)
}

/// A spec of one published file, and `more`.
fn published(more: Value) -> Value {
    merged(json!({"source": {"uri": "file:///m.onnx", "sha256From": "file:///sums"}}), more)
}

fn merged(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    base.as_object_mut().unwrap().extend(more);
    base
}

fn policy(spec: Value) -> Policy {
    Policy::parse(&serde_json::from_value::<TierPolicySpec>(spec).unwrap()).unwrap()
}

fn named<'a>(name: &'a str, policy: &'a Policy) -> NamedPolicy<'a> {
    NamedPolicy { namespace: "default", name, policy }
}

fn wanted(plan: &ModelPlan, published: Option<Sha256>) -> WantedModel<'_> {
    WantedModel { plan, published }
}

/// What a device without labels is told of one model.
fn told(
    plan: &ModelPlan,
    published: Option<Sha256>,
    policies: &[NamedPolicy<'_>],
    previous: Option<&InferenceNodeSpec>,
) -> Desired {
    desired(&[wanted(plan, published)], policies, &NodeFacts::default(), previous)
}

fn only(desired: &Desired) -> &NodeModel {
    let [entry] = desired.spec.models.as_slice() else { panic!("one entry: {desired:?}") };
    entry
}

fn sha256(entry: &NodeModel) -> Option<String> {
    entry.artifact.as_ref().map(|artifact| artifact.sha256.clone())
}

#[test]
fn a_model_that_belongs_here_has_its_artifact() {
    let plan = plan("digits", pinned(json!({"upstreams": {"edge": {"model": "digits-large"}}})));
    let told = told(&plan, None, &[], None);
    let entry = only(&told);
    assert_eq!((entry.namespace.as_str(), entry.name.as_str()), ("default", "digits"));
    assert_eq!(entry.artifact.as_ref().unwrap().uri, "file:///m.onnx");
    assert_eq!(sha256(entry), Some(ONE.to_string()));
    assert_eq!((entry.runtime.threads, entry.runtime.instances), (Some(1), Some(1)));
    assert_eq!(entry.upstreams.edge.as_ref().unwrap().model, "digits-large");
    assert_eq!((&entry.not_placed, &entry.policy), (&None, &None));
    assert!(told.waiting.is_empty() && told.warnings.is_empty());
}

#[test]
fn a_model_of_another_tier_or_another_kind_of_node_has_a_reason_and_no_artifact() {
    let placed = |placement: Value| plan("m", pinned(json!({"placement": placement})));
    let node = |tier, labels: &[(&str, &str)]| NodeFacts {
        tier,
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let gpu = json!({"nodeSelector": {"gpu": "yes", "site": "a"}});
    for (placement, node, reason, message) in [
        (json!({}), node(Tier::Device, &[]), "", ""),
        (
            json!({}),
            node(Tier::Edge, &[]),
            "TierMismatch",
            "placed on the device tier, and this node is edge",
        ),
        (json!({"tier": "Cloud"}), node(Tier::Device, &[]), "TierMismatch", "on the cloud tier"),
        (json!({"tier": "Edge"}), node(Tier::Edge, &[]), "", ""),
        (gpu.clone(), node(Tier::Device, &[("gpu", "yes"), ("site", "a"), ("x", "y")]), "", ""),
        (
            gpu.clone(),
            node(Tier::Device, &[("gpu", "yes")]),
            "NodeSelectorMismatch",
            "with site=a, and this node has no such label",
        ),
        (
            gpu.clone(),
            node(Tier::Device, &[("gpu", "no"), ("site", "a")]),
            "NodeSelectorMismatch",
            "has gpu=no",
        ),
        (gpu, node(Tier::Edge, &[]), "TierMismatch", ""),
    ] {
        let plan = placed(placement);
        let told = desired(&[wanted(&plan, None)], &[], &node, None);
        let entry = only(&told);
        let (told_reason, told_message) =
            entry.not_placed.as_ref().map_or(("", ""), |why| (why.reason.as_str(), why.message.as_str()));
        assert_eq!(told_reason, reason);
        assert!(told_message.contains(message), "{told_message}");
        assert_eq!(entry.artifact.is_some(), reason.is_empty());
    }
}

#[test]
fn a_message_fits_the_schema_whatever_the_labels() {
    let long = "a".repeat(2000);
    let plan = plan("m", pinned(json!({"placement": {"nodeSelector": {long: "b"}}})));
    let told = told(&plan, None, &[], None);
    assert_eq!(only(&told).not_placed.as_ref().unwrap().message.len(), 1024);
}

#[test]
fn a_model_whose_digest_is_not_known_waits() {
    let plan = plan("m", published(json!({})));
    let waits = told(&plan, None, &[], None);
    assert_eq!(waits.spec, InferenceNodeSpec::default());
    let [note] = waits.waiting.as_slice() else { panic!("one note: {waits:?}") };
    assert_eq!((note.name.as_str(), note.reason), ("m", NoteReason::DigestUnknown));
    assert!(note.message.contains("cannot serve it"), "{}", note.message);

    let known = told(&plan, Some(TWO), &[], None);
    assert_eq!(sha256(only(&known)), Some(TWO.to_string()));
    assert!(known.waiting.is_empty());
}

#[test]
fn a_waiting_model_keeps_what_it_ran_and_nothing_else() {
    let open = policy(json!({"tiers": {"cloud": {"url": "https://cloud.example"}}}));
    let private = policy(json!({"defaults": {"privacyRequired": true}}));
    let old = plan("m", pinned(json!({"policyRef": {"name": "p"}, "runtime": {"threads": 2}})));
    let before = told(&old, None, &[named("p", &open)], None);

    let new = plan("m", published(json!({"policyRef": {"name": "p"}, "runtime": {"threads": 4}})));
    let waits = told(&new, None, &[named("p", &open)], Some(&before.spec));
    assert_eq!(waits.spec, before.spec, "the same revision goes on");
    assert_eq!(waits.waiting[0].reason, NoteReason::DigestUnknown);
    assert!(waits.waiting[0].message.contains("goes on"), "{}", waits.waiting[0].message);

    let tightened = told(&new, None, &[named("p", &private)], Some(&before.spec));
    let entry = only(&tightened);
    assert_eq!(sha256(entry), Some(ONE.to_string()));
    assert_eq!(entry.runtime.threads, Some(2));
    assert_eq!(entry.policy, Some(policy_hash(&private)));
    assert_ne!(entry.revision, only(&before).revision);

    let known = told(&new, Some(TWO), &[named("p", &open)], Some(&before.spec));
    assert_eq!((sha256(only(&known)), only(&known).runtime.threads), (Some(TWO.to_string()), Some(4)));
}

#[test]
fn another_models_artifact_is_never_kept() {
    let other = plan("other", pinned(json!({})));
    let before = told(&other, None, &[], None);
    let waits = told(&plan("m", published(json!({}))), None, &[], Some(&before.spec));
    assert!(waits.spec.models.is_empty());
    let elsewhere = plan("m", pinned(json!({"placement": {"tier": "Cloud"}})));
    let before = told(&elsewhere, None, &[], None);
    let waits = told(&plan("m", published(json!({}))), None, &[], Some(&before.spec));
    assert!(waits.spec.models.is_empty());
}

#[test]
fn callers_of_a_model_that_is_not_placed_here_need_no_digest() {
    let plan = plan("m", published(json!({"placement": {"tier": "Cloud"}})));
    let unknown = told(&plan, None, &[], None);
    assert!(only(&unknown).not_placed.is_some());
    assert!(unknown.waiting.is_empty());
}

#[test]
fn a_revision_has_one_name_on_every_node() {
    let plan = plan("m", published(json!({"placement": {"tier": "Cloud"}})));
    let on = |tier| {
        let node = NodeFacts { tier, ..NodeFacts::default() };
        only(&desired(&[wanted(&plan, Some(ONE))], &[], &node, None)).revision.clone()
    };
    assert_eq!(on(Tier::Device), on(Tier::Cloud));
}

#[test]
fn whom_a_model_allows_is_told_and_is_no_new_revision() {
    let (alone, shared) =
        (plan("m", pinned(json!({}))), plan("m", pinned(json!({"allowedNamespaces": ["b", "a"]}))));
    let (alone, shared) = (told(&alone, None, &[], None), told(&shared, None, &[], None));
    assert_eq!(only(&shared).allowed_namespaces, ["a", "b"]);
    assert_eq!(only(&shared).revision, only(&alone).revision);
    // Also where the node only forwards.
    let elsewhere = plan("m", pinned(json!({"placement": {"tier": "Cloud"}, "allowedNamespaces": ["a"]})));
    assert_eq!(only(&told(&elsewhere, None, &[], None)).allowed_namespaces, ["a"]);
}

#[test]
fn a_policy_stands_once_however_many_models_name_it() {
    let (one, same) = (policy(json!({})), policy(json!({"fallback": {"enabled": true}})));
    let models = ["a", "b", "c"].map(|name| {
        let reference = if name == "c" { "same" } else { "one" };
        plan(name, pinned(json!({"policyRef": {"name": reference}})))
    });
    let models: Vec<WantedModel<'_>> = models.iter().map(|plan| wanted(plan, None)).collect();
    let told = desired(&models, &[named("one", &one), named("same", &same)], &NodeFacts::default(), None);
    let hash = policy_hash(&one);
    assert_eq!(told.spec.policies.keys().collect::<Vec<_>>(), [&hash]);
    assert!(told.spec.models.iter().all(|entry| entry.policy.as_ref() == Some(&hash)));
    assert_eq!(Policy::parse(&told.spec.policies[&hash]).unwrap(), one);
}

#[test]
fn a_node_is_told_of_its_labels_that_rules_read_and_of_no_others() {
    let rules = json!([
        {"when": "node.labels['hall'] == '3' || has(node.labels.rack)", "tier": "Device"},
        {"when": "'absent' in node.labels", "tier": "Device"},
    ]);
    let reads = policy(json!({"rules": rules}));
    let model = plan("m", pinned(json!({"policyRef": {"name": "p"}})));
    let labels = [("hall", "3"), ("rack", "b"), ("other", "x")];
    let node = NodeFacts {
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..NodeFacts::default()
    };
    let told = desired(&[wanted(&model, None)], &[named("p", &reads)], &node, None).spec;
    let expected = [("hall", "3"), ("rack", "b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(told.labels, expected.into());

    // The model cannot be read any more; the policy that its node keeps still reads them.
    let mut held = InferenceNodeSpec::default();
    let moved = NodeFacts { labels: [("hall".to_owned(), "4".to_owned())].into(), ..NodeFacts::default() };
    hold(&mut held, &told, &moved, ("default", "m"));
    assert_eq!(held.labels, moved.labels);
    assert_eq!(held.models, told.models);
}

#[test]
fn a_policy_that_is_not_there_leaves_the_node_alone_with_its_requests() {
    let open = policy(json!({"tiers": {"cloud": {"url": "https://cloud.example"}}}));
    let model = plan("m", pinned(json!({"policyRef": {"name": "p"}})));
    let before = told(&model, None, &[named("p", &open)], None);
    assert!(only(&before).policy.is_some() && before.warnings.is_empty());
    let elsewhere = NamedPolicy { namespace: "other", name: "p", policy: &open };
    for policies in [&[][..], &[named("q", &open)], &[elsewhere]] {
        let told = told(&model, None, policies, Some(&before.spec));
        assert_eq!(only(&told).policy, None);
        assert!(told.spec.policies.is_empty());
        let [note] = told.warnings.as_slice() else { panic!("one note: {told:?}") };
        assert_eq!(note.reason, NoteReason::PolicyNotFound);
    }
}

#[test]
fn a_policy_that_goes_by_a_confidence_needs_a_model_that_has_one() {
    let sure = json!({"confidence": {"output": "p", "method": "Probability"}, "policyRef": {"name": "p"}});
    let unsure = json!({"policyRef": {"name": "p"}});
    let tiers = json!({"cloud": {"url": "https://cloud.example"}});
    for mode in [
        json!({"tiers": tiers, "mode": "Speculative", "speculative": {"verifier": "Cloud"}}),
        json!({"tiers": tiers, "mode": "Ensemble", "ensemble": {"members": ["Device", "Cloud"]}}),
    ] {
        let policy = policy(mode);
        let accepted = told(&plan("m", pinned(sure.clone())), None, &[named("p", &policy)], None);
        assert!(only(&accepted).policy.is_some() && accepted.warnings.is_empty());
        assert_eq!(only(&accepted).confidence.as_ref().unwrap().temperature, Some(1.0));
        let refused = told(&plan("m", pinned(unsure.clone())), None, &[named("p", &policy)], None);
        // Its agent sees that the one does without the other, and says so in its answers.
        assert!(only(&refused).policy.is_some() && only(&refused).confidence.is_none());
        let [note] = refused.warnings.as_slice() else { panic!("one note: {refused:?}") };
        assert_eq!(note.reason, NoteReason::ConfidenceMissing);
        assert!(note.message.contains("spec.confidence"), "{}", note.message);
    }
}

#[test]
fn a_confidence_comes_and_goes_with_the_artifact_that_it_tells_of() {
    let confident = |method: &str| json!({"confidence": {"output": "p", "method": method}});
    let before = told(&plan("m", pinned(confident("Softmax"))), None, &[], None);
    let waits = told(&plan("m", published(confident("Margin"))), None, &[], Some(&before.spec));
    assert_eq!(only(&waits).confidence, only(&before).confidence);
    let known = told(&plan("m", published(confident("Margin"))), Some(TWO), &[], Some(&waits.spec));
    assert_ne!(only(&known).confidence, only(&before).confidence);
}

#[test]
fn whatever_would_run_is_in_the_revisions_name_and_nothing_else() {
    let (slow, fast) = (policy(json!({})), policy(json!({"defaults": {"maxLatency": "50ms"}})));
    let name = |spec: Value, default: &Policy| {
        only(&told(&plan("m", spec), Some(ONE), &[named("p", default)], None)).revision.clone()
    };
    let cases = json!({"uri": "file:///c", "sha256": ONE});
    let different = [
        name(pinned(json!({})), &slow),
        name(json!({"source": {"uri": "file:///n.onnx", "sha256": ONE}}), &slow),
        name(json!({"source": {"uri": "file:///m.onnx", "sha256": TWO}}), &slow),
        name(pinned(json!({"runtime": {"threads": 2}})), &slow),
        name(pinned(json!({"runtime": {"instances": 2}})), &slow),
        name(pinned(json!({"verification": {"cases": cases}})), &slow),
        name(pinned(json!({"verification": {"cases": cases, "maxLatency": "5ms"}})), &slow),
        name(pinned(json!({"confidence": {"output": "p", "method": "Softmax"}})), &slow),
        name(pinned(json!({"confidence": {"output": "q", "method": "Softmax"}})), &slow),
        name(pinned(json!({"confidence": {"output": "p", "method": "Margin"}})), &slow),
        name(pinned(json!({"confidence": {"output": "p", "method": "Margin", "temperature": 2}})), &slow),
        name(pinned(json!({"upstreams": {"edge": {"model": "x"}}})), &slow),
        name(pinned(json!({"upstreams": {"cloud": {"model": "x"}}})), &slow),
        name(pinned(json!({"policyRef": {"name": "p"}})), &slow),
        name(pinned(json!({"policyRef": {"name": "p"}})), &fast),
    ];
    assert_eq!(BTreeSet::from(different.clone()).len(), different.len(), "{different:#?}");
    for same in [
        pinned(json!({"runtime": {"threads": 1}})),
        pinned(json!({"verification": {}})),
        pinned(json!({"placement": {"tier": "Device", "nodeSelector": {}}})),
        published(json!({})),
    ] {
        assert_eq!(name(same, &slow), different[0]);
    }
}

/// Plans of a small fleet, and what their checksum files say.
fn fleet() -> impl Strategy<Value = Vec<(ModelPlan, Option<Sha256>)>> {
    let model = (any::<bool>(), prop::sample::select(vec!["Device", "Edge"]), 0..3, any::<bool>())
        .prop_map(|(published, tier, policy, known)| (published, tier, policy, known.then_some(TWO)));
    prop::collection::btree_map("[a-d]", model, 0..5).prop_map(|models: BTreeMap<_, _>| {
        let plans = models.into_iter().map(|(name, (is_published, tier, policy, known))| {
            let more = json!({"placement": {"tier": tier}, "policyRef": {"name": format!("p{policy}")}});
            (plan(&name, if is_published { published(more) } else { pinned(more) }), known)
        });
        plans.collect()
    })
}

proptest! {
    #[test]
    fn a_spec_is_sorted_complete_and_independent_of_order(fleet in fleet(), seed in any::<u64>()) {
        let policies = [policy(json!({})), policy(json!({"defaults": {"privacyRequired": true}}))];
        let policies = [named("p0", &policies[0]), named("p1", &policies[1])];
        let models: Vec<WantedModel<'_>> = fleet.iter().map(|(plan, known)| wanted(plan, *known)).collect();
        let told = desired(&models, &policies, &NodeFacts::default(), None);

        let names: Vec<&str> = told.spec.models.iter().map(|entry| entry.name.as_str()).collect();
        prop_assert!(names.is_sorted(), "{:?}", names);
        prop_assert_eq!(names.len() + told.waiting.len(), models.len());
        for entry in &told.spec.models {
            prop_assert!(entry.artifact.is_some() != entry.not_placed.is_some());
        }
        let used: BTreeSet<&String> = told.spec.models.iter().filter_map(|entry| entry.policy.as_ref()).collect();
        prop_assert_eq!(used, told.spec.policies.keys().collect::<BTreeSet<_>>());

        let mut shuffled = models.clone();
        shuffled.sort_by_key(|model| Sha256::of(format!("{seed}{}", model.plan.name()).as_bytes()));
        prop_assert_eq!(&desired(&shuffled, &policies, &NodeFacts::default(), None), &told);
        prop_assert_eq!(&desired(&models, &policies, &NodeFacts::default(), Some(&told.spec)), &told);
    }
}
