//! How long to wait before something is tried again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// The wait after `failures` failures (at least one): doubling from a second to five minutes, less up to a fifth by
/// `seed`, so that nodes that failed together do not come back together.
pub fn wait(failures: u32, seed: u64) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let full = doubled.min(LONGEST);
    full.mul_f64(1.0 - 0.2 * ((seed % 1024) as f64 / 1024.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_doubles_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=11).map(|failures| wait(failures, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    proptest! {
        #[test]
        fn it_stays_within_a_fifth_and_never_overflows(failures: u32, seed: u64) {
            let (full, varied) = (wait(failures, 0), wait(failures, seed));
            prop_assert!(varied <= full && varied >= full.mul_f64(0.8));
        }
    }
}
