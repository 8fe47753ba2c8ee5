//! One revision of one model, with everything that it needs: what is journaled, loaded and compared.

use serde::{Deserialize, Serialize};
use terrace_crds::model::{Runtime, Swap};
use terrace_crds::node::NodeModel;
use terrace_crds::{InferenceNodeSpec, TierPolicySpec};

use crate::registry::ModelKey;

/// A revision, whole: its policy is beside it and not behind a hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// What the spec says of the model.
    pub model: NodeModel,
    /// Its policy; none means that this node answers, or nobody.
    pub policy: Option<TierPolicySpec>,
}

impl Revision {
    /// Every revision that a spec asks for.
    pub fn all(spec: &InferenceNodeSpec) -> impl Iterator<Item = Self> + '_ {
        spec.models.iter().map(|model| Self {
            policy: model.policy.as_ref().and_then(|hash| spec.policies.get(hash)).cloned(),
            model: model.clone(),
        })
    }

    /// The model that it is a revision of.
    pub fn key(&self) -> ModelKey {
        ModelKey { namespace: self.model.namespace.clone(), name: self.model.name.clone() }
    }

    /// Whether this node is to serve it; else its callers are forwarded.
    pub const fn is_placed(&self) -> bool {
        self.model.artifact.is_some()
    }

    /// Whether the one that serves goes before this one is loaded.
    pub fn replaces(&self) -> bool {
        self.model.runtime.swap == Some(Swap::Replace)
    }

    /// Whether a model loaded for `other` can answer for this one as well: nothing differs but names, policy and how it
    /// comes to serve.
    pub fn runs_like(&self, other: &Self) -> bool {
        let runtime = |revision: &Self| Runtime { swap: None, ..revision.model.runtime.clone() };
        let digest =
            |revision: &Self| revision.model.artifact.as_ref().map(|artifact| artifact.sha256.clone());
        digest(self) == digest(other)
            && runtime(self) == runtime(other)
            && self.model.verification == other.model.verification
    }

    /// The digests of everything that it fetches.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        let model = self.model.artifact.as_ref().map(|artifact| artifact.sha256.as_str());
        let cases = self.model.verification.as_ref().and_then(|verification| verification.cases.as_ref());
        model.into_iter().chain(cases.map(|cases| cases.sha256.as_str()))
    }
}
