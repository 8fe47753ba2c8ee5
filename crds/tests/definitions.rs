//! The generated definitions are the committed ones, and their rules accept and refuse what they should.

#![allow(clippy::panic)] // helpers of tests, outside of #[test]

use std::path::Path;

use kube::CustomResourceExt;
use kube::core::cel::validate_cel;
use serde::Serialize;
use serde::de::DeserializeOwned;
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy, definitions};

#[test]
fn committed_definitions_match_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, definition) in definitions() {
        let committed = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let generated = serde_yaml_ng::to_string(&definition).unwrap();
        assert!(
            committed.ends_with(&generated),
            "crds/{file} is not what the types say; run `make crds` and commit it"
        );
    }
}

#[test]
fn definitions_stay_small_enough_to_apply() {
    for (file, definition) in definitions() {
        let size = serde_json::to_vec(&definition).unwrap().len();
        assert!(size < 200 * 1024, "{file} has {size} bytes");
    }
}

#[test]
fn conditions_merge_by_type() {
    for (file, definition) in definitions() {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let conditions = schema.pointer("/openAPIV3Schema/properties/status/properties/conditions").unwrap();
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{file}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type", "{file}");
    }
}

/// `None` where the rules accept `yaml`, else the messages of the rules that refuse it.
fn verdict<K: CustomResourceExt + Serialize + DeserializeOwned>(yaml: &str) -> Option<String> {
    let object: K = serde_yaml_ng::from_str(yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
    validate_cel(&object).err().map(|errors| format!("{errors:?}"))
}

fn model(name: &str, spec: &str) -> Option<String> {
    verdict::<InferenceModel>(&format!(
        "apiVersion: terrace.dev/v1alpha1\nkind: InferenceModel\nmetadata: {{name: {name}}}\nspec: {spec}"
    ))
}

fn policy(name: &str, spec: &str) -> Option<String> {
    verdict::<TierPolicy>(&format!(
        "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: {name}}}\nspec: {spec}"
    ))
}

const DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Asserts on one row: accepted where `message` is empty, else refused with it.
fn row(what: &str, verdict: Option<String>, message: &str) {
    match (verdict, message) {
        (None, "") => {}
        (None, _) => panic!("{what}: accepted, and should be refused with {message:?}"),
        (Some(errors), "") => panic!("{what}: refused with {errors}"),
        (Some(errors), _) => assert!(errors.contains(message), "{what}: {errors}"),
    }
}

#[test]
fn model_rules_accept_and_refuse() {
    let pinned = format!("{{source: {{uri: 'file:///m.onnx', sha256: '{DIGEST}'}}}}");
    row("a pinned source", model("digits", &pinned), "");
    row("63 characters", model(&"a".repeat(63), &pinned), "");
    row("one character", model("a", &pinned), "");
    row("64 characters", model(&"a".repeat(64), &pinned), "DNS label");
    row("a dot in the name", model("a.b", &pinned), "DNS label");
    row("a trailing hyphen", model("a-", &pinned), "DNS label");
    row("no digest", model("m", "{source: {uri: 'file:///m.onnx'}}"), "exactly one of sha256 and sha256From");
    let both = format!("{{source: {{uri: 'file:///m', sha256: '{DIGEST}', sha256From: 'file:///s'}}}}");
    row("two digests", model("m", &both), "exactly one of sha256 and sha256From");
    let source = |rest: &str| format!("{{source: {{uri: 'file:///m', {rest}}}}}");
    row("a checksum file", model("m", &source("sha256From: 'file:///s'")), "");
    row("an interval", model("m", &source("sha256From: 'file:///s', syncInterval: 1s")), "");
    row(
        "an interval below a second",
        model("m", &source("sha256From: 'file:///s', syncInterval: 999ms")),
        "at least 1s",
    );
    row(
        "an interval on a pinned source",
        model("m", &source(&format!("sha256: '{DIGEST}', syncInterval: 5m"))),
        "syncInterval needs sha256From",
    );
    let verified = |rest: &str| {
        format!("{{source: {{uri: 'file:///m', sha256: '{DIGEST}'}}, verification: {{{rest}}}}}")
    };
    let cases = format!("cases: {{uri: 'file:///c', sha256: '{DIGEST}'}}");
    row("cases", model("m", &verified(&cases)), "");
    row("cases and a ceiling", model("m", &verified(&format!("{cases}, maxLatency: 5ms"))), "");
    row("a ceiling without cases", model("m", &verified("maxLatency: 5ms")), "maxLatency needs cases");
    row(
        "a ceiling of nothing",
        model("m", &verified(&format!("{cases}, maxLatency: 0s"))),
        "must be positive",
    );
}

#[test]
fn policy_rules_accept_and_refuse() {
    row("nothing", policy("p", "{}"), "");
    row("a bad name", policy("P", "{}"), "DNS label");
    row("a deadline", policy("p", "{defaults: {maxLatency: 50ms}}"), "");
    row("a deadline of nothing", policy("p", "{defaults: {maxLatency: 0s}}"), "must be positive");
    row("a tier", policy("p", "{tiers: {edge: {url: 'http://edge:8000', timeout: 2s}}}"), "");
    row(
        "a time-out of nothing",
        policy("p", "{tiers: {edge: {url: 'http://edge:8000', timeout: 0s}}}"),
        "must be positive",
    );
    row("a site", policy("p", "{tiers: {edge: {site: {}}}}"), "");
    row("a site by its label", policy("p", "{tiers: {edge: {site: {label: example.com/store}}}}"), "");
    row(
        "a url and a site",
        policy("p", "{tiers: {edge: {url: 'http://edge', site: {}}}}"),
        "exactly one of url and site",
    );
    row("neither url nor site", policy("p", "{tiers: {edge: {timeout: 1s}}}"), "exactly one of url and site");
    row("a site in a url", policy("p", "{tiers: {edge: {url: 'http://{site}.example'}}}"), "");
    row("a cloud", policy("p", "{tiers: {cloud: {url: 'http://cloud'}}}"), "");
    row("a cloud at the site", policy("p", "{tiers: {cloud: {site: {}}}}"), "sites are the edge's");
    row(
        "a cloud at a url of the site",
        policy("p", "{tiers: {cloud: {url: 'http://{site}.example'}}}"),
        "sites are the edge's",
    );
    let edge = |fields: &str| policy("p", &format!("{{tiers: {{edge: {{{fields}}}}}}}"));
    let (http, https) = ("url: 'http://edge'", "url: 'https://edge'");
    row("a token over https", edge(&format!("{https}, auth: {{bearer: cloud}}")), "");
    row("a token over http", edge(&format!("{http}, auth: {{bearer: cloud}}")), "auth needs an https:// url");
    let named = |name: &str| edge(&format!("{https}, tls: {{serverName: '{name}'}}"));
    row("a server's name", named("agents.terrace-1.svc"), "");
    row(
        "an address as the server's name",
        named("10.0.0.7"),
        "serverName must be a DNS name, not an address",
    );
    row(
        "a server's name over http",
        edge(&format!("{http}, tls: {{serverName: gateway}}")),
        "tls needs an https:// url",
    );
    row("tls over http", edge(&format!("{http}, tls: {{authority: corp}}")), "tls needs an https:// url");
    row(
        "two ways to say who",
        edge(&format!("{https}, auth: {{bearer: a, basic: b}}")),
        "exactly one of bearer",
    );
    row("no way to say who", edge(&format!("{https}, auth: {{}}")), "exactly one of bearer");
    row("a breaker", edge(&format!("{http}, breaker: {{failures: 3, period: 1s, maxPeriod: 9s}}")), "");
    row("a period of nothing", edge(&format!("{http}, breaker: {{period: 0s}}")), "period must be positive");
    row(
        "no longest period",
        edge(&format!("{http}, breaker: {{maxPeriod: 0s}}")),
        "maxPeriod must be positive",
    );
    row("a hedge", edge(&format!("{http}, hedge: {{after: 20ms, maxExtraLoad: 5}}")), "");
    row("a hedge at once", edge(&format!("{http}, hedge: {{after: 0s}}")), "after must be positive");
    let site = |fields: &str| edge(&format!("site: {{}}{fields}"));
    row("a site over tls with a token", site(", tls: {}, auth: {bearer: site}"), "");
    row("a site with a token over http", site(", auth: {bearer: site}"), "auth needs an https:// url");
    row("an order", policy("p", "{fallback: {order: [Edge, Device]}}"), "");
    row("a tier twice", policy("p", "{fallback: {order: [Edge, Edge]}}"), "once at most");
}

#[test]
fn mode_rules_accept_and_refuse() {
    let tiers = "tiers: {edge: {url: 'http://edge'}, cloud: {url: 'http://cloud'}}";
    let with = |rest: &str| policy("p", &format!("{{{tiers}, {rest}}}"));
    row("the mode that is the default", with("mode: Select"), "");
    row("a mode without its field", with("mode: Speculative"), "needs the field speculative");
    row("another mode without its field", with("mode: Ensemble"), "needs the field ensemble");
    row("a field without its mode", with("speculative: {verifier: Cloud}"), "no other mode has it");
    row("another", with("mode: Select, ensemble: {members: [Device, Edge]}"), "no other mode has it");
    let speculative = |rest: &str| with(&format!("mode: Speculative, speculative: {{{rest}}}"));
    row("a verifier", speculative("verifier: Cloud"), "");
    row("all of it", speculative("verifier: Edge, threshold: 0.5, parallelAfter: 0s"), "");
    let alone = "mode: Speculative, speculative: {verifier: Cloud}";
    row("a verifier nowhere", policy("p", &format!("{{{alone}}}")), "how the verifier");
    let elsewhere = format!("{{tiers: {{edge: {{url: 'http://edge'}}}}, {alone}}}");
    row("a verifier elsewhere", policy("p", &elsewhere), "how the verifier");
    let ensemble = |rest: &str| with(&format!("mode: Ensemble, ensemble: {{{rest}}}"));
    row("members", ensemble("members: [Device, Cloud]"), "");
    row("all of it", ensemble("members: [Device, Edge, Cloud], combine: Vote, quorum: 3"), "");
    row("a member twice", ensemble("members: [Edge, Edge]"), "once at most");
    row("a quorum of more than all", ensemble("members: [Device, Edge], quorum: 3"), "must not exceed");
    let weighted = |rest: &str| ensemble(&format!("members: [Device, Edge], {rest}"));
    row("weights", weighted("combine: WeightedMean, weights: [1, 2.5]"), "");
    row("no weights", weighted("combine: WeightedMean"), "which needs them");
    row("weights for nothing", weighted("combine: Vote, weights: [1, 1]"), "which needs them");
    row("weights by default", weighted("weights: [1, 1]"), "which needs them");
    row("a weight too many", weighted("combine: WeightedMean, weights: [1, 1, 1]"), "one number for each");
    row("a weight of nothing", weighted("combine: WeightedMean, weights: [1, 0]"), "must be positive");
    let members = "mode: Ensemble, ensemble: {members: [Device, Edge, Cloud]}";
    let elsewhere = format!("{{tiers: {{edge: {{url: 'http://edge'}}}}, {members}}}");
    row("a member nowhere", policy("p", &elsewhere), "ensemble's members");
}

#[test]
fn node_rules_accept_and_refuse() {
    let node = |rest: &str| {
        verdict::<InferenceNode>(&format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: InferenceNode\nmetadata: {{name: n}}\nspec: {{models: [{{namespace: a, name: b, revision: r, {rest}}}]}}"
        ))
    };
    let artifact = format!("artifact: {{uri: 'file:///m', sha256: '{DIGEST}'}}");
    let absent = "notPlaced: {reason: TierMismatch, message: it is for another tier}";
    row("an artifact", node(&artifact), "");
    row("a reason", node(absent), "");
    row("both", node(&format!("{artifact}, {absent}")), "exactly one of artifact and notPlaced");
    row("neither", node("runtime: {}"), "exactly one of artifact and notPlaced");
}
