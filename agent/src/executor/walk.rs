//! One tier after the other, until one answers.

use std::time::{Duration, Instant};

use terrace_tiering::{self as tiering, Candidate};

use super::attempt::{attempt, left};
use super::{ANSWERED, Answer, Job, Tried};
use crate::refusal::Refusal;

/// Tries each candidate in turn, after what was `tried` before.
pub async fn walk(job: &Job<'_>, candidates: &[Candidate], mut tried: Tried) -> Result<Answer, Refusal> {
    let local_at = candidates.iter().position(|candidate| candidate.tier == job.tier);
    let longest_run = job.entry.served().and_then(|served| served.model.load_figures().longest_run);
    let reserve = tiering::reserve_for_local(left(job.deadline), longest_run);
    for (position, candidate) in candidates.iter().enumerate() {
        let local_comes_later = local_at.is_some_and(|local| local > position);
        let reserve = if local_comes_later { reserve } else { Duration::ZERO };
        let begun = Instant::now();
        let attempt = attempt(job, candidate, reserve).await;
        match attempt.ended {
            Ok(output) => {
                tried.note(job, candidate.tier, ANSWERED, begun.elapsed());
                tried.hedged(attempt.hedged);
                return Ok(tried.answer(candidate.tier, candidate.source, output));
            }
            Err(failure) => {
                tried.failed(job, candidate.tier, failure, begun.elapsed())?;
                tried.hedged(attempt.hedged);
            }
        }
    }
    Err(tried.nobody(job))
}
