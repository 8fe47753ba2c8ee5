//! Objects that scheduler and kubelet would make.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

/// The operator's namespace.
pub const SYSTEM: &str = "terrace-system";
/// The agents' namespace.
pub const AGENTS: &str = "terrace-agents";

/// The Pod of the agent on a node.
pub fn pod_name(node: &str) -> String {
    format!("terrace-agent-{node}")
}

#[allow(clippy::expect_used)] // literals
pub fn node(name: &str, labels: &[(&str, &str)]) -> Node {
    let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a node")
}

/// The Pod of the agent on a node, which takes requests at a port that has a name.
#[allow(clippy::expect_used)] // literals
pub fn agent_pod_at(node: &str, port: u16) -> Pod {
    let mut pod = serde_json::to_value(agent_pod(node)).expect("a pod");
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": port}]);
    serde_json::from_value(pod).expect("a pod")
}

#[allow(clippy::expect_used)] // literals
pub fn agent_pod(node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": pod_name(node), "labels": {"app.kubernetes.io/name": "terrace-agent"}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "terrace-agent",
            "containers": [{"name": "agent", "image": "localhost/terrace-agent:test"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }))
    .expect("a pod")
}

/// A token of a ServiceAccount, bound to a Pod (and so to its Node) where there is one; for the API server where no audience is
/// named.
pub async fn bound_token(
    client: &Client,
    namespace: &str,
    account: &str,
    pod: Option<&str>,
    audiences: &[&str],
) -> Result<String> {
    let bound_object_ref = match pod {
        Some(pod) => Some(reference(&Api::<Pod>::namespaced(client.clone(), namespace).get(pod).await?)),
        None => None,
    };
    let spec = TokenRequestSpec {
        audiences: audiences.iter().map(|&audience| audience.to_owned()).collect(),
        bound_object_ref,
        expiration_seconds: Some(3600),
    };
    token(client, (namespace, account), spec).await
}

/// What a token is bound to that ends with a Pod.
pub fn reference(pod: &Pod) -> BoundObjectReference {
    BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    }
}

/// A token of a ServiceAccount, as its namespace and name, made by the API server.
pub async fn token(
    client: &Client,
    (namespace, account): (&str, &str),
    spec: TokenRequestSpec,
) -> Result<String> {
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("no token")?.token)
}
