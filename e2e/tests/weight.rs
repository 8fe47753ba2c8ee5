//! What other tiers answer has no more memory and no more time than what clients send.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams;

const MIB: usize = 1 << 20;

/// An answer of so many numbers, two bytes each.
fn numbers(count: usize) -> Plan {
    let data = vec!["1"; count].join(",");
    let body = format!(
        r#"{{"model_name":"m","outputs":[{{"name":"y","datatype":"INT64","shape":[{count}],"data":[{data}]}}]}}"#
    );
    Plan::ok(body).header("content-type", "application/json")
}

async fn device(plan: Plan, held: usize, timeout: &str) -> Result<(Site, Agent, Server)> {
    let cloud = upstreams::planned(plan).await?;
    let site = Site::new()?;
    let policy = Policy::named("up").cloud(&cloud.url()).timeout(timeout);
    site.manifests().policy(&policy.with("rules: [{when: 'true', tier: Cloud}]"))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("up"))?;
    let device = site.agent().set("--max-held-bytes", held.to_string()).ready().await?;
    Ok((site, device, cloud))
}

fn one() -> Ask {
    Ask::image(&digits::test_set().images[0])
}

#[tokio::test]
async fn answers_of_other_tiers_find_room_as_they_come_or_the_next_tier_is_asked() -> Result<()> {
    const ANSWER: usize = 6 * MIB;
    let plan = numbers(ANSWER / 2).pace(Pace::Pieces(MIB, Duration::from_millis(50)));
    let (_site, device, cloud) = device(plan, 16 * MIB, "60s").await?;
    let asked = one();
    let before = device.memory()?;
    let replies = join_all((0..12).map(|_| device.infer(&asked))).await;
    let grown = usize::try_from(device.peak_memory()?.saturating_sub(before))?;
    ensure!(grown < 64 * MIB, "{} MiB for {} that may be held", grown / MIB, 16);
    let (mut whole, mut passed_over) = (0, 0);
    for reply in replies {
        let reply = reply?.answered()?;
        match reply.walk()?.as_str() {
            "cloud Answered" => {
                whole += 1;
                ensure!(reply.body.len() > ANSWER, "{} bytes", reply.body.len());
            }
            "cloud NoRoom, device Answered" => passed_over += 1,
            other => anyhow::bail!("{other}"),
        }
    }
    ensure!(whole >= 1 && passed_over >= 1, "{whole} whole, {passed_over} without room");
    // It is this node's lack, and no fault of the tier.
    ensure!(cloud.requests().len() == 12, "{} were asked", cloud.requests().len());
    device.infer(&asked).await?.answered()?;
    Ok(())
}

#[tokio::test]
async fn who_alone_may_have_the_answer_hears_that_there_is_no_room_for_it() -> Result<()> {
    let (_site, device, _cloud) = device(numbers(3 * MIB), 4 * MIB, "60s").await?;
    let reply = device.infer(&one().parameter("tier", "cloud")).await?;
    assert_eq!(reply.status, 413, "{}", reply.text());
    ensure!(
        reply.error()?.contains("the answer is larger than all that this agent may hold"),
        "{}",
        reply.text()
    );
    Ok(())
}

#[tokio::test]
async fn a_tier_that_refuses_is_not_waited_for_until_it_has_said_why() -> Result<()> {
    // Its head comes after 4 s, and the last of its words after 8.
    let plan = Plan::status(503, "x".repeat(100)).pace(Pace::Pieces(100, Duration::from_secs(4)));
    let (_site, device, _cloud) = device(plan, 16 * MIB, "7s").await?;
    let reply = device.infer(&one()).await?.answered()?;
    assert_eq!(reply.walk()?, "cloud BadStatus, device Answered");
    Ok(())
}
