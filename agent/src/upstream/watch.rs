//! Sees whether somebody is there again where nobody could be connected to: by a connection, when the time is over for which
//! an endpoint is left alone. By a request it would cost that request the time that it has, and where rarely anything is
//! asked, the first one after each outage.

use std::sync::{Arc, Weak};
use std::time::Duration;

use terrace_egress::TIER_CONNECT;
use terrace_tiering::{BreakerSettings, BreakerState, Failure, Pass};

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
            // Not one that answered meanwhile, or failed: a request that was under way may have ended.
            let endpoint = endpoint.upgrade();
            if let Some(endpoint) =
                endpoint.filter(|endpoint| endpoint.looked_for_in(clock.now()) == Some(Duration::ZERO))
            {
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
    let Some(pass @ Pass::Probe(_)) = endpoint.pass(clock.now(), settings, TIER_CONNECT) else { return };
    let (Ok(means), Some(to)) = (endpoint.access(), infer_uri(endpoint.url(), "")) else {
        return endpoint.is_unknown(clock.now(), pass);
    };
    match means.client.connect(to).await {
        Ok(connection) => {
            endpoint.connected(&connection);
            endpoint.is_there(clock.now(), pass);
        }
        Err(error) => match UpstreamError::unconnected(error, true) {
            // Who answered meanwhile was there.
            error @ UpstreamError::Connect(_)
                if endpoint.breaker_state(clock.now()) != BreakerState::Closed =>
            {
                let now = clock.now();
                let trouble = Trouble::of(&error, "", now);
                let failure = Failure { pass, weight: 1.0, seed: endpoint.seed(now) };
                endpoint.failed(now, failure, (&trouble, true), settings);
            }
            _ => endpoint.is_unknown(clock.now(), pass),
        },
    }
}

#[cfg(test)]
mod tests {
    use terrace_crds::policy::{RemoteTier as Spec, Tiers};
    use terrace_crds::{Tier, TierPolicySpec};
    use terrace_egress::Egress;
    use terrace_tiering::Policy;
    use tokio::net::TcpListener;
    use url::Url;

    use super::super::credentials::CredentialsDir;
    use super::super::endpoint::EndpointKey;
    use super::*;

    /// Somebody is there, whatever is said of that.
    async fn endpoint() -> (Arc<Endpoint>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tiers = Tiers { edge: Some(Spec { url: Some(url.clone()), ..Spec::default() }), cloud: None };
        let policy = Policy::parse(&TierPolicySpec { tiers, ..TierPolicySpec::default() }).unwrap();
        let key = EndpointKey::new(&Url::parse(&url).unwrap(), policy.remote(Tier::Edge).unwrap(), "default");
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]);
        (Arc::new(Endpoint::new(key, &egress.tiers(), &CredentialsDir::new(None))), listener)
    }

    /// Nobody could be connected to.
    fn away(endpoint: &Endpoint, settings: &BreakerSettings, now: Duration) {
        let error = UpstreamError::Connect("refused".into());
        let failure = Failure { pass: Pass::Normal, weight: 1.0, seed: 0 };
        endpoint.failed(now, failure, (&Trouble::of(&error, "", now), true), settings);
    }

    #[tokio::test]
    async fn who_answered_while_it_was_looked_for_keeps_what_was_learned() {
        let settings = BreakerSettings { failures: 1, ..BreakerSettings::default() };
        let (endpoint, _listener) = endpoint().await;
        away(&endpoint, &settings, Duration::ZERO);
        let later = settings.period * 2;
        let pass = endpoint.pass(later, &settings, TIER_CONNECT).unwrap();
        // A request that was under way ends with outputs, and then the look does.
        endpoint.answered(later);
        let (life, starts) = (endpoint.life(), endpoint.starts());
        endpoint.is_there(later, pass);
        assert_eq!((endpoint.life(), endpoint.starts()), (life, starts));
    }

    #[tokio::test]
    async fn who_answers_is_not_looked_for() {
        let (settings, clock) = (BreakerSettings::default(), Clock::start());
        let (endpoint, listener) = endpoint().await;
        look(&endpoint, &settings, clock).await;
        assert_eq!((endpoint.life(), endpoint.connect_time()), (0, None));
        drop(listener);
        assert_eq!(endpoint.breaker_state(clock.now()), BreakerState::Closed);
    }
}
