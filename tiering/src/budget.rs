//! How the time that a request has is shared among the tiers that are tried.

use std::time::Duration;

use crate::decide::SkipReason;

/// What a local run needs beyond itself: its place in the queue, the reply on its way, a timer that fires late. At
/// least this, and where there is time enough a share of it: a busy machine is late by more than 2 ms.
const MARGIN: Duration = Duration::from_millis(2);
/// One part in so many.
const MARGIN_SHARE: u32 = 20;

/// What it takes to write a byte of an answer as JSON, on a slow machine.
const NANOS_PER_BYTE: u64 = 20;

/// Whether an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is, and given up after this long; without a limit where there is no deadline and no time-out.
    Run(Option<Duration>),
    /// It is not.
    Skip(SkipReason),
}

/// What to keep back for the local tier when remote tiers are tried before it: twice the longest run observed,
/// since a run may wait behind one other, and a margin: a twentieth of what is left, and at least 2 ms. At most half of what is left: the tier that was chosen is
/// to have its chance too, and where both need more than there is, neither may starve the other. The half also
/// stands where no run was observed.
///
/// To be taken once, when the request begins, and given to every [`attempt_timeout`] before the local one: taken
/// anew each time, the half would shrink with every remote tier that fails.
pub fn reserve_for_local(remaining: Option<Duration>, longest_run: Option<Duration>) -> Duration {
    let Some(remaining) = remaining else { return Duration::ZERO };
    let half = remaining / 2;
    let margin = MARGIN.max(remaining / MARGIN_SHARE);
    longest_run.map_or(half, |run| run.saturating_mul(2).saturating_add(margin).min(half))
}

/// What to keep back for the reply where an answer of so many bytes is in hand, and others are waited for all the same:
/// the margin of a local run, and the time to write it.
pub fn reserve_for_reply(remaining: Option<Duration>, bytes: usize) -> Duration {
    let Some(remaining) = remaining else { return Duration::ZERO };
    let writing = Duration::from_nanos(NANOS_PER_BYTE.saturating_mul(bytes as u64));
    MARGIN.max(remaining / MARGIN_SHARE).saturating_add(writing)
}

/// What to keep back for the reply where several answers become one: these bytes of answers are in hand, and so many answers
/// are waited for, each as large as the largest so far. Every one of them is gone through, and one is written. Without any
/// answer there is no telling.
pub fn reserve_for_combined(
    remaining: Option<Duration>,
    in_hand: impl IntoIterator<Item = usize>,
    awaited: usize,
) -> Duration {
    let (all, largest) = in_hand
        .into_iter()
        .fold((0_usize, 0), |(all, largest), bytes| (all.saturating_add(bytes), bytes.max(largest)));
    reserve_for_reply(remaining, all.saturating_add(largest.saturating_mul(awaited)))
}

/// Whether an attempt is made with `remaining` time before the deadline (none: there is no deadline), and how long
/// it may take: what is left without the `reserve` for others, and no longer than the tier's own `timeout`.
///
/// `reserve` is zero for the local tier and for every tier after it.
pub fn attempt_timeout(remaining: Option<Duration>, timeout: Option<Duration>, reserve: Duration) -> Attempt {
    let Some(remaining) = remaining else { return Attempt::Run(timeout) };
    match remaining.saturating_sub(reserve) {
        Duration::ZERO => Attempt::Skip(SkipReason::DeadlineExceeded),
        left => Attempt::Run(Some(timeout.map_or(left, |timeout| timeout.min(left)))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_attempt_has_the_least_of_time_out_and_time_left() {
        for (remaining, timeout, reserve, expected) in [
            (None, None, 0, Attempt::Run(None)),
            (None, Some(5000), 0, Attempt::Run(Some(ms(5000)))),
            (Some(50), None, 0, Attempt::Run(Some(ms(50)))),
            (Some(50), Some(5000), 0, Attempt::Run(Some(ms(50)))),
            (Some(50), Some(20), 0, Attempt::Run(Some(ms(20)))),
            (Some(50), Some(5000), 10, Attempt::Run(Some(ms(40)))),
            (Some(50), Some(40), 10, Attempt::Run(Some(ms(40)))),
            (Some(10), Some(40), 10, Attempt::Skip(SkipReason::DeadlineExceeded)),
            (Some(5), Some(40), 10, Attempt::Skip(SkipReason::DeadlineExceeded)),
            (Some(0), None, 0, Attempt::Skip(SkipReason::DeadlineExceeded)),
        ] {
            assert_eq!(attempt_timeout(remaining.map(ms), timeout.map(ms), ms(reserve)), expected);
        }
    }

    #[test]
    fn the_reserve_is_twice_the_longest_run_and_a_margin_and_at_most_half() {
        for (remaining, longest_run, expected) in [
            (None, Some(5), 0),
            (Some(40), Some(5), 12),
            (Some(20), Some(0), 2),
            (Some(400), Some(5), 30),
            (Some(100), Some(24), 50),
            (Some(100), Some(90), 50),
            (Some(100), None, 50),
            (Some(0), Some(5), 0),
        ] {
            assert_eq!(reserve_for_local(remaining.map(ms), longest_run.map(ms)), ms(expected));
        }
        assert_eq!(reserve_for_local(Some(Duration::MAX), Some(Duration::MAX)), Duration::MAX / 2);
    }

    #[test]
    fn the_reserve_for_a_reply_grows_with_it_and_with_the_time_that_there_is() {
        for (remaining, bytes, expected) in [
            (None, 1 << 30, 0),
            (Some(10), 0, 2),
            (Some(400), 0, 20),
            (Some(400), 1_000_000, 40),
            (Some(0), 0, 2),
        ] {
            assert_eq!(reserve_for_reply(remaining.map(ms), bytes), ms(expected), "{remaining:?} {bytes}");
        }
    }

    #[test]
    fn the_reserve_for_a_combined_reply_counts_answers_that_are_there_and_that_may_come() {
        const MEGABYTE: usize = 1_000_000;
        for (remaining, in_hand, awaited, expected) in [
            (None, &[1 << 30][..], 2, 0),
            (Some(400), &[], 3, 20),
            (Some(400), &[MEGABYTE], 0, 40),
            (Some(400), &[MEGABYTE], 2, 80),
            (Some(400), &[MEGABYTE, 2 * MEGABYTE], 1, 120),
            (Some(400), &[MEGABYTE, 2 * MEGABYTE, 0], 0, 80),
        ] {
            let reserve = reserve_for_combined(remaining.map(ms), in_hand.iter().copied(), awaited);
            assert_eq!(reserve, ms(expected), "{remaining:?} {in_hand:?} {awaited}");
        }
        let most = reserve_for_combined(Some(ms(1)), [usize::MAX, usize::MAX], usize::MAX);
        assert_eq!(most, reserve_for_reply(Some(ms(1)), usize::MAX));
    }

    proptest! {
        /// Remote tiers that all run into their limits, the local one among them: nothing exceeds the deadline,
        /// and the local tier finds what was kept back for it.
        #[test]
        fn attempts_never_exceed_the_deadline_nor_the_reserve(
            deadline in 0_u64..10_000_000,
            timeouts in prop::collection::vec(1_u64..20_000_000, 0..3),
            after in prop::collection::vec(1_u64..20_000_000, 0..3),
            longest_run in prop::option::of(0_u64..1_000_000),
        ) {
            let deadline = Duration::from_micros(deadline);
            let reserve = reserve_for_local(Some(deadline), longest_run.map(Duration::from_micros));
            let mut spent = Duration::ZERO;
            let mut spend = |timeout: Option<u64>, reserve: Duration| {
                let timeout = timeout.map(Duration::from_micros);
                match attempt_timeout(Some(deadline.saturating_sub(spent)), timeout, reserve) {
                    Attempt::Run(limit) => {
                        spent += limit.unwrap();
                        limit
                    }
                    Attempt::Skip(_) => None,
                }
            };
            for timeout in timeouts {
                spend(Some(timeout), reserve);
            }
            let local = spend(None, Duration::ZERO);
            prop_assert!(local.unwrap_or_default() >= reserve);
            prop_assert_eq!(local.is_none(), deadline.is_zero());
            for timeout in after {
                prop_assert_eq!(spend(Some(timeout), Duration::ZERO), None);
            }
            prop_assert!(spent <= deadline);
        }
    }
}
