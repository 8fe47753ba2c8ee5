//! Sites: by tables, and by properties over arbitrary clusters.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use terrace_crds::node::NodeSite;
use terrace_crds::{InferenceNodeSpec, Tier, TierPolicySpec};
use terrace_fleet::{EdgeAgent, NodeFacts, NotReady, Reachable, sites, sites_resolved};
use terrace_tiering::Policy;

const ZONE: &str = "topology.kubernetes.io/zone";
const STORE: &str = "example.com/store";

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn device(of: &[(&str, &str)]) -> NodeFacts {
    NodeFacts { tier: Tier::Device, labels: labels(of) }
}

fn agent(node: &str, of: &[(&str, &str)], last: u8) -> EdgeAgent {
    let standing =
        Ok(Reachable { address: [10, 0, 0, last].into(), http_port: Some(8000), grpc_port: Some(8001) });
    EdgeAgent { node: node.to_owned(), labels: labels(of), standing }
}

/// A spec with policies whose edges are these.
fn spec(edges: &[Value]) -> InferenceNodeSpec {
    let policy =
        |edge: &Value| serde_json::from_value::<TierPolicySpec>(json!({"tiers": {"edge": edge}})).unwrap();
    let policies = edges.iter().enumerate().map(|(at, edge)| (at.to_string(), policy(edge)));
    InferenceNodeSpec { policies: policies.collect(), ..InferenceNodeSpec::default() }
}

fn addresses(site: &NodeSite) -> BTreeSet<String> {
    site.edge.iter().map(|edge| edge.address.to_string()).collect()
}

#[test]
fn a_node_is_told_of_the_ready_agents_of_its_own_site_by_the_label_that_each_policy_names() {
    let agents = [
        agent("gw-a", &[(ZONE, "oslo"), (STORE, "s1")], 1),
        agent("gw-b", &[(ZONE, "oslo"), (STORE, "s2")], 2),
        agent("gw-c", &[(ZONE, "bergen"), (STORE, "s1")], 3),
        agent("gw-d", &[], 4),
        EdgeAgent { standing: Err(NotReady::Pod), ..agent("gw-e", &[(ZONE, "oslo")], 5) },
    ];
    let here = device(&[(ZONE, "oslo"), (STORE, "s1")]);
    for (edges, expected) in [
        (vec![], vec![]),
        (vec![json!({"url": "http://edge"})], vec![]),
        (vec![json!({"site": {}})], vec![(ZONE, "oslo", vec!["10.0.0.1", "10.0.0.2"])]),
        (vec![json!({"site": {"label": STORE}})], vec![(STORE, "s1", vec!["10.0.0.1", "10.0.0.3"])]),
        (vec![json!({"url": "http://{site}.example"})], vec![(ZONE, "oslo", vec![])]),
        (
            vec![
                json!({"url": "http://{site}.example"}),
                json!({"site": {}}),
                json!({"site": {"label": STORE}}),
            ],
            vec![(STORE, "s1", vec!["10.0.0.1", "10.0.0.3"]), (ZONE, "oslo", vec!["10.0.0.1", "10.0.0.2"])],
        ),
        // A label that the node does not have.
        (vec![json!({"site": {"label": "example.com/other"}})], vec![]),
    ] {
        let told = sites(&spec(&edges), "kiosk", &here, || agents.to_vec());
        let found: Vec<_> =
            told.iter().map(|(label, site)| (label.as_str(), site.name.as_str(), addresses(site))).collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(label, name, addresses)| (label, name, addresses.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(found, expected, "{edges:?}");
    }
    let gateway = NodeFacts { tier: Tier::Edge, ..here };
    assert_eq!(sites(&spec(&[json!({"site": {}})]), "gw-a", &gateway, || agents.to_vec()), BTreeMap::new());
}

#[test]
fn the_nodes_of_a_site_spread_over_its_agents() {
    let agents: Vec<EdgeAgent> = (0..4)
        .map(|agent_number| agent(&format!("gw-{agent_number}"), &[(ZONE, "oslo")], agent_number))
        .collect();
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for node in 0..400 {
        let told = sites(
            &spec(&[json!({"site": {}})]),
            &format!("kiosk-{node}"),
            &device(&[(ZONE, "oslo")]),
            || agents.clone(),
        );
        assert_eq!(told[ZONE].edge.len(), 4);
        *first.entry(told[ZONE].edge[0].node.clone()).or_default() += 1;
    }
    assert!(first.len() == 4 && first.values().all(|count| (60..=140).contains(count)), "{first:?}");
}

#[test]
fn nodes_without_an_edge_are_told_with_the_reason() {
    let site = Policy::parse(&spec(&[json!({"site": {}})]).policies["0"]).unwrap();
    let url = Policy::parse(&spec(&[json!({"url": "http://{site}.example"})]).policies["0"]).unwrap();
    let fixed = Policy::parse(&spec(&[json!({"url": "http://edge"})]).policies["0"]).unwrap();
    let (oslo, bergen, nowhere) = (device(&[(ZONE, "oslo")]), device(&[(ZONE, "bergen")]), device(&[]));
    let gateway = NodeFacts { tier: Tier::Edge, ..nowhere.clone() };
    let ready = agent("gw-a", &[(ZONE, "oslo")], 1);
    let unready = |why| EdgeAgent { standing: Err(why), ..agent("gw-b", &[(ZONE, "bergen")], 2) };
    let all = [("a", &oslo), ("b", &bergen), ("c", &bergen), ("g", &gateway)];
    for (policy, nodes, agents, expected) in [
        (&fixed, &all[..], &[][..], None),
        (&site, &all[..1], std::slice::from_ref(&ready), Some((true, "AllSites", "1 site of"))),
        (&site, &[], &[], Some((true, "AllSites", "0 sites of"))),
        (&url, &all, &[], Some((true, "AllSites", "2 sites of topology.kubernetes.io/zone"))),
        (
            &site,
            &all,
            std::slice::from_ref(&ready),
            Some((
                false,
                "NoEdgeAgent",
                "1 site has no ready edge agent: bergen (2 nodes; no node there is labelled",
            )),
        ),
        (
            &site,
            &all,
            &[ready.clone(), unready(NotReady::Pod)],
            Some((false, "NoEdgeAgent", "bergen (2 nodes; gw-b: its pod is not Ready)")),
        ),
        (
            &site,
            &all,
            &[ready.clone(), unready(NotReady::Ports)],
            Some((false, "NoEdgeAgent", "gw-b: no container port of its pod is named http or grpc")),
        ),
        (
            &url,
            &[("a", &oslo), ("d", &nowhere)],
            &[],
            Some((
                false,
                "SiteUnknown",
                "1 node has no label topology.kubernetes.io/zone, and so no edge: d",
            )),
        ),
    ] {
        let verdict = sites_resolved(policy, nodes, agents);
        let found = verdict.as_ref().map(|verdict| (verdict.holds, verdict.reason.as_str()));
        assert_eq!(found, expected.map(|(holds, reason, _)| (holds, reason)), "{verdict:?}");
        let told = verdict.map(|verdict| verdict.message).unwrap_or_default();
        assert!(told.contains(expected.map_or("", |(_, _, message)| message)), "{told}");
    }
}

/// Clusters of a few labels with a few values, so that sites are shared and missed.
fn facts() -> impl Strategy<Value = NodeFacts> {
    let value = || prop::option::weighted(0.8, prop::sample::select(vec!["oslo", "bergen", "oslo-2", ""]));
    let tier = prop::sample::select(Tier::ALL.to_vec());
    (tier, value(), value()).prop_map(|(tier, zone, store)| NodeFacts {
        tier,
        labels: [(ZONE, zone), (STORE, store)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect(),
    })
}

fn agents() -> impl Strategy<Value = Vec<EdgeAgent>> {
    let standing = prop_oneof![
        4 => (any::<[u8; 4]>(), prop::option::of(1_u16..), prop::option::of(1_u16..))
            .prop_map(|(address, http_port, grpc_port)| Ok(Reachable { address: address.into(), http_port, grpc_port })),
        1 => prop::sample::select(vec![NotReady::Pod, NotReady::Address, NotReady::Ports]).prop_map(Err),
    ];
    prop::collection::vec((facts(), standing), 0..30).prop_map(|agents| {
        let named = agents.into_iter().enumerate();
        named
            .map(|(at, (facts, standing))| EdgeAgent {
                node: format!("gw-{at}"),
                labels: facts.labels,
                standing,
            })
            .collect()
    })
}

fn edges() -> impl Strategy<Value = Vec<Value>> {
    let edge = prop::sample::select(vec![
        json!({"url": "http://edge"}),
        json!({"url": "http://{site}.example"}),
        json!({"site": {}}),
        json!({"site": {"label": STORE}}),
    ]);
    prop::collection::vec(edge, 0..4)
}

proptest! {
    /// Whatever a node is told of is a ready agent with the very value of the label that the node itself has.
    #[test]
    fn never_another_sites_agent(facts in facts(), agents in agents(), edges in edges()) {
        let told = sites(&spec(&edges), "kiosk", &facts, || agents.clone());
        for (label, site) in &told {
            prop_assert_eq!(facts.labels.get(label), Some(&site.name));
            prop_assert!(site.edge.len() <= 8);
            for edge in &site.edge {
                let agent = agents.iter().find(|agent| agent.node == edge.node).unwrap();
                prop_assert_eq!(agent.labels.get(label), Some(&site.name));
                let reachable = agent.standing.unwrap();
                prop_assert_eq!((edge.address, edge.http_port), (reachable.address, reachable.http_port));
            }
        }
        prop_assert!(facts.tier != Tier::Edge || told.is_empty());
    }

    /// The order in which agents are seen makes no write.
    #[test]
    fn the_same_cluster_in_another_order_is_told_the_same(
        facts in facts(), (agents, shuffled) in agents().prop_flat_map(|agents| (Just(agents.clone()), Just(agents).prop_shuffle())),
        edges in edges(),
    ) {
        prop_assert_eq!(
            sites(&spec(&edges), "kiosk", &facts, || agents.clone()),
            sites(&spec(&edges), "kiosk", &facts, || shuffled)
        );
    }

    /// An agent that goes is missing where it was told of, and changes nothing anywhere else.
    #[test]
    fn an_agent_that_goes_moves_no_other(facts in facts(), agents in agents(), gone in any::<prop::sample::Index>()) {
        prop_assume!(!agents.is_empty());
        let (gone, spec) = (gone.index(agents.len()), spec(&[json!({"site": {}})]));
        let mut left = agents.clone();
        left.remove(gone);
        let (before, after) = (sites(&spec, "kiosk", &facts, || agents.clone()), sites(&spec, "kiosk", &facts, || left));
        prop_assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (label, before) in &before {
            let order = |site: &NodeSite| site.edge.iter().map(|edge| edge.node.clone()).collect::<Vec<_>>();
            let mut expected = order(before);
            let knew = expected.contains(&agents[gone].node);
            expected.retain(|node| *node != agents[gone].node);
            let after = order(&after[label]);
            prop_assert_eq!(&after[..expected.len()], &expected[..]);
            prop_assert!(knew || after.len() == expected.len());
        }
    }
}
