//! How sure a model is of its answers: what its revision says of that, held against what the loaded model gives.

use terrace_engine::{Signature, TensorSpec};
use terrace_oip::Datatype;
use terrace_tiering::Measure;
use tracing::warn;

use super::activate::ActivateError;
use super::revision::Revision;

/// How many outputs of a model are told.
const MAX_TOLD: usize = 8;

/// How the confidence of a revision is measured. Of a model that serves here, by the outputs that it declares.
pub fn measure(revision: &Revision, serving: Option<&Signature>) -> Option<Measure> {
    let spec = revision.model.confidence.as_ref()?;
    let measure = Measure::parse(spec)
        .inspect_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            warn!(model = %revision.key(), faults = faults.join("; "), "the confidence cannot be read; nothing counts as sure");
        })
        .ok()?;
    let output = serving.and_then(|signature| named(signature, measure.output()));
    Some(match output {
        Some(output) => measure.declared(&output.shape),
        None => measure,
    })
}

/// Whether the model gives what its confidence is read from.
pub fn check(revision: &Revision, signature: &Signature) -> Result<(), ActivateError> {
    let Some(spec) = &revision.model.confidence else { return Ok(()) };
    let invalid = |message: String| ActivateError {
        reason: "ConfidenceInvalid".into(),
        message: format!("spec.confidence.output names {:?}, {message}", spec.output),
        retry: false,
    };
    match named(signature, &spec.output) {
        None => Err(invalid(format!("which the model does not give: it gives {}", told(signature)))),
        Some(output) if !is_float(output.datatype) => Err(invalid(format!(
            "which is {}: scores are floating-point numbers; the model gives {}",
            output.datatype,
            told(signature)
        ))),
        Some(_) => Ok(()),
    }
}

fn named<'a>(signature: &'a Signature, name: &str) -> Option<&'a TensorSpec> {
    signature.outputs.iter().find(|output| output.name == name)
}

const fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// `"probabilities" (FP32), "label" (INT64)`
fn told(signature: &Signature) -> String {
    let outputs = &signature.outputs;
    let mut told: Vec<String> = outputs
        .iter()
        .take(MAX_TOLD)
        .map(|output| format!("{:?} ({})", output.name, output.datatype))
        .collect();
    if outputs.len() > MAX_TOLD {
        told.push(format!("and {} more", outputs.len() - MAX_TOLD));
    }
    told.join(", ")
}
