//! What all nodes are to be told of, out of what users wrote: models that can be read, policies that were accepted,
//! digests that are known. Pure; computed anew whenever it is needed, so it is never stale.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt as _;
use terrace_crds::{InferenceModel, TierPolicy};
use terrace_fleet::{DigestSource, Fault, ModelPlan, NamedPolicy, Sha256, WantedModel};
use terrace_tiering::Policy;

use crate::revisions::{self, Kind};

/// A namespace and a name.
pub type Key = (String, String);

/// Digests that checksum files were read to say, by model.
pub type Published = BTreeMap<Key, Sha256>;

/// What nodes are told of.
#[derive(Debug, Default)]
pub struct Catalog {
    models: Vec<(ModelPlan, Option<Sha256>)>,
    /// Models that cannot be read: nodes keep what they have of them.
    pub held: Vec<Key>,
    policies: BTreeMap<Key, Policy>,
}

impl Catalog {
    /// Reads everything.
    pub fn read(
        models: &[Arc<InferenceModel>],
        policies: &[Arc<TierPolicy>],
        kept: &[Arc<ControllerRevision>],
        published: &Published,
    ) -> Self {
        let mut catalog = Self::default();
        for model in models {
            if model.metadata.deletion_timestamp.is_some() {
                continue;
            }
            match ModelPlan::parse(model) {
                Ok(plan) => {
                    let digest = digest_of(&plan, kept, published);
                    catalog.models.push((plan, digest));
                }
                Err(_) => catalog.held.push(key(&**model)),
            }
        }
        for policy in policies {
            if let Some(accepted) = accepted(policy, kept) {
                catalog.policies.insert(key(&**policy), accepted);
            }
        }
        catalog
    }

    /// The models, as `fleet` takes them.
    pub fn wanted(&self) -> Vec<WantedModel<'_>> {
        self.models.iter().map(|(plan, published)| WantedModel { plan, published: *published }).collect()
    }

    /// The accepted policies, as `fleet` takes them.
    pub fn policies(&self) -> Vec<NamedPolicy<'_>> {
        let named = self.policies.iter();
        named.map(|((namespace, name), policy)| NamedPolicy { namespace, name, policy }).collect()
    }
}

/// The digest of a model's file: its own, or what its checksum file says. Until that was read by this process, what it
/// said when the newest revision was made.
pub fn digest_of(
    plan: &ModelPlan,
    kept: &[Arc<ControllerRevision>],
    published: &Published,
) -> Option<Sha256> {
    let DigestSource::Published { from, .. } = plan.digest() else {
        let DigestSource::Pinned(digest) = plan.digest() else { return None };
        return Some(*digest);
    };
    let key = (plan.namespace().to_owned(), plan.name().to_owned());
    published.get(&key).copied().or_else(|| {
        let newest = revisions::newest(kept, Kind::Model, plan.namespace(), plan.name())?;
        let read_from = newest.annotations().get(revisions::SHA256_FROM)?;
        let content = newest.data.as_ref()?;
        let is_same = *read_from == from.to_string() && content.0["uri"] == plan.uri().to_string();
        is_same.then(|| content.0["sha256"].as_str().and_then(|text| Sha256::parse(text).ok())).flatten()
    })
}

/// What a policy says; where that cannot be read, what it last said that could.
pub fn accepted(policy: &TierPolicy, kept: &[Arc<ControllerRevision>]) -> Option<Policy> {
    parse_policy(policy).ok().or_else(|| {
        let namespace = policy.namespace().unwrap_or_default();
        let newest = revisions::newest(kept, Kind::Policy, &namespace, &policy.name_any())?;
        let spec = serde_json::from_value(newest.data.as_ref()?.0.clone()).ok()?;
        Policy::parse(&spec).ok()
    })
}

/// What a policy says, or everything that is wrong with it.
pub fn parse_policy(policy: &TierPolicy) -> Result<Policy, Vec<Fault>> {
    Policy::parse(&policy.spec)
}

/// An object's namespace and name.
pub fn key(object: &impl kube::ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
