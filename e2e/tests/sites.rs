//! Sites: a device asks the gateways of its own site and no other, however agents and labels come and go.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use terrace_crds::node::NodeSite;
use terrace_e2e::agent::Agent;
use terrace_e2e::cluster::{self, Cluster};
use terrace_e2e::digits;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::Server;
use terrace_e2e::site::Site;
use terrace_e2e::upstreams;
use terrace_e2e::wait;

const ZONE: &str = "topology.kubernetes.io/zone";
const EDGE: (&str, &str) = ("terrace.dev/tier", "edge");

fn ask() -> Ask {
    Ask::image(&digits::test_set().images[0])
}

/// Where a gateway answers.
fn address() -> SocketAddr {
    SocketAddr::from((cluster::host_ip(), 8000))
}

/// Two sites: oslo has a kiosk and a gateway, bergen a kiosk and two gateways, of which one only records.
struct Scene {
    cluster: Cluster,
    kiosk: Agent,
    kiosk_site: Site,
    /// In oslo, and in bergen.
    gateways: [(Agent, Site); 2],
    addresses: [SocketAddr; 2],
    recorder: Server,
}

impl Scene {
    async fn new() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let addresses @ [in_oslo, in_bergen] = [address(), address()];
        let recorder = upstreams::answering().await?;
        let recorded: SocketAddr = recorder.url().trim_start_matches("http://").parse()?;
        cluster.add_node("kiosk-oslo", &[(ZONE, "oslo")]).await?;
        cluster.add_node("kiosk-bergen", &[(ZONE, "bergen")]).await?;
        cluster.add_node_at("gw-oslo", &[EDGE, (ZONE, "oslo")], in_oslo).await?;
        cluster.add_node_at("gw-bergen", &[EDGE, (ZONE, "bergen")], in_bergen).await?;
        cluster.add_node_at("gw-bergen-2", &[EDGE, (ZONE, "bergen")], recorded).await?;
        let gateway = async |node: &str, at: SocketAddr| {
            let site = Site::new()?;
            let launch = cluster.agent(&site, node).await?.set("--listen-http", at.to_string());
            anyhow::Ok((launch.start().await?, site))
        };
        let gateways = [gateway("gw-oslo", in_oslo).await?, gateway("gw-bergen", in_bergen).await?];
        let kiosk_site = Site::new()?;
        let kiosk = cluster.agent(&kiosk_site, "kiosk-oslo").await?.start().await?;
        cluster.apply_file(&cluster::examples().join("sites.yaml")).await?;
        // Who is asked as whom is daemonset.rs'.
        let open = json!({"spec": {"tiers": {"edge": {"tls": null, "auth": null}}}});
        cluster.policies().patch("gateway-of-the-site", &PatchParams::default(), &Patch::Merge(open)).await?;
        Ok(Self { cluster, kiosk, kiosk_site, gateways, addresses, recorder })
    }

    /// What a node is told of its site, and in which generation.
    async fn told(&self, node: &str) -> Result<(Option<NodeSite>, Option<i64>)> {
        let mut node = self.cluster.inference_nodes().get(node).await?;
        Ok((node.spec.sites.remove(ZONE), node.metadata.generation))
    }

    /// Waits until a node is told that its site has this name and these gateways, in any order.
    async fn wait_told(&self, node: &str, name: &str, gateways: &[&str]) -> Result<NodeSite> {
        wait::until("the node to be told of its site", || async {
            let (site, _) = self.told(node).await?;
            let site = site.context("no site")?;
            let mut found: Vec<&str> = site.edge.iter().map(|edge| edge.node.as_str()).collect();
            found.sort_unstable();
            ensure!(site.name == name && found == gateways, "{site:?}");
            Ok(site)
        })
        .await
    }

    /// Waits until the kiosk's requests go this way.
    async fn wait_route(&self, tier: &str, source: &str, reason: &str) -> Result<()> {
        wait_route(&self.kiosk, &Route::of(tier, source, reason)).await
    }

    /// Waits until the policy says this of the sites.
    async fn wait_sites(&self, status: &str, reason: &str, text: &str) -> Result<()> {
        wait::until("the policy to tell of the sites", || async {
            let status_now = self.cluster.policies().get("gateway-of-the-site").await?.status;
            let conditions = status_now.context("no status")?.conditions;
            let found =
                conditions.iter().find(|condition| condition.type_ == "SitesResolved").context("none")?;
            let holds = found.status == status && found.reason == reason && found.message.contains(text);
            ensure!(holds, "{found:?}");
            Ok(())
        })
        .await
    }

    /// Bergen has seen nothing of any request.
    async fn nothing_in_bergen(&self) -> Result<()> {
        assert_eq!(self.recorder.connections(), 0);
        assert!(self.gateways[1].0.counted("terrace_requests_total", &[]).await? == 0.0);
        Ok(())
    }
}

async fn wait_route(kiosk: &Agent, route: &Route) -> Result<()> {
    wait::until("requests to go another way", || async {
        let reply = kiosk.infer(&ask()).await?.answered()?;
        ensure!(reply.route()? == *route, "{:?}", reply.route());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_asks_the_ready_gateways_of_its_own_site_and_no_other() -> Result<()> {
    let scene = Scene::new().await?;
    let _operator = scene.cluster.operator("operator-a").await?.leading().await?;

    // Told with addresses, and forwarded there.
    let site = scene.wait_told("kiosk-oslo", "oslo", &["gw-oslo"]).await?;
    assert_eq!((site.edge[0].address, site.edge[0].http_port), (scene.addresses[0].ip(), Some(8000)));
    scene.wait_told("kiosk-bergen", "bergen", &["gw-bergen", "gw-bergen-2"]).await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    let by_gateway =
        scene.gateways[0].0.infer(&ask().model("digits-gateway")).await?.answered()?.outputs()?;
    assert_eq!(scene.kiosk.infer(&ask()).await?.answered()?.outputs()?, by_gateway);
    scene.nothing_in_bergen().await?;
    scene.wait_sites("True", "AllSites", "2 sites of topology.kubernetes.io/zone").await?;
    let columns = scene.cluster.kubectl(&["get", "tpol"]).await?;
    assert!(columns.contains(&format!("site by {ZONE}")), "{columns}");
    // A gateway is the edge of its own callers.
    assert_eq!(scene.told("gw-oslo").await?.0, None);

    // No gateway is ready: this node has no edge, and nobody else's.
    let revision = scene.kiosk.model("digits").await?.serving_revision;
    let in_bergen = scene.told("kiosk-bergen").await?.1;
    scene.cluster.set_agent_ready("gw-oslo", false).await?;
    scene.wait_told("kiosk-oslo", "oslo", &[]).await?;
    scene.wait_route("device", "fallback", "NoEdgeAgent").await?;
    let refused = scene.kiosk.infer(&ask().parameter("tier", "edge")).await?;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("edge has no ready agent in this node's site"), "{}", refused.text());
    scene.wait_sites("False", "NoEdgeAgent", "oslo (1 node; gw-oslo: its pod is not Ready)").await?;
    let story = scene.cluster.story("gateway-of-the-site").await?;
    assert!(
        story.iter().any(|told| told.starts_with("NoEdgeAgent: 1 site has no ready edge agent")),
        "{story:#?}"
    );

    // Ready again.
    scene.cluster.set_agent_ready("gw-oslo", true).await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    scene.wait_sites("True", "AllSites", "").await?;
    // Addresses are facts: no revision is another one, and the other site was told nothing.
    assert_eq!(scene.kiosk.model("digits").await?.serving_revision, revision);
    assert_eq!(scene.told("kiosk-bergen").await?.1, in_bergen);
    scene.nothing_in_bergen().await?;

    // A pod that is gone.
    scene.cluster.remove_agent("gw-bergen-2").await?;
    scene.wait_told("kiosk-bergen", "bergen", &["gw-bergen"]).await?;

    // Labels: a gateway that moves, a node that is nowhere, a node that moves.
    scene.cluster.set_label("gw-bergen", ZONE, Some("oslo")).await?;
    scene.wait_told("kiosk-oslo", "oslo", &["gw-bergen", "gw-oslo"]).await?;
    scene.wait_told("kiosk-bergen", "bergen", &[]).await?;
    scene.cluster.set_label("gw-bergen", ZONE, Some("bergen")).await?;
    scene.wait_told("kiosk-oslo", "oslo", &["gw-oslo"]).await?;
    scene.cluster.set_label("kiosk-oslo", ZONE, None).await?;
    scene.wait_route("device", "fallback", "SiteUnknown").await?;
    scene.wait_sites("False", "SiteUnknown", "1 node has no label topology.kubernetes.io/zone").await?;
    scene.cluster.set_label("kiosk-oslo", ZONE, Some("bergen")).await?;
    let site = scene.wait_told("kiosk-oslo", "bergen", &["gw-bergen"]).await?;
    assert_eq!(site.edge[0].address, scene.addresses[1].ip());
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    assert!(scene.gateways[1].0.counted("terrace_requests_total", &[]).await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_and_started_again_a_device_still_asks_the_gateway_of_its_site() -> Result<()> {
    let mut scene = Scene::new().await?;
    let operator = scene.cluster.operator("operator-a").await?.leading().await?;
    scene.wait_route("edge", "primary", "ModerateComplexity").await?;
    let launch = scene.cluster.agent(&scene.kiosk_site, "kiosk-oslo").await?;
    drop(operator);
    scene.cluster.control_plane().stop_api_server()?;
    scene.kiosk.kill9()?;
    let kiosk = launch.ready().await?;
    kiosk.wait_condition("Connected", "False", "").await?;
    let reply = kiosk.infer(&ask()).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("edge", "primary", "ModerateComplexity"));
    assert_eq!(scene.recorder.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_standalone_agents_label_is_the_site_in_a_url() -> Result<()> {
    let edge = upstreams::answering().await?;
    let policy = Policy::named("near").edge(&format!("{}/{{site}}", edge.url()));
    let site = Site::new()?;
    site.manifests().policy(&policy)?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let nowhere = site.agent().ready().await?;
    let reply = nowhere.infer(&ask()).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "fallback", "SiteUnknown"));
    assert_eq!(edge.connections(), 0);
    nowhere.kill9()?;
    // The label is all that changes: the revision is the same one.
    let kiosk = site.agent().add("--node-label", format!("{ZONE}=oslo")).ready().await?;
    wait_route(&kiosk, &Route::of("edge", "primary", "ModerateComplexity")).await?;
    let requests = edge.requests();
    assert!(requests.iter().all(|seen| seen.path() == "/oslo/v2/models/digits/infer"), "{requests:?}");
    Ok(())
}

#[tokio::test]
async fn a_standalone_agent_refuses_a_site_whose_agents_it_cannot_know() -> Result<()> {
    let site = Site::new()?;
    let policy = json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "TierPolicy", "metadata": {"name": "near"},
        "spec": {"tiers": {"edge": {"site": {}}}},
    });
    site.manifests().write("policy-near.yaml", &policy.to_string())?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let kiosk = site.agent().add("--node-label", format!("{ZONE}=oslo")).ready().await?;
    kiosk.wait_condition("ManifestsAccepted", "False", "spec.tiers.edge.site: needs a cluster").await?;
    let reply = kiosk.infer(&ask()).await?.answered()?;
    assert_eq!(reply.route()?.tier, "device");
    Ok(())
}
