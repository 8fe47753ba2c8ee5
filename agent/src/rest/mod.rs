//! The Open Inference Protocol over HTTP: routes to calls, answers to responses. No decision and no engine here.

mod encode;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use terrace_crds::Tier;
use terrace_oip::metadata::{
    ErrorBody, Live, ModelMetadata, ModelReady, Ready, ServerMetadata, TensorMetadata,
};

use crate::listen::Started;
use crate::message::Message;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, Local, ModelKey};
use crate::serve::{self, Call};
use encode::Encoded;

/// The longest that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// What this server calls itself.
const SERVER_NAME: &str = "terrace";

/// The data port.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(|| async { Json(Live { live: true }) }))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .fallback(|| async {
            Refusal::NotFound("no such path; the Open Inference Protocol is at /v2".to_owned())
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(node)
}

/// The model that a path names.
#[derive(Debug, Deserialize)]
struct Target {
    model: String,
    version: Option<String>,
}

async fn method_not_allowed() -> Response {
    let error = "this path does not take that method; infer takes POST, everything else GET".to_owned();
    (StatusCode::METHOD_NOT_ALLOWED, Json(ErrorBody { error })).into_response()
}

async fn server_metadata() -> impl IntoResponse {
    Json(ServerMetadata {
        name: SERVER_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: vec!["binary_tensor_data".to_owned()],
    })
}

async fn server_ready(State(node): State<Arc<Node>>) -> Response {
    let ready = node.unready().is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready })).into_response()
}

async fn model_ready(State(node): State<Arc<Node>>, Path(target): Path<Target>) -> Result<Response, Refusal> {
    let entry = find(&node, &target)?;
    let ready = match &entry.local {
        Local::Serving(_) => true,
        Local::Absent => false,
        // Its callers are forwarded, and there is nothing here that could be unready.
        Local::NotPlaced => Tier::ALL.into_iter().any(|tier| entry.policy.remote(tier).is_some()),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(ModelReady { name: target.model, ready })).into_response())
}

async fn model_metadata(
    State(node): State<Arc<Node>>,
    Path(target): Path<Target>,
) -> Result<Json<ModelMetadata>, Refusal> {
    let entry = find(&node, &target)?;
    let Some(served) = entry.served() else {
        return Err(match entry.local {
            Local::NotPlaced => Refusal::NotFound(format!(
                "model {:?} is not placed on this node, which only forwards to it; ask the tier that serves it",
                target.model
            )),
            _ => Refusal::NoTier(format!("model {:?} is not loaded on this node yet", target.model)),
        });
    };
    let signature = served.model.signature();
    let tensors = |specs: &[terrace_engine::TensorSpec]| {
        let tensor = |spec: &terrace_engine::TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.to_string(),
            shape: spec.shape.clone(),
        };
        specs.iter().map(tensor).collect()
    };
    Ok(Json(ModelMetadata {
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
        name: target.model,
        versions: vec![served.revision().to_owned()],
        platform: "onnxruntime_onnx".to_owned(),
    }))
}

async fn infer(
    State(node): State<Arc<Node>>,
    Path(target): Path<Target>,
    request: Request,
) -> Result<Response, Refusal> {
    let started = request.extensions().get::<Started>().map_or_else(Instant::now, |started| started.0);
    let (parts, body) = request.into_parts();
    refuse_unread_encodings(&parts.headers)?;
    let body = read(body, &parts.headers, node.max_body_bytes).await?;
    let model = ModelKey::from_url(&target.model, &node.default_namespace);
    let json_length =
        Message::json_length(&parts.headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let message = Message { bytes: body, json_length };
    let call = Call { model, version: target.version, headers: parts.headers, message, started };
    serve::infer(&node, call, Encoded::new).await.map(Encoded::into_response)
}

/// The entry that a path names.
fn find(node: &Node, target: &Target) -> Result<Arc<Entry>, Refusal> {
    let key = ModelKey::from_url(&target.model, &node.default_namespace);
    let entry = node.registry.get(&key).ok_or_else(|| serve::unknown_model(&key))?;
    serve::check_version(&entry, target.version.as_deref())?;
    Ok(entry)
}

fn refuse_unread_encodings(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Refusal::Unsupported(
            "compressed bodies are not read by this agent yet; send the body without content-encoding"
                .to_owned(),
        )),
    }
}

/// The whole body, within the limits of size and time.
async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal> {
    let claimed =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::TooLarge { limit });
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect())
        .await
        .map_err(|_| Refusal::SlowBody { seconds: BODY_TIMEOUT.as_secs() })?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge { limit }),
        Err(_) => Err(Refusal::Invalid("the body ended before it was whole".to_owned())),
    }
}
