//! A model swapped under half of the load that its agent can take.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Bench;
use super::compare::RATE;
use super::generator::{Aim, Answer, Load};
use super::question::{Encoding, MLP, Question, file};
use super::target::Server;
use super::targets::{Bound, Targets};
use crate::bench::figures::{Report, Samples, figure, row};
use crate::digits::{Artifact, sha256};
use crate::manifests::Model;
use crate::site::Site;

const SWAPS: usize = 20;
const CLIENTS: usize = 32;
const SHARE: f64 = 0.5;
/// The time between two swaps in which nothing changes.
const QUIET: Duration = Duration::from_millis(300);
/// How long after a swap its effects may be felt.
const AFTER: Duration = Duration::from_millis(50);
/// Field 6 of an ONNX file, its `doc_string`, behind everything else: the same model with another digest.
const ANOTHER: &[u8] = b"\x32\x05again";

pub async fn measure(report: &mut Report, bench: &Bench, targets: &mut Targets) -> Result<()> {
    report.section(
        "Swaps at half of the load",
        &format!(
            "mlp in binary, requests that come as they come (Poisson) at {} % of what the agent answers {CLIENTS} clients. \
             The manifest names the other of two revisions {SWAPS} times. A swap lasts from the change of the file until {} \
             ms after the new revision serves: the model is found, fetched or taken from disk, probed in a child, loaded and \
             swapped in meanwhile, on the same cores. Latency counts from when a request was due. One answer whose status \
             is not 200 would end this with an error.",
            SHARE * 100.0,
            AFTER.as_millis()
        ),
    );
    let question = Question::of(&MLP, Encoding::Binary, &bench.raw)?;
    let (mut other, _) = Server::terrace(&bench.models, (&MLP, 1), &question).await?;
    let rate = SHARE * RATE(&other.closed(CLIENTS).await?);
    drop(other);

    let site = Site::new()?;
    let first = std::fs::read(file(&bench.models, &MLP))?;
    let second = [&first[..], ANOTHER].concat();
    let revisions = [("first.onnx", first), ("second.onnx", second)].map(|(name, bytes)| -> Result<Model> {
        site.offer(name, &bytes)?;
        Ok(Model::of(MLP.name, &Artifact { uri: format!("file:///{name}"), sha256: sha256(&bytes) }))
    });
    let [first, second] = revisions;
    let revisions = [first?, second?];
    site.manifests().model(&revisions[0])?;
    let agent = site.agent().ready().await?;
    question.check(agent.http).await?;

    let aim = Aim { address: agent.http, request: question.wire(agent.http), is_grpc: false };
    let load = Load::open(aim, rate)?;
    tokio::time::sleep(QUIET).await;
    let begun = Instant::now();
    let mut swaps: Vec<Range<Instant>> = Vec::new();
    for swap in 1..=SWAPS {
        tokio::time::sleep(QUIET).await;
        let revision = &revisions[swap % 2];
        let changed = Instant::now();
        site.manifests().model(revision)?;
        agent.wait_serving(MLP.name, revision.sha256()).await?;
        tokio::time::sleep(AFTER).await;
        swaps.push(changed..Instant::now());
    }
    tokio::time::sleep(QUIET).await;
    let answers = load.stop().await.context("a request failed")?;

    let meets = |answer: &Answer, swap: &Range<Instant>| {
        answer.done - answer.took < swap.end && answer.done > swap.start
    };
    let counted = answers.all.iter().filter(|answer| answer.done > begun);
    let (during, steady): (Vec<&Answer>, Vec<&Answer>) =
        counted.partition(|answer| swaps.iter().any(|swap| meets(answer, swap)));
    let times = |answers: &[&Answer]| -> Samples {
        answers.iter().map(|answer| answer.took.as_secs_f64() * 1e3).collect()
    };
    let cells = |answers: &[&Answer]| {
        let times = times(answers);
        [figure(answers.len() as f64)].into_iter().chain(times.cells()).collect::<Vec<_>>()
    };
    report.table(
        &["requests", "count", "p50 ms", "p99 ms", "max ms"],
        &[row("between swaps", cells(&steady)), row("during swaps", cells(&during))],
    );
    // Each swap beside the quiet before and after it, so that what else the machine does counts for both.
    let (around, within) =
        (1.1 * QUIET.as_secs_f64(), |answer: &&&Answer, swap: &Range<Instant>| meets(answer, swap));
    let around = Duration::from_secs_f64(around);
    let ratios: Vec<f64> = swaps
        .iter()
        .map(|swap| {
            let near = (swap.start - around)..(swap.end + around);
            let during: Vec<&Answer> = during.iter().filter(|answer| within(answer, swap)).copied().collect();
            let quiet: Vec<&Answer> = steady.iter().filter(|answer| within(answer, &near)).copied().collect();
            times(&during).quantile(0.99) / times(&quiet).quantile(0.99)
        })
        .collect();
    let lasted: Samples = swaps.iter().map(|swap| (swap.end - swap.start).as_secs_f64() * 1e3).collect();
    report.say(format_args!(
        "{SWAPS} swaps at {} requests/s, {} requests, 0 failed. p99 during ÷ between: {} of all; a swap and its surroundings \
         each: {} at the median. A swap took {} ms at the median, {} at most.",
        figure(rate),
        answers.all.len(),
        figure(times(&during).quantile(0.99) / times(&steady).quantile(0.99)),
        figure(ratios.iter().copied().collect::<Samples>().median()),
        figure(lasted.median() - AFTER.as_secs_f64() * 1e3),
        figure(lasted.max() - AFTER.as_secs_f64() * 1e3)
    ));
    targets.note("20 swaps at half of the load: p99 during ÷ between", "", Bound::AtMost(1.5), ratios);
    targets.note("20 swaps at half of the load: failed requests", "", Bound::AtMost(0.0), [0.0]);
    Ok(())
}
