//! Who is left alone where something fails: what is wrong with one model, one request or one connection takes a tier away
//! from nobody else. And what is told of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use h2::Reason;
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::http::Request;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes;
use terrace_e2e::server::{Pace, Plan, Server, find};
use terrace_e2e::site::Site;
use terrace_e2e::streams::{Streams, Turn};
use terrace_e2e::upstreams::{self, Refused};
use terrace_e2e::wait;

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// What the default rules give to the cloud.
fn cloudy(model: &str) -> Ask {
    Ask::image(image()).complexity(0.9).model(model)
}

/// The only endpoint, as the status tells of it.
async fn told(device: &Agent) -> Result<Value> {
    Ok(device.admin("/status").await?.json()?["tiers"][0].clone())
}

async fn walk(device: &Agent, model: &str) -> Result<String> {
    device.infer(&cloudy(model)).await?.answered()?.walk()
}

/// A device with two models under one policy.
async fn two_models(policy: &Policy) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().policy(policy)?;
    for name in ["ma", "mb"] {
        site.manifests().model(&Model::digits("digits-device")?.named(name).policy("near"))?;
    }
    let device = site.agent().ready().await?;
    Ok((site, device))
}

/// Answers all models but `ma`.
async fn but_ma(plan: Plan) -> Result<Server> {
    Server::start(move |seen| if seen.path().contains("/ma/") { plan.clone() } else { upstreams::outputs() })
        .await
}

#[tokio::test]
async fn a_model_that_fails_at_a_tier_takes_it_from_no_other_model() -> Result<()> {
    let error = json!({"error": "Model with name ma is not ready."}).to_string();
    let contradiction = Plan::ok(
        json!({
            "model_name": "ma",
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": [0.1]}],
        })
        .to_string(),
    );
    let refusal = |status| (Plan::status(status, error.clone()), "BadStatus", format!("status {status} "));
    for (plan, outcome, said) in [
        (Plan::status(500, "x"), "BadStatus", "status 500 ".to_owned()),
        refusal(500),
        refusal(503),
        refusal(504),
        (contradiction, "Malformed", "an inference response that contradicts itself: ".to_owned()),
    ] {
        let cloud = but_ma(plan).await?;
        let (_site, device) = two_models(&Policy::named("near").cloud(&cloud.url())).await?;
        for _ in 0..3 {
            assert_eq!(walk(&device, "ma").await?, format!("cloud {outcome}, device Answered"));
        }
        for _ in 0..3 {
            assert_eq!(walk(&device, "ma").await?, "cloud BreakerOpen, device Answered", "{said}");
            assert_eq!(walk(&device, "mb").await?, "cloud Answered", "{said}");
        }
        let told = told(&device).await?;
        assert_eq!(
            (told["breaker"].as_str(), told["models"].as_array().map(Vec::len)),
            (Some("closed"), Some(1))
        );
        let model = &told["models"][0];
        assert_eq!((model["model"].as_str(), model["breaker"].as_str()), (Some("default.ma"), Some("open")));
        let message = model["lastFailure"]["message"].as_str().context("no message")?;
        assert!(message.contains(&said), "{message}");
        assert_eq!(device.counted("terrace_tier_breaker", &[]).await?, 0.0);
        assert_eq!(device.counted("terrace_tier_model_breaker", &["default.ma"]).await?, 2.0);
        assert_eq!(device.counted("terrace_tier_model_breaker", &["default.mb"]).await?, 0.0);
        let reply = device.infer(&Ask::image(image()).model("ma").parameter("tier", "cloud")).await?;
        let error = reply.error()?;
        let expected = format!(": it failed 3 times in a row, the last time: {said}");
        assert!(
            error.starts_with("cloud is left alone with the model \"default.ma\" for another "),
            "{error}"
        );
        assert!(error.contains(&expected), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_model_that_never_answers_cannot_keep_a_tier_from_others() -> Result<()> {
    let cloud = but_ma(upstreams::outputs().pace(Pace::Never)).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).timeout("100ms");
    let policy = policy.having("breaker: {failures: 2, period: 300ms, maxPeriod: 300ms}");
    let (_site, device) = two_models(&policy).await?;
    for _ in 0..2 {
        assert_eq!(walk(&device, "ma").await?, "cloud TimedOut, device Answered");
    }
    // It may be the endpoint's fault, until another model is answered there.
    wait::until("the other model to be answered", || async {
        let walk = walk(&device, "mb").await?;
        ensure!(walk == "cloud Answered", "{walk}");
        Ok(())
    })
    .await?;
    let (begun, mut tried) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(3) {
        tried += usize::from(walk(&device, "ma").await?.starts_with("cloud TimedOut"));
        assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    }
    assert!((2..=12).contains(&tried), "it was tried {tried} times");
    Ok(())
}

#[tokio::test]
async fn a_policy_without_patience_takes_an_endpoint_from_no_other_policy() -> Result<()> {
    let cloud = upstreams::slow(Duration::from_millis(400)).await?;
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("hasty").cloud(&cloud.url()).timeout("50ms"))?;
    site.manifests().policy(&Policy::named("patient").cloud(&cloud.url()).timeout("30s"))?;
    for (name, policy) in [("ma", "hasty"), ("mb", "patient")] {
        site.manifests().model(&Model::digits("digits-device")?.named(name).policy(policy))?;
    }
    let device = site.agent().ready().await?;
    for _ in 0..3 {
        assert_eq!(walk(&device, "ma").await?, "cloud TimedOut, device Answered");
    }
    assert_eq!(walk(&device, "ma").await?, "cloud BreakerOpen, device Answered");
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_took_its_whole_time_has_failed_once_and_not_nearly_once() -> Result<()> {
    let cloud = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).timeout("150ms").having("breaker: {failures: 1}");
    let (_site, device) = scenes::device_under(&policy).await?;
    assert_eq!(walk(&device, "digits").await?, "cloud TimedOut, device Answered");
    assert_eq!(walk(&device, "digits").await?, "cloud BreakerOpen, device Answered");
    assert_eq!(told(&device).await?["lastFailure"]["message"], "no answer within 150 ms");
    Ok(())
}

/// An image of a dead sensor, in binary; the answer is asked for as JSON, or in binary.
fn not_a_number(binary_output: bool) -> Request {
    let elements: Vec<u8> = [f32::NAN; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let json = json!({
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": 256}}],
        "parameters": {"complexity": 0.5, "binary_data_output": binary_output},
    })
    .to_string();
    let body = [json.as_bytes(), &elements].concat();
    Request::post("/v2/models/digits/infer", body)
        .header("inference-header-content-length", &json.len().to_string())
}

#[tokio::test]
async fn what_json_cannot_carry_is_the_clients_choice_whichever_tier_answers_and_harms_nobody() -> Result<()>
{
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let grpc = format!("http://{}", edge.grpc);
    let (_one, over_http) = scenes::device_under(&Policy::named("near").edge(&scenes::url(&edge))).await?;
    let (_two, over_grpc) =
        scenes::device_under(&Policy::named("near").edge(&grpc).having("protocol: GRPC")).await?;
    let private = not_a_number(false).header("terrace-privacy-required", "true");
    for (agent, request) in [
        (&edge, not_a_number(false)),
        (&over_http, not_a_number(false)),
        (&over_grpc, not_a_number(false)),
        (&over_http, private),
    ] {
        for _ in 0..4 {
            let reply = terrace_e2e::http::send(agent.http, &request).await?;
            assert_eq!(reply.status, 400, "{}", reply.text());
            let error = reply.error()?;
            assert!(error.contains("not a finite number") && error.contains("in binary"), "{error}");
        }
    }
    for agent in [&over_http, &over_grpc] {
        let reply = terrace_e2e::http::send(agent.http, &not_a_number(true)).await?.answered()?;
        assert_eq!(reply.walk()?, "edge Answered");
        assert_eq!(
            agent.infer(&Ask::image(image()).complexity(0.5)).await?.answered()?.walk()?,
            "edge Answered"
        );
        assert_eq!(told(agent).await?["breaker"], "closed");
    }
    // Nobody else was asked what is wrong everywhere.
    assert_eq!(over_http.counted("terrace_attempts_total", &["device", "Answered"]).await?, 4.0);
    Ok(())
}

#[tokio::test]
async fn what_is_not_asked_rightly_is_told_once_with_what_to_do_and_that_it_is_over() -> Result<()> {
    for (status, advice) in [
        (404, "is the model called \"digits\" there?"),
        (401, "say as whom it is asked"),
        (307, "redirects are not followed"),
        // Of a server that is asked in plain HTTP and speaks TLS, say.
        (400, "not in the words of the Open Inference Protocol"),
    ] {
        let is_right = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let answer = std::sync::Arc::clone(&is_right);
        let cloud = Server::start(move |_| {
            let is_right = answer.load(std::sync::atomic::Ordering::Relaxed);
            if is_right { upstreams::outputs() } else { Plan::status(status, "<html>") }
        })
        .await?;
        let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
        let begun = |device: &Agent| device.log().matches("answers, and not with outputs").count();
        let over = |device: &Agent| device.log().matches("answers as it should again").count();
        for _ in 0..5 {
            assert_eq!(walk(&device, "digits").await?, "cloud BadStatus, device Answered");
        }
        assert_eq!((begun(&device), over(&device)), (1, 0), "{status}: {}", device.log());
        let told = told(&device).await?;
        let failure = &told["lastFailure"];
        assert_eq!(
            (told["breaker"].as_str(), failure["reason"].as_str()),
            (Some("closed"), Some("BadStatus"))
        );
        let message = failure["message"].as_str().context("no message")?;
        assert!(message.contains(advice) && message.contains(&status.to_string()), "{message}");
        let reply = device.infer(&Ask::image(image()).parameter("tier", "cloud")).await?;
        assert_eq!(reply.status, 503);
        assert!(reply.error()?.starts_with(&format!("cloud: status {status}")), "{}", reply.text());
        assert!(reply.error()?.contains(advice), "{}", reply.text());

        is_right.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(walk(&device, "digits").await?, "cloud Answered");
        is_right.store(false, std::sync::atomic::Ordering::Relaxed);
        // What turns back and forth is not told each time.
        walk(&device, "digits").await?;
        assert_eq!((begun(&device), over(&device)), (1, 1), "{status}: {}", device.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_client_is_told_why_a_tier_is_left_alone_and_for_how_long() -> Result<()> {
    let refused = Refused::new()?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&refused.url())).await?;
    let ask = Ask::image(image()).parameter("tier", "cloud");
    for _ in 0..3 {
        let reply = device.infer(&ask).await?;
        assert_eq!(reply.error()?, "cloud: no connection: connection refused");
        assert_eq!(reply.header("retry-after"), "1");
    }
    let reply = device.infer(&ask).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let seconds: u64 = reply.header("retry-after").parse()?;
    assert!((1..=6).contains(&seconds), "{seconds}");
    let expected = format!(
        "cloud is left alone for another {seconds} s: it failed 3 times in a row, the last time: no connection: connection refused"
    );
    assert_eq!(reply.error()?, expected);
    Ok(())
}

/// Requests at once, each on a connection of its own to the device.
async fn burst(device: &Agent, count: usize) -> Result<Vec<String>> {
    let asked: Vec<_> = (0..count)
        .map(|_| {
            let (address, request) = (device.http, cloudy("digits").request());
            tokio::spawn(async move { terrace_e2e::http::send(address, &request).await })
        })
        .collect();
    let mut replies = Vec::new();
    for reply in asked {
        let reply = reply.await??;
        replies.push(format!("{} {}", reply.status, reply.text()));
    }
    Ok(replies)
}

#[tokio::test]
async fn connections_that_the_other_side_has_closed_lose_nothing_and_open_no_breaker() -> Result<()> {
    // Each connection brings one answer, and is closed when it is used again.
    let cloud = Server::start(|seen| {
        let pace = if seen.earlier > 0 { Pace::HangUp } else { Pace::After(Duration::from_millis(50)) };
        upstreams::outputs().pace(pace)
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).fallback("{enabled: false}");
    let (_site, device) = scenes::device_under(&policy).await?;
    for _ in 0..5 {
        for reply in burst(&device, 8).await? {
            assert!(reply.starts_with("200"), "{reply}");
        }
    }
    assert_eq!(device.counted("terrace_tier_breaker_opened_total", &[]).await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn connections_that_were_closed_lose_nothing_where_a_late_answer_is_asked_for_twice() -> Result<()> {
    // Each connection brings one answer. Used again it is closed, so late that a second request is under way by then.
    let cloud = Server::start(|seen| {
        let pause = Duration::from_millis(20);
        let pace = if seen.earlier > 0 { Pace::HangUpAfter(pause) } else { Pace::After(2 * pause) };
        upstreams::outputs().pace(pace)
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).fallback("{enabled: false}");
    let policy = policy.having("hedge: {after: 5ms, maxExtraLoad: 100}");
    let (_site, device) = scenes::device_under(&policy).await?;
    for count in [8, 1, 8, 1, 8, 1] {
        for reply in burst(&device, count).await? {
            assert!(reply.starts_with("200"), "{reply}");
        }
    }
    assert!(device.counted("terrace_tier_hedges_total", &["Sent"]).await? > 0.0);
    assert_eq!(device.counted("terrace_tier_breaker_opened_total", &[]).await?, 0.0);
    Ok(())
}

/// Whether a message asks for the model `ma`.
fn is_for_ma(message: &[u8]) -> bool {
    find(message, b"\x0a\x02ma").is_some()
}

#[tokio::test]
async fn a_request_whose_stream_is_reset_is_sent_once_and_takes_no_connection_from_others() -> Result<()> {
    let reset = Turn::Reset(Reason::INTERNAL_ERROR);
    let cloud =
        Streams::start(move |call| if is_for_ma(call.message) { reset } else { Turn::Answered }).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC");
    let (_site, device) = two_models(&policy).await?;
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    for _ in 0..2 {
        assert_eq!(walk(&device, "ma").await?, "cloud ConnectionBroken, device Answered");
        assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    }
    assert_eq!((cloud.resets(), cloud.connections()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_request_whose_stream_is_refused_was_not_read_and_is_sent_again() -> Result<()> {
    let refused = std::sync::atomic::AtomicBool::new(false);
    let cloud = Streams::start(move |call| {
        let is_first = is_for_ma(call.message) && !refused.swap(true, std::sync::atomic::Ordering::Relaxed);
        if is_first { Turn::Reset(Reason::REFUSED_STREAM) } else { Turn::Answered }
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC");
    let (_site, device) = two_models(&policy).await?;
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    assert_eq!(walk(&device, "ma").await?, "cloud Answered");
    assert_eq!(cloud.resets(), 1);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_reset_counts_by_its_code_and_against_no_other_model() -> Result<()> {
    for (reason, ending) in [
        (Reason::INTERNAL_ERROR, "BreakerOpen"),
        (Reason::CANCEL, "BreakerOpen"),
        // Too much at once is no failure.
        (Reason::REFUSED_STREAM, "ConnectionBroken"),
        (Reason::ENHANCE_YOUR_CALM, "ConnectionBroken"),
    ] {
        let cloud =
            Streams::start(
                move |call| if is_for_ma(call.message) { Turn::Reset(reason) } else { Turn::Answered },
            )
            .await?;
        let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC");
        let (_site, device) = two_models(&policy).await?;
        for _ in 0..3 {
            assert_eq!(walk(&device, "ma").await?, "cloud ConnectionBroken, device Answered", "{reason:?}");
        }
        for _ in 0..2 {
            assert_eq!(walk(&device, "ma").await?, format!("cloud {ending}, device Answered"), "{reason:?}");
            assert_eq!(walk(&device, "mb").await?, "cloud Answered", "{reason:?}");
        }
        assert_eq!(told(&device).await?["breaker"], "closed", "{reason:?}");
        let sent = if reason == Reason::REFUSED_STREAM { 4 * 5 } else { cloud.resets() };
        assert_eq!(cloud.resets(), sent, "what is refused is sent again three times");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_was_worked_on_when_its_connection_broke_is_sent_once_and_counts() -> Result<()> {
    let pause = Duration::from_millis(200);
    let cloud = but_ma_later(pause).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("breaker: {failures: 2, period: 60s}");
    let (_site, device) = two_models(&policy).await?;
    for walked in ["cloud ConnectionBroken, device Answered"; 2]
        .into_iter()
        .chain(["cloud BreakerOpen, device Answered"])
    {
        assert_eq!(walk(&device, "mb").await?, "cloud Answered");
        assert_eq!(walk(&device, "ma").await?, walked);
    }
    let of_ma = cloud.requests().iter().filter(|seen| seen.path().contains("/ma/")).count();
    assert_eq!(of_ma, 2, "each once");
    Ok(())
}

/// Answers all models but `ma`, whose connections are closed after a pause, as many answers as they brought before.
async fn but_ma_later(pause: Duration) -> Result<Server> {
    but_ma(upstreams::outputs().pace(Pace::HangUpAfter(pause))).await
}

#[tokio::test]
async fn a_call_that_crashes_its_server_is_sent_once_and_counts() -> Result<()> {
    let cloud = Streams::start(|call| {
        if is_for_ma(call.message) { Turn::Crash(Duration::from_millis(200)) } else { Turn::Answered }
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC");
    let policy = policy.having("breaker: {failures: 2, period: 60s}");
    let (_site, device) = two_models(&policy).await?;
    for _ in 0..2 {
        assert_eq!(walk(&device, "mb").await?, "cloud Answered");
        assert_eq!(walk(&device, "ma").await?, "cloud ConnectionBroken, device Answered");
    }
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    assert_eq!(walk(&device, "ma").await?, "cloud BreakerOpen, device Answered");
    assert_eq!(cloud.calls(), 5, "each once");
    Ok(())
}

#[tokio::test]
async fn a_call_that_crashes_its_server_at_once_is_sent_twice_at_most() -> Result<()> {
    let cloud =
        Streams::start(
            |call| {
                if is_for_ma(call.message) { Turn::Crash(Duration::ZERO) } else { Turn::Answered }
            },
        )
        .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC");
    let (_site, device) = two_models(&policy).await?;
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    assert_eq!(walk(&device, "ma").await?, "cloud ConnectionBroken, device Answered");
    assert_eq!(cloud.calls(), 3);
    assert!(told(&device).await?["lastFailure"].is_object(), "it counts");
    Ok(())
}

#[tokio::test]
async fn a_call_that_takes_long_pings_nobody() -> Result<()> {
    let cloud = Streams::start(|call| {
        if is_for_ma(call.message) { Turn::After(Duration::from_millis(6_500)) } else { Turn::Answered }
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC").timeout("20s");
    let (_site, device) = two_models(&policy).await?;
    assert_eq!(walk(&device, "ma").await?, "cloud Answered");
    assert_eq!(
        (cloud.pings(), cloud.connections()),
        (0, 1),
        "stock servers count pings, and close the connection"
    );
    Ok(())
}

#[tokio::test]
async fn a_connection_that_answers_nobody_any_more_is_given_up() -> Result<()> {
    let cloud =
        Streams::start(
            |call| {
                if call.connection == 0 && call.earlier > 0 { Turn::Never } else { Turn::Answered }
            },
        )
        .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("protocol: GRPC").timeout("4s");
    let (_site, device) = two_models(&policy).await?;
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    assert_eq!(walk(&device, "mb").await?, "cloud TimedOut, device Answered");
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    assert_eq!(cloud.connections(), 2);
    Ok(())
}

/// More than is under way at once between two sides of which one does not read.
fn large(model: &str) -> Ask {
    Ask::batch(40_000, &image().repeat(40_000)).complexity(0.9).model(model)
}

#[tokio::test]
async fn a_server_that_refuses_a_large_body_and_closes_is_heard() -> Result<()> {
    let early = |target: &str| target.contains("/ma/").then(|| Plan::status(413, "<html>too large</html>"));
    let cloud = Server::start_hasty(early, |_| upstreams::outputs()).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).fallback("{enabled: false}");
    let (_site, device) = two_models(&policy).await?;
    for _ in 0..6 {
        let reply = device.infer(&large("ma")).await?;
        assert_eq!(reply.status, 413, "{}", reply.text());
    }
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    Ok(())
}

#[tokio::test]
async fn a_server_that_has_enough_of_a_large_body_is_taken_from_no_other_model() -> Result<()> {
    let early = |target: &str| target.contains("/ma/").then(|| Plan::ok("").pace(Pace::HangUp));
    let cloud = Server::start_hasty(early, |_| upstreams::outputs()).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).fallback("{enabled: false}");
    let policy = policy.having("breaker: {failures: 1, period: 60s}");
    let (_site, device) = two_models(&policy).await?;
    let reply = device.infer(&large("ma")).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.error()?.contains("while the request was being sent"), "{}", reply.text());
    assert_eq!(walk(&device, "mb").await?, "cloud Answered");
    Ok(())
}
