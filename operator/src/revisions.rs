//! ControllerRevisions: what every revision of a model would run, and every accepted policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, Patch};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::Value;
use tracing::info;

use crate::context::{Context, Error, server_side_apply};

/// What a ControllerRevision is a revision of: `model` or `policy`.
pub const KIND_LABEL: &str = "terrace.dev/kind";
/// The name of what it is a revision of.
const NAME_LABEL: &str = "terrace.dev/name";
/// The checksum file that a revision's digest was read from.
pub const SHA256_FROM: &str = "terrace.dev/sha256-from";
/// Revisions that are kept of each model or policy, the current one among them.
const KEPT: usize = 10;

/// What has revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An InferenceModel.
    Model,
    /// A TierPolicy.
    Policy,
}

impl Kind {
    const fn label(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Policy => "policy",
        }
    }
}

/// A revision to be kept.
#[derive(Debug)]
pub struct Revision<'a> {
    /// Of what sort.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub content: Value,
    /// The checksum file that its digest came from.
    pub sha256_from: Option<String>,
}

/// The revisions of one object, the newest first.
pub fn of(
    kept: &[Arc<ControllerRevision>],
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Vec<Arc<ControllerRevision>> {
    let label = |revision: &ControllerRevision, label: &str, value: &str| {
        revision.labels().get(label).is_some_and(|found| found == value)
    };
    let mut revisions: Vec<_> = kept
        .iter()
        .filter(|revision| {
            revision.metadata.namespace.as_deref() == Some(namespace)
                && label(revision, KIND_LABEL, kind.label())
                && label(revision, NAME_LABEL, name)
        })
        .cloned()
        .collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.revision));
    revisions
}

/// The newest revision of one object.
pub fn newest(
    kept: &[Arc<ControllerRevision>],
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Option<Arc<ControllerRevision>> {
    of(kept, kind, namespace, name).into_iter().next()
}

/// A revision as Events name it.
pub fn reference(owner: &impl kube::ResourceExt, name: Option<&str>) -> Option<ObjectReference> {
    name.map(|name| ObjectReference {
        api_version: Some(ControllerRevision::api_version(&()).into_owned()),
        kind: Some(ControllerRevision::kind(&()).into_owned()),
        namespace: owner.namespace(),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    })
}

/// Makes `revision` the newest of `owner`, and forgets those that are too many. True where it was not the newest yet.
pub async fn keep<K: Resource<DynamicType = ()>>(
    context: &Context,
    owner: &K,
    revision: Revision<'_>,
) -> Result<bool, Error> {
    let (namespace, name) = (owner.namespace().unwrap_or_default(), owner.name_any());
    let kept = of(&context.world.revisions.state(), revision.kind, &namespace, &name);
    let is_newest = kept.first().is_some_and(|newest| newest.name_any() == revision.name);
    if is_newest {
        return Ok(false);
    }
    let api = Api::<ControllerRevision>::namespaced(context.client.clone(), &namespace);
    let number = kept.first().map_or(0, |newest| newest.revision) + 1;
    let labels = [(KIND_LABEL, revision.kind.label()), (NAME_LABEL, &*name)];
    let object = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revision.name.to_owned()),
            namespace: Some(namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: revision.sha256_from.map(|from| BTreeMap::from([(SHA256_FROM.to_owned(), from)])),
            owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(revision.content)),
        revision: number,
    };
    context.write(api.patch(revision.name, &server_side_apply(), &Patch::Apply(&object))).await?;
    info!(namespace, name, revision = revision.name, number, "revision made");
    let others = kept.iter().filter(|old| old.name_any() != revision.name);
    for old in others.skip(KEPT - 1) {
        context.delete(api.delete(&old.name_any(), &DeleteParams::default())).await?;
    }
    Ok(true)
}
