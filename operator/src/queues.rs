//! What is to be looked at again, because something that it depends on changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy};
use terrace_fleet::EdgeAgent;
use terrace_tiering::SITE;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::catalog::accepted;
use crate::edge::{self, node_of};
use crate::world::World;

/// The nodes' reports are many: models look at them together, this long after the first.
const CROWD: Duration = Duration::from_millis(100);

/// Agents of the edge that come and go are told of this long after the first change: one that is started again changes
/// more than once.
const SETTLE: Duration = Duration::from_secs(1);
/// How often they are compared where nothing was told.
const EDGE_AGAIN: Duration = Duration::from_secs(30);

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
    /// An agent of the edge may have come, gone or moved.
    edge: Arc<Notify>,
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
    let queues = Queues {
        models,
        policies,
        nodes,
        crowd: Arc::default(),
        generations: Arc::default(),
        edge: Arc::default(),
    };
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
        self.edge.notify_one();
    }

    /// What a node was told, or what it says, changed.
    pub fn inference_node(&self, node: &InferenceNode) {
        let _ = self.nodes.send(ObjectRef::new(&node.name_any()));
        self.crowd.notify_one();
    }

    /// An agent came or went.
    pub fn pod(&self, pod: &Pod) {
        if let Some(node) = node_of(pod) {
            let _ = self.nodes.send(ObjectRef::new(node));
            self.crowd.notify_one();
            self.edge.notify_one();
        }
    }

    /// Has the nodes of a site looked at once its agents of the edge have changed, and no others.
    ///
    /// What changed is found by comparing all of them: a watch that is begun anew tells of no deletion, and shows what is new
    /// only when it has listed everything. So they are compared now and then also where nothing was told.
    pub async fn settled(self, world: World) -> anyhow::Result<()> {
        let mut known: BTreeMap<String, EdgeAgent> = BTreeMap::new();
        loop {
            // That nothing was told is as good a reason.
            let _ = timeout(EDGE_AGAIN, self.edge.notified()).await;
            tokio::time::sleep(SETTLE).await;
            let now: BTreeMap<String, EdgeAgent> =
                edge::agents(&world).into_iter().map(|agent| (agent.node.clone(), agent)).collect();
            let gone = known.iter().filter(|(node, agent)| now.get(*node) != Some(*agent));
            let new = now.iter().filter(|(node, agent)| known.get(*node) != Some(*agent));
            let changed: Vec<&EdgeAgent> = gone.chain(new).map(|(_, agent)| agent).collect();
            if !changed.is_empty() {
                self.sites_of(&world, &changed);
            }
            known = now;
        }
    }

    /// Every node that shares a site with one of these agents, by a label that some policy names sites by.
    fn sites_of(&self, world: &World, agents: &[&EdgeAgent]) {
        let policies = world.policies.state();
        let kept = world.revisions.state();
        let accepted: Vec<_> = policies.iter().filter_map(|policy| accepted(policy, &kept)).collect();
        let labels: BTreeSet<&str> = accepted.iter().filter_map(|policy| policy.site_label()).collect();
        let sites: BTreeSet<(&str, &str)> = agents
            .iter()
            .flat_map(|agent| {
                labels.iter().filter_map(move |label| Some((*label, agent.labels.get(*label)?.as_str())))
            })
            .collect();
        for node in world.nodes.state() {
            let is_there =
                |(label, value): &(&str, &str)| node.labels().get(*label).is_some_and(|found| found == value);
            if sites.iter().any(is_there) {
                let _ = self.nodes.send(ObjectRef::from_obj(&*node));
            }
        }
        self.crowd.notify_one();
    }

    /// All there is: when this replica begins to lead.
    pub fn everything(&self, world: &World) {
        for policy in world.policies.state() {
            let _ = self.policies.send(ObjectRef::from_obj(&*policy));
        }
        self.all_models(world);
        self.all_nodes(world);
    }

    /// Tells models and policies what nodes did, some of it at once.
    pub async fn crowd(self, world: World) -> anyhow::Result<()> {
        loop {
            self.crowd.notified().await;
            tokio::time::sleep(CROWD).await;
            self.all_models(&world);
            self.policies_of_sites(&world);
        }
    }

    /// Policies whose status tells how nodes fare.
    fn policies_of_sites(&self, world: &World) {
        for policy in world.policies.state() {
            let edge = policy.spec.tiers.edge.as_ref();
            if edge.is_some_and(|edge| {
                edge.site.is_some() || edge.url.as_ref().is_some_and(|url| url.contains(SITE))
            }) {
                let _ = self.policies.send(ObjectRef::from_obj(&*policy));
            }
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
