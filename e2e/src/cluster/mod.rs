//! A real cluster's control plane, an operator and agents: what tests on Kubernetes are made of.
//!
//! Scheduler, kubelet and containers are not there yet: a test makes Nodes and agents' Pods, and writes their status as
//! a kubelet would; agents and operators run as processes with the tokens that pods would have. A [`Kubelet`] gives them what
//! the DaemonSet's volumes hold, too.

mod clock;
mod control_plane;
mod kubelet;
mod objects;
mod operator;
mod process;
mod proxy;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use terrace_crds::{InferenceModel, InferenceNode, TierPolicy};

use crate::agent::Launch;
use crate::site::Site;
use crate::{checkout, wait};

pub use control_plane::ControlPlane;
pub use kubelet::{Kubelet, host_ip};
pub use objects::{AGENTS, SYSTEM};
pub use operator::{Operator, OperatorLaunch};
pub use proxy::{Proxy, Weather};

/// A cluster with Terrace's kinds, accounts and rules, and no node yet.
pub struct Cluster {
    control_plane: ControlPlane,
    folder: TempDir,
    client: Client,
}

impl Cluster {
    /// Starts one, and applies what a user applies: `crds/` and `e2e/manifests/cluster/`.
    pub async fn start() -> Result<Self> {
        // Kube's client needs it; another test of this process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = TempDir::with_prefix("terrace-cluster-")?;
        let control_plane = ControlPlane::start(folder.path()).await?;
        let client = control_plane.client()?;
        let mut cluster = Self { control_plane, folder, client };
        cluster.apply_files(&checkout().join("crds")).await?;
        cluster.wait_for_kinds().await?;
        cluster.control_plane.start_controller_manager()?;
        cluster.apply_files(&manifests()).await?;
        for (namespace, account) in
            [(SYSTEM, "terrace-operator"), (AGENTS, "terrace-agent"), (AGENTS, "default")]
        {
            let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
            wait::until("a ServiceAccount", || async { Ok(accounts.get(account).await?) }).await?;
        }
        cluster.wait_for_admission().await?;
        Ok(cluster)
    }

    /// An admission policy is enforced a moment after it was applied.
    async fn wait_for_admission(&self) -> Result<()> {
        const NAME: &str = "admission-is-enforced";
        let node = InferenceNode::new(NAME, Default::default());
        self.inference_nodes().create(&Default::default(), &node).await?;
        let agent = Api::<InferenceNode>::all(self.client_with(&self.token(AGENTS, "terrace-agent").await?)?);
        let status = json!({"status": {"agent": {"version": "0", "runtime": "none"}}});
        wait::until("the admission policy to be enforced", || async {
            match agent.patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status)).await {
                Err(kube::Error::Api(refused)) if refused.message.contains("bound to no node") => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        })
        .await?;
        self.inference_nodes().delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The processes beneath.
    pub const fn control_plane(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// A client with another token.
    pub fn client_with(&self, token: &str) -> Result<Client> {
        self.control_plane.client_with(token)
    }

    /// Server-side apply of every document in a file.
    pub async fn apply_file(&self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        self.apply(&text).await.with_context(|| file.display().to_string())
    }

    /// In the order in which kubectl applies a folder.
    async fn apply_files(&self, folder: &Path) -> Result<()> {
        let files = std::fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        let is_yaml = |file: &&PathBuf| file.extension().is_some_and(|suffix| suffix == "yaml");
        let mut files: Vec<&PathBuf> = files.iter().filter(is_yaml).collect();
        files.sort();
        for file in files {
            self.apply_file(file).await?;
        }
        Ok(())
    }

    /// Server-side apply of every document in a text; a field that a kind does not have is refused.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let parameters = PatchParams::apply("kubectl").force().validation_strict();
        for document in serde_yaml_ng::Deserializer::from_str(yaml) {
            let value = Value::deserialize(document)?;
            let object: DynamicObject = serde_json::from_value(value)?;
            self.dynamic(&object)
                .await?
                .patch(&object.name_any(), &parameters, &Patch::Apply(&object))
                .await
                .with_context(|| format!("applying {}", object.name_any()))?;
        }
        Ok(())
    }

    async fn dynamic(&self, object: &DynamicObject) -> Result<Api<DynamicObject>> {
        let types = object.types.as_ref().context("a manifest without kind")?;
        let (resource, capabilities) = pinned_kind(&self.client, &GroupVersionKind::try_from(types)?).await?;
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &namespace, &resource),
        })
    }

    async fn wait_for_kinds(&self) -> Result<()> {
        wait::until("the kinds to be served", || async {
            Api::<InferenceNode>::all(self.client.clone()).list(&ListParams::default()).await?;
            Api::<InferenceModel>::all(self.client.clone()).list(&ListParams::default()).await?;
            Api::<TierPolicy>::all(self.client.clone()).list(&ListParams::default()).await?;
            Ok(())
        })
        .await
    }

    /// A Node that is Ready, and an agent's Pod on it that runs, as scheduler and kubelet would leave them.
    pub async fn add_node(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.add(name, labels, objects::agent_pod(name)).await?;
        self.pod_status(name, json!({"phase": "Running"})).await
    }

    /// The same, with an agent that is ready and takes requests at `address`.
    pub async fn add_node_at(&self, name: &str, labels: &[(&str, &str)], address: SocketAddr) -> Result<()> {
        self.add(name, labels, objects::agent_pod_at(name, address.port())).await?;
        let ip = address.ip();
        self.pod_status(name, json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]})).await?;
        self.set_agent_ready(name, true).await
    }

    /// A Node with a pod of the DaemonSet, at an address that both share.
    pub async fn add_node_of_daemons(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        address: IpAddr,
    ) -> Result<()> {
        self.add(name, labels, kubelet::daemon_pod(&self.client, name).await?).await?;
        self.pod_status(name, kubelet::running_at(address)).await
    }

    /// Mounts what the DaemonSet's pod on a node needs; fails where a kubelet would wait.
    pub async fn kubelet(&self, site: &Site, node: &str) -> Result<Kubelet> {
        let pod = Api::<Pod>::namespaced(self.client.clone(), AGENTS).get(&objects::pod_name(node)).await?;
        Kubelet::mount(self.client.clone(), site, pod).await
    }

    /// The DaemonSet's agent on a node, with what its kubelet mounted. It still needs a start.
    pub async fn daemon(&self, kubelet: &Kubelet, site: &Site, node: &str) -> Result<Launch> {
        kubelet.apply(self.agent(site, node).await?).await
    }

    async fn add(&self, name: &str, labels: &[(&str, &str)], agent: Pod) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.create(&Default::default(), &objects::node(name, labels)).await?;
        self.set_ready(name, true).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), AGENTS);
        pods.create(&Default::default(), &agent).await?;
        Ok(())
    }

    async fn pod_status(&self, node: &str, status: Value) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), AGENTS);
        let patch = Patch::Strategic(json!({"status": status}));
        pods.patch_status(&objects::pod_name(node), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// What a kubelet would make of an agent's readiness probe.
    pub async fn set_agent_ready(&self, node: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let condition = json!({"type": "Ready", "status": status, "reason": "Test"});
        self.pod_status(node, json!({"conditions": [condition]})).await
    }

    /// Gives a Node a label, or takes it away.
    pub async fn set_label(&self, node: &str, key: &str, value: Option<&str>) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
        nodes.patch(node, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Deletes an agent's Pod; its Node stays.
    pub async fn remove_agent(&self, node: &str) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), AGENTS);
        pods.delete(&objects::pod_name(node), &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// What a kubelet, or its silence, would make of a Node.
    pub async fn set_ready(&self, node: &str, ready: bool) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let status = if ready { "True" } else { "Unknown" };
        let condition = json!({"type": "Ready", "status": status, "reason": "Test", "message": "",
            "lastHeartbeatTime": null, "lastTransitionTime": null});
        nodes
            .patch_status(
                node,
                &PatchParams::default(),
                &Patch::Merge(json!({"status": {"conditions": [condition]}})),
            )
            .await?;
        Ok(())
    }

    /// Deletes a Node; its agent's Pod goes with it at once.
    pub async fn remove_node(&self, node: &str) -> Result<()> {
        self.remove_agent(node).await?;
        Api::<Node>::all(self.client.clone()).delete(node, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The token that a kubelet would put into the agent's Pod on a node.
    pub async fn agent_token(&self, node: &str) -> Result<String> {
        objects::bound_token(&self.client, AGENTS, "terrace-agent", Some(&objects::pod_name(node)), &[]).await
    }

    /// A token of an account that is bound to nothing.
    pub async fn token(&self, namespace: &str, account: &str) -> Result<String> {
        objects::bound_token(&self.client, namespace, account, None, &[]).await
    }

    /// A token of an account for somebody else than the API server, as a Pod's volume has it.
    pub async fn token_for(&self, namespace: &str, account: &str, audience: &str) -> Result<String> {
        objects::bound_token(&self.client, namespace, account, None, &[audience]).await
    }

    /// What the API server tells anyone of its tokens: their issuer, and the keys that sign them.
    pub async fn token_keys(&self) -> Result<(String, String)> {
        let get = |path: &str| http::Request::get(path).body(Vec::new());
        let told = self.client.request_text(get("/.well-known/openid-configuration")?).await?;
        let issuer =
            serde_json::from_str::<Value>(&told)?["issuer"].as_str().context("no issuer")?.to_owned();
        Ok((issuer, self.client.request_text(get("/openid/v1/jwks")?).await?))
    }

    /// A kubeconfig for a token, as a process is given it.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.control_plane.kubeconfig(self.folder.path(), name, token)
    }

    /// What kubectl prints when an administrator gives it these arguments in a checkout.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.control_plane.kubectl()?;
        kubectl.args(arguments).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || kubectl.output()).await??;
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "kubectl {}: {out}{error}", arguments.join(" "));
        Ok(format!("{out}{error}"))
    }

    /// A proxy before the API server.
    pub async fn proxy(&self) -> Result<Proxy> {
        Proxy::start(self.control_plane.plain_client()?).await
    }

    /// A kubeconfig for a token that leads through a proxy.
    pub fn kubeconfig_through(&self, proxy: &Proxy, name: &str, token: &str) -> Result<PathBuf> {
        self.control_plane.kubeconfig_at(proxy.url(), self.folder.path(), name, token)
    }

    /// An agent on a node, with the token of its Pod. It still needs a start.
    pub async fn agent(&self, site: &Site, node: &str) -> Result<Launch> {
        let token = self.agent_token(node).await?;
        Ok(site.agent().in_cluster(&self.kubeconfig(node, &token)?))
    }

    /// An operator with its account's token. It still needs a start.
    pub async fn operator(&self, identity: &str) -> Result<OperatorLaunch> {
        let token = self.token(SYSTEM, "terrace-operator").await?;
        Ok(OperatorLaunch::new(identity, self.kubeconfig(identity, &token)?, self.folder.path()))
    }

    /// Models of the default namespace.
    pub fn models(&self) -> Api<InferenceModel> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Policies of the default namespace.
    pub fn policies(&self) -> Api<TierPolicy> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// What nodes are told and say.
    pub fn inference_nodes(&self) -> Api<InferenceNode> {
        Api::all(self.client.clone())
    }

    /// Waits until a condition of a model has this status and reason.
    pub async fn wait_model(
        &self,
        name: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> Result<InferenceModel> {
        wait::until("a condition of the model", || async {
            let model = self.models().get(name).await?;
            let observed = model.status.as_ref().and_then(|status| status.observed_generation);
            let conditions =
                model.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            let holds = conditions
                .iter()
                .any(|found| found.type_ == condition && found.status == status && found.reason == reason);
            ensure!(
                holds && observed == model.metadata.generation,
                "not {condition}={status} ({reason}): {:?}",
                model.status
            );
            Ok(model)
        })
        .await
    }

    /// `reason: note` of every Event about an object, oldest first.
    pub async fn story(&self, name: &str) -> Result<Vec<String>> {
        let events =
            Api::<Event>::namespaced(self.client.clone(), "default").list(&ListParams::default()).await?;
        let mut events: Vec<Event> =
            events.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(name)).collect();
        events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        let told = events.into_iter().map(|event| {
            format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
        });
        Ok(told.collect())
    }
}

/// The manifests that make a cluster ready for models, as the README applies them.
pub fn manifests() -> PathBuf {
    checkout().join("e2e/manifests/cluster")
}

/// Models and policies that the pages apply.
pub fn examples() -> PathBuf {
    checkout().join("e2e/manifests/examples")
}
