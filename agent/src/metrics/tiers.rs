//! What is known of other tiers, read when somebody asks. Endpoints come from policies alone, so there are few.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use terrace_crds::Tier;
use terrace_tiering::BreakerState;

use crate::registry::Entry;
use crate::upstream::Upstream;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    model: String,
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HedgeLabels {
    model: String,
    tier: &'static str,
    outcome: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Of the tiers of these models.
pub fn registry(upstream: &Upstream, entries: &[Arc<Entry>]) -> Registry {
    let mut registry = Registry::with_prefix("terrace_tier");
    let breaker = Family::<EndpointLabels, Gauge>::default();
    registry.register(
        "breaker",
        "Circuit breaker of an endpoint: 0 closed, 1 half-open, 2 open",
        breaker.clone(),
    );
    let opened = Family::<EndpointLabels, Counter>::default();
    registry.register("breaker_opened", "How often an endpoint's circuit breaker was opened", opened.clone());
    let in_flight = Family::<EndpointLabels, Gauge>::default();
    registry.register("in_flight", "Requests that an endpoint has now", in_flight.clone());
    let connect = Family::<EndpointLabels, Seconds>::default();
    registry.register_with_unit("connect", "How long connecting took last", Unit::Seconds, connect.clone());
    let predicted = Family::<RouteLabels, Seconds>::default();
    registry.register_with_unit(
        "predicted_latency",
        "How long an answer is predicted to take, nine times out of ten",
        Unit::Seconds,
        predicted.clone(),
    );
    let model_breaker = Family::<RouteLabels, Gauge>::default();
    registry.register(
        "model_breaker",
        "Circuit breaker as requests of a model meet it, the endpoint's and its own there: 0 closed, 1 half-open, 2 open",
        model_breaker.clone(),
    );
    let hedges = Family::<HedgeLabels, Counter>::default();
    registry.register(
        "hedges",
        "How often a second request was wanted because the first answer was late, by what became of that",
        hedges.clone(),
    );
    let connections = Gauge::<i64>::default();
    registry.register("connections", "Connections to other tiers that are open", connections.clone());
    connections.set(i64::try_from(upstream.open_connections()).unwrap_or(i64::MAX));

    for (endpoint, told) in upstream.told() {
        let labels = EndpointLabels { endpoint: endpoint.to_string() };
        let state = number(told.breaker);
        // The same server may be reached in several ways: told is the worst of them.
        let worst = breaker.get_or_create(&labels).get().max(state);
        breaker.get_or_create(&labels).set(worst);
        opened.get_or_create(&labels).inc_by(told.opened);
        in_flight.get_or_create(&labels).inc_by(i64::try_from(told.in_flight).unwrap_or(i64::MAX));
        if let Some(took) = told.connect {
            connect.get_or_create(&labels).set(took.as_secs_f64());
        }
    }
    let now = upstream.now();
    for entry in entries {
        for tier in [Tier::Edge, Tier::Cloud] {
            let Some(reach) = entry.reach.to(tier) else { continue };
            for (outcome, count) in reach.hedges().into_iter().flatten() {
                let labels = HedgeLabels { model: entry.label.to_string(), tier: tier.as_str(), outcome };
                hedges.get_or_create(&labels).inc_by(count);
            }
            let labels = RouteLabels { model: entry.label.to_string(), tier: tier.as_str() };
            let state = entry.reach.state(tier, now);
            model_breaker.get_or_create(&labels).set(number(state.breaker));
            if let Some(latency) = state.predicted_p90 {
                predicted.get_or_create(&labels).set(latency.as_secs_f64());
            }
        }
    }
    registry
}

const fn number(breaker: BreakerState) -> i64 {
    match breaker {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    }
}
