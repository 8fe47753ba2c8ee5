//! A loaded model that many may ask: a thread for each session, one bounded queue in front of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use terrace_oip::Tensor;
use tokio::sync::oneshot;
use tracing::{Span, error};

use crate::cases::CaseFailure;
use crate::validate::{InvalidInput, check_inputs, check_outputs};
use crate::{Engine, LoadError, RunError, Session, SessionOptions, Signature};

/// How a model is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// What it and its threads are called.
    pub name: String,
    /// Threads that one run may use.
    pub threads: usize,
    /// Sessions that run side by side.
    pub instances: usize,
    /// Requests that may wait.
    pub queue: usize,
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
            Self::Load(_) | Self::Thread(_) => "LoadFailed",
            Self::Cases(_) => "CasesFailed",
        }
    }

    /// Whether trying the same again may help: it was the machine and not the model. A machine that was busy makes any
    /// model slow.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Thread(_) | Self::Cases(CaseFailure::Slow { .. }))
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

/// A loaded model. Dropping it lets what waits finish; then its threads end.
#[derive(Debug)]
pub struct Model {
    queue: Sender<Job>,
    signature: Signature,
    figures: Arc<Figures>,
}

/// How busy a model is, and how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadFigures {
    /// Requests that wait.
    pub queued: usize,
    /// Requests that run.
    pub running: usize,
    /// The longest run of late: it decays, so that one slow run is forgotten. None before the first.
    pub longest_run: Option<Duration>,
}

#[derive(Debug, Default)]
struct Figures {
    running: AtomicUsize,
    longest_run_nanos: AtomicU64,
}

/// One request on its way to a session.
struct Job {
    inputs: Vec<Tensor>,
    outputs: Option<Vec<String>>,
    deadline: Option<Instant>,
    span: Span,
    reply: oneshot::Sender<Result<Vec<Tensor>, InferError>>,
}

impl Model {
    /// Loads a model and starts its threads. Each session must pass `check` before anything is started.
    pub fn load(
        engine: &dyn Engine,
        bytes: &[u8],
        options: &ModelOptions,
        check: impl Fn(&mut dyn Session) -> Result<(), CaseFailure>,
    ) -> Result<Self, StartError> {
        let mut sessions = Vec::with_capacity(options.instances);
        for _ in 0..options.instances.max(1) {
            let mut session = engine.load(bytes, SessionOptions { threads: options.threads })?;
            check(&mut *session)?;
            sessions.push(session);
        }
        Self::start(sessions, options)
    }

    fn start(sessions: Vec<Box<dyn Session>>, options: &ModelOptions) -> Result<Self, StartError> {
        let signature = sessions
            .first()
            .map(|session| session.signature().clone())
            .ok_or_else(|| LoadError::Refused("no session".to_owned()))?;
        let (queue, jobs) = crossbeam_channel::bounded(options.queue.max(1));
        let figures = Arc::new(Figures::default());
        for session in sessions {
            let (jobs, figures) = (jobs.clone(), Arc::clone(&figures));
            thread::Builder::new()
                .name(thread_name(&options.name))
                .spawn(move || work(session, &jobs, &figures))?;
        }
        Ok(Self { queue, signature, figures })
    }

    /// What it takes and gives.
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// How busy it is.
    pub fn load_figures(&self) -> LoadFigures {
        let nanos = self.figures.longest_run_nanos.load(Ordering::Relaxed);
        LoadFigures {
            queued: self.queue.len(),
            running: self.figures.running.load(Ordering::Relaxed),
            longest_run: (nanos > 0).then(|| Duration::from_nanos(nanos)),
        }
    }

    /// Runs the model. The caller hears of a passed deadline at the deadline, whatever still runs; a request whose
    /// caller is gone is dropped unrun.
    pub async fn infer(
        &self,
        inputs: Vec<Tensor>,
        outputs: Option<Vec<String>>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>, InferError> {
        check_inputs(&self.signature, &inputs)?;
        check_outputs(&self.signature, outputs.as_deref())?;
        let (reply, answer) = oneshot::channel();
        let job = Job { inputs, outputs, deadline, span: Span::current(), reply };
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => InferError::QueueFull,
            TrySendError::Disconnected(_) => InferError::Stopped,
        })?;
        let answered = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answer)
                .await
                .map_err(|_| InferError::DeadlineExceeded)?,
            None => answer.await,
        };
        answered.unwrap_or(Err(InferError::Stopped))
    }
}

/// One session's thread: until the queue is closed and empty.
fn work(mut session: Box<dyn Session>, jobs: &Receiver<Job>, figures: &Figures) {
    for job in jobs {
        if job.reply.is_closed() {
            continue;
        }
        if job.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let _gone = job.reply.send(Err(InferError::DeadlineExceeded));
            continue;
        }
        let _entered = job.span.enter();
        figures.running.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| session.run(&job.inputs, job.outputs.as_deref())));
        figures.ran(begun.elapsed());
        figures.running.fetch_sub(1, Ordering::Relaxed);
        let answer = match ran {
            Ok(Ok(tensors)) => Ok(tensors),
            Ok(Err(RunError::InvalidInput(error))) => Err(InferError::InvalidInput(error)),
            // The runtime's words may repeat what was in the request, so nobody is told.
            Ok(Err(RunError::Failed(_))) => Err(InferError::Failed),
            Err(_) => {
                error!("a model's session panicked on a request; it goes on with the next");
                Err(InferError::Failed)
            }
        };
        let _gone = job.reply.send(answer);
    }
}

/// What tells a model's threads apart from others in `top -H`; Linux shows 15 bytes of it.
fn thread_name(model: &str) -> String {
    model.chars().filter(|character| *character != '\0').collect()
}

impl Figures {
    /// The longest run of late: a longer one counts at once, shorter ones pull it down by a sixteenth each.
    fn ran(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let longest = |before: u64| if took >= before { took } else { before - (before - took) / 16 };
        // In one step: another instance's longer run must not be overwritten by what was read before it.
        let _before = self
            .longest_run_nanos
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(longest(before)));
    }
}

#[cfg(test)]
mod tests;
