//! How long a tier takes to answer, learned from what it took.
//!
//! Pure: `now` is the time since any moment that the caller keeps to. An estimate is a histogram whose weights fade, by
//! half every [`HALF_LIFE`] and with each new sample, so that it follows the tier. A request that was given up after some
//! time took at least that long: it is counted among those that took longer, or above its limit where there are none.
//!
//! A tier that is predicted to be too late is not asked, so nothing new is learned of it. Its estimate fades until what was
//! known before the first sample (the time that a connection took) weighs more; then one request tries it.

use std::time::Duration;

use crate::budget::LocalTime;

/// What a sample counts for halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// How many samples an estimate goes back, however fast they come.
const MEMORY: f32 = 64.0;
/// The share of answers that come in the predicted time.
const SHARE: f32 = 0.9;
/// What a prior weighs, in samples.
const PRIOR: f32 = 1.0;
/// Below this weight an estimate says nothing: a prior outweighs it.
const FADED: f32 = PRIOR * (1.0 - SHARE) / SHARE;
/// The share of samples that is no share: what is left of long ago.
const RARE: f32 = 0.02;

/// The first bucket ends here.
const FIRST: Duration = Duration::from_micros(50);
/// Buckets up to twice the time.
const PER_DOUBLING: f64 = 4.0;
/// The last one takes everything from 52 s.
const BUCKETS: usize = 81;

/// How long one model takes to answer at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    weights: [f32; BUCKETS],
    /// When the weights were right.
    at: Duration,
    /// The least that an answer ever took.
    least: Option<Duration>,
    /// How many answers there were, ever.
    answers: u32,
    /// When it was last tried although the samples say that it is too late.
    trial: Option<Duration>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { weights: [0.0; BUCKETS], at: Duration::ZERO, least: None, answers: 0, trial: None }
    }
}

impl Latency {
    /// An answer took so long.
    pub fn observe(&mut self, now: Duration, took: Duration) {
        self.fade(now);
        self.weights[bucket(took)] += 1.0;
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
        self.answers = self.answers.saturating_add(1);
        self.trial = None;
    }

    /// No answer came in this time.
    pub fn observe_at_least(&mut self, now: Duration, limit: Duration) {
        self.fade(now);
        let above = (bucket(limit) + 1).min(BUCKETS - 1);
        let (total, longer) = (self.total(), self.weights[above..].iter().sum::<f32>());
        if longer > total * RARE && longer > FADED {
            let grown = (longer + 1.0) / longer;
            self.weights[above..].iter_mut().for_each(|weight| *weight *= grown);
        } else {
            self.weights[above] += 1.0;
        }
        self.trial = None;
    }

    /// How long an answer takes nine times out of ten; `prior` is what is expected of a place that nothing is known of.
    pub fn predicted_p90(&self, now: Duration, prior: Option<Duration>) -> Option<Duration> {
        let faded = self.faded(now);
        let total = self.total() * faded;
        let Some(prior) = prior else {
            return (total > FADED).then(|| middle(self.place(SHARE * total / faded, None)));
        };
        if total <= FADED {
            return Some(prior);
        }
        let place = self.place(SHARE * (total + PRIOR) / faded, Some((bucket(prior), PRIOR / faded)));
        Some(middle(place))
    }

    /// The least that an answer ever took.
    pub const fn shortest(&self) -> Option<Duration> {
        self.least
    }

    /// The same as [`Self::predicted_p90`], of a place that has answered before.
    pub fn shown(&self, now: Duration, prior: Option<Duration>) -> Option<Duration> {
        self.predicted_p90(now, prior).filter(|_| self.answers > 0)
    }

    /// What there is to know of a node's own answers, but for their runs.
    pub fn local_time(&self, now: Duration) -> LocalTime {
        let predicted = self.predicted_p90(now, None);
        LocalTime { longest_run: None, shortest: self.least, predicted, answers: self.answers }
    }

    /// Whether a tier that has `left` is asked: where nine of ten answers come in time. Where the samples say otherwise and
    /// have faded, it is asked once, and not again before that is over or `left` has passed.
    pub fn admits(&mut self, now: Duration, left: Duration, prior: Option<Duration>) -> bool {
        let in_time = is_in_time(self.predicted_p90(now, prior), Some(left));
        let total = self.total();
        let seen = (total > 0.0).then(|| middle(self.place(SHARE * total, None)));
        in_time && (is_in_time(seen, Some(left)) || self.tries(now, left))
    }

    /// Whether a node's own model is asked: unless no answer of it ever came in `left`. By what it can do and not by what it
    /// did of late: that was waiting, for the most part, and a queue that is gone should turn nobody away. Where it was not
    /// asked for a while, its first answers may just have been slow: it is asked once.
    pub fn admits_shortest(&mut self, now: Duration, left: Duration) -> bool {
        let in_time = is_in_time(self.least, Some(left));
        in_time || (now.saturating_sub(self.at) > HALF_LIFE && self.tries(now, left.max(HALF_LIFE)))
    }

    fn tries(&mut self, now: Duration, left: Duration) -> bool {
        let is_under_way = self.trial.is_some_and(|since| now < since.saturating_add(left));
        if !is_under_way {
            self.trial = Some(now);
        }
        !is_under_way
    }

    /// The bucket below whose end so much of the weight lies.
    fn place(&self, share: f32, extra: Option<(usize, f32)>) -> usize {
        let mut sum = 0.0;
        let place = self.weights.iter().enumerate().position(|(index, weight)| {
            sum += weight + extra.filter(|(at, _)| *at == index).map_or(0.0, |(_, weight)| weight);
            sum >= share
        });
        // Sums of floats may fall short of their share by a hair.
        place.or_else(|| self.weights.iter().rposition(|weight| *weight > 0.0)).unwrap_or(0)
    }

    fn total(&self) -> f32 {
        self.weights.iter().sum()
    }

    /// What is left of a weight.
    fn faded(&self, now: Duration) -> f32 {
        let age = now.saturating_sub(self.at).as_secs_f32() / HALF_LIFE.as_secs_f32();
        // Never nothing, so that what is left can still be divided.
        (-age).exp2().max(f32::MIN_POSITIVE)
    }

    fn fade(&mut self, now: Duration) {
        let faded = self.faded(now) * (1.0 - 1.0 / MEMORY);
        self.weights.iter_mut().for_each(|weight| *weight *= faded);
        self.at = now.max(self.at);
    }
}

/// Whether what takes so long, as far as is known, is over before no time is left.
pub(crate) fn is_in_time(takes: Option<Duration>, left: Option<Duration>) -> bool {
    takes.zip(left).is_none_or(|(takes, left)| takes <= left)
}

/// Where a time is counted.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below BUCKETS, and not below 0
fn bucket(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() / FIRST.as_secs_f64()).log2();
    ((doublings * PER_DOUBLING).floor() + 1.0).clamp(0.0, (BUCKETS - 1) as f64) as usize
}

/// What stands for the times that are counted there: more than every limit that is counted one bucket below.
fn middle(bucket: usize) -> Duration {
    FIRST.mul_f64(((bucket as f64 - 0.5) / PER_DOUBLING).exp2())
}
