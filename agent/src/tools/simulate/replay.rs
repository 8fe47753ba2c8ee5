//! One recorded request, decided anew.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use terrace_crds::Tier;
use terrace_tiering::speculate::{self, Device, Next, Verifier};
use terrace_tiering::{
    Candidate, Decision, Facts, Input, Member, Mode, Outlook, Plan, Policy, Reason, Requirements, SkipReason,
    Speculative, Stated, decide, outlook,
};

use crate::record::{Happened, Record, Request};
use crate::registry::ModelKey;
use crate::seen::Seen;
use crate::tools::sited::Sited;

/// Nobody answers.
pub(super) const NOBODY: &str = "nobody";
/// Several answer together.
pub(super) const ENSEMBLE: &str = "ensemble";
/// The node or its verifier: it hangs on how sure the node would have been, which was not recorded.
pub(super) const UNRESOLVED: &str = "not known";

/// What becomes of a record.
#[derive(Debug)]
pub(super) enum Replayed {
    /// The request was wrong, and would be again.
    Wrong,
    /// Nothing of it was recorded.
    Private,
    /// It asks for a tier that the policy does not configure.
    Refused,
    /// It would be answered, or not.
    Would(Would),
}

/// Who would have been asked first, and what that costs.
#[derive(Debug, Default)]
pub(super) struct Would {
    /// Who.
    pub(super) who: &'static str,
    /// Why.
    pub(super) reason: Cow<'static, str>,
    /// How long an answer takes, as far as that is known.
    pub(super) latency_ms: Option<f64>,
    /// To how many other tiers it goes.
    pub(super) copies: u64,
    /// Who is passed over before it, and why.
    pub(super) passed_over: Vec<(Tier, SkipReason)>,
    /// A rule failed.
    pub(super) rule_failed: bool,
    /// Headers that were asked for and are not in the record, whether the request had them or not.
    pub(super) not_recorded: BTreeSet<String>,
    /// A threshold decides.
    pub(super) trial: Option<Trial>,
}

/// A request on which a node and its verifier are to work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trial {
    /// How sure the node was of its answer; none where that was not recorded.
    pub(super) confidence: Option<f64>,
    /// The verifier would be asked where the node is not sure.
    pub(super) can_be_verified: bool,
    /// The verifier is asked whether the node is sure or not: the node was too slow.
    pub(super) asked_anyway: bool,
    /// What goes up.
    pub(super) bytes: u64,
}

impl Trial {
    /// Whether the verifier would be asked at this threshold; none where that is not known.
    pub(super) fn goes_up(&self, threshold: f64) -> Option<bool> {
        if !self.can_be_verified || self.asked_anyway {
            return Some(self.can_be_verified);
        }
        let plan = Speculative { threshold, verifier: Tier::Cloud, parallel_after: None };
        let next = speculate::next(&plan, Device::Answered(self.confidence?), Verifier::Idle, false);
        Some(next == Next::AskVerifier)
    }
}

/// Decides a recorded request by another policy.
pub(super) fn replay(record: &Record, policy: &Sited, labels: &BTreeMap<String, String>) -> Replayed {
    if is_wrong(record.happened.code) {
        return Replayed::Wrong;
    }
    let (Some(request), Some(state)) = (&record.request, &record.state) else { return Replayed::Private };
    let policy = policy.by(state);
    let stated = Stated {
        max_latency_ms: request.max_latency_ms,
        privacy_required: None,
        complexity: request.complexity,
        tier: request.tier,
        hop: request.hop,
    };
    let Ok(requirements) = Requirements::tighten(policy, record.node, stated, Stated::default()) else {
        return Replayed::Refused;
    };
    let snapshot = state.snapshot(record.node);
    let not_recorded = RefCell::default();
    let model = ModelKey::from_url(&record.model, "default");
    let facts = Recorded { request, model, labels, missed: &not_recorded };
    let decision = decide(policy, &requirements, &snapshot, facts);
    let outlook = outlook(policy, &decision, &snapshot, requirements.max_latency());
    let moment = Moment { happened: &record.happened, node: record.node, state, bytes: request.bytes };
    let would = match &decision.plan {
        Plan::Walk => walk(&moment, &decision, &outlook, 0),
        Plan::Speculate(plan) => speculation(&moment, &decision, &outlook, *plan),
        Plan::Ensemble(members) => together(&moment, policy, &decision, &outlook, members),
    };
    let not_recorded = not_recorded.take();
    Replayed::Would(Would { rule_failed: !decision.failed.is_none(), not_recorded, ..would })
}

/// Whether a client was told that its request is wrong: not where it was too much for one tier, or for the moment.
const fn is_wrong(code: u16) -> bool {
    matches!(code, 400..=499) && !matches!(code, 413 | 429)
}

/// What was, when a request came.
struct Moment<'r> {
    happened: &'r Happened,
    node: Tier,
    state: &'r Seen,
    bytes: u64,
}

impl Moment<'_> {
    /// How long a tier takes: what was measured, where it alone answered, else what was predicted.
    fn latency_ms(&self, tier: Tier) -> Option<f64> {
        let alone = self.happened.tier.as_deref() == Some(tier.as_str()) && self.happened.attempts.len() <= 1;
        let measured = alone.then_some(self.happened.latency_ms);
        measured.or_else(|| self.state.predicted_ms(tier, self.node))
    }

    /// How long the node itself took, or would.
    fn node_ms(&self) -> Option<f64> {
        let here = self.node.as_str();
        let mut tried = self.happened.attempts.iter();
        let tried = tried.find(|tried| tried.tier == here && tried.outcome == "Answered");
        tried.map(|tried| tried.ms).or_else(|| self.state.predicted_ms(self.node, self.node))
    }
}

/// The first that is not passed over, from a place on.
fn walk(moment: &Moment<'_>, decision: &Decision, outlook: &Outlook, from: usize) -> Would {
    let mut passed_over = Vec::new();
    for (Candidate { tier, .. }, why) in decision.candidates.iter().zip(&outlook.candidates).skip(from) {
        if let Some(why) = why {
            passed_over.push((*tier, *why));
            continue;
        }
        return Would {
            who: tier.as_str(),
            reason: decision.reason.to_text(),
            latency_ms: moment.latency_ms(*tier),
            copies: u64::from(*tier != moment.node),
            passed_over,
            ..Would::default()
        };
    }
    Would { who: NOBODY, reason: decision.reason.to_text(), passed_over, ..Would::default() }
}

/// The node and, where it is not sure, the verifier.
fn speculation(moment: &Moment<'_>, decision: &Decision, outlook: &Outlook, plan: Speculative) -> Would {
    let node = moment.node_ms();
    let after = plan.parallel_after.map(|after| after.as_secs_f64() * 1e3);
    let verifier = outlook.verifier;
    let asked_anyway = after.is_some_and(|after| after == 0.0 || node.is_some_and(|took| took > after));
    if let Some(Some(why)) = outlook.candidates.first() {
        // The node is passed over, and gives no answer.
        let mut would = walk(moment, decision, outlook, 1);
        if asked_anyway && verifier.is_none() {
            would = Would { who: plan.verifier.as_str(), copies: 1, ..Would::default() };
            would.latency_ms = moment.state.predicted_ms(plan.verifier, moment.node);
        }
        would.passed_over.insert(0, (moment.node, *why));
        return Would { reason: Reason::DeviceFailed.to_text(), ..would };
    }
    let trial = Trial {
        confidence: moment.happened.node_confidence,
        can_be_verified: verifier.is_none(),
        asked_anyway,
        bytes: moment.bytes,
    };
    let above = moment.state.predicted_ms(plan.verifier, moment.node);
    // Asked at once, its answer does not wait for the node's to begin.
    let verified = if after == Some(0.0) { above } else { node.zip(above).map(|(node, above)| node + above) };
    let is_sure = trial.confidence.map(|confidence| confidence > plan.threshold);
    let (who, reason, latency_ms) = match (is_sure, trial.can_be_verified) {
        (Some(true), _) => (moment.node.as_str(), Reason::Confident.to_text(), node),
        (Some(false), true) => (plan.verifier.as_str(), Reason::NotConfident.to_text(), verified),
        (Some(false), false) => (moment.node.as_str(), Reason::NotConfident.to_text(), node),
        // Whether it is sure or not, the node's answer stands.
        (None, false) => (moment.node.as_str(), Reason::Speculative.to_text(), node),
        (None, true) => (UNRESOLVED, Reason::Speculative.to_text(), None),
    };
    let passed_over = if is_sure == Some(true) { None } else { verifier };
    Would {
        who,
        reason,
        latency_ms,
        copies: u64::from(trial.goes_up(plan.threshold) == Some(true)),
        passed_over: passed_over.map(|why| (plan.verifier, why)).into_iter().collect(),
        trial: Some(trial),
        ..Would::default()
    }
}

/// The members that are not passed over; where they are too few, the fallback order.
fn together(
    moment: &Moment<'_>,
    policy: &Policy,
    decision: &Decision,
    outlook: &Outlook,
    members: &[Member],
) -> Would {
    let quorum = match policy.mode() {
        Mode::Ensemble(ensemble) => ensemble.quorum,
        Mode::Select | Mode::Speculative(_) => 1,
    };
    let looked = || members.iter().map(|member| member.tier).zip(&outlook.members);
    let asked: Vec<Tier> = looked().filter(|(_, why)| why.is_none()).map(|(tier, _)| tier).collect();
    let copies = asked.iter().filter(|tier| **tier != moment.node).count() as u64;
    let passed_over: Vec<_> = looked().filter_map(|(tier, why)| Some((tier, (*why)?))).collect();
    if asked.len() >= quorum {
        let reason = decision.reason.to_text();
        return Would { who: ENSEMBLE, reason, copies, passed_over, ..Would::default() };
    }
    let reason = Reason::QuorumNotMet.to_text();
    let in_hand = decision.candidates.iter().find(|candidate| asked.contains(&candidate.tier));
    if let Some(candidate) = in_hand {
        let (who, latency_ms) = (candidate.tier.as_str(), moment.latency_ms(candidate.tier));
        return Would { who, reason, latency_ms, copies, passed_over, ..Would::default() };
    }
    let would = walk(moment, decision, outlook, 0);
    Would { reason, copies: copies + would.copies, passed_over, ..would }
}

/// A recorded request, as rules see it.
struct Recorded<'a> {
    request: &'a Request,
    model: ModelKey,
    labels: &'a BTreeMap<String, String>,
    /// Headers that rules asked for, and that the record does not have.
    missed: &'a RefCell<BTreeSet<String>>,
}

impl Facts for Recorded<'_> {
    fn entropy(&self) -> f64 {
        self.request.entropy
    }
    fn bytes(&self) -> u64 {
        self.request.bytes
    }
    fn batch(&self) -> usize {
        self.request.batch
    }
    fn input_count(&self) -> usize {
        self.request.inputs.len()
    }
    fn input(&self, name: &str) -> Option<Input<'_>> {
        let input = self.request.inputs.iter().find(|input| input.name == name)?;
        Some(Input { shape: &input.shape, datatype: &input.datatype })
    }
    fn header(&self, name: &str) -> Option<&str> {
        let recorded = self.request.headers.get(name);
        if recorded.is_none() {
            self.missed.borrow_mut().insert(name.to_owned());
        }
        recorded?.as_deref()
    }
    fn model_namespace(&self) -> &str {
        &self.model.namespace
    }
    fn model_name(&self) -> &str {
        &self.model.name
    }
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}
