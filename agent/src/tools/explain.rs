//! `terrace-agent explain`: which tier a policy gives a request to, and why, without running anything.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use terrace_crds::Tier;
use terrace_oip::Memory;

use super::given::{LabelArgs, PolicyArgs};
use super::sited::Sited;
use crate::args;
use crate::explained::Explained;
use crate::facts::RequestFacts;
use crate::manifests;
use crate::registry::ModelKey;
use crate::requirements;
use crate::seen::Seen;

/// The largest request that is read.
const MOST_BYTES: u64 = 64 << 20;

/// What is explained.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,

    /// The request: what would be posted to /v2/models/NAME/infer, as JSON.
    #[arg(long, value_name = "FILE")]
    request: String,

    /// A header of the request. Repeatable.
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// The model that it asks for: NAMESPACE.NAME, or a name in the default namespace.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// The tier of the node that decides.
    #[arg(long, value_name = "TIER", default_value = "device", value_parser = args::tier)]
    tier: Tier,

    #[command(flatten)]
    labels: LabelArgs,

    /// What the node knows of itself and of other tiers, as JSON or YAML; by default nothing yet.
    #[arg(long, value_name = "FILE")]
    state: Option<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = text.split_once(':').and_then(|(name, value)| {
        Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    parsed.ok_or_else(|| "expected NAME:VALUE".to_owned())
}

/// Prints the explanation.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let explained = explained(args)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&explained)?)?;
    } else {
        write!(out, "{explained}")?;
    }
    Ok(())
}

fn explained(args: &Args) -> anyhow::Result<Explained> {
    let policy = args.policy.read()?;
    let text = super::text(&args.request, MOST_BYTES)?;
    let request = requirements::read(&Bytes::from(text), None, Memory::UNBOUNDED)
        .map_err(|error| anyhow::anyhow!("{}: {error}", args.request))?;
    let seen = match &args.state {
        None => Seen::default(),
        Some(file) => manifests::read_plain(file, &super::text(file, MOST_BYTES)?)
            .map_err(|fault| anyhow::anyhow!("{fault}"))?,
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let stated = (requirements::from_request(&request)?, requirements::from_headers(&headers)?);
    let labels = args.labels.read();
    let model = ModelKey::from_url(args.model.as_deref().unwrap_or_default(), "default");
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let facts = RequestFacts { request: &request, model: &model, labels: &labels, header: &header };
    let sited = Sited::new(&policy, &labels);
    let policy = sited.by(&seen);
    let mut snapshot = seen.snapshot(args.tier);
    // As on the node: what it knows no way to is not there for its rules either.
    snapshot.edge.available &= policy.remote(Tier::Edge).is_some_and(|edge| edge.endpoints().is_ok());
    let explained = Explained::of(policy, stated, &snapshot, &facts)?;
    match &args.model {
        Some(_) => Ok(explained),
        None => explained.of_any_model().map_err(anyhow::Error::msg),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::tools::parsed;

    const POLICY: &str = r"
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: by-class}
spec:
  requestHeaders: [x-class]
  tiers:
    edge: {url: 'http://edge:8000'}
    cloud: {url: 'http://cloud:8000'}
  rules:
    - when: tiers.cloud.rttMs > 100.0
      tier: Edge
    - name: Gold
      when: request.headers['x-class'] == 'gold' && request.batch < 8
      tier: Cloud
    - when: node.labels.hall == '3'
      tier: Edge
";
    const STATE: &str = "cloud: {rttMs: 250, breaker: open}\nedge: {predictedLatencyMs: 88.5}\ndevice: {shortestRunMs: 100}\n";
    const REQUEST: &str = r#"{"parameters": {"max_latency_ms": 90},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}"#;

    /// Of the usual policy and state.
    fn explain(folder: &Path, more: &[&str]) -> anyhow::Result<String> {
        fs::write(folder.join("policy.yaml"), POLICY)?;
        fs::write(folder.join("state.yaml"), STATE)?;
        explain_of(folder, &[&["--policy", "POLICY"][..], more].concat())
    }

    /// POLICY and STATE stand for the files of that name.
    fn explain_of(folder: &Path, line: &[&str]) -> anyhow::Result<String> {
        fs::write(folder.join("request.json"), REQUEST)?;
        let file = |name: &str| folder.join(name).display().to_string();
        let word = |word: &&str| match *word {
            "POLICY" => file("policy.yaml"),
            "STATE" => file("state.yaml"),
            word => word.to_owned(),
        };
        let line = line.iter().map(word).chain(["--request".to_owned(), file("request.json")]);
        let mut out = Vec::new();
        run(&parsed(line)?, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn each_rule_tells_what_it_read_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let told = explain(folder.path(), &["--header", "X-Class: gold", "--model", "shop.digits"]).unwrap();
        let expected = "\
shop.digits on a node of tier device, at most 90 ms

rules:
  fails      Rule[0] -> edge: tiers.cloud.rttMs > 100.0
               a value that it reads is not there
               tiers.cloud.rttMs = not there
  matches    Gold -> cloud: request.headers['x-class'] == 'gold' && request.batch < 8
               request.headers['x-class'] = \"gold\"
               request.batch = 2
  not asked  Rule[2] -> edge: node.labels.hall == '3'

reason Gold
  1. cloud (primary)
  2. device (fallback)
  3. edge (fallback)
";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_model_that_nobody_named_is_not_told_and_a_rule_that_reads_its_name_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let told = explain(folder.path(), &[]).unwrap();
        assert!(
            told.starts_with("a model (--model says which) on a node of tier device, at most 90 ms\n"),
            "{told}"
        );
        let told: serde_json::Value =
            serde_json::from_str(&explain(folder.path(), &["--json"]).unwrap()).unwrap();
        assert_eq!(told["model"], serde_json::Value::Null);
        let by_name = POLICY.replace("tiers.cloud.rttMs > 100.0", "model.name == 'digits'");
        fs::write(folder.path().join("policy.yaml"), by_name).unwrap();
        let error = explain_of(folder.path(), &["--policy", "POLICY"]).unwrap_err().to_string();
        assert_eq!(error, "Rule[0] reads model.name: say which model it is with --model");
        let told = explain_of(folder.path(), &["--policy", "POLICY", "--model", "digits"]).unwrap();
        assert!(told.contains("reason Rule[0]\n"), "{told}");
    }

    #[test]
    fn labels_and_state_of_the_node_count() {
        let folder = tempfile::tempdir().unwrap();
        let json = |more: &[&str]| -> serde_json::Value {
            let line: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
            serde_json::from_str(&explain(folder.path(), &line).unwrap()).unwrap()
        };
        assert_eq!(json(&["--state", "STATE"])["reason"], "Rule[0]");
        assert_eq!(json(&["--node-label", "hall=3"])["reason"], "Rule[2]");
        let none = json(&["--node-label", "hall=4"]);
        assert_eq!(none["reason"], "RulesFailed");
        assert_eq!(none["candidates"][0]["tier"], "device");
        let private = json(&["--header", "terrace-privacy-required: true"]);
        assert_eq!((&private["reason"], &private["private"]), (&"PrivacyRequired".into(), &true.into()));
        assert_eq!(private["rules"][0]["outcome"], "notAsked");
    }

    #[test]
    fn a_label_says_at_which_site_the_node_is_and_the_state_that_it_reached_its_edge() {
        const SITED: &str = r"
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: sited}
spec:
  tiers: {edge: EDGE}
  rules: [{when: tiers.edge.available, tier: Edge}]
";
        const ZONE: &str = "topology.kubernetes.io/zone=oslo";
        let folder = tempfile::tempdir().unwrap();
        let told = |edge: &str, more: &[&str]| -> serde_json::Value {
            fs::write(folder.path().join("policy.yaml"), SITED.replace("EDGE", edge)).unwrap();
            fs::write(folder.path().join("state.yaml"), "{edge: {available: true}}").unwrap();
            let line = [&["--policy", "POLICY", "--json"], more].concat();
            let json: serde_json::Value =
                serde_json::from_str(&explain_of(folder.path(), &line).unwrap()).unwrap();
            let skipped = json["skipped"].as_array().unwrap().iter().find(|one| one["tier"] == "edge");
            serde_json::json!([
                json["reason"],
                json["candidates"][0]["tier"],
                skipped.map(|one| one["why"].clone())
            ])
        };
        let edge = serde_json::json!(["Rule[0]", "edge", null]);
        let device = |why: &str| serde_json::json!(["NoRuleMatched", "device", why]);
        let by_name = "{url: 'http://gw.{site}.example'}";
        assert_eq!(told(by_name, &["--node-label", ZONE]), edge);
        assert_eq!(told(by_name, &[]), device("SiteUnknown"));
        assert_eq!(told("{site: {}}", &["--state", "STATE"]), edge);
        assert_eq!(told("{site: {}}", &["--node-label", ZONE, "--state", "STATE"]), edge);
        assert_eq!(told("{site: {}}", &["--node-label", ZONE]), device("NoEdgeAgent"));
    }

    #[test]
    fn who_would_be_passed_over_now_is_told_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let told = explain(folder.path(), &["--header", "x-class: gold", "--state", "STATE"]).unwrap();
        let expected = "\
reason Rule[0]
  1. edge (primary): would be passed over now: PredictedTooLate
  2. device (fallback): would be passed over now: PredictedTooLate
  3. cloud (fallback): would be passed over now: BreakerOpen
";
        assert!(told.ends_with(expected), "{told}");
    }

    #[test]
    fn other_modes_tell_who_is_asked_when_and_no_rules() {
        let folder = tempfile::tempdir().unwrap();
        let tiers = "tiers: {edge: {url: 'http://edge'}, cloud: {url: 'http://cloud'}}";
        let policies = ["mode: Speculative, speculative: {verifier: Cloud}", "mode: Ensemble, ensemble: {members: [Device, Edge, Cloud], quorum: 2}"]
            .map(|mode| format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: {}}}\nspec: {{{mode}, {tiers}}}\n", mode[6..9].to_lowercase()));
        let file = folder.path().join("modes.yaml");
        fs::write(&file, policies.join("---\n")).unwrap();
        fs::write(folder.path().join("state.yaml"), STATE).unwrap();
        let file = file.to_str().unwrap();
        let told = |name: &str, more: &[&str]| {
            let line = ["--policy", file, "--policy-name", name, "--state", "STATE"];
            explain_of(folder.path(), &[&line[..], more].concat()).unwrap()
        };
        let speculative = "\
reason Speculative
  1. device (primary): would be passed over now: PredictedTooLate
     where it is not sure: cloud: would be passed over now: BreakerOpen
  2. edge (fallback)
  3. cloud (fallback): would be passed over now: BreakerOpen
";
        assert!(told("spe", &[]).ends_with(speculative), "{}", told("spe", &[]));
        let ensemble = "\
reason Ensemble
  at once:
    device: would be passed over now: PredictedTooLate
    edge: would be passed over now: PredictedTooLate
    cloud: would be passed over now: BreakerOpen
  where fewer than 2 of them answer:
  1. device (fallback)";
        assert!(told("ens", &[]).contains(ensemble), "{}", told("ens", &[]));
        let json: serde_json::Value = serde_json::from_str(&told("ens", &["--json"])).unwrap();
        assert_eq!((&json["defaultRules"], &json["rules"]), (&false.into(), &serde_json::json!([])));
        assert_eq!(json["members"][2], serde_json::json!({"tier": "cloud", "wouldSkip": "BreakerOpen"}));
    }

    #[test]
    fn a_state_that_is_none_says_where() {
        let folder = tempfile::tempdir().unwrap();
        for (state, expected) in [
            ("edge: {rttMs: '3'}", "state.yaml:1: edge.rttMs: expected a number, found \"3\""),
            (
                "cloud: {}\nedge:\n  rttMs: -3",
                "state.yaml:3: edge.rttMs: must be a number of milliseconds, 0 or more",
            ),
            ("edge: {breaker: ajar}", "state.yaml:1: edge.breaker: `ajar` is not known: expected one of"),
            ("edge: {rtt: 4}", "`rtt` is not known: expected one of"),
            ("edge: [", ": not valid YAML"),
        ] {
            let file = folder.path().join("state.yaml");
            fs::write(&file, state).unwrap();
            fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
            fs::write(folder.path().join("request.json"), REQUEST).unwrap();
            let error = explain_of(folder.path(), &["--policy", "POLICY", "--state", "STATE"])
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_explained_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let error = |more: &[&str]| explain(folder.path(), more).unwrap_err().to_string();
        assert!(
            error(&["--header", "terrace-tier: fog"]).contains("terrace-tier must be device, edge or cloud")
        );
        assert!(error(&["--policy-name", "other"]).contains("has no such TierPolicy"));
        assert!(error(&["--header", "nonsense"]).contains("expected NAME:VALUE"));
    }
}
