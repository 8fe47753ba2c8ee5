//! The policy that a tool is asked about, out of a file of manifests.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use terrace_tiering::Policy;

use crate::{args, manifests};

/// Which policy, and what else a node that obeys it knows.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// Manifest with the policy, or - for standard input.
    #[arg(long, value_name = "FILE")]
    policy: String,

    /// Which policy, where the manifest has several.
    #[arg(long, value_name = "NAME")]
    policy_name: Option<String>,

    /// A label of the node that decides. Repeatable.
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = args::label)]
    node_labels: Vec<(String, String)>,
}

impl PolicyArgs {
    /// The policy.
    pub(super) fn policy(&self) -> anyhow::Result<Policy> {
        read(&self.policy, self.policy_name.as_deref())
    }

    /// The node's labels.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.node_labels.iter().cloned().collect()
    }
}

/// The only policy of a file; or, of several, the one with this name.
fn read(file: &str, name: Option<&str>) -> anyhow::Result<Policy> {
    let text = super::text(file, manifests::MOST_BYTES)?;
    let set = manifests::read_text(file, &text, "default").map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", faults.join("\n"))
    })?;
    let mut named = set.policies.iter().filter(|policy| name.is_none_or(|name| policy.name_any() == name));
    let policy = match (named.next(), named.next()) {
        (Some(policy), None) => policy,
        (None, _) => anyhow::bail!("{file} has no such TierPolicy"),
        (Some(_), Some(_)) => anyhow::bail!("{file} has several TierPolicies: say which with --policy-name"),
    };
    Policy::parse(&policy.spec).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{file}: {}", faults.join("; "))
    })
}
