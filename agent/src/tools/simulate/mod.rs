//! `terrace-agent simulate`: what a policy would have made of recorded requests, against what happened.
//!
//! Each request is decided anew by what its node knew then, those that it would have passed over included. Only the first
//! tier that would have been asked counts: whether it would have answered, no record can tell. Its latency is what was
//! measured, where it is the tier that answered, else what the node predicted for it at that moment.

mod lines;
mod replay;
mod sums;
mod thresholds;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use terrace_tiering::Mode;

use super::given::{LabelArgs, PolicyArgs};
use super::sited::Sited;
use crate::registry::ModelKey;
use lines::Lines;
use replay::replay;
use sums::Simulation;
use thresholds::threshold;

/// The most models that an error names.
const MOST_NAMES: usize = 8;
/// How there comes to be one.
const RECORD: &str = "Records are what an agent appends, a line a request, to the file that its flag --record-decisions FILE names";
/// The most models that are kept for it.
const MOST_MODELS: usize = 256;

/// What is simulated.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,

    /// What --record-decisions wrote, or - for standard input.
    #[arg(long, value_name = "FILE")]
    requests: String,

    /// Only requests for this model: NAMESPACE.NAME, or a name in the default namespace.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    #[command(flatten)]
    labels: LabelArgs,

    /// What share of the requests other thresholds would send up, for a policy of mode Speculative.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = threshold, num_args = 0..=1,
        default_missing_value = "0.5,0.6,0.7,0.8,0.9,0.95,0.99")]
    thresholds: Vec<f64>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what would have been, against what was.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let policy = args.policy.read()?;
    let threshold = match policy.mode() {
        Mode::Speculative(speculative) => Some(speculative.threshold),
        Mode::Select | Mode::Ensemble(_) if args.thresholds.is_empty() => None,
        other => anyhow::bail!(
            "--thresholds goes with a policy of mode Speculative, and this one has mode {}",
            other.as_str()
        ),
    };
    let labels: BTreeMap<String, String> = args.labels.read();
    let sited = Sited::new(&policy, &labels);
    let model = args.model.as_ref().map(|model| ModelKey::from_url(model, "default").to_string());
    let mut lines = Lines::open(&args.requests)?;
    let (mut simulation, mut others) = (Simulation::default(), BTreeSet::new());
    while let Some(record) = lines.next()? {
        if model.as_ref().is_none_or(|model| record.model == *model) {
            let replayed = replay(&record, &sited, &labels);
            simulation.add(&record, replayed);
        } else if others.len() < MOST_MODELS {
            others.insert(record.model);
        }
    }
    if simulation.is_empty() {
        nothing(&args.requests, model.as_deref(), others, &lines)?;
    }
    let outcome = simulation.result(threshold, &args.thresholds, lines.unreadable());
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&outcome)?)?;
    } else {
        outcome.write(out)?;
        if let Some(first) = lines.first_unreadable() {
            writeln!(out, "the first: {}: {first}", args.requests)?;
        }
    }
    Ok(())
}

/// Why there is nothing to simulate.
fn nothing(file: &str, model: Option<&str>, others: BTreeSet<String>, lines: &Lines) -> anyhow::Result<()> {
    match (model, others.is_empty(), lines.first_unreadable()) {
        (Some(model), false, _) => anyhow::bail!(
            "no request for {model} in {file}: it has {}",
            super::listed(others.into_iter(), MOST_NAMES)
        ),
        (_, _, Some(first)) => anyhow::bail!(
            "{file} is no recording: no line of it is a recorded decision. {RECORD}. What is wrong begins in line {first}"
        ),
        _ => anyhow::bail!("{file} holds no recorded request. {RECORD}"),
    }
}

#[cfg(test)]
mod tests;
