//! How many rows a model is worth running at once: found by trying, when it is loaded.

use std::time::{Duration, Instant};

use terrace_oip::{Tensor, TensorData};

use crate::batch::{join, rows, split, takes_rows};
use crate::{RunError, Session};

/// The most rows that are tried.
const MOST: usize = 64;
/// A larger batch is worth it while an item takes at least this much less time.
const WORTH: f64 = 0.9;
/// Runs of a size; the fastest counts, since whatever disturbs one makes it slower.
const RUNS: usize = 3;
/// The longest that a batch may take: whoever waits for the one before waits as long.
const LONGEST_RUN: Duration = Duration::from_millis(50);
/// How long trying may take in all: a node that starts again should serve.
const PATIENCE: Duration = Duration::from_millis(250);
/// How much more memory this process may take by trying: a runtime keeps what its largest run needed.
const MEMORY: u64 = 64 << 20;
/// How far a float of a row may be off in company, absolute or relative.
const TOLERANCE: f64 = 1e-3;

/// What tells the time.
pub type Now<'a> = &'a dyn Fn() -> Instant;

/// Why a model is run one request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Its first axis is fixed somewhere.
    FixedAxis,
    /// There is nothing to try it with.
    NoSample,
    /// It does not run on more than one row, or gives other rows.
    Fails,
    /// A row gets another answer in company.
    RowsDepend,
    /// Two at once take as long as one after the other, or more memory or time than a batch may.
    NoGain,
}

impl Alone {
    /// For a person.
    pub const fn why(self) -> &'static str {
        match self {
            Self::FixedAxis => "its first axis is fixed",
            Self::NoSample => "there is no input to try it with",
            Self::Fails => "it fails on several rows at once",
            Self::RowsDepend => "a row gets another answer beside others",
            Self::NoGain => "several rows at once gain nothing",
        }
    }
}

/// The most rows that it is worth running at once, at least two; or why only one request at a time. `samples` are
/// requests that it can answer.
pub fn most_rows(session: &mut dyn Session, samples: &[&[Tensor]], now: Now<'_>) -> Result<usize, Alone> {
    if !takes_rows(session.signature()) {
        return Err(Alone::FixedAxis);
    }
    let one = samples.iter().find(|sample| rows(sample) == Some(1)).or_else(|| samples.first());
    let one = *one.ok_or(Alone::NoSample)?;
    let of_one = rows(one).ok_or(Alone::NoSample)?;
    check_independence(session, one, samples)?;

    let begun = now();
    let memory = resident();
    let mut best = fastest(session, one, now).map_err(|_| Alone::Fails)?;
    let mut count = 1;
    while 2 * count * of_one <= MOST {
        let larger = join(&vec![one; 2 * count]).ok_or(Alone::Fails)?;
        let took = fastest(session, &larger, now).map_err(|_| Alone::Fails)?;
        let per_item = |took: Duration, count: usize| took.as_secs_f64() / count as f64;
        let is_worth_it = per_item(took, 2 * count) < WORTH * per_item(best, count);
        let is_too_much =
            took > LONGEST_RUN || resident().zip(memory).is_some_and(|(now, before)| now > before + MEMORY);
        if !is_worth_it || is_too_much {
            break;
        }
        best = took;
        count *= 2;
        if now() - begun > PATIENCE {
            break;
        }
    }
    if count > 1 { Ok(count * of_one) } else { Err(Alone::NoGain) }
}

/// A row in company gets what it gets alone.
pub fn check_independence(
    session: &mut dyn Session,
    one: &[Tensor],
    samples: &[&[Tensor]],
) -> Result<(), Alone> {
    // Another sample, so that a mistake shows; the same again where there is none.
    let other = samples.iter().copied().find(|sample| join(&[one, sample]).is_some() && *sample != one);
    let other = other.unwrap_or(one);
    let counts = [one, other].map(|sample| rows(sample).unwrap_or(1));
    let joined = join(&[one, other]).ok_or(Alone::Fails)?;
    let together = session.run(&joined, None).map_err(|_| Alone::Fails)?;
    let together = split(&together, &counts).ok_or(Alone::Fails)?;
    for (sample, beside) in [one, other].into_iter().zip(&together) {
        let alone = session.run(sample, None).map_err(|_| Alone::Fails)?;
        if alone.len() != beside.len()
            || !alone.iter().zip(beside).all(|(alone, beside)| is_same(alone, beside))
        {
            return Err(Alone::RowsDepend);
        }
    }
    Ok(())
}

fn fastest(session: &mut dyn Session, inputs: &[Tensor], now: Now<'_>) -> Result<Duration, RunError> {
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        let begun = now();
        session.run(inputs, None)?;
        fastest = fastest.min(now() - begun);
    }
    Ok(fastest)
}

fn is_same(one: &Tensor, other: &Tensor) -> bool {
    let close = |one: f64, other: f64| {
        let is_same_kind =
            one.is_nan() && other.is_nan() || one.is_infinite() && one.to_bits() == other.to_bits();
        is_same_kind || (one - other).abs() <= TOLERANCE * one.abs().max(1.0)
    };
    one.shape() == other.shape()
        && match (one.data(), other.data()) {
            (TensorData::Fp16(one), TensorData::Fp16(other)) => {
                one.iter().zip(other).all(|(one, other)| close(one.to_f64(), other.to_f64()))
            }
            (TensorData::Bf16(one), TensorData::Bf16(other)) => {
                one.iter().zip(other).all(|(one, other)| close(one.to_f64(), other.to_f64()))
            }
            (TensorData::Fp32(one), TensorData::Fp32(other)) => {
                one.iter().zip(other).all(|(one, other)| close(f64::from(*one), f64::from(*other)))
            }
            (TensorData::Fp64(one), TensorData::Fp64(other)) => {
                one.iter().zip(other).all(|(one, other)| close(*one, *other))
            }
            (one, other) => one == other,
        }
}

/// What this process has in memory, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use terrace_oip::Datatype;

    use super::*;
    use crate::clock::Clock;
    use crate::{Signature, TensorSpec};

    type Compute = fn(&[f32]) -> Vec<f32>;

    /// A model of one number a row, that takes so long for a run and for each row of it.
    struct Toy {
        signature: Signature,
        compute: Compute,
        clock: Clock,
        run: Duration,
        row: Duration,
    }

    fn toy(axis: i64, compute: Compute, run_us: u64, row_us: u64) -> Toy {
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![axis] };
        Toy {
            signature: Signature {
                inputs: vec![spec("x")],
                optional: Vec::new(),
                outputs: vec![spec("y")],
                provider: "none".to_owned(),
            },
            compute,
            clock: Clock::new(),
            run: Duration::from_micros(run_us),
            row: Duration::from_micros(row_us),
        }
    }

    impl Session for Toy {
        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&mut self, inputs: &[Tensor], _: Option<&[String]>) -> Result<Vec<Tensor>, RunError> {
            let TensorData::Fp32(x) = inputs[0].data() else { panic!("no floats") };
            self.clock.pass(self.run + self.row * u32::try_from(x.len()).unwrap());
            let y = (self.compute)(x);
            if y.is_empty() {
                return Err(RunError::Failed("no".to_owned()));
            }
            Ok(vec![Tensor::new("y", vec![y.len()], TensorData::Fp32(y.into())).unwrap()])
        }
    }

    fn sample(x: f32) -> Vec<Tensor> {
        vec![Tensor::new("x", vec![1], TensorData::Fp32(vec![x].into())).unwrap()]
    }

    fn found(mut toy: Toy, samples: &[&[Tensor]]) -> Result<usize, Alone> {
        let clock = toy.clock.clone();
        most_rows(&mut toy, samples, &|| clock.now())
    }

    fn double(x: &[f32]) -> Vec<f32> {
        x.iter().map(|x| 2.0 * x).collect()
    }

    #[test]
    fn what_gains_is_batched_as_far_as_it_gains() {
        let (one, two) = (sample(1.0), sample(2.0));
        for (run_us, row_us, expected) in [(2_000, 0, 64), (3_000, 1_000, 16)] {
            let found = found(toy(-1, double, run_us, row_us), &[&one, &two]);
            assert_eq!(found, Ok(expected), "{run_us} and {row_us} µs");
        }
    }

    #[test]
    fn a_size_that_paid_is_kept_when_the_time_to_try_is_up() {
        let (one, two) = (sample(1.0), sample(2.0));
        // Three runs of each size: the time is up while 4 are tried, or 2.
        for (run_us, expected) in [(30_000, 4), (45_000, 2)] {
            assert_eq!(found(toy(-1, double, run_us, 0), &[&one, &two]), Ok(expected), "{run_us} µs");
        }
    }

    #[test]
    fn what_gains_nothing_or_cannot_is_left_alone_with_the_reason() {
        fn sums(x: &[f32]) -> Vec<f32> {
            vec![x.iter().sum(); x.len()]
        }
        fn one_row(x: &[f32]) -> Vec<f32> {
            if x.len() == 1 { x.to_vec() } else { Vec::new() }
        }
        fn merged(x: &[f32]) -> Vec<f32> {
            vec![x[0]]
        }
        let (one, two) = (sample(1.0), sample(2.0));
        let samples: &[&[Tensor]] = &[&one, &two];
        for (model, samples, expected) in [
            (toy(1, double, 0, 0), samples, Alone::FixedAxis),
            (toy(-1, double, 0, 0), &[], Alone::NoSample),
            (toy(-1, one_row, 0, 0), samples, Alone::Fails),
            (toy(-1, merged, 0, 0), samples, Alone::Fails),
            (toy(-1, sums, 0, 0), samples, Alone::RowsDepend),
            (toy(-1, sums, 0, 0), &samples[..1], Alone::RowsDepend),
            (toy(-1, double, 0, 5_000), samples, Alone::NoGain),
            // A gain, and yet too long for whoever waits.
            (toy(-1, double, 60_000, 0), samples, Alone::NoGain),
        ] {
            assert_eq!(found(model, samples), Err(expected));
        }
    }
}
