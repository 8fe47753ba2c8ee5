//! A fake model answers each number with its successor. What it does on the way, each test says.

mod batching;

use std::pin::{Pin, pin};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use terrace_oip::{Datatype, TensorData};

use super::*;
use crate::{RunError, RuntimeInfo, SessionOptions, TensorSpec};

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(20);

type Run = dyn Fn(i64) -> Result<(), RunError> + Send + core::marker::Sync;

/// Sessions that do `run` with the number that they are given.
struct Fake {
    run: Arc<Run>,
    /// Told when a session is dropped, which is the last thing that its thread does.
    ended: mpsc::Sender<()>,
    runtime: RuntimeInfo,
}

struct FakeSession {
    signature: Signature,
    run: Arc<Run>,
    ended: mpsc::Sender<()>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Engine for Fake {
    fn runtime(&self) -> &RuntimeInfo {
        &self.runtime
    }

    fn load(&self, model: &[u8], _: SessionOptions<'_>) -> Result<Box<dyn Session>, LoadError> {
        if model.is_empty() {
            return Err(LoadError::Refused("there is nothing".to_owned()));
        }
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Int64, shape: vec![] };
        let signature = Signature {
            inputs: vec![spec("x")],
            outputs: vec![spec("y")],
            provider: "Fake".to_owned(),
            optional: vec![],
        };
        Ok(Box::new(FakeSession { signature, run: Arc::clone(&self.run), ended: self.ended.clone() }))
    }
}

impl Session for FakeSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[Tensor], _: Option<&[String]>) -> Result<Vec<Tensor>, RunError> {
        let x = number_of(inputs);
        (self.run)(x)?;
        Ok(number("y", x + 1))
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        let _nobody_asks = self.ended.send(());
    }
}

fn number(name: &str, value: i64) -> Vec<Tensor> {
    vec![Tensor::new(name, vec![], TensorData::Int64(vec![value].into())).unwrap()]
}

fn number_of(tensors: &[Tensor]) -> i64 {
    match tensors.first().map(Tensor::data) {
        Some(TensorData::Int64(numbers)) => numbers[0],
        other => panic!("{other:?}"),
    }
}

fn options(instances: usize, queue: usize) -> ModelOptions {
    ModelOptions {
        name: "counter".to_owned(),
        crash_label: [b'0'; 64],
        threads: 1,
        providers: Vec::new(),
        instances,
        queue,
        batching: Batching::Learned,
        scratch: None,
        memory: None,
    }
}

/// A model, and what tells that a session of it is gone.
fn model(
    instances: usize,
    queue: usize,
    run: impl Fn(i64) -> Result<(), RunError> + Send + core::marker::Sync + 'static,
) -> (Model, mpsc::Receiver<()>) {
    let (ended, ends) = mpsc::channel();
    let runtime = RuntimeInfo { name: "fake", version: "1".to_owned() };
    let engine = Fake { run: Arc::new(run), ended, runtime };
    (Model::load(&engine, b"model", &options(instances, queue), &[], |_| Ok(())).unwrap(), ends)
}

/// A model whose runs tell that they began, and go on when they are let.
struct Gated {
    model: Model,
    began: mpsc::Receiver<i64>,
    gate: crossbeam_channel::Sender<()>,
    ends: mpsc::Receiver<()>,
}

impl Gated {
    fn new(instances: usize, queue: usize) -> Self {
        let (begin, began) = mpsc::channel();
        let begin = std::sync::Mutex::new(begin);
        let (gate, opened) = crossbeam_channel::unbounded();
        let (model, ends) = model(instances, queue, move |x| {
            let _nobody_asks = begin.lock().unwrap().send(x);
            // A gate that is gone is open.
            let _let_through = opened.recv();
            Ok(())
        });
        Self { model, began, gate, ends }
    }

    fn next_run(&self) -> i64 {
        self.began.recv_timeout(SOON).expect("a run begins")
    }

    /// Opens the gate for good and ends the model. What ran since.
    fn finish(self) -> Vec<i64> {
        drop(self.gate);
        drop(self.model);
        self.ends.recv_timeout(SOON).expect("the thread ends");
        self.began.try_iter().collect()
    }
}

/// Lets a future go as far as it can without anything else happening.
fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Queues a request whose caller this test is.
fn queue(
    model: &Model,
    x: i64,
    deadline: Option<Instant>,
) -> oneshot::Receiver<Result<Vec<Tensor>, InferError>> {
    let (reply, answer) = oneshot::channel();
    let job = Job {
        number: 0,
        request: Request { deadline, ..Request::new(number("x", x)) },
        queued: Instant::now(),
        span: Span::none(),
        reply,
    };
    model.queue.push(job).unwrap_or_else(|refused| panic!("{refused:?}"));
    answer
}

/// What a caller of [`queue`] hears in the end.
async fn heard(
    answer: oneshot::Receiver<Result<Vec<Tensor>, InferError>>,
) -> Result<Vec<Tensor>, InferError> {
    tokio::time::timeout(SOON, answer).await.expect("an answer").expect("an answer, not silence")
}

/// Waits until so many sessions of a model have nothing to do.
fn wait_idle(model: &Model, sessions: usize) {
    let until = Instant::now() + SOON;
    while model.queue.sleepers() < sessions {
        assert!(Instant::now() < until, "no session waits for work");
        thread::yield_now();
    }
}

#[tokio::test]
async fn where_each_request_runs_alone_it_wakes_a_session_at_once() {
    let gated = Gated::new(1, 4);
    assert_eq!(gated.model.most_rows(), 1);
    wait_idle(&gated.model, 1);
    let mut asked = pin!(gated.model.infer(Request::new(number("x", 1))));
    assert!(poll(&mut asked).is_pending());
    assert_eq!(gated.next_run(), 1, "without another poll");
    gated.gate.send(()).unwrap();
    assert_eq!(number_of(&asked.await.unwrap()), 2);
}

#[tokio::test]
async fn every_caller_gets_the_answer_to_its_own_question() {
    let (model, _) = model(3, 200, |_| Ok(()));
    let model = Arc::new(model);
    let asked: Vec<_> = (0..200)
        .map(|x| {
            let model = Arc::clone(&model);
            tokio::spawn(async move { (x, model.infer(Request::new(number("x", x))).await) })
        })
        .collect();
    for answer in asked {
        let (x, answer) = answer.await.unwrap();
        assert_eq!(number_of(&answer.unwrap()), x + 1);
    }
}

#[tokio::test]
async fn a_request_that_does_not_fit_is_never_queued() {
    let gated = Gated::new(1, 4);
    let unknown_output = Some(vec!["z".to_owned()]);
    for (inputs, outputs) in [(number("z", 1), None), (number("x", 1), unknown_output)] {
        let mut refused = pin!(gated.model.infer(Request { outputs, ..Request::new(inputs) }));
        let Poll::Ready(Err(InferError::InvalidInput(_))) = poll(&mut refused) else {
            panic!("it is refused at once")
        };
    }
    assert_eq!(gated.finish(), [0; 0]);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_serves_those_who_wait() {
    let gated = Gated::new(1, 2);
    let mut running = pin!(gated.model.infer(Request::new(number("x", 1))));
    assert!(poll(&mut running).is_pending());
    assert_eq!(gated.next_run(), 1);
    let mut waiting = pin!(gated.model.infer(Request::new(number("x", 2))));
    let mut waiting_too = pin!(gated.model.infer(Request::new(number("x", 3))));
    assert!(poll(&mut waiting).is_pending() && poll(&mut waiting_too).is_pending());

    let mut refused = pin!(gated.model.infer(Request::new(number("x", 4))));
    assert_eq!(poll(&mut refused), Poll::Ready(Err(InferError::QueueFull)));

    (0..3).for_each(|_| gated.gate.send(()).unwrap());
    for (answer, expected) in [(running.await, 2), (waiting.await, 3), (waiting_too.await, 4)] {
        assert_eq!(number_of(&answer.unwrap()), expected);
    }
    gated.gate.send(()).unwrap();
    assert_eq!(number_of(&gated.model.infer(Request::new(number("x", 5))).await.unwrap()), 6);
}

#[tokio::test]
async fn a_caller_hears_of_its_deadline_while_it_waits_and_is_not_run_afterwards() {
    let gated = Gated::new(1, 4);
    let first = queue(&gated.model, 1, None);
    assert_eq!(gated.next_run(), 1);

    let deadline = Instant::now() + Duration::from_millis(30);
    let late = gated.model.infer(Request { deadline: Some(deadline), ..Request::new(number("x", 2)) }).await;
    assert_eq!(late, Err(InferError::DeadlineExceeded));
    assert!(Instant::now() >= deadline, "it was told before its deadline");

    assert_eq!(gated.finish(), [0; 0], "it ran after its deadline");
    assert_eq!(number_of(&heard(first).await.unwrap()), 2);
}

#[tokio::test]
async fn a_caller_hears_of_its_deadline_while_its_request_runs() {
    let gated = Gated::new(1, 4);
    let deadline = Instant::now() + Duration::from_millis(100);
    let mut late =
        pin!(gated.model.infer(Request { deadline: Some(deadline), ..Request::new(number("x", 1)) }));
    assert!(poll(&mut late).is_pending());
    assert_eq!(gated.next_run(), 1);
    assert_eq!(late.await, Err(InferError::DeadlineExceeded));
    assert_eq!(gated.model.load_figures().running, 1, "the run goes on");
}

#[tokio::test]
async fn what_is_taken_from_the_queue_after_its_deadline_is_told_and_not_run() {
    let gated = Gated::new(1, 4);
    let first = queue(&gated.model, 1, None);
    assert_eq!(gated.next_run(), 1);
    let late = queue(&gated.model, 2, Some(Instant::now()));
    let in_time = queue(&gated.model, 3, Some(Instant::now() + SOON));
    assert_eq!(gated.finish(), [3]);
    assert_eq!(heard(late).await, Err(InferError::DeadlineExceeded));
    assert_eq!(number_of(&heard(first).await.unwrap()), 2);
    assert_eq!(number_of(&heard(in_time).await.unwrap()), 4);
}

#[tokio::test]
async fn a_request_whose_caller_is_gone_is_not_run() {
    let gated = Gated::new(1, 4);
    let first = queue(&gated.model, 1, None);
    assert_eq!(gated.next_run(), 1);
    {
        let mut gone = pin!(gated.model.infer(Request::new(number("x", 2))));
        assert!(poll(&mut gone).is_pending());
    }
    let stays = queue(&gated.model, 3, None);
    assert_eq!(gated.model.load_figures().queued, 2);
    assert_eq!(gated.finish(), [3]);
    assert_eq!(number_of(&heard(first).await.unwrap()), 2);
    assert_eq!(number_of(&heard(stays).await.unwrap()), 4);
}

#[tokio::test]
async fn a_run_that_panics_or_fails_is_told_without_its_words_and_the_next_one_works() {
    let (model, _) = model(1, 4, |x| match x {
        1 => panic!("a defect in a session, on purpose"),
        2 => Err(RunError::Failed("the secret is 7.25".to_owned())),
        _ => Ok(()),
    });
    for x in [1, 2, 1] {
        let failed = model.infer(Request::new(number("x", x))).await.unwrap_err();
        assert_eq!(failed, InferError::Failed);
        assert!(!format!("{failed} {failed:?}").contains("7.25"));
        assert_eq!(number_of(&model.infer(Request::new(number("x", 3))).await.unwrap()), 4);
    }
    assert_eq!(model.load_figures().running, 0);
}

#[tokio::test]
async fn dropping_a_model_finishes_what_waits_and_ends_every_thread() {
    let gated = Gated::new(2, 8);
    let answers: Vec<_> = (1..=6).map(|x| queue(&gated.model, x, None)).collect();
    gated.next_run();
    gated.next_run();
    let Gated { model, gate, ends, .. } = gated;
    drop(model);
    assert!(ends.try_recv().is_err(), "a thread ended although requests wait");
    drop(gate);
    for (x, answer) in (1..).zip(answers) {
        assert_eq!(number_of(&heard(answer).await.unwrap()), x + 1);
    }
    for _ in 0..2 {
        ends.recv_timeout(SOON).expect("a thread ends");
    }
}

#[tokio::test]
async fn a_model_whose_threads_are_gone_says_so() {
    let (queue, readers) = super::queue(1, 1);
    drop(readers);
    let signature = Signature { inputs: vec![], optional: vec![], outputs: vec![], provider: String::new() };
    let (figures, requests) = (Arc::default(), AtomicU64::new(0));
    let placement = Placement::whole("test");
    let model = Model { queue, signature, placement, figures, most_rows: 1, underway: Vec::new(), requests };
    assert_eq!(model.infer(Request::new(vec![])).await, Err(InferError::Stopped));
}

#[tokio::test]
async fn instances_run_side_by_side_and_the_figures_count_them() {
    let gated = Gated::new(3, 8);
    let idle = LoadFigures { queued: 0, running: 0, longest_run: None };
    assert_eq!(gated.model.load_figures(), idle);
    let answers: Vec<_> = (1..=5).map(|x| queue(&gated.model, x, None)).collect();
    // None of them can end before all three have begun.
    let mut running = [gated.next_run(), gated.next_run(), gated.next_run()];
    running.sort_unstable();
    assert_eq!(running, [1, 2, 3]);
    assert_eq!(gated.model.load_figures(), LoadFigures { queued: 2, running: 3, longest_run: None });

    (0..5).for_each(|_| gated.gate.send(()).unwrap());
    for (x, answer) in (1..).zip(answers) {
        assert_eq!(number_of(&heard(answer).await.unwrap()), x + 1);
    }
    let after = gated.model.load_figures();
    assert_eq!((after.queued, after.running), (0, 0));
    assert!(after.longest_run.is_some_and(|longest| longest > Duration::ZERO));
}

#[test]
fn what_a_sample_takes_is_known_before_the_first_request() {
    const TAKES: Duration = Duration::from_millis(5);
    let (ended, _ends) = mpsc::channel();
    let runtime = RuntimeInfo { name: "fake", version: "1".to_owned() };
    let run = |_| {
        let begun = Instant::now();
        while begun.elapsed() < TAKES {
            thread::yield_now();
        }
        Ok(())
    };
    let engine = Fake { run: Arc::new(run), ended, runtime };
    let sample = number("x", 1);
    let loaded = Model::load(&engine, b"model", &options(1, 1), &[&sample], |_| Ok(())).unwrap();
    assert!(loaded.load_figures().longest_run.is_some_and(|longest| longest >= TAKES));
    assert_eq!(loaded.statistics(), Statistics::default(), "nobody asked");
    let failing = Fake { run: Arc::new(|_| Err(RunError::Failed(String::new()))), ..engine };
    let loaded = Model::load(&failing, b"model", &options(1, 1), &[&sample], |_| Ok(())).unwrap();
    assert_eq!(loaded.load_figures().longest_run, None);
}

#[tokio::test]
async fn a_models_threads_are_called_by_its_name() {
    let (name, names) = mpsc::channel();
    let name = std::sync::Mutex::new(name);
    let (model, _) = model(1, 1, move |_| {
        let here = thread::current().name().map(str::to_owned);
        name.lock().unwrap().send(here).map_err(|error| RunError::Failed(error.to_string()))
    });
    model.infer(Request::new(number("x", 1))).await.unwrap();
    assert_eq!(names.recv_timeout(SOON).unwrap().as_deref(), Some("counter"));
    // A NUL in a thread's name panics.
    assert_eq!(thread_name("a\0b"), "ab");
}

#[test]
fn every_instance_has_to_pass_and_none_is_left_where_one_does_not() {
    let (ended, ends) = mpsc::channel();
    let runtime = RuntimeInfo { name: "fake", version: "1".to_owned() };
    let engine = Fake { run: Arc::new(|_| Ok(())), ended, runtime };
    let checked = AtomicUsize::new(0);
    let failure = CaseFailure::Value { case: 0, output: "y".to_owned(), element: 0 };
    let refused = Model::load(&engine, b"model", &options(3, 1), &[], |session| {
        assert_eq!(number_of(&session.run(&number("x", 1), None).unwrap()), 2);
        match checked.fetch_add(1, Ordering::Relaxed) {
            1 => Err(failure.clone()),
            _ => Ok(()),
        }
    })
    .unwrap_err();
    assert!(matches!(&refused, StartError::Cases(said) if *said == failure), "{refused}");
    assert_eq!((refused.reason(), refused.may_pass()), ("CasesFailed", false));
    assert_eq!((checked.into_inner(), ends.try_iter().count()), (2, 2));

    let refused = Model::load(&engine, b"", &options(1, 1), &[], |_| Ok(())).unwrap_err();
    assert_eq!((refused.reason(), refused.may_pass()), ("LoadFailed", false));
    assert_eq!(refused.to_string(), "the runtime refuses the model: there is nothing");
    let no_thread = StartError::Thread(std::io::Error::other("no threads left"));
    assert!(no_thread.may_pass());
}

#[test]
fn no_instances_and_no_queue_are_one_of_each() {
    let (model, ends) = model(0, 0, |_| Ok(()));
    let answer = queue(&model, 1, None);
    assert_eq!(number_of(&answer.blocking_recv().unwrap().unwrap()), 2);
    drop(model);
    ends.recv_timeout(SOON).expect("the one thread ends");
}
