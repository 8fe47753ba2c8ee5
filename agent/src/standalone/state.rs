//! What a standalone agent must remember to decide the same again after any end.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use terrace_crds::model::ModelSource;

use crate::manifests::Accepted;

use super::key_of;

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
    /// Takes what the folder holds now, and forgets the digests of models that it no longer has.
    pub fn accept(&mut self, accepted: Accepted) {
        self.accepted = accepted;
        let names: BTreeSet<String> = self.accepted.models().map(|model| key_of(model).to_string()).collect();
        self.resolved.retain(|name, _| names.contains(name));
    }

    /// The digest that is known for `source` of the model `name`.
    pub fn digest(&self, name: &str, source: &ModelSource) -> Option<&str> {
        let resolved = self.resolved.get(name)?;
        let same = resolved.source.uri == source.uri && resolved.source.sha256_from == source.sha256_from;
        same.then_some(resolved.sha256.as_str())
    }
}
