//! Follows this node's InferenceNode in the cluster: its spec instructs `sync`, and the board becomes its status.
//!
//! Watches that one object and nothing else. What is cut off, stopped or answered wrongly here changes nothing for
//! what serves: only a newer spec does.

mod identity;
mod report;
mod watch;

use std::sync::Arc;

use anyhow::Context as _;
use kube::{Api, Client};
use terrace_crds::InferenceNode;
use tracing::info;

use crate::node::Node;
use crate::sync::Instructions;

/// Where the cluster is, as files and environment say; nothing is sent.
pub async fn config() -> anyhow::Result<kube::Config> {
    // Its own text has every cause already.
    kube::Config::infer().await.map_err(|error| {
        anyhow::anyhow!(
            "nothing says what to serve: give --manifests DIR, or run in a pod with a ServiceAccount (or with KUBECONFIG): {error}"
        )
    })
}

/// The way to this node's object.
pub struct Cluster {
    api: Api<InferenceNode>,
    name: String,
    node: Arc<Node>,
}

impl Cluster {
    /// Reads who it is; nothing is sent yet.
    pub fn connect(config: kube::Config, name: Option<&str>, node: Arc<Node>) -> anyhow::Result<Self> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => identity::node_name(&config.auth_info)?,
        };
        info!(node = name, cluster = %config.cluster_url, "following the InferenceNode of this node");
        let client = Client::try_from(config).context("cannot talk to the cluster")?;
        Ok(Self { api: Api::all(client), name, node })
    }

    /// Never ends by itself: a cluster that is away comes back.
    pub async fn run(self, instructions: Instructions) {
        let (seen, sees) = tokio::sync::watch::channel(None);
        let watching = watch::watch(&self.api, &self.name, &self.node.board, &instructions, &seen);
        let reporting = report::report(&self.api, &self.name, &self.node.board, sees);
        tokio::join!(watching, reporting);
    }
}
