//! One model at one endpoint: how long its answers take, whether it answers there, and what is told of it where it does not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use terrace_tiering::{Blame, Breaker, BreakerSettings, BreakerState, Failure, Latency, Pass, blame};
use tracing::{info, warn};

use super::endpoint::{Endpoint, lock};
use super::error::UpstreamError;
use super::trouble::{LeftAlone, Trouble};

/// What may turn back and forth with each request, as behind a balancer, is said once in so long.
pub const SAID_FOR: Duration = Duration::from_secs(60);

/// One model at one endpoint.
#[derive(Debug)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// As this node names it.
    model: Arc<str>,
    /// What was learned, and in which of the endpoint's lives: one that was away and came back begins anew.
    learned: Mutex<(u64, Latency)>,
    standing: Mutex<Standing>,
}

/// Whether the model answers there.
#[derive(Debug, Default)]
struct Standing {
    /// How often somebody was there again where nobody had been, when this began.
    starts: u64,
    breaker: Breaker,
    /// How it ended last, where no outputs came.
    trouble: Option<Trouble>,
    /// What answers is not asked rightly, and since then no outputs came.
    misdirected: bool,
    /// That was said.
    is_said: bool,
    said_at: Option<Duration>,
    misfits: Misfits,
}

/// Whether the outputs that came were of use.
#[derive(Debug, Default)]
struct Misfits {
    /// The last were not.
    trouble: Option<Trouble>,
    /// That was said.
    is_said: bool,
    said_at: Option<Duration>,
}

/// How a request goes through both breakers.
#[derive(Clone, Copy, Debug)]
pub struct Passes {
    endpoint: Pass,
    model: Pass,
}

impl Route {
    /// Nothing is known yet.
    pub fn new(endpoint: Arc<Endpoint>, model: Arc<str>) -> Self {
        Self { endpoint, model, learned: Mutex::default(), standing: Mutex::default() }
    }

    /// As this node names the model.
    pub const fn model(&self) -> &Arc<str> {
        &self.model
    }

    /// How long an answer takes, nine times out of ten.
    pub fn predicted(&self, now: Duration) -> Option<Duration> {
        self.with(|latency| latency.predicted_p90(now, self.endpoint.connect_time()))
    }

    /// The same, where there was an answer.
    pub fn shown(&self, now: Duration) -> Option<Duration> {
        self.with(|latency| latency.shown(now, self.endpoint.connect_time()))
    }

    /// Whether an answer may come in this time.
    pub fn admits(&self, now: Duration, allowed: Duration) -> bool {
        self.with(|latency| latency.admits(now, allowed, self.endpoint.connect_time()))
    }

    /// What was learned of its latency, to be asked or told.
    pub fn with<T>(&self, ask: impl FnOnce(&mut Latency) -> T) -> T {
        let mut learned = lock(&self.learned);
        let life = self.endpoint.life();
        if learned.0 != life {
            *learned = (life, Latency::default());
        }
        ask(&mut learned.1)
    }

    /// What both breakers say to a request. An endpoint where nobody was is asked again once somebody is seen there.
    pub fn breaker_state(&self, now: Duration) -> BreakerState {
        self.standing().breaker.state(now).and(self.endpoint.usable_state(now))
    }

    /// What the model's own breaker says.
    pub fn own_state(&self, now: Duration) -> BreakerState {
        self.standing().breaker.state(now)
    }

    /// How it ended last, where no outputs came, or none that were of use.
    pub fn trouble(&self) -> Option<Trouble> {
        let standing = self.standing();
        standing.trouble.as_ref().or(standing.misfits.trouble.as_ref()).cloned()
    }

    /// Outputs came that are of use, or are not. That they are not will not pass by itself, so it is said once, and when it
    /// is over.
    pub fn verified(&self, now: Duration, misfit: Option<Trouble>) {
        let mut standing = self.standing();
        let misfits = &mut standing.misfits;
        match &misfit {
            Some(trouble) if misfits.trouble.is_none() => {
                misfits.is_said = misfits.said_at.is_none_or(|at| now.saturating_sub(at) >= SAID_FOR);
                if misfits.is_said {
                    misfits.said_at = Some(now);
                    warn!(
                        endpoint = %self.endpoint.label, model = %self.model, outcome = trouble.reason, why = %trouble.message,
                        "a verifier's answers are not used"
                    );
                }
            }
            None if misfits.trouble.is_some() && misfits.is_said => {
                info!(endpoint = %self.endpoint.label, model = %self.model, "a verifier's answers fit again");
            }
            _ => {}
        }
        misfits.trouble = misfit;
    }

    /// It is asked under a policy that may be another one: whether its outputs are of use is to be seen anew.
    pub fn under_another_policy(&self) {
        self.standing().misfits.trouble = None;
    }

    /// Why nothing is sent there now: the endpoint's reasons, else the model's own.
    pub fn left_alone(&self, now: Duration) -> LeftAlone {
        if let Some(alone) = self.endpoint.left_alone(now) {
            return alone;
        }
        let standing = self.standing();
        LeftAlone {
            model: Some(Arc::clone(&self.model)),
            left: standing.breaker.left(now).unwrap_or_default(),
            times: standing.breaker.times(),
            last: standing.trouble.as_ref().map(|trouble| Arc::clone(&trouble.told)),
        }
    }

    /// Has both breakers let a request through that may take so long.
    pub fn pass(&self, now: Duration, settings: &BreakerSettings, timeout: Duration) -> Option<Passes> {
        let mut standing = self.standing();
        let states = [standing.breaker.state(now), self.endpoint.usable_state(now)];
        if states.contains(&BreakerState::Open) {
            return None;
        }
        let endpoint = self.endpoint.pass(now, settings, timeout)?;
        // Not open, and nobody else asks it meanwhile.
        let model = standing.breaker.pass(now, settings, timeout)?;
        Some(Passes { endpoint, model })
    }

    /// Outputs came.
    pub fn answered(&self, now: Duration) {
        self.endpoint.answered(now);
        let mut standing = self.standing();
        if standing.breaker.state(now) != BreakerState::Closed {
            info!(endpoint = %self.endpoint.label, model = %self.model, "a model answers again at a tier's endpoint");
        } else if standing.is_said {
            info!(endpoint = %self.endpoint.label, model = %self.model, "a tier's endpoint answers as it should again");
        }
        standing.breaker.answered();
        standing.trouble = None;
        (standing.misdirected, standing.is_said) = (false, false);
    }

    /// No outputs came. `name` is what the model is called there.
    pub fn failed(
        &self,
        now: Duration,
        passes: Passes,
        (error, name): (&UpstreamError, &str),
        settings: &BreakerSettings,
    ) {
        let Some(ended) = error.unanswered() else {
            if error.is_answer() {
                self.endpoint.answered(now);
                self.standing().breaker.abandoned(now, passes.model);
            } else {
                self.abandoned(now, passes);
            }
            return;
        };
        let trouble = Trouble::of(error, name, now);
        let mut standing = self.standing();
        let blamed = blame(ended);
        let counts = blamed.counts(standing.breaker.state(now));
        standing.trouble = Some(trouble.clone());
        let failure = |pass, seed| Failure { pass, weight: error.weight(), seed };
        let opened = if counts.model {
            let seed = self.endpoint.seed(now).rotate_left(32);
            standing.breaker.failed(now, failure(passes.model, seed), settings)
        } else {
            standing.breaker.abandoned(now, passes.model);
            false
        };
        let times = standing.breaker.times();
        let misdirected = error.is_misdirected() && self.begins_to_be_misdirected(now, &mut standing, error);
        drop(standing);
        let mut has_said = false;
        if counts.endpoint {
            let failure = failure(passes.endpoint, self.endpoint.seed(now));
            has_said = self.endpoint.failed(now, failure, (&trouble, error.is_unconnected()), settings);
        } else if blamed == Blame::Model || blamed == Blame::Nobody && error.is_answer() {
            self.endpoint.answered(now);
        } else {
            self.endpoint.abandoned(now, passes.endpoint);
        }
        if opened && !has_said && passes.model == Pass::Normal {
            warn!(
                endpoint = %self.endpoint.label, model = %self.model, outcome = trouble.reason, times, why = %trouble.message,
                "a model fails at a tier's endpoint; it is left alone there for a while, and other models are not"
            );
        }
        if misdirected {
            warn!(
                endpoint = %self.endpoint.label, model = %self.model, outcome = trouble.reason, why = %trouble.message,
                "a tier's endpoint answers, and not with outputs"
            );
        }
    }

    /// Whether that begins here, and is to be said: once, and of what concerns the whole endpoint once for all models.
    fn begins_to_be_misdirected(
        &self,
        now: Duration,
        standing: &mut Standing,
        error: &UpstreamError,
    ) -> bool {
        if standing.misdirected {
            return false;
        }
        standing.misdirected = true;
        let is_new = standing.said_at.is_none_or(|at| now.saturating_sub(at) >= SAID_FOR);
        standing.is_said = is_new && (error.is_of_the_model() || self.endpoint.may_say(now));
        if standing.is_said {
            standing.said_at = Some(now);
        }
        standing.is_said
    }

    /// A request ended that says nothing of it.
    pub fn abandoned(&self, now: Duration, passes: Passes) {
        self.endpoint.abandoned(now, passes.endpoint);
        self.standing().breaker.abandoned(now, passes.model);
    }

    /// Where it stands. What was left alone because of an endpoint that is another one now is not left alone any more.
    fn standing(&self) -> MutexGuard<'_, Standing> {
        let mut standing = lock(&self.standing);
        let starts = self.endpoint.starts();
        if standing.starts != starts {
            standing.starts = starts;
            standing.breaker = Breaker::default();
        }
        standing
    }
}
