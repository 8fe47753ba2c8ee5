//! What this node says of itself and of its models, the same over HTTP and gRPC.

use std::sync::Arc;

use terrace_crds::Tier;
use terrace_engine::{Signature, TensorSpec};
use terrace_oip::Datatype;
use terrace_oip::metadata::{
    BatchStatistics, ConfigTensor, Indexed, InferenceStatistics, ModelConfig, ModelStatistics, Spent,
};

use crate::callers::Caller;
use crate::node::Node;
use crate::refusal::Refusal;
use crate::registry::{Entry, Local, ModelKey, Served};
use crate::serve;

/// What this server calls itself.
pub const SERVER_NAME: &str = "terrace";
/// Its version.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What it speaks beyond the protocol, by Triton's names.
pub const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_configuration", "parameters", "statistics"];
/// What its models are.
pub const PLATFORM: &str = "onnxruntime_onnx";
/// The state of a model that takes requests, in an index.
pub const READY: &str = "READY";
/// What runs them.
pub const BACKEND: &str = "onnxruntime";

/// The model of this name, if its caller may use it and it serves the version that is asked for.
pub fn find(node: &Node, caller: &Caller, model: &str, version: Option<&str>) -> Result<Arc<Entry>, Refusal> {
    let entry = serve::entry(node, caller, &ModelKey::from_url(model, &node.default_namespace))?;
    serve::check_version(&entry, version)?;
    Ok(entry)
}

/// Whether requests for a model are answered.
pub fn is_ready(node: &Node, entry: &Entry) -> bool {
    match &entry.local {
        Local::Serving(_) => true,
        Local::Absent => false,
        // Its callers are forwarded, and there is nothing here that could be unready.
        Local::NotPlaced => forwards(entry, node.tier()),
    }
}

/// Whether a node of the tier `here` sends callers of a model anywhere.
fn forwards(entry: &Entry, here: Tier) -> bool {
    let mut others = Tier::ALL.into_iter().filter(|tier| *tier != here);
    !entry.policy.privacy_required()
        && others.any(|tier| entry.policy.remote(tier).is_some_and(|remote| remote.endpoints().is_ok()))
}

/// What serves of a model.
pub fn served<'a>(entry: &'a Entry, model: &str) -> Result<&'a Served, Refusal> {
    entry.served().map(|served| &**served).ok_or_else(|| match entry.local {
        Local::NotPlaced => Refusal::NotFound(format!(
            "model {model:?} is not placed on this node, which only forwards to it; ask the tier that serves it"
        )),
        _ => Refusal::NoTier(format!("model {model:?} is not loaded on this node yet")),
    })
}

/// Triton's description of a model.
pub fn config(model: &str, served: &Served) -> ModelConfig {
    let most_rows = served.model.most_rows();
    let signature = served.model.signature();
    // Triton's clients would put rows before the dimensions of every input, and those that may be left out have none.
    let is_batched = most_rows > 1 && signature.optional.is_empty();
    let tensor = |spec: &TensorSpec, optional| ConfigTensor {
        name: spec.name.clone(),
        data_type: triton_type(spec.datatype).to_owned(),
        dims: spec.shape.get(usize::from(is_batched)..).unwrap_or_default().to_vec(),
        optional,
    };
    ModelConfig {
        name: model.to_owned(),
        platform: PLATFORM.to_owned(),
        backend: BACKEND.to_owned(),
        max_batch_size: if is_batched { most_rows } else { 0 },
        input: inputs(signature).map(|(spec, optional)| tensor(spec, optional)).collect(),
        output: signature.outputs.iter().map(|spec| tensor(spec, false)).collect(),
    }
}

/// A model's inputs, and whether a request may leave each out.
pub fn inputs(signature: &Signature) -> impl Iterator<Item = (&TensorSpec, bool)> {
    let required = signature.inputs.iter().map(|spec| (spec, false));
    required.chain(signature.optional.iter().map(|spec| (spec, true)))
}

const fn triton_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bytes => "TYPE_STRING",
    }
}

/// What a model has done since it was loaded.
pub fn statistics(model: &str, served: &Served) -> ModelStatistics {
    let done = served.model.statistics();
    let spent = |count: u64, time: std::time::Duration| Spent {
        count,
        ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    };
    let requests = done.answered + done.failed;
    ModelStatistics {
        name: model.to_owned(),
        version: served.revision().to_owned(),
        last_inference: done.last_ms,
        inference_count: done.rows,
        execution_count: done.runs.values().map(|run| run.count).sum(),
        inference_stats: InferenceStatistics {
            success: spent(done.answered, done.waited + done.ran),
            fail: spent(done.failed, std::time::Duration::ZERO),
            queue: spent(requests, done.waited),
            compute_infer: spent(requests, done.ran),
            compute_input: spent(requests, std::time::Duration::ZERO),
            compute_output: spent(requests, std::time::Duration::ZERO),
        },
        batch_stats: done
            .runs
            .iter()
            .map(|(rows, run)| BatchStatistics {
                batch_size: *rows as u64,
                compute_infer: spent(run.count, run.time),
                ..BatchStatistics::default()
            })
            .collect(),
    }
}

/// The same of every model that serves and that a caller may use.
pub fn all_statistics(node: &Node, caller: &Caller) -> Vec<ModelStatistics> {
    let entries = entries(node, caller);
    let serving = entries.iter().filter_map(|(name, entry)| Some((name, entry.served()?)));
    serving.map(|(name, served)| statistics(name, served)).collect()
}

/// Every model that this node knows and that a caller may use.
pub fn index(node: &Node, caller: &Caller) -> Vec<Indexed> {
    let indexed = |(name, entry): (String, Arc<Entry>)| {
        let version = entry.served().map_or_else(String::new, |served| served.revision().to_owned());
        let reason = match &entry.local {
            Local::Serving(_) => "",
            Local::Absent => "not loaded yet",
            Local::NotPlaced => "not placed on this node, which forwards",
        };
        let state = if is_ready(node, &entry) { READY } else { "UNAVAILABLE" };
        Indexed { name, version, state: state.to_owned(), reason: reason.to_owned() }
    };
    entries(node, caller).into_iter().map(indexed).collect()
}

/// By name, as a URL has it.
fn entries(node: &Node, caller: &Caller) -> Vec<(String, Arc<Entry>)> {
    let mut keys = node.registry.keys();
    keys.sort();
    let entry =
        |key: ModelKey| Some((key.to_url(&node.default_namespace).into_owned(), node.registry.get(&key)?));
    let theirs =
        |(_, entry): &(_, Arc<Entry>)| caller.may_use(&entry.key.namespace, &entry.allowed_namespaces);
    keys.into_iter().filter_map(entry).filter(theirs).collect()
}
