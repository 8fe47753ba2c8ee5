//! Sums over replayed records, what happened beside what would have, for programs (JSON) and for people (a table).

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::replay::{ENSEMBLE, NOBODY, Replayed, Trial, UNRESOLVED};
use super::thresholds::Speculated;
use crate::record::{Record, Tried};
use crate::tools::count;

/// The sums so far.
#[derive(Debug, Default)]
pub(super) struct Simulation {
    requests: usize,
    private: usize,
    wrong: usize,
    refused: usize,
    failures: usize,
    /// By header, for how many requests it was asked for in vain.
    not_recorded: BTreeMap<String, usize>,
    happened: Side,
    would: Side,
    /// From who answered to who would be asked first.
    moved: BTreeMap<(String, &'static str), usize>,
    trials: Vec<Trial>,
}

/// What happened, or what would have.
#[derive(Debug, Default)]
struct Side {
    tiers: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    /// By tier and reason.
    passed_over: BTreeMap<(String, String), usize>,
    latencies_ms: Vec<f64>,
    unknown_latency: usize,
    bytes_up: u64,
}

impl Simulation {
    /// Whether there was no record.
    pub(super) const fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Adds a record, and what would have become of it.
    pub(super) fn add(&mut self, record: &Record, replayed: Replayed) {
        self.requests += 1;
        let would = match replayed {
            Replayed::Wrong => return self.wrong += 1,
            Replayed::Private => return self.private += 1,
            Replayed::Refused => None,
            Replayed::Would(would) => Some(would),
        };
        let bytes = record.request.as_ref().map_or(0, |request| request.bytes);
        self.happened.add_record(record, bytes);
        let Some(would) = would else {
            self.refused += 1;
            return self.would.add(NOBODY, "Refused", None, 0);
        };
        self.failures += usize::from(would.rule_failed);
        for header in would.not_recorded {
            *self.not_recorded.entry(header).or_default() += 1;
        }
        self.trials.extend(would.trial);
        self.would.add(would.who, &would.reason, would.latency_ms, would.copies * bytes);
        for (tier, why) in would.passed_over {
            self.would.pass_over(tier.as_str(), why.as_str());
        }
        let answered = record.happened.tier.as_deref().unwrap_or(NOBODY);
        if answered != would.who && would.who != UNRESOLVED {
            *self.moved.entry((answered.to_owned(), would.who)).or_default() += 1;
        }
    }

    /// All that there is to tell. `threshold` is that of the policy, if it has one.
    pub(super) fn result(self, threshold: Option<f64>, thresholds: &[f64], unreadable: usize) -> Outcome {
        Outcome {
            requests: self.requests,
            private: self.private,
            wrong: self.wrong,
            unreadable,
            refused: self.refused,
            rules_failed: self.failures,
            headers_not_recorded: self.not_recorded,
            speculated: threshold.map(|own| Speculated::of(&self.trials, own, thresholds)),
            happened: self.happened.told(),
            would: self.would.told(),
            moved: self
                .moved
                .into_iter()
                .map(|((from, to), requests)| Moved { from, to: to.to_owned(), requests })
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

    fn pass_over(&mut self, tier: &str, why: &str) {
        *self.passed_over.entry((tier.to_owned(), why.to_owned())).or_default() += 1;
    }

    /// What happened to a request of so many bytes.
    fn add_record(&mut self, record: &Record, bytes: u64) {
        let happened = &record.happened;
        let decided = record.decision.as_ref().map(|decision| &decision.reason);
        let reason = happened.reason.as_ref().or(decided).map_or("", String::as_str);
        let latency = happened.tier.is_some().then_some(happened.latency_ms);
        let here = record.node.as_str();
        let copies = happened.attempts.iter().filter(|tried| tried.tier != here).map(copies);
        let bytes_up = bytes * copies.sum::<u64>();
        self.add(happened.tier.as_deref().unwrap_or(NOBODY), reason, latency, bytes_up);
        for tried in happened.attempts.iter().filter(|tried| was_passed_over(tried)) {
            self.pass_over(&tried.tier, &tried.outcome);
        }
    }

    fn told(mut self) -> Told {
        self.latencies_ms.sort_by(f64::total_cmp);
        Told {
            p50_ms: quantile(&self.latencies_ms, 50),
            p90_ms: quantile(&self.latencies_ms, 90),
            tiers: self.tiers,
            reasons: self.reasons,
            passed_over: self
                .passed_over
                .into_iter()
                .map(|((tier, why), requests)| PassedOver { tier, why, requests })
                .collect(),
            unknown_latency: self.unknown_latency,
            bytes_up: self.bytes_up,
        }
    }
}

fn was_passed_over(tried: &Tried) -> bool {
    matches!(
        &*tried.outcome,
        "BreakerOpen" | "PredictedTooLate" | "TooManyInFlight" | "DeadlineExceeded" | "NotLoaded"
    )
}

/// How often another tier had the request.
fn copies(tried: &Tried) -> u64 {
    let was_sent = !was_passed_over(tried)
        && !matches!(&*tried.outcome, "ConnectFailed" | "NotAllowed" | "CredentialsUnavailable");
    if was_sent { 1 + u64::from(tried.hedged) } else { 0 }
}

/// The value that `percent` of the sorted values do not exceed.
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied()
}

/// What would have been, against what was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    requests: usize,
    /// They are answered by their node, whatever a policy says, or had no policy: nothing of them is recorded.
    private: usize,
    /// Their client was told that they are wrong.
    wrong: usize,
    unreadable: usize,
    /// They ask for a tier that this policy does not configure.
    refused: usize,
    /// A rule failed on so many of them.
    rules_failed: usize,
    /// By header that a rule asked for, how many records do not say whether their request had it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers_not_recorded: BTreeMap<String, usize>,
    /// What a threshold sends up, where the policy has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    speculated: Option<Speculated>,
    happened: Told,
    would: Told,
    moved: Vec<Moved>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    tiers: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    passed_over: Vec<PassedOver>,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    unknown_latency: usize,
    bytes_up: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct PassedOver {
    tier: String,
    why: String,
    requests: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Moved {
    from: String,
    to: String,
    requests: usize,
}

impl Outcome {
    /// A table.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_head(out)?;
        let open = self.requests - self.private - self.wrong;
        let (was, would) = (&self.happened, &self.would);
        writeln!(out, "\n{:<28}{:>16}{:>16}", "", "happened", "this policy")?;
        for tier in ["device", "edge", "cloud", ENSEMBLE, UNRESOLVED, NOBODY] {
            let (was, would) = (was.of(tier), would.of(tier));
            if was + would > 0 {
                writeln!(out, "{tier:<28}{:>16}{:>16}", share(was, open), share(would, open))?;
            }
        }
        writeln!(out, "{:<28}{:>16}{:>16}", "bytes sent up", was.bytes_up, would.bytes_up)?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency p50, ms", ms(was.p50_ms), ms(would.p50_ms))?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency p90, ms", ms(was.p90_ms), ms(would.p90_ms))?;
        writeln!(out, "{:<28}{:>16}{:>16}", "latency not known", was.unknown_latency, would.unknown_latency)?;
        side_by_side(out, "reasons", &was.reasons, &would.reasons)?;
        side_by_side(out, "passed over", &was.passed_over(), &would.passed_over())?;
        if let Some(speculated) = &self.speculated {
            speculated.write(out)?;
        }
        if !self.moved.is_empty() {
            writeln!(out)?;
        }
        for Moved { from, to, requests } in &self.moved {
            writeln!(out, "{requests} from {from} to {to}")?;
        }
        Ok(())
    }

    /// What the table is of, and what is not in it.
    fn write_head(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", count(self.requests, "request"))?;
        for (requests, what) in [
            (self.private, "private, or of a model without an accepted policy: nothing of them is recorded"),
            (self.wrong, "wrong (4xx), and left out"),
            (self.refused, "for a tier that this policy does not configure: refused"),
        ] {
            if requests > 0 {
                writeln!(out, "  {requests} of them {what}")?;
            }
        }
        if self.rules_failed > 0 {
            writeln!(out, "  a rule fails on {} of them", self.rules_failed)?;
        }
        for (header, requests) in &self.headers_not_recorded {
            writeln!(
                out,
                "  {requests} of them judged as if they had no header {header}: it was not recorded"
            )?;
        }
        if !self.headers_not_recorded.is_empty() {
            writeln!(
                out,
                "  to judge by headers, record under a policy whose requestHeaders list them, whatever its rules are"
            )?;
        }
        if self.unreadable > 0 {
            writeln!(out, "{} could not be read", count(self.unreadable, "line"))?;
        }
        Ok(())
    }
}

/// What was counted on both sides, under a heading.
fn side_by_side(
    out: &mut dyn Write,
    heading: &str,
    was: &BTreeMap<String, usize>,
    would: &BTreeMap<String, usize>,
) -> io::Result<()> {
    let mut names: Vec<&String> = was.keys().chain(would.keys()).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        writeln!(out, "\n{heading}")?;
    }
    for name in names {
        let count = |side: &BTreeMap<String, usize>| side.get(name).copied().unwrap_or(0);
        writeln!(out, "  {name:<26}{:>16}{:>16}", count(was), count(would))?;
    }
    Ok(())
}

impl Told {
    fn of(&self, tier: &str) -> usize {
        self.tiers.get(tier).copied().unwrap_or(0)
    }

    fn passed_over(&self) -> BTreeMap<String, usize> {
        let told = self.passed_over.iter();
        told.map(|PassedOver { tier, why, requests }| (format!("{tier}: {why}"), *requests)).collect()
    }
}

/// How many of so many.
pub(super) fn share(count: usize, of: usize) -> String {
    format!("{count} ({:.1} %)", 100.0 * count as f64 / of.max(1) as f64)
}

fn ms(latency: Option<f64>) -> String {
    latency.map_or_else(|| "-".to_owned(), |latency| format!("{latency:.2}"))
}
