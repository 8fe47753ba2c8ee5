//! The Open Inference Protocol over gRPC: messages to calls, answers to messages. No decision and no engine here.

mod message;
mod named;
#[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)] // generated
#[rustfmt::skip]
mod service;
mod unary;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::Incoming;
use terrace_engine::TensorSpec;
use terrace_oip::metadata::{ConfigTensor, ModelStatistics, Spent};
use terrace_oip::proto::{self, model_metadata_response::TensorMetadata};
use terrace_oip::{InferRequest, Memory, Parameters, grpc};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use self::service::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use self::unary::Encoded;
use crate::callers::Caller;
use crate::decoding;
use crate::describe;
use crate::executor::Output;
use crate::heavy::heavy;
use crate::listen::{App, Started};
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::ModelKey;
use crate::requirements;
use crate::room::{Room, Taken};
use crate::serve::{self, Call, Due, Exchange, OURS, Reply};
use crate::upstream::{Decoded, GrpcAnswer, Original, Relayed, Trace};

/// What anyone may ask: probes have no token.
pub const OPEN: [&str; 2] = [LIVE, READY];
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
const READY: &str = "/inference.GRPCInferenceService/ServerReady";

/// The gRPC port.
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
    async fn answer(&self, request: http::Request<Incoming>) -> axum::response::Response {
        match request.uri().path() {
            unary::PATH => {}
            // Of what anyone may ask, not a byte is read.
            LIVE => return unary::response(&live()),
            READY => return unary::response(&ready(&self.node)),
            _ => return self.router.answer(request).await,
        }
        let (parts, body) = request.into_parts();
        let started = began(&parts.extensions);
        let answered = async {
            let caller = Caller::among(&parts.extensions)?;
            let read = unary::read(body, &parts.headers, started, self.node.limits()).await;
            let read = read.map_err(|refused| {
                self.node.metrics.unread(refused.code);
                refused.status
            })?;
            infer(&self.node, Asked { caller, headers: parts.headers, started }, read).await
        };
        unary::answer(answered.await)
    }
}

fn live() -> proto::ServerLiveResponse {
    proto::ServerLiveResponse { live: true }
}

fn ready(node: &Node) -> proto::ServerReadyResponse {
    proto::ServerReadyResponse { ready: node.unready().is_none() }
}

fn router(node: Arc<Node>) -> Router {
    let limits = named::limits(node.limits());
    let service = GrpcInferenceServiceServer::new(Inference { node })
        .max_decoding_message_size(limits.bytes)
        .max_encoding_message_size(usize::MAX);
    let routes = Routes::new(service).prepare().into_axum_router();
    routes.layer(from_fn_with_state(limits, named::read)).layer(from_fn(told))
}

/// Has a call that is not answered here end with words: its client shows nothing else.
async fn told(request: axum::extract::Request, next: Next) -> axum::response::Response {
    const NO_SUCH_CALL: &str = "this agent has no such call: models are not loaded, unloaded or set up here, they come from InferenceModel resources";
    let response = next.run(request).await;
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
    let is_bare = !response.headers().contains_key("grpc-message");
    if code.is_some_and(|code| code == "12") && is_bare {
        return Status::unimplemented(NO_SUCH_CALL).into_http();
    }
    response
}

/// The service.
struct Inference {
    node: Arc<Node>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(&self, _: Request<proto::ServerLiveRequest>) -> Answer<proto::ServerLiveResponse> {
        Ok(Response::new(live()))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Answer<proto::ServerReadyResponse> {
        Ok(Response::new(ready(&self.node)))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Answer<proto::ModelReadyResponse> {
        let caller = Caller::of_call(&request)?;
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let ready = match describe::find(&self.node, &caller, &name, stated(&version)) {
            Ok(entry) => describe::is_ready(&self.node, &entry),
            // Who waits for a model asks until it is there; Triton says the same of one that it does not know.
            Err(Refusal::NotFound(_)) => false,
            Err(refusal) => return Err(refusal.into()),
        };
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Answer<proto::ServerMetadataResponse> {
        Ok(Response::new(proto::ServerMetadataResponse {
            name: describe::SERVER_NAME.to_owned(),
            version: describe::SERVER_VERSION.to_owned(),
            extensions: describe::EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Answer<proto::ModelMetadataResponse> {
        let caller = Caller::of_call(&request)?;
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        let entry = describe::find(&self.node, &caller, &name, stated(&version))?;
        let served = describe::served(&entry, &name)?;
        // Which may be left out, the model's config says: this message has no field for it.
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.to_string(),
            shape: spec.shape.clone(),
        };
        let signature = served.model.signature();
        Ok(Response::new(proto::ModelMetadataResponse {
            inputs: describe::inputs(signature).map(|(spec, _)| tensor(spec)).collect(),
            outputs: signature.outputs.iter().map(tensor).collect(),
            versions: vec![served.revision().to_owned()],
            platform: describe::PLATFORM.to_owned(),
            name,
        }))
    }

    async fn model_infer(&self, _: Request<proto::ModelInferRequest>) -> Answer<proto::ModelInferResponse> {
        // It never comes here: see `Port`.
        Err(Status::unimplemented("ModelInfer is answered elsewhere"))
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Answer<proto::ModelConfigResponse> {
        let caller = Caller::of_call(&request)?;
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        let entry = describe::find(&self.node, &caller, &name, stated(&version))?;
        let config = describe::config(&name, describe::served(&entry, &name)?);
        let data_type = |tensor: &ConfigTensor| {
            proto::DataType::from_str_name(&tensor.data_type).unwrap_or(proto::DataType::TypeInvalid).into()
        };
        let input = |tensor: ConfigTensor| proto::ModelInput {
            data_type: data_type(&tensor),
            name: tensor.name,
            dims: tensor.dims,
            optional: tensor.optional,
        };
        let output = |tensor: ConfigTensor| proto::ModelOutput {
            data_type: data_type(&tensor),
            name: tensor.name,
            dims: tensor.dims,
        };
        let config = proto::ModelConfig {
            name: config.name,
            platform: config.platform,
            backend: config.backend,
            max_batch_size: i32::try_from(config.max_batch_size).unwrap_or(i32::MAX),
            input: config.input.into_iter().map(input).collect(),
            output: config.output.into_iter().map(output).collect(),
        };
        Ok(Response::new(proto::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Answer<proto::ModelStatisticsResponse> {
        let caller = Caller::of_call(&request)?;
        let proto::ModelStatisticsRequest { name, version } = request.into_inner();
        let told = if name.is_empty() {
            describe::all_statistics(&self.node, &caller)
        } else {
            let entry = describe::find(&self.node, &caller, &name, stated(&version))?;
            vec![describe::statistics(&name, describe::served(&entry, &name)?)]
        };
        let model_stats = told.into_iter().map(statistics).collect();
        Ok(Response::new(proto::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Answer<proto::RepositoryIndexResponse> {
        let caller = Caller::of_call(&request)?;
        let only_ready = request.into_inner().ready;
        let models = describe::index(&self.node, &caller)
            .into_iter()
            .filter(|model| !only_ready || model.state == describe::READY)
            .map(|model| proto::repository_index_response::ModelIndex {
                name: model.name,
                version: model.version,
                state: model.state,
                reason: model.reason,
            });
        Ok(Response::new(proto::RepositoryIndexResponse { models: models.collect() }))
    }
}

/// When the headers of a request had been read.
fn began(extensions: &http::Extensions) -> Instant {
    extensions.get::<Started>().map_or_else(Instant::now, |started| started.0)
}

/// Who asks, how and since when.
struct Asked {
    caller: Caller,
    headers: HeaderMap,
    started: Instant,
}

/// Answers a message.
async fn infer(
    node: &Node,
    Asked { caller, headers, started }: Asked,
    unary::Read { message, toil, taken }: unary::Read,
) -> Result<Encoded, Status> {
    let stated_by_caller = requirements::from_headers(&headers)
        .and_then(|stated| stated.and(requirements::from_grpc_timeout(&headers)?));
    let call = Call {
        caller,
        model: ModelKey::from_url(&message.model_name, &node.default_namespace),
        version: stated(&message.model_version).map(str::to_owned),
        stated: stated_by_caller,
        started,
        trace: Trace::from_headers(&headers),
    };
    let mut exchange = Grpc { node, message: Some(message), toil, headers, raw: Vec::new(), taken };
    Ok(serve::infer(node, call, &mut exchange).await?)
}

/// One request over gRPC.
struct Grpc<'a> {
    node: &'a Node,
    /// Until it is read.
    message: Option<proto::ModelInferRequest>,
    toil: usize,
    headers: HeaderMap,
    /// Its elements, where they came raw.
    raw: Vec<Bytes>,
    /// What it takes, until it is read.
    taken: Taken,
}

impl Exchange for Grpc<'_> {
    type Encoded = Encoded;

    async fn read(&mut self, deadline: Option<Instant>) -> Result<(InferRequest, Taken), Refusal> {
        let message = self.message.take().unwrap_or_default();
        self.raw.clone_from(&message.raw_input_contents);
        let mut taken = std::mem::take(&mut self.taken);
        let read = |memory: Memory<'_>| InferRequest::from_grpc_within(message, memory);
        let request = heavy(self.toil, || {
            decoding::within(&self.node.limits().room, &mut taken, Due::by(deadline), read)
        })?;
        Ok((request, taken))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn original(&self) -> Result<Original, Refusal> {
        Ok(Original::Grpc(self.raw.clone()))
    }

    fn is_binary(&self, _: &InferRequest, _: &str) -> bool {
        true
    }

    fn encode(&self, reply: Reply<'_>, mut taken: Taken) -> Result<Encoded, Refusal> {
        let room = &self.node.limits().room;
        let (message, of_answer) = to_message(reply, room)?;
        taken.merge(of_answer);
        Encoded::new(&message, room, taken)
    }
}

/// A reply's message, and the room that another tier's answer has.
fn to_message(reply: Reply<'_>, room: &Room) -> Result<(proto::ModelInferResponse, Taken), Refusal> {
    let (version, parameters, outputs, taken) = match reply.output {
        Output::Local { served, tensors } => {
            (served.revision().to_owned(), reply.parameters, tensors, Taken::default())
        }
        Output::Relayed(Relayed::Grpc(answer)) => {
            let GrpcAnswer { mut message, taken, .. } = *answer;
            // As it came, but for what this node says of it.
            message.model_name = reply.model_name.into_owned();
            message.id = reply.request.id.clone().unwrap_or_default();
            for ours in OURS {
                message.parameters.remove(ours);
            }
            grpc::extend_parameters(&mut message, &reply.parameters);
            return Ok((message, taken));
        }
        Output::Combined { version, tensors, taken } => {
            (version.unwrap_or_default(), reply.parameters, tensors, taken)
        }
        Output::Relayed(relayed) => {
            let Decoded { response: told, taken } = relayed.rewritten(room, reply.due)?;
            let mut parameters: Parameters = told.parameters;
            for ours in OURS {
                parameters.remove(ours);
            }
            parameters.extend(reply.parameters);
            (told.model_version.unwrap_or_default(), parameters, told.outputs, taken)
        }
    };
    let id = reply.request.id.clone();
    Ok((grpc::response(reply.model_name.into_owned(), version, id, &parameters, outputs), taken))
}

/// What protobuf cannot leave out.
fn stated(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn statistics(told: ModelStatistics) -> proto::ModelStatistics {
    let spent = |spent: Spent| Some(proto::StatisticDuration { count: spent.count, ns: spent.ns });
    let of_requests = told.inference_stats;
    proto::ModelStatistics {
        name: told.name,
        version: told.version,
        last_inference: told.last_inference,
        inference_count: told.inference_count,
        execution_count: told.execution_count,
        inference_stats: Some(proto::InferStatistics {
            success: spent(of_requests.success),
            fail: spent(of_requests.fail),
            queue: spent(of_requests.queue),
            compute_input: spent(of_requests.compute_input),
            compute_infer: spent(of_requests.compute_infer),
            compute_output: spent(of_requests.compute_output),
        }),
        batch_stats: told
            .batch_stats
            .into_iter()
            .map(|runs| proto::InferBatchStatistics {
                batch_size: runs.batch_size,
                compute_input: spent(runs.compute_input),
                compute_infer: spent(runs.compute_infer),
                compute_output: spent(runs.compute_output),
            })
            .collect(),
    }
}
