//! How a request's time is shared between a tier that does not answer and the node that stands in for it.

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::http::Reply;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Policy;
use terrace_e2e::opinions::{patient, patient_under};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::BlackHole;

/// By how much a busy machine may be late.
const HICCUP_MS: f64 = 80.0;

/// A device whose cloud swallows everything, and is asked again and again.
async fn before_nothing() -> Result<(BlackHole, Site, Agent)> {
    let cloud = BlackHole::new().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("breaker: {failures: 1000}");
    let (site, device) = patient_under(&policy).await?;
    Ok((cloud, site, device))
}

/// What the cloud is asked first.
fn hard(rounds: i64) -> Ask {
    patient(0.9, rounds).complexity(0.9)
}

/// How long the cloud had.
fn cloud_had(reply: &Reply) -> Result<f64> {
    let attempts = reply.attempts()?;
    let cloud = attempts.first().filter(|attempt| attempt.tier == "cloud" && attempt.outcome == "TimedOut");
    Ok(cloud.with_context(|| format!("the cloud did not time out: {attempts:?}"))?.ms)
}

#[tokio::test]
async fn a_node_keeps_half_of_the_time_before_its_first_answer_and_less_after_it() -> Result<()> {
    let (_cloud, _site, device) = before_nothing().await?;
    for (kept_ms, answers) in [(450.0, "none"), (300.0, "one")] {
        let reply = device.infer(&hard(0).within(900)).await?.answered()?;
        assert_eq!(reply.walk()?, "cloud TimedOut, device Answered", "after {answers}");
        let (had, share) = (cloud_had(&reply)?, 900.0 - kept_ms);
        assert!((share - HICCUP_MS..share + HICCUP_MS).contains(&had), "{had} ms after {answers}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_needs_most_of_the_time_is_left_it() -> Result<()> {
    let (_cloud, _site, device) = before_nothing().await?;
    // Rounds until an answer takes long beside what disturbs it.
    let mut rounds = 20_000;
    let takes = loop {
        let ask = patient(0.9, rounds).parameter("tier", "device");
        let takes = device.infer(&ask).await?.answered()?.attempts()?[0].ms;
        if takes > 400.0 {
            break takes;
        }
        ensure!(rounds < 1 << 40, "{rounds} rounds take {takes} ms");
        rounds *= 2;
    };
    // Half of the time is too little for it.
    let deadline = 1.7 * takes;
    let reply = device.infer(&hard(rounds).within(deadline)).await?;
    // A machine that is busy with something else may need longer this time, and then says so; what matters is who had what.
    let had = if reply.status == 200 {
        cloud_had(&reply)?
    } else {
        let told = reply.error()?;
        ensure!(told.contains("device DeadlineExceeded"), "the node was not asked: {told}");
        let told = told.split_once("cloud TimedOut after ").and_then(|(_, rest)| rest.split(' ').next());
        told.context("the cloud did not time out")?.parse()?
    };
    assert!(had < deadline - takes, "the cloud had {had} of {deadline} ms, an answer takes {takes}");
    Ok(())
}
