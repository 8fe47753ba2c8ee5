//! One request, from its body to its answer: request → `tiering::decide` → executor → reply.
//!
//! Called by the protocol's front ends (`rest`). Decides nothing itself: what a request may do is `tiering`'s
//! word, and the executor only walks the candidates that it named.

use std::time::Instant;

use http::HeaderMap;
use terrace_oip::{InferRequest, Parameters};
use terrace_tiering::{self as tiering, Decision, LocalModel, Requirements};
use tracing::debug;

use crate::executor::{self, Answer, Attempt, Job, Output};
use crate::message::Message;
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
    pub message: Message,
    /// When its headers had been read: its clock starts here.
    pub started: Instant,
}

/// An answer, before its front end encodes it.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The request, without its inputs.
    pub request: &'a InferRequest,
    /// The model, as this node names it.
    pub model_name: String,
    /// Who answered, and why.
    pub parameters: Parameters,
    /// The outputs.
    pub output: Output,
}

/// Answers a request, or says why not.
pub async fn infer<T>(
    node: &Node,
    call: Call,
    encode: impl FnOnce(Reply<'_>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let entry = node.registry.get(&call.model).ok_or_else(|| unknown_model(&call.model))?;
    let started = call.started;
    let mut by = None;
    let reply = answer(node, &entry, call, encode, &mut by).await;
    let code = reply.as_ref().map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
    let took = started.elapsed();
    node.metrics.request(Finished { model: &entry.key, answer: by, code, took });
    debug!(model = %entry.key, code, tier = by.map(|(tier, _)| tier.as_str()), ?took, "request over");
    reply
}

async fn answer<T>(
    node: &Node,
    entry: &Entry,
    call: Call,
    encode: impl FnOnce(Reply<'_>) -> Result<T, Refusal>,
    by: &mut executor::By,
) -> Result<T, Refusal> {
    check_version(entry, call.version.as_deref())?;
    let headers = requirements::from_headers(&call.headers).map_err(invalid)?;
    let Message { bytes, json_length } = &call.message;
    let mut request = InferRequest::from_http(bytes, *json_length).map_err(invalid)?;
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
        inputs: std::mem::take(&mut request.inputs).into_iter().map(|input| input.tensor).collect(),
        outputs: request
            .outputs
            .as_ref()
            .map(|outputs| outputs.iter().map(|output| output.name.clone()).collect()),
        message: call.message,
        deadline: requirements.max_latency().and_then(|limit| call.started.checked_add(limit)),
    };
    let answer = executor::run(job).await?;
    *by = Some((answer.tier, answer.source.as_str()));
    let parameters = told(&decision, &answer, call.started);
    let model_name = entry.key.to_url(&node.default_namespace);
    encode(Reply { request: &request, model_name, parameters, output: answer.output })
}

/// Who answered, and why.
fn told(decision: &Decision, answer: &Answer, started: Instant) -> Parameters {
    let mut parameters = Parameters::new();
    parameters.insert("tier", answer.tier.as_str());
    parameters.insert("source", answer.source.as_str());
    parameters.insert("reason", decision.reason.as_str());
    if let Some(complexity) = decision.complexity {
        parameters.insert("complexity", complexity);
    }
    parameters.insert("latency_ms", millis(started.elapsed()));
    parameters.insert("attempts", attempts_text(&answer.attempts));
    parameters
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
