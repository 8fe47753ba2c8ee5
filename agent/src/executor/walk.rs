//! One tier after the other, until one answers.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_tiering::{self as tiering, Candidate, LocalTime};

use super::attempt::{attempt, left};
use super::{ANSWERED, Answer, Job, Tried};
use crate::refusal::Refusal;

/// Tries each candidate in turn, after what was `tried` before.
pub async fn walk(job: &Job<'_>, candidates: &[Candidate], mut tried: Tried) -> Result<Answer, Refusal> {
    let local_at = candidates.iter().position(|candidate| candidate.tier == job.tier);
    let reserve = match (job.deadline, local_at) {
        (Some(_), Some(1..)) => reserve(job, candidates[0].tier),
        _ => Duration::ZERO,
    };
    for (position, candidate) in candidates.iter().enumerate() {
        let local_comes_later = local_at.is_some_and(|local| local > position);
        let reserve = if local_comes_later { reserve } else { Duration::ZERO };
        let (begun, hedged) = (Instant::now(), AtomicBool::new(false));
        match attempt(job, candidate, reserve, &hedged).await.ended {
            Ok(output) => {
                tried.note(job, candidate.tier, ANSWERED, begun.elapsed());
                tried.hedged(&hedged);
                return Ok(tried.answer(candidate.tier, candidate.source, output));
            }
            Err(failure) => {
                tried.failed(job, candidate.tier, failure, begun.elapsed())?;
                tried.hedged(&hedged);
            }
        }
    }
    Err(tried.nobody(job))
}

/// What is kept back for this node's own model, where `first` is asked before it.
fn reserve(job: &Job<'_>, first: Tier) -> Duration {
    let now = job.node.upstream.now();
    let chosen = job.entry.reach.to(first).and_then(|reach| reach.shown(now));
    let local = job.entry.served().map_or_else(LocalTime::default, |served| LocalTime {
        longest_run: served.model.load_figures().longest_run,
        ..served.pace().local_time(now)
    });
    tiering::reserve_for_local(left(job.deadline), &local, chosen)
}
