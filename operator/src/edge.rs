//! The agents of the edge, as pods and Nodes show them. Pure; computed anew whenever it is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use terrace_crds::Tier;
use terrace_fleet::{EdgeAgent, NodeFacts, NotReady, Reachable};

use crate::world::World;

/// What the port of the protocol over HTTP is called in an agent's pod.
const HTTP: &str = "http";
/// What the one over gRPC is called.
const GRPC: &str = "grpc";

/// Every agent on a Node of the edge, by the name of the Node.
pub fn agents(world: &World) -> Vec<EdgeAgent> {
    let node = |name: &str| world.nodes.get(&ObjectRef::new(name));
    agents_among(&world.pods.state(), node)
}

fn agents_among(pods: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Vec<EdgeAgent> {
    // One agent a node: of a pod that goes and the one that follows it, the one that answers.
    let mut agents: BTreeMap<String, EdgeAgent> = BTreeMap::new();
    for pod in pods {
        let Some(name) = node_of(pod) else { continue };
        let Some(node) = node(name).filter(|node| NodeFacts::tier_of(node.labels()) == Tier::Edge) else {
            continue;
        };
        let standing = standing(pod);
        let known = agents.get(name).is_some_and(|known| known.standing.is_ok() || standing.is_err());
        if !known {
            let agent = EdgeAgent { node: name.to_owned(), labels: node.labels().clone(), standing };
            agents.insert(name.to_owned(), agent);
        }
    }
    agents.into_values().collect()
}

/// The Node that a pod is on.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Where an agent answers. A port of the host stays what it is when the pod is replaced, so it is preferred.
fn standing(pod: &Pod) -> Result<Reachable, NotReady> {
    let status = pod.status.as_ref().ok_or(NotReady::Pod)?;
    let mut conditions = status.conditions.iter().flatten();
    if pod.metadata.deletion_timestamp.is_some()
        || !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    {
        return Err(NotReady::Pod);
    }
    let ports = || {
        pod.spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
    };
    let named = |name: &'static str| ports().find(move |port| port.name.as_deref() == Some(name));
    let (http, grpc) = (named(HTTP), named(GRPC));
    let is_on_host = [http, grpc].into_iter().flatten().all(|port| port.host_port.is_some());
    let address = if is_on_host && http.or(grpc).is_some() { &status.host_ip } else { &status.pod_ip };
    let address: IpAddr = address.as_deref().and_then(|text| text.parse().ok()).ok_or(NotReady::Address)?;
    let number = |port: &ContainerPort| {
        let number = if is_on_host { port.host_port? } else { port.container_port };
        u16::try_from(number).ok().filter(|number| *number > 0)
    };
    let (http_port, grpc_port) = (http.and_then(number), grpc.and_then(number));
    if http_port.or(grpc_port).is_none() {
        return Err(NotReady::Ports);
    }
    Ok(Reachable { address, http_port, grpc_port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(node: &str, ports: &Value, status: &Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": format!("agent-{node}")},
            "spec": {"nodeName": node, "containers": [{"name": "log"}, {"name": "agent", "ports": ports}]},
            "status": status,
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn ready(is_ready: &str) -> Value {
        json!({"podIP": "10.0.0.7", "hostIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": is_ready}]})
    }

    fn node(tier: Option<&str>) -> Arc<Node> {
        let labels = tier.map_or_else(|| json!({}), |tier| json!({"terrace.dev/tier": tier, "zone": "oslo"}));
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "gw", "labels": labels}})).unwrap())
    }

    #[test]
    fn an_agent_answers_at_its_hosts_ports_or_at_its_pods() {
        let at = |address: &str, http_port, grpc_port| {
            Ok(Reachable { address: address.parse().unwrap(), http_port, grpc_port })
        };
        for (ports, status, expected) in [
            (
                json!([{"name": "http", "containerPort": 8000}, {"name": "grpc", "containerPort": 8001}]),
                ready("True"),
                at("10.0.0.7", Some(8000), Some(8001)),
            ),
            (
                json!([{"name": "http", "containerPort": 8000, "hostPort": 80}]),
                ready("True"),
                at("192.0.2.1", Some(80), None),
            ),
            (
                json!([{"name": "http", "containerPort": 8000, "hostPort": 80}, {"name": "grpc", "containerPort": 8001}]),
                ready("True"),
                at("10.0.0.7", Some(8000), Some(8001)),
            ),
            (json!([{"name": "admin", "containerPort": 8002}]), ready("True"), Err(NotReady::Ports)),
            (json!([]), ready("True"), Err(NotReady::Ports)),
            (json!([{"name": "http", "containerPort": 8000}]), ready("False"), Err(NotReady::Pod)),
            (json!([{"name": "http", "containerPort": 8000}]), ready("Unknown"), Err(NotReady::Pod)),
            (
                json!([{"name": "http", "containerPort": 8000}]),
                json!({"podIP": "10.0.0.7"}),
                Err(NotReady::Pod),
            ),
            (
                json!([{"name": "http", "containerPort": 8000}]),
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
                Err(NotReady::Address),
            ),
        ] {
            assert_eq!(standing(&pod("gw", &ports, &status)), expected, "{ports} {status}");
        }
        let mut going =
            Pod::clone(&pod("gw", &json!([{"name": "http", "containerPort": 8000}]), &ready("True")));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(standing(&going), Err(NotReady::Pod));
    }

    #[test]
    fn only_nodes_of_the_edge_have_edge_agents_and_each_has_one() {
        let ports = json!([{"name": "http", "containerPort": 8000}]);
        let both = [pod("gw", &ports, &ready("False")), pod("gw", &ports, &ready("True"))];
        for pods in [both.clone(), {
            let [one, other] = both;
            [other, one]
        }] {
            for (tier, count) in [(Some("edge"), 1), (Some("device"), 0), (Some("cloud"), 0), (None, 0)] {
                let agents = agents_among(&pods, |_| Some(node(tier)));
                assert_eq!(agents.len(), count, "{tier:?}");
                assert!(agents.iter().all(|agent| agent.standing.is_ok() && agent.labels["zone"] == "oslo"));
            }
            assert!(agents_among(&pods, |_| None).is_empty());
        }
    }
}
