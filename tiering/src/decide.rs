//! Which tiers may answer a request, in which order, and why.

use std::borrow::Cow;

use terrace_crds::Tier;

use crate::cel::EvalError;
use crate::facts::Facts;
use crate::plan::{self, Plan};
use crate::policy::{Lacking, Policy};
use crate::requirements::Requirements;
use crate::rules::{Failed, Rule, RuleName, Scope, default_rules, first_match};
use crate::snapshot::Snapshot;

/// The node that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The tier that it is.
    pub tier: Tier,
    /// Where it stands with the model that is asked for.
    pub model: LocalModel,
}

/// Where a node stands with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalModel {
    /// It is loaded, and answers.
    Serving,
    /// It belongs on the node, and is not loaded (yet).
    NotLoaded,
    /// It does not belong on the node.
    NotPlaced,
}

/// Who may answer a request, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How the candidates are asked.
    pub plan: Plan,
    /// The tiers to try, in this order, each once. None, and no ensemble: nobody may answer, and `skipped` says why.
    pub candidates: Vec<Candidate>,
    /// The tiers that would have been candidates.
    pub skipped: Vec<Skipped>,
    /// Why the choice is what it is.
    pub reason: Reason,
    /// The complexity that the rules went by; none where they had no need to know it.
    pub complexity: Option<f64>,
    /// Nothing of the request may leave the node.
    pub privacy_required: bool,
    /// What failed while the rules were asked.
    pub failed: Failed,
}

/// A tier that may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The tier; the node's own tier is the node itself.
    pub tier: Tier,
    /// What makes it a candidate.
    pub source: Source,
}

/// As what a tier answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is the choice.
    Primary,
    /// It stands in the policy's fallback order.
    Fallback,
    /// It was asked because the node was not sure of its own answer.
    Verifier,
    /// It is the node, which is not sure; who should have verified its answer did not.
    Unverified,
    /// It is one of several whose answers were combined.
    Ensemble,
}

/// A tier that would have been a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The tier.
    pub tier: Tier,
    /// Why it is none.
    pub why: SkipReason,
}

/// Why a tier is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The policy does not say how this node reaches it.
    TierNotConfigured,
    /// This node's site is not known, or cannot stand in the tier's URL.
    SiteUnknown,
    /// No agent of the edge is ready in this node's site.
    NoEdgeAgent,
    /// It is this node, and the model is not loaded here yet.
    NotLoaded,
    /// It is this node, and the model does not belong here.
    NotPlaced,
    /// The time that is left does not suffice for it.
    DeadlineExceeded,
    /// It takes longer than the time that is left, as far as this node has seen.
    PredictedTooLate,
    /// It did not answer of late, and is left alone for a while.
    BreakerOpen,
    /// It has as many requests of this node as the policy grants it.
    TooManyInFlight,
}

/// Why a decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another node forwarded the request; nothing is forwarded twice.
    Forwarded,
    /// The model has no policy, or none that was accepted.
    NoPolicy,
    /// The model's policy goes by how sure the model is, and the model does not say how that is measured.
    ConfidenceMissing,
    /// The request or its policy is private.
    PrivacyRequired,
    /// The request asks for the tier.
    RequestedTier,
    /// Complexity below 0.3 and less than 50 ms: the device.
    LowComplexityTightDeadline,
    /// Less than 200 ms: the edge.
    ModerateDeadline,
    /// Complexity below 0.7: the edge.
    ModerateComplexity,
    /// All others: the cloud.
    HighComplexity,
    /// A rule of the policy matched.
    Rule(RuleName),
    /// No rule of the policy matches: the node itself.
    NoRuleMatched,
    /// No rule of the policy matches, and one failed: the node itself.
    RulesFailed,
    /// The rules chose a tier that the policy does not configure on this node.
    TierNotConfigured,
    /// The rules chose the edge, and this node's site is not known, or cannot stand in the edge's URL.
    SiteUnknown,
    /// The rules chose the edge, and no agent of it is ready in this node's site.
    NoEdgeAgent,
    /// The node is to answer, and a verifier where it is not sure.
    Speculative,
    /// The same, and the node is the verifier: nobody is above it.
    VerifierHere,
    /// The node was sure of its answer.
    Confident,
    /// The node was not sure of its answer.
    NotConfident,
    /// The node had not answered when the verifier did.
    DeviceSlow,
    /// The node gave no answer.
    DeviceFailed,
    /// Several are to answer at once.
    Ensemble,
    /// The same, and too few of them can be asked, or answered.
    QuorumNotMet,
}

impl Source {
    /// The name in responses and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Fallback => "fallback",
            Self::Verifier => "verifier",
            Self::Unverified => "unverified",
            Self::Ensemble => "ensemble",
        }
    }
}

impl SkipReason {
    /// The name in responses and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TierNotConfigured => "TierNotConfigured",
            Self::SiteUnknown => "SiteUnknown",
            Self::NoEdgeAgent => "NoEdgeAgent",
            Self::NotLoaded => "NotLoaded",
            Self::NotPlaced => "NotPlaced",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::PredictedTooLate => "PredictedTooLate",
            Self::BreakerOpen => "BreakerOpen",
            Self::TooManyInFlight => "TooManyInFlight",
        }
    }

    /// Why a decision is what it is where this is why the chosen tier is out of reach.
    const fn as_reason(self) -> Reason {
        match self {
            Self::SiteUnknown => Reason::SiteUnknown,
            Self::NoEdgeAgent => Reason::NoEdgeAgent,
            _ => Reason::TierNotConfigured,
        }
    }

    /// The same for a person, of a tier.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TierNotConfigured => "is not configured in the model's policy",
            Self::SiteUnknown => "is one for each site, and this node's is not known",
            Self::NoEdgeAgent => "has no ready agent in this node's site",
            Self::NotLoaded => "is this node, where the model is not loaded (its /status says why)",
            Self::NotPlaced => "is this node, where the model does not belong",
            Self::DeadlineExceeded => "has too little time left",
            Self::PredictedTooLate => "takes longer than the time that is left",
            Self::BreakerOpen => "did not answer of late",
            Self::TooManyInFlight => "has as many requests of this node as it may have",
        }
    }
}

impl Reason {
    /// What no rule may be called: decisions that no rule takes.
    pub(crate) const RESERVED: [Self; 18] = [
        Self::Forwarded,
        Self::NoPolicy,
        Self::ConfidenceMissing,
        Self::PrivacyRequired,
        Self::RequestedTier,
        Self::NoRuleMatched,
        Self::RulesFailed,
        Self::TierNotConfigured,
        Self::SiteUnknown,
        Self::NoEdgeAgent,
        Self::Speculative,
        Self::VerifierHere,
        Self::Confident,
        Self::NotConfident,
        Self::DeviceSlow,
        Self::DeviceFailed,
        Self::Ensemble,
        Self::QuorumNotMet,
    ];

    /// The name in responses and metrics.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Rule(name) => name.as_str(),
            other => other.fixed(),
        }
    }

    /// The same, to be kept.
    pub fn to_text(&self) -> Cow<'static, str> {
        match self {
            Self::Rule(name) => Cow::Owned(name.to_string()),
            other => Cow::Borrowed(other.fixed()),
        }
    }

    /// The name of a reason that is no policy's own.
    const fn fixed(&self) -> &'static str {
        match self {
            Self::Forwarded => "Forwarded",
            Self::NoPolicy => "NoPolicy",
            Self::ConfidenceMissing => "ConfidenceMissing",
            Self::PrivacyRequired => "PrivacyRequired",
            Self::RequestedTier => "RequestedTier",
            Self::LowComplexityTightDeadline => "LowComplexityTightDeadline",
            Self::ModerateDeadline => "ModerateDeadline",
            Self::ModerateComplexity => "ModerateComplexity",
            Self::HighComplexity => "HighComplexity",
            Self::Rule(_) => "Rule",
            Self::NoRuleMatched => "NoRuleMatched",
            Self::RulesFailed => "RulesFailed",
            Self::TierNotConfigured => "TierNotConfigured",
            Self::SiteUnknown => "SiteUnknown",
            Self::NoEdgeAgent => "NoEdgeAgent",
            Self::Speculative => "Speculative",
            Self::VerifierHere => "VerifierHere",
            Self::Confident => "Confident",
            Self::NotConfident => "NotConfident",
            Self::DeviceSlow => "DeviceSlow",
            Self::DeviceFailed => "DeviceFailed",
            Self::Ensemble => "Ensemble",
            Self::QuorumNotMet => "QuorumNotMet",
        }
    }

    /// Whether no rule was asked.
    pub(crate) const fn is_settled(&self) -> bool {
        matches!(
            self,
            Self::Forwarded
                | Self::NoPolicy
                | Self::ConfidenceMissing
                | Self::PrivacyRequired
                | Self::RequestedTier
        )
    }

    /// What the reason rules out, for a person: why there is no other tier to try.
    const fn limits(self) -> Option<&'static str> {
        match self {
            Self::Forwarded => Some("the request was forwarded once already"),
            Self::NoPolicy => Some("the model has no accepted policy"),
            Self::ConfidenceMissing => {
                Some("the model has no spec.confidence, which the mode of its policy goes by")
            }
            Self::PrivacyRequired => Some("the request is private"),
            Self::RequestedTier => Some("the request asks for this tier alone"),
            Self::QuorumNotMet => Some("fewer members can be asked than the policy's quorum"),
            Self::LowComplexityTightDeadline
            | Self::ModerateDeadline
            | Self::ModerateComplexity
            | Self::HighComplexity
            | Self::Rule(_)
            | Self::NoRuleMatched
            | Self::RulesFailed
            | Self::TierNotConfigured
            | Self::SiteUnknown
            | Self::NoEdgeAgent
            | Self::Speculative
            | Self::VerifierHere
            | Self::Confident
            | Self::NotConfident
            | Self::DeviceSlow
            | Self::DeviceFailed
            | Self::Ensemble => None,
        }
    }
}

/// Decides who may answer a request on the node that `snapshot` shows.
///
/// A forwarded request, a private one, and one whose model has no policy are answered by the node or by nobody. A
/// request that asks for a tier is answered by that tier or by nobody. For all others the policy's mode says who is
/// asked: in the mode Select the rules choose, and the policy's fallback order follows. The choice means the node itself where it is the node's own tier. Where it is
/// a tier that this node does not reach, the fallback order alone is left; with fallback off, the node itself.
///
/// `facts` are read only where a rule reads them: the complexity, which costs a pass over the inputs, only where a rule
/// must know and the request does not say.
#[allow(clippy::needless_pass_by_value)] // a closure stands for facts, too
pub fn decide(
    policy: &Policy,
    requirements: &Requirements,
    snapshot: &Snapshot,
    facts: impl Facts,
) -> Decision {
    let scope = Scope::new(policy, requirements, snapshot, &facts);
    decide_by(policy, requirements, snapshot, &scope, &mut |_, rule| rule.when.test(&scope))
}

/// Decides, and has the policy's own rules asked by `ask`.
pub(crate) fn decide_by(
    policy: &Policy,
    requirements: &Requirements,
    snapshot: &Snapshot,
    scope: &Scope<'_>,
    ask: &mut dyn FnMut(usize, &Rule) -> Result<bool, EvalError>,
) -> Decision {
    let node = snapshot.node;
    let mut walk =
        Walk { policy, node, candidates: Vec::with_capacity(Tier::ALL.len()), skipped: Vec::new() };
    let (plan, reason, mut failed) = if let Some((tier, reason)) = settled(policy, requirements, node.tier) {
        walk.visit(tier, Source::Primary);
        (Plan::Walk, reason, Failed::NONE)
    } else if let Some((plan, reason)) = plan::of_mode(policy.mode(), &mut walk) {
        (plan, reason, Failed::NONE)
    } else {
        let choice = match policy.rules() {
            Some(rules) => first_match(rules, node.tier, ask),
            None => default_rules(requirements.max_latency_ms(), || scope.complexity()),
        };
        let unreached = walk.unreached(choice.tier);
        walk.visit(choice.tier, Source::Primary);
        walk.visit_fallback();
        if policy.fallback().is_none() && unreached.is_some() {
            walk.visit(node.tier, Source::Primary);
        }
        (Plan::Walk, unreached.map_or(choice.reason, SkipReason::as_reason), choice.failed)
    };
    failed.complexity = scope.complexity_failed();
    Decision {
        plan,
        candidates: walk.candidates,
        skipped: walk.skipped,
        reason,
        complexity: scope.asked_complexity(),
        privacy_required: requirements.privacy_required(),
        failed,
    }
}

/// The only tier that may answer, where no rule is asked.
fn settled(policy: &Policy, requirements: &Requirements, here: Tier) -> Option<(Tier, Reason)> {
    if requirements.forwarded() {
        Some((here, Reason::Forwarded))
    } else if let Some(lacking) = policy.lacking() {
        Some((
            here,
            match lacking {
                Lacking::Policy => Reason::NoPolicy,
                Lacking::Confidence => Reason::ConfidenceMissing,
            },
        ))
    } else if requirements.privacy_required() {
        Some((here, Reason::PrivacyRequired))
    } else {
        requirements.tier().map(|tier| (tier, Reason::RequestedTier))
    }
}

/// Sorts tiers into candidates and others.
pub(crate) struct Walk<'a> {
    policy: &'a Policy,
    node: Node,
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
}

impl Walk<'_> {
    /// Why this node knows no way to `tier`; none where it is this node, or known to it.
    fn unreached(&self, tier: Tier) -> Option<SkipReason> {
        if tier == self.node.tier {
            return None;
        }
        self.policy
            .remote(tier)
            .map_or(Some(SkipReason::TierNotConfigured), |remote| remote.endpoints().err())
    }

    pub(crate) const fn here(&self) -> Tier {
        self.node.tier
    }

    /// Makes a tier a candidate, if it can be asked and is none yet. Whether it can be asked.
    pub(crate) fn visit(&mut self, tier: Tier, source: Source) -> bool {
        let is_candidate = self.candidates.iter().any(|candidate| candidate.tier == tier);
        let can_be_asked = is_candidate || self.can_ask(tier);
        if can_be_asked && !is_candidate {
            self.candidates.push(Candidate { tier, source });
        }
        can_be_asked
    }

    /// Makes candidates of the tiers in the policy's fallback order.
    pub(crate) fn visit_fallback(&mut self) {
        for tier in self.policy.fallback().unwrap_or_default() {
            self.visit(*tier, Source::Fallback);
        }
    }

    /// Whether a tier can be asked. Notes why not.
    pub(crate) fn can_ask(&mut self, tier: Tier) -> bool {
        let Some(why) = self.obstacle(tier) else { return true };
        if self.skipped.iter().all(|skipped| skipped.tier != tier) {
            self.skipped.push(Skipped { tier, why });
        }
        false
    }

    fn obstacle(&self, tier: Tier) -> Option<SkipReason> {
        if tier != self.node.tier {
            return self.unreached(tier);
        }
        match self.node.model {
            LocalModel::Serving => None,
            LocalModel::NotLoaded => Some(SkipReason::NotLoaded),
            LocalModel::NotPlaced => Some(SkipReason::NotPlaced),
        }
    }
}

impl Decision {
    /// The tiers other than `here` that may be asked.
    pub fn others(&self, here: Tier) -> impl Iterator<Item = Tier> + '_ {
        let candidates = self.candidates.iter().map(|candidate| candidate.tier);
        candidates.chain(self.plan.tiers()).filter(move |tier| *tier != here)
    }

    /// Whether there are any.
    pub fn asks_others(&self, here: Tier) -> bool {
        self.others(here).next().is_some()
    }

    /// Why nobody may answer, for the caller: every tier that was considered, and what rules it out.
    pub fn refusal(&self) -> String {
        let skipped: Vec<String> =
            self.skipped.iter().map(|skipped| format!("{} {}", skipped.tier, skipped.why.text())).collect();
        let tiers = skipped.join("; ");
        match self.reason.limits() {
            Some(limits) => format!("no tier may answer: {tiers}; {limits}"),
            None => format!("no tier may answer: {tiers}"),
        }
    }
}
