//! What the operator knows of the cluster: one watch a kind, kept in memory, read by every controller.
//!
//! Nothing here decides. Whatever changes is told to the [`Queues`].

use std::fmt::Debug;
use std::hash::Hash;

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, PodStatus};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy};
use tokio::task::JoinSet;
use tracing::warn;

use crate::args::Args;
use crate::queues::Queues;
use crate::revisions;

/// The label that says whose a ControllerRevision is; others' are not watched.
const OUR_REVISIONS: &str = revisions::KIND_LABEL;

/// Everything that is watched.
#[derive(Clone, Debug)]
pub struct World {
    /// Models.
    pub models: Store<InferenceModel>,
    /// Policies.
    pub policies: Store<TierPolicy>,
    /// Nodes of the cluster, without what changes with every heartbeat.
    pub nodes: Store<Node>,
    /// What nodes are told, and what they say.
    pub inference_nodes: Store<InferenceNode>,
    /// The agents' pods, as far as it matters where they are.
    pub pods: Store<Pod>,
    /// Revisions of models and policies.
    pub revisions: Store<ControllerRevision>,
}

impl World {
    /// Begins to watch. The future that comes along does the watching; it never ends by itself.
    pub fn watch(
        client: &Client,
        args: &Args,
        queues: Queues,
    ) -> (Self, impl Future<Output = anyhow::Result<()>> + use<>) {
        let any = watcher::Config::default;
        let (models, model_writer) = store();
        let (policies, policy_writer) = store();
        let (nodes, node_writer) = store();
        let (inference_nodes, inference_node_writer) = store();
        let (pods, pod_writer) = store();
        let (revisions, revision_writer) = store();
        let world = Self { models, policies, nodes, inference_nodes, pods, revisions };

        let mut watches = JoinSet::new();
        let (client, view) = (client.clone(), world.clone());
        let pods = Api::<Pod>::namespaced(client.clone(), &args.agent_namespace);
        let agents = any().labels(&args.agent_selector);
        let (q, w) = (queues.clone(), view.clone());
        watches.spawn(follow(
            Api::<InferenceModel>::all(client.clone()),
            any(),
            model_writer,
            |_| {},
            move |model| {
                q.model(&w, model);
            },
        ));
        let (q, w) = (queues.clone(), view.clone());
        watches.spawn(follow(
            Api::<TierPolicy>::all(client.clone()),
            any(),
            policy_writer,
            |_| {},
            move |policy| {
                q.policy(&w, policy);
            },
        ));
        let q = queues.clone();
        watches.spawn(follow(Api::<Node>::all(client.clone()), any(), node_writer, slim_node, move |node| {
            q.node(node);
        }));
        let q = queues.clone();
        watches.spawn(follow(
            Api::<InferenceNode>::all(client.clone()),
            any(),
            inference_node_writer,
            |_| {},
            move |node| q.inference_node(node),
        ));
        let q = queues;
        watches.spawn(follow(pods, agents, pod_writer, slim_pod, move |pod| q.pod(pod)));
        watches.spawn(follow(
            Api::<ControllerRevision>::all(client),
            any().labels(OUR_REVISIONS),
            revision_writer,
            |_| {},
            |_| {},
        ));
        let watching = async move {
            watches.join_next().await;
            anyhow::bail!("a watch of the cluster ended")
        };
        (world, watching)
    }

    /// Resolves once every kind has been listed.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.models.wait_until_ready().await?;
        self.policies.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.inference_nodes.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.revisions.wait_until_ready().await?;
        Ok(())
    }
}

/// One kind's watch, for ever.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    writer: kube::runtime::reflector::store::Writer<K>,
    slim: impl Fn(&mut K) + Send,
    touched: impl Fn(&K) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    watcher(api, config)
        .default_backoff()
        .modify(|object: &mut K| {
            object.managed_fields_mut().clear();
            slim(object);
        })
        .reflect(writer)
        .touched_objects()
        .for_each(|seen| {
            match seen {
                Ok(object) => touched(&object),
                Err(error) => warn!(kind = %K::kind(&()), %error, "a watch broke; it is begun again"),
            }
            std::future::ready(())
        })
        .await;
}

/// Nodes carry images, addresses and heartbeats: kilobytes each that nobody here reads.
fn slim_node(node: &mut Node) {
    node.metadata.annotations = None;
    node.spec = None;
    if let Some(status) = &mut node.status {
        let conditions = status.conditions.take().map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "Ready");
            conditions
        });
        *status = k8s_openapi::api::core::v1::NodeStatus { conditions, ..Default::default() };
    }
}

/// What says where an agent is, and whether and where it answers.
fn slim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    let spec = pod.spec.take().unwrap_or_default();
    let ports = spec
        .containers
        .into_iter()
        .map(|container| Container { ports: container.ports, ..Container::default() });
    pod.spec = Some(PodSpec { node_name: spec.node_name, containers: ports.collect(), ..PodSpec::default() });
    if let Some(status) = &mut pod.status {
        let conditions = status.conditions.take().map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "Ready");
            conditions
        });
        let (pod_ip, host_ip) = (status.pod_ip.take(), status.host_ip.take());
        *status = PodStatus { conditions, pod_ip, host_ip, ..PodStatus::default() };
    }
}
