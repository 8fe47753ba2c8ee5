//! What a verifier answered, beside what this node's own model gives: `tiering::fits` compares them.

use std::sync::{Arc, PoisonError};

use terrace_crds::Tier;
use terrace_oip::{Datatype, Tensor};
use terrace_tiering::{self as tiering, Declared, Given};

use super::attempt::Failure;
use super::{Job, Output};
use crate::refusal::Refusal;
use crate::upstream::{DOES_NOT_FIT, Route, Trouble};

/// What an answer is compared with, beside what the model declares.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The outputs that the client names, if it does.
    pub wanted: Option<&'a [String]>,
    /// This node's own answer, where there is one.
    pub own: Option<&'a Output>,
}

/// The outputs that the client names; to be taken before anything is asked for beyond them.
pub fn wanted(job: &Job<'_>) -> Option<Vec<String>> {
    let work = job.work.lock().unwrap_or_else(PoisonError::into_inner);
    work.as_ref().and_then(|work| work.outputs.clone())
}

/// The answer of another tier, if it can stand in the place of this node's. Whoever looks after the node is told where it
/// cannot.
pub fn fitting(
    job: &Job<'_>,
    Beside { wanted, own }: Beside<'_>,
    tier: Tier,
    (output, by): (Output, Option<Arc<Route>>),
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
    let misfit = tiering::fits(&declared, wanted, &own, &given).err();
    if let Some(by) = by {
        let now = job.node.upstream.now();
        let name = job.entry.name_on(tier, &job.node.default_namespace);
        by.verified(now, misfit.as_ref().map(|misfit| Trouble::misfit(misfit, &name, now)));
    }
    let Some(misfit) = misfit else { return Ok(output) };
    Err(Failure {
        outcome: DOES_NOT_FIT,
        refusal: Refusal::Incompatible(format!("the verifier's answer does not fit: {misfit}")),
        last: false,
    })
}

fn tensor(tensor: &Tensor) -> Given<'_> {
    Given { name: tensor.name(), datatype: Some(tensor.datatype().as_str()), shape: tensor.shape() }
}
