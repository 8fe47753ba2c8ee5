//! The sessions of a model: each over weights of its own, laid out as its kernels like them, or all over the same.
//! Whatever is faster at the most rows that run at once, where there is memory for it.

use std::path::Path;
use std::time::{Duration, Instant};

use terrace_oip::Tensor;
use tracing::{info, warn};

use crate::batch::{join, rows, takes_rows};
use crate::cases::CaseFailure;
use crate::learn::{self, Alone, Now, check_independence};
use crate::model::{Batching, ModelOptions, StartError};
use crate::probe::zeros;
use crate::weights::SharedWeights;
use crate::{Engine, Session, SessionOptions, Signature};

/// The largest inputs of zeros that are made to try a model with that nobody gave any, in bytes.
const MOST_ZEROS: u64 = 16 << 20;

/// Weights of its own are worth their memory to a session that takes at most this much of the time.
const WORTH: f64 = 0.9;
/// The same where they hardly take any.
const WORTH_LITTLE: f64 = 0.98;
/// So many bytes are little, if they are no more than this part of what there is.
const LITTLE: u64 = 64 << 20;
const LITTLE_PART: u64 = 16;
/// Runs of each that are compared; the fastest counts, since whatever disturbs one makes it slower.
const RUNS: usize = 5;
/// How long comparing may take: a node that starts again should serve.
const PATIENCE: Duration = Duration::from_secs(1);
/// Weights lie in memory twice while a session lays them out.
const WHILE_LOADING: u64 = 2;

/// Sessions, and the most rows that they run at once.
pub struct Sessions {
    /// At least one.
    pub all: Vec<Box<dyn Session>>,
    /// The most rows that run at once; 1 where each request runs alone.
    pub most_rows: usize,
    /// What a run of a sample took; none where there are no samples.
    pub run: Option<Duration>,
}

/// Opens a model's sessions. Each must pass `check`. `samples` are requests that it can answer.
pub fn open(
    engine: &dyn Engine,
    model: &[u8],
    options: &ModelOptions,
    samples: &[&[Tensor]],
    check: impl Fn(&mut dyn Session) -> Result<(), CaseFailure>,
) -> Result<Sessions, StartError> {
    open_by((engine, &Instant::now), model, options, samples, check)
}

/// The same by another clock.
fn open_by(
    (engine, now): (&dyn Engine, Now<'_>),
    model: &[u8],
    options: &ModelOptions,
    samples: &[&[Tensor]],
    check: impl Fn(&mut dyn Session) -> Result<(), CaseFailure>,
) -> Result<Sessions, StartError> {
    let load = |weights: Option<&SharedWeights>| -> Result<Box<dyn Session>, StartError> {
        let model = weights.map_or(model, SharedWeights::model);
        let weights = weights.map(SharedWeights::folder);
        let mut session = engine.load(
            model,
            SessionOptions { threads: options.threads, providers: &options.providers, weights },
        )?;
        check(&mut *session)?;
        Ok(session)
    };
    let instances = options.instances.max(1);
    // Other providers lay out weights as their devices need them.
    let scratch = options.scratch.as_deref().filter(|_| options.providers.is_empty());
    let shared = scratch.and_then(|scratch| lay_out(model, scratch, &options.name));
    // What the runtime refuses only because its weights lie apart is loaded as it came, and refused there if at all.
    let of_shared = shared.as_ref().and_then(|shared| load(Some(shared)).ok());
    let (mut first, most_rows, weights) = match (of_shared, &shared) {
        (Some(mut session), Some(shared)) if !is_room(shared.size(), instances, options.memory) => {
            info!(model = options.name, "no room for weights of each session's own: they share them");
            let most_rows = learn(&mut *session, options, samples, now);
            (session, most_rows, Some(shared))
        }
        (Some(mut of_shared), Some(shared)) => {
            let mut own = load(None)?;
            let most_rows = learn(&mut *own, options, samples, now);
            let took = compare([&mut *own, &mut *of_shared], most_rows, samples, now);
            let worth = worth(shared.size().saturating_mul(instances as u64), options.memory);
            let is_own = took.is_some_and(|[own, shared]| own.as_secs_f64() < worth * shared.as_secs_f64());
            info!(
                model = options.name,
                ?took,
                is_own,
                "weights of each session's own, or shared: by what a run takes"
            );
            if is_own { (own, most_rows, None) } else { (of_shared, most_rows, Some(shared)) }
        }
        _ => {
            let mut session = load(None)?;
            let most_rows = learn(&mut *session, options, samples, now);
            (session, most_rows, None)
        }
    };
    let run = samples.first().and_then(|sample| one_run(&mut *first, sample, now));
    let mut all = vec![first];
    while all.len() < instances {
        all.push(load(weights)?);
    }
    Ok(Sessions { all, most_rows, run })
}

/// What a run takes, which others came before.
fn one_run(session: &mut dyn Session, sample: &[Tensor], now: Now<'_>) -> Option<Duration> {
    let begun = now();
    session.run(sample, None).ok().map(|_| now() - begun)
}

/// A model's weights in a file that sessions can share, if it has such and there is room for the file.
fn lay_out(model: &[u8], scratch: &Path, name: &str) -> Option<SharedWeights> {
    SharedWeights::lay_out(model, scratch).unwrap_or_else(|error| {
        warn!(model = name, scratch = %scratch.display(), %error,
            "weights cannot be laid out to be shared: each session has its own");
        None
    })
}

/// Whether each session can have weights of its own.
fn is_room(size: u64, instances: usize, available: Option<u64>) -> bool {
    let needed = size.saturating_mul(instances as u64 - 1 + WHILE_LOADING);
    available.is_none_or(|available| needed <= available)
}

/// What the same run takes one session and the other; none where they cannot be tried.
fn compare(
    mut sessions: [&mut dyn Session; 2],
    most_rows: usize,
    samples: &[&[Tensor]],
    now: Now<'_>,
) -> Option<[Duration; 2]> {
    let inputs = full_batch(sessions[0].signature(), most_rows, samples)?;
    let begun = now();
    let mut fastest = [Duration::MAX; 2];
    for run in 0..RUNS {
        for (session, fastest) in sessions.iter_mut().zip(&mut fastest) {
            let begun = now();
            session.run(&inputs, None).ok()?;
            *fastest = (now() - begun).min(*fastest);
        }
        if run > 0 && now() - begun > PATIENCE {
            break;
        }
    }
    Some(fastest)
}

/// How much of the time a session with weights of its own may take, where all of them are so large.
fn worth(bytes: u64, available: Option<u64>) -> f64 {
    let is_little = bytes <= LITTLE && available.is_none_or(|available| bytes <= available / LITTLE_PART);
    if is_little { WORTH_LITTLE } else { WORTH }
}

/// A request of as many rows as run at once.
fn full_batch(signature: &Signature, most_rows: usize, samples: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    let samples = plain(signature, samples);
    let spare = spare(signature, &samples);
    let one = samples.first().copied().or(spare.as_deref())?;
    let count = rows(one).map_or(1, |rows| (most_rows / rows).max(1));
    if count == 1 { Some(one.to_vec()) } else { join(&vec![one; count]) }
}

/// How many rows run at once.
fn learn(session: &mut dyn Session, options: &ModelOptions, samples: &[&[Tensor]], now: Now<'_>) -> usize {
    let samples = plain(session.signature(), samples);
    let spare = spare(session.signature(), &samples);
    let spare: Vec<&[Tensor]> = spare.iter().map(|inputs| &**inputs).collect();
    most_rows(session, options, if samples.is_empty() { &spare } else { &samples }, now)
}

/// The samples that leave out what may be left out: it has no rows, and who states it is run alone.
fn plain<'a>(signature: &Signature, samples: &[&'a [Tensor]]) -> Vec<&'a [Tensor]> {
    samples.iter().copied().filter(|sample| !signature.states_optional(sample)).collect()
}

/// Zeros to try a model with that nobody gave inputs; the probe has tried the same.
fn spare(signature: &Signature, samples: &[&[Tensor]]) -> Option<Vec<Tensor>> {
    samples
        .is_empty()
        .then(|| zeros(&signature.inputs, MOST_ZEROS).ok())
        .flatten()
        .filter(|zeros| !zeros.is_empty())
}

/// How many rows run at once, by what is asked for and what the model can do.
fn most_rows(
    session: &mut dyn Session,
    options: &ModelOptions,
    samples: &[&[Tensor]],
    now: Now<'_>,
) -> usize {
    let found = match options.batching {
        Batching::AtMost(0 | 1) => return 1,
        Batching::AtMost(most) => {
            let one = samples.first().copied();
            let can = one.ok_or(Alone::NoSample).and_then(|one| {
                if takes_rows(session.signature()) {
                    check_independence(session, one, samples)
                } else {
                    Err(Alone::FixedAxis)
                }
            });
            can.map(|()| most)
        }
        Batching::Learned => learn::most_rows(session, samples, now),
    };
    match found {
        Ok(most) => {
            info!(model = options.name, most_rows = most, "requests that wait are run together");
            most
        }
        Err(alone) => {
            info!(model = options.name, why = alone.why(), "requests are run one at a time");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use terrace_oip::{Datatype, TensorData};

    use super::*;
    use crate::clock::Clock;
    use crate::{LoadError, RunError, RuntimeInfo, TensorSpec};

    const MEBIBYTE: usize = 1 << 20;

    /// Its sessions take so long over weights of their own, and so long over shared ones.
    #[derive(Debug)]
    struct Timed {
        clock: Clock,
        runtime: RuntimeInfo,
        own: Duration,
        shared: Duration,
        /// Of each session that was opened: whether its weights are its own.
        opened: Mutex<Vec<bool>>,
    }

    struct TimedSession {
        clock: Clock,
        run: Duration,
        signature: Signature,
    }

    impl Engine for Timed {
        fn runtime(&self) -> &RuntimeInfo {
            &self.runtime
        }

        fn load(&self, _: &[u8], options: SessionOptions<'_>) -> Result<Box<dyn Session>, LoadError> {
            let is_own = options.weights.is_none();
            self.opened.lock().unwrap().push(is_own);
            let spec =
                |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![1] };
            let signature = Signature {
                inputs: vec![spec("x")],
                optional: Vec::new(),
                outputs: vec![spec("y")],
                provider: "none".to_owned(),
            };
            let run = if is_own { self.own } else { self.shared };
            Ok(Box::new(TimedSession { clock: self.clock.clone(), run, signature }))
        }
    }

    impl Session for TimedSession {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&mut self, inputs: &[Tensor], _: Option<&[String]>) -> Result<Vec<Tensor>, RunError> {
            self.clock.pass(self.run);
            Ok(inputs.to_vec())
        }
    }

    /// A model in ONNX's form with a mebibyte of weights, and nothing else.
    fn weighty() -> Vec<u8> {
        let field = |number: u8, bytes: &[u8]| {
            let mut field = vec![number << 3 | 2];
            let mut length = bytes.len();
            while length > 0x7f {
                field.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            field.push(u8::try_from(length).unwrap());
            [&field, bytes].concat()
        };
        let tensor = [field(8, b"w"), field(9, &vec![1; MEBIBYTE])].concat();
        field(7, &field(5, &tensor))
    }

    /// Whether weights are each session's own, where runs take so long over those and over shared ones.
    fn is_own(own_us: u64, shared_us: u64, memory: Option<usize>) -> bool {
        let scratch = tempfile::tempdir().unwrap();
        let engine = Timed {
            clock: Clock::new(),
            runtime: RuntimeInfo { name: "none", version: "1".to_owned() },
            own: Duration::from_micros(own_us),
            shared: Duration::from_micros(shared_us),
            opened: Mutex::default(),
        };
        let options = ModelOptions {
            name: "weighty".to_owned(),
            crash_label: [b'0'; 64],
            threads: 1,
            providers: Vec::new(),
            instances: 2,
            queue: 1,
            batching: Batching::AtMost(1),
            scratch: Some(scratch.path().to_owned()),
            memory: memory.map(|bytes| bytes as u64),
        };
        let sample = [Tensor::new("x", vec![1], TensorData::Fp32(vec![1.0].into())).unwrap()];
        let now = || engine.clock.now();
        let sessions = open_by((&engine, &now), &weighty(), &options, &[&sample], |_| Ok(())).unwrap();
        let (last, run) = (engine.opened.lock().unwrap().pop(), sessions.run.unwrap());
        assert_eq!(run, if last == Some(true) { engine.own } else { engine.shared });
        last.unwrap()
    }

    #[test]
    fn weights_are_each_sessions_own_where_that_gains_enough_for_what_they_take() {
        let (plenty, scarce) = (Some(64 * MEBIBYTE), Some(16 * MEBIBYTE));
        for (own_us, memory, expected) in [
            (970, None, true),
            (970, plenty, true),
            (990, plenty, false),
            (1_100, plenty, false),
            // Two mebibytes are more than a sixteenth of it: a fiftieth of the time does not pay for them.
            (970, scarce, false),
            (890, scarce, true),
            // No room for them, whatever they gain.
            (100, Some(2 * MEBIBYTE), false),
        ] {
            assert_eq!(is_own(own_us, 1_000, memory), expected, "{own_us} of 1000 µs in {memory:?}");
        }
    }

    #[test]
    fn there_is_room_where_every_copy_fits_beside_the_one_being_laid_out() {
        let cases = [
            (100, 1, Some(200), true),
            (100, 1, Some(199), false),
            (100, 4, Some(500), true),
            (100, 4, Some(499), false),
            (u64::MAX, 64, Some(u64::MAX - 1), false),
            (u64::MAX, 64, None, true),
        ];
        for (size, instances, available, room) in cases {
            assert_eq!(is_room(size, instances, available), room, "{size} × {instances} in {available:?}");
        }
    }

    #[test]
    fn a_copy_is_worth_a_tenth_of_the_time_and_a_small_one_next_to_nothing() {
        let gibibyte = 1 << 30;
        for (bytes, available, expected) in [
            (5 << 20, None, WORTH_LITTLE),
            (LITTLE, Some(gibibyte), WORTH_LITTLE),
            (LITTLE, Some(gibibyte - 1), WORTH),
            (LITTLE + 1, Some(64 * gibibyte), WORTH),
            (u64::MAX, None, WORTH),
        ] {
            assert!((worth(bytes, available) - expected).abs() < 1e-9, "{bytes} of {available:?}");
        }
    }
}
