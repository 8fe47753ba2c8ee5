//! The outputs of an answer as `tiering` reads them, and how sure they are.

use std::sync::PoisonError;

use half::slice::HalfFloatSliceExt as _;
use terrace_oip::{Tensor, TensorData};
use terrace_tiering::{Elements, Measure};

use super::{Job, Output};
use crate::heavy::heavy;

/// The scores, where the client did not ask for them: an output that only the decision needs.
#[derive(Debug)]
pub struct Extra(Option<String>);

impl Extra {
    /// Has this node's own model give the scores, too, where the request names other outputs alone.
    pub fn ask_for_scores(job: &Job<'_>) -> Self {
        let Some(measure) = &job.entry.measure else { return Self(None) };
        let mut work = job.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outputs) = work.as_mut().and_then(|work| work.outputs.as_mut()) else { return Self(None) };
        if outputs.iter().any(|output| output == measure.output()) {
            return Self(None);
        }
        outputs.push(measure.output().to_owned());
        Self(Some(measure.output().to_owned()))
    }

    /// What the client asked for.
    pub fn take_from(&self, mut output: Output) -> Output {
        if let (Some(extra), Output::Local { tensors, .. }) = (&self.0, &mut output) {
            tensors.retain(|tensor| tensor.name() != extra);
        }
        output
    }

    /// What the client asked for, of several tensors.
    pub fn take_out_of(&self, tensors: &mut Vec<Tensor>) {
        if let Some(extra) = &self.0 {
            tensors.retain(|tensor| tensor.name() != extra);
        }
    }
}

/// How sure this node's model is of its answer; none where that cannot be measured.
pub fn confidence(job: &Job<'_>, output: &Output) -> Option<f64> {
    let (Output::Local { tensors, .. }, Some(measure)) = (output, &job.entry.measure) else { return None };
    of(measure, tensors)
}

/// Notes how sure this node's model is, where that is recorded and the scores are there.
pub fn note(job: &Job<'_>, tensors: &[Tensor]) {
    let (Some(sure), Some(measure)) = (job.sure, &job.entry.measure) else { return };
    if let Some(confidence) = of(measure, tensors) {
        // A request is run here once.
        sure.get_or_init(|| confidence);
    }
}

fn of(measure: &Measure, tensors: &[Tensor]) -> Option<f64> {
    let scores = tensors.iter().find(|tensor| tensor.name() == measure.output())?;
    let rows = heavy(scores.data().raw_size(), || measure.rows(elements(scores.data()), scores.shape()));
    rows.ok().map(|rows| rows.least())
}

/// The elements of a tensor.
pub fn elements(data: &TensorData) -> Elements<'_> {
    match data {
        TensorData::Bool(values) => Elements::Bool(values),
        TensorData::Uint8(values) => Elements::U8(values),
        TensorData::Uint16(values) => Elements::U16(values),
        TensorData::Uint32(values) => Elements::U32(values),
        TensorData::Uint64(values) => Elements::U64(values),
        TensorData::Int8(values) => Elements::I8(values),
        TensorData::Int16(values) => Elements::I16(values),
        TensorData::Int32(values) => Elements::I32(values),
        TensorData::Int64(values) => Elements::I64(values),
        TensorData::Fp16(values) => Elements::F16(values.reinterpret_cast()),
        TensorData::Bf16(values) => Elements::Bf16(values.reinterpret_cast()),
        TensorData::Fp32(values) => Elements::F32(values),
        TensorData::Fp64(values) => Elements::F64(values),
        TensorData::Bytes(values) => Elements::Bytes(values),
    }
}
