//! One request, from its body to its answer: request → `tiering::decide` → executor → reply.
//!
//! Called by the protocol's front ends (`rest`). Decides nothing itself: what a request may do is `tiering`'s
//! word, and the executor only walks the candidates that it named.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use terrace_crds::Tier;
use terrace_oip::{InferRequest, Parameter, Parameters, RequestedOutput};
use terrace_tiering::{
    self as tiering, Decision, LocalModel, LocalState, LocalTime, Plan, RequirementError, Requirements,
    Snapshot, Stated,
};
use tracing::debug;

use crate::callers::Caller;
use crate::executor::{self, Answer, Attempt, Job, Output, Work};
use crate::facts::RequestFacts;
use crate::heavy::heavy;
use crate::metrics::Finished;
use crate::node::Node;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::registry::{Entry, Local, ModelKey};
use crate::requirements;
use crate::room::Taken;
use crate::upstream::{Original, Outgoing, Trace};

/// What this node says of an answer only at times; what another tier said of its own answer is not passed on.
pub const OURS: [&str; 2] = ["complexity", "confidence"];

/// A request as it arrived.
#[derive(Debug)]
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// The model that it asks for.
    pub model: ModelKey,
    /// The version that it asks for, if it names one.
    pub version: Option<String>,
    /// What its headers state, or what is wrong with them.
    pub stated: Result<Stated, RequirementError>,
    /// When its headers had been read: its clock starts here.
    pub started: Instant,
    /// The trace that it is part of.
    pub trace: Option<Trace>,
}

/// An answer, before its front end encodes it.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The request, without its inputs.
    pub request: &'a InferRequest,
    /// The model, as this node names it.
    pub model_name: Cow<'a, str>,
    /// Who answered, and why.
    pub parameters: Parameters,
    /// The outputs.
    pub output: Output,
    /// When it must be on its way.
    pub due: Due,
}

/// When an answer is of no use any more; never, where there is no deadline.
#[derive(Clone, Copy, Debug)]
pub struct Due(Option<Instant>);

impl Due {
    /// By then, if there is a deadline.
    pub const fn by(deadline: Option<Instant>) -> Self {
        Self(deadline)
    }

    /// Whether there is time left.
    pub fn is_ahead(self) -> bool {
        self.0.is_none_or(|deadline| Instant::now() <= deadline)
    }
}

/// How a front end gets a request, and what becomes of the answer.
pub trait Exchange: Send {
    /// The answer, encoded.
    type Encoded;

    /// Reads the request; by the deadline, if there is one. The room that it takes is held until there is an answer.
    fn read(
        &mut self,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<(InferRequest, Taken), Refusal>> + Send;

    /// The first value of a header, by its name in lower case.
    fn header(&self, name: &str) -> Option<&[u8]>;

    /// The request in the form that it came in, for other tiers.
    fn original(&self) -> Result<Original, Refusal>;

    /// Whether an output is sent as it lies in memory.
    fn is_binary(&self, request: &InferRequest, output: &str) -> bool {
        request.wants_binary(output)
    }

    /// Encodes the answer, which takes the request's room over. What takes long is given up soon after the answer was due.
    fn encode(&self, reply: Reply<'_>, room: Taken) -> Result<Self::Encoded, Refusal>;
}

/// Answers a request, or says why not. Of a request for a model that is not known, the body is not read.
pub async fn infer<E: Exchange>(node: &Node, call: Call, exchange: &mut E) -> Result<E::Encoded, Refusal> {
    let entry = entry(node, &call.caller, &call.model)?;
    let started = call.started;
    let (mut by, mut record) = (None, None);
    let reply = answer(node, &entry, call, exchange, (&mut by, &mut record)).await;
    let code = reply.as_ref().map_or_else(|refusal| refusal.status().as_u16(), |_| 200);
    let took = started.elapsed();
    node.metrics.request(Finished { model: &entry.label, answer: by, code, took });
    if let Some(record) = record {
        node.record(record, by, code, took);
    }
    debug!(model = %entry.key, code, tier = by.map(|(tier, _)| tier), ?took, "request over");
    reply
}

async fn answer<E: Exchange>(
    node: &Node,
    entry: &Entry,
    call: Call,
    exchange: &mut E,
    (by, record): (&mut executor::By, &mut Option<Record>),
) -> Result<E::Encoded, Refusal> {
    check_version(entry, call.version.as_deref())?;
    // Asked once: a node that becomes another tier meanwhile decides this request as what it was.
    let tier = node.tier();
    let mut headers = call.stated.map_err(invalid)?;
    if call.version.is_some() {
        // It is a version of this node's; elsewhere another one would answer.
        headers = headers.and(Stated { tier: Some(tier), ..Stated::default() }).map_err(invalid)?;
    }
    let at = |limit: Option<Duration>| limit.and_then(|limit| call.started.checked_add(limit));
    let known = Requirements::tighten(&entry.policy, tier, Stated::default(), headers).map_err(invalid)?;
    let (mut request, room) = exchange.read(at(known.max_latency())).await?;
    refuse_classification(&request)?;
    let parameters = requirements::from_request(&request).map_err(invalid)?;
    let requirements = Requirements::tighten(&entry.policy, tier, parameters, headers).map_err(invalid)?;

    let stated = parameters.and(headers).map_err(invalid)?;
    let asked = Asked { request: &request, requirements: &requirements, stated: &stated };
    let (decision, noted) = decide(node, entry, tier, &asked, &|name| exchange.header(name));
    *record = noted;

    let outgoing = outgoing(&decision, tier, entry, exchange, &mut request)?;
    let work = Work {
        inputs: std::mem::take(&mut request.inputs).into_iter().map(|input| input.tensor).collect(),
        outputs: request
            .outputs
            .as_ref()
            .map(|outputs| outputs.iter().map(|output| output.name.clone()).collect()),
    };
    let sure = OnceLock::new();
    let job = Job {
        node,
        tier,
        entry,
        decision: &decision,
        work: Mutex::new(Some(work)),
        outgoing,
        trace: call.trace.as_ref(),
        sure: record.as_ref().filter(|record| !record.private).map(|_| &sure),
        deadline: at(requirements.max_latency()),
    };
    let due = Due(job.deadline);
    let ended = executor::run(job).await.map_err(|refusal| refusal.once_late(!due.is_ahead()));
    if let Some(record) = record {
        record.ended(ended.as_ref().ok(), sure.get().copied());
    }
    let answer = ended?;
    *by = Some((answer.tier, answer.source.as_str()));
    if let Some(confidence) = answer.confidence {
        node.metrics.confidence(&entry.label, confidence);
    }
    let parameters = told(&decision, &answer, call.started);
    let model_name = entry.key.to_url(&node.default_namespace);
    let size = answer.output.text_size(|name| exchange.is_binary(&request, name));
    let reply = Reply { request: &request, model_name, parameters, output: answer.output, due };
    let encoded = heavy(size, || exchange.encode(reply, room));
    // Also where it was given up for that.
    if !due.is_ahead() {
        *by = None;
        return Err(unwritten());
    }
    encoded
}

/// What is said where the deadline passed before the answer was written.
pub fn unwritten() -> Refusal {
    Refusal::Deadline("the answer was there, but was not written within the deadline".to_owned())
}

/// What is decided on.
struct Asked<'a> {
    request: &'a InferRequest,
    requirements: &'a Requirements,
    stated: &'a Stated,
}

/// Who may answer; and a record of that, where decisions are recorded.
fn decide<'a>(
    node: &Node,
    entry: &Entry,
    tier: Tier,
    asked: &Asked<'_>,
    header: &dyn Fn(&str) -> Option<&'a [u8]>,
) -> (Decision, Option<Record>) {
    let &Asked { request, requirements, stated } = asked;
    let (snapshot, labels) = (snapshot(entry, tier, node.upstream.now()), node.labels());
    let facts = RequestFacts { request, model: &entry.key, labels: &labels, header };
    let decision = tiering::decide(&entry.policy, requirements, &snapshot, facts);
    if !decision.failed.is_none() {
        node.metrics.rules_failed(&entry.label, &entry.policy, decision.failed);
    }
    let record =
        node.recorder.is_some().then(|| Record::begin(&entry.policy, stated, &snapshot, &decision, &facts));
    (decision, record)
}

/// Triton's extension that answers with the best classes instead of the outputs. An answer that is not what was asked
/// for would be read as if it were.
fn refuse_classification(request: &InferRequest) -> Result<(), Refusal> {
    let mut outputs = request.outputs.iter().flatten();
    if outputs.any(|output| output.parameters.get("classification").is_some()) {
        return Err(Refusal::Invalid(
            "outputs: the parameter classification is not supported; ask for the output itself".to_owned(),
        ));
    }
    Ok(())
}

/// Who answered, and why.
fn told(decision: &Decision, answer: &Answer, started: Instant) -> Parameters {
    let mut parameters = Parameters::with_capacity(7);
    parameters.insert("tier", answer.tier);
    parameters.insert("source", answer.source.as_str());
    parameters
        .insert("reason", Parameter::String(answer.reason.as_ref().unwrap_or(&decision.reason).to_text()));
    if let Some(confidence) = answer.confidence {
        parameters.insert("confidence", confidence);
    }
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

/// The entry of a model that a caller may use. Of others it hears the same whether they exist or not.
pub fn entry(node: &Node, caller: &Caller, key: &ModelKey) -> Result<Arc<Entry>, Refusal> {
    match node.registry.get(key) {
        Some(entry) if caller.may_use(&key.namespace, &entry.allowed_namespaces) => Ok(entry),
        None if caller.owns(&key.namespace) => Err(unknown_model(key)),
        _ => {
            node.metrics.refused("NotAllowed");
            Err(Refusal::Forbidden)
        }
    }
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

/// What this node knows now.
pub fn snapshot(entry: &Entry, tier: Tier, now: Duration) -> Snapshot {
    let mut snapshot = Snapshot::of(tiering::Node { tier, model: standing(entry) });
    if let Some(served) = entry.served() {
        let figures = served.model.load_figures();
        let LocalTime { shortest: shortest_run, predicted, answers, .. } = served.pace().local_time(now);
        snapshot.local = LocalState {
            queued: figures.queued,
            in_flight: figures.running,
            longest_run: figures.longest_run,
            shortest_run,
            predicted,
            answers,
        };
    }
    snapshot.edge = entry.reach.state(Tier::Edge, now);
    snapshot.cloud = entry.reach.state(Tier::Cloud, now);
    snapshot
}

/// The request as those tiers are asked that may answer it. Members of an ensemble give their scores, too, where the client
/// does not ask for them: without, their answers cannot be combined.
fn outgoing<E: Exchange>(
    decision: &Decision,
    here: Tier,
    entry: &Entry,
    exchange: &E,
    request: &mut InferRequest,
) -> Result<Option<Outgoing>, Refusal> {
    if decision.privacy_required || !decision.asks_others(here) {
        return Ok(None);
    }
    let protocols = decision.others(here).filter_map(|tier| Some(entry.reach.to(tier)?.remote.protocol));
    let original = exchange.original()?;
    let scores = match (&decision.plan, &entry.measure, &request.outputs) {
        (Plan::Ensemble(_), Some(measure), Some(outputs)) => {
            Some(measure.output()).filter(|scores| outputs.iter().all(|output| output.name != *scores))
        }
        _ => None,
    };
    let outgoing = if let Some(scores) = scores {
        let asked = request.outputs.clone();
        let scores = RequestedOutput { name: scores.to_owned(), parameters: Parameters::new() };
        request.outputs.get_or_insert_default().push(scores);
        let outgoing = Outgoing::new(original.elements(request), request, protocols);
        request.outputs = asked;
        outgoing
    } else {
        Outgoing::new(original, request, protocols)
    };
    outgoing.map(Some).map_err(|error| Refusal::Failed(error.to_string()))
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
