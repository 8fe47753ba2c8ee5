//! Native code that crashes takes the agent along, once: the next agent serves everything but what ran then.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Model;
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, wait};
use tokio::task::JoinHandle;

/// A run that is never over by itself.
const FOR_EVER: i64 = i64::MAX;

/// A site with the digits, and a model that runs for as long as it is told to.
fn site() -> Result<(Site, String)> {
    let turns = fs::read(checkout().join("e2e/models/turns.onnx"))?;
    let site = Site::new()?;
    site.offer("turns.onnx", &turns)?;
    let sha256 = digits::sha256(&turns);
    let file = Artifact { uri: "file:///turns.onnx".to_owned(), sha256: sha256.clone() };
    site.manifests().model(&Model::of("turns", &file))?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    Ok((site, sha256))
}

fn turns(rounds: i64) -> Ask {
    Ask::inputs(json!([
        {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]},
        {"name": "rounds", "datatype": "INT64", "shape": [], "data": [rounds]},
    ]))
    .model("turns")
}

/// Has the model run, and waits until it does.
async fn run_for_ever(agent: &Agent) -> Result<JoinHandle<()>> {
    let before = cpu_ticks(agent, "turns")?;
    let (address, request) = (agent.http, turns(FOR_EVER).request());
    let asked = tokio::spawn(async move {
        // It ends with the agent.
        let _broken = terrace_e2e::http::send(address, &request).await;
    });
    wait::until("the model to run", || async {
        let used = cpu_ticks(agent, "turns")?;
        ensure!(used > before + 3, "its thread has used {used} ticks, {before} before");
        Ok(())
    })
    .await?;
    Ok(asked)
}

/// The CPU time of the agent's threads with this name.
fn cpu_ticks(agent: &Agent, thread: &str) -> Result<u64> {
    let mut ticks = 0;
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let text = fs::read_to_string(task?.path().join("stat"))?;
        let (head, tail) = text.rsplit_once(") ").context("no name")?;
        if head.ends_with(&format!("({thread}")) {
            // The fields 14 and 15, counted from 1; the tail begins with field 3.
            for field in tail.split(' ').skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
    }
    Ok(ticks)
}

async fn answers_digits(agent: &Agent) -> Result<()> {
    agent.infer(&Ask::image(&digits::test_set().images[0])).await?.answered().map(drop)
}

/// Lets the model run, ends the agent with a signal meanwhile, and starts the next one.
async fn end_in_a_run(site: &Site, agent: Agent, signal: Signal) -> Result<Agent> {
    let asked = run_for_ever(&agent).await?;
    agent.signal(signal)?;
    let exit = agent.wait_exit(wait::LIMIT).await?;
    ensure!(exit.status.signal() == Some(signal.as_raw()), "it ended with {}\n{}", exit.status, exit.log);
    asked.await?;
    site.agent().ready().await
}

#[tokio::test]
async fn a_model_that_crashes_the_agent_is_held_back_and_everything_else_serves() -> Result<()> {
    let (site, sha256) = site()?;
    let mut agent = site.agent().ready().await?;
    agent.infer(&turns(3)).await?.answered()?;

    for (signal, name, wait) in [(Signal::SEGV, "SIGSEGV", "60 s"), (Signal::ABORT, "SIGABRT", "120 s")] {
        agent = end_in_a_run(&site, agent, signal).await?;
        let told = agent.wait_failed("turns", "HeldBack").await?.error.context("no error")?.message;
        ensure!(told.contains(name) && told.contains(wait), "{told}");
        ensure!(agent.infer(&turns(1)).await?.status == 503);
        answers_digits(&agent).await?;
        ensure!(agent.log().contains(&format!("sha256=\"{sha256}\" signal=\"{name}\"")), "{}", agent.log());

        // It stays so over a restart, and as long as it is told.
        agent.terminate()?;
        agent.wait_exit(wait::LIMIT).await?;
        agent = site.agent().ready().await?;
        agent.wait_failed("turns", "HeldBack").await?;
        answers_digits(&agent).await?;

        agent.terminate()?;
        agent.wait_exit(wait::LIMIT).await?;
        crashed_before(&site, &sha256, Duration::from_secs(3600))?;
        agent = site.agent().ready().await?;
        agent.wait_serving("turns", &sha256).await?;
        agent.infer(&turns(3)).await?.answered()?;
    }
    Ok(())
}

/// Has the last crash lie further back.
fn crashed_before(site: &Site, sha256: &str, ago: Duration) -> Result<()> {
    let path = site.data_dir().join("crashes/known.json");
    let mut known: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH)? - ago;
    *known[sha256].get_mut("at").context("no such crash")? = at.as_secs().into();
    Ok(fs::write(&path, known.to_string())?)
}

#[tokio::test]
async fn an_end_that_is_no_crash_holds_nothing_back() -> Result<()> {
    let (site, sha256) = site()?;
    let agent = site.agent().ready().await?;
    let agent = end_in_a_run(&site, agent, Signal::KILL).await?;
    agent.wait_serving("turns", &sha256).await?;
    // Nor does a crash while nothing runs.
    agent.signal(Signal::SEGV)?;
    agent.wait_exit(wait::LIMIT).await?;
    let agent = site.agent().ready().await?;
    agent.wait_serving("turns", &sha256).await?;
    answers_digits(&agent).await
}
