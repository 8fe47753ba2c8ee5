//! What is to be looked at again, because something that it depends on changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::world::World;

/// The nodes' reports are many: models look at them together, this long after the first.
const CROWD: Duration = Duration::from_millis(100);

/// Where changes are told.
#[derive(Clone, Debug)]
pub struct Queues {
    models: UnboundedSender<ObjectRef<InferenceModel>>,
    policies: UnboundedSender<ObjectRef<TierPolicy>>,
    nodes: UnboundedSender<ObjectRef<Node>>,
    /// Something about some node changed.
    crowd: Arc<Notify>,
    /// What was seen last of each model and policy. A status that was written is no reason to look at every node.
    generations: Arc<Mutex<HashMap<String, i64>>>,
}

/// Where controllers hear of them.
#[derive(Debug)]
pub struct Triggers {
    /// Models to look at.
    pub models: UnboundedReceiver<ObjectRef<InferenceModel>>,
    /// Policies to look at.
    pub policies: UnboundedReceiver<ObjectRef<TierPolicy>>,
    /// Nodes to look at.
    pub nodes: UnboundedReceiver<ObjectRef<Node>>,
}

/// Both ends.
pub fn queues() -> (Queues, Triggers) {
    let (models, model_triggers) = unbounded_channel();
    let (policies, policy_triggers) = unbounded_channel();
    let (nodes, node_triggers) = unbounded_channel();
    let queues = Queues { models, policies, nodes, crowd: Arc::default(), generations: Arc::default() };
    (queues, Triggers { models: model_triggers, policies: policy_triggers, nodes: node_triggers })
}

/// A receiver as the stream that kube's applier takes.
pub fn stream<T>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = Result<T, std::convert::Infallible>> {
    unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((Ok(item), receiver))
    })
}

// A send fails only once the controllers have ended; then nobody has to hear.
impl Queues {
    /// A model was written or deleted: every node may have to be told.
    pub fn model(&self, world: &World, model: &InferenceModel) {
        let reference = ObjectRef::from_obj(model);
        let is_gone = world.models.get(&reference).is_none();
        let _ = self.models.send(reference);
        if self.is_new(model, is_gone) {
            self.all_nodes(world);
        }
    }

    /// A policy was written or deleted.
    pub fn policy(&self, world: &World, policy: &TierPolicy) {
        let reference = ObjectRef::from_obj(policy);
        let is_gone = world.policies.get(&reference).is_none();
        let _ = self.policies.send(reference);
        if self.is_new(policy, is_gone) {
            self.all_models(world);
            self.all_nodes(world);
        }
    }

    /// Whether an object asks for something else than when it was seen last.
    fn is_new(&self, object: &impl ResourceExt, is_gone: bool) -> bool {
        let (Some(uid), Some(generation)) = (object.uid(), object.meta().generation) else { return true };
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if is_gone {
            generations.remove(&uid);
            return true;
        }
        generations.insert(uid, generation) != Some(generation)
    }

    /// A Node changed.
    pub fn node(&self, node: &Node) {
        let _ = self.nodes.send(ObjectRef::from_obj(node));
        self.crowd.notify_one();
    }

    /// What a node was told, or what it says, changed.
    pub fn inference_node(&self, node: &InferenceNode) {
        let _ = self.nodes.send(ObjectRef::new(&node.name_any()));
        self.crowd.notify_one();
    }

    /// An agent came or went.
    pub fn pod(&self, pod: &Pod) {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            let _ = self.nodes.send(ObjectRef::new(node));
            self.crowd.notify_one();
        }
    }

    /// All there is: when this replica begins to lead.
    pub fn everything(&self, world: &World) {
        for policy in world.policies.state() {
            let _ = self.policies.send(ObjectRef::from_obj(&*policy));
        }
        self.all_models(world);
        self.all_nodes(world);
    }

    /// Tells models what nodes did, some of it at once.
    pub async fn crowd(self, world: World) -> anyhow::Result<()> {
        loop {
            self.crowd.notified().await;
            tokio::time::sleep(CROWD).await;
            self.all_models(&world);
        }
    }

    fn all_models(&self, world: &World) {
        for model in world.models.state() {
            let _ = self.models.send(ObjectRef::from_obj(&*model));
        }
    }

    /// Every node may have to be told something else.
    pub fn all_nodes(&self, world: &World) {
        for node in world.nodes.state() {
            let _ = self.nodes.send(ObjectRef::from_obj(&*node));
        }
    }
}
