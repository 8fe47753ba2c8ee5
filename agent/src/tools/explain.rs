//! `terrace-agent explain`: which tier a policy gives a request to, and why, without running anything.

use std::io::Write;

use http::{HeaderMap, HeaderName, HeaderValue};
use terrace_crds::Tier;
use terrace_oip::InferRequest;

use super::policy::PolicyArgs;
use crate::args;
use crate::explained::Explained;
use crate::facts::RequestFacts;
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
    #[arg(long, value_name = "NAME", default_value = "model")]
    model: String,

    /// The tier of the node that decides.
    #[arg(long, value_name = "TIER", default_value = "device", value_parser = args::tier)]
    tier: Tier,

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
        serde_json::to_writer_pretty(&mut *out, &explained)?;
        writeln!(out)?;
    } else {
        write!(out, "{explained}")?;
    }
    Ok(())
}

fn explained(args: &Args) -> anyhow::Result<Explained> {
    let policy = args.policy.policy()?;
    let text = super::text(&args.request, MOST_BYTES)?;
    let request = InferRequest::from_json(text.as_bytes())
        .map_err(|error| anyhow::anyhow!("{}: {error}", args.request))?;
    let seen = match &args.state {
        None => Seen::default(),
        Some(file) => serde_saphyr::from_str(&super::text(file, MOST_BYTES)?)
            .map_err(|error| anyhow::anyhow!("{file}: {error}"))?,
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let stated = (requirements::from_parameters(&request.parameters)?, requirements::from_headers(&headers)?);
    let labels = args.policy.labels();
    let model = ModelKey::from_url(&args.model, "default");
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let facts = RequestFacts { request: &request, model: &model, labels: &labels, header: &header };
    Ok(Explained::of(&policy, stated, &seen.snapshot(args.tier), &facts)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::parsed;
    use super::*;

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
    const REQUEST: &str = r#"{"parameters": {"max_latency_ms": 90},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}"#;

    fn explain(folder: &Path, more: &[&str]) -> anyhow::Result<String> {
        fs::write(folder.join("policy.yaml"), POLICY)?;
        fs::write(folder.join("request.json"), REQUEST)?;
        fs::write(folder.join("state.yaml"), "cloud: {rttMs: 250}\n")?;
        let file = |name: &str| folder.join(name).display().to_string();
        let (policy, request) = (file("policy.yaml"), file("request.json"));
        let mut line = vec!["explain", "--policy", &policy, "--request", &request];
        let state = file("state.yaml");
        line.extend(more.iter().map(|word| if *word == "STATE" { state.as_str() } else { word }));
        let args: Args = parsed(line)?;
        let mut out = Vec::new();
        run(&args, &mut out)?;
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
