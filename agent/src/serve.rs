//! One request, from its body to its answer: request → `tiering::decide` → executor → reply.
//!
//! Called by the protocol's front ends (`rest`). Decides nothing itself: what a request may do is `tiering`'s
//! word, and the executor only walks the candidates that it named.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use terrace_oip::{InferRequest, InferResponse, Parameters};
use terrace_tiering::{self as tiering, Decision, LocalModel, Requirements};
use tracing::debug;

use crate::executor::{self, Answer, Attempt, Job, Output};
use crate::metrics::Finished;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, Local, ModelKey};
use crate::requirements;

/// A request as it arrived.
#[derive(Debug)]
pub struct Call {
    /// The model that it asks for.
    pub model: ModelKey,
    /// The version that it asks for, if it names one.
    pub version: Option<String>,
    /// Its headers; those named `terrace-*` state requirements.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When its headers had been read: its clock starts here.
    pub started: Instant,
}

/// Answers a request, or says why not.
pub async fn infer(node: &Node, call: Call) -> Result<Vec<u8>, Refusal> {
    let entry = node.registry.get(&call.model).ok_or_else(|| unknown_model(&call.model))?;
    let started = call.started;
    let mut by = None;
    let reply = answer(node, &entry, call, &mut by).await;
    let code = reply.as_ref().map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
    let took = started.elapsed();
    node.metrics.request(Finished { model: &entry.key, answer: by, code, took });
    debug!(model = %entry.key, code, tier = by.map(|(tier, _)| tier.as_str()), ?took, "request over");
    reply
}

async fn answer(node: &Node, entry: &Entry, call: Call, by: &mut executor::By) -> Result<Vec<u8>, Refusal> {
    check_version(entry, call.version.as_deref())?;
    let headers = requirements::from_headers(&call.headers).map_err(invalid)?;
    let request = InferRequest::from_json(&call.body).map_err(invalid)?;
    let parameters = requirements::from_parameters(&request.parameters).map_err(invalid)?;
    // Asked once: a node that becomes another tier meanwhile decides this request as what it was.
    let tier = node.tier();
    let requirements = Requirements::tighten(&entry.policy, tier, parameters, headers).map_err(invalid)?;

    let here = tiering::Node { tier, model: standing(entry) };
    let inputs = request.inputs.iter().map(|input| &input.tensor);
    let decision = tiering::decide(&entry.policy, &requirements, here, || requirements::complexity(inputs));

    let job = Job {
        node,
        tier,
        entry,
        decision: &decision,
        inputs: request.inputs.into_iter().map(|input| input.tensor).collect(),
        outputs: request.outputs.map(|outputs| outputs.into_iter().map(|output| output.name).collect()),
        body: call.body,
        deadline: requirements.max_latency().and_then(|limit| call.started.checked_add(limit)),
    };
    let answer = executor::run(job).await?;
    *by = Some((answer.tier, answer.source.as_str()));
    reply(
        &Told { node, entry, decision: &decision, id: request.id.as_deref(), started: call.started },
        &answer,
    )
}

/// What a reply tells, beside the outputs.
struct Told<'a> {
    node: &'a Node,
    entry: &'a Entry,
    decision: &'a Decision,
    id: Option<&'a str>,
    started: Instant,
}

/// The answer as the client reads it.
fn reply(told: &Told<'_>, answer: &Answer) -> Result<Vec<u8>, Refusal> {
    let model_name = told.entry.key.to_url(&told.node.default_namespace);
    let encoded = match &answer.output {
        Output::Local { revision, tensors } => {
            let mut parameters = Parameters::new();
            tell(&mut parameters, told, answer);
            InferResponse {
                model_name: &model_name,
                model_version: Some(revision),
                id: told.id,
                parameters: &parameters,
                outputs: tensors,
            }
            .to_json()
        }
        Output::Relayed(relayed) => {
            let mut response = relayed.response().map_err(|error| Refusal::Failed(error.to_string()))?;
            response.model_name = model_name.into();
            response.id = told.id.map(Into::into);
            tell(&mut response.parameters, told, answer);
            response.to_json()
        }
    };
    encoded.map_err(|error| Refusal::Failed(format!("the outputs cannot be written as JSON: {error}")))
}

/// Says who answered, and why.
fn tell(parameters: &mut Parameters, told: &Told<'_>, answer: &Answer) {
    parameters.insert("tier", answer.tier.as_str());
    parameters.insert("source", answer.source.as_str());
    parameters.insert("reason", told.decision.reason.as_str());
    match told.decision.complexity {
        Some(complexity) => parameters.insert("complexity", complexity),
        None => parameters.remove("complexity"),
    };
    parameters.insert("latency_ms", millis(told.started.elapsed()));
    parameters.insert("attempts", attempts_text(&answer.attempts));
}

/// `[{"tier":"cloud","outcome":"TimedOut","ms":12.3}, …]`
fn attempts_text(attempts: &[Attempt]) -> String {
    serde_json::to_string(attempts).unwrap_or_default()
}

/// Milliseconds to three places: a microsecond is as fine as it gets.
pub fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What is said of a model that this node does not know.
pub fn unknown_model(key: &ModelKey) -> Refusal {
    Refusal::NotFound(format!(
        "model {:?} is not known on this node; models come from InferenceModel resources",
        printable(&key.to_string())
    ))
}

/// Refuses a version other than the one that serves here.
pub fn check_version(entry: &Entry, version: Option<&str>) -> Result<(), Refusal> {
    let serving = entry.served().map(|served| served.revision());
    match version {
        Some(asked) if serving != Some(asked) => Err(Refusal::NotFound(format!(
            "model {:?} does not serve that version here; it serves {}",
            entry.key.to_string(),
            serving.unwrap_or("none")
        ))),
        _ => Ok(()),
    }
}

const fn standing(entry: &Entry) -> LocalModel {
    match entry.local {
        Local::Serving(_) => LocalModel::Serving,
        Local::Absent => LocalModel::NotLoaded,
        Local::NotPlaced => LocalModel::NotPlaced,
    }
}

fn invalid(error: impl std::error::Error) -> Refusal {
    Refusal::Invalid(error.to_string())
}

/// A name from a URL, cut to a sane length.
fn printable(name: &str) -> String {
    name.chars().take(128).collect()
}
