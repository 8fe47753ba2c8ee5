//! What an agent holds in memory when nobody asks.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::targets::{Bound, Targets};
use crate::bench::figures::{Report, Samples, figure, row};
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
             {REQUESTS} requests to each, one process at a time.",
            IDLE.as_secs()
        ),
    );
    let site = Site::new()?;
    for name in MODELS {
        site.manifests().model(&Model::of(name, &digits::model(name)?))?;
    }
    let mut memories = Vec::new();
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
        memories.push(memory(agent.pid())?);
        agent.kill9()?;
    }
    let megabytes =
        |of: fn(&Memory) -> f64| memories.iter().map(move |memory| of(memory) * MEBIBYTE / MEGABYTE);
    let cells = |of| {
        let samples: Samples = megabytes(of).collect();
        [samples.quantile(0.0), samples.median(), samples.max()].map(figure)
    };
    report.table(
        &["MB", "least", "p50", "most"],
        &[
            row("all of it", cells(|memory| memory.all)),
            row("of it not from files", cells(|memory| memory.anonymous)),
        ],
    );
    targets.note(
        "idle memory with 3 small models",
        "MB",
        Bound::AtMost(40.0),
        megabytes(|memory| memory.all),
    );
    Ok(())
}
