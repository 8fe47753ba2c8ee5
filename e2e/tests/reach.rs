//! Reaching other tiers: by which protocol, as whom, when they are left alone, and that nothing is left behind.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::http::{Connection, Reply};
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::relay::Relay;
use terrace_e2e::scenes;
use terrace_e2e::server::{Pace, Plan, Server, authority, find};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, LABEL};
use terrace_e2e::wait;

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// What the default rules give to the cloud.
fn cloudy() -> Ask {
    Ask::image(image()).complexity(0.9)
}

fn grpc(agent: &Agent) -> String {
    format!("http://{}", agent.grpc)
}

#[tokio::test]
async fn a_tier_that_is_asked_over_grpc_answers_as_over_http() -> Result<()> {
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let (_one, over_http) = scenes::device_under(&Policy::named("near").edge(&scenes::url(&edge))).await?;
    let (_other, over_grpc) =
        scenes::device_under(&Policy::named("near").edge(&grpc(&edge)).having("protocol: GRPC")).await?;
    let asks = [
        Ask::image(image()).complexity(0.5),
        Ask::image(image()).complexity(0.5).parameter("binary_data_output", false),
        Ask::image(image()).complexity(0.5).outputs(&["label"]),
        Ask::images(&digits::test_set().images[..40]).complexity(0.5).id("forty"),
    ];
    for ask in asks {
        let (one, other) =
            (over_http.infer(&ask).await?.answered()?, over_grpc.infer(&ask).await?.answered()?);
        assert_eq!(other.route()?, Route::of("edge", "primary", "ModerateComplexity"));
        assert_eq!(other.outputs()?, one.outputs()?, "{}", ask.body());
        assert_eq!(other.model_version()?, one.model_version()?);
        assert_eq!(other.json()?["id"], one.json()?["id"]);
    }
    // What is wrong with a request, the tier says over gRPC too, and nobody else is asked.
    let wrong = Ask::batch(1, &[0.5; 64]).outputs(&["nonsense"]).complexity(0.5);
    let (one, other) = (over_http.infer(&wrong).await?, over_grpc.infer(&wrong).await?);
    assert_eq!((one.status, other.status), (400, 400), "{}", other.text());
    assert_eq!(one.error()?, other.error()?);
    // The model of another name is not there: not the request's fault, nor the endpoint's.
    Ok(())
}

#[tokio::test]
async fn nothing_private_goes_by_a_warm_connection_over_grpc() -> Result<()> {
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let relay = Relay::before(edge.grpc).await?;
    let policy = Policy::named("near").edge(&relay.url()).having("protocol: GRPC");
    let (_site, device) = scenes::device_under(&policy).await?;
    for _ in 0..3 {
        let open = Ask::image(image()).complexity(0.5).id("open-request").header("traceparent", TRACE);
        assert_eq!(device.infer(&open).await?.answered()?.route()?.tier, "edge");
    }
    assert!(find(&relay.bytes(), b"open-request").is_some(), "the relay would notice");
    // What an idle HTTP/2 connection says of itself comes within a moment.
    let settled = settled(&relay).await?;
    let canary = "canary-77aa01";
    for ask in [
        Ask::image(image()).complexity(0.5).id(canary).private(),
        Ask::image(image()).id(canary).private().header("traceparent", TRACE).header("tracestate", canary),
        Ask::image(image()).id(canary).header("terrace-privacy-required", "true").within(100),
    ] {
        let reply = device.infer(&ask).await?.answered()?;
        assert_eq!(reply.route()?.tier, "device");
    }
    let bytes = relay.bytes();
    assert_eq!(find(&bytes, canary.as_bytes()), None);
    assert_eq!((bytes.len(), relay.connections()), settled, "(bytes, connections) at the edge");
    Ok(())
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn settled(relay: &Relay) -> Result<(usize, usize)> {
    let seen = || (relay.bytes().len(), relay.connections());
    let last = std::cell::Cell::new(seen());
    wait::until("the connection to be quiet", || async {
        let before = last.replace(seen());
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensure!(before == seen() && before == last.get(), "still busy");
        Ok(before)
    })
    .await
}

#[tokio::test]
async fn trace_and_time_travel_along_and_no_compressed_answer_is_asked_for() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let ask = cloudy().within(5_000).header("traceparent", TRACE).header("tracestate", "vendor=1");
    let ask = ask.header("authorization", "Bearer of-the-client").header("x-request-id", "7");
    device.infer(&ask).await?.answered()?;
    device.infer(&cloudy()).await?.answered()?;
    let [seen, bare]: [_; 2] = cloud.requests().try_into().ok().context("not two requests")?;
    assert_eq!(seen.header("traceparent"), Some(TRACE));
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("terrace-hop"), Some("device"));
    let left: f64 = seen.header("terrace-max-latency-ms").context("no deadline")?.parse()?;
    assert!((1.0..5_000.0).contains(&left), "{left}");
    for name in ["authorization", "x-request-id"] {
        assert_eq!(seen.header(name), None, "{name} is between the client and this node");
    }
    for name in ["traceparent", "tracestate", "terrace-max-latency-ms"] {
        assert_eq!(bare.header(name), None, "{name}");
    }
    Ok(())
}

/// Puts credentials where the agent finds them, as a whole.
fn put(site: &Site, path: &str, bytes: &[u8]) -> Result<()> {
    let path = site.folder().join("credentials").join(path);
    fs::create_dir_all(path.parent().context("no folder")?)?;
    fs::write(path.with_extension("new"), bytes)?;
    Ok(fs::rename(path.with_extension("new"), path)?)
}

#[tokio::test]
async fn a_tier_is_asked_as_its_policy_says_and_anew_when_that_changes() -> Result<()> {
    let cloud = Server::start_mutual(|_| upstreams::outputs()).await?;
    let site = Site::new()?;
    let policy = Policy::named("near")
        .cloud(&cloud.url())
        .having("tls: {authority: corp, clientCertificate: device}")
        .having("auth: {bearer: cloud}")
        .having("breaker: {failures: 1000}");
    site.manifests().policy(&policy)?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().set("--credentials-dir", site.folder().join("credentials")).ready().await?;
    let walk = async || device.infer(&cloudy()).await?.answered()?.walk();
    let becomes = |expected: &'static str| {
        let walk = &walk;
        wait::until(expected, move || async move {
            let walk = walk().await?;
            ensure!(walk == expected, "{walk}");
            Ok(())
        })
    };
    assert_eq!(walk().await?, "cloud CredentialsUnavailable, device Answered");
    let told = device.admin("/status").await?.json()?["tiers"][0].clone();
    let why = told["credentials"].as_str().context("no word on credentials")?;
    assert!(why.contains("default/corp/ca.crt cannot be read: no such file"), "{why}");
    // In the folder of another namespace they are nobody's.
    put(&site, "other/corp/ca.crt", &fs::read(authority())?)?;

    let tls = |file: &str| fs::read(terrace_e2e::checkout().join("e2e/tests/tls").join(file));
    put(&site, "default/cloud/token", b"first-token\n")?;
    put(&site, "default/device/tls.crt", &tls("client.pem")?)?;
    put(&site, "default/device/tls.key", &tls("client.key")?)?;
    // Another authority: the server is not trusted.
    put(&site, "default/corp/ca.crt", &tls("client-ca.pem")?)?;
    becomes("cloud ConnectFailed, device Answered").await?;
    put(&site, "default/corp/ca.crt", &tls("ca.pem")?)?;
    becomes("cloud Answered").await?;
    let last = || cloud.requests().last().and_then(|seen| seen.header("authorization").map(str::to_owned));
    assert_eq!(last().as_deref(), Some("Bearer first-token"));

    put(&site, "default/cloud/token", b"second-token\n")?;
    wait::until("the second token to be sent", || async {
        ensure!(walk().await? == "cloud Answered");
        ensure!(last().as_deref() == Some("Bearer second-token"), "{:?}", last());
        Ok(())
    })
    .await?;
    // A certificate that the server does not know: it hangs up, and what is left of the old connection is not used.
    put(&site, "default/device/tls.crt", &tls("server.pem")?)?;
    put(&site, "default/device/tls.key", &tls("server.key")?)?;
    wait::until("the other certificate to be shown", || async {
        let walk = walk().await?;
        ensure!(walk.starts_with("cloud Connect"), "{walk}");
        Ok(())
    })
    .await?;
    for secret in ["first-token", "second-token"] {
        for text in
            [device.log(), device.admin("/status").await?.text(), device.admin("/metrics").await?.text()]
        {
            assert!(!text.contains(secret));
        }
    }
    Ok(())
}

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
