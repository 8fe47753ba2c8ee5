//! What an idle agent holds in memory beyond the session that it holds.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::figures::{Report, Samples, figure, row};
use super::holder::Holder;
use crate::digits;
use crate::infer::Ask;
use crate::manifests::Model;
use crate::site::Site;

const ROUNDS: usize = 7;
const REQUESTS: usize = 1_000;
/// How long it is left alone before it is looked at.
const IDLE: Duration = Duration::from_secs(1);

/// Proportional set size in MiB: all of it, and the part that no file backs.
pub struct Memory {
    pub all: f64,
    pub anonymous: f64,
}

pub async fn measure(report: &mut Report) -> Result<()> {
    report.section(
        "Idle memory",
        &format!(
            "Proportional set size (`smaps_rollup`) of an agent that serves one digits model, {} s after it answered \
             {REQUESTS} requests, and of a C program that holds the same session after one run. Never both at once, so \
             that neither carries pages of the other. {ROUNDS} rounds, alternating. Target: 40 MiB more than the C \
             program.",
            IDLE.as_secs()
        ),
    );
    let holder = Holder::compile()?;
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let request = Ask::image(&digits::test_set().images[0]).request();
    let (mut agents, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let agent = site.agent().ready().await?;
        let mut connection = agent.connect().await?;
        for _ in 0..REQUESTS {
            connection.send(&request).await?.answered()?;
        }
        drop(connection);
        tokio::time::sleep(IDLE).await;
        agents.push(memory(agent.pid())?);
        agent.kill9()?;

        let holding = holder.start()?;
        floors.push(memory(holding.pid())?);
    }
    let cells = |memories: &[Memory]| {
        let all: Samples = memories.iter().map(|memory| memory.all).collect();
        let anonymous: Samples = memories.iter().map(|memory| memory.anonymous).collect();
        [all.quantile(0.0), all.median(), all.max(), anonymous.median()].map(figure)
    };
    report.table(
        &["", "least MiB", "p50 MiB", "most MiB", "of it not from files, p50 MiB"],
        &[row("agent", cells(&agents)), row("C program", cells(&floors))],
    );
    let differences: Samples =
        agents.iter().zip(&floors).map(|(agent, floor)| agent.all - floor.all).collect();
    report.say(format_args!(
        "The agent holds {} MiB more (least {}, most {}).",
        figure(differences.median()),
        figure(differences.quantile(0.0)),
        figure(differences.max())
    ));
    Ok(())
}

/// The resident memory of a process in MiB.
pub fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mebibytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.map(|kilobytes| kilobytes / 1024.0).with_context(|| format!("no {name} of process {pid}"))
    };
    Ok(Memory { all: mebibytes("Pss:")?, anonymous: mebibytes("Pss_Anon:")? })
}
