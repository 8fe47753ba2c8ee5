//! Sees whether somebody is there again where nobody could be connected to: by a connection, when the time is over for which
//! an endpoint is left alone. By a request it would cost that request the time that it has, and where rarely anything is
//! asked, the first one after each outage.

use std::sync::{Arc, Weak};
use std::time::Duration;

use terrace_egress::TIER_CONNECT;
use terrace_tiering::{BreakerSettings, Failure};

use super::endpoint::{Clock, Endpoint};
use super::error::UpstreamError;
use super::http::infer_uri;
use super::trouble::Trouble;

/// Nobody is looked for more often.
const A_MOMENT: Duration = Duration::from_millis(10);

/// Looks until somebody is there, or nobody asks the endpoint any more.
pub fn watch(endpoint: &Arc<Endpoint>, settings: BreakerSettings, clock: Clock) {
    if endpoint.looked_for_in(clock.now()).is_none() || endpoint.watched(true) {
        return;
    }
    let endpoint = Arc::downgrade(endpoint);
    tokio::spawn(async move {
        while let Some(wait) = next(&endpoint, clock) {
            tokio::time::sleep(wait.max(A_MOMENT)).await;
            if let Some(endpoint) = endpoint.upgrade() {
                look(&endpoint, &settings, clock).await;
            }
        }
    });
}

/// How long until it is looked again; none where the watch is over.
fn next(endpoint: &Weak<Endpoint>, clock: Clock) -> Option<Duration> {
    let endpoint = endpoint.upgrade()?;
    let wait = endpoint.looked_for_in(clock.now());
    if wait.is_some() {
        return wait;
    }
    endpoint.watched(false);
    // Who went away just now found it watched.
    endpoint.looked_for_in(clock.now()).filter(|_| !endpoint.watched(true))
}

async fn look(endpoint: &Arc<Endpoint>, settings: &BreakerSettings, clock: Clock) {
    let Some(pass) = endpoint.pass(clock.now(), settings, TIER_CONNECT) else { return };
    let (Ok(means), Some(to)) = (endpoint.access(), infer_uri(endpoint.url(), "")) else {
        return endpoint.is_unknown(clock.now(), pass);
    };
    match means.client.connect(to).await {
        Ok(connection) => {
            endpoint.connected(&connection);
            endpoint.is_there(clock.now(), pass);
        }
        Err(error) => match UpstreamError::unconnected(error, true) {
            error @ UpstreamError::Connect(_) => {
                let now = clock.now();
                let trouble = Trouble::of(&error, "", now);
                let failure = Failure { pass, weight: 1.0, seed: endpoint.seed(now) };
                endpoint.failed(now, failure, (&trouble, true), settings);
            }
            _ => endpoint.is_unknown(clock.now(), pass),
        },
    }
}
