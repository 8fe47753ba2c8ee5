//! What a client is told when nobody answered: of all that went wrong, what it can do something about.

use terrace_tiering::Skipped;

use super::Attempt;
use crate::refusal::Refusal;

/// How many members of an ensemble answered, and how many have to.
#[derive(Clone, Copy, Debug)]
pub struct Quorum {
    /// How many have to.
    pub needed: usize,
    /// How many did.
    pub answered: usize,
    /// How many there are.
    pub members: usize,
}

/// What there is to tell of tries that all failed, or of an ensemble too few of whose members answered.
#[derive(Debug)]
pub struct Nobody<'a> {
    /// Every try, and how it ended.
    pub attempts: &'a [Attempt],
    /// What could not be tried.
    pub skipped: &'a [Skipped],
    /// Set where it is that too few members answered.
    pub quorum: Option<Quorum>,
    /// The deadline has passed.
    pub is_over: bool,
}

impl Nobody<'_> {
    /// One refusal for all of these.
    pub fn refusal(&self, mut refusals: Vec<Refusal>) -> Refusal {
        let are = |is: fn(&Refusal) -> bool| !refusals.is_empty() && refusals.iter().all(is);
        let late = refusals.iter().filter(|refusal| matches!(refusal, Refusal::Deadline(_))).count();
        if self.is_over {
            Refusal::Deadline(self.told("answered within the deadline"))
        } else if refusals.len() == 1 && self.quorum.is_none() {
            refusals.remove(0)
        } else if late > 0 && self.quorum.is_none_or(|quorum| quorum.answered + late >= quorum.needed) {
            // With more time there would be an answer, whatever the others lack.
            let foreseen = self.quorum.is_none() && late == refusals.len();
            let what =
                if foreseen { "can answer within the deadline" } else { "answered within the deadline" };
            Refusal::Deadline(self.told(what))
        } else if are(|refusal| matches!(refusal, Refusal::Incompatible(_))) {
            Refusal::Incompatible(self.told("answered"))
        } else {
            Refusal::of_several(self.told("answered"), &refusals)
        }
    }

    fn told(&self, what: &str) -> String {
        let Some(Quorum { needed, answered, members }) = self.quorum else {
            return format!("no tier {what}: {}", self.failed().collect::<Vec<_>>().join(", "));
        };
        let tried = |tier: &str| self.attempts.iter().any(|attempt| attempt.tier == tier);
        let skipped = self.skipped.iter().filter(|skipped| !tried(skipped.tier.as_str()));
        let skipped = skipped.map(|skipped| format!("{} {}", skipped.tier, skipped.why.as_str()));
        let why: Vec<String> = self.failed().chain(skipped).collect();
        format!(
            "{answered} of {members} members {what}, and the policy's quorum is {needed}: {}",
            why.join(", ")
        )
    }

    fn failed(&self) -> impl Iterator<Item = String> {
        let failed = self.attempts.iter().filter(|attempt| attempt.outcome != super::ANSWERED);
        failed.map(|attempt| format!("{} {} after {} ms", attempt.tier, attempt.outcome, attempt.ms))
    }
}

#[cfg(test)]
mod tests {
    use terrace_crds::Tier;
    use terrace_tiering::SkipReason;

    use super::*;

    fn attempts(of: &[(&'static str, &'static str)]) -> Vec<Attempt> {
        of.iter().map(|(tier, outcome)| Attempt { tier, outcome, ms: 1.5, hedged: false }).collect()
    }

    #[test]
    fn a_missed_quorum_is_told_as_one_with_who_is_missing() {
        let no_tier = || Refusal::NoTier("cloud: no connection".to_owned());
        let late = || Refusal::Deadline("too little of the deadline was left".to_owned());
        let unfit = || Refusal::Incompatible("cloud: its scores".to_owned());
        let missed = |answered, members| Some(Quorum { needed: 2, answered, members });
        let edge = [Skipped { tier: Tier::Edge, why: SkipReason::TierNotConfigured }];
        for (attempted, skipped, quorum, is_over, refusals, expected) in [
            (
                &[("device", "Answered"), ("edge", "BreakerOpen"), ("cloud", "ConnectFailed")][..],
                &[][..],
                missed(1, 3),
                false,
                vec![no_tier(), no_tier()],
                Refusal::NoTier(
                    "1 of 3 members answered, and the policy's quorum is 2: edge BreakerOpen after 1.5 ms, cloud ConnectFailed after 1.5 ms".to_owned(),
                ),
            ),
            (
                &[("device", "Answered"), ("cloud", "ConnectFailed")],
                &edge,
                missed(1, 3),
                false,
                vec![no_tier()],
                Refusal::NoTier(
                    "1 of 3 members answered, and the policy's quorum is 2: cloud ConnectFailed after 1.5 ms, edge TierNotConfigured".to_owned(),
                ),
            ),
            (
                &[("device", "Answered"), ("cloud", "TimedOut")],
                &[],
                missed(1, 2),
                true,
                vec![late()],
                Refusal::Deadline(
                    "1 of 2 members answered within the deadline, and the policy's quorum is 2: cloud TimedOut after 1.5 ms".to_owned(),
                ),
            ),
            (
                &[("device", "NotScores"), ("cloud", "NotScores")],
                &[],
                missed(0, 2),
                false,
                vec![unfit(), unfit()],
                Refusal::Incompatible(
                    "0 of 2 members answered, and the policy's quorum is 2: device NotScores after 1.5 ms, cloud NotScores after 1.5 ms".to_owned(),
                ),
            ),
            (&[("cloud", "ConnectFailed")], &edge, None, false, vec![no_tier()], no_tier()),
            (
                &[("edge", "PredictedTooLate"), ("device", "PredictedTooLate")],
                &[],
                None,
                false,
                vec![late(), late()],
                Refusal::Deadline(
                    "no tier can answer within the deadline: edge PredictedTooLate after 1.5 ms, device PredictedTooLate after 1.5 ms".to_owned(),
                ),
            ),
            (
                &[("edge", "ConnectFailed"), ("device", "NotLoaded")],
                &[],
                None,
                false,
                vec![no_tier(), no_tier()],
                Refusal::NoTier(
                    "no tier answered: edge ConnectFailed after 1.5 ms, device NotLoaded after 1.5 ms".to_owned(),
                ),
            ),
            (
                &[("cloud", "BadStatus"), ("device", "DeadlineExceeded")],
                &[],
                None,
                false,
                vec![no_tier(), late()],
                Refusal::Deadline(
                    "no tier answered within the deadline: cloud BadStatus after 1.5 ms, device DeadlineExceeded after 1.5 ms".to_owned(),
                ),
            ),
            (
                &[("device", "PredictedTooLate"), ("edge", "BadStatus"), ("cloud", "BadStatus")],
                &[],
                missed(0, 3),
                false,
                vec![late(), no_tier(), no_tier()],
                Refusal::NoTier(
                    "0 of 3 members answered, and the policy's quorum is 2: device PredictedTooLate after 1.5 ms, edge BadStatus after 1.5 ms, cloud BadStatus after 1.5 ms".to_owned(),
                ),
            ),
        ] {
            let attempts = attempts(attempted);
            let nobody = Nobody { attempts: &attempts, skipped, quorum, is_over };
            assert_eq!(nobody.refusal(refusals), expected);
        }
    }
}
