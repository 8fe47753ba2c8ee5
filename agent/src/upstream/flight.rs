//! One request on its way to one endpoint, and what is learned from how it ends: also where nobody waits for it any more.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use terrace_crds::policy::Protocol;
use terrace_tiering::{BreakerSettings, Latency, Pass};

use super::endpoint::{Clock, Endpoint, InFlight, lock};
use super::error::UpstreamError;
use super::relayed::Relayed;
use super::{Ask, Sender, Upstream, grpc, http as plain};

/// One model at one endpoint: how long its answers take.
#[derive(Debug)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// What was learned, and in which of the endpoint's lives: one that was away and came back begins anew.
    learned: Mutex<(u64, Latency)>,
}

impl Route {
    /// Nothing is known yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, learned: Mutex::default() }
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

    fn with<T>(&self, ask: impl FnOnce(&mut Latency) -> T) -> T {
        let mut learned = lock(&self.learned);
        let life = self.endpoint.life();
        if learned.0 != life {
            *learned = (life, Latency::default());
        }
        ask(&mut learned.1)
    }
}

/// A request that an endpoint is about to have.
#[derive(Debug)]
pub struct Flight {
    /// Where it goes.
    pub route: Arc<Route>,
    pass: Pass,
    settings: BreakerSettings,
    clock: Clock,
    begun: Instant,
    _counted: InFlight,
    is_over: bool,
}

/// How it ended, and whether it may be sent again: its connection had been closed before it was read.
pub type Ended = Result<Relayed, (UpstreamError, bool)>;

impl Flight {
    /// Through the breaker, with room at the endpoint.
    pub fn begin(
        route: &Arc<Route>,
        pass: Pass,
        counted: InFlight,
        settings: BreakerSettings,
        clock: Clock,
    ) -> Self {
        let route = Arc::clone(route);
        Self { route, pass, settings, clock, begun: Instant::now(), _counted: counted, is_over: false }
    }

    /// Asks, until `until`; `full` is how long the tier may take where no deadline is nearer.
    pub async fn ask(mut self, upstream: &Upstream, ask: &Ask<'_>, until: Instant, full: Duration) -> Ended {
        let endpoint = Arc::clone(&self.route.endpoint);
        let (client, authorization) = match endpoint.access() {
            Ok(access) => access,
            Err(error) => return self.ended(Err((error, false))),
        };
        let request = match endpoint.protocol() {
            Protocol::HTTP => plain::request(ask, endpoint.url()),
            Protocol::GRPC => grpc::request(ask, endpoint.url()),
        };
        let Some(mut request) = request else {
            let error = UpstreamError::Malformed("the request cannot be put into the tier's form".to_owned());
            return self.ended(Err((error, false)));
        };
        request.headers_mut().extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let sender = Sender::new(client, Arc::clone(&endpoint));
        let exchange = async {
            match endpoint.protocol() {
                Protocol::HTTP => plain::exchange(&sender, request, upstream.max_bytes).await,
                Protocol::GRPC => grpc::exchange(&sender, request, upstream.max_bytes).await,
            }
        };
        let timeout = until.saturating_duration_since(self.begun);
        let ended = match tokio::time::timeout_at(until.into(), exchange).await {
            Ok(Err(UpstreamError::Status { status: StatusCode::GATEWAY_TIMEOUT, .. }))
                if ask.deadline.is_some() =>
            {
                let late = Some((self.begun.elapsed(), full));
                Err(UpstreamError::Status { status: StatusCode::GATEWAY_TIMEOUT, late })
            }
            Ok(ended) => ended,
            Err(_) => Err(UpstreamError::TimedOut { timeout, full, connected: sender.is_connected() }),
        };
        self.ended(ended.map_err(|error| (error, sender.died())))
    }

    /// Learns from the end.
    fn ended(&mut self, ended: Ended) -> Ended {
        self.is_over = true;
        let (now, took, endpoint) = (self.clock.now(), self.begun.elapsed(), &self.route.endpoint);
        match &ended {
            Ok(_) => {
                endpoint.answered(now);
                self.route.with(|latency| latency.observe(now, took));
            }
            Err((error, _)) => {
                if matches!(
                    error,
                    UpstreamError::TimedOut { .. } | UpstreamError::Status { late: Some(_), .. }
                ) {
                    self.route.with(|latency| latency.observe_at_least(now, took));
                }
                if error.weight().is_some() {
                    endpoint.failed(now, self.pass, error, &self.settings);
                } else if error.is_answer() {
                    endpoint.answered(now);
                } else {
                    endpoint.abandoned(now, self.pass);
                }
            }
        }
        ended
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.is_over {
            // Another answer was faster, or the caller went away: it took at least this long.
            let now = self.clock.now();
            self.route.with(|latency| latency.observe_at_least(now, self.begun.elapsed()));
            self.route.endpoint.abandoned(now, self.pass);
        }
    }
}
