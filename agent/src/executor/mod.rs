//! Asks the tiers that a decision names, as its plan says, inside the time that is left. Never adds one.

mod attempt;
mod combine;
mod ensemble;
mod fit;
mod nobody;
pub mod scores;
mod speculative;
mod walk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use terrace_crds::Tier;
use terrace_oip::{Datatype, Tensor};
use terrace_tiering::{Decision, Plan, Reason, Source};

use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, Served};
use crate::room::Taken;
use crate::serve::millis;
use crate::upstream::{Outgoing, Relayed, Trace};
use attempt::{Failure, left};
use nobody::{Nobody, Quorum};

/// How a try is said to have ended that gave an answer.
const ANSWERED: &str = "Answered";

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
    pub outgoing: Option<Outgoing>,
    /// The trace that it is part of.
    pub trace: Option<&'a Trace>,
    /// Where to note how sure this node's own model is; none where nobody records it.
    pub sure: Option<&'a OnceLock<f64>>,
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
    /// Who produced the outputs: a tier, or `ensemble`.
    pub tier: &'static str,
    /// As what.
    pub source: Source,
    /// Why, where that was known only once the answer was there; else the decision says so.
    pub reason: Option<Reason>,
    /// How sure this node's own model was, or the combined answer is; none where nobody had to know.
    pub confidence: Option<f64>,
    /// The outputs.
    pub output: Output,
    /// Everything that was tried, the last one included, and what was not and why.
    pub attempts: Vec<Attempt>,
}

/// Who answered, and as what.
pub type By = Option<(&'static str, &'static str)>;

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
    /// Of several, combined.
    Combined {
        /// The revision of this node that took part, if one did.
        version: Option<String>,
        /// The outputs.
        tensors: Vec<Tensor>,
        /// The room that they take, where another tier's answer has it.
        taken: Taken,
    },
    /// Of another tier.
    Relayed(Relayed),
}

impl Output {
    /// About how much there is to be written element by element; numbers in binary are sent as they lie in memory.
    pub fn text_size(&self, is_binary: impl Fn(&str) -> bool) -> usize {
        match self {
            Self::Local { tensors, .. } | Self::Combined { tensors, .. } => {
                let is_text =
                    |tensor: &&Tensor| tensor.datatype() == Datatype::Bytes || !is_binary(tensor.name());
                tensors.iter().filter(is_text).map(|tensor| tensor.data().raw_size()).sum()
            }
            Self::Relayed(relayed) => relayed.text_size(),
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
    /// A second request was made because the first answer was late.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hedged: bool,
}

/// Answers as the decision's plan says.
pub async fn run(job: Job<'_>) -> Result<Answer, Refusal> {
    match &job.decision.plan {
        Plan::Walk => walk::walk(&job, &job.decision.candidates, Tried::default()).await,
        // Large, and not what most requests need: those should not carry it along.
        Plan::Speculate(speculative) => Box::pin(speculative::run(&job, speculative)).await,
        Plan::Ensemble(members) => Box::pin(ensemble::run(&job, members)).await,
    }
}

/// Everything that was tried for a request so far, and what came of it.
#[derive(Debug, Default)]
struct Tried {
    attempts: Vec<Attempt>,
    /// What the client is told if nobody else answers.
    refusals: Vec<Refusal>,
    /// One of them is about the request itself.
    rejected: Option<Refusal>,
    /// How sure the answer is, where that was measured.
    confidence: Option<f64>,
    /// Too few members of an ensemble answered.
    quorum: Option<Quorum>,
}

impl Tried {
    /// Notes how a try ended.
    fn note(&mut self, job: &Job<'_>, tier: Tier, outcome: &'static str, took: Duration) {
        job.node.metrics.attempt(tier, outcome);
        self.attempts.push(Attempt { tier: tier.as_str(), outcome, ms: millis(took), hedged: false });
    }

    /// Says of the try that was noted last whether it took a second request.
    fn hedged(&mut self, hedged: &AtomicBool) {
        if let Some(last) = self.attempts.last_mut() {
            last.hedged = hedged.load(Ordering::Relaxed);
        }
    }

    /// Notes a failure, where another tier may follow; else it is the end.
    fn failed(&mut self, job: &Job<'_>, tier: Tier, failure: Failure, took: Duration) -> Result<(), Refusal> {
        self.note(job, tier, failure.outcome, took);
        if failure.last {
            return Err(failure.refusal);
        }
        self.refusals.push(failure.refusal);
        Ok(())
    }

    /// Notes a failure that is no reason to ask nobody else: others are asked already.
    fn passed_over(&mut self, job: &Job<'_>, tier: Tier, failure: Failure, took: Duration) {
        self.note(job, tier, failure.outcome, took);
        if failure.last {
            self.rejected.get_or_insert(failure.refusal);
        } else {
            self.refusals.push(failure.refusal);
        }
    }

    /// Whether a tier was tried.
    fn has(&self, tier: Tier) -> bool {
        self.attempts.iter().any(|attempt| attempt.tier == tier.as_str())
    }

    /// The answer of a tier.
    fn answer(self, tier: Tier, source: Source, output: Output) -> Answer {
        Answer {
            tier: tier.as_str(),
            source,
            reason: None,
            confidence: self.confidence,
            output,
            attempts: self.attempts,
        }
    }

    /// What the client is told when nobody answered.
    fn nobody(self, job: &Job<'_>) -> Refusal {
        if self.attempts.is_empty() {
            return Refusal::NoTier(job.decision.refusal());
        }
        if let Some(rejected) = self.rejected {
            return rejected;
        }
        let nobody = Nobody {
            attempts: &self.attempts,
            skipped: &job.decision.skipped,
            quorum: self.quorum,
            is_over: left(job.deadline).is_some_and(|left| left.is_zero()),
        };
        nobody.refusal(self.refusals)
    }
}

#[cfg(test)]
mod tests {
    use terrace_oip::TensorData;

    use super::*;

    #[test]
    fn texts_are_written_one_by_one_in_binary_too() {
        let tensor = |name: &str, data: TensorData| Tensor::new(name, vec![data.len()], data).unwrap();
        let tensors = vec![
            tensor("n", TensorData::Fp32(vec![0.0; 10].into())),
            tensor("t", TensorData::Bytes(vec![vec![]; 10])),
        ];
        let output = Output::Combined { version: None, tensors, taken: Taken::default() };
        assert_eq!(output.text_size(|_| true), 40);
        assert_eq!(output.text_size(|name| name == "t"), 80);
        assert_eq!(output.text_size(|_| false), 80);
    }
}
