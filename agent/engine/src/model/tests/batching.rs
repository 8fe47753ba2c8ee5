//! A fake model of rows: each number gets its double. Runs are recorded, and begin when they are let.

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;

/// Numbers that a run fails on.
const POISON: i64 = 13;

struct Rows {
    signature: Signature,
    runs: mpsc::Sender<Vec<i64>>,
    gate: Receiver<()>,
}

impl Session for Rows {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[Tensor], _: Option<&[String]>) -> Result<Vec<Tensor>, RunError> {
        let TensorData::Int64(numbers) = inputs[0].data() else { panic!("no integers") };
        let _nobody_asks = self.runs.send(numbers.to_vec());
        // A gate that is gone is open.
        let _let_through = self.gate.recv();
        if numbers.contains(&POISON) {
            return Err(RunError::Failed("poison".to_owned()));
        }
        let doubled = numbers.iter().map(|number| 2 * number).collect();
        Ok(vec![Tensor::new("y", inputs[0].shape().to_vec(), TensorData::Int64(doubled)).unwrap()])
    }
}

struct Scene {
    model: Arc<Model>,
    runs: mpsc::Receiver<Vec<i64>>,
    gate: Sender<()>,
}

fn scene(most_rows: usize) -> Scene {
    scene_of(1, most_rows)
}

fn scene_of(sessions: usize, most_rows: usize) -> Scene {
    let spec =
        |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Int64, shape: vec![-1, -1] };
    let signature = Signature {
        inputs: vec![spec("x")],
        optional: vec![spec("z")],
        outputs: vec![spec("y")],
        provider: "Fake".to_owned(),
    };
    let (runs, ran) = mpsc::channel();
    let (gate, opened) = unbounded();
    let session = || Rows { signature: signature.clone(), runs: runs.clone(), gate: opened.clone() };
    let all: Vec<Box<dyn Session>> = (0..sessions).map(|_| Box::new(session()) as Box<dyn Session>).collect();
    let model = Model::start(all, &options(sessions, 64), most_rows).unwrap();
    Scene { model: Arc::new(model), runs: ran, gate }
}

/// Rows of one number each.
fn column(numbers: &[i64]) -> Vec<Tensor> {
    vec![Tensor::new("x", vec![numbers.len(), 1], TensorData::Int64(numbers.to_vec().into())).unwrap()]
}

type Asked = tokio::task::JoinHandle<Result<Vec<Tensor>, InferError>>;

/// Lets requests go as far as to where they wait, behind the moment in which one lets others be queued first.
async fn waits() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

impl Scene {
    /// Asks, and waits until the request is queued or taken.
    async fn ask(
        &self,
        inputs: Vec<Tensor>,
        outputs: Option<Vec<String>>,
        deadline: Option<Instant>,
    ) -> Asked {
        let model = Arc::clone(&self.model);
        let asked =
            tokio::spawn(
                async move { model.infer(Request { outputs, deadline, ..Request::new(inputs) }).await },
            );
        waits().await;
        asked
    }

    /// Asks for 0 and waits until it runs: what is asked from now on waits.
    async fn occupied(&self) -> Asked {
        let first = self.ask(column(&[0]), None, None).await;
        assert_eq!(self.ran(), [0]);
        first
    }

    /// The numbers of the next run.
    fn ran(&self) -> Vec<i64> {
        self.runs.recv_timeout(SOON).unwrap()
    }

    fn open(self) -> mpsc::Receiver<Vec<i64>> {
        drop(self.gate);
        self.runs
    }
}

async fn numbers(asked: Asked) -> Vec<i64> {
    let tensors = asked.await.unwrap().unwrap();
    match tensors[0].data() {
        TensorData::Int64(numbers) => numbers.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_waits_runs_together_and_each_gets_its_own_rows() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let mut asked = Vec::new();
    for rows in [&[1][..], &[2, 3], &[4], &[5, 6, 7]] {
        asked.push((rows, scene.ask(column(rows), None, None).await));
    }
    let runs = scene.open();
    assert_eq!(numbers(first).await, [0]);
    for (rows, asked) in asked {
        let doubled: Vec<i64> = rows.iter().map(|number| 2 * number).collect();
        assert_eq!(numbers(asked).await, doubled);
    }
    assert_eq!(runs.recv_timeout(SOON).unwrap(), [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn no_more_rows_run_at_once_than_are_worth_it_and_a_larger_request_runs_alone() {
    let scene = scene(3);
    let first = scene.occupied().await;
    let mut asked = vec![first];
    for rows in [&[1][..], &[2], &[3], &[4], &[5, 6, 7, 8, 9], &[10]] {
        asked.push(scene.ask(column(rows), None, None).await);
    }
    let runs = scene.open();
    for asked in asked {
        numbers(asked).await;
    }
    let runs: Vec<Vec<i64>> = runs.try_iter().collect();
    assert_eq!(runs, [&[1, 2, 3][..], &[4], &[5, 6, 7, 8, 9], &[10]]);
}

#[tokio::test]
async fn only_requests_that_are_alike_run_together() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let wide = vec![Tensor::new("x", vec![1, 2], TensorData::Int64(vec![3, 4].into())).unwrap()];
    let asked = [
        first,
        scene.ask(column(&[1]), None, None).await,
        scene.ask(column(&[2]), None, None).await,
        scene.ask(wide, None, None).await,
        scene.ask(column(&[5]), Some(vec!["y".to_owned()]), None).await,
        scene.ask(column(&[6]), None, None).await,
    ];
    let runs = scene.open();
    for asked in asked {
        numbers(asked).await;
    }
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [&[1, 2][..], &[3, 4], &[5], &[6]]);
}

#[tokio::test]
async fn what_may_be_left_out_is_for_one_request_alone() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let with_option = |number| {
        [column(&[number]), vec![Tensor::new("z", vec![1, 1], TensorData::Int64(vec![9].into())).unwrap()]]
            .concat()
    };
    let asked = [
        first,
        scene.ask(with_option(1), None, None).await,
        scene.ask(with_option(2), None, None).await,
        scene.ask(column(&[3]), None, None).await,
        scene.ask(column(&[4]), None, None).await,
    ];
    let runs = scene.open();
    for asked in asked {
        numbers(asked).await;
    }
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [&[1][..], &[2], &[3, 4]]);
}

#[tokio::test]
async fn one_that_fails_takes_nobody_along() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let good = scene.ask(column(&[1]), None, None).await;
    let bad = scene.ask(column(&[POISON]), None, None).await;
    let also_good = scene.ask(column(&[2]), None, None).await;
    drop(scene.open());
    numbers(first).await;
    assert_eq!(numbers(good).await, [2]);
    assert_eq!(bad.await.unwrap().unwrap_err(), InferError::Failed);
    assert_eq!(numbers(also_good).await, [4]);
}

#[tokio::test]
async fn who_is_gone_or_too_late_is_not_run_along() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let stays = scene.ask(column(&[1]), None, None).await;
    let gone = scene.ask(column(&[2]), None, None).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let late = scene.ask(column(&[3]), None, Some(Instant::now())).await;
    assert_eq!(late.await.unwrap().unwrap_err(), InferError::DeadlineExceeded);
    let runs = scene.open();
    numbers(first).await;
    assert_eq!(numbers(stays).await, [2]);
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [[1]]);
}

#[tokio::test]
async fn a_model_that_is_not_batched_runs_each_request_alone() {
    let scene = scene(1);
    let first = scene.occupied().await;
    let asked = [first, scene.ask(column(&[1]), None, None).await, scene.ask(column(&[2]), None, None).await];
    let runs = scene.open();
    for asked in asked {
        numbers(asked).await;
    }
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [[1], [2]]);
}

#[tokio::test]
async fn requests_that_come_together_run_together_where_some_did_before() {
    let scene = scene(8);
    let first = scene.occupied().await;
    let together = [scene.ask(column(&[1]), None, None).await, scene.ask(column(&[2]), None, None).await];
    (0..2).for_each(|_| scene.gate.send(()).unwrap());
    assert_eq!(scene.ran(), [1, 2]);
    for asked in [first].into_iter().chain(together) {
        numbers(asked).await;
    }
    wait_idle(&scene.model, 1);

    let asked: Vec<Asked> = (3..=6)
        .map(|number| {
            let model = Arc::clone(&scene.model);
            tokio::spawn(async move { model.infer(Request::new(column(&[number]))).await })
        })
        .collect();
    let runs = scene.open();
    for asked in asked {
        numbers(asked).await;
    }
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [[3, 4, 5, 6]]);
}

#[tokio::test]
async fn where_a_whole_run_waits_nobody_waits_for_more() {
    let scene = scene_of(2, 2);
    wait_idle(&scene.model, 2);
    scene.model.figures.were_in_flight(2);
    let mut one = pin!(scene.model.infer(Request::new(column(&[1]))));
    let mut other = pin!(scene.model.infer(Request::new(column(&[2]))));
    assert!(poll(&mut one).is_pending() && poll(&mut other).is_pending());
    assert_eq!(scene.ran(), [1, 2], "without another poll");
    scene.gate.send(()).unwrap();
    assert!(one.await.is_ok() && other.await.is_ok());
}

#[tokio::test]
async fn a_private_request_counts_as_one_row_and_no_bytes_alone_and_in_company() {
    let ask = |scene: &Scene, numbers: &[i64], is_private| {
        let (model, inputs) = (Arc::clone(&scene.model), column(numbers));
        tokio::spawn(async move { model.infer(Request { is_private, ..Request::new(inputs) }).await })
    };
    for is_private in [false, true] {
        let scene = scene(8);
        let first = ask(&scene, &[1, 2, 3], is_private);
        waits().await;
        assert_eq!(scene.ran(), [1, 2, 3]);
        let others = [ask(&scene, &[4, 5], is_private), ask(&scene, &[6, 7], false)];
        waits().await;
        let model = Arc::clone(&scene.model);
        let runs = scene.open();
        for asked in [first].into_iter().chain(others) {
            numbers(asked).await;
        }
        assert_eq!(runs.try_iter().collect::<Vec<_>>(), [[4, 5, 6, 7]]);
        let done = model.statistics();
        let of_runs: Vec<usize> = done.runs.keys().copied().collect();
        let (rows, bytes, expected) = if is_private { (4, 16, [1, 3]) } else { (7, 56, [3, 4]) };
        assert_eq!((done.rows, done.input_bytes, done.output_bytes), (rows, bytes, bytes));
        assert_eq!((of_runs.as_slice(), done.answered), (&expected[..], 3));
    }
}
