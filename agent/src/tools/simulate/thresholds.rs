//! What thresholds would have sent up, of requests whose node's confidence was recorded.

use std::io::{self, Write};

use serde::Serialize;

use super::replay::Trial;
use super::sums::share;

/// A threshold on the command line.
pub(super) fn threshold(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|threshold| (0.0..=1.0).contains(threshold));
    number.ok_or_else(|| "expected numbers from 0 to 1, with commas between them".to_owned())
}

/// The requests on which a node and its verifier are to work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Speculated {
    /// Of so many it is known whether they go up.
    known: usize,
    /// Of so many it is not: the node's confidence was not recorded.
    not_known: usize,
    /// The policy's own threshold first.
    thresholds: Vec<SentUp>,
}

/// What one threshold sends up, of those that are known.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct SentUp {
    threshold: f64,
    requests: usize,
    share: f64,
    bytes: u64,
}

impl Speculated {
    /// For the policy's threshold, and others.
    pub(super) fn of(trials: &[Trial], own: f64, others: &[f64]) -> Self {
        // Which of them are known hangs on no threshold.
        let known: Vec<&Trial> = trials.iter().filter(|trial| trial.goes_up(own).is_some()).collect();
        let sent_up = |threshold: &f64| {
            let up = known.iter().filter(|trial| trial.goes_up(*threshold) == Some(true));
            let (requests, bytes) =
                up.fold((0, 0), |(requests, bytes), trial| (requests + 1, bytes + trial.bytes));
            let share = requests as f64 / known.len().max(1) as f64;
            SentUp { threshold: *threshold, requests, share, bytes }
        };
        Self {
            known: known.len(),
            not_known: trials.len() - known.len(),
            thresholds: std::iter::once(&own).chain(others).map(sent_up).collect(),
        }
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n{:<28}{:>16}{:>16}", "sent up at threshold", "requests", "bytes")?;
        for (place, SentUp { threshold, requests, bytes, .. }) in self.thresholds.iter().enumerate() {
            let name = if place == 0 { format!("{threshold}, the policy's") } else { threshold.to_string() };
            writeln!(out, "{name:<28}{:>16}{bytes:>16}", share(*requests, self.known))?;
        }
        if self.not_known > 0 {
            writeln!(
                out,
                "of {} more it is not known: how sure the node was, was not recorded",
                self.not_known
            )?;
        }
        Ok(())
    }
}
