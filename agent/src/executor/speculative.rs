//! The node answers; what it is not sure of, a verifier answers. What comes next is `tiering::speculate`'s word.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_tiering::speculate::{self, Device, Next, Verifier};
use terrace_tiering::{self as tiering, Candidate, Source, Speculative};
use tokio::time::{sleep, sleep_until};

use super::attempt::{Tried as Try, attempt, left};
use super::ensemble::A_MOMENT;
use super::fit;
use super::scores::{self, Extra};
use super::walk::walk;
use super::{ANSWERED, Answer, Job, Output, Tried};
use crate::refusal::Refusal;

/// One try under way. Dropped, it stops what it began.
type Running<'a> = Pin<Box<dyn Future<Output = Try> + Send + 'a>>;

/// A tier that may answer: what it does now, since when, and what it gave.
struct Side<'a> {
    tier: Tier,
    begun: Instant,
    running: Option<Running<'a>>,
    output: Option<Output>,
}

impl<'a> Side<'a> {
    fn idle(tier: Tier) -> Self {
        Self { tier, begun: Instant::now(), running: None, output: None }
    }

    fn start(&mut self, running: impl Future<Output = Try> + Send + 'a) {
        self.begun = Instant::now();
        self.running = Some(Box::pin(running));
    }

    /// What it gives, once it does; never, where it does nothing.
    async fn ended(&mut self) -> Try {
        let ended = match self.running.as_mut() {
            Some(running) => running.await,
            None => std::future::pending().await,
        };
        self.running = None;
        ended
    }

    /// Stops it, where it still works: somebody else answered.
    fn cancel(&mut self, job: &Job<'_>, tried: &mut Tried, hedged: &AtomicBool) {
        if self.running.take().is_some() {
            tried.note(job, self.tier, "Cancelled", self.begun.elapsed());
            tried.hedged(hedged);
        }
    }
}

/// Has the node answer and, where it is not sure, the verifier.
pub async fn run(job: &Job<'_>, plan: &Speculative) -> Result<Answer, Refusal> {
    let here = Candidate { tier: job.tier, source: Source::Primary };
    let above = Candidate { tier: plan.verifier, source: Source::Verifier };
    let wanted = fit::wanted(job);
    let extra = Extra::ask_for_scores(job);
    let mut tried = Tried::default();
    // The node's own model is asked once, and the verifier once a request.
    let (unhedged, hedged) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut device, mut verifier) = (Side::idle(here.tier), Side::idle(above.tier));
    device.start(attempt(job, &here, Duration::ZERO, &unhedged));
    let (mut node, mut above_it) = (Device::Running, Verifier::Idle);
    let mut slow = plan.parallel_after == Some(Duration::ZERO);
    let slow_after = plan.parallel_after;
    let begun = device.begun;
    // What the verifier leaves of the time, and until when it is waited for where that is less than the node's answer needs.
    let (mut left_by_it, mut give_up) = (Duration::ZERO, None);
    loop {
        match speculate::next(plan, node, above_it, slow) {
            Next::Wait => tokio::select! {
                biased;
                ended = device.ended() => match ended.ended {
                    Ok(output) => {
                        tried.note(job, device.tier, ANSWERED, device.begun.elapsed());
                        let confidence = scores::confidence(job, &output);
                        tried.confidence = confidence;
                        // Of what cannot be measured nobody is sure.
                        node = Device::Answered(confidence.unwrap_or(0.0));
                        let output = extra.take_from(output);
                        give_up = earlier(job, &output, left_by_it).filter(|_| above_it == Verifier::Running);
                        device.output = Some(output);
                    }
                    Err(failure) => {
                        tried.failed(job, device.tier, failure, device.begun.elapsed())?;
                        node = Device::Failed;
                    }
                },
                ended = verifier.ended() => {
                    let took = verifier.begun.elapsed();
                    let Try { ended, by } = ended;
                    let beside = fit::Beside { wanted: wanted.as_deref(), own: device.output.as_ref() };
                    match ended.and_then(|output| fit::fitting(job, beside, verifier.tier, (output, by))) {
                        Ok(output) => {
                            tried.note(job, verifier.tier, ANSWERED, took);
                            verifier.output = Some(output);
                            above_it = Verifier::Answered;
                        }
                        Err(failure) => {
                            tried.passed_over(job, verifier.tier, failure, took);
                            above_it = Verifier::Failed;
                        }
                    }
                    tried.hedged(&hedged);
                },
                () = until(give_up), if give_up.is_some() => {
                    verifier.running = None;
                    give_up = None;
                    tried.note(job, verifier.tier, "TimedOut", verifier.begun.elapsed());
                    tried.hedged(&hedged);
                    above_it = Verifier::Failed;
                }
                () = slow_since(begun, slow_after), if !slow && slow_after.is_some() => slow = true,
            },
            Next::AskVerifier => {
                left_by_it = reserve(job, device.output.as_ref());
                let asked = &above;
                verifier.start(attempt(job, asked, left_by_it, &hedged));
                above_it = Verifier::Running;
            }
            Next::TakeDevice(source, reason) => {
                verifier.cancel(job, &mut tried, &hedged);
                let output = device.output.take().ok_or_else(lost)?;
                return Ok(Answer { reason: Some(reason), ..tried.answer(device.tier, source, output) });
            }
            Next::TakeVerifier(source, reason) => {
                device.cancel(job, &mut tried, &unhedged);
                let output = verifier.output.take().ok_or_else(lost)?;
                return Ok(Answer { reason: Some(reason), ..tried.answer(verifier.tier, source, output) });
            }
            Next::FallBack => {
                let others: Vec<Candidate> = job
                    .decision
                    .candidates
                    .iter()
                    .filter(|candidate| !tried.has(candidate.tier))
                    .copied()
                    .collect();
                let answer = walk(job, &others, tried).await?;
                return Ok(Answer { reason: Some(tiering::Reason::DeviceFailed), ..answer });
            }
        }
    }
}

/// How long it takes to write an answer of the node, if it is there.
fn reserve(job: &Job<'_>, output: Option<&Output>) -> Duration {
    let size = output.map_or(0, |output| output.text_size(|_| false));
    tiering::reserve_for_reply(left(job.deadline), size)
}

/// Until when a verifier may take that was asked before the node answered: it leaves so much of the time, which may be
/// less than this answer takes to write. None where it is given up by itself in time.
fn earlier(job: &Job<'_>, output: &Output, left_by_it: Duration) -> Option<Instant> {
    let needed = reserve(job, Some(output));
    let is_earlier = needed >= left_by_it.saturating_add(A_MOMENT);
    job.deadline
        .filter(|_| is_earlier)
        .map(|deadline| deadline.checked_sub(needed).unwrap_or_else(Instant::now))
}

/// Ends at that time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends when the node has had as long as it may have alone.
async fn slow_since(begun: Instant, after: Option<Duration>) {
    let after = after.unwrap_or(Duration::MAX);
    sleep(after.saturating_sub(begun.elapsed())).await;
}

/// An answer that was there is taken once.
fn lost() -> Refusal {
    Refusal::Failed("the answer was taken before".to_owned())
}
