//! A node's spec must fit into one object of the API server.

use terrace_crds::InferenceNodeSpec;
use terrace_crds::model::Runtime;
use terrace_crds::node::{NodeModel, NotPlaced};

/// Why a node does not serve a model that belongs on it.
pub const NODE_SPEC_TOO_LARGE: &str = "NodeSpecTooLarge";

/// Makes `spec` no larger than `max_bytes` as JSON, from its last model on: a model that does not fit is not served,
/// with the reason in its entry, so that its callers are still forwarded; it is left out where not even that fits.
pub fn fit(spec: &mut InferenceNodeSpec, max_bytes: usize) {
    while let excess @ 1.. = size(spec).saturating_sub(max_bytes) {
        if !shorten(spec, excess, max_bytes) && !leave_out(spec, excess) {
            return;
        }
        let InferenceNodeSpec { models, policies, .. } = spec;
        policies.retain(|hash, _| models.iter().any(|model| model.policy.as_ref() == Some(hash)));
    }
}

/// Takes from the last models that are served what makes them so, until that saves `excess`. Whether there were any.
fn shorten(spec: &mut InferenceNodeSpec, excess: usize, max_bytes: usize) -> bool {
    let mut saved = 0;
    for model in spec.models.iter_mut().rev().filter(|model| model.artifact.is_some()) {
        let before = size(model);
        *model = not_served(model, max_bytes);
        saved += before.saturating_sub(size(model));
        if saved >= excess {
            break;
        }
    }
    saved > 0
}

/// Takes the last models away, until that saves `excess`. Whether there were any.
fn leave_out(spec: &mut InferenceNodeSpec, excess: usize) -> bool {
    let mut saved = 0;
    while saved < excess
        && let Some(model) = spec.models.pop()
    {
        saved += size(&model);
    }
    saved > 0
}

fn not_served(model: &NodeModel, max_bytes: usize) -> NodeModel {
    let message = format!(
        "the node is told of more than fits into {} KiB: place fewer models there, or shorten their specs",
        max_bytes >> 10
    );
    NodeModel {
        artifact: None,
        not_placed: Some(NotPlaced { reason: NODE_SPEC_TOO_LARGE.to_owned(), message }),
        runtime: Runtime::default(),
        verification: None,
        ..model.clone()
    }
}

/// How large something is as JSON.
fn size(of: &impl serde::Serialize) -> usize {
    serde_json::to_vec(of).map_or(0, |json| json.len())
}
