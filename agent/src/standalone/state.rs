//! What a standalone agent must remember to decide the same again after any end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use terrace_crds::model::ModelSource;

use crate::manifests::Accepted;

/// What stands in the journal of a standalone agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What each manifest file held when it was last accepted.
    #[serde(default)]
    pub accepted: Accepted,
    /// For each model, by its full name, what its checksum file last said.
    #[serde(default)]
    pub resolved: BTreeMap<String, Resolved>,
}

/// A digest, and the source that it was published for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The source as the manifest had it; another source has another digest.
    pub source: ModelSource,
    /// The digest.
    pub sha256: String,
}

impl State {
    /// The digest that is known for `source` of the model `name`.
    pub fn digest(&self, name: &str, source: &ModelSource) -> Option<&str> {
        let resolved = self.resolved.get(name)?;
        let same = resolved.source.uri == source.uri && resolved.source.sha256_from == source.sha256_from;
        same.then_some(resolved.sha256.as_str())
    }
}
