//! What is to be looked at again, because something that it depends on changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

use crate::catalog::accepted;
use crate::edge::{self, node_of};
use crate::world::World;

/// The nodes' reports are many: models look at them together, this long after the first.
const CROWD: Duration = Duration::from_millis(100);

/// Agents of the edge that come and go are told of this long after the first change: one that is started again changes
/// more than once.
const SETTLE: Duration = Duration::from_secs(1);

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
    /// Nodes whose agent of the edge may have come, gone or moved; told of once nothing has changed for a while.
    edge: Arc<Edge>,
}

/// The agents of the edge, as they were when the nodes of their sites were last looked at.
#[derive(Debug, Default)]
struct Edge {
    known: Mutex<HashMap<String, EdgeAgent>>,
    touched: Mutex<BTreeSet<String>>,
    changed: Notify,
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
    pub fn node(&self, world: &World, node: &Node) {
        let _ = self.nodes.send(ObjectRef::from_obj(node));
        self.crowd.notify_one();
        self.maybe_edge(world, &node.name_any());
    }

    /// What a node was told, or what it says, changed.
    pub fn inference_node(&self, node: &InferenceNode) {
        let _ = self.nodes.send(ObjectRef::new(&node.name_any()));
        self.crowd.notify_one();
    }

    /// An agent came or went.
    pub fn pod(&self, world: &World, pod: &Pod) {
        if let Some(node) = node_of(pod) {
            let _ = self.nodes.send(ObjectRef::new(node));
            self.crowd.notify_one();
            self.maybe_edge(world, node);
        }
    }

    /// Takes note if the agent of the edge on a node is not as it was.
    fn maybe_edge(&self, world: &World, node: &str) {
        let now = edge::agent_on(world, node);
        let is_news = lock(&self.edge.known).get(node) != now.as_ref();
        if is_news && lock(&self.edge.touched).insert(node.to_owned()) {
            self.edge.changed.notify_one();
        }
    }

    /// Has the nodes of a site looked at once its agents of the edge have changed, and no others.
    pub async fn settled(self, world: World) -> anyhow::Result<()> {
        loop {
            self.edge.changed.notified().await;
            tokio::time::sleep(SETTLE).await;
            let touched = std::mem::take(&mut *lock(&self.edge.touched));
            let mut changed = Vec::new();
            for node in touched {
                let now = edge::agent_on(&world, &node);
                let mut known = lock(&self.edge.known);
                let before = match &now {
                    Some(now) => known.insert(node, now.clone()),
                    None => known.remove(&node),
                };
                if before != now {
                    changed.extend(before.into_iter().chain(now));
                }
            }
            self.sites_of(&world, &changed);
        }
    }

    /// Every node that shares a site with one of these agents, by a label that some policy names sites by.
    fn sites_of(&self, world: &World, agents: &[EdgeAgent]) {
        let policies = world.policies.state();
        let kept = world.revisions.state();
        let accepted: Vec<_> = policies.iter().filter_map(|policy| accepted(policy, &kept)).collect();
        let labels: BTreeSet<&str> = accepted.iter().filter_map(|policy| policy.site_label()).collect();
        let sites: BTreeSet<(&str, &str)> = agents
            .iter()
            .flat_map(|agent| {
                labels.iter().filter_map(|label| Some((*label, agent.labels.get(*label)?.as_str())))
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

/// What is kept there is replaced whole, so a panic elsewhere cannot have left it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
