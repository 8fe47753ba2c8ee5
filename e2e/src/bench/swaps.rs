//! Models swapped under load: what fails, and what becomes slower.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Report, Samples, figure, row};
use crate::expected::Expected;
use crate::load::{Answer, Load, Rhythm};
use crate::manifests::Model;
use crate::site::Site;

const SWAPS: usize = 20;
const CLIENTS: u32 = 4;
const INTERVAL: Duration = Duration::from_millis(4);
/// The time between two swaps in which nothing changes.
const QUIET: Duration = Duration::from_millis(300);
/// How long after a swap its effects may be felt.
const AFTER: Duration = Duration::from_millis(50);

pub async fn measure(report: &mut Report) -> Result<()> {
    report.section(
        "Swaps under load",
        &format!(
            "{CLIENTS} clients ask once in {} ms each ({} requests a second), timed from when a request was due. The \
             manifest names the other of two revisions {SWAPS} times. A swap lasts from the change of the file until {} \
             ms after the new revision serves: the model is found, fetched or taken from disk, probed in a child, \
             loaded, verified and swapped in meanwhile. Each answer must be exactly that of the revision it names. \
             Target: none fails.",
            INTERVAL.as_millis(),
            1_000 / INTERVAL.as_millis() * u128::from(CLIENTS),
            AFTER.as_millis()
        ),
    );
    let names = ["digits-device", "digits-device-r2"];
    let models = [Model::digits(names[0])?, Model::digits(names[1])?];
    let recorded = [(names[0], models[0].clone()), (names[1], models[1].clone())];
    let expected = Arc::new(Expected::record(&recorded, 40).await?);
    let site = Site::new()?;
    site.manifests().model(&models[0])?;
    let agent = site.agent().ready().await?;

    let load = Load::start(&agent, &expected, CLIENTS as usize, Rhythm::Every(INTERVAL)).await?;
    tokio::time::sleep(QUIET).await;
    let mut windows = Vec::new();
    let mut swaps = Vec::new();
    for swap in 1..=SWAPS {
        let model = &models[swap % 2];
        let begun = Instant::now();
        site.manifests().model(model)?;
        agent.wait_serving("digits", model.sha256()).await?;
        swaps.push(begun.elapsed().as_secs_f64() * 1e3);
        windows.push(begun..Instant::now() + AFTER);
        tokio::time::sleep(AFTER + QUIET).await;
    }
    // A request that fails ends the load, and this measurement, with an error.
    let answers = load.stop().await?;

    let meets_a_swap = |answer: &&Answer| {
        windows.iter().any(|window| answer.due < window.end && answer.due + answer.took > window.start)
    };
    let times = |answers: Vec<&Answer>| answers.iter().map(|a| a.took.as_secs_f64() * 1e3).collect();
    let (during, steady): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(meets_a_swap);
    let (during, steady): (Samples, Samples) = (times(during), times(steady));
    let count = |samples: &Samples| std::iter::once(samples.len().to_string());
    report.table(
        &["requests", "count", "p50 ms", "p99 ms", "max ms"],
        &[
            row("between swaps", count(&steady).chain(steady.cells())),
            row("during swaps", count(&during).chain(during.cells())),
        ],
    );
    let swaps: Samples = swaps.into_iter().collect();
    report.say(format_args!(
        "{SWAPS} swaps, {} requests, 0 failed, 0 wrong. p99 during ÷ between: {}. A swap took {} ms at the median, {} \
         at most.",
        answers.len(),
        figure(during.quantile(0.99) / steady.quantile(0.99)),
        figure(swaps.median()),
        figure(swaps.max())
    ));
    Ok(())
}
