//! How the tiers of one model's policy are reached: which endpoint is asked, whether it is, and what follows where it does
//! not answer: at most one more request, and only where that is safe or was asked for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_tiering::{
    BreakerState, EndpointState, HedgeBudget, Pass, Policy, RemoteState, RemoteTier, SkipReason, passed_over,
    pick,
};
use tokio::time::sleep_until;
use url::Url;

use super::endpoint::{InFlight, lock};
use super::error::UpstreamError;
use super::flight::{Ended, Flight, Route};
use super::http::infer_uri;
use super::relayed::Relayed;
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
    hedges: Mutex<HedgeBudget>,
    turn: AtomicUsize,
}

/// An answer, and whether a second request was made for it.
#[derive(Debug)]
pub struct Asked {
    /// The answer, or why there is none.
    pub answer: Result<Relayed, UpstreamError>,
    /// A second request was made because the first answer was late.
    pub hedged: bool,
}

impl Reach {
    /// Of a policy; `route` is the way to one of a tier's endpoints.
    pub fn new(policy: &Policy, mut route: impl FnMut(&Url, &RemoteTier) -> Arc<Route>) -> Self {
        let mut tier = |tier| {
            policy.remote(tier).map(|remote| TierReach {
                // None where this node knows no way there.
                routes: remote.endpoints().unwrap_or_default().iter().map(|url| route(url, remote)).collect(),
                remote: remote.clone(),
                hedges: Mutex::default(),
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
    /// The endpoint that would be asked; where none would, the first whose breaker is not open.
    fn next(&self, now: Duration) -> Option<&Route> {
        let place = match &self.routes[..] {
            [_] => 0,
            _ => pick(self.endpoints(now, None), self.turn.load(Ordering::Relaxed))
                .or_else(|| self.routes.iter().position(|route| !route.endpoint.is_left_alone(now)))
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
        self.next(now).map(|route| self.state_of(route, now)).unwrap_or_default()
    }

    fn state_of(&self, route: &Route, now: Duration) -> RemoteState {
        let (breaker, in_flight) = (route.endpoint.breaker_state(now), route.endpoint.in_flight());
        RemoteState {
            available: breaker != BreakerState::Open && in_flight < self.remote.max_in_flight as usize,
            breaker,
            predicted_p90: route.predicted(now),
            rtt: route.endpoint.connect_time(),
            in_flight,
            away: route.endpoint.was_away(),
        }
    }

    fn endpoints(
        &self,
        now: Duration,
        except: Option<usize>,
    ) -> impl ExactSizeIterator<Item = EndpointState> + '_ {
        self.routes.iter().enumerate().map(move |(place, route)| {
            let in_flight = route.endpoint.in_flight();
            let has_room = in_flight < self.remote.max_in_flight as usize;
            EndpointState {
                available: has_room && !route.endpoint.is_left_alone(now) && Some(place) != except,
                in_flight,
                predicted: route.predicted(now),
            }
        })
    }

    /// Asks; dropped, it takes everything back.
    pub async fn ask(&self, upstream: &Upstream, ask: Ask<'_>) -> Asked {
        let until = Instant::now() + ask.limit;
        let mut hedged = false;
        let answer = self.answer(upstream, &ask, until, &mut hedged).await;
        Asked { answer, hedged }
    }

    async fn answer(
        &self,
        upstream: &Upstream,
        ask: &Ask<'_>,
        until: Instant,
        hedged: &mut bool,
    ) -> Result<Relayed, UpstreamError> {
        let full = self.remote.timeout;
        let (place, flight) = self.begin(upstream, ask.allowed, None)?;
        let first = flight.ask(upstream, ask, until, full);
        let Some(hedge) = self.remote.hedge else {
            return self.again(upstream, ask, until, (place, first.await)).await;
        };
        lock(&self.hedges).earn(hedge.percent);
        tokio::pin!(first);
        tokio::select! {
            biased;
            ended = &mut first => return self.again(upstream, ask, until, (place, ended)).await,
            () = sleep_until((Instant::now() + hedge.after).into()) => {}
        }
        // One more elsewhere, or where there is no elsewhere, by another connection.
        let except = Some(place).filter(|_| self.routes.len() > 1);
        let second = lock(&self.hedges).spend().then(|| self.begin(upstream, ask.allowed, except).ok());
        let Some((_, second)) = second.flatten() else { return first.await.map_err(|(error, _)| error) };
        *hedged = true;
        let second = second.ask(upstream, ask, until, full);
        tokio::pin!(second);
        let (ended, other): (Ended, _) = tokio::select! {
            ended = &mut first => (ended, second),
            ended = &mut second => (ended, first),
        };
        match ended {
            Ok(relayed) => Ok(relayed),
            Err((error @ UpstreamError::Rejected { .. }, _)) => Err(error),
            Err(_) => other.await.map_err(|(error, _)| error),
        }
    }

    /// A request that nobody read goes to another endpoint, or by another connection: once.
    async fn again(
        &self,
        upstream: &Upstream,
        ask: &Ask<'_>,
        until: Instant,
        (place, ended): (usize, Ended),
    ) -> Result<Relayed, UpstreamError> {
        let (error, died) = match ended {
            Ok(relayed) => return Ok(relayed),
            Err(failure) => failure,
        };
        let elsewhere = matches!(error, UpstreamError::Connect(_)) && self.routes.len() > 1;
        if (!elsewhere && !died) || Instant::now() >= until {
            return Err(error);
        }
        let Ok((_, flight)) = self.begin(upstream, ask.allowed, elsewhere.then_some(place)) else {
            return Err(error);
        };
        flight.ask(upstream, ask, until, self.remote.timeout).await.map_err(|(error, _)| error)
    }

    /// A way to the best endpoint, or why none is asked.
    fn begin(
        &self,
        upstream: &Upstream,
        allowed: Option<Duration>,
        except: Option<usize>,
    ) -> Result<(usize, Flight), UpstreamError> {
        let skipped = |why| Err(UpstreamError::Skipped(why));
        let (now, settings) = (upstream.now(), self.remote.breaker);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let picked = pick(self.endpoints(now, except), turn);
        let Some((place, route)) = picked.and_then(|place| Some((place, self.routes.get(place)?))) else {
            let are_open = self.routes.iter().all(|route| route.endpoint.is_left_alone(now));
            return skipped(if are_open { SkipReason::BreakerOpen } else { SkipReason::TooManyInFlight });
        };
        let state = self.state_of(route, now);
        let in_time = || allowed.is_none_or(|allowed| route.admits(now, allowed));
        if let Some(why) = passed_over(&state, self.remote.max_in_flight, in_time) {
            if state.is_back()
                && why == SkipReason::BreakerOpen
                && route.endpoint.pass(now, &settings).is_some()
            {
                self.look_for(upstream, route);
            }
            return skipped(why);
        }
        let Some(in_flight) = InFlight::begin(&route.endpoint, self.remote.max_in_flight) else {
            return skipped(SkipReason::TooManyInFlight);
        };
        match route.endpoint.pass(now, &settings) {
            None => skipped(SkipReason::BreakerOpen),
            Some(pass) => Ok((place, Flight::begin(route, pass, in_flight, settings, upstream.clock))),
        }
    }

    /// Sees whether somebody is there again, while the request goes elsewhere: to find out by the request itself would cost
    /// it the time that it has.
    fn look_for(&self, upstream: &Upstream, route: &Arc<Route>) {
        let (endpoint, settings, clock) = (Arc::clone(&route.endpoint), self.remote.breaker, upstream.clock);
        tokio::spawn(async move {
            let to = infer_uri(endpoint.url(), "");
            let (Ok((client, _)), Some(to)) = (endpoint.access(), to) else {
                return endpoint.abandoned(clock.now(), Pass::Probe);
            };
            match client.connect(to).await {
                Ok(connection) => {
                    endpoint.connected(&connection);
                    endpoint.is_there(clock.now());
                }
                Err(error) => {
                    let error = UpstreamError::unconnected(error, true);
                    endpoint.failed(clock.now(), Pass::Probe, &error, &settings);
                }
            }
        });
    }
}
