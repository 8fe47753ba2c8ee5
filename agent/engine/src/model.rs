//! A loaded model that many may ask: a thread for each session, one bounded queue in front of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use terrace_crash::{Label, Slot};
use terrace_oip::Tensor;
use tokio::sync::oneshot;
use tracing::Span;

use crate::cases::CaseFailure;
use crate::figures::{Figures, LoadFigures};
use crate::queue::{Refused, Writer, queue};
use crate::sessions::{self, Sessions};
use crate::statistics::Statistics;
use crate::stop::Underway;
use crate::validate::{InvalidInput, check_inputs, check_outputs};
use crate::worker::{Job, Worker};
use crate::{Engine, ExecutionProvider, LoadError, Placement, Session, Signature};

/// How a model is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// What it and its threads are called.
    pub name: String,
    /// What the record of a crash calls it.
    pub crash_label: Label,
    /// Threads that one run may use.
    pub threads: usize,
    /// What runs it, in order of preference; the CPU runs what is left.
    pub providers: Vec<ExecutionProvider>,
    /// Sessions that run side by side.
    pub instances: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// How many rows run at once.
    pub batching: Batching,
    /// Where weights that its sessions share are laid out; none where each has its own.
    pub scratch: Option<PathBuf>,
    /// Bytes of memory that there are for it; none where that is not known.
    pub memory: Option<u64>,
}

/// How many rows of requests that wait run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// As many as were found to be worth it when the model was loaded.
    Learned,
    /// So many at most; 1 runs each request alone.
    AtMost(usize),
}

/// Why a model cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not pass its cases.
    #[error(transparent)]
    Cases(#[from] CaseFailure),
    /// The system gives no thread.
    #[error("cannot start a thread for the model: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// One word for a status.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Load(LoadError::Provider { reason, .. }) => reason.as_str(),
            Self::Load(_) | Self::Thread(_) => "LoadFailed",
            Self::Cases(_) => "CasesFailed",
        }
    }

    /// Whether trying the same again may help: it was the machine and not the model. A machine that was busy makes any
    /// model slow.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Load(LoadError::Provider { reason, .. }) => reason.may_pass(),
            Self::Thread(_) | Self::Cases(CaseFailure::Slow { .. }) => true,
            Self::Load(_) | Self::Cases(_) => false,
        }
    }
}

/// Why a request has no outputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// It does not fit the model.
    #[error(transparent)]
    InvalidInput(#[from] InvalidInput),
    /// Too many wait already.
    #[error("too many requests wait for the model; try again in a moment")]
    QueueFull,
    /// The deadline passed first.
    #[error("the model did not answer within the deadline")]
    DeadlineExceeded,
    /// The run failed.
    #[error("the model failed to run on this request")]
    Failed,
    /// The model's threads have ended.
    #[error("the model has stopped")]
    Stopped,
}

/// What a model is asked.
#[derive(Debug)]
pub struct Request {
    /// The inputs.
    pub inputs: Vec<Tensor>,
    /// The outputs that are wanted; all where none is named.
    pub outputs: Option<Vec<String>>,
    /// When the answer is of no use any more, if ever.
    pub deadline: Option<Instant>,
    /// Its size is told to nobody.
    pub is_private: bool,
}

impl Request {
    /// For every output, however long it takes.
    pub const fn new(inputs: Vec<Tensor>) -> Self {
        Self { inputs, outputs: None, deadline: None, is_private: false }
    }
}

/// A loaded model. Dropping it lets what waits finish; then its threads end.
#[derive(Debug)]
pub struct Model {
    queue: Writer<Job>,
    signature: Signature,
    placement: Placement,
    figures: Arc<Figures>,
    /// The most rows that run at once.
    most_rows: usize,
    /// What each session runs.
    underway: Vec<Arc<Underway>>,
    /// How many requests there were: each has a number.
    requests: AtomicU64,
}

impl Model {
    /// Loads a model and starts its threads. Each session must pass `check` before anything is started. `samples` are
    /// requests that it can answer.
    pub fn load(
        engine: &dyn Engine,
        bytes: &[u8],
        options: &ModelOptions,
        samples: &[&[Tensor]],
        check: impl Fn(&mut dyn Session) -> Result<(), CaseFailure>,
    ) -> Result<Self, StartError> {
        let mut slot = Slot::take(&options.crash_label);
        let running = slot.run();
        let Sessions { all, most_rows, run } = sessions::open(engine, bytes, options, samples, check)?;
        drop(running);
        let model = Self::start(all, options, most_rows)?;
        if let Some(took) = run {
            model.figures.took(took);
        }
        Ok(model)
    }

    fn start(
        sessions: Vec<Box<dyn Session>>,
        options: &ModelOptions,
        most_rows: usize,
    ) -> Result<Self, StartError> {
        let (signature, placement) = sessions
            .first()
            .map(|session| (session.signature().clone(), session.placement()))
            .ok_or_else(|| LoadError::Refused("no session".to_owned()))?;
        let (queue, readers) = queue(options.queue.max(1), sessions.len());
        let figures = Arc::new(Figures::default());
        let mut underway = Vec::with_capacity(sessions.len());
        for (session, jobs) in sessions.into_iter().zip(readers) {
            let figures = Arc::clone(&figures);
            let of_this = Arc::new(Underway::new(session.stopper()));
            underway.push(Arc::clone(&of_this));
            let slot = Slot::take(&options.crash_label);
            let worker = Worker { session, slot, jobs, figures, most_rows, underway: of_this, held: None };
            thread::Builder::new().name(thread_name(&options.name)).spawn(move || worker.work())?;
        }
        Ok(Self { queue, signature, placement, figures, most_rows, underway, requests: AtomicU64::new(0) })
    }

    /// What it takes and gives.
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What runs it, read back from the runtime.
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The most rows that run at once; 1 where each request runs alone.
    pub const fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// What it has done since it was loaded.
    pub fn statistics(&self) -> Statistics {
        self.figures.done()
    }

    /// How busy it is.
    pub fn load_figures(&self) -> LoadFigures {
        self.figures.load(self.queue.len())
    }

    /// Runs the model. The caller hears of a passed deadline at the deadline, whatever still runs. A request whose caller
    /// is gone is dropped unrun, and a run that has lost its last one is stopped.
    pub async fn infer(&self, request: Request) -> Result<Vec<Tensor>, InferError> {
        check_inputs(&self.signature, &request.inputs)?;
        check_outputs(&self.signature, request.outputs.as_deref())?;
        let deadline = request.deadline;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // Dropped behind `answer`, so that a run that begins meanwhile sees at least one of them gone.
        let mut waiting = Waiting { model: self, number, is_answered: false };
        let (reply, answer) = oneshot::channel();
        let job = Job { number, request, queued: Instant::now(), span: Span::current(), reply };
        let wake = self.queue.push(job).map_err(|refused| match refused {
            Refused::Full => InferError::QueueFull,
            Refused::Ended => InferError::Stopped,
        })?;
        if wake.is_some() && self.gains_by_waiting(number) {
            // Whoever else this thread has a request of by now queues it first: one wake, and one run, for all.
            tokio::task::yield_now().await;
        }
        drop(wake);
        let answered = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                .await
                .map_err(|_| InferError::DeadlineExceeded)?,
            None => answer.await,
        };
        waiting.is_answered = true;
        answered.unwrap_or(Err(InferError::Stopped))
    }

    /// Whether a run that begins a moment later may be for more requests.
    fn gains_by_waiting(&self, number: u64) -> bool {
        self.most_rows > 1 && self.figures.may_have_company(number) && self.queue.len() < self.most_rows
    }
}

/// Somebody who waits for a request's answer.
struct Waiting<'a> {
    model: &'a Model,
    number: u64,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let _found = self.model.underway.iter().any(|underway| underway.abandon(self.number));
        }
    }
}

/// What tells a model's threads apart from others in `top -H`; Linux shows 15 bytes of it.
fn thread_name(model: &str) -> String {
    model.chars().filter(|character| *character != '\0').collect()
}

#[cfg(test)]
mod tests;
