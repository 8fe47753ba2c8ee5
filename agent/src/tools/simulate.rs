//! `terrace-agent simulate`: what a policy would have made of recorded requests, against what happened.
//!
//! Each request is decided anew by what its node knew then. Only the first tier counts: whether it would have answered,
//! no record can tell. Its latency is what was measured, where it is the tier that answered, else what the node
//! predicted for it at that moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use serde::Serialize;
use terrace_crds::Tier;
use terrace_tiering::{Facts, Input, Plan, Policy, Requirements, Stated, decide};

use super::STDIN;
use super::policy::PolicyArgs;
use crate::record::{Record, Request};
use crate::registry::ModelKey;

/// The longest line that is read.
const MOST_LINE: usize = 1 << 20;

/// What is simulated.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,

    /// What --record-decisions wrote, or - for standard input.
    #[arg(long, value_name = "FILE")]
    requests: String,

    /// Only requests for this model: NAMESPACE.NAME.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what would have been, against what was.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let policy = args.policy.policy()?;
    let labels = args.policy.labels();
    let lines: Box<dyn BufRead> = if args.requests == STDIN {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.requests)
            .map_err(|error| anyhow::anyhow!("{} cannot be read: {error}", args.requests))?;
        Box::new(BufReader::new(file))
    };
    let mut simulation = Simulation::default();
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(|error| anyhow::anyhow!("{}:{number}: {error}", args.requests))?;
        if line.len() > MOST_LINE {
            anyhow::bail!("{}:{number}: is longer than {MOST_LINE} bytes", args.requests);
        }
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Record>(&line) {
            Ok(record) if args.model.as_ref().is_none_or(|model| record.model == *model) => {
                simulation.add(&record, &policy, &labels);
            }
            Ok(_) => {}
            // The last line, where the agent ended in the middle of it.
            Err(error) if error.is_eof() => simulation.unreadable += 1,
            Err(error) => anyhow::bail!("{}:{number}: {error}", args.requests),
        }
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &simulation.result())?;
        writeln!(out)?;
    } else {
        simulation.result().write(out)?;
    }
    Ok(())
}

/// A recorded request, as rules see it.
struct Recorded<'a> {
    request: &'a Request,
    model: ModelKey,
    labels: &'a BTreeMap<String, String>,
}

impl Facts for Recorded<'_> {
    fn entropy(&self) -> f64 {
        self.request.entropy
    }
    fn bytes(&self) -> u64 {
        self.request.bytes
    }
    fn batch(&self) -> usize {
        self.request.batch
    }
    fn input_count(&self) -> usize {
        self.request.inputs.len()
    }
    fn input(&self, name: &str) -> Option<Input<'_>> {
        let input = self.request.inputs.iter().find(|input| input.name == name)?;
        Some(Input { shape: &input.shape, datatype: &input.datatype })
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name).map(String::as_str)
    }
    fn model_namespace(&self) -> &str {
        &self.model.namespace
    }
    fn model_name(&self) -> &str {
        &self.model.name
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

/// Sums over the records so far.
#[derive(Debug, Default)]
struct Simulation {
    requests: usize,
    private: usize,
    unreadable: usize,
    refused: usize,
    failures: usize,
    speculated: usize,
    happened: Side,
    would: Side,
    /// From the tier that answered to the one that would be asked first.
    moved: BTreeMap<(String, String), usize>,
}

/// What happened, or what would have.
#[derive(Debug, Default)]
struct Side {
    tiers: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    latencies_ms: Vec<f64>,
    unknown_latency: usize,
    bytes_up: u64,
}

const NOBODY: &str = "nobody";
const ENSEMBLE: &str = "ensemble";

impl Simulation {
    fn add(&mut self, record: &Record, policy: &Policy, labels: &BTreeMap<String, String>) {
        self.requests += 1;
        let (Some(request), Some(state)) = (&record.request, &record.state) else {
            self.private += 1;
            return;
        };
        let here = record.node.as_str();
        let answered = record.happened.tier.as_deref().unwrap_or(NOBODY);
        let up = record.happened.attempts.iter().filter(|tried| tried.tier != here).count() as u64;
        let reason = record.decision.as_ref().map_or("", |decision| &*decision.reason);
        let latency = record.happened.tier.is_some().then_some(record.happened.latency_ms);
        self.happened.add(answered, reason, latency, up * request.bytes);

        let stated = Stated {
            max_latency_ms: request.max_latency_ms,
            privacy_required: None,
            complexity: request.complexity,
            tier: request.tier,
            hop: request.hop,
        };
        let Ok(requirements) = Requirements::tighten(policy, record.node, stated, Stated::default()) else {
            self.refused += 1;
            self.would.add(NOBODY, "Refused", None, 0);
            return;
        };
        let snapshot = state.snapshot(record.node);
        let facts = Recorded { request, model: ModelKey::from_url(&record.model, "default"), labels };
        let decision = decide(policy, &requirements, &snapshot, facts);
        self.failures += usize::from(!decision.failed.is_none());
        if let Plan::Ensemble(members) = &decision.plan {
            let others = members.iter().filter(|member| member.tier != record.node).count() as u64;
            self.would.add(ENSEMBLE, decision.reason.as_str(), None, others * request.bytes);
            *self.moved.entry((answered.to_owned(), ENSEMBLE.to_owned())).or_default() += 1;
            return;
        }
        self.speculated += usize::from(matches!(decision.plan, Plan::Speculate(_)));
        let tier = decision.candidates.first().map(|candidate| candidate.tier);
        let name = tier.map_or(NOBODY, Tier::as_str);
        let latency = match tier {
            Some(tier) if name == answered && record.happened.attempts.len() <= 1 => {
                latency.or_else(|| state.predicted_ms(tier, record.node))
            }
            Some(tier) => state.predicted_ms(tier, record.node),
            None => None,
        };
        let bytes_up = if tier.is_some_and(|tier| tier != record.node) { request.bytes } else { 0 };
        self.would.add(name, decision.reason.as_str(), latency, bytes_up);
        *self.moved.entry((answered.to_owned(), name.to_owned())).or_default() += 1;
    }

    fn result(self) -> Outcome {
        Outcome {
            requests: self.requests,
            private: self.private,
            unreadable: self.unreadable,
            refused: self.refused,
            rules_failed: self.failures,
            speculated: self.speculated,
            happened: self.happened.told(),
            would: self.would.told(),
            moved: self
                .moved
                .into_iter()
                .filter(|((from, to), _)| from != to)
                .map(|((from, to), requests)| Moved { from, to, requests })
                .collect(),
        }
    }
}

impl Side {
    fn add(&mut self, tier: &str, reason: &str, latency_ms: Option<f64>, bytes_up: u64) {
        *self.tiers.entry(tier.to_owned()).or_default() += 1;
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        match latency_ms {
            Some(latency) => self.latencies_ms.push(latency),
            None => self.unknown_latency += 1,
        }
        self.bytes_up += bytes_up;
    }

    fn told(mut self) -> Told {
        self.latencies_ms.sort_by(f64::total_cmp);
        Told {
            p50_ms: quantile(&self.latencies_ms, 50),
            p90_ms: quantile(&self.latencies_ms, 90),
            tiers: self.tiers,
            reasons: self.reasons,
            unknown_latency: self.unknown_latency,
            bytes_up: self.bytes_up,
        }
    }
}

/// The value that `percent` of the sorted values do not exceed.
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

/// What would have been, against what was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    requests: usize,
    /// They are answered by their node, whatever a policy says.
    private: usize,
    unreadable: usize,
    /// They ask for a tier that this policy does not configure.
    refused: usize,
    /// A rule failed on so many of them.
    rules_failed: usize,
    /// A verifier may be asked, too; how sure the node would have been, no record can tell.
    speculated: usize,
    happened: Told,
    would: Told,
    moved: Vec<Moved>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    tiers: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    unknown_latency: usize,
    bytes_up: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Moved {
    from: String,
    to: String,
    requests: usize,
}

impl Outcome {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let open = self.requests - self.private;
        writeln!(
            out,
            "{} requests, {} of them private and answered by their node",
            self.requests, self.private
        )?;
        writeln!(out, "\n{:<28}{:>16}{:>16}", "", "happened", "this policy")?;
        for tier in ["device", "edge", "cloud", ENSEMBLE, NOBODY] {
            let (was, would) = (self.happened.of(tier), self.would.of(tier));
            if was + would > 0 {
                writeln!(out, "{tier:<28}{:>16}{:>16}", share(was, open), share(would, open))?;
            }
        }
        let (was, would) = (&self.happened, &self.would);
        writeln!(out, "{:<28}{:>16}{:>16}", "bytes sent up", was.bytes_up, would.bytes_up)?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency p50, ms", ms(was.p50_ms), ms(would.p50_ms))?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency p90, ms", ms(was.p90_ms), ms(would.p90_ms))?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency not known", was.unknown_latency, would.unknown_latency)?;
        let mut reasons: Vec<&String> = was.reasons.keys().chain(would.reasons.keys()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            let count = |told: &Told| told.reasons.get(reason).copied().unwrap_or(0);
            writeln!(out, "{:<28}{:>16}{:>16}", reason, count(was), count(would))?;
        }
        for Moved { from, to, requests } in &self.moved {
            writeln!(out, "{requests} from {from} to {to}")?;
        }
        for (count, what) in [
            (self.rules_failed, "requests on which a rule failed"),
            (self.speculated, "requests whose answer a verifier may be asked about, too"),
            (self.refused, "requests that ask for a tier that this policy does not configure"),
            (self.unreadable, "lines that are not whole"),
        ] {
            if count > 0 {
                writeln!(out, "{count} {what}")?;
            }
        }
        Ok(())
    }
}

impl Told {
    fn of(&self, tier: &str) -> usize {
        self.tiers.get(tier).copied().unwrap_or(0)
    }
}

fn share(count: usize, of: usize) -> String {
    format!("{count} ({:.1} %)", 100.0 * count as f64 / of.max(1) as f64)
}

fn ms(latency: Option<f64>) -> String {
    latency.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.2}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::parsed;
    use super::*;

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

    fn simulate(records: &[String], more: &[&str]) -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (policy, requests) = (file("policy.yaml"), file("requests.jsonl"));
        fs::write(&policy, POLICY)?;
        fs::write(&requests, records.join("\n"))?;
        let line = ["simulate", "--policy", &policy, "--requests", &requests];
        let args: Args = parsed(line.iter().chain(more))?;
        let mut out = Vec::new();
        run(&args, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn recorded() -> Vec<String> {
        let private = json!({"time": "2026-11-27T10:00:00Z", "model": "default.digits", "node": "device",
            "private": true, "happened": {"tier": "device", "code": 200, "latencyMs": 2.0}});
        let asks = |tier: &str| {
            let mut record = record(5000, tier, 20.0);
            record["request"]["tier"] = tier.into();
            record
        };
        [
            record(100, "cloud", 50.0),
            record(2000, "cloud", 60.0),
            record(2000, "device", 4.0),
            private,
            asks("edge"),
        ]
        .iter()
        .map(Value::to_string)
        .collect()
    }

    #[test]
    fn what_a_policy_would_do_stands_beside_what_happened() {
        let told: Value = serde_json::from_str(&simulate(&recorded(), &["--json"]).unwrap()).unwrap();
        assert_eq!(
            (&told["requests"], &told["private"], &told["refused"]),
            (&5.into(), &1.into(), &1.into())
        );
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
        let told = simulate(&recorded(), &[]).unwrap();
        assert!(told.starts_with("5 requests, 1 of them private and answered by their node\n"), "{told}");
        let row = |name: &str| -> Vec<String> {
            let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{told}"));
            line[name.len()..].split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("cloud"), ["2", "(50.0", "%)", "2", "(50.0", "%)"]);
        assert_eq!(row("bytes sent up"), ["7100", "4000"]);
        assert_eq!(row("Rule[2]"), ["0", "2"]);
    }

    #[test]
    fn a_model_can_be_chosen_and_a_torn_last_line_is_passed_over() {
        let mut records = recorded();
        records.push(records[0][..40].to_owned());
        let told: Value = serde_json::from_str(&simulate(&records, &["--json"]).unwrap()).unwrap();
        assert_eq!(told["unreadable"], 1);
        let other = simulate(&records, &["--json", "--model", "default.other"]).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&other).unwrap()["requests"], 0);
        let error = simulate(&["{\"time\": 1}".to_owned()], &[]).unwrap_err().to_string();
        assert!(error.contains("requests.jsonl:1: "), "{error}");
    }
}
