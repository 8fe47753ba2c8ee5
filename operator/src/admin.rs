//! The admin port: health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// How far this replica is. A standby is ready too: it can take over.
#[derive(Debug, Default)]
pub struct Health {
    synced: AtomicBool,
    leads: AtomicBool,
}

impl Health {
    /// Every kind has been listed.
    pub fn synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// It holds the lease.
    pub fn leads(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }
}

/// Takes the port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}: choose another with --listen-admin"))
}

/// `/healthz`, `/readyz`, `/metrics`.
pub async fn serve(port: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(text).with_state(metrics));
    axum::serve(port, router).await.context("the admin port failed")
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    if health.leads.load(Ordering::Relaxed) {
        "ok: leads\n".into_response()
    } else if health.synced.load(Ordering::Relaxed) {
        "ok: stands by\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects have not been listed yet\n").into_response()
    }
}

async fn text(State(metrics): State<Arc<Metrics>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, metrics.text()).into_response()
}
