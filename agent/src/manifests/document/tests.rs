use super::*;

/// Allows what a name ending in `.example` says, and nothing else.
struct OnlyExample;

impl Admission for OnlyExample {
    fn source(&self, uri: &str) -> Result<(), String> {
        if uri.starts_with("https://models.example/") { Ok(()) } else { Err("is not allowed here".to_owned()) }
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
    let read = read("a.yaml", &document.expect("valid YAML"), &CONTEXT);
    read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// A model whose spec begins in line 5.
fn model(spec: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: InferenceModel\nmetadata:\n  name: digits\nspec:\n{spec}")
}

/// A policy whose spec begins in line 5.
fn policy(spec: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  name: near\nspec:\n{spec}")
}

const SOURCE: &str = "  source:\n    uri: https://models.example/a.onnx\n    sha256: DIGEST\n";

#[test]
fn good_manifests_are_read() {
    let full = model(&format!(
        "{SOURCE}  placement:
    tier: Edge
    nodeSelector: {{topology.kubernetes.io/zone: north}}
  upstreams:
    cloud: {{model: models.digits-large}}
  runtime: {{threads: 2, instances: 1}}
  verification:
    cases: {{uri: https://models.example/cases.json, sha256: DIGEST, tolerance: 0.001}}
    maxLatency: 20ms
  policyRef: {{name: near}}
"
    ));
    let from =
        model("  source:\n    uri: https://models.example/a.onnx\n    sha256From: https://models.example/SUMS\n    syncInterval: 15m\n");
    let tiers = policy(
        "  defaults: {maxLatency: 200ms, privacyRequired: no}
  tiers:
    edge: {url: http://gateway.example:8000, timeout: 1s}
    cloud: {url: https://cloud.example}
  fallback: {enabled: true, order: [Edge, Device]}
",
    );
    for text in [model(SOURCE), full, from, policy("  {}\n"), tiers] {
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
  - {manager: kubectl, operation: Apply, apiVersion: terrace.dev/v1alpha1, fieldsType: FieldsV1, fieldsV1: {'f:spec': {}}}
spec: {}
status:
  conditions: []
  observedGeneration: 3
";
    let Ok(Document::Policy(read)) = read_one(exported) else { panic!("{:?}", read_one(exported)) };
    let plain = TierPolicy {
        metadata: ObjectMeta {
            name: Some("near".to_owned()),
            namespace: Some("factory".to_owned()),
            labels: Some([("team".to_owned(), "a".to_owned())].into()),
            ..ObjectMeta::default()
        },
        ..TierPolicy::default()
    };
    assert_eq!(*read, plain);
}

/// Each row: what is tried, the manifest, and every fault with its line.
#[test]
fn every_fault_names_its_line_and_field() {
    let source = |fields: &str| model(&format!("  source:\n    uri: https://models.example/a.onnx\n{fields}"));
    let and = |more: &str| model(&format!("{SOURCE}{more}"));
    let table: Vec<(&str, String, &[&str])> = vec![
        ("no mapping", "- a\n- b\n".into(), &["1: expected a manifest, found a list: InferenceModel and TierPolicy are read here"]),
        ("no kind", "# x\napiVersion: terrace.dev/v1alpha1\n".into(), &["2: kind: is missing: InferenceModel and TierPolicy are read here"]),
        ("foreign kind", "apiVersion: v1\nkind: ConfigMap\n".into(), &["2: kind: ConfigMap is not read by a standalone agent: InferenceModel and TierPolicy are read here"]),
        ("list", "apiVersion: v1\nkind: List\nitems: []\n".into(), &["2: kind: a List is not read: write its items as documents, with --- between them"]),
        ("old version", "kind: TierPolicy\napiVersion: terrace.dev/v1\n".into(), &["2: apiVersion: terrace.dev/v1 is not known for TierPolicy: expected terrace.dev/v1alpha1"]),
        ("no version", "kind: TierPolicy\n".into(), &["1: apiVersion: is missing: expected terrace.dev/v1alpha1"]),
        ("no name", "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  namespace: a\nspec: {}\n".into(), &["3: metadata.name: is missing"]),
        ("no metadata", "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nspec: {}\n".into(), &["1: metadata: is missing"]),
        ("no spec", "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  name: a\n".into(), &["1: spec: is missing"]),
    ];
    for (name, text, expected) in table {
        let expected: Vec<String> = expected.iter().map(|fault| format!("a.yaml:{fault}")).collect();
        assert_eq!(read_one(&text).err().unwrap_or_default(), expected, "{name}:\n{text}");
    }
    for t in [
        model("  source:\n    sha256: DIGEST\n"),
        model("  source: 5\n"), and("  runtime:\n    threads: many\n  placement:\n    tier: device\n    node_selector: {}\n"),
        and("  verification:\n    maxLatency: 20\n    cases:\n      uri: 5\n      sha256: 1234567890123456789012345678901234567890123456789012345678901234\n  wibble: 1\n"),
        and("  runtime:\n    threads: 70000\n    instances: -1\n"),
        source("    sha265: DIGEST\n    SHA256: x\n"),
        policy("  defaults:\n    maxLatency: fast\n    privacyRequired: maybe\n  tiers:\n  fallback:\n    order: [Edge, Moon]\n    enabled: 'x'\n"),
        policy("  tiers:\n    edge:\n      url: http://u:p@gateway.example\n      protocol: GRPC\n    cloud:\n      url: http://10.0.0.1\n      timeout: 0s\n"),
        policy("  {}\n").replace("near", "Near\n  labels: {a: 1, b: true}\n  nmae: x"),
    ] {
        println!("{t}\n{:#?}", read_one(&t));
    }
}
