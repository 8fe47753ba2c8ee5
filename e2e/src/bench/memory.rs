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
    /// Pages of the program's own file, and of ONNX Runtime's library.
    pub program: f64,
    pub runtime: f64,
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

        let holding = holder.start(&["digits-device"])?;
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
    let part = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name));
        line.map(mebibytes).with_context(|| format!("no {name} of process {pid}"))
    };
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let program = program.to_str().context("the program has a name that is no text")?;
    let files = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(Memory {
        all: part("Pss:")?,
        anonymous: part("Pss_Anon:")?,
        program: of_file(&files, |file| file == program),
        runtime: of_file(&files, |file| file.contains("libonnxruntime")),
    })
}

/// What pages that a file backs take of what `smaps` tells; those written to since are no longer the file's.
fn of_file(smaps: &str, is_it: impl Fn(&str) -> bool) -> f64 {
    let (mut total, mut is_its) = (0.0, false);
    for line in smaps.lines() {
        let is_figure = line.split_whitespace().next().is_some_and(|name| name.ends_with(':'));
        if !is_figure {
            is_its = line.split_whitespace().nth(5).is_some_and(&is_it);
        } else if is_its && line.starts_with("Pss:") {
            total += mebibytes(line);
        } else if is_its && line.starts_with("Anonymous:") {
            total -= mebibytes(line);
        }
    }
    total
}

/// The figure of a line of `smaps`.
fn mebibytes(line: &str) -> f64 {
    let kilobytes = line.split_whitespace().nth(1).and_then(|figure| figure.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_by_the_file_that_backs_them() {
        let smaps = "55d0-55e0 r-xp 00000000 fe:00 12   /bin/agent\nPss:   2048 kB\nAnonymous:   0 kB\nVmFlags: rd ex\n\
                     55e0-55f0 rw-p 00000000 fe:00 12   /bin/agent\nPss:   1024 kB\nAnonymous:   512 kB\n\
                     7f00-7f10 rw-p 00000000 00:00 0 \nPss:   4096 kB\nAnonymous:   4096 kB\n";
        assert!((of_file(smaps, |file| file == "/bin/agent") - 2.5).abs() < 1e-9);
        assert!(of_file(smaps, |file| file.contains("onnxruntime")).abs() < 1e-9);
    }
}
