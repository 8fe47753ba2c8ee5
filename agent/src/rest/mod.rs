//! The Open Inference Protocol over HTTP: routes to calls, answers to responses. No decision and no engine here.

pub mod body;
mod encode;
mod passing;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use terrace_engine::TensorSpec;
use terrace_oip::metadata::{
    ErrorBody, IndexRequest, Live, ModelMetadata, ModelReady, Ready, ServerMetadata, TensorMetadata,
    TensorNotes,
};
use terrace_oip::{InferRequest, Memory};
use tower_service::Service as _;

use crate::callers::Caller;
use crate::decoding;
use crate::describe;
use crate::heavy::heavy;
use crate::listen::{App, Started};
use crate::message::Message;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, ModelKey};
use crate::requirements;
use crate::room::Taken;
use crate::serve::{self, Call, Due, Exchange, Reply};
use crate::upstream::{Original, Trace};
use encode::Encoded;
pub use passing::Passing;

/// The data port.
#[derive(Clone, Debug)]
pub struct Port {
    node: Arc<Node>,
    router: Router,
}

impl Port {
    /// That of a node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { router: router(Arc::clone(&node)), node }
    }
}

impl App for Port {
    /// An inference whose path is written plainly goes past the router, which costs as much as a small model's run.
    async fn answer(&self, request: http::Request<Incoming>) -> Response {
        let (parts, body) = request.into_parts();
        let body = Body::new(Passing::new(body, &parts.headers));
        let request = Request::from_parts(parts, body);
        let target = Some(request.uri().path()).filter(|_| request.method() == Method::POST);
        match target.and_then(Target::plain) {
            Some(target) => {
                let node = State(Arc::clone(&self.node));
                let answered = match Caller::among(request.extensions()) {
                    Ok(caller) => infer(node, caller, target, request).await,
                    Err(refusal) => Err(refusal),
                };
                answered.into_response()
            }
            None => self.router.clone().call(request).await.unwrap_or_else(|never| match never {}),
        }
    }
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(|| async { Json(Live { live: true }) }))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/models/stats", get(all_stats))
        .route("/v2/repository/index", post(index).get(index))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/config", get(model_config))
        .route("/v2/models/{model}/stats", get(model_stats))
        .route("/v2/models/{model}/versions/{version}/config", get(model_config))
        .route("/v2/models/{model}/versions/{version}/stats", get(model_stats))
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
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Target {
    model: String,
    version: Option<String>,
}

impl Target {
    /// What the path of an inference names, unless something is written as `%20`: that is for the router.
    fn plain(path: &str) -> Option<Self> {
        let named = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
        let (model, version) = match named.split_once('/') {
            Some((model, rest)) => (model, Some(rest.strip_prefix("versions/")?)),
            None => (named, None),
        };
        let is_plain = |name: &str| !name.is_empty() && !name.contains(['/', '%']);
        let target = Self { model: model.to_owned(), version: version.map(str::to_owned) };
        (is_plain(model) && version.is_none_or(is_plain)).then_some(target)
    }
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
    let error =
        "this path does not take that method; infer and repository/index take POST, everything else GET"
            .to_owned();
    (StatusCode::METHOD_NOT_ALLOWED, Json(ErrorBody { error })).into_response()
}

async fn server_metadata() -> impl IntoResponse {
    Json(ServerMetadata {
        name: describe::SERVER_NAME.to_owned(),
        version: describe::SERVER_VERSION.to_owned(),
        extensions: describe::EXTENSIONS.map(str::to_owned).to_vec(),
    })
}

async fn server_ready(State(node): State<Arc<Node>>) -> Response {
    let ready = node.unready().is_none();
    (ready_status(ready), Json(Ready { ready })).into_response()
}

async fn model_ready(
    State(node): State<Arc<Node>>,
    caller: Caller,
    target: Target,
) -> Result<Response, Refusal> {
    let ready = describe::is_ready(&node, &*find(&node, &caller, &target)?);
    Ok((ready_status(ready), Json(ModelReady { name: target.model, ready })).into_response())
}

const fn ready_status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn model_metadata(
    State(node): State<Arc<Node>>,
    caller: Caller,
    target: Target,
) -> Result<Json<ModelMetadata>, Refusal> {
    let entry = find(&node, &caller, &target)?;
    let served = describe::served(&entry, &target.model)?;
    let tensor = |spec: &TensorSpec, optional: bool| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.to_string(),
        shape: spec.shape.clone(),
        parameters: optional.then_some(TensorNotes { optional }),
    };
    let signature = served.model.signature();
    Ok(Json(ModelMetadata {
        inputs: describe::inputs(signature).map(|(spec, optional)| tensor(spec, optional)).collect(),
        outputs: signature.outputs.iter().map(|spec| tensor(spec, false)).collect(),
        name: target.model,
        versions: vec![served.revision().to_owned()],
        platform: describe::PLATFORM.to_owned(),
    }))
}

async fn model_config(
    State(node): State<Arc<Node>>,
    caller: Caller,
    target: Target,
) -> Result<Json<terrace_oip::metadata::ModelConfig>, Refusal> {
    let entry = find(&node, &caller, &target)?;
    Ok(Json(describe::config(&target.model, describe::served(&entry, &target.model)?)))
}

async fn model_stats(
    State(node): State<Arc<Node>>,
    caller: Caller,
    target: Target,
) -> Result<Json<terrace_oip::metadata::Statistics>, Refusal> {
    let entry = find(&node, &caller, &target)?;
    let served = describe::served(&entry, &target.model)?;
    let model_stats = vec![describe::statistics(&target.model, served)];
    Ok(Json(terrace_oip::metadata::Statistics { model_stats }))
}

async fn all_stats(State(node): State<Arc<Node>>, caller: Caller) -> Json<terrace_oip::metadata::Statistics> {
    Json(terrace_oip::metadata::Statistics { model_stats: describe::all_statistics(&node, &caller) })
}

async fn index(
    State(node): State<Arc<Node>>,
    caller: Caller,
    request: Request,
) -> Result<Json<Vec<terrace_oip::metadata::Indexed>>, Refusal> {
    /// It says whether models are to be ready; nobody needs more for that.
    const BYTES: usize = 64 << 10;
    let (parts, mut body) = request.into_parts();
    let limits = node.limits();
    let limits = body::Limits { bytes: limits.bytes.min(BYTES), room: limits.room.clone() };
    let (message, _room) = body::read(&mut body, &parts.headers, &limits, None).await?;
    let asked =
        IndexRequest::from_json(&message.bytes).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let mut models = describe::index(&node, &caller);
    models.retain(|model| !asked.ready || model.state == describe::READY);
    Ok(Json(models))
}

async fn infer(
    State(node): State<Arc<Node>>,
    caller: Caller,
    target: Target,
    request: Request,
) -> Result<Response, Refusal> {
    let started = request.extensions().get::<Started>().map_or_else(Instant::now, |started| started.0);
    let (parts, body) = request.into_parts();
    let model = ModelKey::from_url(&target.model, &node.default_namespace);
    let stated = requirements::refuse_query(parts.uri.query())
        .and_then(|()| requirements::from_headers(&parts.headers));
    let trace = Trace::from_headers(&parts.headers);
    let call = Call { caller, model, version: target.version, stated, started, trace };
    let (headers, limits) = (parts.headers, node.body_limits());
    let mut exchange = Http { body: Some(body), headers, limits, message: None };
    serve::infer(&node, call, &mut exchange).await.map(Encoded::into_response)
}

/// One request over HTTP.
struct Http {
    /// Until it is read.
    body: Option<Body>,
    headers: HeaderMap,
    limits: body::Limits,
    /// Once it is read.
    message: Option<Message>,
}

impl Exchange for Http {
    type Encoded = Encoded;

    async fn read(&mut self, deadline: Option<Instant>) -> Result<(InferRequest, Taken), Refusal> {
        let body =
            self.body.as_mut().ok_or_else(|| Refusal::Failed("the request was read twice".to_owned()))?;
        let (message, mut room) = body::read(body, &self.headers, &self.limits, deadline).await?;
        self.body = None;
        let read = |memory: Memory<'_>| requirements::read(&message.bytes, message.json_length, memory);
        let request = heavy(message.toil(), || {
            decoding::within(&self.limits.room, &mut room, Due::by(deadline), read)
        })?;
        self.message = Some(message);
        Ok((request, room))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn original(&self) -> Result<Original, Refusal> {
        let message = self.message.clone().map(Original::Http);
        message.ok_or_else(|| Refusal::Failed("the request was not read".to_owned()))
    }

    fn encode(&self, reply: Reply<'_>, room: Taken) -> Result<Encoded, Refusal> {
        let due = reply.due;
        Encoded::new(reply, &self.limits.room)?.packed(&self.headers, due).within(&self.limits.room, room)
    }
}

/// The entry that a path names.
fn find(node: &Node, caller: &Caller, target: &Target) -> Result<Arc<Entry>, Refusal> {
    describe::find(node, caller, &target.model, target.version.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_past_the_router_is_an_inference_that_it_would_know() {
        let target = |model: &str, version: Option<&str>| {
            Some(Target { model: model.to_owned(), version: version.map(str::to_owned) })
        };
        for (path, expected) in [
            ("/v2/models/m/infer", target("m", None)),
            ("/v2/models/a.m/infer", target("a.m", None)),
            ("/v2/models/m/versions/imodel-m-1/infer", target("m", Some("imodel-m-1"))),
            ("/v2/models/infer/infer", target("infer", None)),
            ("/v2/models/m%20/infer", None),
            ("/v2/models/m/versions/%31/infer", None),
            ("/v2/models//infer", None),
            ("/v2/models/infer", None),
            ("/v2/models/m/n/infer", None),
            ("/v2/models/m/versions//infer", None),
            ("/v2/models/m/versions/infer", None),
            ("/v2/models/m/versions/1/2/infer", None),
            ("/v2/models/m/infer/", None),
            ("/v2/models/m/ready", None),
            ("/v3/models/m/infer", None),
        ] {
            assert_eq!(Target::plain(path), expected, "{path}");
        }
    }
}
