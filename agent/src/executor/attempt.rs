//! One try at one tier: this node's own model, or another tier's.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use terrace_crds::Tier;
use terrace_egress::causes;
use terrace_engine::InferError;
use terrace_tiering::{self as tiering, Candidate, RemoteTier, SkipReason};
use tracing::debug;

use super::{Job, Output, Work};
use crate::refusal::Refusal;
use crate::registry::Served;
use crate::upstream::{Forward, UpstreamError};

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

/// Tries `candidate`, and keeps `reserve` of the time that is left for those after it. Dropped before its end, it stops
/// what it began: a run that nobody else waits for, a request that is under way. Several may run at once, each for another
/// tier.
pub async fn attempt(job: &Job<'_>, candidate: &Candidate, reserve: Duration) -> Result<Output, Failure> {
    let entry = job.entry;
    let remote = entry.policy.remote(candidate.tier).filter(|_| candidate.tier != job.tier);
    let timeout = remote.map(|remote| remote.timeout);
    let limit = match tiering::attempt_timeout(left(job.deadline), timeout, reserve) {
        tiering::Attempt::Run(limit) => limit,
        tiering::Attempt::Skip(why) => {
            return Err(Failure { outcome: why.as_str(), refusal: too_late(), last: false });
        }
    };
    match (remote, entry.served()) {
        (Some(remote), _) => forward(job, candidate.tier, remote, limit).await,
        (None, Some(served)) => run_here(job, served).await,
        (None, None) => Err(Failure {
            outcome: "NotLoaded",
            refusal: Refusal::NoTier("the model is not loaded on this node".to_owned()),
            last: false,
        }),
    }
}

/// On this node's own model.
async fn run_here(job: &Job<'_>, served: &Arc<Served>) -> Result<Output, Failure> {
    // A tier is a candidate once, so it is there.
    let work = job.work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Work { inputs, outputs }) = work else {
        let refusal = Refusal::Failed("the request was run here before".to_owned());
        return Err(Failure { outcome: "Failed", refusal, last: false });
    };
    let ran = served.model.infer(inputs, outputs, job.deadline).await;
    match ran {
        Ok(tensors) => Ok(Output::Local { served: Arc::clone(served), tensors }),
        Err(error) => {
            let text = error.to_string();
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

/// On another tier.
async fn forward(
    job: &Job<'_>,
    tier: Tier,
    remote: &RemoteTier,
    limit: Option<Duration>,
) -> Result<Output, Failure> {
    let Some(message) = job.message.clone() else {
        let refusal = Refusal::NoTier(format!("{tier}: the request may not leave this node"));
        return Err(Failure { outcome: "NotAllowed", refusal, last: false });
    };
    // The first is this node's own: of the agents of a site, each node begins with another one.
    let first = remote.endpoints().and_then(|urls| urls.first().ok_or(SkipReason::NoEdgeAgent));
    let url = first.map_err(|why| Failure {
        outcome: why.as_str(),
        refusal: Refusal::NoTier(format!("{tier}: this node knows no way to it")),
        last: false,
    })?;
    let model = job.entry.name_on(tier, &job.node.default_namespace);
    let forward = Forward {
        from: job.tier,
        url,
        model: &model,
        message,
        timeout: limit.unwrap_or(remote.timeout),
        deadline: job.deadline,
    };
    job.node.upstream.infer(forward).await.map(Output::Relayed).map_err(|error| {
        let outcome = error.outcome();
        debug!(%tier, outcome, error = causes(&error), "a tier did not answer");
        match error {
            UpstreamError::Rejected { message, .. } => {
                Failure { outcome, refusal: Refusal::Invalid(format!("{tier}: {message}")), last: true }
            }
            UpstreamError::Status { status: StatusCode::PAYLOAD_TOO_LARGE } => {
                Failure { outcome, refusal: Refusal::TooLargeThere { tier: tier.as_str() }, last: false }
            }
            error => Failure { outcome, refusal: Refusal::NoTier(format!("{tier}: {error}")), last: false },
        }
    })
}

/// What is said where a deadline leaves no time.
pub fn too_late() -> Refusal {
    Refusal::Deadline("too little of the deadline was left".to_owned())
}

/// The time before `deadline`; none where there is none.
pub fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
