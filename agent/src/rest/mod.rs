//! The Open Inference Protocol over HTTP: routes to calls, answers to responses. No decision and no engine here.

pub mod body;
mod encode;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
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
use crate::room::Taken;
use crate::serve::{self, Call, Exchange, Reply};
use encode::Encoded;

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

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<Self>::from_request_parts(parts, state).await;
        path.map(|Path(target)| target).map_err(|_| {
            Refusal::Invalid("the names of model and version in the path are not UTF-8 text".to_owned())
        })
    }
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

async fn model_ready(State(node): State<Arc<Node>>, target: Target) -> Result<Response, Refusal> {
    let entry = find(&node, &target)?;
    let ready = match &entry.local {
        Local::Serving(_) => true,
        Local::Absent => false,
        // Its callers are forwarded, and there is nothing here that could be unready.
        Local::NotPlaced => forwards(&entry, node.tier()),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(ModelReady { name: target.model, ready })).into_response())
}

/// Whether a node of the tier `here` sends callers of a model anywhere.
fn forwards(entry: &Entry, here: Tier) -> bool {
    let mut others = Tier::ALL.into_iter().filter(|tier| *tier != here);
    !entry.policy.privacy_required() && others.any(|tier| entry.policy.remote(tier).is_some())
}

async fn model_metadata(
    State(node): State<Arc<Node>>,
    target: Target,
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

async fn infer(State(node): State<Arc<Node>>, target: Target, request: Request) -> Result<Response, Refusal> {
    let started = request.extensions().get::<Started>().map_or_else(Instant::now, |started| started.0);
    let (parts, body) = request.into_parts();
    let model = ModelKey::from_url(&target.model, &node.default_namespace);
    let mut exchange = Http { body: Some(body), headers: parts.headers.clone(), limits: node.body_limits() };
    let call = Call { model, version: target.version, headers: parts.headers, started };
    let answered = serve::infer(&node, call, &mut exchange).await;
    if let Some(unread) = exchange.body {
        body::pass_over(unread).await;
    }
    answered.map(Encoded::into_response)
}

/// One request over HTTP.
struct Http {
    /// Until it is read.
    body: Option<Body>,
    headers: HeaderMap,
    limits: body::Limits,
}

impl Exchange for Http {
    type Encoded = Encoded;

    async fn read(&mut self, deadline: Option<Instant>) -> Result<(Message, Taken), Refusal> {
        let body = self.body.take().unwrap_or_default();
        body::read(body, &self.headers, &self.limits, deadline).await
    }

    fn encode(&self, reply: Reply<'_>) -> Result<Encoded, Refusal> {
        Encoded::new(reply)
    }
}

/// The entry that a path names.
fn find(node: &Node, target: &Target) -> Result<Arc<Entry>, Refusal> {
    let key = ModelKey::from_url(&target.model, &node.default_namespace);
    let entry = node.registry.get(&key).ok_or_else(|| serve::unknown_model(&key))?;
    serve::check_version(&entry, target.version.as_deref())?;
    Ok(entry)
}
