//! Runs that nobody waits for any more, in the real ONNX Runtime: its thread must be free for those who do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod support;

use std::time::{Duration, Instant};

use support::models::turning;
use support::runtime;
use terrace_engine::{Batching, InferError, Model, ModelOptions, Request};
use terrace_oip::{Tensor, TensorData};

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(20);

/// With one thread: a run that does not end leaves nobody to answer.
fn model() -> Model {
    let options = ModelOptions {
        name: "turning".to_owned(),
        crash_label: [b'0'; 64],
        threads: 1,
        providers: Vec::new(),
        instances: 1,
        queue: 8,
        batching: Batching::Learned,
        scratch: None,
        memory: None,
    };
    Model::load(&runtime(), &turning(), &options, &[], |_| Ok(())).unwrap()
}

fn rounds(count: i64) -> Vec<Tensor> {
    let tensor =
        |name, shape, value| Tensor::new(name, shape, TensorData::Int64(vec![value].into())).unwrap();
    vec![tensor("x", vec![1], 1), tensor("rounds", vec![], count)]
}

/// What one round gives, asked without a deadline.
async fn one_round(model: &Model) -> Vec<Tensor> {
    let answer = tokio::time::timeout(SOON, model.infer(Request::new(rounds(1)))).await;
    answer.expect("the thread is free").unwrap()
}

#[tokio::test]
async fn a_run_past_its_deadline_is_stopped_and_the_next_one_is_answered() {
    let model = model();
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_millis(50);
        let late = model.infer(Request { deadline: Some(deadline), ..Request::new(rounds(i64::MAX)) }).await;
        assert_eq!(late, Err(InferError::DeadlineExceeded));
        let TensorData::Int64(sums) = one_round(&model).await[0].data().clone() else {
            panic!("not numbers")
        };
        assert_eq!(sums[..], [2]);
    }
    let done = model.statistics();
    assert_eq!((done.answered, done.failed, done.stopped), (3, 0, 3));
}

#[tokio::test]
async fn a_run_whose_caller_has_gone_is_stopped() {
    let model = model();
    let limit = Instant::now() + SOON;
    // A request that had not begun yet is dropped without a run.
    while model.statistics().stopped == 0 {
        let gone = async {
            while model.load_figures().running == 0 {
                assert!(Instant::now() < limit, "nothing runs");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = model.infer(Request::new(rounds(i64::MAX))) => panic!("{answer:?}"),
            () = gone => {}
        }
        one_round(&model).await;
        assert!(Instant::now() < limit, "nothing is stopped");
    }
}
