//! `InferenceNode`: the hand-over point between the operator and one node's agent.

use core::net::IpAddr;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::confidence::Confidence;
use crate::model::{ResolvedSource, Runtime, Upstreams, Verification};
use crate::policy::TierPolicySpec;
use crate::{Duration, Tier};

/// What one node should serve, and what it serves. Named as its Node. Writers: the operator alone writes `spec`,
/// that node's agent alone `status`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "terrace.dev",
    version = "v1alpha1",
    kind = "InferenceNode",
    plural = "inferencenodes",
    singular = "inferencenode",
    shortname = "inode",
    category = "terrace",
    status = "InferenceNodeStatus",
    derive = "PartialEq",
    doc = "What one node should serve, and what it serves. The operator alone writes spec, that node's agent alone writes status.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether everything asked for is served"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why, or why not"
    ),
    printcolumn(
        name = "Agent",
        type_ = "string",
        json_path = ".status.agent.version",
        description = "The agent's version"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since it was created"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct InferenceNodeSpec {
    /// The tier that the node is: requests that its rules give to this tier are answered here.
    #[serde(default)]
    pub tier: Tier,
    /// The node's labels that rules of its policies read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Every model that callers of this node may ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub models: Vec<NodeModel>,
    /// The policies that those models name, each once, by the hash of its content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub policies: BTreeMap<String, TierPolicySpec>,
    /// Where the node is, by the labels whose values name a site in those policies: facts, and no part of any revision. A
    /// label that the node does not have is not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub sites: BTreeMap<String, NodeSite>,
}

/// The site of a node, as one of its labels says.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSite {
    /// The label's value.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The ready edge agents there, in the order in which this node asks them; another node of the site has another order.
    /// Of many the first eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub edge: Vec<EdgeAddress>,
}

/// Where an edge agent answers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EdgeAddress {
    /// The Node that it is on.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Its address.
    #[schemars(with = "String", length(max = 45))]
    pub address: IpAddr,
    /// Its port of the Open Inference Protocol over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub http_port: Option<u16>,
    /// Its port of the Open Inference Protocol over gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub grpc_port: Option<u16>,
}

/// One model on one node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.artifact) != has(self.notPlaced)")
        .message("exactly one of artifact and notPlaced is needed: a node serves a model, or is told why it does not")
)]
pub struct NodeModel {
    /// The model's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The model's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The revision's name; it stands in every answer as `model_version`.
    #[schemars(length(max = 253))]
    pub revision: String,
    /// What to fetch. Absent where this node does not serve the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ResolvedSource>,
    /// Why this node does not serve the model; its callers are still forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_placed: Option<NotPlaced>,
    /// What the model is called on other tiers.
    #[serde(default, skip_serializing_if = "Upstreams::is_empty")]
    pub upstreams: Upstreams,
    /// How to run it.
    #[serde(default, skip_serializing_if = "Runtime::is_empty")]
    pub runtime: Runtime,
    /// What the revision must pass before it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// How sure the model is of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// The hash of its policy in `policies`. Absent: this node answers, or nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub policy: Option<String>,
    /// Namespaces whose callers may use the model beside its own; `*` is every one. Holds at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_namespaces: Vec<String>,
}

/// Why a node does not serve a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NotPlaced {
    /// Why, as one CamelCase word: `TierMismatch`, `NodeSelectorMismatch`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, for a person.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// What one node serves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferenceNodeStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`; on a standalone agent also `ManifestsAccepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The agent that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// One entry a model of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub models: Vec<NodeModelStatus>,
}

/// The agent on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// The runtime it loaded, with its version: `onnxruntime 1.32.0`.
    pub runtime: String,
    /// The execution providers that this runtime was built with, of those that a model can ask for. Whether the node has
    /// the hardware, only a model that is loaded shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub execution_providers: Vec<String>,
}

/// Where a node stands with one model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeModelStatus {
    /// The model's namespace.
    pub namespace: String,
    /// The model's name.
    pub name: String,
    /// Where the desired revision stands.
    pub phase: ModelPhase,
    /// The revision that the spec asks for. Absent while the digest of its source is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_revision: Option<String>,
    /// The revision that answers requests now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_revision: Option<String>,
    /// SHA-256 of the artifact that answers requests now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_sha256: Option<String>,
    /// What runs the model now, read back from the runtime: of several providers, the one with the most nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_provider: Option<String>,
    /// What runs which share of the model now, what does not and why, and how it compares with the CPU. Absent where the
    /// model asks for nothing but the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ExecutionStatus>,
    /// Why the desired revision does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ModelError>,
}

/// How a model that asks for execution providers is run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionStatus {
    /// Who runs how many nodes of the model's graph, read back from the runtime.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub placed: Vec<PlacedNodes>,
    /// Who was asked for and runs nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub passed_over: Vec<PassedOver>,
    /// The model on its cases here, beside the same on the CPU provider. Absent where the CPU provider runs all of it,
    /// cannot run it, or there are no cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_with_cpu: Option<CpuComparison>,
}

/// A provider and what it runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlacedNodes {
    /// ONNX Runtime's name of it: `OpenVINOExecutionProvider`.
    pub provider: String,
    /// The device that it runs them on, where that is known and not only asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Nodes of the graph.
    #[schemars(extend("format" = "int32"))]
    pub nodes: u32,
}

/// A provider that was asked for and runs nothing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// ONNX Runtime's name of it.
    pub provider: String,
    /// The device that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why, as one CamelCase word: `NotInThisVariant`, `ProviderUnavailable`, `ProviderFailed`, `ProviderIncomplete`,
    /// `NoNodes`.
    pub reason: String,
    /// Why, for a person.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A model on its cases, beside the same on the CPU provider.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CpuComparison {
    /// What the median run takes as it serves.
    pub median_latency: Duration,
    /// What it takes on the CPU provider, with the same threads.
    pub cpu_median_latency: Duration,
    /// How far two floating-point outputs are apart at most. Absent where outputs cannot be compared: another shape, another
    /// integer or text, or a number on one side only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
}

/// The steps of a revision on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Its bytes are on the way, and checked against their digest.
    Fetching,
    /// It is tried in a child process.
    Probing,
    /// It is loaded, and passes its cases.
    Loading,
    /// It answers requests.
    Serving,
    /// It cannot serve; see `error`. It is tried again where that may help.
    Failed,
    /// This node does not serve the model.
    NotPlaced,
}

/// Why a revision does not serve.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelError {
    /// Why, as one CamelCase word: `FetchFailed`, `DigestMismatch`, `LoadFailed`, `CasesFailed` …
    pub reason: String,
    /// Why, for a person, with what to do about it.
    pub message: String,
}
