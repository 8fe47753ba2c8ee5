//! What a fleet costs: the way of a change to a node, the operator's memory, and what is written.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use terrace_crds::InferenceModel;

use super::figures::{Report, Samples, figure, row};
use super::machine;
use super::memory::resident;
use crate::cluster::{self, Cluster};
use crate::infer::Ask;
use crate::site::Site;
use crate::{digits, wait};

const CHANGES: usize = 20;
const NODES: usize = 1_000;
const MODELS: usize = 20;
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_mins(5);
const QUIET: Duration = Duration::from_mins(1);

/// Measures everything; what was found is a page of Markdown.
pub async fn run() -> Result<String> {
    let mut report = Report::default();
    machine::describe(&mut report, "make bench-fleet")?;
    change(&mut report).await?;
    fleet(&mut report).await?;
    machine::load_at_end(&mut report)?;
    Ok(report.markdown())
}

async fn change(report: &mut Report) -> Result<()> {
    report.section(
        "A change on its way",
        &format!(
            "From `kubectl apply` of a model with another digest to the first answer of the new revision on a node that \
             serves the old one; both files are on its disk. {CHANGES} changes, alternating between two revisions. \
             Probe, load and cases are part of the time: beside it the same change of a standalone agent's manifest. \
             An agent that follows a folder first waits 100 ms for it to settle. Target: less than 1 s without fetch and \
             load."
        ),
    );
    let cluster = Cluster::start().await?;
    cluster.add_node("kiosk", &[]).await?;
    let _operator = cluster.operator("operator-a").await?.leading().await?;
    let site = Site::new()?;
    let agent = cluster.agent(&site, "kiosk").await?.start().await?;
    cluster.apply_file(&cluster::examples().join("digits.yaml")).await?;
    cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
    let alone = Site::new()?;
    let names = ["digits-device", "digits-device-r2"];
    alone.manifests().model(&crate::manifests::Model::digits(names[0])?)?;
    let standalone = alone.agent().ready().await?;

    let (mut in_cluster, mut by_manifest) = (Vec::new(), Vec::new());
    for change in 1..=CHANGES + 2 {
        let which = names[change % 2];
        let begun = Instant::now();
        cluster.models().patch("digits", &PatchParams::default(), &Patch::Merge(naming(which)?)).await?;
        first_answer(&agent, begun).await?;
        let took = begun.elapsed();
        cluster.wait_model("digits", "Ready", "True", "AllReady").await?;
        let begun = Instant::now();
        alone.manifests().model(&crate::manifests::Model::digits(which)?)?;
        first_answer(&standalone, begun).await?;
        // The first two fetch and probe.
        if change > 2 {
            in_cluster.push(took.as_secs_f64() * 1e3);
            by_manifest.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (in_cluster, by_manifest): (Samples, Samples) =
        (in_cluster.into_iter().collect(), by_manifest.into_iter().collect());
    report.table(
        &["", "p50 ms", "p99 ms", "max ms"],
        &[row("kubectl apply", in_cluster.cells()), row("standalone manifest", by_manifest.cells())],
    );
    report.say(format_args!(
        "Cluster − standalone at the median: {} ms.",
        figure(in_cluster.median() - by_manifest.median())
    ));
    Ok(())
}

/// Asks until another revision answers than at first.
async fn first_answer(agent: &crate::agent::Agent, begun: Instant) -> Result<()> {
    let request = Ask::image(&digits::test_set().images[0]).request();
    let mut connection = agent.connect().await?;
    let old = connection.send(&request).await?.answered()?.model_version()?;
    while connection.send(&request).await?.answered()?.model_version()? == old {
        ensure!(begun.elapsed() < wait::LIMIT, "the new revision does not answer");
    }
    Ok(())
}

fn naming(which: &str) -> Result<Value> {
    let (model, cases) = (digits::model(which)?, digits::cases_file(which)?);
    Ok(json!({"spec": {
        "source": {"uri": model.uri, "sha256": model.sha256},
        "verification": {"cases": {"uri": cases.uri, "sha256": cases.sha256}},
    }}))
}

async fn fleet(report: &mut Report) -> Result<()> {
    report.section(
        "A large fleet",
        &format!(
            "{NODES} Nodes with agents' Pods and {MODELS} models, each placed on every node. Agents are played: their \
             status is written once by the test. Writes are the operator's, counted in the API server's audit log, leases \
             aside. Targets: 100 MiB; one write a node and a constant for a change; none while nothing changes."
        ),
    );
    let mut cluster = Cluster::start().await?;
    let names: Vec<String> = (0..NODES).map(|node| format!("node-{node:04}")).collect();
    for added in iter(&names)
        .map(|node| cluster.add_node(node, &[]))
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
    {
        added?;
    }
    let operator = cluster.operator("operator-a").await?.leading().await?;
    let empty = resident(operator.pid())?;
    let begun = Instant::now();
    for model in 0..MODELS {
        cluster.models().create(&PostParams::default(), &a_model(model)?).await?;
    }
    told(&cluster, MODELS).await?;
    let all_told = begun.elapsed();
    for node in cluster.inference_nodes().list(&ListParams::default()).await? {
        let name = node.metadata.name.clone().context("no name")?;
        let models: Vec<Value> = node
            .spec
            .models
            .iter()
            .map(|model| {
                json!({"namespace": model.namespace, "name": model.name, "phase": "Serving",
                    "desiredRevision": model.revision, "servingRevision": model.revision,
                    "servingSha256": model.artifact.as_ref().map(|artifact| artifact.sha256.clone()),
                    "executionProvider": "CPUExecutionProvider"})
            })
            .collect();
        let status = json!({"status": {"observedGeneration": node.metadata.generation, "models": models}});
        cluster
            .inference_nodes()
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
    }
    cluster.wait_model("model-00", "Ready", "True", "AllReady").await?;
    let full = resident(operator.pid())?;

    settle(&mut cluster).await?;
    let before = writes(&mut cluster)?;
    let revision_of =
        |model: &InferenceModel| model.status.as_ref().and_then(|status| status.revision.clone());
    let first = revision_of(&cluster.models().get("model-00").await?);
    cluster
        .models()
        .patch(
            "model-00",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"source": {"sha256": "f".repeat(64)}}})),
        )
        .await?;
    let begun = Instant::now();
    wait::until_within("every node to be told of the change", PATIENCE, || async {
        let model = cluster.models().get("model-00").await?;
        ensure!(revision_of(&model) != first, "no other revision yet");
        let updated = model.status.and_then(|status| status.nodes).map(|nodes| nodes.updated);
        ensure!(updated == Some(u32::try_from(NODES)?), "{updated:?}");
        Ok(())
    })
    .await?;
    let changed = begun.elapsed();
    settle(&mut cluster).await?;
    let after = writes(&mut cluster)?;
    tokio::time::sleep(QUIET).await;
    let idle = writes(&mut cluster)? - after;
    report.table(
        &["", "measured"],
        &[
            row("operator's resident memory, nodes but no models", [format!("{} MiB", figure(empty))]),
            row("the same, all models on all nodes", [format!("{} MiB", figure(full))]),
            row("all nodes told of all models", [format!("{} s", figure(all_told.as_secs_f64()))]),
            row("all nodes told of one change", [format!("{} s", figure(changed.as_secs_f64()))]),
            row("writes for that change", [format!("{} for {NODES} nodes", after - before)]),
            row(&format!("writes in {} idle s", QUIET.as_secs()), [idle.to_string()]),
        ],
    );
    Ok(())
}

fn a_model(number: usize) -> Result<InferenceModel> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "terrace.dev/v1alpha1", "kind": "InferenceModel", "metadata": {"name": format!("model-{number:02}")},
        "spec": {
            "source": {"uri": format!("https://models.example/model-{number:02}.onnx"), "sha256": format!("{number:064}")},
            "verification": {"cases": {"uri": format!("https://models.example/model-{number:02}.json"), "sha256": format!("{number:064}")}},
        },
    }))?)
}

/// Waits until every node is told of so many models.
async fn told(cluster: &Cluster, models: usize) -> Result<()> {
    wait::until_within("every node to be told", PATIENCE, || async {
        let nodes = cluster.inference_nodes().list(&ListParams::default()).await?.items;
        let told = nodes.iter().filter(|node| node.spec.models.len() == models).count();
        ensure!(told == NODES, "{told} of {NODES}");
        Ok(())
    })
    .await
}

/// Waits until nothing was written for a while.
async fn settle(cluster: &mut Cluster) -> Result<()> {
    let mut known = writes(cluster)?;
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = writes(cluster)?;
        if now == known {
            return Ok(());
        }
        known = now;
    }
}

/// How much the operator has written, leases aside.
fn writes(cluster: &mut Cluster) -> Result<usize> {
    let text = |entry: &Value, pointer: &str| {
        entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let entries = cluster.control_plane().audit()?;
    let ours = entries.iter().filter(|entry| {
        matches!(&*text(entry, "/verb"), "create" | "update" | "patch" | "delete")
            && text(entry, "/user/username").ends_with(":terrace-operator")
            && text(entry, "/objectRef/resource") != "leases"
    });
    Ok(ours.count())
}
