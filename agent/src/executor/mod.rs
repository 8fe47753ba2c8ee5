//! Walks the candidates of a decision until one answers, inside the time that is left. Never adds one.

mod attempt;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use terrace_crds::Tier;
use terrace_oip::Tensor;
use terrace_tiering::{self as tiering, Decision, Source};

use crate::message::Message;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, Served};
use crate::serve::millis;
use crate::upstream::Relayed;
use attempt::{attempt, left};

/// What is to be answered.
#[derive(Debug)]
pub struct Job<'a> {
    /// The node that answers.
    pub node: &'a Node,
    /// The tier that it was when the request was decided.
    pub tier: Tier,
    /// The model, as it stood when the request came.
    pub entry: &'a Entry,
    /// Who may answer, in order.
    pub decision: &'a Decision,
    /// What this node's own model would compute on; whoever runs it takes it.
    pub work: Mutex<Option<Work>>,
    /// The request, as it is forwarded; there where another tier may answer.
    pub message: Option<Message>,
    /// When the answer is due, if ever.
    pub deadline: Option<Instant>,
}

/// What a model computes on, and what is wanted of it.
#[derive(Debug)]
pub struct Work {
    /// The inputs, decoded.
    pub inputs: Vec<Tensor>,
    /// The outputs that the request names, if it does.
    pub outputs: Option<Vec<String>>,
}

/// An answer, and how it came about.
#[derive(Debug)]
pub struct Answer {
    /// Who produced the outputs.
    pub tier: Tier,
    /// As what.
    pub source: Source,
    /// The outputs.
    pub output: Output,
    /// Everything that was tried, the last one included.
    pub attempts: Vec<Attempt>,
}

/// Who answered, and as what.
pub type By = Option<(Tier, &'static str)>;

/// Outputs, from here or from elsewhere.
#[derive(Debug)]
pub enum Output {
    /// Of the model on this node.
    Local {
        /// The revision that answered.
        served: Arc<Served>,
        /// Its outputs.
        tensors: Vec<Tensor>,
    },
    /// Of another tier.
    Relayed(Relayed),
}

impl Output {
    /// About how much there is to encode.
    pub fn size(&self) -> usize {
        match self {
            Self::Local { tensors, .. } => tensors.iter().map(|tensor| tensor.data().raw_size()).sum(),
            Self::Relayed(relayed) => relayed.json_length(),
        }
    }
}

/// One try, as the response tells of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// Where.
    pub tier: &'static str,
    /// How it ended: `Answered`, or why not, in one word.
    pub outcome: &'static str,
    /// How long it took.
    pub ms: f64,
}

/// Tries each candidate in turn.
pub async fn run(job: Job<'_>) -> Result<Answer, Refusal> {
    let candidates = &job.decision.candidates;
    let local_at = candidates.iter().position(|candidate| candidate.tier == job.tier);
    let longest_run = job.entry.served().and_then(|served| served.model.load_figures().longest_run);
    let reserve = tiering::reserve_for_local(left(job.deadline), longest_run);

    let mut attempts = Vec::with_capacity(candidates.len());
    let mut refusals = Vec::new();
    for (position, candidate) in candidates.iter().enumerate() {
        let local_comes_later = local_at.is_some_and(|local| local > position);
        let reserve = if local_comes_later { reserve } else { Duration::ZERO };
        let begun = Instant::now();
        let tried = attempt(&job, candidate, reserve).await;
        let outcome = tried.as_ref().map_or_else(|failure| failure.outcome, |_| "Answered");
        job.node.metrics.attempt(candidate.tier, outcome);
        attempts.push(Attempt { tier: candidate.tier.as_str(), outcome, ms: millis(begun.elapsed()) });
        match tried {
            Ok(output) => {
                return Ok(Answer { tier: candidate.tier, source: candidate.source, output, attempts });
            }
            Err(failure) if failure.last => return Err(failure.refusal),
            Err(failure) => refusals.push(failure.refusal),
        }
    }
    Err(nobody(&job, refusals, &attempts))
}

/// What the client is told when nobody answered: of all that went wrong, what it can do something about.
fn nobody(job: &Job<'_>, refusals: Vec<Refusal>, attempts: &[Attempt]) -> Refusal {
    if attempts.is_empty() {
        return Refusal::NoTier(job.decision.refusal());
    }
    if left(job.deadline).is_some_and(|left| left.is_zero()) {
        return Refusal::Deadline(format!("no tier answered within the deadline: {}", told(attempts)));
    }
    let mut refusals = refusals;
    match refusals.len() {
        1 => refusals.remove(0),
        _ => Refusal::NoTier(format!("no tier answered: {}", told(attempts))),
    }
}

fn told(attempts: &[Attempt]) -> String {
    let told: Vec<String> = attempts
        .iter()
        .map(|attempt| format!("{} {} after {} ms", attempt.tier, attempt.outcome, attempt.ms))
        .collect();
    told.join(", ")
}
