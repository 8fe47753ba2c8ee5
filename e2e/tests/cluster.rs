//! A model declared with kubectl answers on the nodes that should have it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use terrace_crds::node::ModelPhase;
use terrace_e2e::agent::Agent;
use terrace_e2e::cluster::{self, Cluster};
use terrace_e2e::digits;
use terrace_e2e::expected::Expected;
use terrace_e2e::infer::Ask;
use terrace_e2e::load::{self, Load, Rhythm};
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::wait;

const ONE: &str = "digits-device";
const TWO: &str = "digits-device-r2";

/// An agent on each of some nodes.
async fn agents(cluster: &Cluster, nodes: &[&str]) -> Result<Vec<(Site, Agent)>> {
    let mut agents = Vec::new();
    for node in nodes {
        let site = Site::new()?;
        let agent = cluster.agent(&site, node).await?.start().await?;
        agents.push((site, agent));
    }
    Ok(agents)
}

/// What a user does to update the model.
async fn name_other_model(cluster: &Cluster, which: &str) -> Result<()> {
    let (model, cases) = (digits::model(which)?, digits::cases_file(which)?);
    let patch = json!({"spec": {
        "source": {"uri": model.uri, "sha256": model.sha256},
        "verification": {"cases": {"uri": cases.uri, "sha256": cases.sha256}},
    }});
    cluster.models().patch("digits", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_applied_serves_is_updated_under_load_and_removed() -> Result<()> {
    let cluster = Cluster::start().await?;
    for node in ["node-a", "node-b", "node-c"] {
        cluster.add_node(node, &[]).await?;
    }
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    let agents = agents(&cluster, &["node-a", "node-b", "node-c"]).await?;

    // Declared.
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    let model = cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
    let status = model.status.context("no status")?;
    assert_eq!(status.ready.as_deref(), Some("3/3"));
    let first = status.revision.context("no revision")?;
    for (_, agent) in &agents {
        let reply = agent.infer(&Ask::image(&digits::test_set().images[0])).await?.answered()?;
        assert_eq!(reply.model_version()?, first);
    }

    // A node goes away, and is counted apart.
    cluster.set_ready("node-c", false).await?;
    wait::until("the offline node to be told", || async {
        let ready = cluster.models().get("digits").await?.status.and_then(|status| status.ready);
        ensure!(ready.as_deref() == Some("2/2 (+1 offline)"), "{ready:?}");
        Ok(())
    })
    .await?;
    cluster.set_ready("node-c", true).await?;

    // Updated under load.
    let expected = Expected::record(&[(ONE, Model::digits(ONE)?), (TWO, Model::digits(TWO)?)], 10).await?;
    let expected = Arc::new(expected.under_other_names());
    let load = Load::start(&agents[0].1, &expected, 2, Rhythm::WithoutPause).await?;
    name_other_model(&cluster, TWO).await?;
    let model = cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
    let second = model.status.and_then(|status| status.revision).context("no revision")?;
    assert_ne!(first, second);
    for (_, agent) in &agents {
        assert_eq!(agent.model("digits").await?.serving_revision.as_deref(), Some(&*second));
    }
    let answers = load.stop().await?;
    let counts = load::by_revision(&answers);
    ensure!(counts.keys().all(|revision| **revision == *first || **revision == *second), "{counts:?}");
    assert!(counts.contains_key(&*second), "{counts:?}");

    // The story is told.
    let story = cluster.story("digits").await?;
    for line in
        [format!("RevisionCreated: {first}"), format!("RevisionCreated: {second}"), "AllReady: ".to_owned()]
    {
        assert!(story.iter().any(|told| told.starts_with(&line)), "no {line:?} in {story:#?}");
    }

    // Removed.
    cluster.models().delete("digits", &DeleteParams::default()).await?;
    for (_, agent) in &agents {
        wait::until("the model to be gone", || async {
            let reply = agent.infer(&Ask::image(&digits::test_set().images[0])).await?;
            ensure!(reply.status == 404, "{}", reply.status);
            Ok(())
        })
        .await?;
    }
    let revisions =
        kube::Api::<k8s_openapi::api::apps::v1::ControllerRevision>::namespaced(cluster.client(), "default");
    wait::until("the model's revisions to be collected", || async {
        let left = revisions.list(&ListParams::default().labels("terrace.dev/kind=model")).await?.items.len();
        ensure!(left == 0, "{left} left");
        Ok(())
    })
    .await?;
    wait::until("the nodes to say that the model is gone", || async {
        for node in cluster.inference_nodes().list(&ListParams::default()).await? {
            let models = node.status.context("no status")?.models;
            ensure!(models.is_empty(), "{models:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_is_told_and_what_served_goes_on() -> Result<()> {
    let cluster = Cluster::start().await?;
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    let nobody = cluster.wait_model("digits", "Stalled", "True", "NoEligibleNode").await?;
    let told = format!("{:?}", nobody.status);
    assert!(told.contains("no node runs an agent"), "{told}");

    cluster.add_node("gateway", &[("terrace.dev/tier", "edge")]).await?;
    let gateway = Site::new()?;
    let gateway = cluster.agent(&gateway, "gateway").await?.start().await?;
    wait::until("the reason to be told", || async {
        let told = format!("{:?}", cluster.models().get("digits").await?.status);
        ensure!(
            told.contains("1 × TierMismatch (the model is placed on the device tier, and this node is edge)"),
            "{told}"
        );
        Ok(())
    })
    .await?;
    wait::until("the gateway to hear of it", || async {
        let model = gateway.model("digits").await?;
        ensure!(model.phase == ModelPhase::NotPlaced, "{model:?}");
        Ok(())
    })
    .await?;

    cluster.add_node("kiosk", &[]).await?;
    let site = Site::new()?;
    let kiosk = cluster.agent(&site, "kiosk").await?.start().await?;
    cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
    let served = kiosk.model("digits").await?.serving_revision;

    // A wrong digest.
    let patch = json!({"spec": {"source": {"sha256": "0".repeat(64)}}});
    cluster.models().patch("digits", &PatchParams::default(), &Patch::Merge(patch)).await?;
    let stalled = cluster.wait_model("digits", "Stalled", "True", "DigestMismatch").await?;
    let told = format!("{:?}", stalled.status);
    assert!(told.contains("1 of 1 nodes cannot serve") && told.contains("kiosk: DigestMismatch"), "{told}");
    assert_eq!(kiosk.model("digits").await?.serving_revision, served);
    kiosk.infer(&Ask::image(&digits::test_set().images[0])).await?.answered()?;
    wait::until("the event", || async {
        let story = cluster.story("digits").await?;
        ensure!(story.iter().any(|told| told.starts_with("DigestMismatch: ")), "{story:#?}");
        Ok(())
    })
    .await?;
    name_other_model(&cluster, ONE).await?;
    cluster.wait_model("digits", "Ready", "True", "AllReady").await?;

    // A policy that is gone.
    let policies = kube::Api::<terrace_crds::TierPolicy>::namespaced(cluster.client(), "default");
    policies.delete("nearest-that-fits", &DeleteParams::default()).await?;
    cluster.wait_model("digits", "Stalled", "True", "PolicyNotFound").await?;
    kiosk.infer(&Ask::image(&digits::test_set().images[0])).await?.answered()?;
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    cluster.wait_model("digits", "Ready", "True", "AllReady").await?;

    // A policy that goes by how sure the model is, before the model says so.
    let loaded = kiosk.counted("terrace_model_runs_total", &[]).await?;
    let mode = json!({"spec": {
        "mode": "Speculative", "speculative": {"verifier": "Cloud", "threshold": 0},
        "tiers": {"cloud": {"url": "http://127.0.0.1:9"}},
    }});
    policies.patch("nearest-that-fits", &PatchParams::default(), &Patch::Merge(mode)).await?;
    cluster.wait_model("digits", "Stalled", "True", "ConfidenceMissing").await?;
    let confidence = json!({"spec": {"confidence": {"output": "probabilities", "method": "Probability"}}});
    cluster.models().patch("digits", &PatchParams::default(), &Patch::Merge(confidence)).await?;
    cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
    let reply = kiosk.infer(&Ask::image(&digits::test_set().images[0])).await?.answered()?;
    assert_eq!(reply.route()?.reason, "Confident", "{}", reply.text());
    assert!(reply.parameter("confidence")?.is_number());
    let now = kiosk.counted("terrace_model_runs_total", &[]).await?;
    assert!(now > loaded, "{now} runs: it was loaded anew, not swapped");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_models_on_a_node_fit_into_its_object() -> Result<()> {
    const MODELS: usize = 64;
    const BOUND: usize = 512 << 10;
    let cluster = Cluster::start().await?;
    cluster.add_node("kiosk", &[]).await?;
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    for model in 1..MODELS {
        let long = "n".repeat(200);
        let model: terrace_crds::InferenceModel = serde_json::from_value(json!({
            "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel",
            "metadata": {"name": format!("model-{model:02}-with-a-name-of-the-length-that-people-give")},
            "spec": {
                "source": {"uri": format!("https://models.example/{long}/{model}.onnx"), "sha256": format!("{model:064}")},
                "runtime": {"threads": 2, "instances": 2},
                "verification": {"cases": {"uri": format!("https://models.example/{long}/{model}.json"), "sha256": format!("{model:064}")}},
                "upstreams": {"edge": {"model": "larger"}, "cloud": {"model": "largest"}},
                "policyRef": {"name": "nearest-that-fits"},
            },
        }))?;
        cluster.models().create(&Default::default(), &model).await?;
    }
    let nodes = cluster.inference_nodes();
    let told = wait::until("the node to be told of all", || async {
        let node = nodes.get("kiosk").await?;
        ensure!(node.spec.models.len() == MODELS, "{} models", node.spec.models.len());
        Ok(node)
    })
    .await?;
    // An agent that has much to say of each.
    let said: Vec<_> = told
        .spec
        .models
        .iter()
        .map(|model| {
            json!({"namespace": model.namespace, "name": model.name, "phase": "Failed",
                "desiredRevision": model.revision, "servingRevision": model.revision, "servingSha256": "f".repeat(64),
                "executionProvider": "CPUExecutionProvider",
                "error": {"reason": "FetchFailed", "message": "w".repeat(1000)}})
        })
        .collect();
    nodes
        .patch_status("kiosk", &PatchParams::default(), &Patch::Merge(json!({"status": {"models": said}})))
        .await?;
    let node = nodes.get("kiosk").await?;
    let (all, spec) = (serde_json::to_vec(&node)?.len(), serde_json::to_vec(&node.spec)?.len());
    println!("{MODELS} models: {all} bytes, {spec} of them the spec");
    assert!(all < BOUND, "{all} bytes");
    Ok(())
}
