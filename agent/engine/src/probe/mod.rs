//! Hostile models are loaded first in a child process, with limits on its memory and time.
//!
//! The agent runs itself with [`SUBCOMMAND`]: the child limits itself, checks the digest, loads, and runs the cases;
//! one JSON line each way. What it found is remembered by (model, cases, runtime), so that a restart need not ask again
//! and a model that kills its loader does not do so in a loop.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::cases::{self, Acceptance, Cases};
use crate::onnxruntime::OnnxRuntime;
use crate::{Engine as _, SessionOptions};

/// The argument that makes the agent a probe.
pub const SUBCOMMAND: &str = "probe";
/// The memory that any model may need at load, beside a multiple of its size.
const BASE_DATA_BYTES: u64 = 512 << 20;
/// How many times its size.
const DATA_PER_BYTE: u64 = 4;
/// The processor time that any model may need, beside a second for each ten MiB.
const BASE_CPU_SECONDS: u64 = 30;
/// The most that a child may say.
const MAX_VERDICT_BYTES: u64 = 64 << 10;

/// What is to be tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// The model's file.
    pub model: PathBuf,
    /// Its digest, in hexadecimal.
    pub sha256: String,
    /// Its cases' file.
    pub cases: Option<PathBuf>,
    /// Its cases' digest.
    pub cases_sha256: Option<String>,
    /// How far a float may be from the expected one.
    pub tolerance: f64,
    /// Threads that one run may use.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It loads, and passes its cases.
    Accepted,
    /// It does not.
    Refused {
        /// One word for a status.
        reason: String,
        /// Why, for a person.
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
    /// The file does not have its digest: it was damaged since it was fetched.
    #[error("the model's file was damaged on disk; it is fetched anew")]
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
}

/// What the child is told.
#[derive(Serialize, Deserialize)]
struct Orders {
    library: PathBuf,
    request: ProbeRequest,
    data_bytes: u64,
    cpu_seconds: u64,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
enum Finding {
    Verdict(Verdict),
    Damaged,
}

impl Prober {
    /// What is known of a model, or what a child finds.
    pub async fn probe(&self, request: &ProbeRequest) -> Result<Verdict, ProbeError> {
        let remembered = self.verdicts.join(self.key(request));
        if let Some(verdict) = fs::read(&remembered).ok().and_then(|json| serde_json::from_slice(&json).ok())
        {
            return Ok(verdict);
        }
        let verdict = self.ask(request).await?;
        if let Err(error) = remember(&remembered, &verdict) {
            tracing::warn!(%error, path = %remembered.display(), "a verdict on a model cannot be kept");
        }
        Ok(verdict)
    }

    /// Everything that a verdict depends on.
    fn key(&self, request: &ProbeRequest) -> String {
        let parts = serde_json::json!([
            request.sha256,
            request.cases_sha256,
            request.tolerance,
            request.threads,
            self.runtime,
            crate::onnxruntime::PROVIDER,
        ]);
        hex(&Sha256::digest(parts.to_string().as_bytes()))
    }

    async fn ask(&self, request: &ProbeRequest) -> Result<Verdict, ProbeError> {
        let size = fs::metadata(&request.model).map_err(ProbeError::Speak)?.len();
        let orders = Orders {
            library: self.library.clone(),
            request: request.clone(),
            data_bytes: BASE_DATA_BYTES.saturating_add(size.saturating_mul(DATA_PER_BYTE)),
            cpu_seconds: BASE_CPU_SECONDS + size / (10 << 20),
        };
        let patience = Duration::from_secs(orders.cpu_seconds * 3 + 10);
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(ProbeError::Start)?;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let json = serde_json::to_vec(&orders).map_err(|error| ProbeError::Speak(error.into()))?;
        let conversation = async {
            if let Some(stdin) = &mut stdin {
                stdin.write_all(&json).await?;
            }
            drop(stdin.take());
            let mut said = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_VERDICT_BYTES).read_to_end(&mut said).await?;
            }
            Ok::<_, io::Error>((said, child.wait().await?))
        };
        match tokio::time::timeout(patience, conversation).await {
            Err(_) => Ok(refused(format!("the model was not ready after {} s", patience.as_secs()))),
            Ok(Err(error)) => Err(ProbeError::Speak(error)),
            Ok(Ok((said, status))) => match serde_json::from_slice(&said) {
                Ok(Finding::Verdict(verdict)) => Ok(verdict),
                Ok(Finding::Damaged) => Err(ProbeError::Damaged),
                Err(_) => Ok(refused(died(status, &orders))),
            },
        }
    }
}

/// How a child that said nothing ended.
fn died(status: ExitStatus, orders: &Orders) -> String {
    let limits =
        format!("it may use {} MiB and {} s of processor time", orders.data_bytes >> 20, orders.cpu_seconds);
    match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() || signal == Signal::KILL.as_raw() => {
            format!("loading the model, or running its cases, took too much time or memory; {limits}")
        }
        Some(signal) => format!("loading the model killed its process with signal {signal}; {limits}"),
        None => format!("loading the model ended its process ({status}); {limits}"),
    }
}

fn refused(message: String) -> Verdict {
    Verdict::Refused { reason: "ProbeRefused".to_owned(), message }
}

/// Whole or not at all: a reader never sees half a verdict.
fn remember(path: &Path, verdict: &Verdict) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(verdict)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
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
    let finding = limit(&orders).map_or_else(
        |error| Finding::Verdict(refused(format!("the process cannot limit itself: {error}"))),
        |()| attempt(&orders),
    );
    let said = serde_json::to_vec(&finding).is_ok_and(|json| io::stdout().write_all(&json).is_ok());
    if said { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn limit(orders: &Orders) -> io::Result<()> {
    let to = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(Resource::Core, to(0))?;
    setrlimit(Resource::Data, to(orders.data_bytes))?;
    setrlimit(Resource::Cpu, to(orders.cpu_seconds))?;
    Ok(())
}

fn attempt(orders: &Orders) -> Finding {
    let request = &orders.request;
    let verdict = |reason: &str, message: String| {
        Finding::Verdict(Verdict::Refused { reason: reason.to_owned(), message })
    };
    let Ok(model) = fs::read(&request.model) else { return Finding::Damaged };
    if hex(&Sha256::digest(&model)) != request.sha256 {
        return Finding::Damaged;
    }
    let engine = match OnnxRuntime::open_to_probe(&orders.library) {
        Ok(engine) => engine,
        Err(error) => return verdict("LoadFailed", error.to_string()),
    };
    let mut session = match engine.load(&model, SessionOptions { threads: request.threads }) {
        Ok(session) => session,
        Err(error) => return verdict("LoadFailed", error.to_string()),
    };
    let Some(path) = &request.cases else { return Finding::Verdict(Verdict::Accepted) };
    let Ok(json) = fs::read(path) else { return Finding::Damaged };
    let cases = match Cases::parse(&json) {
        Ok(cases) => cases,
        Err(error) => return verdict("CasesUnreadable", error.to_string()),
    };
    // How fast it is, the process that serves measures itself.
    let acceptance = Acceptance { tolerance: request.tolerance, max_latency: None };
    match cases::verify(&mut *session, &cases, &acceptance) {
        Ok(()) => Finding::Verdict(Verdict::Accepted),
        Err(error) => verdict("CasesFailed", error.to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
