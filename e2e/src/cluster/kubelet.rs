//! What a kubelet makes of a pod of the DaemonSet: the files of its volumes, from what the API server has, and the arguments
//! and environment of its container. So what runs in a test is what is applied.
//!
//! The folder of the node (`hostPath`) is the site's data directory, and ports are bound at an address of the node's own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume as Spec,
};
use kube::{Api, Client};
use serde_json::json;

use super::objects::{self, AGENTS};
use crate::agent::Launch;
use crate::site::Site;
use crate::volume::Volume;

/// What every pod is given by the API server itself; agents of tests have a kubeconfig instead.
const OF_THE_API_SERVER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Files by their paths.
type Files = BTreeMap<String, String>;

/// The kubelet of one agent's pod.
pub struct Kubelet {
    client: Client,
    pod: Pod,
    address: IpAddr,
    mounts: Vec<Mount>,
}

/// A volume where the container sees it.
#[derive(Debug)]
struct Mount {
    path: String,
    spec: Spec,
    volume: Volume,
}

/// An address of this machine that no other node of any test has.
pub fn host_ip() -> IpAddr {
    static HOSTS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = HOSTS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high | 1, low, host).into()
}

/// The pod that the DaemonSet has on a node.
pub async fn daemon_pod(client: &Client, node: &str) -> Result<Pod> {
    let daemons = Api::<DaemonSet>::namespaced(client.clone(), AGENTS).get("terrace-agent").await?;
    let template = daemons.spec.context("no spec")?.template;
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    pod.metadata.name = Some(objects::pod_name(node));
    pod.spec.as_mut().context("no pod")?.node_name = Some(node.to_owned());
    Ok(pod)
}

impl Kubelet {
    /// Mounts the pod's volumes below the site's folder. Fails as a kubelet does that waits: with what is missing.
    pub(super) async fn mount(client: Client, site: &Site, pod: Pod) -> Result<Self> {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).context("no address")?;
        let mut kubelet = Self { client, address: ip.parse()?, pod, mounts: Vec::new() };
        let container = kubelet.container()?.clone();
        let volumes = kubelet.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
        for mount in
            container.volume_mounts.iter().flatten().filter(|mount| mount.mount_path != OF_THE_API_SERVER)
        {
            let spec = volumes.iter().find(|volume| volume.name == mount.name).context("no such volume")?;
            if spec.host_path.is_some() {
                continue;
            }
            let files = kubelet.files(spec).await.with_context(|| format!("volume {}", spec.name))?;
            let volume = Volume::new(site.folder().join(&spec.name), &borrowed(&files))?;
            kubelet.mounts.push(Mount { path: mount.mount_path.clone(), spec: spec.clone(), volume });
        }
        Ok(kubelet)
    }

    /// Brings the volumes up to date, as a kubelet does every minute or so; tokens are renewed each time.
    pub async fn sync(&mut self) -> Result<()> {
        for place in 0..self.mounts.len() {
            let files = self.files(&self.mounts[place].spec).await?;
            self.mounts[place].volume.turn(&borrowed(&files))?;
        }
        Ok(())
    }

    /// Where a file of the container is.
    pub fn path(&self, path: &str) -> Option<PathBuf> {
        self.mounts.iter().find_map(|mount| {
            let file = path.strip_prefix(&mount.path)?.strip_prefix('/');
            Some(file.map_or_else(|| mount.volume.folder().to_owned(), |file| mount.volume.file(file)))
                .filter(|_| file.is_some() || path == mount.path)
        })
    }

    /// An agent with the container's arguments and environment.
    pub(super) async fn apply(&self, mut launch: Launch) -> Result<Launch> {
        let container = self.container()?;
        for argument in container.args.iter().flatten() {
            let (flag, value) =
                argument.split_once('=').with_context(|| format!("{argument} has no value"))?;
            launch = match (self.path(value), value.strip_prefix("0.0.0.0:")) {
                (Some(path), _) => launch.set(flag, path),
                (None, Some(port)) => launch.set(flag, format!("{}:{port}", self.address)),
                (None, None) => launch.set(flag, value),
            };
        }
        for variable in container.env.iter().flatten() {
            let source = variable.value_from.as_ref().and_then(|source| source.config_map_key_ref.as_ref());
            let value = match (&variable.value, source) {
                (Some(value), _) => value.clone(),
                (None, Some(source)) => {
                    let data = self
                        .config_map(&source.name)
                        .await?
                        .with_context(|| format!("configmap {} not found", source.name))?;
                    data.get(&source.key).with_context(|| format!("no {} in it", source.key))?.clone()
                }
                (None, None) => bail!("{} comes from where this kubelet does not look", variable.name),
            };
            launch = launch.env(&variable.name, value);
        }
        Ok(launch)
    }

    fn container(&self) -> Result<&Container> {
        self.pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("no container")
    }

    /// What a volume holds now.
    async fn files(&self, spec: &Spec) -> Result<Files> {
        if let Some(source) = &spec.secret {
            let name = source.secret_name.as_deref().context("no name")?;
            return chosen(
                ("secret", name),
                self.secret(name).await?,
                source.items.as_ref(),
                source.optional,
            );
        }
        if let Some(source) = &spec.config_map {
            let data = self.config_map(&source.name).await?;
            return chosen(("configmap", &source.name), data, source.items.as_ref(), source.optional);
        }
        let projected = spec.projected.as_ref().context("a volume that this kubelet does not mount")?;
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            if let Some(token) = &source.service_account_token {
                files.insert(token.path.clone(), self.token(token).await?);
            }
            if let Some(secret) = &source.secret {
                let data = self.secret(&secret.name).await?;
                files.extend(chosen(("secret", &secret.name), data, secret.items.as_ref(), secret.optional)?);
            }
            if let Some(map) = &source.config_map {
                let data = self.config_map(&map.name).await?;
                files.extend(chosen(("configmap", &map.name), data, map.items.as_ref(), map.optional)?);
            }
        }
        Ok(files)
    }

    async fn token(&self, wanted: &ServiceAccountTokenProjection) -> Result<String> {
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let spec = TokenRequestSpec {
            audiences: wanted.audience.iter().cloned().collect(),
            bound_object_ref: Some(objects::reference(&self.pod)),
            expiration_seconds: wanted.expiration_seconds,
        };
        objects::token(&self.client, (AGENTS, account.context("no account")?), spec).await
    }

    async fn config_map(&self, name: &str) -> Result<Option<Files>> {
        let map = Api::<ConfigMap>::namespaced(self.client.clone(), AGENTS).get_opt(name).await?;
        Ok(map.map(|map| map.data.unwrap_or_default()))
    }

    async fn secret(&self, name: &str) -> Result<Option<Files>> {
        let secret = Api::<Secret>::namespaced(self.client.clone(), AGENTS).get_opt(name).await?;
        let Some(secret) = secret else { return Ok(None) };
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, ByteString(bytes))| Ok((key, String::from_utf8(bytes)?)))
            .collect::<Result<_>>()
            .map(Some)
    }
}

/// What a volume takes of an object's data; nothing where it is not there and need not be.
fn chosen(
    (kind, name): (&str, &str),
    data: Option<Files>,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
) -> Result<Files> {
    let optional = optional.unwrap_or(false);
    let Some(data) = data else {
        return if optional { Ok(Files::new()) } else { bail!("{kind} \"{name}\" not found") };
    };
    let Some(items) = items else { return Ok(data) };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(text) => drop(files.insert(item.path.clone(), text.clone())),
            None if optional => {}
            None => bail!("{kind} \"{name}\" has no key {}", item.key),
        }
    }
    Ok(files)
}

fn borrowed(files: &Files) -> Vec<(&str, &str)> {
    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
}

/// The status of a pod that runs on a host with this address, and has its own there.
pub fn running_at(address: IpAddr) -> serde_json::Value {
    let list = json!([{"ip": address}]);
    json!({"phase": "Running", "podIP": address, "podIPs": list, "hostIP": address, "hostIPs": list})
}
