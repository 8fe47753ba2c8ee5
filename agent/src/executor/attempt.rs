//! One try at one tier: this node's own model, or another tier's.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use terrace_crds::Tier;
use terrace_crds::policy::Protocol;
use terrace_egress::causes;
use terrace_engine::{InferError, Request};
use terrace_tiering::{self as tiering, Candidate, SkipReason};
use tracing::debug;

use super::{Job, Output, Work, scores};
use crate::answer::no_room;
use crate::refusal::Refusal;
use crate::registry::Served;
use crate::room::Full;
use crate::upstream::{Ask, Route, TierReach, UpstreamError};

/// How one try failed.
#[derive(Debug)]
pub struct Failure {
    /// In one word.
    pub outcome: &'static str,
    /// What the client is told if nobody else answers.
    pub refusal: Refusal,
    /// No other tier would like the request better.
    pub last: bool,
}

/// How one try ended.
#[derive(Debug)]
pub struct Tried {
    /// The outputs, or why there are none.
    pub ended: Result<Output, Failure>,
    /// Who gave them, where that is another tier.
    pub by: Option<Arc<Route>>,
}

impl From<Result<Output, Failure>> for Tried {
    fn from(ended: Result<Output, Failure>) -> Self {
        Self { ended, by: None }
    }
}

/// Tries `candidate`, and keeps `reserve` of the time that is left for those after it. Dropped before its end, it stops
/// what it began: a run that nobody else waits for, a request that is under way. Several may run at once, each for another
/// tier. `hedged` is set once a second request is made because the first answer is late.
pub async fn attempt(job: &Job<'_>, candidate: &Candidate, reserve: Duration, hedged: &AtomicBool) -> Tried {
    let entry = job.entry;
    let reach = entry.reach.to(candidate.tier).filter(|_| candidate.tier != job.tier);
    let timeout = reach.map(|reach| reach.remote.timeout);
    let left = left(job.deadline);
    let limit = match tiering::attempt_timeout(left, timeout, reserve) {
        tiering::Attempt::Run(limit) => limit,
        tiering::Attempt::Skip(why) => return Err(skipped(why)).into(),
    };
    match (reach, entry.served()) {
        (Some(reach), _) => {
            let allowed = left.map(|left| left.saturating_sub(reserve));
            let limits = (limit.unwrap_or(reach.remote.timeout), allowed);
            // Large, and not what a request that is answered here should carry along.
            Box::pin(forward(job, candidate.tier, reach, limits, hedged)).await
        }
        (None, Some(served)) => run_here(job, served, left).await.into(),
        (None, None) => Err(Failure {
            outcome: SkipReason::NotLoaded.as_str(),
            refusal: Refusal::NoTier("the model is not loaded on this node".to_owned()),
            last: false,
        })
        .into(),
    }
}

/// On this node's own model.
async fn run_here(job: &Job<'_>, served: &Arc<Served>, left: Option<Duration>) -> Result<Output, Failure> {
    let now = job.node.upstream.now();
    if left.is_some_and(|left| !served.pace().admits_shortest(now, left)) {
        return Err(skipped(SkipReason::PredictedTooLate));
    }
    // A tier is a candidate once, so it is there.
    let work = job.work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Work { inputs, outputs }) = work else {
        let refusal = Refusal::Failed("the request was run here before".to_owned());
        return Err(Failure { outcome: "Failed", refusal, last: false });
    };
    let is_private = job.decision.privacy_required;
    let request = Request { inputs, outputs, deadline: job.deadline, is_private };
    let begun = Instant::now();
    let ran = served.model.infer(request).await;
    let now = job.node.upstream.now();
    match ran {
        Ok(tensors) => {
            served.pace().observe(now, begun.elapsed());
            scores::note(job, &tensors);
            Ok(Output::Local { served: Arc::clone(served), tensors })
        }
        Err(error) => {
            let text = error.to_string();
            if matches!(error, InferError::DeadlineExceeded) {
                served.pace().observe_at_least(now, begun.elapsed());
            }
            let (outcome, refusal, last) = match error {
                InferError::InvalidInput(_) => ("InvalidInput", Refusal::Invalid(text), true),
                InferError::QueueFull => ("QueueFull", Refusal::Busy(text), false),
                InferError::DeadlineExceeded => ("DeadlineExceeded", too_late(), false),
                InferError::Failed => ("Failed", Refusal::Failed(text), false),
                InferError::Stopped => ("Stopped", Refusal::NoTier(text), false),
            };
            Err(Failure { outcome, refusal, last })
        }
    }
}

/// On another tier, in so much time, of which the deadline leaves so much.
async fn forward(
    job: &Job<'_>,
    tier: Tier,
    reach: &TierReach,
    (limit, allowed): (Duration, Option<Duration>),
    hedged: &AtomicBool,
) -> Tried {
    // What holds for a private request holds here too, whatever was decided.
    let outgoing = job.outgoing.as_ref().filter(|_| !job.decision.privacy_required);
    let Some(outgoing) = outgoing else {
        let refusal = Refusal::NoTier(format!("{tier}: the request may not leave this node"));
        return Err(Failure { outcome: "NotAllowed", refusal, last: false }).into();
    };
    let model = job.entry.name_on(tier, &job.node.default_namespace);
    let ask = Ask {
        from: job.tier,
        model: &model,
        outgoing,
        limit,
        allowed,
        deadline: job.deadline,
        trace: job.trace,
        hedged,
    };
    let (answer, by) = match reach.ask(&job.node.upstream, ask).await {
        Ok((relayed, by)) => (Ok(Output::Relayed(relayed)), Some(by)),
        Err(error) => (Err(error), None),
    };
    let ended = answer.map_err(|error| {
        let outcome = error.outcome();
        debug!(%tier, outcome, error = causes(&error), "a tier did not answer");
        match error {
            UpstreamError::Skipped(why @ (SkipReason::PredictedTooLate | SkipReason::DeadlineExceeded)) => {
                skipped(why)
            }
            UpstreamError::LeftAlone(alone) => {
                let refusal =
                    Refusal::NotNow { message: format!("{tier} {alone}"), seconds: alone.seconds() };
                Failure { outcome, refusal, last: false }
            }
            UpstreamError::Skipped(why) => {
                Failure { refusal: Refusal::NoTier(format!("{tier} {}", why.text())), ..skipped(why) }
            }
            UpstreamError::Rejected { message } => {
                Failure { outcome, refusal: Refusal::Invalid(format!("{tier}: {message}")), last: true }
            }
            UpstreamError::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. } => {
                Failure { outcome, refusal: Refusal::TooLargeThere { tier: tier.as_str() }, last: false }
            }
            UpstreamError::NoRoom(full @ Full::Now { .. }) => {
                let refusal = Refusal::Busy(format!("{tier}: no room for its answer: {full}"));
                Failure { outcome, refusal, last: false }
            }
            UpstreamError::NoRoom(full) => Failure { outcome, refusal: no_room(full), last: false },
            // The deadline cut it short, and not what the policy grants the tier.
            error @ UpstreamError::TimedOut { .. } if allowed.is_some_and(|allowed| allowed <= limit) => {
                Failure { outcome, refusal: Refusal::Deadline(format!("{tier}: {error}")), last: false }
            }
            // The deadline went along, and by that tier's word it passed there, or leaves too little time.
            UpstreamError::Status { status: StatusCode::GATEWAY_TIMEOUT, late: Some(_), in_protocol }
                if in_protocol || reach.remote.protocol == Protocol::GRPC =>
            {
                let refusal = Refusal::Deadline(format!("{tier}: not in time, as it says itself"));
                Failure { outcome, refusal, last: false }
            }
            error => {
                let refusal = Refusal::NoTier(format!("{tier}: {}", error.told(&model)));
                Failure { outcome, refusal, last: false }
            }
        }
    });
    Tried { ended, by }
}

fn skipped(why: SkipReason) -> Failure {
    Failure { outcome: why.as_str(), refusal: too_late(), last: false }
}

/// What is said where a deadline leaves no time.
pub fn too_late() -> Refusal {
    Refusal::Deadline("too little of the deadline was left".to_owned())
}

/// The time before `deadline`; none where there is none.
pub fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
