//! How many requests may be asked twice.

/// How many hedges may follow each other at once: before anything was earned, and however many requests came before without
/// one. Without a first few, a tier that is asked now and then would have none when it matters.
const BURST: u32 = 5;
/// What one costs: percents of a request are earned.
const HEDGE: u32 = 100;

/// Earns a part of a hedge with each request, and spends whole ones: hedges are at most a share of all requests, and the few
/// that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeBudget(u32);

impl Default for HedgeBudget {
    fn default() -> Self {
        Self(BURST * HEDGE)
    }
}

impl HedgeBudget {
    /// A request was sent, of which so many percent may be sent twice.
    pub fn earn(&mut self, percent: u32) {
        self.0 = self.0.saturating_add(percent).min(BURST * HEDGE);
    }

    /// Whether one more may be sent twice.
    pub fn spend(&mut self) -> bool {
        let left = self.0.checked_sub(HEDGE);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// One that was spent was not sent.
    pub fn give_back(&mut self) {
        self.0 = self.0.saturating_add(HEDGE).min(BURST * HEDGE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whenever hedges are wanted, there are never more than their share of the requests so far, and the first few.
        #[test]
        fn hedges_are_at_most_their_share(percent in 1_u32..=100, wanted in prop::collection::vec(any::<bool>(), 0..500)) {
            let (mut budget, mut hedges) = (HedgeBudget::default(), 0_u32);
            for (requests, wanted) in (1_u32..).zip(wanted) {
                budget.earn(percent);
                hedges += u32::from(wanted && budget.spend());
                prop_assert!(hedges * 100 <= requests * percent + BURST * HEDGE);
            }
        }
    }

    #[test]
    fn the_first_few_are_there_before_anything_was_earned_and_then_the_share() {
        let mut budget = HedgeBudget::default();
        let hedged: Vec<u32> = (1..=60)
            .filter(|_| {
                budget.earn(5);
                budget.spend()
            })
            .collect();
        assert_eq!(hedged, [1, 2, 3, 4, 5, 21, 41]);
    }

    #[test]
    fn what_was_not_spent_makes_no_flood() {
        let mut budget = HedgeBudget::default();
        (0..10_000).for_each(|_| budget.earn(10));
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 5);
    }
}
