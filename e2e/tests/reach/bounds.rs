//! How many requests a tier is given, and what is left behind of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::http::{Connection, Reply};
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::Policy;
use terrace_e2e::server::{Pace, Server};
use terrace_e2e::upstreams::LABEL;
use terrace_e2e::{scenes, upstreams, wait};

use super::cloudy;

/// Several requests at once, each on a connection of its own.
async fn burst(device: &Agent, ask: &Ask, count: usize) -> Result<Vec<Reply>> {
    let asked: Vec<_> = (0..count)
        .map(|_| {
            let (address, request) = (device.http, ask.request());
            tokio::spawn(async move { terrace_e2e::http::send(address, &request).await })
        })
        .collect();
    let mut replies = Vec::new();
    for reply in asked {
        replies.push(reply.await??.answered()?);
    }
    Ok(replies)
}

#[tokio::test]
async fn a_tier_has_no_more_requests_at_once_than_its_policy_grants() -> Result<()> {
    let cloud = upstreams::slow(Duration::from_millis(700)).await?;
    let (_site, device) =
        scenes::device_under(&Policy::named("near").cloud(&cloud.url()).having("maxInFlight: 2")).await?;
    let mut walks: Vec<String> = Vec::new();
    for reply in burst(&device, &cloudy(), 6).await? {
        walks.push(reply.walk()?);
    }
    walks.sort();
    let (full, answered) = ("cloud TooManyInFlight, device Answered", "cloud Answered");
    assert_eq!(walks, [answered, answered, full, full, full, full]);
    assert_eq!(cloud.requests().len(), 2);
    Ok(())
}

/// Every other request is answered after this, the rest at once.
async fn uneven(pause: Duration) -> Result<Server> {
    let asked = AtomicUsize::new(0);
    Server::start(move |_| {
        let is_slow = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        upstreams::outputs().pace(if is_slow { Pace::After(pause) } else { Pace::AtOnce })
    })
    .await
}

#[tokio::test]
async fn a_late_answer_is_overtaken_by_a_second_request() -> Result<()> {
    let cloud = uneven(Duration::from_secs(20)).await?;
    let policy = Policy::named("near")
        .cloud(&cloud.url())
        .timeout("30s")
        .having("hedge: {after: 50ms, maxExtraLoad: 100}");
    let (_site, device) = scenes::device_under(&policy).await?;
    let reply = device.infer(&cloudy()).await?.answered()?;
    let attempt = reply.attempts()?.remove(0);
    assert!(attempt.hedged && attempt.outcome == "Answered" && attempt.ms < 15_000.0, "{attempt:?}");
    assert_eq!(reply.labels()?, [LABEL]);
    assert_eq!(cloud.requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn no_more_requests_are_sent_twice_than_the_policy_grants() -> Result<()> {
    let cloud = upstreams::slow(Duration::from_millis(60)).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("hedge: {after: 5ms, maxExtraLoad: 10}");
    let (site, device) = scenes::device_under(&policy).await?;
    let mut hedged = 0;
    for _ in 0..40 {
        let reply = device.infer(&cloudy()).await?.answered()?;
        hedged += usize::from(reply.attempts()?[0].hedged);
    }
    // The first five, and what was earned after that: the 11th, the 21st, the 31st.
    assert_eq!(hedged, 8);
    assert_eq!(cloud.requests().len(), 48);
    let told = |outcome: &'static str| {
        let labels = ["tier=\"cloud\"", "model=\"default.digits\"", outcome];
        let device = &device;
        async move { device.counted("terrace_tier_hedges_total", &labels).await }
    };
    assert_eq!((told("Sent").await?, told("NoBudget").await?, told("NoEndpoint").await?), (8.0, 32.0, 0.0));
    // A change of what is none of theirs gives them nothing anew.
    site.manifests().policy(&Policy::named("other").cloud(&cloud.url()))?;
    wait::until("the other policy to be accepted", || async {
        let told = device.admin("/status").await?.text();
        ensure!(told.contains("3 files"), "{told}");
        Ok(())
    })
    .await?;
    let mut hedged = Vec::new();
    for _ in 0..5 {
        hedged.push(device.infer(&cloudy()).await?.answered()?.attempts()?[0].hedged);
    }
    assert_eq!(hedged, [true, false, false, false, false]);
    Ok(())
}

/// What would be left behind: tasks, connections to tiers, requests that count as under way.
async fn left_behind(device: &Agent) -> Result<[f64; 3]> {
    let tasks = device.counted("terrace_tasks", &[]).await?;
    let connections = device.counted("terrace_tier_connections", &[]).await?;
    Ok([tasks, connections, device.counted("terrace_tier_in_flight", &[]).await?])
}

#[tokio::test]
async fn ten_thousand_requests_whose_losers_are_taken_back_leave_nothing_behind() -> Result<()> {
    const REQUESTS: usize = 10_000;
    const CLIENTS: usize = 8;
    let cloud = uneven(Duration::from_millis(20)).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("hedge: {after: 1ms, maxExtraLoad: 100}");
    let (_site, device) = scenes::device_under(&policy).await?;
    // What stays for good is there after the first request; its connections go when they were idle for long.
    device.infer(&cloudy()).await?.answered()?;
    let before = wait::until_within("connections to be closed", Duration::from_secs(60), || async {
        let now = left_behind(&device).await?;
        ensure!(now[1] <= 0.0 && now[2] <= 0.0, "{now:?}");
        Ok(now)
    })
    .await?;
    let hedged = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, request, hedged) = (device.http, cloudy().request(), Arc::clone(&hedged));
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await?;
                for round in 0..REQUESTS / CLIENTS {
                    // Now and then the client goes away itself.
                    let patience = Duration::from_millis(if round % 20 == 0 { 3 } else { 30_000 });
                    match tokio::time::timeout(patience, connection.send(&request)).await {
                        Ok(reply) => {
                            let attempts = reply?.answered()?.attempts()?;
                            hedged.fetch_add(usize::from(attempts[0].hedged), Ordering::Relaxed);
                        }
                        Err(_) => connection = Connection::open(address).await?,
                    }
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    assert!(hedged.load(Ordering::Relaxed) > REQUESTS / 10, "{hedged:?} were asked twice");
    wait::until_within("everything to be as before", Duration::from_secs(60), || async {
        let now = left_behind(&device).await?;
        ensure!(now[0] <= before[0] && now[1] <= 0.0 && now[2] <= 0.0, "{before:?} before, {now:?} now");
        Ok(())
    })
    .await
}
