//! What runs a model: the real OpenVINO on this machine's CPU, providers that are not there, and what is said of each.

// The wheel with OpenVINO is for x86_64 alone.
#![cfg(target_arch = "x86_64")]

use anyhow::{Context as _, Result, ensure};
use terrace_crds::node::{ExecutionStatus, ModelPhase, NodeModelStatus};
use terrace_e2e::agent::{self, Agent};
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::wait;

const DIGITS: &str = "digits-device";
const CPU: &str = "CPUExecutionProvider";
const OPENVINO: &str = "OpenVINOExecutionProvider";

/// A site whose agent has OpenVINO's library and serves the digits by these providers.
async fn with_openvino(providers: &str) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits(DIGITS)?.on_providers(providers))?;
    let launch = site.agent().set("--onnxruntime", agent::onnxruntime_openvino()?);
    Ok((site, launch.ready().await?))
}

async fn serving(agent: &Agent) -> Result<(NodeModelStatus, ExecutionStatus)> {
    let model = agent.wait_serving("digits", &digits::model(DIGITS)?.sha256).await?;
    let execution = model.execution.clone().context("no execution in the status")?;
    Ok((model, execution))
}

/// `provider device reason` of each that was passed over.
fn passed_over(execution: &ExecutionStatus) -> Vec<String> {
    let passed = execution.passed_over.iter();
    passed
        .map(|passed| {
            format!("{} {} {}", passed.provider, passed.device.as_deref().unwrap_or("-"), passed.reason)
        })
        .collect()
}

/// `provider device` of each that runs something.
fn placed(execution: &ExecutionStatus) -> Vec<String> {
    let placed = execution.placed.iter().filter(|placed| placed.nodes > 0);
    placed.map(|placed| format!("{} {}", placed.provider, placed.device.as_deref().unwrap_or("-"))).collect()
}

/// Answers for the first images, which must be those that the committed model gives.
async fn answers_are_right(agent: &Agent) -> Result<()> {
    let (images, labels) = (&digits::test_set().images, &digits::test_set().labels);
    let count = 100;
    let found = agent.infer(&Ask::images(&images[..count])).await?.answered()?.labels()?;
    let right = found.iter().zip(&labels[..count]).filter(|(found, label)| found == label).count();
    // Another provider rounds otherwise; the cases have held it to the probabilities.
    ensure!(found.len() == count && right >= 85, "{right} of {count} are right");
    Ok(())
}

#[tokio::test]
async fn openvino_runs_the_whole_model_and_is_compared_with_the_cpu() -> Result<()> {
    for providers in ["[{name: OpenVINO}]", "[{name: OpenVINO, required: true}, {name: CPU}]"] {
        let (_site, agent) = with_openvino(providers).await?;
        let (model, execution) = serving(&agent).await?;
        assert_eq!(model.execution_provider.as_deref(), Some(OPENVINO));
        assert_eq!(placed(&execution), ["OpenVINOExecutionProvider CPU"]);
        assert_eq!(passed_over(&execution), Vec::<String>::new());
        let compared = execution.compared_with_cpu.context("no comparison")?;
        let difference = compared.max_difference.context("the outputs cannot be compared")?;
        assert!(difference <= digits::TOLERANCE, "{difference}");
        let zero = std::time::Duration::ZERO.into();
        assert!(compared.median_latency > zero && compared.cpu_median_latency > zero, "{compared:?}");
        let offered = agent.status().await?.agent.context("no agent")?.execution_providers;
        assert_eq!(offered, [OPENVINO, CPU]);
        answers_are_right(&agent).await?;
        let ran = agent.counted("terrace_model_runs_total", &[&format!("provider=\"{OPENVINO}\"")]).await?;
        assert!(ran >= 1.0, "{ran}");
    }
    Ok(())
}

#[tokio::test]
async fn a_device_that_is_required_and_absent_serves_nothing_and_what_served_goes_on() -> Result<()> {
    let npu = "[{name: OpenVINO, options: {device_type: NPU}, required: true}]";
    let (site, agent) = with_openvino(npu).await?;
    let failed = agent.wait_failed("digits", "ProviderUnavailable").await?;
    assert_eq!((failed.execution_provider, failed.execution, failed.serving_revision), (None, None, None));
    let said = failed.error.context("no error")?.message;
    assert!(said.starts_with("OpenVINOExecutionProvider on NPU is required: "), "{said}");
    assert!(said.contains("is there such a device on this machine, and its driver?"), "{said}");
    let reply = agent.infer(&Ask::image(&digits::test_set().images[0])).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.error()?.contains("not loaded"), "{}", reply.text());

    // Something that is there serves; then the device is asked for again.
    let good = Model::digits(DIGITS)?.on_providers("[{name: OpenVINO}]");
    site.manifests().model(&good)?;
    let (before, _) = serving(&agent).await?;
    site.manifests().model(&Model::digits(DIGITS)?.on_providers(npu))?;
    let failed = agent.wait_failed("digits", "ProviderUnavailable").await?;
    assert_eq!(failed.serving_revision, before.serving_revision);
    assert_eq!((failed.execution_provider, failed.execution), (before.execution_provider, before.execution));
    answers_are_right(&agent).await
}

#[tokio::test]
async fn a_device_that_is_absent_is_passed_over_with_its_words_where_it_is_not_required() -> Result<()> {
    let (_site, agent) =
        with_openvino("[{name: OpenVINO, options: {device_type: NPU}}, {name: CPU}]").await?;
    let (model, execution) = serving(&agent).await?;
    assert_eq!(model.execution_provider.as_deref(), Some(CPU));
    assert_eq!(placed(&execution), ["CPUExecutionProvider -"]);
    assert_eq!(passed_over(&execution), ["OpenVINOExecutionProvider NPU ProviderUnavailable"]);
    let said = &execution.passed_over[0].message;
    assert!(said.contains("is there such a device on this machine, and its driver?"), "{said}");
    assert_eq!(execution.compared_with_cpu, None);
    agent.wait_log("an execution provider is passed over").await?;
    answers_are_right(&agent).await
}

#[tokio::test]
async fn what_the_library_lacks_is_not_in_this_variant() -> Result<()> {
    let (site, agent) =
        with_openvino("[{name: CUDA}, {name: TensorRT}, {name: QNN}, {name: OpenVINO}]").await?;
    let (model, execution) = serving(&agent).await?;
    assert_eq!(model.execution_provider.as_deref(), Some(OPENVINO));
    let expected =
        ["CUDA", "Tensorrt", "QNN"].map(|name| format!("{name}ExecutionProvider - NotInThisVariant"));
    assert_eq!(passed_over(&execution), expected);
    let required = Model::digits(DIGITS)?.on_providers("[{name: CUDA, required: true}, {name: OpenVINO}]");
    site.manifests().model(&required)?;
    let failed = agent.wait_failed("digits", "NotInThisVariant").await?;
    assert!(failed.error.is_some_and(|error| error.message.contains("--onnxruntime")));
    assert_eq!(failed.serving_revision, model.serving_revision);
    Ok(())
}

#[tokio::test]
async fn auto_tells_the_device_that_it_came_to() -> Result<()> {
    let (_site, agent) =
        with_openvino("[{name: OpenVINO, options: {device_type: AUTO}, required: true}]").await?;
    let (model, execution) = serving(&agent).await?;
    assert_eq!(model.execution_provider.as_deref(), Some(OPENVINO));
    // On a machine with one of Intel's GPUs or NPUs this is another device, which is as right.
    let device = execution.placed[0].device.clone().context("no device")?;
    let tried: Vec<&str> =
        execution.passed_over.iter().filter_map(|passed| passed.device.as_deref()).collect();
    let before = ["GPU", "NPU", "CPU"].into_iter().take_while(|tried| *tried != device).collect::<Vec<_>>();
    assert_eq!(tried, before, "{execution:?}");
    answers_are_right(&agent).await
}

#[tokio::test]
async fn a_model_that_runs_in_part_tells_the_shares_and_is_refused_where_all_is_required() -> Result<()> {
    let datatypes = std::fs::read(terrace_e2e::checkout().join("e2e/models/datatypes.onnx"))?;
    let site = Site::new()?;
    site.offer("datatypes.onnx", &datatypes)?;
    let file = Artifact { uri: "file:///datatypes.onnx".to_owned(), sha256: digits::sha256(&datatypes) };
    let model = Model::of("datatypes", &file);
    site.manifests().model(&model.clone().on_providers("[{name: OpenVINO}]"))?;
    let agent = site.agent().set("--onnxruntime", agent::onnxruntime_openvino()?).ready().await?;
    let served = agent.wait_serving("datatypes", model.sha256()).await?;
    let execution = served.execution.context("no execution")?;
    assert_eq!(placed(&execution).len(), 2, "{execution:?}");
    let most = execution.placed.iter().max_by_key(|placed| placed.nodes).context("nothing is placed")?;
    assert_eq!(served.execution_provider.as_ref(), Some(&most.provider));

    site.manifests().model(&model.on_providers("[{name: OpenVINO, required: true}]"))?;
    let failed = agent.wait_failed("datatypes", "ProviderIncomplete").await?;
    let said = failed.error.context("no error")?.message;
    let nodes = |provider: &str| {
        execution
            .placed
            .iter()
            .filter(|placed| placed.provider == provider)
            .map(|placed| placed.nodes)
            .sum::<u32>()
    };
    let (inside, outside) = (nodes(OPENVINO), nodes(CPU));
    let total = inside + outside;
    assert!(
        said.contains(&format!("{inside} of the model's {total} nodes, with {outside} on {CPU}")),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_plain_library_has_the_cpu_alone() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits(DIGITS)?.on_providers("[{name: OpenVINO}]"))?;
    let agent = site.agent().ready().await?;
    let (model, execution) = serving(&agent).await?;
    assert_eq!(model.execution_provider.as_deref(), Some(CPU));
    assert_eq!(passed_over(&execution), ["OpenVINOExecutionProvider CPU NotInThisVariant"]);
    assert_eq!(agent.status().await?.agent.context("no agent")?.execution_providers, [CPU]);
    // Who asks for nothing is told nothing more than before.
    site.manifests().model(&Model::digits(DIGITS)?)?;
    wait::until("the other revision to serve", || async {
        let model = agent.model("digits").await?;
        let is_it = model.phase == ModelPhase::Serving && model.execution.is_none();
        ensure!(is_it && model.execution_provider.as_deref() == Some(CPU), "{model:?}");
        Ok(())
    })
    .await
}
