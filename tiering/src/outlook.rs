//! Whether a tier that may answer would be asked at all, and why not, by what the agent itself goes by when a tier's turn
//! comes: [`passed_over`], the shares of the deadline, and whether what is predicted is in time.
//!
//! Each tier is looked at as if its turn came at once: what those before it will take, nobody knows. A tier whose estimate has
//! faded is said to be asked; of several requests that meet it so, one is.

use std::time::Duration;

use terrace_crds::Tier;

use crate::breaker::BreakerState;
use crate::budget::{Attempt, attempt_timeout, reserve_for_combined, reserve_for_local, reserve_for_reply};
use crate::decide::{Decision, SkipReason};
use crate::latency::is_in_time;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::snapshot::{RemoteState, Snapshot};

/// Why an endpoint is passed over, whatever time there is: its breaker, and how many requests it has.
pub fn passed_over(breaker: BreakerState, in_flight: usize, max_in_flight: u32) -> Option<SkipReason> {
    if breaker == BreakerState::Open {
        Some(SkipReason::BreakerOpen)
    } else {
        (in_flight >= max_in_flight as usize).then_some(SkipReason::TooManyInFlight)
    }
}

/// Who of a decision's tiers would be passed over now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Why each candidate would be, in their order.
    pub candidates: Vec<Option<SkipReason>>,
    /// Why the verifier would be; none where there is no verifier.
    pub verifier: Option<SkipReason>,
    /// Why each member would be, in their order.
    pub members: Vec<Option<SkipReason>>,
}

/// Who would be passed over, of a request that has so much time left.
pub fn outlook(policy: &Policy, decision: &Decision, snapshot: &Snapshot, left: Option<Duration>) -> Outlook {
    let here = snapshot.node.tier;
    let look = |tier, left, reserve| would_skip(policy, snapshot, tier, (left, reserve));
    let first = decision.candidates.first().and_then(|first| snapshot.remote(first.tier));
    let for_local = reserve_for_local(left, &snapshot.local.time(), first.and_then(RemoteState::learned));
    let local_at = decision.candidates.iter().position(|candidate| candidate.tier == here);
    let candidates = decision.candidates.iter().enumerate().map(|(place, candidate)| {
        let local_comes_later = local_at.is_some_and(|local| local > place);
        look(candidate.tier, left, if local_comes_later { for_local } else { Duration::ZERO })
    });
    let (verifier, members) = match &decision.plan {
        Plan::Walk => (None, Vec::new()),
        Plan::Speculate(speculative) => {
            let at_once = speculative.parallel_after == Some(Duration::ZERO);
            let before = snapshot.local.predicted.filter(|_| !at_once).unwrap_or_default();
            let left = left.map(|left| left.saturating_sub(before));
            (look(speculative.verifier, left, reserve_for_reply(left, 0)), Vec::new())
        }
        Plan::Ensemble(members) => {
            let reserve = reserve_for_combined(left, [], members.len());
            (None, members.iter().map(|member| look(member.tier, left, reserve)).collect())
        }
    };
    Outlook { candidates: candidates.collect(), verifier, members }
}

/// Why a tier would be passed over, where so much time is left, of which so much is kept back.
fn would_skip(
    policy: &Policy,
    snapshot: &Snapshot,
    tier: Tier,
    (left, reserve): (Option<Duration>, Duration),
) -> Option<SkipReason> {
    let here = tier == snapshot.node.tier;
    let remote = policy.remote(tier).filter(|_| !here);
    if let Attempt::Skip(why) = attempt_timeout(left, remote.map(|remote| remote.timeout), reserve) {
        return Some(why);
    }
    let (Some(remote), Some(state)) = (remote, snapshot.remote(tier)) else {
        return (!is_in_time(snapshot.local.shortest_run, left)).then_some(SkipReason::PredictedTooLate);
    };
    let allowed = left.map(|left| left.saturating_sub(reserve));
    passed_over(state.breaker, state.in_flight, remote.max_in_flight)
        .or_else(|| (!is_in_time(state.predicted_p90, allowed)).then_some(SkipReason::PredictedTooLate))
}
