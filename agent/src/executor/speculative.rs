//! The node answers; what it is not sure of, a verifier answers. What comes next is `tiering::speculate`'s word.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_tiering::speculate::{self, Device, Next, Verifier};
use terrace_tiering::{self as tiering, Candidate, Source, Speculative};
use tokio::time::sleep;

use super::attempt::{Tried as Try, attempt, left};
use super::scores::{self, Extra};
use super::walk::walk;
use super::{Answer, Job, Output, Tried};
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
    fn cancel(&mut self, job: &Job<'_>, tried: &mut Tried) {
        if self.running.take().is_some() {
            tried.note(job, self.tier, "Cancelled", self.begun.elapsed());
        }
    }
}

/// Has the node answer and, where it is not sure, the verifier.
pub async fn run(job: &Job<'_>, plan: &Speculative) -> Result<Answer, Refusal> {
    let here = Candidate { tier: job.tier, source: Source::Primary };
    let above = Candidate { tier: plan.verifier, source: Source::Verifier };
    let extra = Extra::ask_for_scores(job);
    let mut tried = Tried::default();
    let (mut device, mut verifier) = (Side::idle(here.tier), Side::idle(above.tier));
    device.start(attempt(job, &here, Duration::ZERO));
    let (mut node, mut above_it) = (Device::Running, Verifier::Idle);
    let mut slow = plan.parallel_after == Some(Duration::ZERO);
    let slow_after = plan.parallel_after;
    let begun = device.begun;
    loop {
        match speculate::next(plan, node, above_it, slow) {
            Next::Wait => tokio::select! {
                biased;
                ended = device.ended() => match ended.ended {
                    Ok(output) => {
                        tried.note(job, device.tier, "Answered", device.begun.elapsed());
                        let confidence = scores::confidence(job, &output);
                        tried.confidence = confidence;
                        // Of what cannot be measured nobody is sure.
                        node = Device::Answered(confidence.unwrap_or(0.0));
                        device.output = Some(extra.take_from(output));
                    }
                    Err(failure) => {
                        tried.failed(job, device.tier, failure, device.begun.elapsed())?;
                        node = Device::Failed;
                    }
                },
                ended = verifier.ended() => {
                    let took = verifier.begun.elapsed();
                    let hedged = ended.hedged;
                    match ended.ended {
                        Ok(output) => {
                            tried.note(job, verifier.tier, "Answered", took);
                            verifier.output = Some(output);
                            above_it = Verifier::Answered;
                        }
                        Err(failure) => {
                            tried.passed_over(job, verifier.tier, failure, took);
                            above_it = Verifier::Failed;
                        }
                    }
                    tried.hedged(hedged);
                },
                () = slow_since(begun, slow_after), if !slow && slow_after.is_some() => slow = true,
            },
            Next::AskVerifier => {
                let size = device.output.as_ref().map_or(0, |output| output.text_size(|_| false));
                let reserve = tiering::reserve_for_reply(left(job.deadline), size);
                let asked = &above;
                verifier.start(attempt(job, asked, reserve));
                above_it = Verifier::Running;
            }
            Next::TakeDevice(source, reason) => {
                verifier.cancel(job, &mut tried);
                let output = device.output.take().ok_or_else(lost)?;
                return Ok(Answer { reason: Some(reason), ..tried.answer(device.tier, source, output) });
            }
            Next::TakeVerifier(source, reason) => {
                device.cancel(job, &mut tried);
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

/// Ends when the node has had as long as it may have alone.
async fn slow_since(begun: Instant, after: Option<Duration>) {
    let after = after.unwrap_or(Duration::MAX);
    sleep(after.saturating_sub(begun.elapsed())).await;
}

/// An answer that was there is taken once.
fn lost() -> Refusal {
    Refusal::Failed("the answer was taken before".to_owned())
}
