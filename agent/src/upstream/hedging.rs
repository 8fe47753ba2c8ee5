//! How often one model's requests to one tier were asked twice, and how often more they may be.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_tiering::HedgeBudget;

use super::endpoint::lock;

/// Kept as long as some policy of the model reaches that tier, whatever else of it changes.
#[derive(Debug, Default)]
pub struct Hedging {
    budget: Mutex<HedgeBudget>,
    sent: AtomicU64,
    without_budget: AtomicU64,
    without_endpoint: AtomicU64,
}

impl Hedging {
    /// A request was sent, of which so many percent may be sent twice.
    pub fn earn(&self, percent: u32) {
        lock(&self.budget).earn(percent);
    }

    /// A first answer is late: a second request, made by `begin`, where one may be made.
    pub fn second<T>(&self, begin: impl FnOnce() -> Option<T>) -> Option<T> {
        if !lock(&self.budget).spend() {
            self.without_budget.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let second = begin();
        let counted = if second.is_some() { &self.sent } else { &self.without_endpoint };
        counted.fetch_add(1, Ordering::Relaxed);
        if second.is_none() {
            lock(&self.budget).give_back();
        }
        second
    }

    /// How often one was wanted, by what became of that.
    pub fn told(&self) -> [(&'static str, u64); 3] {
        let count = |counted: &AtomicU64| counted.load(Ordering::Relaxed);
        [
            ("Sent", count(&self.sent)),
            ("NoBudget", count(&self.without_budget)),
            ("NoEndpoint", count(&self.without_endpoint)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each_is_counted_and_one_that_was_not_sent_is_not_paid_for() {
        let hedging = Hedging::default();
        assert_eq!(hedging.second(|| None::<()>), None);
        for _ in 0..5 {
            assert_eq!(hedging.second(|| Some(1)), Some(1));
        }
        assert_eq!(hedging.second(|| Some(1)), None);
        assert_eq!(hedging.told(), [("Sent", 5), ("NoBudget", 1), ("NoEndpoint", 1)]);
    }
}
