//! One session's thread: what it takes from the queue, what it runs together, and how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use terrace_crash::Slot;
use terrace_oip::Tensor;
use tokio::sync::oneshot;
use tracing::{Span, error};

use crate::batch::{are_alike, join, rows as rows_of, split};
use crate::figures::Figures;
use crate::model::{InferError, Request};
use crate::queue::Reader;
use crate::statistics::Outcome;
use crate::stop::Underway;
use crate::{RunError, Session};

/// One request on its way to a session.
pub struct Job {
    /// Tells it apart from the model's others.
    pub number: u64,
    /// What is asked.
    pub request: Request,
    /// Since when it waits.
    pub queued: Instant,
    /// What its run is a part of.
    pub span: Span,
    /// Who waits for it.
    pub reply: oneshot::Sender<Result<Vec<Tensor>, InferError>>,
}

/// One session's thread.
pub struct Worker {
    /// What it runs.
    pub session: Box<dyn Session>,
    /// Where it says that it runs, for whoever looks after a crash.
    pub slot: Slot,
    /// What waits.
    pub jobs: Reader<Job>,
    /// What it tells of itself.
    pub figures: Arc<Figures>,
    /// The most rows that it runs at once.
    pub most_rows: usize,
    /// What it runs now.
    pub underway: Arc<Underway>,
    /// Taken from the queue, and not fit to run with those before it.
    pub held: Option<Job>,
}

impl Worker {
    /// Until the queue is closed and empty.
    pub fn work(mut self) {
        let mut company = Company::default();
        while let Some(first) = self.next() {
            let batch = self.gather(first, company);
            let count = batch.len();
            let begun = Instant::now();
            self.run(batch);
            company = Company { requests: count + self.jobs.len(), run: begun.elapsed() };
            self.figures.were_in_flight(company.requests);
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
        let is_alone = self.most_rows == 1 || self.session.signature().states_optional(&first.request.inputs);
        let Some(mut rows) = rows_of(&first.request.inputs).filter(|_| !is_alone) else {
            return vec![first];
        };
        let until = company.patience().map(|patience| Instant::now() + patience);
        let mut batch = vec![first];
        while rows < self.most_rows {
            let more_may_come = until.filter(|_| batch.len() < company.requests);
            let job = self.jobs.try_next().or_else(|| self.jobs.next_before(more_may_come?));
            let Some(job) = job else { break };
            let Some(job) = awaited(job) else { continue };
            let more = rows_of(&job.request.inputs).filter(|_| {
                job.request.outputs == batch[0].request.outputs
                    && are_alike(&batch[0].request.inputs, &job.request.inputs)
            });
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
        self.figures.begin(batch.len());
        let begun = Instant::now();
        let together = if batch.len() > 1 { self.run_together(&batch) } else { None };
        if let Some(outputs) = together {
            self.figures.ran(&batch, begun, Outcome::Answered, &outputs);
            for (job, tensors) in batch.into_iter().zip(outputs) {
                self.answer(job, Ok(tensors));
            }
        } else if batch.len() > 1 && batch.iter().all(|job| job.reply.is_closed()) {
            self.figures.ran(&batch, begun, Outcome::Stopped, &[]);
            self.figures.end(batch.len());
        } else {
            // What fails together may be one request's fault.
            for job in batch {
                if let Some(job) = awaited(job) {
                    let answer = self.run_alone(&job);
                    self.answer(job, answer);
                } else {
                    self.figures.end(1);
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
        let (session, outputs) =
            (&mut self.session, jobs.first().and_then(|job| job.request.outputs.as_deref()));
        let running = self.slot.run();
        let ran = catch_unwind(AssertUnwindSafe(|| session.run(inputs, outputs)));
        drop(running);
        self.underway.end();
        ran
    }

    fn answer(&self, job: Job, answer: Result<Vec<Tensor>, InferError>) {
        self.figures.end(1);
        let _gone = job.reply.send(answer);
    }

    fn run_together(&mut self, batch: &[Job]) -> Option<Vec<Vec<Tensor>>> {
        let _entered = batch.first()?.span.enter();
        let requests: Vec<&[Tensor]> = batch.iter().map(|job| &*job.request.inputs).collect();
        let rows: Option<Vec<usize>> = requests.iter().map(|request| rows_of(request)).collect();
        let (rows, joined) = (rows?, join(&requests)?);
        split(&self.run_for(batch, &joined).ok()?.ok()?, &rows)
    }

    fn run_alone(&mut self, job: &Job) -> Result<Vec<Tensor>, InferError> {
        let _entered = job.span.enter();
        let begun = Instant::now();
        let ran = self.run_for(slice::from_ref(job), &job.request.inputs);
        let (outcome, outputs) = match &ran {
            Ok(Ok(tensors)) => (Outcome::Answered, Some(tensors)),
            Ok(Err(_)) if job.reply.is_closed() => (Outcome::Stopped, None),
            Ok(Err(_)) | Err(_) => (Outcome::Failed, None),
        };
        self.figures.ran(slice::from_ref(job), begun, outcome, outputs.map_or(&[], slice::from_ref));
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
    if job.request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
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
