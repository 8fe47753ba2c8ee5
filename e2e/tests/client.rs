//! Programs in Python: Triton's and KServe's own clients, from PyPI, speak to the agent; and the quickstart keeps its agents.

use std::process::Stdio;

use anyhow::{Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, scenes};

/// Runs a suite of checks, each of which prints a line.
async fn passes(agent: &Agent, suite: &str, arguments: &[String]) -> Result<()> {
    let Run { ok, told } = run(suite, arguments).await?;
    assert!(ok, "{told}\nthe agent's log:\n{}", agent.log());
    Ok(())
}

/// How a program ended, and what it said.
struct Run {
    ok: bool,
    told: String,
}

/// Runs a program in Python.
async fn run(suite: &str, arguments: &[String]) -> Result<Run> {
    let environment = if suite.starts_with("kserve") { "kserve" } else { "test" };
    let python = checkout().join(".tools/venv").join(environment).join("bin/python");
    ensure!(python.exists(), "there is no {}: run `make test`, which makes it", python.display());
    let mut command = std::process::Command::new(python);
    command.arg(checkout().join("e2e/tests").join(suite)).args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Run { ok: output.status.success(), told: format!("{out}\n{err}") })
}

#[tokio::test]
async fn tritons_python_client_works() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let arguments = [agent.http.to_string(), digits::folder().display().to_string()];
    passes(&agent, "tritonclient_suite.py", &arguments).await
}

/// An agent with a model that gives back what it takes, one input and output a datatype.
async fn echoing() -> Result<(Site, Agent)> {
    let site = Site::new()?;
    let model = std::fs::read(checkout().join("e2e/models/datatypes.onnx"))?;
    site.offer("datatypes.onnx", &model)?;
    let file = Artifact { uri: "file:///datatypes.onnx".to_owned(), sha256: digits::sha256(&model) };
    site.manifests().model(&Model::of("datatypes", &file))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

#[tokio::test]
async fn every_datatype_goes_through_tritons_clients_bit_for_bit() -> Result<()> {
    let (_site, agent) = echoing().await?;
    passes(&agent, "tritonclient_datatypes.py", &[agent.http.to_string(), agent.grpc.to_string()]).await
}

#[tokio::test]
async fn kserves_clients_work_with_every_datatype_that_they_have() -> Result<()> {
    let (_site, agent) = echoing().await?;
    passes(&agent, "kserve_suite.py", &[agent.http.to_string(), agent.grpc.to_string()]).await
}

#[tokio::test]
async fn tritons_clients_compress_what_they_send_and_read_what_is_compressed_for_them() -> Result<()> {
    let (_site, agent) = echoing().await?;
    passes(&agent, "tritonclient_compression.py", &[agent.http.to_string(), agent.grpc.to_string()]).await
}

#[tokio::test]
async fn speculation_and_ensembles_answer_the_same_over_both_protocols() -> Result<()> {
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let (_cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits").await?;
    let site = Site::new()?;
    let tiers = |name: &str| Policy::named(name).edge(&scenes::url(&edge)).cloud(&scenes::url(&cloud));
    site.manifests().policy(&tiers("verified").speculative("{verifier: Cloud}"))?;
    site.manifests().policy(&tiers("together").ensemble("{members: [Device, Edge, Cloud]}"))?;
    for (name, policy) in [("speculative", "verified"), ("ensemble", "together")] {
        let model = Model::digits("digits-device")?.named(name).policy(policy);
        let measured = model.confidence("{output: probabilities, method: Probability}");
        site.manifests().model(&measured.called("edge", "digits").called("cloud", "digits"))?;
    }
    let agent = site.agent().ready().await?;
    let digits = digits::folder().display().to_string();
    passes(&agent, "tritonclient_modes.py", &[agent.http.to_string(), agent.grpc.to_string(), digits]).await
}

#[tokio::test]
async fn the_quickstart_keeps_the_agents_that_are_left_when_one_ends() -> Result<()> {
    let Run { ok, told } = run("quickstart_keeping.py", &[]).await?;
    assert!(ok, "{told}");
    Ok(())
}
