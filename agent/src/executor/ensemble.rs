//! Several tiers answer at once, and what is there in time becomes one answer. How, is `tiering::combine`'s word.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use terrace_oip::{DecodedResponse, Tensor};
use terrace_tiering::{self as tiering, Candidate, Combine, Measure, Member, Mode, Reason, Source};
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use super::attempt::{Failure, attempt, left, too_late};
use super::combine::{are_scores, combined};
use super::nobody::Quorum;
use super::scores::Extra;
use super::walk::walk;
use super::{ANSWERED, Answer, Job, Output, Tried};
use crate::answer::no_room;
use crate::decoding::Stopped;
use crate::heavy::heavy;
use crate::refusal::Refusal;
use crate::registry::Served;
use crate::room::Taken;
use crate::serve::Due;
use crate::upstream::Decoded;

/// Shorter than this, a timer is no shorter.
pub const A_MOMENT: Duration = Duration::from_millis(2);

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
    /// The room that it takes, where it is another tier's.
    taken: Taken,
}

impl Answered {
    /// How many bytes its outputs are.
    fn size(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.data().raw_size()).sum()
    }

    /// As the answer of this member alone.
    fn alone(self) -> Output {
        match self.served {
            Some(served) => Output::Local { served, tensors: self.tensors },
            None => Output::Combined { version: self.version, tensors: self.tensors, taken: self.taken },
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
    let mut answered: Vec<Answered> = Vec::with_capacity(members.len());
    let hedged: Vec<AtomicBool> = members.iter().map(|_| AtomicBool::new(false)).collect();
    let ends = ask_all(job, members, &hedged).await;
    for ((member, hedged), End { ended, took }) in members.iter().zip(&hedged).zip(ends) {
        match ended.and_then(|answer| scored(ensemble.combine, measure, answer)) {
            Ok(answer) => {
                tried.note(job, member.tier, ANSWERED, took);
                answered.push(answer);
            }
            Err(failure) => tried.passed_over(job, member.tier, failure, took),
        }
        tried.hedged(hedged);
    }
    if answered.len() < ensemble.quorum {
        tried.quorum = Some(Quorum {
            needed: ensemble.quorum,
            answered: answered.len(),
            members: ensemble.members.len(),
        });
        return fall_back(job, &extra, answered, tried).await;
    }
    let size = answered.iter().map(Answered::size).sum();
    let version =
        answered.iter().find(|answer| answer.served.is_some()).and_then(|answer| answer.version.clone());
    let (mut tensors, confidence) = heavy(size, || combined(ensemble.combine, measure, answered))?;
    extra.take_out_of(&mut tensors);
    tried.confidence = Some(confidence);
    let output = Output::Combined { version, tensors, taken: Taken::default() };
    Ok(Answer { tier: "ensemble", ..tried.answer(job.tier, Source::Ensemble, output) })
}

/// What came of one member.
struct End {
    ended: Result<Answered, Failure>,
    took: Duration,
}

/// What came of each member, in their order. How long it takes to combine and to write is known only once one of them has
/// answered: the larger its answer, the earlier those that have not are given up. Who was asked a second time stands in
/// `hedged`, given up or not.
async fn ask_all(job: &Job<'_>, members: &[Member], hedged: &[AtomicBool]) -> Vec<End> {
    let (begun, whole) = (Instant::now(), left(job.deadline));
    let reserve = tiering::reserve_for_combined(whole, [], members.len());
    let asked = |place: usize| {
        let asked = ask(job, members[place], reserve, &hedged[place]);
        async move { (place, asked.await) }
    };
    let mut asked: FuturesUnordered<_> = (0..members.len()).map(asked).collect();
    let mut ends: Vec<Option<End>> = members.iter().map(|_| None).collect();
    while !asked.is_empty() {
        let in_hand = ends.iter().flatten().filter_map(|end| Some(end.ended.as_ref().ok()?.size()));
        let needed = tiering::reserve_for_combined(whole, in_hand, asked.len());
        let next = match job.deadline {
            // Else each of them is given up by itself in time, and is known to have been late.
            Some(deadline) if needed >= reserve + A_MOMENT => {
                let until = deadline.checked_sub(needed).unwrap_or(begun);
                timeout_at(until.into(), asked.next()).await.ok().flatten()
            }
            _ => asked.next().await,
        };
        let Some((place, end)) = next else { break };
        ends[place] = Some(end);
    }
    ends.into_iter()
        .zip(members)
        .map(|(end, member)| end.unwrap_or_else(|| given_up(job, *member, begun)))
        .collect()
}

/// One member, with its answer decoded. It must leave so much time to combine and to reply.
async fn ask(job: &Job<'_>, member: Member, reserve: Duration, hedged: &AtomicBool) -> End {
    let begun = Instant::now();
    let candidate = Candidate { tier: member.tier, source: Source::Ensemble };
    let attempt = attempt(job, &candidate, reserve, hedged);
    // Another tier is given up by itself in time; this node's own model goes by the deadline alone.
    let limit = left(job.deadline).filter(|_| member.tier == job.tier);
    let attempt = match limit {
        Some(limit) => match timeout(limit.saturating_sub(reserve), attempt).await {
            Ok(attempt) => attempt,
            Err(_) => return given_up(job, member, begun),
        },
        None => attempt.await,
    };
    let until = job.deadline.map(|deadline| deadline.checked_sub(reserve).unwrap_or(begun));
    let ended = attempt.ended.and_then(|output| decoded(job, member, output, Due::by(until)));
    End { ended, took: begun.elapsed() }
}

/// A member that took longer than it may.
fn given_up(job: &Job<'_>, member: Member, begun: Instant) -> End {
    let outcome = if member.tier == job.tier { "DeadlineExceeded" } else { "TimedOut" };
    let failure = Failure { outcome, refusal: too_late(), last: false };
    End { ended: Err(failure), took: begun.elapsed() }
}

fn decoded(job: &Job<'_>, member: Member, output: Output, due: Due) -> Result<Answered, Failure> {
    Ok(match output {
        Output::Local { served, tensors } => Answered {
            member,
            tensors,
            version: Some(served.revision().to_owned()),
            served: Some(served),
            taken: Taken::default(),
        },
        Output::Combined { version, tensors, taken } => {
            Answered { member, tensors, version, served: None, taken }
        }
        Output::Relayed(relayed) => {
            let decoded = relayed.decode(&job.node.limits().room, due);
            let Decoded { response, taken } = decoded.map_err(|stopped| unread(member, stopped))?;
            let DecodedResponse { outputs: tensors, model_version: version, .. } = response;
            Answered { member, tensors, version, served: None, taken }
        }
    })
}

/// A member whose answer is there, and cannot be read.
fn unread(member: Member, stopped: Stopped) -> Failure {
    let (outcome, refusal) = match stopped {
        Stopped::Late => ("TimedOut", too_late()),
        Stopped::Full(full) => ("NoRoom", no_room(full)),
        Stopped::Wrong(error) => (
            "Malformed",
            Refusal::NoTier(format!("{}: an answer that is no inference response: {error}", member.tier)),
        ),
    };
    Failure { outcome, refusal, last: false }
}

/// A member whose scores can be none is left out.
fn scored(how: Combine, measure: &Measure, answer: Answered) -> Result<Answered, Failure> {
    let Err(impossible) = heavy(answer.size(), || are_scores(how, measure, &answer)) else {
        return Ok(answer);
    };
    let tier = answer.member.tier;
    debug!(%tier, %impossible, "a member is left out");
    Err(Failure {
        outcome: "NotScores",
        refusal: Refusal::Incompatible(format!("{tier}: {impossible}")),
        last: false,
    })
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
