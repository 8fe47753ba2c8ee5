//! What a verifier answered, beside what this node's own model gives: `tiering::fits` compares them.

use std::sync::PoisonError;

use terrace_oip::{Datatype, Tensor};
use terrace_tiering::{self as tiering, Declared, Given};
use tracing::debug;

use super::attempt::Failure;
use super::{Job, Output};
use crate::refusal::Refusal;

/// The outputs that the client names; to be taken before anything is asked for beyond them.
pub fn wanted(job: &Job<'_>) -> Option<Vec<String>> {
    let work = job.work.lock().unwrap_or_else(PoisonError::into_inner);
    work.as_ref().and_then(|work| work.outputs.clone())
}

/// The answer of another tier, if it can stand in the place of this node's, which is `own` where there is one.
pub fn fitting(
    job: &Job<'_>,
    wanted: Option<&[String]>,
    own: Option<&Output>,
    output: Output,
) -> Result<Output, Failure> {
    let (Output::Relayed(answer), Some(served)) = (&output, job.entry.served()) else { return Ok(output) };
    let signature = served.model.signature();
    let declared: Vec<Declared<'_>> = signature
        .outputs
        .iter()
        .map(|spec| Declared { name: &spec.name, datatype: spec.datatype.as_str(), shape: &spec.shape })
        .collect();
    let own: Vec<Given<'_>> = match own {
        Some(Output::Local { tensors, .. }) => tensors.iter().map(tensor).collect(),
        _ => Vec::new(),
    };
    let outlines = answer.outlines().iter();
    let given: Vec<Given<'_>> = outlines
        .map(|outline| Given {
            name: &outline.name,
            datatype: outline.datatype.map(Datatype::as_str),
            shape: &outline.shape,
        })
        .collect();
    let Err(misfit) = tiering::fits(&declared, wanted, &own, &given) else { return Ok(output) };
    debug!(%misfit, "the verifier's answer is not used");
    Err(Failure {
        outcome: "DoesNotFit",
        refusal: Refusal::Incompatible(format!("the verifier's answer does not fit: {misfit}")),
        last: false,
    })
}

fn tensor(tensor: &Tensor) -> Given<'_> {
    Given { name: tensor.name(), datatype: Some(tensor.datatype().as_str()), shape: tensor.shape() }
}
