//! The kinds of Terrace as Kubernetes knows them: `InferenceModel`, `TierPolicy`, `InferenceNode`.
//!
//! Operator and agent both speak in these types; the YAML beside this crate's sources is generated from them
//! (`make crds`). Types and schemas only: nothing here decides, and nothing here may import a client, a runtime
//! or another crate of Terrace.

pub mod confidence;
mod duration;
pub mod mode;
pub mod model;
pub mod node;
pub mod policy;
mod schema;
pub mod tier;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use duration::{Duration, ParseDurationError};
pub use model::{InferenceModel, InferenceModelSpec};
pub use node::{InferenceNode, InferenceNodeSpec, InferenceNodeStatus};
pub use policy::{TierPolicy, TierPolicySpec};
pub use tier::Tier;

/// The API group of every kind.
pub const GROUP: &str = "terrace.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Every kind, with the name of the file that holds its definition.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("inferencemodels.yaml", InferenceModel::crd()),
        ("inferencenodes.yaml", InferenceNode::crd()),
        ("tierpolicies.yaml", TierPolicy::crd()),
    ]
}
