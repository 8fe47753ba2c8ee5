mod meaning;

use terrace_crds::TierPolicySpec;

use super::*;

/// Allows what a name that ends in `.example` stands for, and nothing else.
struct OnlyExample;

impl Admission for OnlyExample {
    fn source(&self, uri: &str) -> Result<(), String> {
        if uri.contains(".example/") { Ok(()) } else { Err("is not allowed here".to_owned()) }
    }

    fn tier(&self, url: &str) -> Result<(), String> {
        if url.contains(".example") { Ok(()) } else { Err("needs --allow-upstream".to_owned()) }
    }
}

const CONTEXT: Context<'_> = Context { default_namespace: "factory", admission: &OnlyExample };
const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn read_one(text: &str) -> Result<Document, Vec<String>> {
    let text = text.replace("DIGEST", DIGEST);
    let [document] = <[_; 1]>::try_from(yaml::documents(&text)).expect("one document");
    let read = read("a", &document.expect("valid YAML"), &CONTEXT);
    read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// A model whose spec begins in line 6.
fn model(spec: &str) -> String {
    format!(
        "apiVersion: terrace.dev/v1alpha1\nkind: InferenceModel\nmetadata:\n  name: digits\nspec:\n{spec}"
    )
}

/// A model with a good source and more, which begins in line 9.
fn model_and(more: &str) -> String {
    model(&format!("  source:\n    uri: https://models.example/a.onnx\n    sha256: DIGEST\n{more}"))
}

/// A policy whose spec begins in line 6.
fn policy(spec: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  name: near\nspec:\n{spec}")
}

/// Each row: what is tried, the manifest, and every fault with its line.
fn assert_faults(table: &[(&str, String, &[&str])]) {
    for (name, text, expected) in table {
        let expected: Vec<String> = expected.iter().map(|fault| format!("a:{fault}")).collect();
        assert_eq!(read_one(text).err().unwrap_or_default(), expected, "{name}:\n{text}");
    }
}

#[test]
fn good_manifests_are_read() {
    let full = model_and(
        "  placement:
    tier: Edge
    nodeSelector: {topology.kubernetes.io/zone: north}
  upstreams:
    cloud: {model: models.digits-large}
  runtime: {threads: 2, instances: 1}
  verification:
    cases: {uri: https://models.example/cases.json, sha256: DIGEST, tolerance: 0.001}
    maxLatency: 20ms
  policyRef: {name: near}
",
    );
    let followed = model(
        "  source:
    uri: https://models.example/a.onnx
    sha256From: https://models.example/SHA256SUMS
    syncInterval: 15m
",
    );
    let tiers = policy(
        "  defaults: {maxLatency: 200ms, privacyRequired: no}
  tiers:
    edge: {url: http://gateway.example:8000, timeout: 1s}
    cloud: {url: https://cloud.example}
  fallback: {enabled: true, order: [Edge, Device]}
",
    );
    for text in [model_and(""), full, followed, policy("  {}\n"), tiers] {
        let read = read_one(&text);
        assert!(read.is_ok(), "{text}\n{read:?}");
    }
}

#[test]
fn a_manifest_gets_the_default_namespace_and_keeps_only_what_its_author_wrote() {
    let exported = "\
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata:
  name: near
  labels: {team: a}
  uid: 6d8d5ee0-0000-0000-0000-000000000000
  resourceVersion: '12'
  generation: 3
  creationTimestamp: 2026-01-02T03:04:05Z
  managedFields:
  - {manager: kubectl, operation: Apply, fieldsType: FieldsV1, fieldsV1: {'f:spec': {}}}
spec: {}
status:
  conditions: []
  observedGeneration: 3
";
    let mut plain = TierPolicy::new("near", TierPolicySpec::default());
    plain.metadata.namespace = Some("factory".to_owned());
    plain.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
    assert_eq!(read_one(exported), Ok(Document::Policy(Box::new(plain))));
}

#[test]
fn a_document_that_is_no_manifest_says_what_is_read_here() {
    let known = "InferenceModel and TierPolicy are read here";
    let with_known = |fault: &str| format!("{fault}: {known}");
    let table = [
        ("- a\n- b\n", with_known("1: expected a manifest, found a list")),
        ("# x\napiVersion: terrace.dev/v1alpha1\n", with_known("2: kind: is missing")),
        ("kind: [a]\n", with_known("1: kind: expected text, found a list")),
        (
            "apiVersion: v1\nkind: ConfigMap\n",
            with_known("2: kind: ConfigMap is not read by a standalone agent"),
        ),
        ("kind: InferenceNode\n", with_known("1: kind: InferenceNode is written by Terrace itself")),
        (
            "apiVersion: v1\nkind: List\nitems: []\n",
            "2: kind: a List is not read: write its items as documents, with --- between them".to_owned(),
        ),
        (
            "resources: []\nkind: Kustomization\n",
            "2: kind: a Kustomization is not read: put what `kubectl kustomize` writes here instead"
                .to_owned(),
        ),
        (
            "kind: TierPolicy\napiVersion: terrace.dev/v1\n",
            "2: apiVersion: terrace.dev/v1 is not known for TierPolicy: expected terrace.dev/v1alpha1"
                .to_owned(),
        ),
        ("kind: TierPolicy\n", "1: apiVersion: is missing: expected terrace.dev/v1alpha1".to_owned()),
    ];
    for (text, fault) in table {
        assert_eq!(read_one(text), Err(vec![format!("a:{fault}")]), "{text}");
    }
}

#[test]
fn a_wrong_shape_names_every_field_and_its_line() {
    assert_faults(&[
        (
            "no metadata",
            policy("  {}\n").replace("metadata:\n  name: near\n", ""),
            &["1: metadata: is missing"],
        ),
        ("no spec", policy("").replace("spec:\n", ""), &["1: spec: is missing"]),
        ("a scalar for a mapping", model("  source: 5\n"), &["6: spec.source: expected a mapping, found 5"]),
        ("a missing field", model("  source:\n    sha256: DIGEST\n"), &["6: spec.source.uri: is missing"]),
        (
            "unknown fields",
            model_and("  wibble: 1\n  placement:\n    node_selector: {}\n").replace("sha256: D", "sha265: D"),
            &[
                "6: spec.source: needs exactly one of sha256 and sha256From: what runs is always pinned by digest",
                "8: spec.source.sha265: is not known: did you mean sha256?",
                "9: spec.wibble: is not known: expected allowedNamespaces, confidence, placement, policyRef, runtime, source, upstreams, verification",
                "11: spec.placement.node_selector: is not known: did you mean nodeSelector?",
            ],
        ),
        (
            "unknown fields of metadata, and at the top",
            policy("  {}\nspek: {}\n").replace("name: near", "name: near\n  lables: {}"),
            &[
                "5: metadata.lables: is not known: did you mean labels?",
                "8: spek: is not known: did you mean spec?",
            ],
        ),
        (
            "wrong numbers",
            model_and("  runtime:\n    threads: 70000\n    instances: two\n"),
            &[
                "10: spec.runtime.threads: 70000 is out of range",
                "11: spec.runtime.instances: expected a whole number, found \"two\"",
            ],
        ),
        (
            "numbers for text",
            model_and("  verification:\n    maxLatency: 20\n    cases:\n      uri: true\n      sha256: 12\n"),
            &[
                "10: spec.verification.maxLatency: expected a duration such as 500ms, 30s or 1h30m, found 20",
                "12: spec.verification.cases.uri: expected text, found true: put it in quotes",
                "13: spec.verification.cases.sha256: expected text, found 12: put it in quotes",
            ],
        ),
        (
            "wrong words",
            policy(
                "  defaults:
    maxLatency: fast
    privacyRequired: perhaps
  tiers:
  fallback:
    order: [Edge, Moon]
    enabled: []
",
            ),
            &[
                "7: spec.defaults.maxLatency: expected a duration such as 500ms, 30s or 1h30m, found \"fast\"",
                "8: spec.defaults.privacyRequired: expected true or false, found \"perhaps\"",
                "9: spec.tiers: expected a mapping, found nothing",
                "11: spec.fallback.order[1]: `Moon` is not known: expected one of `Device`, `Edge`, `Cloud`",
                "12: spec.fallback.enabled: expected true or false, found a list",
            ],
        ),
        (
            "a verifier that is no tier",
            policy(
                "  mode: Speculative\n  tiers: {cloud: {url: 'http://cloud'}}\n  speculative:\n    verifier: Clowd\n",
            ),
            &["9: spec.speculative.verifier: `Clowd` is not known: expected `Edge` or `Cloud`"],
        ),
        (
            "a verifier that is what it verifies",
            policy("  mode: Speculative\n  speculative:\n    verifier: Device\n"),
            &["8: spec.speculative.verifier: must be Edge or Cloud: the device is what is verified"],
        ),
        (
            "wrong labels and a wrong name at once",
            policy("  {}\n").replace("name: near", "name: Near\n  labels: {a: 1}"),
            &[
                "4: metadata.name: \"Near\" is no DNS label: expected at most 63 lower-case letters, digits and hyphens, no hyphen first or last",
                "5: metadata.labels.a: expected text, found 1: put it in quotes",
            ],
        ),
    ]);
}

#[test]
fn names_and_namespaces_are_dns_labels() {
    let long = "a".repeat(64);
    for name in ["Near", "-near", "near-", "a.b", "a_b", "''", &long] {
        for field in ["name", "namespace"] {
            let text = policy("  {}\n").replace("  name: near", &format!("  name: near\n  {field}: {name}"));
            let text = if field == "name" { text.replace("  name: near\n", "") } else { text };
            let faults = read_one(&text).err().unwrap_or_default();
            assert_eq!(faults.len(), 1, "{text}{faults:?}");
            assert!(faults[0].contains(&format!(": metadata.{field}: ")), "{faults:?}");
        }
    }
    assert_faults(&[(
        "no name",
        policy("  {}\n").replace("name: near", "namespace: a"),
        &["3: metadata.name: is missing"],
    )]);
}

#[test]
fn a_fault_tells_no_more_of_a_manifest_than_it_must() {
    let endless = "x".repeat(100_000);
    let faults = read_one(&model_and(&format!("  {}: 1\n  placement: {endless}\n", &endless[..1_000])));
    for fault in faults.expect_err("faults") {
        assert!(fault.len() < 1_000, "{} characters", fault.len());
    }
}

#[test]
fn a_manifest_full_of_faults_is_not_read_to_the_end() {
    let labels: Vec<String> = (0..5_000).map(|number| format!("    l{number}: {number}\n")).collect();
    let text = policy("  {}\n").replace("name: near", &format!("name: near\n  labels:\n{}", labels.concat()));
    assert_eq!(read_one(&text).expect_err("faults").len(), 20);
}
