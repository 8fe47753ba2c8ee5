//! The child: limits itself, tries, says what it found.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::limits::Allowance;
use super::zeros::zeros;
use super::{Artifact, ProbeRequest, Verdict, hex};
use crate::cases::{self, Acceptance, CaseFailure, Cases};
use crate::compare::{Comparison, compare};
use crate::onnxruntime::OnnxRuntime;
use crate::provider::Reason;
use crate::{Engine as _, ExecutionProvider, LoadError, RunError, Session, SessionOptions};

/// What the child is told.
#[derive(Serialize, Deserialize)]
pub(super) struct Orders {
    pub library: PathBuf,
    pub request: ProbeRequest,
    pub allowance: Allowance,
    /// Who asks.
    pub parent: u32,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
pub(super) enum Finding {
    /// What the model is.
    Verdict(Verdict),
    /// The same, as long as a provider is away that may come back: then the model is to be tried anew.
    ForNow(Verdict),
    /// An execution provider that is required does not run it here.
    Unplaced { reason: Reason, message: String },
    /// The model needs more memory than it may use.
    OutOfMemory { words: String },
    /// A file is not what it should be.
    Damaged,
    /// It has nothing to do with the model.
    Unable { message: String },
}

/// The child: limits itself, tries, says what it found.
pub fn child_main() -> ExitCode {
    let mut json = Vec::new();
    let orders =
        io::stdin().read_to_end(&mut json).ok().and_then(|_| serde_json::from_slice::<Orders>(&json).ok());
    let Some(orders) = orders else {
        eprintln!("this command tries models for the agent, which tells it what to do on standard input");
        return ExitCode::FAILURE;
    };
    let finding = match orders.allowance.impose(orders.parent) {
        Ok(()) => attempt(&orders).unwrap_or_else(|finding| finding),
        Err(error) => Finding::Unable { message: format!("it cannot limit itself: {error}") },
    };
    let said = serde_json::to_vec(&finding).is_ok_and(|json| io::stdout().write_all(&json).is_ok());
    if said { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is found of a model. The error is what ends the attempt.
fn attempt(orders: &Orders) -> Result<Finding, Finding> {
    let request = &orders.request;
    let model = read(&request.model)?;
    let cases = request.cases.as_ref().map(read).transpose()?;
    let engine = OnnxRuntime::open_to_probe(&orders.library)
        .map_err(|error| Finding::Unable { message: error.to_string() })?;
    let load = |providers: &[ExecutionProvider]| {
        engine.load(&model, SessionOptions { threads: request.threads, providers, weights: None })
    };
    let mut session = load(&request.providers).map_err(|error| not_loaded(&error))?;
    let cases = cases.map(|json| Cases::parse(&json)).transpose();
    let cases = cases.map_err(|error| refused("CasesUnreadable", error.to_string()))?;
    match &cases {
        Some(cases) => pass(&mut *session, cases, request.tolerance)?,
        None => run_once(&mut *session, orders.allowance.data_bytes)?,
    }
    let placement = session.placement();
    let compared = cases.filter(|_| !placement.is_cpu_alone()).and_then(|cases| {
        // That the CPU cannot run it is no fault: it was not asked to.
        let mut cpu = load(&[]).ok()?;
        beside_cpu(&mut *session, &mut *cpu, &cases).ok()
    });
    let verdict = compared.map_or(Verdict::Accepted, Verdict::Compared);
    Ok(if placement.lasts() { Finding::Verdict(verdict) } else { Finding::ForNow(verdict) })
}

fn beside_cpu(
    session: &mut dyn Session,
    cpu: &mut dyn Session,
    cases: &Cases,
) -> Result<Comparison, RunError> {
    let inputs = cases.inputs();
    for input in &inputs {
        cpu.run(input, None)?;
    }
    compare(session, cpu, &inputs)
}

fn read(artifact: &Artifact) -> Result<Vec<u8>, Finding> {
    let bytes = fs::read(&artifact.path).map_err(|_| Finding::Damaged)?;
    if hex(&Sha256::digest(&bytes)) == artifact.sha256 { Ok(bytes) } else { Err(Finding::Damaged) }
}

fn not_loaded(error: &LoadError) -> Finding {
    match error {
        LoadError::Refused(words) if is_out_of_memory(words) => Finding::OutOfMemory { words: words.clone() },
        LoadError::Refused(words) if is_out_of_threads(words) => Finding::Unable { message: words.clone() },
        LoadError::Provider { reason, message } => {
            Finding::Unplaced { reason: *reason, message: message.clone() }
        }
        error => refused("LoadFailed", error.to_string()),
    }
}

fn pass(session: &mut dyn Session, cases: &Cases, tolerance: f64) -> Result<(), Finding> {
    // How fast it is, the process that serves measures itself.
    let acceptance = Acceptance { tolerance, max_latency: None };
    cases::verify(session, cases, &acceptance).map_err(|error| match error {
        CaseFailure::Run { error: RunError::Failed(words), .. } if is_out_of_memory(&words) => {
            Finding::OutOfMemory { words }
        }
        error => refused("CasesFailed", error.to_string()),
    })
}

/// Runs a model that has no cases: what it does may show only then. Zeros need not be anything that it can work on, so
/// that it fails is no fault.
fn run_once(session: &mut dyn Session, most: u64) -> Result<(), Finding> {
    let inputs = zeros(&session.signature().inputs, most).map_err(|input| {
        let most = most >> 20;
        let message =
            format!("input {input:?} alone would take more than the {most} MiB that the model may use");
        refused("ProbeRefused", message)
    })?;
    match session.run(&inputs, None) {
        Err(RunError::Failed(words)) if is_out_of_memory(&words) => Err(Finding::OutOfMemory { words }),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn refused(reason: &str, message: String) -> Finding {
    Finding::Verdict(Verdict::Refused { reason: reason.to_owned(), message })
}

/// Whether the system gave no thread: that says nothing of the model.
fn is_out_of_threads(words: &str) -> bool {
    ["pthread_create", "Resource temporarily unavailable"].iter().any(|sign| words.contains(sign))
}

/// Whether the runtime was refused memory: it has no code for that.
fn is_out_of_memory(words: &str) -> bool {
    ["bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory"]
        .iter()
        .any(|sign| words.contains(sign))
}
