//! Hostile models are loaded first in a child process, with limits on its memory and time.
//!
//! The agent runs itself with [`SUBCOMMAND`]: the child limits itself, checks the digests, loads, and runs the model at
//! least once; one JSON line each way. What it found is remembered by (model, cases, runtime, providers), so that a restart need
//! not ask again and a model that kills its loader does not do so in a loop.
//!
//! Called by the agent's `sync::activate`, and as the child by its `main`.

mod ask;
mod child;
mod limits;
mod verdict;
mod zeros;
pub(crate) use zeros::zeros;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use child::child_main;
pub use limits::Limits;
use verdict::{Record, Standing};

use crate::compare::Comparison;
use crate::provider::{ExecutionProvider, Reason};

/// The argument that makes the agent a probe.
pub const SUBCOMMAND: &str = "probe";

/// What is to be tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// The model.
    pub model: Artifact,
    /// Its cases. Without any it is run once on zeros.
    pub cases: Option<Artifact>,
    /// How far a float may be from the expected one.
    pub tolerance: f64,
    /// Threads that one run may use.
    pub threads: usize,
    /// What is to run it, in order of preference.
    pub providers: Vec<ExecutionProvider>,
}

/// A file and what must be in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Artifact {
    /// Where it lies.
    pub path: PathBuf,
    /// Its digest, in hexadecimal.
    pub sha256: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// It loads, runs, and passes its cases.
    Accepted,
    /// The same, on something else than the CPU, which this tells how it compares with.
    Compared(Comparison),
    /// It does not, and never will.
    Refused {
        /// One word for a status.
        reason: String,
        /// Why, for a person.
        message: String,
    },
    /// Its process died or went beyond its limits. That may have been the machine's fault, so it is tried again, at
    /// longer and longer intervals.
    Died {
        /// How, for a person.
        message: String,
    },
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No child could be started.
    #[error("cannot start the process that tries models: {0}")]
    Start(#[source] io::Error),
    /// It could not be spoken to.
    #[error("the process that tries models cannot be spoken to: {0}")]
    Speak(#[source] io::Error),
    /// It cannot try any model.
    #[error("the process that tries models cannot try any: {message}")]
    Unable {
        /// Why.
        message: String,
    },
    /// An execution provider that is required does not run the model on this node.
    #[error("{message}")]
    Unplaced {
        /// Why, as one word.
        reason: Reason,
        /// Why, for a person.
        message: String,
    },
    /// It was told to end.
    #[error("the process that tries models was told to end; the model is tried again")]
    Interrupted,
    /// A file does not have its digest: it was damaged or removed since it was fetched.
    #[error("the model's file, or its cases', was damaged on disk; it is fetched anew")]
    Damaged,
}

/// Tries models in child processes.
#[derive(Clone, Debug)]
pub struct Prober {
    /// What to run: the agent's own executable.
    pub program: PathBuf,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// The runtime's name and version: another one may find something else.
    pub runtime: String,
    /// Where verdicts are kept.
    pub verdicts: PathBuf,
    /// What a child may use.
    pub limits: Limits,
}

impl Prober {
    /// What is known of a model at the time `now`, or what a child finds.
    pub async fn probe(&self, request: &ProbeRequest, now: SystemTime) -> Result<Verdict, ProbeError> {
        let path = self.verdicts.join(self.key(request));
        let known = off_thread({
            let path = path.clone();
            move || verdict::read(&path)
        })
        .await?;
        if let Some(known) = &known
            && known.standing(now) == Standing::Holds
        {
            return Ok(known.tell());
        }
        let found = ask::ask(self, request).await?;
        if !found.lasts {
            return Ok(found.verdict);
        }
        let record = Record::new(known.as_ref(), found.verdict, now);
        let told = record.tell();
        off_thread(move || remember(&path, &record)).await?;
        Ok(told)
    }

    /// Everything that a verdict depends on.
    fn key(&self, request: &ProbeRequest) -> String {
        let parts = serde_json::json!([
            request.model.sha256,
            request.cases.as_ref().map(|cases| &cases.sha256),
            request.tolerance,
            request.threads,
            self.runtime,
            request.providers,
            // Another version of this crate may take a model that this one refuses.
            env!("CARGO_PKG_VERSION"),
        ]);
        hex(&Sha256::digest(parts.to_string().as_bytes()))
    }
}

/// A verdict that cannot be kept is a verdict all the same.
fn remember(path: &Path, record: &Record) {
    if let Err(error) = verdict::write(path, record) {
        tracing::warn!(%error, path = %path.display(), "a verdict on a model cannot be kept");
    }
}

/// Files are read and written off the threads that answer requests: a slow disk must not slow them.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProbeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ProbeError::Speak(error.into()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
