//! A model on its cases, beside the same model on the CPU: how far its answers are from the CPU's, and how long they take.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use terrace_oip::{Tensor, TensorData};

use crate::{RunError, Session};

/// How often all cases are run with the clock running.
const ROUNDS: usize = 5;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What the median run takes.
    pub median: Duration,
    /// What it takes on the CPU provider.
    pub cpu_median: Duration,
    /// How far two floats are apart at most; none where outputs cannot be compared, or are otherwise not the same.
    pub max_difference: Option<f64>,
}

/// Runs both on every input, which both have run before.
pub(crate) fn compare(
    session: &mut dyn Session,
    cpu: &mut dyn Session,
    inputs: &[&[Tensor]],
) -> Result<Comparison, RunError> {
    let (mut times, mut cpu_times) = (Vec::new(), Vec::new());
    let mut max_difference = Some(0.0);
    for round in 0..ROUNDS {
        for input in inputs {
            let outputs = timed(session, input, &mut times)?;
            let expected = timed(cpu, input, &mut cpu_times)?;
            if round == 0 {
                max_difference = larger(max_difference, distance(&outputs, &expected));
            }
        }
    }
    Ok(Comparison { median: median(times), cpu_median: median(cpu_times), max_difference })
}

fn timed(
    session: &mut dyn Session,
    input: &[Tensor],
    times: &mut Vec<Duration>,
) -> Result<Vec<Tensor>, RunError> {
    let begun = Instant::now();
    let outputs = session.run(input, None)?;
    times.push(begun.elapsed());
    Ok(outputs)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The larger of two distances; none where one is.
fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one?.max(other?))
}

fn distance(outputs: &[Tensor], expected: &[Tensor]) -> Option<f64> {
    if outputs.len() != expected.len() {
        return None;
    }
    outputs.iter().zip(expected).try_fold(0.0, |most: f64, (output, expected)| {
        let is_alike = output.name() == expected.name() && output.shape() == expected.shape();
        let apart = is_alike.then(|| apart(output.data(), expected.data())).flatten()?;
        Some(most.max(apart))
    })
}

fn apart(one: &TensorData, other: &TensorData) -> Option<f64> {
    fn floats<T: Copy + Into<f64>>(one: &[T], other: &[T]) -> Option<f64> {
        one.iter().zip(other).try_fold(0.0, |most: f64, (one, other)| {
            let (one, other): (f64, f64) = ((*one).into(), (*other).into());
            // Infinities have no distance; they and what is no number are only like themselves.
            let is_same = one.total_cmp(&other).is_eq() || one.is_nan() && other.is_nan();
            let apart = if is_same { 0.0 } else { (one - other).abs() };
            apart.is_finite().then(|| most.max(apart))
        })
    }
    match (one, other) {
        (TensorData::Fp16(one), TensorData::Fp16(other)) => floats(one, other),
        (TensorData::Bf16(one), TensorData::Bf16(other)) => floats(one, other),
        (TensorData::Fp32(one), TensorData::Fp32(other)) => floats(one, other),
        (TensorData::Fp64(one), TensorData::Fp64(other)) => floats(one, other),
        (one, other) => (one == other).then_some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(name: &str, values: &[f32]) -> Vec<Tensor> {
        vec![Tensor::new(name, vec![values.len()], TensorData::Fp32(values.to_vec().into())).unwrap()]
    }

    #[test]
    fn the_largest_distance_counts_and_what_has_none_is_told_apart() {
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        for (one, other, expected) in [
            (floats("y", &[1.0, 2.0]), floats("y", &[1.0, 2.0]), Some(0.0)),
            (floats("y", &[1.0, 2.0, 4.0]), floats("y", &[1.5, 2.25, 4.0]), Some(0.5)),
            (floats("y", &[nan, infinity]), floats("y", &[nan, infinity]), Some(0.0)),
            (floats("y", &[1.0]), floats("y", &[nan]), None),
            (floats("y", &[infinity]), floats("y", &[-infinity]), None),
            (floats("y", &[1.0]), floats("y", &[1.0, 2.0]), None),
            (floats("y", &[1.0]), floats("z", &[1.0]), None),
            (floats("y", &[1.0]), Vec::new(), None),
        ] {
            assert_eq!(distance(&one, &other), expected, "{one:?} {other:?}");
        }
        let whole = |values: &[i64]| {
            vec![Tensor::new("y", vec![values.len()], TensorData::Int64(values.to_vec().into())).unwrap()]
        };
        assert_eq!(distance(&whole(&[7]), &whole(&[7])), Some(0.0));
        assert_eq!(distance(&whole(&[7]), &whole(&[8])), None);
        assert_eq!(distance(&whole(&[7]), &floats("y", &[7.0])), None);
    }

    #[test]
    fn the_median_is_a_run_that_was_measured() {
        let seconds = |seconds: &[u64]| median(seconds.iter().map(|s| Duration::from_secs(*s)).collect());
        assert_eq!(seconds(&[9, 1, 2]), Duration::from_secs(2));
        assert_eq!(seconds(&[]), Duration::ZERO);
    }
}
