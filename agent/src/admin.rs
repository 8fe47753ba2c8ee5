//! The admin port: health, status, metrics, and which log lines are written. For the node's keeper, not for
//! clients; on loopback unless told otherwise.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::{StatusCode, header};
use terrace_telemetry::LogFilter;
use tracing::info;

use crate::node::Node;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The node that it tells of.
    pub node: Arc<Node>,
    /// The log filter that it changes.
    pub log: LogFilter,
}

/// `/healthz`, `/readyz`, `/status`, `/metrics`, `PUT /log`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/log", put(log))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.node.unready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    Json(admin.node.board.status()).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let entries: Vec<_> =
        admin.node.registry.keys().iter().filter_map(|key| admin.node.registry.get(key)).collect();
    let serving = entries.iter().filter_map(|entry| Some((&entry.key, &**entry.served()?)));
    (kind, admin.node.metrics.text(serving)).into_response()
}

async fn log(State(admin): State<Admin>, filter: String) -> Response {
    if filter.trim().is_empty() {
        let advice = "the body is empty; send a filter such as info, or warn,terrace_agent=debug\n";
        return (StatusCode::BAD_REQUEST, advice).into_response();
    }
    match admin.log.set(filter.trim()) {
        Ok(()) => {
            info!(filter = filter.trim(), "log filter changed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
