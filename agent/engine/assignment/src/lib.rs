//! Which execution provider runs how many nodes of a loaded model: read back from ONNX Runtime, not assumed.
//!
//! Called by the engine. The one crate of Terrace with unsafe code: `ort` has no wrapper for these calls of ONNX Runtime
//! 1.24, so they are made here, and nothing else is.

use std::ffi::{CStr, c_char};
use std::ptr;

use ort::session::Session;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph};
use ort::{AsPointer as _, Error, Result};

/// What a session must be configured with for [`assigned`] to know anything.
pub const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

/// A provider, and nodes of the model's graph that it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// ONNX Runtime's name of it.
    pub provider: String,
    /// Nodes.
    pub nodes: usize,
}

/// What runs the model of a session that was made with [`RECORD`]: each provider once, in the order of its first node.
pub fn assigned(session: &Session) -> Result<Vec<Assigned>> {
    let mut sums: Vec<Assigned> = Vec::new();
    for &subgraph in subgraphs(session)? {
        // SAFETY: the part belongs to this session, which outlives the loop.
        let (provider, nodes) = unsafe { (provider(subgraph)?, nodes(subgraph)?) };
        match sums.iter_mut().find(|sum| sum.provider == provider) {
            Some(sum) => sum.nodes += nodes,
            None => sums.push(Assigned { provider, nodes }),
        }
    }
    Ok(sums)
}

/// The parts of a session's graph. They belong to the session.
fn subgraphs(session: &Session) -> Result<&[*const OrtEpAssignedSubgraph]> {
    let (mut first, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive, the two places are written before the call returns without an error.
    let status = unsafe {
        (ort::api().Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut first, &raw mut count)
    };
    // SAFETY: the status comes from the call above and is used once.
    unsafe { Error::result_from_status(status) }?;
    if first.is_null() || count == 0 {
        return Ok(&[]);
    }
    // SAFETY: ONNX Runtime gives an array of so many pointers, which the session owns until it is released.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// The name of the provider of a part.
///
/// # Safety
/// The part belongs to a session that is alive.
unsafe fn provider(subgraph: *const OrtEpAssignedSubgraph) -> Result<String> {
    let mut name: *const c_char = ptr::null();
    // SAFETY: the part is alive; the place is written unless there is an error.
    let status = unsafe { (ort::api().EpAssignedSubgraph_GetEpName)(subgraph, &raw mut name) };
    // SAFETY: the status comes from the call above and is used once.
    unsafe { Error::result_from_status(status) }?;
    if name.is_null() {
        return Err(Error::new("a part of the model has no execution provider"));
    }
    // SAFETY: a C string that the session owns; it is copied at once.
    Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// How many nodes a part has.
///
/// # Safety
/// The part belongs to a session that is alive.
unsafe fn nodes(subgraph: *const OrtEpAssignedSubgraph) -> Result<usize> {
    let (mut first, mut count): (*const *const OrtEpAssignedNode, usize) = (ptr::null(), 0);
    // SAFETY: the part is alive; the nodes themselves are not looked at.
    let status =
        unsafe { (ort::api().EpAssignedSubgraph_GetNodes)(subgraph, &raw mut first, &raw mut count) };
    // SAFETY: the status comes from the call above and is used once.
    unsafe { Error::result_from_status(status) }?;
    Ok(count)
}
