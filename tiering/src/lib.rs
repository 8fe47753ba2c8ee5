//! Which tier answers a request, and how long each attempt may take: the decisions of the request path.
//!
//! Called by the agent for every request, and by `fleet` for the checked [`Policy`]. Pure: everything that a
//! decision depends on is an argument, and a decision says why. Must not import a runtime, a client, a server or
//! an inference engine, and must not read a clock, the environment, files or randomness.
//!
//! A request passes through in this order: [`Stated`] (what the request says) → [`Requirements::tighten`] (the
//! stricter of policy and request) → [`decide`] (who may answer, in order, and why, by what a [`Snapshot`] shows) → [`attempt_timeout`] (how
//! long each of them may take).

mod blame;
mod breaker;
mod budget;
mod cel;
mod combine;
mod complexity;
mod confidence;
mod decide;
mod elements;
mod endpoints;
mod explain;
mod facts;
mod fit;
mod hedge;
mod latency;
mod mode;
mod outlook;
mod place;
mod plan;
mod policy;
mod remote;
mod requirements;
mod resend;
mod rules;
mod scores;
mod snapshot;
pub mod speculate;
mod spelling;
mod stated;

pub use blame::{Blame, Counts, Unanswered, blame, rejects};
pub use breaker::{Breaker, BreakerSettings, BreakerState, Failure, Pass, weight as failure_weight};
pub use budget::{
    Attempt, LocalTime, attempt_timeout, reserve_for_combined, reserve_for_local, reserve_for_reply,
};
pub use cel::{CompileError, EvalError};
pub use combine::{CombineError, Combined, CombinedOutput, MemberAnswer, MemberOutput, combine};
pub use complexity::{Complexity, Elements, entropy};
pub use confidence::{Measure, NotScores, Rows};
pub use decide::{Candidate, Decision, LocalModel, Node, Reason, SkipReason, Skipped, Source, decide};
pub use endpoints::{EndpointState, pick};
pub use explain::{ExplainedRule, Explanation, Outcome, explain};
pub use facts::{Facts, Input};
pub use fit::{Declared, Given, Misfit, fits};
pub use hedge::HedgeBudget;
pub use latency::Latency;
pub use mode::{Combine, Ensemble, Member, Mode, Speculative};
pub use outlook::{Outlook, outlook, passed_over};
pub use place::{Place, SITE, SiteUrl, Sites};
pub use plan::Plan;
pub use policy::{Fault, Lacking, Policy};
pub use remote::{DEFAULT_TIMEOUT, Hedge, RemoteTier};
pub use requirements::Requirements;
pub use resend::{Again, Fate, Resent, Unheard, Word};
pub use rules::{Failed, Rule, RuleName};
pub use scores::{Impossible, are_scores};
pub use snapshot::{LocalState, RemoteState, Snapshot};
pub use stated::{ParameterValue, RequirementError, Stated, misplaced, refuse_misplaced};
