//! What a model has done since it was loaded.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs of more rows are counted as of so many: a client may send any number.
const MOST_ROWS: usize = 1024;

/// What a model has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests whose run was stopped: nobody waited for it any more.
    pub stopped: u64,
    /// Rows that ran; a private request counts as one.
    pub rows: u64,
    /// Bytes of the inputs that ran, but for private requests.
    pub input_bytes: u64,
    /// Bytes of the outputs that came of it, but for private requests.
    pub output_bytes: u64,
    /// How long requests waited, in all.
    pub waited: Duration,
    /// How long their runs took, in all; a run of several requests counts for each.
    pub ran: Duration,
    /// Runs by their rows; the last counts larger ones too.
    pub runs: BTreeMap<usize, Runs>,
    /// When it ran last, in milliseconds since 1970.
    pub last_ms: u64,
}

/// Runs of so many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// How long they took.
    pub time: Duration,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Its requests.
    pub requests: u64,
    /// What became of them.
    pub outcome: Outcome,
    /// Its rows.
    pub rows: usize,
    /// Bytes of its inputs.
    pub input_bytes: usize,
    /// Bytes of its outputs.
    pub output_bytes: usize,
    /// How long its requests had waited, in all.
    pub waited: Duration,
    /// How long it took.
    pub took: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With outputs.
    Answered,
    /// Without.
    Failed,
    /// Early: nobody waited for it any more.
    Stopped,
}

/// Counts runs.
#[derive(Debug, Default)]
pub struct Counter(Mutex<Statistics>);

impl Counter {
    /// Once a run: the sessions of a model rarely meet here.
    pub fn ran(&self, run: Run) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *match run.outcome {
            Outcome::Answered => &mut done.answered,
            Outcome::Failed => &mut done.failed,
            Outcome::Stopped => &mut done.stopped,
        } += run.requests;
        done.rows += run.rows as u64;
        done.input_bytes += run.input_bytes as u64;
        done.output_bytes += run.output_bytes as u64;
        done.waited += run.waited;
        done.ran += run.took * u32::try_from(run.requests).unwrap_or(u32::MAX);
        let runs = done.runs.entry(run.rows.min(MOST_ROWS)).or_default();
        runs.count += 1;
        runs.time += run.took;
        done.last_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    }

    /// What was counted.
    pub fn read(&self) -> Statistics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
