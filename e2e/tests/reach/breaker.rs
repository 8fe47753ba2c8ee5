//! When a tier is left alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use terrace_e2e::manifests::Policy;
use terrace_e2e::server::{Pace, Plan};
use terrace_e2e::{scenes, upstreams, wait};

use super::cloudy;

#[tokio::test]
async fn a_tier_that_was_killed_costs_nothing_until_it_is_back() -> Result<()> {
    let (cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits").await?;
    let address = cloud.http.to_string();
    let policy = Policy::named("near")
        .cloud(&format!("http://{address}"))
        .having("breaker: {failures: 3, period: 500ms, maxPeriod: 1s}");
    let (_site, device) = scenes::device_under(&policy).await?;
    assert_eq!(device.infer(&cloudy()).await?.answered()?.walk()?, "cloud Answered");
    cloud.kill9()?;
    for _ in 0..3 {
        // The first may find the connection that there was, which died.
        let walk = device.infer(&cloudy()).await?.answered()?.walk()?;
        assert!(
            walk == "cloud ConnectFailed, device Answered" || walk.contains("ConnectionBroken"),
            "{walk}"
        );
    }
    let until = Instant::now() + Duration::from_secs(2);
    let mut wasted = Vec::new();
    while Instant::now() < until {
        let reply = device.infer(&cloudy()).await?.answered()?;
        assert_eq!(reply.walk()?, "cloud BreakerOpen, device Answered");
        wasted.push(reply.attempts()?[0].ms);
    }
    wasted.sort_by(f64::total_cmp);
    let median = wasted[wasted.len() / 2];
    assert!(median < 5.0, "{median} ms of {} requests", wasted.len());
    let told = device.admin("/status").await?.json()?["tiers"][0].clone();
    assert_eq!(told["lastFailure"]["reason"], "ConnectFailed", "{told}");
    assert!(device.counted("terrace_tier_breaker_opened_total", &[&address]).await? >= 1.0);

    let _cloud = cloud_site.agent().tier("cloud").set("--listen-http", &address).ready().await?;
    // It is looked for without a request, so that the first one is answered.
    wait::until("the cloud to be found again", || async {
        let told = device.admin("/status").await?.json()?["tiers"][0].clone();
        ensure!(told["breaker"] == "half-open", "{told}");
        Ok(())
    })
    .await?;
    assert_eq!(device.infer(&cloudy()).await?.answered()?.walk()?, "cloud Answered");
    assert_eq!(device.counted("terrace_tier_breaker", &[&address]).await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_hangs_up_is_tried_once_a_period() -> Result<()> {
    let cloud = upstreams::planned(upstreams::outputs().pace(Pace::HangUp)).await?;
    let policy =
        Policy::named("near").cloud(&cloud.url()).having("breaker: {failures: 2, period: 1s, maxPeriod: 1s}");
    let (_site, device) = scenes::device_under(&policy).await?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        device.infer(&cloudy()).await?.answered()?;
    }
    let (tried, most) = (cloud.connections(), 2 + begun.elapsed().as_secs() as usize);
    assert!((3..=most).contains(&tried), "{tried} connections");
    Ok(())
}

#[tokio::test]
async fn a_tier_that_answers_with_4xx_is_there() -> Result<()> {
    let cloud = upstreams::planned(Plan::status(404, "{\"error\": \"x\"}")).await?;
    let (_site, device) =
        scenes::device_under(&Policy::named("near").cloud(&cloud.url()).having("breaker: {failures: 1}"))
            .await?;
    for _ in 0..5 {
        assert_eq!(device.infer(&cloudy()).await?.answered()?.walk()?, "cloud BadStatus, device Answered");
    }
    Ok(())
}

#[tokio::test]
async fn a_tier_that_is_too_slow_for_a_deadline_is_not_asked() -> Result<()> {
    let cloud = upstreams::slow(Duration::from_millis(600)).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    // How much is kept back for the device is known then.
    device.infer(&cloudy().private()).await?.answered()?;
    let hurried = cloudy().within(300);
    let first = device.infer(&hurried).await?.answered()?;
    assert_eq!(first.walk()?, "cloud TimedOut, device Answered");
    let mut passed_over = 0;
    for _ in 0..12 {
        let reply = device.infer(&hurried).await?.answered()?;
        if reply.walk()? == "cloud PredictedTooLate, device Answered" {
            assert!(reply.attempts()?[0].ms < 50.0);
            passed_over += 1;
        }
    }
    // On a busy machine more or less is kept back each time, so it may be asked once more for a longer time.
    assert!(passed_over >= 9, "only {passed_over} of 12");
    assert_eq!(cloud.requests().len(), 13 - passed_over);
    // Those that have time still go there.
    assert_eq!(device.infer(&cloudy().within(10_000)).await?.answered()?.walk()?, "cloud Answered");
    let told = device.counted("terrace_tier_predicted_latency_seconds", &["tier=\"cloud\""]).await?;
    assert!((0.3..2.0).contains(&told), "{told}");
    Ok(())
}
