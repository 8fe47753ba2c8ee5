//! What breaks around operator and agents, really broken: each ends right and says so.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::cluster::{self, Cluster, Weather};
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
        cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
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
    let leases = kube::Api::<Lease>::namespaced(scene.cluster.client(), cluster::SYSTEM);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_in_trouble_delays_a_change_and_loses_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let proxy = cluster.proxy().await?;
    cluster.add_node("kiosk", &[]).await?;
    let site = Site::new()?;
    let token = cluster.agent_token("kiosk").await?;
    let agent =
        site.agent().in_cluster(&cluster.kubeconfig_through(&proxy, "kiosk", &token)?).start().await?;
    // Under the operator's own name: it reads its kubeconfig when it starts.
    let launch = cluster.operator("operator-a").await?;
    let token = cluster.token(cluster::SYSTEM, "terrace-operator").await?;
    cluster.kubeconfig_through(&proxy, "operator-a", &token)?;
    let operator = launch.leading().await?;
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    let scene = Scene { cluster, site, agent };
    scene.wait_ready().await?;

    let weathers = [
        Weather::Refusing(StatusCode::TOO_MANY_REQUESTS, 3),
        Weather::Refusing(StatusCode::INTERNAL_SERVER_ERROR, 3),
        Weather::Refusing(StatusCode::SERVICE_UNAVAILABLE, 2),
        Weather::Slow(Duration::from_millis(700)),
        Weather::Cut(2),
    ];
    for (round, weather) in weathers.into_iter().enumerate() {
        let spoiled = proxy.spoiled();
        proxy.set(weather);
        let which = [TWO, ONE][round % 2];
        scene.declare(which).await?;
        scene
            .agent
            .wait_serving("digits", &digits::model(which)?.sha256)
            .await
            .with_context(|| format!("{weather:?}\n{}", operator.log()))?;
        // The status is written through the same weather.
        scene.wait_ready().await.with_context(|| format!("{weather:?}\n{}", operator.log()))?;
        ask(&scene.agent).await?;
        assert!(proxy.spoiled() > spoiled, "{weather:?} spoiled nothing");
    }

    // Where every request is refused the operator says so, and the agent serves on.
    proxy.set(Weather::Refusing(StatusCode::INTERNAL_SERVER_ERROR, usize::MAX));
    scene.declare(TWO).await?;
    wait::until("the operator to say that it cannot write", || async {
        ensure!(operator.log().contains("could not be seen to"), "nothing of it");
        Ok(())
    })
    .await?;
    ask(&scene.agent).await?;
    proxy.set(Weather::Fair);
    scene.wait_ready().await?;
    scene.agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_wrong_by_minutes_decide_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let leases = kube::Api::<Lease>::namespaced(scene.cluster.client(), cluster::SYSTEM);
    let renewed = async || -> Result<(Option<String>, Option<k8s_openapi::jiff::Timestamp>)> {
        let spec = leases.get("terrace-operator").await?.spec.context("no spec")?;
        Ok((spec.holder_identity, spec.renew_time.map(|time| time.0)))
    };
    let ahead = scene.cluster.operator("ahead").await?.with_clock_ahead(300)?;
    let behind = scene.cluster.operator("behind").await?.with_clock_ahead(-300)?;
    for (first, second) in [(&ahead, &behind), (&behind, &ahead)] {
        let leader = first.leading().await?;
        let standby = second.start().await?;
        standby.wait_health("stands by").await?;
        let (holder, mut last) = renewed().await?;
        let skew = last.context("never renewed")?.duration_since(k8s_openapi::jiff::Timestamp::now());
        assert!(skew.unsigned_abs() > Duration::from_secs(240), "the clock is not wrong: {skew}");
        // For more than two leases.
        for _ in 0..7 {
            let (now_holds, now) = wait::until("the lease to be renewed", || async {
                let lease = renewed().await?;
                ensure!(lease.1 != last, "not yet");
                Ok(lease)
            })
            .await?;
            last = now;
            assert_eq!(now_holds, holder, "the standby took a lease that its holder renews");
        }
        standby.wait_health("stands by").await?;
        leader.kill9()?;
        standby.wait_health("leads").await?;
        scene.declare(TWO).await?;
        scene.wait_ready().await?;
        scene.declare(ONE).await?;
        scene.wait_ready().await?;
        assert!(standby.stop().await?.success());
    }
    ask(&scene.agent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_of_an_older_and_of_a_newer_version_stop_nothing() -> Result<()> {
    let mut scene = Scene::new().await?;
    let _operator = scene.cluster.operator("operator-a").await?.leading().await?;
    scene.wait_ready().await?;
    let kinds = kube::Api::<CustomResourceDefinition>::all(scene.cluster.client());
    const NODES: &str = "inferencenodes.terrace.dev";
    let models_of = |part: &str| {
        format!(
            "/spec/versions/0/schema/openAPIV3Schema/properties/{part}/properties/models/items/properties"
        )
    };
    let change = async |edit: &dyn Fn(&mut Value) -> Result<()>| -> Result<()> {
        let mut kind = serde_json::to_value(kinds.get(NODES).await?)?;
        edit(&mut kind)?;
        let kind: CustomResourceDefinition = serde_json::from_value(kind)?;
        kinds.replace(NODES, &PostParams::default(), &kind).await?;
        Ok(())
    };

    // Older than agent and operator: what they write is not all kept.
    change(&|kind| {
        let status =
            kind.pointer_mut(&models_of("status")).and_then(Value::as_object_mut).context("no status")?;
        ensure!(status.remove("executionProvider").is_some(), "no such field");
        Ok(())
    })
    .await?;
    wait::until("the older kind to be in force", || async {
        // A dry run tells what would be kept.
        let status = json!({"status": {"models": [{"namespace": "default", "name": "digits", "phase": "Serving", "executionProvider": "x"}]}});
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let node = scene.cluster.inference_nodes().patch_status("kiosk", &dry, &Patch::Merge(status)).await?;
        let kept = node.status.and_then(|status| status.models.into_iter().next()?.execution_provider);
        ensure!(kept.is_none(), "{kept:?} is kept");
        Ok(())
    })
    .await?;
    let before = scene.cluster.control_plane().audit()?.len();
    scene.declare(TWO).await?;
    scene.wait_ready().await?;
    scene.agent.wait_serving("digits", &digits::model(TWO)?.sha256).await?;
    sleep(Duration::from_secs(3)).await;
    let reports = scene.cluster.control_plane().audit()?.split_off(before).into_iter().filter(|entry| {
        let text =
            |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        text("/objectRef/resource") == "inferencenodes"
            && text("/objectRef/subresource") == "status"
            && text("/verb") == "patch"
    });
    let reports = reports.count();
    assert!(reports < 20, "{reports} reports of one change: what is not kept is written again and again");
    let log = scene.agent.log();
    assert!(log.contains("is older than this agent") && log.contains("executionProvider"), "{log}");

    // Newer: what is there is not all understood.
    change(&|kind| {
        for part in ["spec", "status"] {
            let models =
                kind.pointer_mut(&models_of(part)).and_then(Value::as_object_mut).context("no models")?;
            models.insert("fromTheFuture".to_owned(), json!({"type": "string"}));
        }
        Ok(())
    })
    .await?;
    wait::until("a field of the newer kind to be kept", || async {
        let told = json!({"spec": {"models": [{"namespace": "default", "name": "later", "revision": "r", "fromTheFuture": "x",
            "notPlaced": {"reason": "TierMismatch", "message": "as an example"}}]}});
        let raw: kube::Api<kube::api::DynamicObject> = kube::Api::all_with(scene.cluster.client(), &kube::core::ApiResource::erase::<terrace_crds::InferenceNode>(&()));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let node = raw.patch("kiosk", &dry, &Patch::Merge(told)).await?;
        ensure!(node.data.to_string().contains("fromTheFuture"), "not kept yet");
        Ok(())
    })
    .await?;
    scene.declare(ONE).await?;
    scene.wait_ready().await?;
    scene.agent.wait_serving("digits", &digits::model(ONE)?.sha256).await?;
    ask(&scene.agent).await
}
