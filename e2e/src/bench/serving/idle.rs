//! What an agent holds in memory when nobody asks.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::targets::{Bound, Targets};
use crate::bench::figures::{Report, Samples, figure, row};
use crate::bench::holder::Holder;
use crate::bench::memory::{Memory, memory};
use crate::digits;
use crate::infer::Ask;
use crate::manifests::Model;
use crate::site::Site;

const MODELS: [&str; 3] = ["digits-device", "digits-edge", "digits-cloud"];
const REQUESTS: usize = 1_000;
/// How long it is left alone before it is looked at.
const IDLE: Duration = Duration::from_secs(1);
/// The target is told in these.
const MEGABYTE: f64 = 1e6;
const MEBIBYTE: f64 = 1_048_576.0;

pub async fn measure(report: &mut Report, bench: &Bench, targets: &mut Targets) -> Result<()> {
    report.section(
        "Memory of an idle agent",
        &format!(
            "Proportional set size (`smaps_rollup`) of an agent that serves three digits models, {} s after it answered \
             {REQUESTS} requests to each, and of a C program that holds the same three sessions after one run of each: \
             the floor. One process at a time, alternating. Pages of files are those that were touched; the kernel may \
             take them back and read them again.",
            IDLE.as_secs()
        ),
    );
    let site = Site::new()?;
    for name in MODELS {
        site.manifests().model(&Model::of(name, &digits::model(name)?))?;
    }
    let holder = Holder::compile()?;
    let (mut agents, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let agent = site.agent().ready().await?;
        let mut connection = agent.connect().await?;
        for name in MODELS {
            let request = Ask::image(&digits::test_set().images[0]).model(name).request();
            for _ in 0..REQUESTS {
                connection.send(&request).await?.answered()?;
            }
        }
        drop(connection);
        tokio::time::sleep(IDLE).await;
        agents.push(memory(agent.pid())?);
        agent.kill9()?;
        floors.push(memory(holder.start(&MODELS)?.pid())?);
    }
    let parts: [(&str, Part); 5] = [
        ("all of it", |memory| memory.all),
        ("no file's", |memory| memory.anonymous),
        ("ONNX Runtime's library", |memory| memory.runtime),
        ("the program's file", |memory| memory.program),
        ("other files", |memory| memory.all - memory.anonymous - memory.runtime - memory.program),
    ];
    let rows: Vec<Vec<String>> = parts
        .into_iter()
        .map(|(name, part)| {
            let (agent, floor) = (megabytes(&agents, part), megabytes(&floors, part));
            row(name, [agent.quantile(0.0), agent.median(), agent.max(), floor.median()].map(figure))
        })
        .collect();
    report.table(&["MB", "agent, least", "agent, p50", "agent, most", "C program, p50"], &rows);
    targets.note(
        "idle memory with 3 small models",
        "MB",
        Bound::AtMost(40.0),
        agents.iter().map(|memory| in_megabytes(memory.all)),
    );
    Ok(())
}

/// One part of a process' memory, in MiB.
type Part = fn(&Memory) -> f64;

fn megabytes(memories: &[Memory], part: Part) -> Samples {
    memories.iter().map(|memory| in_megabytes(part(memory))).collect()
}

fn in_megabytes(mebibytes: f64) -> f64 {
    mebibytes * MEBIBYTE / MEGABYTE
}
