//! Several tiers answer at once, and what is there in time becomes one answer. How, is `tiering::combine`'s word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use terrace_oip::Tensor;
use terrace_tiering::{self as tiering, Candidate, Member, Mode, Reason, Source};
use tokio::time::timeout;

use super::attempt::{Failure, attempt, left, too_late};
use super::combine::combined;
use super::scores::Extra;
use super::walk::walk;
use super::{Answer, Job, Output, Tried};
use crate::heavy::heavy;
use crate::refusal::Refusal;
use crate::registry::Served;

/// What one member answered.
#[derive(Debug)]
pub struct Answered {
    /// Who.
    pub member: Member,
    /// Its outputs.
    pub tensors: Vec<Tensor>,
    /// The revision that gave them, if that is known.
    pub version: Option<String>,
    /// The revision, where the member is this node.
    served: Option<Arc<Served>>,
}

impl Answered {
    /// As the answer of this member alone.
    fn alone(self) -> Output {
        match self.served {
            Some(served) => Output::Local { served, tensors: self.tensors },
            None => Output::Combined { version: self.version, tensors: self.tensors },
        }
    }
}

/// Asks every member at once, and waits for each as long as it may take.
pub async fn run(job: &Job<'_>, members: &[Member]) -> Result<Answer, Refusal> {
    let (Mode::Ensemble(ensemble), Some(measure)) = (job.entry.policy.mode(), &job.entry.measure) else {
        // Nobody is given a policy that goes by what the model lacks.
        return Err(Refusal::Failed("the model has no confidence to combine answers by".to_owned()));
    };
    let extra = Extra::ask_for_scores(job);
    let mut tried = Tried::default();
    let reserve = tiering::reserve_for_reply(left(job.deadline), 0);
    let mut answered: Vec<Answered> = Vec::with_capacity(members.len());
    for (member, ended, took) in join_all(members.iter().map(|member| ask(job, *member, reserve))).await {
        match ended {
            Ok(answer) => {
                tried.note(job, member.tier, "Answered", took);
                answered.push(answer);
            }
            Err(failure) => tried.passed_over(job, member.tier, failure, took),
        }
    }
    if answered.len() < ensemble.quorum {
        return fall_back(job, &extra, answered, tried).await;
    }
    let size =
        answered.iter().flat_map(|answer| &answer.tensors).map(|tensor| tensor.data().raw_size()).sum();
    let version =
        answered.iter().find(|answer| answer.served.is_some()).and_then(|answer| answer.version.clone());
    let (mut tensors, confidence) = heavy(size, || combined(ensemble.combine, measure, answered))?;
    extra.take_out_of(&mut tensors);
    tried.confidence = Some(confidence);
    let output = Output::Combined { version, tensors };
    Ok(Answer { tier: "ensemble", ..tried.answer(job.tier, Source::Ensemble, output) })
}

/// One member, with its answer decoded. It must leave time to combine and to reply.
async fn ask(
    job: &Job<'_>,
    member: Member,
    reserve: Duration,
) -> (Member, Result<Answered, Failure>, Duration) {
    let begun = Instant::now();
    let candidate = Candidate { tier: member.tier, source: Source::Ensemble };
    let attempt = attempt(job, &candidate, reserve);
    // Another tier is given up by itself in time; this node's own model goes by the deadline alone.
    let limit = left(job.deadline).filter(|_| member.tier == job.tier);
    let ended = match limit {
        Some(limit) => timeout(limit.saturating_sub(reserve), attempt).await.unwrap_or_else(|_| {
            Err(Failure { outcome: "DeadlineExceeded", refusal: too_late(), last: false }).into()
        }),
        None => attempt.await,
    };
    let answered = ended.ended.and_then(|output| decoded(member, output));
    (member, answered, begun.elapsed())
}

fn decoded(member: Member, output: Output) -> Result<Answered, Failure> {
    let size = output.size();
    let (tensors, version, served) = match output {
        Output::Local { served, tensors } => (tensors, Some(served.revision().to_owned()), Some(served)),
        Output::Combined { version, tensors } => (tensors, version, None),
        Output::Relayed(relayed) => {
            let response = heavy(size, || relayed.decode()).map_err(|error| Failure {
                outcome: "Malformed",
                refusal: Refusal::NoTier(format!(
                    "{}: an answer that is no inference response: {error}",
                    member.tier
                )),
                last: false,
            })?;
            (response.outputs, response.model_version, None)
        }
    };
    Ok(Answered { member, tensors, version, served })
}

/// Too few answered. Of those that did, the first in the fallback order stands for all; where none is in it, the tiers
/// in it that were not asked follow.
async fn fall_back(
    job: &Job<'_>,
    extra: &Extra,
    mut answered: Vec<Answered>,
    tried: Tried,
) -> Result<Answer, Refusal> {
    let candidates = &job.decision.candidates;
    let in_hand = candidates.iter().find_map(|candidate| {
        Some((candidate, answered.iter().position(|answer| answer.member.tier == candidate.tier)?))
    });
    let answer = if let Some((candidate, position)) = in_hand {
        let mut answer = answered.swap_remove(position);
        extra.take_out_of(&mut answer.tensors);
        tried.answer(candidate.tier, candidate.source, answer.alone())
    } else {
        let others: Vec<Candidate> =
            candidates.iter().filter(|candidate| !tried.has(candidate.tier)).copied().collect();
        walk(job, &others, tried).await?
    };
    Ok(Answer { reason: Some(Reason::QuorumNotMet), ..answer })
}
