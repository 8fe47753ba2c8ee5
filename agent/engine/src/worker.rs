//! A loaded model that many may ask: a thread for each session, one bounded queue in front of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use terrace_crash::{Label, Slot};
use terrace_oip::Tensor;
use tokio::sync::oneshot;
use tracing::{Span, error};

use crate::batch::{are_alike, join, rows as rows_of, split};
use crate::cases::CaseFailure;
use crate::queue::{Reader, Refused, Writer, queue};
use crate::sessions::{self, Sessions};
use crate::statistics::{Counter, Outcome, Run, Statistics};
use crate::stop::Underway;
use crate::validate::{InvalidInput, check_inputs, check_outputs};
use crate::{Engine, ExecutionProvider, LoadError, Placement, RunError, Session, Signature};

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
    /// Several requests were in flight when the last run ended.
    is_in_company: AtomicBool,
    longest_run_nanos: AtomicU64,
    done: Counter,
}

/// One request on its way to a session.
struct Job {
    number: u64,
    inputs: Vec<Tensor>,
    outputs: Option<Vec<String>>,
    deadline: Option<Instant>,
    queued: Instant,
    span: Span,
    reply: oneshot::Sender<Result<Vec<Tensor>, InferError>>,
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
        let Sessions { all, most_rows } = sessions::open(engine, bytes, options, samples, check)?;
        drop(running);
        Self::start(all, options, most_rows)
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
        self.figures.done.read()
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

    /// Runs the model. The caller hears of a passed deadline at the deadline, whatever still runs. A request whose caller
    /// is gone is dropped unrun, and a run that has lost its last one is stopped.
    pub async fn infer(
        &self,
        inputs: Vec<Tensor>,
        outputs: Option<Vec<String>>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>, InferError> {
        check_inputs(&self.signature, &inputs)?;
        check_outputs(&self.signature, outputs.as_deref())?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // Dropped behind `answer`, so that a run that begins meanwhile sees at least one of them gone.
        let mut waiting = Waiting { model: self, number, is_answered: false };
        let (reply, answer) = oneshot::channel();
        let job =
            Job { number, inputs, outputs, deadline, queued: Instant::now(), span: Span::current(), reply };
        let wake = self.queue.push(job).map_err(|refused| match refused {
            Refused::Full => InferError::QueueFull,
            Refused::Ended => InferError::Stopped,
        })?;
        if wake.is_some() && self.figures.may_have_company(number) {
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

/// One session's thread.
struct Worker {
    session: Box<dyn Session>,
    /// Where it says that it runs, for whoever looks after a crash.
    slot: Slot,
    jobs: Reader<Job>,
    figures: Arc<Figures>,
    most_rows: usize,
    underway: Arc<Underway>,
    /// Taken from the queue, and not fit to run with those before it.
    held: Option<Job>,
}

impl Worker {
    /// Until the queue is closed and empty.
    fn work(mut self) {
        let mut company = Company::default();
        while let Some(first) = self.next() {
            let batch = self.gather(first, company);
            let count = batch.len();
            let begun = Instant::now();
            self.run(batch);
            company = Company { requests: count + self.jobs.len(), run: begun.elapsed() };
            self.figures.is_in_company.store(company.requests > 1, Ordering::Relaxed);
        }
    }

    /// The next request that somebody still waits for.
    fn next(&mut self) -> Option<Job> {
        loop {
            let job = match self.held.take() {
                Some(job) => job,
                None => self.jobs.next()?,
            };
            if let Some(job) = awaited(job) {
                return Some(job);
            }
        }
    }

    /// What is run together with `first`: what waits already, and what is likely to come in a moment.
    fn gather(&mut self, first: Job, company: Company) -> Vec<Job> {
        // What may be left out is given for a request as a whole, not for each of its rows.
        let is_alone = self.most_rows == 1 || self.session.signature().states_optional(&first.inputs);
        let Some(mut rows) = rows_of(&first.inputs).filter(|_| !is_alone) else {
            return vec![first];
        };
        let until = company.patience().map(|patience| Instant::now() + patience);
        let mut batch = vec![first];
        while rows < self.most_rows {
            let more_may_come = until.filter(|_| batch.len() < company.requests);
            let job = self.jobs.try_next().or_else(|| self.jobs.next_before(more_may_come?));
            let Some(job) = job else { break };
            let Some(job) = awaited(job) else { continue };
            let more = rows_of(&job.inputs)
                .filter(|_| job.outputs == batch[0].outputs && are_alike(&batch[0].inputs, &job.inputs));
            let Some(more) = more.filter(|more| rows + more <= self.most_rows) else {
                self.held = Some(job);
                break;
            };
            rows += more;
            batch.push(job);
        }
        batch
    }

    fn run(&mut self, batch: Vec<Job>) {
        self.figures.running.fetch_add(batch.len(), Ordering::Relaxed);
        let begun = Instant::now();
        let together = if batch.len() > 1 { self.run_together(&batch) } else { None };
        if let Some(outputs) = together {
            self.figures.ran(
                &batch,
                begun,
                Outcome::Answered,
                outputs.iter().map(|tensors| size(tensors)).sum(),
            );
            for (job, tensors) in batch.into_iter().zip(outputs) {
                self.answer(job, Ok(tensors));
            }
        } else if batch.len() > 1 && batch.iter().all(|job| job.reply.is_closed()) {
            self.figures.ran(&batch, begun, Outcome::Stopped, 0);
            self.figures.running.fetch_sub(batch.len(), Ordering::Relaxed);
        } else {
            // What fails together may be one request's fault.
            for job in batch {
                if let Some(job) = awaited(job) {
                    let answer = self.run_alone(&job);
                    self.answer(job, answer);
                } else {
                    self.figures.running.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Runs the session, for as long as somebody waits for one of these requests.
    fn run_for(&mut self, jobs: &[Job], inputs: &[Tensor]) -> thread::Result<Result<Vec<Tensor>, RunError>> {
        let awaited = jobs.iter().filter(|job| !job.reply.is_closed()).map(|job| job.number);
        if !self.underway.begin(awaited) {
            return Ok(Err(RunError::Failed("nobody waits for it".to_owned())));
        }
        let (session, outputs) = (&mut self.session, jobs.first().and_then(|job| job.outputs.as_deref()));
        let running = self.slot.run();
        let ran = catch_unwind(AssertUnwindSafe(|| session.run(inputs, outputs)));
        drop(running);
        self.underway.end();
        ran
    }

    fn answer(&self, job: Job, answer: Result<Vec<Tensor>, InferError>) {
        self.figures.running.fetch_sub(1, Ordering::Relaxed);
        let _gone = job.reply.send(answer);
    }

    fn run_together(&mut self, batch: &[Job]) -> Option<Vec<Vec<Tensor>>> {
        let _entered = batch.first()?.span.enter();
        let requests: Vec<&[Tensor]> = batch.iter().map(|job| &*job.inputs).collect();
        let rows: Option<Vec<usize>> = requests.iter().map(|request| rows_of(request)).collect();
        let (rows, joined) = (rows?, join(&requests)?);
        split(&self.run_for(batch, &joined).ok()?.ok()?, &rows)
    }

    fn run_alone(&mut self, job: &Job) -> Result<Vec<Tensor>, InferError> {
        let _entered = job.span.enter();
        let begun = Instant::now();
        let ran = self.run_for(std::slice::from_ref(job), &job.inputs);
        let (outcome, output_bytes) = match &ran {
            Ok(Ok(tensors)) => (Outcome::Answered, size(tensors)),
            Ok(Err(_)) if job.reply.is_closed() => (Outcome::Stopped, 0),
            Ok(Err(_)) | Err(_) => (Outcome::Failed, 0),
        };
        self.figures.ran(std::slice::from_ref(job), begun, outcome, output_bytes);
        match ran {
            Ok(Ok(tensors)) => Ok(tensors),
            Ok(Err(RunError::InvalidInput(error))) => Err(InferError::InvalidInput(error)),
            // The runtime's words may repeat what was in the request, so nobody is told.
            Ok(Err(RunError::Failed(_))) => Err(InferError::Failed),
            Err(_) => {
                error!("a model's session panicked on a request; it goes on with the next");
                Err(InferError::Failed)
            }
        }
    }
}

/// The request, if its caller is still there and in time.
fn awaited(job: Job) -> Option<Job> {
    if job.reply.is_closed() {
        return None;
    }
    if job.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        let _gone = job.reply.send(Err(InferError::DeadlineExceeded));
        return None;
    }
    Some(job)
}

/// How many were in flight when the last run ended, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
struct Company {
    requests: usize,
    run: Duration,
}

impl Company {
    /// How long to wait for those who were there a moment ago and are likely to ask again: no longer than a share of
    /// what a run of their own would cost everybody. Nobody waits for company who had none, nor for less time than a
    /// thread sleeps at least.
    fn patience(self) -> Option<Duration> {
        const SHARE: u32 = 8;
        /// By how much Linux may let a thread sleep too long.
        const LEAST: Duration = Duration::from_micros(50);
        Some(self.run / SHARE).filter(|patience| self.requests > 1 && *patience >= LEAST)
    }
}

/// How many bytes tensors are.
fn size(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data().size()).sum()
}

/// What tells a model's threads apart from others in `top -H`; Linux shows 15 bytes of it.
fn thread_name(model: &str) -> String {
    model.chars().filter(|character| *character != '\0').collect()
}

impl Figures {
    /// Whether others are likely to ask at the same time as the request of this number. Where nobody did of late, every
    /// so many requests wait for a moment all the same: a session that answers each at once would never see two.
    fn may_have_company(&self, number: u64) -> bool {
        const TRY_EVERY: u64 = 16;
        self.is_in_company.load(Ordering::Relaxed) || number.is_multiple_of(TRY_EVERY)
    }

    /// Counts a run of `batch`, and how many bytes came of it.
    fn ran(&self, batch: &[Job], begun: Instant, outcome: Outcome, output_bytes: usize) {
        let took = begun.elapsed();
        self.took(took);
        self.done.ran(Run {
            requests: batch.len() as u64,
            outcome,
            rows: batch.iter().map(|job| rows_of(&job.inputs).unwrap_or(1)).sum(),
            input_bytes: batch.iter().map(|job| size(&job.inputs)).sum(),
            output_bytes,
            waited: batch.iter().map(|job| begun.saturating_duration_since(job.queued)).sum(),
            took,
        });
    }

    /// The longest run of late: a longer one counts at once, shorter ones pull it down by a sixteenth each.
    fn took(&self, took: Duration) {
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
