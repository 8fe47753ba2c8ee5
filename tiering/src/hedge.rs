//! How many requests may be asked twice.

/// How many hedges may follow each other at once, however many requests came before without one.
const BURST: u32 = 5;
/// What one costs: percents of a request are earned.
const HEDGE: u32 = 100;

/// Earns a part of a hedge with each request, and spends whole ones: hedges are at most a share of all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HedgeBudget(u32);

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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whenever hedges are wanted, there are never more than their share of the requests so far.
        #[test]
        fn hedges_are_at_most_their_share(percent in 1_u32..=100, wanted in prop::collection::vec(any::<bool>(), 0..500)) {
            let (mut budget, mut hedges) = (HedgeBudget::default(), 0_u32);
            for (requests, wanted) in (1_u32..).zip(wanted) {
                budget.earn(percent);
                hedges += u32::from(wanted && budget.spend());
                prop_assert!(hedges * 100 <= requests * percent);
            }
        }
    }

    #[test]
    fn what_was_not_spent_makes_no_flood() {
        let mut budget = HedgeBudget::default();
        (0..10_000).for_each(|_| budget.earn(10));
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 5);
    }
}
