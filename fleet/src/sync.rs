//! When a checksum file is read again.

use std::time::Duration;

use crate::digest::Sha256;

/// How long to wait, `elapsed` after the last reading: the interval, varied by up to a tenth either way, so that
/// a fleet that was switched on at once does not read at once forever. The same seed gives the same wait.
pub fn next_sync(elapsed: Duration, interval: Duration, seed: u64) -> Duration {
    let tenth = interval / 10;
    let share = u128::from(mixed(seed) >> 32);
    // Below 2^97 (the nanoseconds of any duration, doubled) times 2^32: no overflow.
    let jitter = (tenth.as_nanos() * 2 * share) >> 32;
    let wait = interval.saturating_sub(tenth).saturating_add(nanoseconds(jitter));
    wait.saturating_sub(elapsed)
}

/// A seed of its own for each node, model and reading.
pub fn sync_seed(node: &str, model: &str, reading: u64) -> u64 {
    // Lengths keep ("ab", "c") apart from ("a", "bc").
    let text = format!("{}:{node}{}:{model}{reading}", node.len(), model.len());
    let digest = Sha256::of(text.as_bytes());
    digest.as_bytes()[..8].iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// Spreads neighbouring seeds over all 64 bits (the finisher of splitmix64).
const fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn nanoseconds(nanoseconds: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanoseconds / SECOND).unwrap_or(u64::MAX);
    let rest = u32::try_from(nanoseconds % SECOND).unwrap_or(0);
    Duration::new(seconds, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUARTER: Duration = Duration::from_mins(15);

    #[test]
    fn a_fleet_fills_the_window_evenly() {
        let seeds = [
            (0..1000).collect::<Vec<u64>>(),
            (0..1000).map(|node| sync_seed(&format!("node-{node}"), "default/digits", 1)).collect(),
        ];
        for seeds in seeds {
            let mut slots = [0; 10];
            for seed in seeds {
                let wait = next_sync(Duration::ZERO, QUARTER, seed);
                let offset = wait.checked_sub(Duration::from_secs(810)).unwrap();
                slots[usize::try_from(offset.as_secs() / 18).unwrap()] += 1;
            }
            assert!(slots.iter().all(|slot| (60..=140).contains(slot)), "{slots:?}");
        }
    }

    #[test]
    fn seeds_differ_by_node_model_and_reading() {
        let seeds = [
            sync_seed("a", "m", 1),
            sync_seed("b", "m", 1),
            sync_seed("a", "n", 1),
            sync_seed("a", "m", 2),
            sync_seed("am", "", 1),
            sync_seed("", "am", 1),
        ];
        for (position, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..position].contains(seed), "{position}");
        }
        assert_eq!(sync_seed("a", "m", 1), sync_seed("a", "m", 1));
    }

    #[test]
    fn time_that_has_passed_counts() {
        let whole = next_sync(Duration::ZERO, QUARTER, 7);
        let passed = Duration::from_secs(100);
        assert_eq!(next_sync(passed, QUARTER, 7), whole.checked_sub(passed).unwrap());
        assert_eq!(next_sync(QUARTER * 2, QUARTER, 7), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn a_wait_is_within_a_tenth_of_the_interval(
            seconds in prop_oneof![1_u64..1_000_000, any::<u64>()], nanoseconds in 0_u32..1_000_000_000, seed in any::<u64>(),
        ) {
            let interval = Duration::new(seconds, nanoseconds);
            let wait = next_sync(Duration::ZERO, interval, seed);
            let tenth = interval / 10;
            prop_assert!(wait >= interval.checked_sub(tenth).unwrap());
            prop_assert!(wait <= interval.saturating_add(tenth));
        }
    }
}
