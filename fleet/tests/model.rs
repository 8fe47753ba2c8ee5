//! Which `InferenceModel`s are accepted, and what is said of the others.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::time::Duration;

use serde_json::{Value, json};
use terrace_crds::InferenceModel;
use terrace_fleet::{DigestSource, ModelPlan, Sha256};

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn pinned() -> Value {
    json!({
        "apiVersion": "terrace.dev/v1alpha1",
        "kind": "InferenceModel",
        "metadata": {"namespace": "default", "name": "digits"},
        "spec": {"source": {"uri": "file:///digits.onnx", "sha256": DIGEST}}
    })
}

/// A model like the pinned one, with `value` at `pointer`; its parents are made where they lack.
fn with(pointer: &str, value: Value) -> Value {
    let mut model = pinned();
    set(&mut model, pointer, value);
    model
}

fn set(model: &mut Value, pointer: &str, value: Value) {
    let mut place = model;
    for name in pointer.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = place.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
    }
    *place = value;
}

fn parse(model: Value) -> Result<ModelPlan, Vec<(String, String)>> {
    let model: InferenceModel = serde_json::from_value(model).unwrap();
    ModelPlan::parse(&model)
        .map_err(|faults| faults.into_iter().map(|fault| (fault.field, fault.message)).collect())
}

fn fields(model: Value) -> Vec<String> {
    parse(model).err().unwrap_or_default().into_iter().map(|(field, _)| field).collect()
}

fn published(interval: Value) -> Value {
    let mut model = with("spec.source.sha256", Value::Null);
    set(&mut model, "spec.source.sha256From", json!("https://models.example/SHA256SUMS"));
    set(&mut model, "spec.source.syncInterval", interval);
    model
}

#[test]
fn a_pinned_model_is_accepted() {
    let plan = parse(pinned()).unwrap();
    assert_eq!((plan.namespace(), plan.name(), plan.policy()), ("default", "digits", None));
    assert_eq!(plan.uri().to_string(), "file:///digits.onnx");
    assert_eq!(plan.digest(), &DigestSource::Pinned(Sha256::of(b"")));
}

#[test]
fn a_checksum_file_is_read_every_quarter_of_an_hour_unless_told_otherwise() {
    for (interval, expected) in [(Value::Null, 900), (json!("1s"), 1), (json!("1h30m"), 5400)] {
        let plan = parse(published(interval)).unwrap();
        let DigestSource::Published { from, interval } = plan.digest() else { panic!("a checksum file") };
        assert_eq!(from.to_string(), "https://models.example/SHA256SUMS");
        assert_eq!(*interval, Duration::from_secs(expected));
    }
}

#[test]
fn each_field_has_its_bounds() {
    let verified = |field: &str, value: Value| {
        let mut model =
            with("spec.verification.cases", json!({"uri": "file:///cases.json", "sha256": DIGEST}));
        set(&mut model, &format!("spec.verification.{field}"), value);
        model
    };
    let confident = |field: &str, value: Value| {
        let mut model = with("spec.confidence", json!({"output": "p", "method": "Softmax"}));
        set(&mut model, &format!("spec.confidence.{field}"), value);
        model
    };
    let labels = |count: u32| (0..count).map(|label| (format!("l{label}"), json!(""))).collect::<Value>();
    let allowed = "spec.allowedNamespaces";
    let namespaces = |count: u32| (0..count).map(|number| json!(format!("n{number}"))).collect::<Value>();
    let rows: Vec<(&str, Value, bool)> = vec![
        ("metadata.name", with("metadata.name", json!("a".repeat(63))), true),
        ("metadata.name", with("metadata.name", json!("a".repeat(64))), false),
        ("metadata.name", with("metadata.name", json!("7-a")), true),
        ("metadata.name", with("metadata.name", json!("-a")), false),
        ("metadata.name", with("metadata.name", json!("a-")), false),
        ("metadata.name", with("metadata.name", json!("a.b")), false),
        ("metadata.name", with("metadata.name", json!("A")), false),
        ("metadata.name", with("metadata.name", json!("é")), false),
        ("metadata.name", with("metadata.name", json!("")), false),
        ("metadata.name", with("metadata.name", Value::Null), false),
        ("metadata.namespace", with("metadata.namespace", Value::Null), false),
        ("metadata.namespace", with("metadata.namespace", json!("a/b")), false),
        ("spec.source.uri", with("spec.source.uri", json!("https://models.example/m.onnx")), true),
        ("spec.source.uri", with("spec.source.uri", json!("oci://registry/m")), false),
        ("spec.source.uri", with("spec.source.uri", json!("file:///../m")), false),
        ("spec.source.sha256", with("spec.source.sha256", json!(DIGEST.to_uppercase())), false),
        ("spec.source.sha256", with("spec.source.sha256", json!("latest")), false),
        ("spec.source", with("spec.source.sha256", Value::Null), false),
        ("spec.source", with("spec.source.sha256From", json!("file:///sums")), false),
        ("spec.source.syncInterval", with("spec.source.syncInterval", json!("5m")), false),
        ("spec.source.syncInterval", published(json!("999ms")), false),
        ("spec.placement.nodeSelector", with("spec.placement.nodeSelector", labels(32)), true),
        ("spec.placement.nodeSelector", with("spec.placement.nodeSelector", labels(33)), false),
        ("spec.upstreams.edge.model", with("spec.upstreams.edge.model", json!("vision.digits_v2-B")), true),
        ("spec.upstreams.edge.model", with("spec.upstreams.edge.model", json!("../admin")), false),
        ("spec.upstreams.cloud.model", with("spec.upstreams.cloud.model", json!("")), false),
        ("spec.upstreams.cloud.model", with("spec.upstreams.cloud.model", json!("a".repeat(253))), true),
        ("spec.upstreams.cloud.model", with("spec.upstreams.cloud.model", json!("a".repeat(254))), false),
        ("spec.runtime.threads", with("spec.runtime.threads", json!(256)), true),
        ("spec.runtime.threads", with("spec.runtime.threads", json!(257)), false),
        ("spec.runtime.threads", with("spec.runtime.threads", json!(0)), false),
        ("spec.runtime.instances", with("spec.runtime.instances", json!(64)), true),
        ("spec.runtime.instances", with("spec.runtime.instances", json!(65)), false),
        ("spec.verification.cases.uri", verified("cases.uri", json!("cases.json")), false),
        ("spec.verification.cases.sha256", verified("cases.sha256", json!("")), false),
        ("spec.verification.cases.tolerance", verified("cases.tolerance", json!(1.0)), true),
        ("spec.verification.cases.tolerance", verified("cases.tolerance", json!(0)), true),
        ("spec.verification.cases.tolerance", verified("cases.tolerance", json!(1.01)), false),
        ("spec.verification.cases.tolerance", verified("cases.tolerance", json!(-0.1)), false),
        ("spec.verification.maxLatency", verified("maxLatency", json!("5ms")), true),
        ("spec.verification.maxLatency", verified("maxLatency", json!("0s")), false),
        ("spec.verification.maxLatency", verified("cases", Value::Null), true),
        ("spec.verification.maxLatency", with("spec.verification.maxLatency", json!("5ms")), false),
        ("spec.confidence", confident("output", json!("scores")), true),
        ("spec.confidence.output", confident("output", json!("")), false),
        ("spec.confidence.output", confident("output", json!("a".repeat(257))), false),
        ("spec.confidence.temperature", confident("temperature", json!(100)), true),
        ("spec.confidence.temperature", confident("temperature", json!(0)), false),
        ("spec.confidence.temperature", confident("temperature", json!(101)), false),
        ("spec.policyRef.name", with("spec.policyRef.name", json!("default")), true),
        ("spec.policyRef.name", with("spec.policyRef.name", json!("a/b")), false),
        (allowed, with(allowed, json!(["shop", "*", "a-1"])), true),
        (allowed, with(allowed, json!(["Shop"])), false),
        (allowed, with(allowed, json!([""])), false),
        (allowed, with(allowed, json!(["sh*p"])), false),
        (allowed, with(allowed, json!(["shop", "shop"])), false),
        (allowed, with(allowed, namespaces(64)), true),
        (allowed, with(allowed, namespaces(65)), false),
    ];
    for (field, model, accepted) in rows {
        let row = model.to_string();
        let expected: &[&str] = if accepted { &[] } else { &[field] };
        assert_eq!(fields(model), expected, "{row}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let mut model = with("metadata.name", json!("A"));
    set(
        &mut model,
        "spec.source",
        json!({"uri": "m", "sha256": "a", "sha256From": "b", "syncInterval": "1ms"}),
    );
    set(&mut model, "spec.runtime", json!({"threads": 0, "instances": 0}));
    assert_eq!(
        fields(model),
        [
            "metadata.name",
            "spec.source.uri",
            "spec.source.syncInterval",
            "spec.source.sha256",
            "spec.source.sha256From",
            "spec.source",
            "spec.runtime.threads",
            "spec.runtime.instances"
        ]
    );
}

#[test]
fn a_message_says_what_is_accepted() {
    let faults = parse(with("spec.source.uri", json!("s3://bucket/m"))).unwrap_err();
    assert_eq!(faults[0].0, "spec.source.uri");
    assert!(faults[0].1.contains("https://, file://"), "{}", faults[0].1);
}

#[test]
fn models_that_mean_the_same_are_equal() {
    let plain = parse(pinned()).unwrap();
    assert_eq!(parse(with("spec.runtime", json!({"threads": 1, "instances": 1}))).unwrap(), plain);
    assert_eq!(parse(with("spec.placement.tier", json!("Device"))).unwrap(), plain);
    assert_eq!(parse(with("spec.verification", json!({}))).unwrap(), plain);
    assert_eq!(parse(with("spec.source.uri", json!("file://localhost/digits.onnx"))).unwrap(), plain);
    let allowed = |namespaces: Value| parse(with("spec.allowedNamespaces", namespaces)).unwrap();
    assert_eq!(allowed(json!([])), plain);
    assert_eq!(allowed(json!(["b", "a"])), allowed(json!(["a", "b"])));
    let cases = |tolerance: Value| {
        let cases = json!({"uri": "file:///c", "sha256": DIGEST, "tolerance": tolerance});
        parse(with("spec.verification.cases", cases)).unwrap()
    };
    assert_eq!(cases(Value::Null), cases(json!(0.0001)));
    assert_ne!(cases(Value::Null), cases(json!(0.001)));
}
