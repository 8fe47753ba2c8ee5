//! Simulations of a few records, by hand.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::tools::parsed;

const POLICY: &str = r"
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: small-stays}
spec:
  tiers: {cloud: {url: 'http://cloud:8000'}}
  rules:
    - {when: request.bytes < 1000, tier: Device}
    - {when: 'request.batch / 0 == 1', tier: Device}
    - {when: 'true', tier: Cloud}
";
const CAREFUL: &str = r"
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: careful}
spec:
  mode: Speculative
  speculative: {verifier: Cloud, threshold: 0.8}
  tiers: {cloud: {url: 'http://cloud:8000'}}
";

fn record(bytes: u64, tier: &str, latency_ms: f64) -> Value {
    json!({
        "time": "2026-11-27T10:00:00Z", "model": "default.digits", "node": "device",
        "request": {"bytes": bytes, "batch": 1, "inputs": [], "entropy": 0.5},
        "state": {"device": {"predictedLatencyMs": 3.0}, "cloud": {"predictedLatencyMs": 40.0}},
        "decision": {"reason": "HighComplexity", "candidates": [tier]},
        "happened": {"tier": tier, "source": "primary", "code": 200, "latencyMs": latency_ms,
            "attempts": [{"tier": tier, "outcome": "Answered", "ms": latency_ms}]},
    })
}

/// A record with something else in it.
fn with(mut record: Value, place: &str, value: Value) -> Value {
    *record.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
    record
}

/// A request that the node answered, so sure of it.
fn sure(confidence: f64) -> Value {
    let mut record = record(100, "device", 4.0);
    record["happened"]["nodeConfidence"] = confidence.into();
    record
}

fn simulate_by(policy: &str, lines: &[String], more: &[&str]) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (policy_file, requests) = (file("policy.yaml"), file("requests.jsonl"));
    fs::write(&policy_file, policy)?;
    fs::write(&requests, lines.join("\n"))?;
    let line = ["--policy", &policy_file, "--requests", &requests];
    let mut out = Vec::new();
    run(&parsed(line.iter().chain(more))?, &mut out)?;
    Ok(String::from_utf8(out)?)
}

fn simulate(lines: &[String], more: &[&str]) -> anyhow::Result<String> {
    simulate_by(POLICY, lines, more)
}

fn told(policy: &str, records: &[Value], more: &[&str]) -> Value {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let line = [&["--json"][..], more].concat();
    serde_json::from_str(&simulate_by(policy, &lines, &line).unwrap()).unwrap()
}

fn recorded() -> Vec<Value> {
    let private = json!({"time": "2026-11-27T10:00:00Z", "model": "default.digits", "node": "device",
        "private": true, "happened": {"tier": "device", "code": 200, "latencyMs": 2.0}});
    let mut asks = record(5000, "edge", 20.0);
    asks["request"]["tier"] = "edge".into();
    vec![record(100, "cloud", 50.0), record(2000, "cloud", 60.0), record(2000, "device", 4.0), private, asks]
}

fn lines() -> Vec<String> {
    recorded().iter().map(Value::to_string).collect()
}

#[test]
fn what_a_policy_would_do_stands_beside_what_happened() {
    let told = told(POLICY, &recorded(), &[]);
    assert_eq!((&told["requests"], &told["private"], &told["refused"]), (&5.into(), &1.into(), &1.into()));
    assert_eq!(told["happened"]["tiers"], json!({"cloud": 2, "device": 1, "edge": 1}));
    assert_eq!(told["would"]["tiers"], json!({"cloud": 2, "device": 1, "nobody": 1}));
    assert_eq!(told["would"]["reasons"], json!({"Rule[0]": 1, "Rule[2]": 2, "Refused": 1}));
    assert_eq!(told["rulesFailed"], 2);
    assert_eq!((&told["happened"]["bytesUp"], &told["would"]["bytesUp"]), (&7100.into(), &4000.into()));
    // Device: predicted 3. Cloud: measured 60, predicted 40.
    assert_eq!((&told["would"]["p50Ms"], &told["would"]["p90Ms"]), (&40.0.into(), &60.0.into()));
    assert_eq!(told["would"]["unknownLatency"], 1);
    let moved = json!([{"from": "cloud", "to": "device", "requests": 1}, {"from": "device", "to": "cloud", "requests": 1}]);
    assert_eq!(told["moved"], moved);
}

#[test]
fn people_read_a_table() {
    let told = simulate(&lines(), &[]).unwrap();
    let head = "\
5 requests
  1 of them private, or of a model without an accepted policy: nothing of them is recorded
  1 of them for a tier that this policy does not configure: refused
  a rule fails on 2 of them
";
    assert!(told.starts_with(head), "{told}");
    let row = |name: &str| -> Vec<String> {
        let line = told.lines().find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{told}")).trim_start();
        line[name.len()..].split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("cloud"), ["2", "(50.0", "%)", "2", "(50.0", "%)"]);
    assert_eq!(row("bytes sent up"), ["7100", "4000"]);
    assert_eq!(row("Rule[2]"), ["0", "2"]);
    assert!(told.contains("\nreasons\n"), "{told}");
}

#[test]
fn headers_that_a_rule_asks_for_and_no_record_holds_are_told() {
    const BY_CLASS: &str = r#"
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: by-class}
spec:
  requestHeaders: [x-class, x-region, x-unread]
  tiers: {cloud: {url: 'http://cloud:8000'}}
  rules:
    - {when: request.bytes < 1000, tier: Device}
    - {when: "'x-class' in request.headers", tier: Cloud}
    - {when: "request.headers['x-region'] == 'north'", tier: Cloud}
    - {when: 'true', tier: Device}
"#;
    let with_headers = |headers: Value| {
        let mut record = record(2000, "device", 4.0);
        record["request"]["headers"] = headers;
        record
    };
    // Small enough that no rule asks; neither recorded; one sent and none asked for more; one recorded as not sent.
    let records = [
        record(100, "device", 4.0),
        record(2000, "device", 4.0),
        with_headers(json!({"x-class": "gold"})),
        with_headers(json!({"x-class": null})),
        with_headers(json!({"x-class": null, "x-region": null})),
    ];
    let json = told(BY_CLASS, &records, &[]);
    assert_eq!(json["headersNotRecorded"], json!({"x-class": 1, "x-region": 2}));
    assert_eq!(json["would"]["tiers"], json!({"cloud": 1, "device": 4}));
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let table = simulate_by(BY_CLASS, &lines, &[]).unwrap();
    let expected = "\n  2 of them judged as if they had no header x-region: it was not recorded\n  to judge by headers, record under a policy whose requestHeaders list them, ";
    assert!(table.contains(expected), "{table}");
    // Where nothing is missing, nothing is said.
    let table = simulate_by(BY_CLASS, &lines[..1], &[]).unwrap();
    assert!(!table.contains("header"), "{table}");
}

#[test]
fn a_file_that_is_no_recording_hears_what_one_is_and_how_it_is_made() {
    let lines = ["# a policy".to_owned(), "kind: TierPolicy".to_owned()];
    for error in [simulate(&lines, &[]), simulate(&[], &[])].map(|told| told.unwrap_err().to_string()) {
        assert!(error.contains("--record-decisions FILE"), "{error}");
    }
    let error = simulate(&lines, &[]).unwrap_err().to_string();
    assert!(error.contains("requests.jsonl is no recording"), "{error}");
    assert!(error.contains("begins in line 1: "), "{error}");
}

#[test]
fn a_model_is_chosen_by_either_of_its_names_and_none_is_told_from_nothing() {
    for name in ["digits", "default.digits"] {
        assert!(simulate(&lines(), &["--model", name]).unwrap().starts_with("5 requests\n"));
    }
    let error = simulate(&lines(), &["--model", "other"]).unwrap_err().to_string();
    assert!(error.starts_with("no request for default.other in "), "{error}");
    assert!(error.ends_with("requests.jsonl: it has default.digits"), "{error}");
    let error = simulate(&[], &[]).unwrap_err().to_string();
    assert!(error.contains("requests.jsonl holds no recorded request. Records are "), "{error}");
    assert!(simulate(&lines()[..1], &[]).unwrap().starts_with("1 request\n"));
}

#[test]
fn a_line_that_is_no_record_is_counted_and_the_rest_is_read() {
    let mut lines = lines();
    lines.insert(1, "{\"time\": 1}".to_owned());
    lines.push(lines[0][..40].to_owned());
    let json: Value = serde_json::from_str(&simulate(&lines, &["--json"]).unwrap()).unwrap();
    assert_eq!((&json["unreadable"], &json["requests"]), (&2.into(), &5.into()));
    let told = simulate(&lines, &[]).unwrap();
    assert!(told.contains("\n2 lines could not be read\n"), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.contains("requests.jsonl: 2: ")), "{told}");
    let error = simulate(&lines[1..2], &[]).unwrap_err().to_string();
    assert!(error.contains("begins in line 1: "), "{error}");
}

#[test]
fn requests_that_were_wrong_are_left_out_and_those_that_were_too_many_are_not() {
    let failed = |code: u16| {
        let mut record = with(record(100, "device", 1.0), "/happened/code", code.into());
        record["happened"] = json!({"code": code, "latencyMs": 1.0});
        record
    };
    let told = told(POLICY, &[failed(400), failed(429), failed(413), failed(503)], &[]);
    assert_eq!((&told["requests"], &told["wrong"]), (&4.into(), &1.into()));
    assert_eq!(told["happened"]["tiers"], json!({"nobody": 3}));
    assert_eq!(told["would"]["tiers"], json!({"device": 3}));
}

#[test]
fn a_tier_that_would_have_been_passed_over_is_and_the_next_one_counts() {
    let open = with(record(2000, "device", 4.0), "/state/cloud", json!({"breaker": "open"}));
    let mut late = record(2000, "device", 4.0);
    late["request"]["maxLatencyMs"] = 30.0.into();
    let mut hopeless = record(2000, "device", 4.0);
    hopeless["request"]["maxLatencyMs"] = 0.0.into();
    let told = told(POLICY, &[open, late, hopeless], &[]);
    assert_eq!(told["would"]["tiers"], json!({"device": 2, "nobody": 1}));
    let passed_over = json!([
        {"tier": "cloud", "why": "BreakerOpen", "requests": 1},
        {"tier": "cloud", "why": "DeadlineExceeded", "requests": 1},
        {"tier": "cloud", "why": "PredictedTooLate", "requests": 1},
        {"tier": "device", "why": "DeadlineExceeded", "requests": 1},
    ]);
    assert_eq!(told["would"]["passedOver"], passed_over);
    assert_eq!(told["would"]["bytesUp"], 0);
}

#[test]
fn an_edge_of_the_nodes_site_is_reached_where_its_label_or_the_record_says_so() {
    let policy = |edge: &str| {
        format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: sited}}\nspec:\n  tiers: {{edge: {edge}}}\n  rules: [{{when: 'true', tier: Edge}}]\n"
        )
    };
    let mut reached = record(100, "edge", 9.0);
    reached["state"]["edge"] = json!({"available": true, "breaker": "closed"});
    let mut not_reached = record(100, "device", 4.0);
    not_reached["state"]["edge"] = json!({"available": false});
    let records = [reached, not_reached];
    let tiers = |edge: &str, more: &[&str]| told(&policy(edge), &records, more)["would"]["tiers"].clone();
    let zone = ["--node-label", "topology.kubernetes.io/zone=oslo"];
    assert_eq!(tiers("{site: {}}", &[]), json!({"edge": 1, "device": 1}));
    assert_eq!(tiers("{site: {}}", &zone), json!({"edge": 1, "device": 1}));
    assert_eq!(tiers("{url: 'http://gw.{site}.example'}", &[]), json!({"edge": 1, "device": 1}));
    assert_eq!(tiers("{url: 'http://gw.{site}.example'}", &zone), json!({"edge": 2}));
}

#[test]
fn only_what_was_sent_counts_as_sent() {
    let attempts = json!([
        {"tier": "edge", "outcome": "BreakerOpen", "ms": 0.0},
        {"tier": "edge", "outcome": "ConnectFailed", "ms": 1.0},
        {"tier": "cloud", "outcome": "Answered", "ms": 9.0, "hedged": true},
    ]);
    let told = told(POLICY, &[with(record(100, "cloud", 9.0), "/happened/attempts", attempts)], &[]);
    assert_eq!(told["happened"]["bytesUp"], 200);
    assert_eq!(
        told["happened"]["passedOver"],
        json!([{"tier": "edge", "why": "BreakerOpen", "requests": 1}])
    );
}

#[test]
fn a_threshold_sends_up_what_the_node_was_not_sure_of_and_says_of_what_it_knows_nothing() {
    let open = |mut record: Value| {
        record["state"]["cloud"] = json!({"breaker": "open"});
        record
    };
    let records = [sure(0.95), sure(0.8), sure(0.6), sure(0.4), open(sure(0.1)), record(100, "cloud", 50.0)];
    let told = told(CAREFUL, &records, &["--thresholds=0.5,0.99"]);
    assert_eq!(told["would"]["tiers"], json!({"device": 2, "cloud": 3, "not known": 1}));
    assert_eq!(told["would"]["reasons"], json!({"Confident": 1, "NotConfident": 4, "Speculative": 1}));
    assert_eq!(told["would"]["bytesUp"], 300);
    let thresholds = json!({"known": 5, "notKnown": 1, "thresholds": [
        {"threshold": 0.8, "requests": 3, "share": 0.6, "bytes": 300},
        {"threshold": 0.5, "requests": 1, "share": 0.2, "bytes": 100},
        {"threshold": 0.99, "requests": 4, "share": 0.8, "bytes": 400},
    ]});
    assert_eq!(told["speculated"], thresholds);
    // The node takes 4 ms, as it did, and the cloud 40, as was predicted.
    assert_eq!((&told["would"]["p50Ms"], &told["would"]["p90Ms"]), (&44.0.into(), &44.0.into()));

    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let table = simulate_by(CAREFUL, &lines, &["--thresholds"]).unwrap();
    assert_eq!(table.matches(" %)").count(), 3 * 2 + 8, "{table}");
    assert!(table.contains("0.8, the policy's") && table.contains("\nof 1 more it is not known"), "{table}");
}

#[test]
fn thresholds_go_with_a_speculation() {
    let lists = [&["--thresholds", "0.6,0.7"][..], &["--thresholds=0.6,0.7"], &["--thresholds", "--json"]];
    let lengths = lists.map(|list| {
        let list: Vec<&str> = list.iter().copied().filter(|word| *word != "--json").collect();
        told(CAREFUL, &[sure(0.9)], &list)["speculated"]["thresholds"].as_array().unwrap().len()
    });
    assert_eq!(lengths, [3, 3, 8]);
    let error = simulate(&lines(), &["--thresholds"]).unwrap_err().to_string();
    assert!(error.contains("mode Speculative, and this one has mode Select"), "{error}");
    let error = simulate_by(CAREFUL, &lines(), &["--thresholds=1.5"]).unwrap_err().to_string();
    assert!(error.contains("expected numbers from 0 to 1"), "{error}");
}

#[test]
fn a_verifier_that_is_asked_early_is_asked_however_sure_the_node_is() {
    let slow = CAREFUL.replace("threshold: 0.8", "threshold: 0.8, parallelAfter: 2ms");
    let told = told(&slow, &[sure(0.95)], &[]);
    assert_eq!((&told["would"]["tiers"], &told["would"]["bytesUp"]), (&json!({"device": 1}), &100.into()));
    let later = CAREFUL.replace("threshold: 0.8", "threshold: 0.8, parallelAfter: 20ms");
    assert_eq!(self::told(&later, &[sure(0.95)], &[])["would"]["bytesUp"], 0);
}

#[test]
fn members_that_would_have_been_passed_over_leave_an_ensemble_or_end_it() {
    let ensemble = |quorum: u8| {
        format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: all}}\nspec:\n  mode: Ensemble\n  ensemble: {{members: [Device, Edge, Cloud], quorum: {quorum}}}\n  tiers: {{edge: {{url: 'http://edge'}}, cloud: {{url: 'http://cloud'}}}}\n"
        )
    };
    let records = [with(record(100, "device", 4.0), "/state/cloud", json!({"breaker": "open"}))];
    let two = told(&ensemble(2), &records, &[]);
    assert_eq!((&two["would"]["tiers"], &two["would"]["bytesUp"]), (&json!({"ensemble": 1}), &100.into()));
    let three = told(&ensemble(3), &records, &[]);
    assert_eq!((&three["would"]["tiers"], &three["would"]["bytesUp"]), (&json!({"device": 1}), &100.into()));
    assert_eq!(three["would"]["reasons"], json!({"QuorumNotMet": 1}));
}

#[test]
fn what_a_reason_came_to_in_the_end_is_what_happened() {
    let mut record = sure(0.95);
    record["decision"]["reason"] = "Speculative".into();
    record["happened"]["reason"] = "Confident".into();
    assert_eq!(told(CAREFUL, &[record], &[])["happened"]["reasons"], json!({"Confident": 1}));
}
