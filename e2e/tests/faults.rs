//! What breaks around operator and agents, really broken: each ends right and says so.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::cluster::{self, Cluster};
use terrace_e2e::dice::Dice;
use terrace_e2e::digits;
use terrace_e2e::infer::Ask;
use terrace_e2e::site::Site;
use terrace_e2e::wait;
use tokio::time::sleep;

const ONE: &str = "digits-device";
const TWO: &str = "digits-device-r2";

/// A cluster whose one node serves the digits.
struct Scene {
    cluster: Cluster,
    site: Site,
    agent: Agent,
}

impl Scene {
    async fn new() -> Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.add_node("kiosk", &[]).await?;
        let site = Site::new()?;
        let agent = cluster.agent(&site, "kiosk").await?.start().await?;
        cluster.apply_file(&cluster::manifests().join("digits.yaml")).await?;
        Ok(Self { cluster, site, agent })
    }

    async fn declare(&self, which: &str) -> Result<()> {
        let (model, cases) = (digits::model(which)?, digits::cases_file(which)?);
        let patch = json!({"spec": {
            "source": {"uri": model.uri, "sha256": model.sha256},
            "verification": {"cases": {"uri": cases.uri, "sha256": cases.sha256}},
        }});
        self.cluster.models().patch("digits", &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn wait_ready(&self) -> Result<()> {
        self.cluster.wait_model("digits", "Ready", "True", "AllReady").await.map(drop)
    }
}

async fn ask(agent: &Agent) -> Result<()> {
    agent.infer(&Ask::image(&digits::test_set().images[0])).await?.answered().map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_api_server_a_node_serves_is_started_again_and_catches_up() -> Result<()> {
    let mut scene = Scene::new().await?;
    let operator = scene.cluster.operator("operator-a").await?;
    let leading = operator.leading().await?;
    scene.wait_ready().await?;
    let launch = scene.cluster.agent(&scene.site, "kiosk").await?;

    scene.cluster.control_plane().stop_api_server()?;
    ask(&scene.agent).await?;
    scene.agent.kill9()?;
    let agent = launch.ready().await?;
    ask(&agent).await?;
    agent.wait_condition("Connected", "False", "").await?;

    // A leader that cannot renew its lease ends; a kubelet starts it again.
    assert!(!leading.wait_ended(wait::LIMIT).await?.success());

    scene.cluster.control_plane().start_api_server().await?;
    let _operator = operator.leading().await?;
    scene.agent = agent;
    scene.agent.wait_condition("Connected", "True", "").await?;
    scene.declare(TWO).await?;
    scene.agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    scene.wait_ready().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_at_any_moment_of_a_change_ends_in_the_same_state() -> Result<()> {
    const KILLS: usize = 100;
    let scene = Scene::new().await?;
    let launch = scene.cluster.operator("operator-a").await?;
    let mut dice = Dice::shaken("operator killed");
    let first = launch.leading().await?;
    scene.wait_ready().await?;
    first.kill9()?;
    let mut served = 0;
    for round in 0..KILLS {
        scene.declare([TWO, ONE][round % 2]).await?;
        let operator = launch.leading().await?;
        sleep(dice.time_below(Duration::from_millis(400))).await;
        operator.kill9()?;
        ask(&scene.agent).await.with_context(|| format!("round {round}"))?;
        served += 1;
    }
    let _operator = launch.leading().await?;
    scene.wait_ready().await?;
    scene.agent.wait_serving("digits", &digits::model(ONE)?.sha256).await?;
    println!("{KILLS} kills, {served} answers meanwhile");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_or_cleared_by_hand_is_put_back_and_nothing_stops() -> Result<()> {
    let scene = Scene::new().await?;
    let _operator = scene.cluster.operator("operator-a").await?.leading().await?;
    scene.wait_ready().await?;
    let nodes = scene.cluster.inference_nodes();

    let before = nodes.get("kiosk").await?;
    nodes.delete("kiosk", &DeleteParams::default()).await?;
    wait::until("the InferenceNode to be back with its status", || async {
        let node = nodes.get("kiosk").await?;
        ensure!(node.metadata.uid != before.metadata.uid, "the old one");
        ensure!(node.spec == before.spec, "{:?}", node.spec);
        let models = node.status.map(|status| status.models.len());
        ensure!(models == Some(1), "{models:?} models");
        Ok(())
    })
    .await?;
    ask(&scene.agent).await?;

    // All status cleared in the middle of a change.
    scene.declare(TWO).await?;
    let clear = |kind: &str, name: &str| {
        Patch::Merge(
            json!({"apiVersion": "terrace.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "status": null}),
        )
    };
    nodes.patch_status("kiosk", &PatchParams::default(), &clear("InferenceNode", "kiosk")).await?;
    scene
        .cluster
        .models()
        .patch_status("digits", &PatchParams::default(), &clear("InferenceModel", "digits"))
        .await?;
    scene.wait_ready().await?;
    scene.agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;

    // The Node is replaced by another of the same name.
    scene.cluster.remove_node("kiosk").await?;
    scene.cluster.add_node("kiosk", &[]).await?;
    let node =
        kube::Api::<k8s_openapi::api::core::v1::Node>::all(scene.cluster.client()).get("kiosk").await?;
    wait::until("the InferenceNode to go with the new Node", || async {
        let told = nodes.get("kiosk").await?;
        let owners = told.metadata.owner_references.unwrap_or_default();
        ensure!(owners.iter().any(|owner| Some(&owner.uid) == node.metadata.uid.as_ref()), "{owners:?}");
        Ok(())
    })
    .await?;
    let token = scene.cluster.agent_token("kiosk").await?;
    scene.cluster.kubeconfig("kiosk", &token)?;
    scene.declare(ONE).await?;
    scene.agent.wait_serving("digits", &digits::model(ONE)?.sha256).await?;
    ask(&scene.agent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operator_leads_its_standby_takes_over_and_a_lost_lease_ends_it() -> Result<()> {
    let scene = Scene::new().await?;
    let first = scene.cluster.operator("operator-a").await?.leading().await?;
    let second = scene.cluster.operator("operator-b").await?.start().await?;
    second.wait_health("stands by").await?;
    scene.wait_ready().await?;

    // Killed: the lease runs out.
    first.kill9()?;
    let begun = tokio::time::Instant::now();
    second.wait_health("leads").await?;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "a lease of 3 s was taken over after {took:?}");
    scene.declare(TWO).await?;
    scene.wait_ready().await?;

    // Ended in order: the lease is given up at once.
    let third = scene.cluster.operator("operator-c").await?.start().await?;
    third.wait_health("stands by").await?;
    assert!(second.stop().await?.success());
    third.wait_health("leads").await?;

    // Taken away: the process ends.
    let leases = kube::Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
        scene.cluster.client(),
        cluster::SYSTEM,
    );
    let taken: Value = json!({"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}});
    leases.patch("terrace-operator", &PatchParams::default(), &Patch::Merge(taken)).await?;
    let status = third.wait_ended(Duration::from_secs(10)).await?;
    assert!(!status.success());
    ask(&scene.agent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_while_nothing_changes() -> Result<()> {
    const QUIET: Duration = Duration::from_secs(20);
    let mut scene = Scene::new().await?;
    let _operator = scene.cluster.operator("operator-a").await?.leading().await?;
    scene.wait_ready().await?;
    // What follows from the change has followed: reports, Events.
    sleep(Duration::from_secs(3)).await;
    let ours = |entries: &[Value]| -> Vec<String> {
        let writes = entries.iter().filter(|entry| {
            let verb = entry["verb"].as_str().unwrap_or_default();
            let user = entry.pointer("/user/username").and_then(Value::as_str).unwrap_or_default();
            matches!(verb, "create" | "update" | "patch" | "delete")
                && user.contains("terrace-")
                && entry.pointer("/objectRef/resource").and_then(Value::as_str) != Some("leases")
        });
        writes
            .map(|entry| {
                format!("{} {} by {}", entry["verb"], entry["requestURI"], entry["user"]["username"])
            })
            .collect()
    };
    let before = ours(&scene.cluster.control_plane().audit()?).len();
    sleep(QUIET).await;
    let all = ours(&scene.cluster.control_plane().audit()?);
    assert!(before > 0, "the audit log would show writes");
    assert_eq!(all[before..].to_vec(), Vec::<String>::new());
    Ok(())
}
