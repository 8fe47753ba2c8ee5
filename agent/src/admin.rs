//! The admin port: health, status, metrics, and which log lines are written. For the node's keeper, not for
//! clients; on loopback unless told otherwise.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use terrace_crds::InferenceNodeStatus;
use terrace_oip::Memory;
use terrace_oip::metadata::ErrorBody;
use terrace_telemetry::LogFilter;
use tracing::info;

use crate::explained::Explained;
use crate::facts::RequestFacts;
use crate::heavy::heavy;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::ModelKey;
use crate::requirements;
use crate::serve::{millis, snapshot, unknown_model};
use crate::upstream::Trouble;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The node that it tells of.
    pub node: Arc<Node>,
    /// The log filter that it changes.
    pub log: LogFilter,
}

/// The status of the InferenceNode, and what the node alone knows: of other tiers.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    node: InferenceNodeStatus,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<TierStatus>,
}

/// An endpoint of a tier.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TierStatus {
    endpoint: String,
    breaker: &'static str,
    /// Why it failed last, if it did not answer since; else why a model did there.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastFailure>,
    in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    /// What is wrong with its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<String>,
    /// Models that do not answer there, though others may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<TierModelStatus>,
}

/// A model at an endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TierModelStatus {
    model: String,
    breaker: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastFailure>,
}

/// How a request ended that brought no outputs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastFailure {
    /// As `attempts` has it.
    reason: &'static str,
    message: String,
    /// How long ago.
    seconds_ago: u64,
}

impl LastFailure {
    fn of(trouble: &Trouble, now: Duration) -> Self {
        let seconds_ago = now.saturating_sub(trouble.at).as_secs();
        Self { reason: trouble.reason, message: trouble.message.to_string(), seconds_ago }
    }
}

/// `/healthz`, `/readyz`, `/status`, `/metrics`, `PUT /log`, `POST /explain/MODEL`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/log", put(log).fallback(|| async { takes("PUT", TAKES_LOG) }))
        .route(
            "/explain/{model}",
            post(explain)
                .layer(DefaultBodyLimit::max(MAX_EXPLAINED_BYTES))
                .fallback(|| async { takes("POST", TAKES_EXPLAIN) }),
        )
        .with_state(admin)
}

const TAKES_EXPLAIN: &str = "/explain/MODEL takes POST, with what would be posted to /v2/models/MODEL/infer: \
    curl ADDRESS/explain/MODEL -d @request.json";
const TAKES_LOG: &str = "/log takes PUT, with a filter such as info, or warn,terrace_agent=debug: \
    curl -X PUT ADDRESS/log -d debug";

/// What is said to another method than the one that a path takes.
fn takes(method: &'static str, how: &str) -> Response {
    let error = how.to_owned();
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, method)], Json(ErrorBody { error })).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.node.unready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    let now = admin.node.upstream.now();
    let failure = |trouble: Option<Trouble>| trouble.map(|trouble| LastFailure::of(&trouble, now));
    let tiers = admin.node.upstream.told().into_iter().map(|(endpoint, told)| TierStatus {
        endpoint: endpoint.to_string(),
        breaker: told.breaker.as_str(),
        last_failure: failure(told.trouble),
        in_flight: told.in_flight,
        connect_ms: told.connect.map(millis),
        credentials: told.credentials,
        models: told
            .models
            .into_iter()
            .map(|told| TierModelStatus {
                model: told.model.to_string(),
                breaker: told.breaker.as_str(),
                last_failure: failure(told.trouble),
            })
            .collect(),
    });
    Json(Status { node: admin.node.board.status(), tiers: tiers.collect() }).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let entries: Vec<_> =
        admin.node.registry.keys().iter().filter_map(|key| admin.node.registry.get(key)).collect();
    (kind, admin.node.metrics.text(&entries, &admin.node.upstream)).into_response()
}

/// The largest request that is explained.
const MAX_EXPLAINED_BYTES: usize = 16 << 20;

/// Which tier a request would be given to, and why; nothing is run. The request is JSON.
async fn explain(
    State(admin): State<Admin>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Explained>, Refusal> {
    let invalid = |error: &dyn std::error::Error| Refusal::Invalid(error.to_string());
    let key = ModelKey::from_url(&model, &admin.node.default_namespace);
    let entry = admin.node.registry.get(&key).ok_or_else(|| unknown_model(&key))?;
    let explained = heavy(body.len(), || {
        let request = requirements::read(&body, None, Memory::UNBOUNDED).map_err(|error| invalid(&error))?;
        let parameters = requirements::from_request(&request).map_err(|error| invalid(&error))?;
        let stated = (parameters, requirements::from_headers(&headers).map_err(|error| invalid(&error))?);
        let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let labels = admin.node.labels();
        let facts = RequestFacts { request: &request, model: &entry.key, labels: &labels, header: &header };
        Explained::of(
            &entry.policy,
            stated,
            &snapshot(&entry, admin.node.tier(), admin.node.upstream.now()),
            &facts,
        )
        .map_err(|error| invalid(&error))
    })?;
    Ok(Json(explained))
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
