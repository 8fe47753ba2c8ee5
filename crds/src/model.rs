//! `InferenceModel`: one line of artifacts on one tier.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::confidence::Confidence;
use crate::{Duration, Tier};

/// A model that the nodes of one tier serve. Writers: the user writes `spec`, the operator `status`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "terrace.dev",
    version = "v1alpha1",
    kind = "InferenceModel",
    plural = "inferencemodels",
    singular = "inferencemodel",
    shortname = "imodel",
    category = "terrace",
    namespaced,
    status = "InferenceModelStatus",
    derive = "PartialEq",
    doc = "A model that the nodes of one tier serve. The user writes spec, the operator writes status.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: at most 63 lower-case letters, digits and hyphens (it becomes part of the URL that clients call)"),
    printcolumn(name = "Tier", type_ = "string", json_path = ".spec.placement.tier", description = "The tier whose nodes serve it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Nodes that serve the current revision, of those that should"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", description = "The current revision"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready, or not"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since it was created")
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceModelSpec {
    /// Where the model's bytes come from. What runs is always pinned by digest.
    pub source: ModelSource,
    /// Which nodes serve it.
    #[serde(default)]
    pub placement: Placement,
    /// What the model is called on other tiers, where that differs.
    #[serde(default, skip_serializing_if = "Upstreams::is_empty")]
    pub upstreams: Upstreams,
    /// How a node runs it.
    #[serde(default, skip_serializing_if = "Runtime::is_empty")]
    pub runtime: Runtime,
    /// What a revision must pass on a node before it serves there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// How sure the model is of an answer. Policies of mode Speculative and Ensemble need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// The policy that decides which tier answers. Without one the node itself answers, or nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<PolicyReference>,
    /// Whose callers may use the model beside those of its own namespace: namespaces, or `*` for every one. A change
    /// holds at once, and is no new revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"), length(max = 63)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allowed_namespaces: Vec<String>,
}

/// Where a model's bytes come from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.sha256) != has(self.sha256From)")
        .message("exactly one of sha256 and sha256From is needed: what runs is always pinned by digest"),
    validation = Rule::new("!has(self.syncInterval) || has(self.sha256From)")
        .message("syncInterval needs sha256From: a fixed sha256 never changes")
)]
pub struct ModelSource {
    /// The ONNX file: `https://`, `file://` (below the agent's --file-root), or `http://` where the agent's
    /// administrator allows it.
    #[schemars(regex(pattern = r"^(https|http|file)://.+$"), length(max = 2048))]
    pub uri: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"), length(max = 64))]
    pub sha256: Option<String>,
    /// A published checksum file, as `sha256sum` writes it, that names the digest. It is read again every
    /// `syncInterval`; a changed digest is a new revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(https|http|file)://.+$"), length(max = 2048))]
    pub sha256_from: Option<String>,
    /// How often `sha256From` is read again; each reader varies it by up to a tenth, so that a fleet never
    /// pulls at once. Default 15m, at least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("syncInterval must be at least 1s"))]
    pub sync_interval: Option<Duration>,
}

/// Which nodes serve a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The tier whose nodes serve it.
    #[serde(default)]
    pub tier: Tier,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
}

/// What a model is called on other tiers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Upstreams {
    /// Its name at the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<Upstream>,
    /// Its name in the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Upstream>,
}

impl Upstreams {
    /// Whether the model has the same name everywhere.
    pub const fn is_empty(&self) -> bool {
        self.edge.is_none() && self.cloud.is_none()
    }
}

/// A model on another tier.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// The model's name there, as it stands in the URL: `namespace.name` or `name`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), length(max = 253))]
    pub model: String,
}

/// How a node runs a model.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// What runs the model, in order of preference: each runs what it can of what those before it left, the CPU the rest.
    /// One that a node lacks is passed over, and the node's status says why, unless it is `required`. Absent: the CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(
        validation = Rule::new("!self.exists(p, p.name == 'CPU') || (self[self.size() - 1].name == 'CPU' && self.exists_one(p, p.name == 'CPU'))")
            .message("CPU must be the last of executionProviders: it leaves nothing to those after it"),
        validation = Rule::new("self.filter(p, p.required).size() <= 1")
            .message("one of executionProviders may be required: it and those before it must run the whole model")
    )]
    pub execution_providers: Vec<ExecutionProvider>,
    /// Threads that one run may use. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub threads: Option<u16>,
    /// Sessions that run side by side, each with its own threads. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64), extend("format" = "int32"))]
    pub instances: Option<u16>,
    /// How requests that wait are run together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// How a new revision takes the place of the one that serves. Default Overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
}

/// How a new revision takes the place of the one that serves on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swap {
    /// The new one is loaded beside the old one, and no request notices. Where both do not fit into memory, the old one
    /// goes on.
    #[default]
    Overlap,
    /// The old one goes first. Until the new one is loaded, callers are forwarded as the policy allows, or told to come
    /// again. Where the new one cannot serve, the old one is loaded again.
    Replace,
}

/// What runs a model, or a part of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.name != 'CPU' || (!has(self.options) && !self.required)")
        .message("CPU has no options and need not be required: it is always there, and runtime.threads is for it")
)]
pub struct ExecutionProvider {
    /// Which.
    pub name: ProviderName,
    /// What ONNX Runtime calls its options. Which there are, and their values, is bounded: see docs/standalone.md.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub options: BTreeMap<String, String>,
    /// Every node of the model must run on this provider, or on one before it: a revision that does not is not served on
    /// this node. Default false.
    #[serde(default)]
    pub required: bool,
}

/// An execution provider of ONNX Runtime, by the name that it has without `ExecutionProvider`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderName {
    /// ONNX Runtime's own kernels.
    CPU,
    /// Intel's CPUs, GPUs and NPUs.
    OpenVINO,
    /// NVIDIA's GPUs.
    CUDA,
    /// NVIDIA's GPUs, by engines that are built for each model.
    TensorRT,
    /// Qualcomm's NPUs.
    QNN,
}

/// How requests that wait are run together, where the first axis of everything that the model takes and gives is free and
/// its rows do not depend on each other.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Batching {
    /// The most rows that run at once; 1 runs each request alone. Default: as many as a node finds worth it when it loads
    /// the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024), extend("format" = "int32"))]
    pub max_size: Option<u16>,
}

impl Runtime {
    /// Whether everything is at its default.
    pub const fn is_empty(&self) -> bool {
        self.execution_providers.is_empty()
            && self.threads.is_none()
            && self.instances.is_none()
            && self.batching.is_none()
            && self.swap.is_none()
    }
}

/// What a revision must pass on a node before it serves there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxLatency) || has(self.cases)")
        .message("maxLatency needs cases: it is measured on them")
)]
pub struct Verification {
    /// Inputs and the outputs expected for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cases: Option<CasesSource>,
    /// The median run over the cases may take no longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("maxLatency must be positive"))]
    pub max_latency: Option<Duration>,
}

/// A file of inputs and the outputs expected for them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CasesSource {
    /// The file, fetched like the model.
    #[schemars(regex(pattern = r"^(https|http|file)://.+$"), length(max = 2048))]
    pub uri: String,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"), length(max = 64))]
    pub sha256: String,
    /// How far a floating-point output may be from the expected one, absolute or relative, whichever allows
    /// more. Default 0.0001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tolerance: Option<f64>,
}

/// The name of a `TierPolicy` in the model's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReference {
    /// The policy's name.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))]
    pub name: String,
}

/// What the operator saw. A view: clearing it changes nothing on nodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferenceModelStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// What the source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedSource>,
    /// The current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Nodes that serve the current revision, of those that should: `3/3 (+1 offline)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The same, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
}

/// A source whose digest is known.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSource {
    /// The file.
    pub uri: String,
    /// Its SHA-256.
    pub sha256: String,
}

/// Eligible nodes, counted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that should serve the model and are online.
    #[schemars(extend("format" = "int32"))]
    pub desired: u32,
    /// Nodes that were told of the current revision.
    #[schemars(extend("format" = "int32"))]
    pub updated: u32,
    /// Nodes that serve it.
    #[schemars(extend("format" = "int32"))]
    pub ready: u32,
    /// Nodes that could not load it.
    #[schemars(extend("format" = "int32"))]
    pub failed: u32,
    /// Nodes that should serve it and are not Ready in Kubernetes.
    #[schemars(extend("format" = "int32"))]
    pub offline: u32,
}
