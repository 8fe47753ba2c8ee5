//! One request on its way to one endpoint, and what is learned from how it ends: also where nobody waits for it any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, header};
use terrace_crds::policy::Protocol;
use terrace_tiering::{BreakerSettings, Fate};

use super::endpoint::{Clock, InFlight, Means};
use super::error::UpstreamError;
use super::relayed::Relayed;
use super::route::{Passes, Route};
use super::watch::watch;
use super::{Ask, Sender, Upstream, grpc, http as plain};
use crate::serve::Due;

/// A request that an endpoint is about to have.
#[derive(Debug)]
pub struct Flight {
    /// Where it goes.
    pub route: Arc<Route>,
    passes: Passes,
    settings: BreakerSettings,
    clock: Clock,
    begun: Instant,
    _counted: InFlight,
    is_alone: bool,
    is_final: bool,
    is_over: bool,
}

/// The time that a request has.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Until when.
    pub until: Instant,
    /// What was granted in the beginning: what is told, and weighed. What is left of it when a request is under way is
    /// always a little less.
    pub granted: Duration,
    /// How long the tier may take where no deadline is nearer.
    pub full: Duration,
}

impl Time {
    /// From now on.
    pub fn new(granted: Duration, full: Duration) -> Self {
        Self { until: Instant::now() + granted, granted, full }
    }

    /// For one that is sent later than the first.
    #[must_use]
    pub fn left(self) -> Self {
        Self { granted: self.until.saturating_duration_since(Instant::now()), ..self }
    }

    /// When an answer is of no use any more.
    pub const fn due(self) -> Due {
        Due::by(Some(self.until))
    }

    /// Whether there is any.
    pub fn is_over(self) -> bool {
        Instant::now() >= self.until
    }
}

/// An answer, and whose it is.
pub type Answered = (Relayed, Arc<Route>);

/// How it ended, and whether it may be sent again.
pub type Ended = Result<Answered, (UpstreamError, Fate)>;

impl Flight {
    /// Through the breakers, with room at the endpoint.
    pub fn begin(
        route: &Arc<Route>,
        passes: Passes,
        counted: InFlight,
        settings: BreakerSettings,
        clock: Clock,
    ) -> Self {
        let route = Arc::clone(route);
        Self {
            route,
            passes,
            settings,
            clock,
            begun: Instant::now(),
            _counted: counted,
            is_alone: false,
            is_final: false,
            is_over: false,
        }
    }

    /// Asks for the last time: that a connection breaks counts, whatever it had been before.
    pub const fn finally(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// The same, by a connection that no other request has used, nor will.
    pub const fn alone(mut self) -> Self {
        self.is_alone = true;
        self.finally()
    }

    /// Asks, as long as there is time.
    pub async fn ask(mut self, upstream: &Upstream, ask: &Ask<'_>, time: Time) -> Ended {
        let Time { until, granted, full } = time;
        let endpoint = Arc::clone(&self.route.endpoint);
        let Means { client, authorization, number } = match endpoint.access() {
            Ok(means) => means,
            Err(error) => return self.ended(ask, Err(error), None),
        };
        let request = match endpoint.protocol() {
            Protocol::HTTP => plain::request(ask, endpoint.url()),
            Protocol::GRPC => grpc::request(ask, endpoint.url()),
        };
        let Some(mut request) = request else {
            return self.ended(ask, Err(UpstreamError::NotExpressible), None);
        };
        request.headers_mut().extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let client = if self.is_alone { client.renewed() } else { client };
        let sender = Sender::new(client, Arc::clone(&endpoint));
        let exchange = async {
            match endpoint.protocol() {
                Protocol::HTTP => plain::exchange(&sender, request, &upstream.limits, time).await,
                Protocol::GRPC => grpc::exchange(&sender, request, &upstream.limits, time).await,
            }
        };
        let ended = match tokio::time::timeout_at(until.into(), exchange).await {
            Ok(Err(UpstreamError::Status { status: StatusCode::GATEWAY_TIMEOUT, in_protocol, .. }))
                if ask.deadline.is_some() =>
            {
                let late = Some((self.begun.elapsed(), full));
                Err(UpstreamError::Status { status: StatusCode::GATEWAY_TIMEOUT, late, in_protocol })
            }
            // Servers take requests back whose deadline has passed.
            Ok(Err(UpstreamError::TakenBack { said, source, .. }))
                if ask.deadline.is_some() && said.is_cancelled() =>
            {
                Err(UpstreamError::TakenBack { said, late: Some((self.begun.elapsed(), full)), source })
            }
            Ok(ended) => ended,
            Err(_) => {
                Err(UpstreamError::TimedOut { timeout: granted, full, connected: sender.is_connected() })
            }
        };
        let is_silent = matches!(ended, Err(UpstreamError::TimedOut { .. })) && sender.is_silent();
        let lost = sender.lost();
        if (lost.is_some() || is_silent) && !self.is_alone {
            endpoint.renew(number);
        }
        let lost = lost.filter(|_| !self.is_final);
        self.ended(ask, ended, lost)
    }

    /// Learns from the end. That a request was `lost` says nothing: by another connection it may be answered.
    fn ended(&mut self, ask: &Ask<'_>, ended: Result<Relayed, UpstreamError>, lost: Option<Fate>) -> Ended {
        self.is_over = true;
        let (now, took) = (self.clock.now(), self.begun.elapsed());
        match &ended {
            Ok(_) => {
                self.route.answered(now);
                self.route.with(|latency| latency.observe(now, took));
            }
            Err(_) if lost.is_some() => self.route.abandoned(now, self.passes),
            Err(error) => {
                if matches!(
                    error,
                    UpstreamError::TimedOut { .. }
                        | UpstreamError::Status { late: Some(_), .. }
                        | UpstreamError::TakenBack { late: Some(_), .. }
                ) {
                    self.route.with(|latency| latency.observe_at_least(now, took));
                }
                self.route.failed(now, self.passes, (error, ask.model), &self.settings);
                if error.is_unconnected() {
                    watch(&self.route.endpoint, self.settings, self.clock);
                }
            }
        }
        ended.map(|relayed| (relayed, Arc::clone(&self.route))).map_err(|error| {
            let otherwise = if error.is_unconnected() { Fate::Unconnected } else { Fate::Read };
            (error, lost.unwrap_or(otherwise))
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.is_over {
            // Another answer was faster, or the caller went away: it took at least this long.
            let now = self.clock.now();
            self.route.with(|latency| latency.observe_at_least(now, self.begun.elapsed()));
            self.route.abandoned(now, self.passes);
        }
    }
}
