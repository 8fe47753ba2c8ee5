//! What is known of every node with an agent, as far as it matters for one model.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use terrace_crds::{InferenceModel, InferenceNode};
use terrace_fleet::{NodeFacts, ObservedNode};

use crate::context::Context;

/// A node, and what it was told and says.
#[derive(Debug)]
pub struct Seen {
    name: String,
    facts: NodeFacts,
    online: bool,
    inference_node: Option<Arc<InferenceNode>>,
    namespace: String,
    model: String,
}

/// Every node that has an agent, or had one and was told something.
pub fn nodes(model: &InferenceModel, context: &Context) -> Vec<Seen> {
    let world = &context.world;
    let (namespace, model) = (model.namespace().unwrap_or_default(), model.name_any());
    let with_agent: BTreeSet<String> =
        world.pods.state().iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let mut seen: Vec<Seen> = world
        .nodes
        .state()
        .iter()
        .filter_map(|node| {
            let name = node.name_any();
            let inference_node = world.inference_nodes.get(&ObjectRef::new(&name));
            (with_agent.contains(&name) || inference_node.is_some()).then(|| Seen {
                facts: NodeFacts::from_labels(node.labels()),
                online: is_ready(node),
                name,
                inference_node,
                namespace: namespace.clone(),
                model: model.clone(),
            })
        })
        .collect();
    seen.sort_by(|one, other| one.name.cmp(&other.name));
    seen
}

impl Seen {
    /// As `fleet` takes it.
    pub fn observed(&self) -> ObservedNode<'_> {
        let node = self.inference_node.as_deref();
        let told = node.and_then(|node| {
            let entry = node
                .spec
                .models
                .iter()
                .find(|entry| entry.namespace == self.namespace && entry.name == self.model)?;
            entry.artifact.as_ref().map(|_| entry.revision.as_str())
        });
        let reported = node.and_then(|node| node.status.as_ref()).and_then(|status| {
            status.models.iter().find(|entry| entry.namespace == self.namespace && entry.name == self.model)
        });
        ObservedNode { name: &self.name, facts: &self.facts, online: self.online, told, reported }
    }
}

/// Whether Kubernetes hears of a node.
fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}
