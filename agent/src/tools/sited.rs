//! A policy whose edge hangs on the site of the node that decides, as such a node follows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use terrace_crds::{InferenceNodeSpec, Tier};
use terrace_fleet::{EdgeAgent, NodeFacts, Reachable};
use terrace_tiering::Policy;

use crate::seen::Seen;

/// What a site is called of which nothing is known but that it has an edge.
const SOME_SITE: &str = "site";
/// Nobody asks anybody here, so any address does.
const SOME_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SOME_PORT: u16 = 1;

/// A policy, on a node with some labels.
#[derive(Debug)]
pub(super) struct Sited {
    /// By what its labels say: no agent of the edge is known.
    labelled: Policy,
    /// Where it is known that the node reached its edge.
    reached: Policy,
}

impl Sited {
    pub(super) fn new(policy: &Policy, labels: &BTreeMap<String, String>) -> Self {
        Self { labelled: at(policy, labels.clone(), false), reached: at(policy, labels.clone(), true) }
    }

    /// As a node follows it that had seen this.
    pub(super) fn by(&self, seen: &Seen) -> &Policy {
        if seen.edge.is_reached() { &self.reached } else { &self.labelled }
    }
}

/// With the sites that an agent would find by these labels; `is_reached`: with one, and an agent of the edge there, whatever
/// they say.
fn at(policy: &Policy, mut labels: BTreeMap<String, String>, is_reached: bool) -> Policy {
    let Some(label) = policy.site_label() else { return policy.clone() };
    let mut agents = Vec::new();
    if is_reached {
        let site = labels.entry(label.to_owned()).or_insert_with(|| SOME_SITE.to_owned()).clone();
        agents.push(EdgeAgent {
            node: String::new(),
            labels: [(label.to_owned(), site)].into(),
            standing: Ok(Reachable {
                address: SOME_ADDRESS,
                http_port: Some(SOME_PORT),
                grpc_port: Some(SOME_PORT),
            }),
        });
    }
    // A node of the edge asks no other edge, so it may be any other.
    let facts = NodeFacts { tier: Tier::Device, labels };
    let spec = InferenceNodeSpec {
        policies: [(String::new(), policy.to_spec())].into(),
        ..InferenceNodeSpec::default()
    };
    policy.clone().at(&terrace_fleet::sites(&spec, "", &facts, || agents))
}

#[cfg(test)]
mod tests {
    use terrace_tiering::SkipReason;

    use super::*;

    fn edge(edge: &str, labels: &[(&str, &str)], seen: &str) -> Result<String, SkipReason> {
        let spec = spec_of(edge);
        let policy = Policy::parse(&spec).unwrap();
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let seen: Seen = serde_json::from_str(seen).unwrap();
        let sited = Sited::new(&policy, &labels);
        let remote = sited.by(&seen).remote(Tier::Edge).unwrap();
        remote.endpoints().map(|urls| urls[0].host_str().unwrap_or_default().to_owned())
    }

    fn spec_of(edge: &str) -> terrace_crds::TierPolicySpec {
        serde_json::from_str(&format!(r#"{{"tiers": {{"edge": {edge}}}}}"#)).unwrap()
    }

    #[test]
    fn a_label_names_the_site_as_it_does_on_the_node_and_what_the_node_reached_is_reached() {
        const NAMED: &str = r#"{"url": "http://gw.{site}.example"}"#;
        const AGENTS: &str = r#"{"site": {}}"#;
        const STORE: &str = r#"{"site": {"label": "example.com/store"}}"#;
        const REACHED: &str = r#"{"edge": {"available": true}}"#;
        let oslo = &[("topology.kubernetes.io/zone", "oslo")][..];
        let host = |name: &str| Ok(name.to_owned());
        for (place, labels, seen, expected) in [
            (NAMED, oslo, "{}", host("gw.oslo.example")),
            (NAMED, oslo, REACHED, host("gw.oslo.example")),
            (NAMED, &[], "{}", Err(SkipReason::SiteUnknown)),
            (NAMED, &[], REACHED, host("gw.site.example")),
            (AGENTS, oslo, "{}", Err(SkipReason::NoEdgeAgent)),
            (AGENTS, oslo, r#"{"edge": {"available": false}}"#, Err(SkipReason::NoEdgeAgent)),
            (AGENTS, oslo, REACHED, host("127.0.0.1")),
            (AGENTS, oslo, r#"{"edge": {"available": false, "breaker": "open"}}"#, host("127.0.0.1")),
            (AGENTS, &[], "{}", Err(SkipReason::SiteUnknown)),
            (AGENTS, &[], REACHED, host("127.0.0.1")),
            (STORE, oslo, "{}", Err(SkipReason::SiteUnknown)),
            (STORE, &[("example.com/store", "7")], REACHED, host("127.0.0.1")),
        ] {
            assert_eq!(edge(place, labels, seen), expected, "{place} {labels:?} {seen}");
        }
    }
}
