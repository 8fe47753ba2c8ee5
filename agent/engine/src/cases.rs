//! Verification cases: inputs with the outputs that a model must give for them. The publisher's data, so errors
//! may show it.

use std::time::{Duration, Instant};

use serde::Deserialize;
use terrace_oip::{Tensor, TensorData, WireTensor};

use crate::{RunError, Session};

/// The cases of one model.
#[derive(Debug)]
pub struct Cases(Vec<Case>);

#[derive(Debug)]
struct Case {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acceptance {
    /// How far a float may be from the expected one, absolute or relative, whichever allows more.
    pub tolerance: f64,
    /// What the median run may take.
    pub max_latency: Option<Duration>,
}

/// Why a file of cases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// It is not what it should be.
    #[error(
        "the cases file cannot be read: {0}; expected {{\"cases\": [{{\"inputs\": […], \"outputs\": […]}}]}} with tensors as in an inference request"
    )]
    Json(#[from] serde_json::Error),
    /// It is empty, so passing it would mean nothing.
    #[error("the cases file holds no case, or one without outputs: passing it would mean nothing")]
    Empty,
}

/// Why a model does not pass.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CaseFailure {
    /// It does not run on a case.
    #[error("case {case}: {error}")]
    Run {
        /// Which.
        case: usize,
        /// What it says.
        error: RunError,
    },
    /// An output has another form.
    #[error("case {case}: output {output:?} is {actual}, expected {expected}")]
    Form {
        /// Which.
        case: usize,
        /// The output.
        output: String,
        /// Its datatype and shape.
        actual: String,
        /// What they should be.
        expected: String,
    },
    /// An output has another value.
    #[error(
        "case {case}: output {output:?} differs from the expected one at element {element} by more than the tolerance"
    )]
    Value {
        /// Which.
        case: usize,
        /// The output.
        output: String,
        /// The first element that differs.
        element: usize,
    },
    /// It is too slow.
    #[error("the median run took {median:?}, and verification.maxLatency is {limit:?}")]
    Slow {
        /// What it took.
        median: Duration,
        /// What it may take.
        limit: Duration,
    },
}

impl Cases {
    /// Reads a file of cases.
    pub fn parse(json: &[u8]) -> Result<Self, CasesError> {
        #[derive(Deserialize)]
        struct File {
            cases: Vec<Wire>,
        }
        #[derive(Deserialize)]
        struct Wire {
            inputs: Vec<WireTensor>,
            outputs: Vec<WireTensor>,
        }
        let file: File = serde_json::from_slice(json)?;
        let tensors = |tensors: Vec<WireTensor>| tensors.into_iter().map(|tensor| tensor.0).collect();
        let cases: Vec<Case> = file
            .cases
            .into_iter()
            .map(|case| Case { inputs: tensors(case.inputs), outputs: tensors(case.outputs) })
            .collect();
        let means_something = !cases.is_empty() && cases.iter().all(|case| !case.outputs.is_empty());
        if means_something { Ok(Self(cases)) } else { Err(CasesError::Empty) }
    }

    /// The inputs of each case.
    pub fn inputs(&self) -> Vec<&[Tensor]> {
        self.0.iter().map(|case| &*case.inputs).collect()
    }
}

/// Runs a model on its cases: once to warm up, then each once with the clock running.
pub fn verify(session: &mut dyn Session, cases: &Cases, acceptance: &Acceptance) -> Result<(), CaseFailure> {
    let run = |session: &mut dyn Session, number: usize, case: &Case| {
        session.run(&case.inputs, None).map_err(|error| CaseFailure::Run { case: number, error })
    };
    if let Some(first) = cases.0.first() {
        run(session, 0, first)?;
    }
    let mut times = Vec::with_capacity(cases.0.len());
    for (number, case) in cases.0.iter().enumerate() {
        let begun = Instant::now();
        let outputs = run(session, number, case)?;
        times.push(begun.elapsed());
        compare(number, case, &outputs, acceptance.tolerance)?;
    }
    times.sort_unstable();
    match (times.get(times.len() / 2), acceptance.max_latency) {
        (Some(&median), Some(limit)) if median > limit => Err(CaseFailure::Slow { median, limit }),
        _ => Ok(()),
    }
}

fn compare(number: usize, case: &Case, actual: &[Tensor], tolerance: f64) -> Result<(), CaseFailure> {
    for expected in &case.outputs {
        let output = expected.name().to_owned();
        let form = |tensor: &Tensor| format!("{} {:?}", tensor.datatype(), tensor.shape());
        let found = actual.iter().find(|tensor| tensor.name() == expected.name());
        let Some(found) = found
            .filter(|tensor| tensor.datatype() == expected.datatype() && tensor.shape() == expected.shape())
        else {
            let actual = found.map_or_else(|| "absent".to_owned(), form);
            return Err(CaseFailure::Form { case: number, output, actual, expected: form(expected) });
        };
        if let Some(element) = first_difference(found.data(), expected.data(), tolerance) {
            return Err(CaseFailure::Value { case: number, output, element });
        }
    }
    Ok(())
}

/// The first element that differs. Floats may by the tolerance; a NaN only passes for a NaN.
fn first_difference(actual: &TensorData, expected: &TensorData, tolerance: f64) -> Option<usize> {
    fn floats<T: Copy + Into<f64>>(actual: &[T], expected: &[T], tolerance: f64) -> Option<usize> {
        actual.iter().zip(expected).position(|(actual, expected)| {
            let (actual, expected): (f64, f64) = ((*actual).into(), (*expected).into());
            // Infinities have no distance; like NaN, they only pass for themselves.
            let same = actual.total_cmp(&expected).is_eq() || (actual.is_nan() && expected.is_nan());
            let close = (actual - expected).abs() <= tolerance.max(tolerance * expected.abs());
            !(same || close && actual.is_finite() && expected.is_finite())
        })
    }
    fn exact<T: PartialEq>(actual: &[T], expected: &[T]) -> Option<usize> {
        actual.iter().zip(expected).position(|(actual, expected)| actual != expected)
    }
    match (actual, expected) {
        (TensorData::Fp16(a), TensorData::Fp16(b)) => floats(a, b, tolerance),
        (TensorData::Bf16(a), TensorData::Bf16(b)) => floats(a, b, tolerance),
        (TensorData::Fp32(a), TensorData::Fp32(b)) => floats(a, b, tolerance),
        (TensorData::Fp64(a), TensorData::Fp64(b)) => floats(a, b, tolerance),
        (TensorData::Bool(a), TensorData::Bool(b)) => exact(a, b),
        (TensorData::Uint8(a), TensorData::Uint8(b)) => exact(a, b),
        (TensorData::Uint16(a), TensorData::Uint16(b)) => exact(a, b),
        (TensorData::Uint32(a), TensorData::Uint32(b)) => exact(a, b),
        (TensorData::Uint64(a), TensorData::Uint64(b)) => exact(a, b),
        (TensorData::Int8(a), TensorData::Int8(b)) => exact(a, b),
        (TensorData::Int16(a), TensorData::Int16(b)) => exact(a, b),
        (TensorData::Int32(a), TensorData::Int32(b)) => exact(a, b),
        (TensorData::Int64(a), TensorData::Int64(b)) => exact(a, b),
        (TensorData::Bytes(a), TensorData::Bytes(b)) => exact(a, b),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(values: &[f32]) -> Case {
        let output = Tensor::new("y", vec![values.len()], TensorData::Fp32(values.to_vec().into())).unwrap();
        Case { inputs: Vec::new(), outputs: vec![output] }
    }

    fn verdict(actual: &[f32], expected: &[f32]) -> Option<String> {
        compare(3, &case(expected), &case(actual).outputs, 1e-4).err().map(|error| error.to_string())
    }

    #[test]
    fn floats_pass_within_the_tolerance_and_nothing_else_does() {
        assert_eq!(verdict(&[1.0, 0.000_09], &[1.000_09, 0.0]), None);
        assert_eq!(verdict(&[1000.05], &[1000.0]), None);
        assert!(
            verdict(&[1.0, 0.001], &[1.0, 0.0])
                .unwrap()
                .contains("\"y\" differs from the expected one at element 1")
        );
        assert!(verdict(&[f32::NAN], &[0.0]).unwrap().contains("element 0"));
        assert!(verdict(&[f32::INFINITY], &[0.0]).unwrap().contains("element 0"));
        assert!(verdict(&[1.0], &[1.0, 2.0]).unwrap().contains("is FP32 [1], expected FP32 [2]"));
    }

    #[test]
    fn a_file_without_cases_is_refused() {
        assert!(matches!(Cases::parse(br#"{"cases": []}"#), Err(CasesError::Empty)));
        assert!(matches!(
            Cases::parse(br#"{"cases": [{"inputs": [], "outputs": []}]}"#),
            Err(CasesError::Empty)
        ));
        assert!(matches!(Cases::parse(b"junk"), Err(CasesError::Json(_))));
    }
}
