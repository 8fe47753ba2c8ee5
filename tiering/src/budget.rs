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

/// What is known of how long a node's own answers take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalTime {
    /// The longest that a run took of late.
    pub longest_run: Option<Duration>,
    /// The least that an answer ever took.
    pub shortest: Option<Duration>,
    /// How long an answer takes, nine times out of ten.
    pub predicted: Option<Duration>,
    /// How many answers that is learned from.
    pub answers: u32,
}

impl LocalTime {
    /// What one answer takes, as far as that is known.
    fn answer(&self) -> Option<Duration> {
        self.longest_run.max(self.shortest).max(self.predicted)
    }

    /// The same with a run before it that it waits for.
    fn answer_in_turn(&self) -> Option<Duration> {
        self.longest_run.map(|run| run.saturating_mul(2)).max(self.shortest).max(self.predicted)
    }
}

/// What to keep back for the local tier when remote tiers are tried before it: what an answer of it takes, behind one
/// other run, and a margin. The margin is half of what is left before the first answer, and less with each, down to a
/// twentieth: the first answers may be slower than all others. At least 2 ms.
///
/// At most half of what is left: the tier that was chosen is to have its chance too. Where half is too little for any
/// answer of the node and all of it is enough, that much is kept: half would be lost on both. Unless the tier that is
/// tried first is known to answer in half of the time and not in what would be left (`chosen`: how long it takes,
/// where it has answered at all): then it is worth the risk.
///
/// To be taken once, when the request begins, and given to every [`attempt_timeout`] before the local one: taken
/// anew each time, the half would shrink with every remote tier that fails.
pub fn reserve_for_local(
    remaining: Option<Duration>,
    local: &LocalTime,
    chosen: Option<Duration>,
) -> Duration {
    let Some(remaining) = remaining else { return Duration::ZERO };
    let half = remaining / 2;
    let margin = |share: u32| MARGIN.max(remaining / share);
    let least = local.answer().unwrap_or_default().saturating_add(margin(MARGIN_SHARE));
    if least > half && least < remaining {
        let others = remaining.saturating_sub(least);
        let is_worth_it = chosen.is_some_and(|chosen| chosen > others && chosen <= half);
        return if is_worth_it { half } else { least };
    }
    let unlearned = margin(local.answers.saturating_add(2).min(MARGIN_SHARE));
    local.answer_in_turn().unwrap_or_default().saturating_add(unlearned).min(half)
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
    use crate::latency::Latency;

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

    /// Learned from as many answers as it takes.
    fn learned(longest_run: u64, answer: u64) -> LocalTime {
        let (longest_run, answer) = (Some(ms(longest_run)), Some(ms(answer)));
        LocalTime { longest_run, shortest: answer, predicted: answer, answers: 100 }
    }

    #[test]
    fn the_reserve_is_an_answer_in_its_turn_and_a_margin_and_at_most_half() {
        for (remaining, local, expected) in [
            (None, learned(5, 5), 0),
            (Some(40), learned(5, 5), 12),
            (Some(20), learned(0, 0), 2),
            (Some(400), learned(5, 5), 30),
            (Some(400), learned(5, 60), 80),
            (Some(100), learned(24, 24), 50),
            (Some(100), learned(44, 44), 50),
            (Some(0), learned(5, 5), 0),
        ] {
            assert_eq!(
                reserve_for_local(remaining.map(ms), &local, None),
                ms(expected),
                "{remaining:?} {local:?}"
            );
        }
        let most = Duration::MAX;
        let endless = LocalTime { longest_run: Some(most), ..learned(0, 0) };
        assert_eq!(reserve_for_local(Some(most), &endless, None), most / 2);
    }

    #[test]
    fn the_fewer_answers_there_were_the_more_is_kept() {
        let reserve = |answers| {
            let local = LocalTime { answers, ..learned(0, 0) };
            reserve_for_local(Some(ms(400)), &local, None).as_millis()
        };
        assert_eq!([0, 1, 2, 6, 18, 19, u32::MAX].map(reserve), [200, 133, 100, 50, 20, 20, 20]);
        let unknown = reserve_for_local(Some(ms(400)), &LocalTime::default(), None);
        assert_eq!(unknown, ms(200));
    }

    #[test]
    fn a_slow_node_is_left_what_it_needs_unless_the_chosen_tier_needs_it_and_has_shown_that_it_can() {
        // Of 100 ms; the node's answer takes 60, and 5 are the margin.
        for (chosen, expected) in
            [(None, 65), (Some(10), 65), (Some(35), 65), (Some(36), 50), (Some(50), 50), (Some(51), 65)]
        {
            assert_eq!(
                reserve_for_local(Some(ms(100)), &learned(1, 60), chosen.map(ms)),
                ms(expected),
                "{chosen:?}"
            );
        }
        // The node cannot answer in time at all.
        assert_eq!(reserve_for_local(Some(ms(100)), &learned(1, 95), None), ms(50));
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

    fn micros(most: u64) -> impl Strategy<Value = Duration> {
        (0..most).prop_map(Duration::from_micros)
    }

    fn local_time() -> impl Strategy<Value = LocalTime> {
        let time = || prop::option::of(micros(1_000_000));
        (time(), time(), time(), 0_u32..50).prop_map(|(longest_run, shortest, predicted, answers)| {
            LocalTime { longest_run, shortest, predicted, answers }
        })
    }

    proptest! {
        /// Whatever is known, the node is left what an answer of it takes, where there is that much and nobody else is known
        /// to need it; and a tier that is known to answer in half of the time always has the time that it takes.
        #[test]
        fn neither_the_node_nor_the_chosen_tier_is_left_too_little_for_nothing(
            remaining in micros(2_000_000),
            local in local_time(),
            chosen in prop::option::of(micros(2_000_000)),
        ) {
            let reserve = reserve_for_local(Some(remaining), &local, chosen);
            let (half, answer) = (remaining / 2, local.answer().unwrap_or_default());
            prop_assert!(reserve <= remaining);
            let needed = answer + MARGIN.max(remaining / MARGIN_SHARE);
            if needed <= half || (needed < remaining && chosen.is_none_or(|chosen| chosen > half)) {
                prop_assert!(reserve >= needed, "{reserve:?} of {needed:?}");
            }
            if let Some(chosen) = chosen.filter(|chosen| *chosen <= half) {
                prop_assert!(remaining.saturating_sub(reserve) >= chosen);
            }
            let earlier = LocalTime { answers: local.answers / 2, ..local };
            prop_assert!(reserve_for_local(Some(remaining), &earlier, chosen) >= reserve);
        }

        /// However the node's first answers went, what is kept for it is enough to be let in: who was given the time must
        /// not be refused for lack of it.
        #[test]
        fn what_is_kept_for_the_node_suffices_to_be_asked(
            remaining in micros(2_000_000),
            took in prop::collection::vec(micros(300_000), 1..20),
            runs in micros(1_000),
        ) {
            let (mut pace, now) = (Latency::default(), Duration::from_secs(1));
            for took in took {
                pace.observe(now, took);
            }
            let local = LocalTime { longest_run: Some(runs), ..pace.local_time(now) };
            let reserve = reserve_for_local(Some(remaining), &local, None);
            let fits = local.answer().unwrap_or_default() + MARGIN.max(remaining / MARGIN_SHARE) < remaining;
            prop_assert!(!fits || pace.admits_shortest(now, reserve), "{reserve:?} of {remaining:?}: {local:?}");
        }

        /// Remote tiers that all run into their limits, the local one among them: nothing exceeds the deadline,
        /// and the local tier finds what was kept back for it.
        #[test]
        fn attempts_never_exceed_the_deadline_nor_the_reserve(
            deadline in 0_u64..10_000_000,
            timeouts in prop::collection::vec(1_u64..20_000_000, 0..3),
            after in prop::collection::vec(1_u64..20_000_000, 0..3),
            local in local_time(),
        ) {
            let deadline = Duration::from_micros(deadline);
            let reserve = reserve_for_local(Some(deadline), &local, None);
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
