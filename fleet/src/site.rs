//! Sites: which edge agents a node may ask, and which nodes have none.
//!
//! A site is the value of a label of Nodes, and each policy says which. What a node is told is a fact about the cluster, not
//! a part of any revision: an agent that comes or goes makes no model's revision another one. Never another site's agent.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use terrace_crds::node::{EdgeAddress, NodeSite};
use terrace_crds::policy::SITE_LABEL;
use terrace_crds::{InferenceNodeSpec, Tier, TierPolicySpec};
use terrace_tiering::{Policy, SITE};

use crate::digest::Sha256;
use crate::node::NodeFacts;
use crate::summary::Verdict;

/// How many agents of its site a node is told of, as in the CRD's schema.
const MAX_TOLD: usize = 8;
/// How many sites or nodes a message names.
const NAMED: usize = 3;

/// An agent on a node of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeAgent {
    /// Its Node.
    pub node: String,
    /// The Node's labels.
    pub labels: BTreeMap<String, String>,
    /// Where it answers, or why it does not.
    pub standing: Result<Reachable, NotReady>,
}

/// Where an edge agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// Its address.
    pub address: IpAddr,
    /// Its port of the protocol over HTTP.
    pub http_port: Option<u16>,
    /// Its port of the protocol over gRPC.
    pub grpc_port: Option<u16>,
}

/// Why an edge agent is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// Its pod is not Ready.
    Pod,
    /// Its pod has no address yet.
    Address,
    /// No port of its pod has the name of a data port.
    Ports,
}

impl NotReady {
    const fn text(self) -> &'static str {
        match self {
            Self::Pod => "its pod is not Ready",
            Self::Address => "its pod has no address",
            Self::Ports => "no container port of its pod is named http or grpc",
        }
    }
}

/// The label whose value must be known on a node to reach the tiers of a policy from there.
fn label_of(policy: &TierPolicySpec) -> Option<&str> {
    let edge = policy.tiers.edge.as_ref()?;
    match (&edge.site, &edge.url) {
        (Some(site), _) => Some(site.label.as_deref().unwrap_or(SITE_LABEL)),
        (None, Some(url)) if url.contains(SITE) => Some(SITE_LABEL),
        (None, _) => None,
    }
}

/// Whether a policy asks the agents of a site, and not only for its name.
fn asks_agents(policy: &TierPolicySpec) -> bool {
    policy.tiers.edge.as_ref().is_some_and(|edge| edge.site.is_some())
}

/// The name of a node's site. An empty one is none.
fn value_of<'a>(label: &str, facts: &'a NodeFacts) -> Option<&'a str> {
    facts.labels.get(label).map(String::as_str).filter(|value| !value.is_empty())
}

/// The sites of the node `name`, for the policies of its `spec`. A node of the edge needs none: it is the edge. `agents` are
/// all there are; they are asked for only where a policy needs them.
pub fn sites(
    spec: &InferenceNodeSpec,
    name: &str,
    facts: &NodeFacts,
    agents: impl FnOnce() -> Vec<EdgeAgent>,
) -> BTreeMap<String, NodeSite> {
    if facts.tier == Tier::Edge {
        return BTreeMap::new();
    }
    // Whether the agents are asked by that label, or only the name of the site.
    let mut labels: BTreeMap<&str, bool> = BTreeMap::new();
    for policy in spec.policies.values() {
        if let Some(label) = label_of(policy) {
            *labels.entry(label).or_default() |= asks_agents(policy);
        }
    }
    let agents = if labels.values().any(|asks| *asks) { agents() } else { Vec::new() };
    let site = |(label, asks): (&str, bool)| {
        let value = value_of(label, facts)?;
        let edge = if asks { told(label, value, name, &agents) } else { Vec::new() };
        Some((label.to_owned(), NodeSite { name: value.to_owned(), edge }))
    };
    labels.into_iter().filter_map(site).collect()
}

/// The agents of the site `value` that the node `name` is told of, in the order in which it asks them. Each node has an
/// order of its own that moves as little as can be when agents come and go: so the nodes of a site spread over its agents,
/// and of a site with many an agent's end is told to those alone that asked it.
fn told(label: &str, value: &str, name: &str, agents: &[EdgeAgent]) -> Vec<EdgeAddress> {
    let here = agents.iter().filter(|agent| agent.labels.get(label).is_some_and(|found| found == value));
    let mut ranked: Vec<(u64, EdgeAddress)> = here
        .filter_map(|agent| {
            let Reachable { address, http_port, grpc_port } = agent.standing.ok()?;
            let edge = EdgeAddress { node: agent.node.clone(), address, http_port, grpc_port };
            Some((rank(name, &agent.node), edge))
        })
        .collect();
    ranked.sort_by(|(one, a), (other, b)| (one, &a.node, a.address).cmp(&(other, &b.node, b.address)));
    ranked.truncate(MAX_TOLD);
    ranked.into_iter().map(|(_, edge)| edge).collect()
}

/// The place of an agent's node in another node's order.
fn rank(node: &str, of: &str) -> u64 {
    // Its length keeps ("ab", "c") apart from ("a", "bc").
    let digest = Sha256::of(format!("{}:{node}{of}", node.len()).as_bytes());
    digest.as_bytes()[..8].iter().fold(0, |rank, byte| rank << 8 | u64::from(*byte))
}

/// How the nodes fare with a policy whose edge depends on their site; none where it does not. `nodes` are those with an
/// agent, by name.
pub fn sites_resolved(
    policy: &Policy,
    nodes: &[(&str, &NodeFacts)],
    agents: &[EdgeAgent],
) -> Option<Verdict> {
    let label = policy.site_label()?;
    let asks = asks_agents(&policy.to_spec());
    let mut unlabelled = Vec::new();
    let mut sites: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, facts) in nodes.iter().filter(|(_, facts)| facts.tier != Tier::Edge) {
        match value_of(label, facts) {
            Some(value) => sites.entry(value).or_default().push(name),
            None => unlabelled.push(*name),
        }
    }
    let count = sites.len();
    let lacking: Vec<(&str, Vec<&str>)> =
        sites.into_iter().filter(|(value, _)| asks && told(label, value, "", agents).is_empty()).collect();
    let verdict = |holds, reason: &str, message| Some(Verdict { holds, reason: reason.to_owned(), message });
    let mut told = Vec::new();
    if !unlabelled.is_empty() {
        let nodes = plural(unlabelled.len(), "node has", "nodes have");
        told.push(format!("{nodes} no label {label}, and so no edge: {}", named(&unlabelled)));
    }
    if !lacking.is_empty() {
        let sites = plural(lacking.len(), "site has", "sites have");
        let each: Vec<String> =
            lacking.iter().map(|(value, nodes)| lacks(label, value, nodes.len(), agents)).collect();
        let each: Vec<&str> = each.iter().map(String::as_str).collect();
        told.push(format!("{sites} no ready edge agent: {}", named(&each)));
    }
    match (lacking.is_empty(), told.is_empty()) {
        (_, true) => {
            let message = format!("{} of {label} have their edge", plural(count, "site", "sites"));
            verdict(true, "AllSites", message)
        }
        (true, false) => verdict(false, "SiteUnknown", told.join("; ")),
        (false, false) => verdict(false, "NoEdgeAgent", told.join("; ")),
    }
}

/// `oslo (2 nodes; gateway-a: its pod is not Ready)`
fn lacks(label: &str, value: &str, nodes: usize, agents: &[EdgeAgent]) -> String {
    let whys: BTreeSet<String> = agents
        .iter()
        .filter(|agent| agent.labels.get(label).is_some_and(|found| found == value))
        .filter_map(|agent| Some(format!("{}: {}", agent.node, agent.standing.err()?.text())))
        .collect();
    let whys: Vec<&str> = whys.iter().map(String::as_str).collect();
    let why = if whys.is_empty() {
        "no node there is labelled terrace.dev/tier=edge and has an agent".to_owned()
    } else {
        named(&whys)
    };
    format!("{value} ({}; {why})", plural(nodes, "node", "nodes"))
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn named(all: &[&str]) -> String {
    let told = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
