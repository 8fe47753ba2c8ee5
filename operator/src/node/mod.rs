//! A node: what its agent is told, as the spec of its InferenceNode.
//!
//! Read → decide (`fleet::desired`) → write, only where something differs. Whose Node has no agent gets none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};
use terrace_crds::{InferenceNode, InferenceNodeSpec};
use terrace_fleet::{NodeFacts, desired, fit, hold, sites};
use tracing::info;

use crate::catalog::Catalog;
use crate::context::{Context, Error, server_side_apply};
use crate::controller::{Done, RESYNC};
use crate::edge;

/// The largest spec: etcd takes objects of a MiB and a half, and status and managed fields need their part.
const MAX_SPEC_BYTES: usize = 512 << 10;

/// One look at a node.
pub async fn look(node: Arc<Node>, context: Arc<Context>) -> Result<Done, Error> {
    let written = instruct(&node, &context).await?;
    Ok(Done { outcome: if written { "Written" } else { "Unchanged" }, again: RESYNC })
}

/// Whether anything was written.
async fn instruct(node: &Node, context: &Context) -> Result<bool, Error> {
    let name = node.name_any();
    let known = context.world.inference_nodes.get(&ObjectRef::new(&name));
    let is_going = node.metadata.deletion_timestamp.is_some();
    if is_going || (known.is_none() && !has_agent(context, &name)) {
        return Ok(false);
    }
    let previous = known.as_ref().map(|known| &known.spec);
    let spec = spec_for(node, previous, context);
    let owner = owner(node);
    let is_owned = |known: &Arc<InferenceNode>| known.owner_references() == std::slice::from_ref(&owner);
    if previous == Some(&spec) && known.as_ref().is_some_and(is_owned) {
        return Ok(false);
    }
    let object = InferenceNode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let api = Api::<InferenceNode>::all(context.client.clone());
    context.write(api.patch(&name, &server_side_apply(), &Patch::Apply(&object))).await?;
    info!(node = name, models = object.spec.models.len(), "node told");
    Ok(true)
}

/// Whether an agent's pod is bound to a node.
pub fn has_agent(context: &Context, node: &str) -> bool {
    context
        .world
        .pods
        .find(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node))
        .is_some()
}

fn spec_for(node: &Node, previous: Option<&InferenceNodeSpec>, context: &Context) -> InferenceNodeSpec {
    let world = &context.world;
    let catalog = Catalog::read(
        &world.models.state(),
        &world.policies.state(),
        &world.revisions.state(),
        &context.checksums.published(),
    );
    let facts = NodeFacts::from_labels(node.labels());
    let mut spec = desired(&catalog.wanted(), &catalog.policies(), &facts, previous).spec;
    for (namespace, name) in &catalog.held {
        if let Some(previous) = previous {
            hold(&mut spec, previous, &facts, (namespace, name));
        }
    }
    spec.sites = sites(&spec, &node.name_any(), &facts, || edge::agents(world));
    fit(&mut spec, MAX_SPEC_BYTES);
    spec
}

/// The Node that an InferenceNode goes with: a new one of the same name is another.
fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: Node::api_version(&()).into_owned(),
        kind: Node::kind(&()).into_owned(),
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}
