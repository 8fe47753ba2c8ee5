//! How busy a model is and how long it takes, as its threads tell and everybody reads.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use terrace_oip::Tensor;

use crate::batch::rows as rows_of;
use crate::statistics::{Counter, Outcome, Run, Statistics};
use crate::worker::Job;

/// How busy a model is, and how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadFigures {
    /// Requests that wait.
    pub queued: usize,
    /// Requests that run.
    pub running: usize,
    /// The longest run of late, that of a sample at load included: it decays, so that one slow run is forgotten. None before
    /// the first.
    pub longest_run: Option<Duration>,
}

/// The figures of a model, which its threads share.
#[derive(Debug, Default)]
pub struct Figures {
    running: AtomicUsize,
    /// Several requests were in flight when the last run ended.
    is_in_company: AtomicBool,
    longest_run_nanos: AtomicU64,
    done: Counter,
}

impl Figures {
    /// How busy the model is, where so many requests wait for it.
    pub fn load(&self, queued: usize) -> LoadFigures {
        let nanos = self.longest_run_nanos.load(Ordering::Relaxed);
        LoadFigures {
            queued,
            running: self.running.load(Ordering::Relaxed),
            longest_run: (nanos > 0).then(|| Duration::from_nanos(nanos)),
        }
    }

    /// What the model has done.
    pub fn done(&self) -> Statistics {
        self.done.read()
    }

    /// So many requests run now.
    pub fn begin(&self, requests: usize) {
        self.running.fetch_add(requests, Ordering::Relaxed);
    }

    /// So many of them do no longer.
    pub fn end(&self, requests: usize) {
        self.running.fetch_sub(requests, Ordering::Relaxed);
    }

    /// So many requests were in flight when a run ended.
    pub fn were_in_flight(&self, requests: usize) {
        self.is_in_company.store(requests > 1, Ordering::Relaxed);
    }

    /// Whether others are likely to ask at the same time as the request of this number. Where nobody did of late, every
    /// so many requests wait for a moment all the same: a session that answers each at once would never see two.
    pub fn may_have_company(&self, number: u64) -> bool {
        const TRY_EVERY: u64 = 16;
        self.is_in_company.load(Ordering::Relaxed) || number.is_multiple_of(TRY_EVERY)
    }

    /// Counts a run of `batch`, and the outputs of each request in it, where it had some. How large a private request is,
    /// whoever reads the counts is not told: it counts as one row, and as no bytes.
    pub fn ran(&self, batch: &[Job], begun: Instant, outcome: Outcome, outputs: &[Vec<Tensor>]) {
        let took = begun.elapsed();
        self.took(took);
        let told = || batch.iter().map(|job| &job.request).filter(|request| !request.is_private);
        let rows = told().map(|request| rows_of(&request.inputs).unwrap_or(1)).sum::<usize>();
        let answered = batch.iter().zip(outputs).filter(|(job, _)| !job.request.is_private);
        self.done.ran(Run {
            requests: batch.len() as u64,
            outcome,
            rows: rows + batch.len() - told().count(),
            input_bytes: told().map(|request| size(&request.inputs)).sum(),
            output_bytes: answered.map(|(_, outputs)| size(outputs)).sum(),
            waited: batch.iter().map(|job| begun.saturating_duration_since(job.queued)).sum(),
            took,
        });
    }

    /// The longest run of late: a longer one counts at once, shorter ones pull it down by a sixteenth each.
    pub fn took(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let longest = |before: u64| if took >= before { took } else { before - (before - took) / 16 };
        // In one step: another instance's longer run must not be overwritten by what was read before it.
        let _before = self
            .longest_run_nanos
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(longest(before)));
    }
}

/// How many bytes tensors are.
fn size(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data().raw_size()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_grows_at_once_and_is_forgotten_slowly() {
        let figures = Figures::default();
        let mut longest = Vec::new();
        for millis in [10, 160, 0, 0, 150, 1000] {
            figures.took(Duration::from_millis(millis));
            longest.push(Duration::from_nanos(figures.longest_run_nanos.load(Ordering::Relaxed)).as_micros());
        }
        assert_eq!(longest, [10_000, 160_000, 150_000, 140_625, 150_000, 1_000_000]);
        (0..200).for_each(|_| figures.took(Duration::from_millis(1)));
        let late = figures.longest_run_nanos.load(Ordering::Relaxed);
        assert!((1_000_000..1_100_000).contains(&late), "{late}");
        figures.took(Duration::MAX);
        assert_eq!(figures.longest_run_nanos.load(Ordering::Relaxed), u64::MAX);
    }
}
