//! How the tiers of one model's policy are reached: which endpoint is asked, whether it is, and what follows where it does
//! not answer: more requests, and only where that is safe or was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_tiering::{
    Again, BreakerState, EndpointState, Fate, Policy, RemoteState, RemoteTier, Resent, SkipReason,
    passed_over, pick,
};
use tokio::time::sleep_until;
use url::Url;

use super::endpoint::InFlight;
use super::error::UpstreamError;
use super::flight::{Answered, Flight, Time};
use super::hedging::Hedging;
use super::route::Route;
use super::{Ask, Upstream};

/// The tiers of one model's policy.
#[derive(Debug, Default)]
pub struct Reach {
    edge: Option<TierReach>,
    cloud: Option<TierReach>,
}

/// One tier for one model.
#[derive(Debug)]
pub struct TierReach {
    routes: Vec<Arc<Route>>,
    /// What the policy says of it.
    pub remote: RemoteTier,
    hedging: Arc<Hedging>,
    turn: AtomicUsize,
}

/// Some of a tier's endpoints, by their places; those beyond 64 are never among them.
#[derive(Clone, Copy, Debug, Default)]
struct Places(u64);

impl Places {
    const fn with(self, place: usize) -> Self {
        Self(if place < 64 { self.0 | 1 << place } else { self.0 })
    }

    const fn has(self, place: usize) -> bool {
        place < 64 && self.0 & 1 << place != 0
    }

    const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// No outputs, be it of one request or of two that were sent at once.
#[derive(Debug)]
struct Failed {
    error: UpstreamError,
    fate: Fate,
    /// Where nobody could be connected to.
    unconnected: Places,
}

impl Failed {
    fn at(place: usize, (error, fate): (UpstreamError, Fate)) -> Self {
        let nowhere = Places::default();
        let unconnected = if fate == Fate::Unconnected { nowhere.with(place) } else { nowhere };
        Self { error, fate, unconnected }
    }

    /// Of two that were sent at once: what one of them was answered says more than that the other was not read.
    fn and(self, last: Self) -> Self {
        let (fate, unconnected) = (self.fate.and(last.fate), self.unconnected.and(last.unconnected));
        let was_read = self.fate == Fate::Read && last.fate != Fate::Read;
        Self { error: if was_read { self.error } else { last.error }, fate, unconnected }
    }
}

impl Reach {
    /// Of a policy; `route` is the way to one of a tier's endpoints, `hedging` what is kept of a tier's second requests.
    pub fn new(
        policy: &Policy,
        mut route: impl FnMut(&Url, &RemoteTier) -> Arc<Route>,
        mut hedging: impl FnMut(Tier) -> Arc<Hedging>,
    ) -> Self {
        let mut tier = |tier| {
            policy.remote(tier).map(|remote| TierReach {
                // None where this node knows no way there.
                routes: remote.endpoints().unwrap_or_default().iter().map(|url| route(url, remote)).collect(),
                remote: remote.clone(),
                hedging: hedging(tier),
                turn: AtomicUsize::new(0),
            })
        };
        Self { edge: tier(Tier::Edge), cloud: tier(Tier::Cloud) }
    }

    /// How a tier is reached; the device never is.
    pub const fn to(&self, tier: Tier) -> Option<&TierReach> {
        match tier {
            Tier::Device => None,
            Tier::Edge => self.edge.as_ref(),
            Tier::Cloud => self.cloud.as_ref(),
        }
    }

    /// What is known of a tier now.
    pub fn state(&self, tier: Tier, now: Duration) -> RemoteState {
        self.to(tier).map(|reach| reach.state(now)).unwrap_or_default()
    }
}

impl TierReach {
    /// The endpoint that would be asked, or one that is not where none would.
    fn next(&self, now: Duration) -> Option<&Route> {
        let place = match &self.routes[..] {
            [_] => 0,
            routes => pick(self.endpoints(now, Places::default()), self.turn.load(Ordering::Relaxed))
                .or_else(|| routes.iter().position(|route| route.breaker_state(now) != BreakerState::Open))
                .unwrap_or(0),
        };
        self.routes.get(place).map(|route| &**route)
    }

    /// How long an answer takes, nine times out of ten, where there was one.
    pub fn shown(&self, now: Duration) -> Option<Duration> {
        self.next(now)?.shown(now)
    }

    /// What is known of it.
    fn state(&self, now: Duration) -> RemoteState {
        let Some(route) = self.next(now) else { return RemoteState::default() };
        let (breaker, in_flight) = (route.breaker_state(now), route.endpoint.in_flight());
        RemoteState {
            available: passed_over(breaker, in_flight, self.remote.max_in_flight).is_none(),
            breaker,
            predicted_p90: route.predicted(now),
            rtt: route.endpoint.connect_time(),
            in_flight,
        }
    }

    /// What is kept of its second requests.
    #[cfg(test)]
    pub fn hedging(&self) -> &Hedging {
        &self.hedging
    }

    /// How often a second request was wanted, by what became of that; none where the policy wants none.
    pub fn hedges(&self) -> Option<[(&'static str, u64); 3]> {
        self.remote.hedge.map(|_| self.hedging.told())
    }

    fn endpoints(&self, now: Duration, except: Places) -> impl ExactSizeIterator<Item = EndpointState> + '_ {
        self.routes.iter().enumerate().map(move |(place, route)| {
            let in_flight = route.endpoint.in_flight();
            let why = passed_over(route.breaker_state(now), in_flight, self.remote.max_in_flight);
            EndpointState {
                available: why.is_none() && !except.has(place),
                in_flight,
                predicted: route.predicted(now),
            }
        })
    }

    /// Asks; dropped, it takes everything back.
    pub async fn ask(&self, upstream: &Upstream, ask: Ask<'_>) -> Result<Answered, UpstreamError> {
        let time = Time::new(ask.limit, self.remote.timeout);
        self.answer(upstream, &ask, time).await.map_err(|error| match error {
            // Who was asked a second time had less, and whoever is told asked once.
            UpstreamError::TimedOut { full, connected, .. } => {
                UpstreamError::TimedOut { timeout: ask.limit, full, connected }
            }
            error => error,
        })
    }

    async fn answer(
        &self,
        upstream: &Upstream,
        ask: &Ask<'_>,
        time: Time,
    ) -> Result<Answered, UpstreamError> {
        let (place, flight) = self.begin(upstream, ask.allowed, Places::default())?;
        let first = flight.ask(upstream, ask, time);
        let failed = |place| move |failure| Failed::at(place, failure);
        let Some(hedge) = self.remote.hedge else {
            return self.again(upstream, ask, time, first.await.map_err(failed(place))).await;
        };
        self.hedging.earn(hedge.percent);
        tokio::pin!(first);
        tokio::select! {
            biased;
            ended = &mut first => return self.again(upstream, ask, time, ended.map_err(failed(place))).await,
            () = sleep_until((Instant::now() + hedge.after).into()) => {}
        }
        // One more elsewhere, or where there is no elsewhere, by another connection.
        let except = if self.routes.len() > 1 { Places::default().with(place) } else { Places::default() };
        let second = self.hedging.second(|| self.begin(upstream, ask.allowed, except).ok());
        let Some((second_place, second)) = second else {
            return self.again(upstream, ask, time, first.await.map_err(failed(place))).await;
        };
        ask.hedged.store(true, Ordering::Relaxed);
        let second = second.ask(upstream, ask, time.left());
        tokio::pin!(second);
        let ((ended, at), (other, other_at)) = tokio::select! {
            ended = &mut first => ((ended, place), (second, second_place)),
            ended = &mut second => ((ended, second_place), (first, place)),
        };
        match ended {
            Ok(answered) => Ok(answered),
            Err((error @ UpstreamError::Rejected { .. }, _)) => Err(error),
            Err(failure) => {
                let last = other.await.map_err(failed(other_at));
                let both = last.map_err(|last| Failed::at(at, failure).and(last));
                self.again(upstream, ask, time, both).await
            }
        }
    }

    /// A request that nobody read goes to another endpoint, once, or by another connection.
    async fn again(
        &self,
        upstream: &Upstream,
        ask: &Ask<'_>,
        time: Time,
        mut ended: Result<Answered, Failed>,
    ) -> Result<Answered, UpstreamError> {
        let (mut resent, mut except) = (Resent::default(), Places::default());
        let (mut is_final, mut is_alone) = (false, false);
        loop {
            let Failed { error, fate, unconnected } = match ended {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            let again = resent.again(fate, self.routes.len() > 1).filter(|_| !time.is_over());
            except = except.and(unconnected);
            let Some(again) = again else { return Err(error) };
            let Ok((place, flight)) = self.begin(upstream, ask.allowed, except) else {
                return Err(error);
            };
            is_final |= again == Again::Finally;
            is_alone |= again == Again::Alone;
            let flight = if is_final { flight.finally() } else { flight };
            let flight = if is_alone { flight.alone() } else { flight };
            let answer = flight.ask(upstream, ask, time.left()).await;
            ended = answer.map_err(|failure| Failed::at(place, failure));
        }
    }

    /// A way to the best endpoint, or why none is asked: where one cannot be asked after all, the next is.
    fn begin(
        &self,
        upstream: &Upstream,
        allowed: Option<Duration>,
        mut except: Places,
    ) -> Result<(usize, Flight), UpstreamError> {
        let now = upstream.now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut passed_over = None;
        for _ in 0..self.routes.len() {
            let picked = pick(self.endpoints(now, except), turn);
            let Some((place, route)) = picked.and_then(|place| Some((place, self.routes.get(place)?))) else {
                break;
            };
            match self.enter(upstream, allowed, route, now) {
                Ok(flight) => return Ok((place, flight)),
                Err(error) => passed_over = passed_over.or(Some(error)),
            }
            except = except.with(place);
        }
        Err(passed_over.unwrap_or_else(|| self.nobody(now)))
    }

    /// A way to this endpoint, or why it is not asked.
    fn enter(
        &self,
        upstream: &Upstream,
        allowed: Option<Duration>,
        route: &Arc<Route>,
        now: Duration,
    ) -> Result<Flight, UpstreamError> {
        let (settings, timeout) = (self.remote.breaker, self.remote.timeout);
        let in_flight = InFlight::begin(&route.endpoint, self.remote.max_in_flight)
            .ok_or(UpstreamError::Skipped(SkipReason::TooManyInFlight))?;
        let passes = route
            .pass(now, &settings, timeout)
            .ok_or_else(|| UpstreamError::LeftAlone(route.left_alone(now)))?;
        // Last, as one that was predicted to be late is tried now and then, and that try should be made.
        if allowed.is_some_and(|allowed| !route.admits(now, allowed)) {
            route.abandoned(now, passes);
            return Err(UpstreamError::Skipped(SkipReason::PredictedTooLate));
        }
        Ok(Flight::begin(route, passes, in_flight, settings, upstream.clock))
    }

    /// Why no endpoint is asked where none is available.
    fn nobody(&self, now: Duration) -> UpstreamError {
        if let Err(why) = self.remote.endpoints() {
            return UpstreamError::Skipped(why);
        }
        let is_busy = self.routes.iter().any(|route| route.breaker_state(now) != BreakerState::Open);
        let alone = self.routes.iter().map(|route| route.left_alone(now)).min_by_key(|alone| alone.left);
        match alone.filter(|_| !is_busy) {
            Some(alone) => UpstreamError::LeftAlone(alone),
            None => UpstreamError::Skipped(SkipReason::TooManyInFlight),
        }
    }
}
