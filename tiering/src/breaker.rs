//! When an endpoint that does not answer, or a model that fails there, is left alone, and when it is tried again.
//!
//! Pure: `now` is the time since any moment that the caller keeps to, `seed` any number that varies. A closed breaker opens
//! after so many failures with no answer between them. Open, it lets nothing through for a period, which doubles each time
//! up to a limit; then half-open, it lets one request through, whose end closes or opens it.
//!
//! What a failure is, the caller says, by its [`weight`]: an endpoint that did not answer in the short time
//! that a deadline left has failed less than one that did not answer in its own time-out, so a tight deadline does not take
//! a tier away from those that have time. Half-open it takes a whole failure to open it again, of one request or of several
//! in a row. (That it is too slow for tight deadlines is [`Latency`](crate::Latency)'s to know.)

use std::time::Duration;

/// Failures in a row that open a breaker, unless its policy says otherwise.
pub const DEFAULT_FAILURES: u32 = 3;
/// How long it stays open at first.
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(5);
/// How long it stays open at most.
pub const DEFAULT_MAX_PERIOD: Duration = Duration::from_secs(60);

/// Each wait is up to this share longer, so that nodes that lost a tier together do not come back to it together.
const JITTER: f64 = 0.2;
/// What had this share of its time had all of it: who is asked a moment later, after a connection that was closed, has a
/// moment less.
const WHOLE: f64 = 0.99;
/// A hair, for what fractions leave of a whole failure.
const NEARLY: f64 = 1e-9;

/// What a circuit breaker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    #[default]
    Closed,
    /// None does.
    Open,
    /// One does, to see whether the endpoint answers again.
    HalfOpen,
}

impl BreakerState {
    /// What two of them say together, where a request needs both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::HalfOpen, _) | (_, Self::HalfOpen) => Self::HalfOpen,
            (Self::Closed, Self::Closed) => Self::Closed,
        }
    }

    /// The name in rules, responses and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open at first.
    pub period: Duration,
    /// How long it stays open at most.
    pub max_period: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: DEFAULT_FAILURES, period: DEFAULT_PERIOD, max_period: DEFAULT_MAX_PERIOD }
    }
}

/// The breaker of one endpoint, or of one model there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breaker {
    state: State,
    /// Failures since the last answer; once it was opened, since it was opened last.
    failures: f64,
    /// How many requests they were.
    times: u32,
    /// How often it was opened since the last answer.
    opened: u32,
    /// How many requests were let through to see.
    probes: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
    },
    /// A request is through. Should its end never be told, another one goes after `until`.
    Probing {
        until: Duration,
        number: u32,
    },
}

/// How a request goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As one of many.
    Normal,
    /// As the one that shows whether the endpoint answers again; of several in the course of time, this one.
    Probe(u32),
}

/// A request that the endpoint did not answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failure {
    /// How it went through.
    pub pass: Pass,
    /// What it counts for: 1 is a whole failure.
    pub weight: f64,
    /// Any number that varies.
    pub seed: u64,
}

impl Breaker {
    /// What it would say to a request.
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } | State::Probing { until, .. } if now < until => BreakerState::Open,
            State::Open { .. } | State::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// How much longer it lets nothing through; none where it would.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Open { until } | State::Probing { until, .. } if now < until => {
                Some(until.saturating_sub(now))
            }
            _ => None,
        }
    }

    /// Requests in a row that were not answered; of those under way when it opened, none counts.
    pub const fn times(&self) -> u32 {
        self.times
    }

    /// Lets a request through, or not. `timeout` is how long a request may take: one that shows whether the endpoint answers
    /// again has that long, and is alone meanwhile.
    pub fn pass(&mut self, now: Duration, settings: &BreakerSettings, timeout: Duration) -> Option<Pass> {
        match self.state(now) {
            BreakerState::Closed => Some(Pass::Normal),
            BreakerState::Open => None,
            BreakerState::HalfOpen => {
                self.probes = self.probes.wrapping_add(1);
                let until = now.saturating_add(settings.period.max(timeout));
                self.state = State::Probing { until, number: self.probes };
                Some(Pass::Probe(self.probes))
            }
        }
    }

    /// The endpoint answered.
    pub fn answered(&mut self) {
        *self = Self { probes: self.probes, ..Self::default() };
    }

    /// The endpoint did not answer. Whether that opened the breaker.
    pub fn failed(&mut self, now: Duration, failure: Failure, settings: &BreakerSettings) -> bool {
        let needed = match (self.state, failure.pass) {
            (State::Closed, _) => f64::from(settings.failures),
            (State::Probing { number, .. }, Pass::Probe(probe)) if number == probe => 1.0,
            // One of those that were under way when it opened.
            _ => return false,
        };
        self.times = self.times.saturating_add(1);
        self.failures += failure.weight.clamp(0.0, 1.0);
        if self.failures + NEARLY < needed {
            // A request in a hurry did not show whether it answers again: the next one tries at once.
            self.abandoned(now, failure.pass);
            return false;
        }
        self.failures = 0.0;
        let wait = settings
            .period
            .saturating_mul(1 << self.opened.min(16))
            .min(settings.max_period.max(settings.period));
        // A number from 0 to 1 of the seed's upper bits.
        let share = (failure.seed >> 11) as f64 / (1_u64 << 53) as f64;
        self.state = State::Open { until: now.saturating_add(wait.mul_f64(1.0 + JITTER * share)) };
        self.opened = self.opened.saturating_add(1);
        true
    }

    /// The request that was let through ended without saying anything of the endpoint: its caller went away.
    pub fn abandoned(&mut self, now: Duration, pass: Pass) {
        if let (State::Probing { number, .. }, Pass::Probe(probe)) = (self.state, pass)
            && number == probe
        {
            self.state = State::Open { until: now };
        }
    }
}

/// What it counts for that no answer came in `limit`, of an endpoint that may take `timeout`.
pub fn weight(limit: Duration, timeout: Duration) -> f64 {
    let share = if timeout.is_zero() { 1.0 } else { limit.as_secs_f64() / timeout.as_secs_f64() };
    if share < WHOLE { share } else { 1.0 }
}
