//! Who steps in where a tier fails, and what a client hears where nobody does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{BlackHole, LABEL, Refused};
use terrace_e2e::{scenes, upstreams};

use super::{AMPLE, CLOUDY, image};

/// A tier that fails, and the word for how it does.
struct Broken {
    name: &'static str,
    url: String,
    outcome: &'static str,
}

/// The ways in which tiers fail. What is returned beside them keeps them failing.
struct Failures {
    list: Vec<Broken>,
    elsewhere: Server,
    _servers: Vec<Server>,
    _refused: Refused,
    _black_hole: BlackHole,
}

impl Failures {
    async fn new() -> Result<Self> {
        let elsewhere = upstreams::answering().await?;
        let moved =
            Plan::status(307, "").header("location", &format!("{}/v2/models/digits/infer", elsewhere.url()));
        let json = |text: &str| Plan::ok(text).header("content-type", "application/json");
        let (refused, black_hole) = (Refused::new()?, BlackHole::new().await?);
        let mut list = vec![
            Broken { name: "refused", url: refused.url(), outcome: "ConnectFailed" },
            Broken { name: "black-hole", url: black_hole.url(), outcome: "TimedOut" },
        ];
        let mut servers = Vec::new();
        for (name, outcome, server) in [
            ("silent", "TimedOut", upstreams::silent().await?),
            ("slow", "TimedOut", upstreams::slow(Duration::from_secs(20)).await?),
            ("dribbling", "TimedOut", upstreams::dribbling(Duration::from_millis(50)).await?),
            ("error-500", "BadStatus", upstreams::planned(Plan::status(500, "{\"error\": \"x\"}")).await?),
            ("error-503", "BadStatus", upstreams::planned(Plan::status(503, "")).await?),
            ("error-404", "BadStatus", upstreams::planned(Plan::status(404, "{\"error\": \"x\"}")).await?),
            ("error-401", "BadStatus", upstreams::planned(Plan::status(401, "")).await?),
            ("error-429", "BadStatus", upstreams::planned(Plan::status(429, "")).await?),
            ("moved", "BadStatus", upstreams::planned(moved).await?),
            ("garbage", "Malformed", upstreams::planned(Plan::ok("<html>Welcome</html>")).await?),
            ("not-outputs", "Malformed", upstreams::planned(json("{\"model_name\": \"digits\"}")).await?),
            (
                "half",
                "ConnectionBroken",
                upstreams::planned(upstreams::outputs().pace(Pace::CutAfter(40))).await?,
            ),
            (
                "hanging-up",
                "ConnectionBroken",
                upstreams::planned(upstreams::outputs().pace(Pace::HangUp)).await?,
            ),
        ] {
            list.push(Broken { name, url: server.url(), outcome });
            servers.push(server);
        }
        Ok(Self { list, elsewhere, _servers: servers, _refused: refused, _black_hole: black_hole })
    }

    /// One model for each failure, whose cloud fails like that.
    fn declare(&self, site: &Site, policy: impl Fn(Policy) -> Policy) -> Result<()> {
        for Broken { name, url, .. } in &self.list {
            site.manifests().policy(&policy(Policy::named(name).cloud(url)))?;
            site.manifests().model(&Model::digits("digits-device")?.named(name).policy(name))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn however_the_cloud_fails_the_device_answers_within_the_deadline() -> Result<()> {
    let failures = Failures::new().await?;
    let site = Site::new()?;
    failures.declare(&site, |policy| policy)?;
    let device = site.agent().ready().await?;
    for Broken { name, outcome, .. } in &failures.list {
        let reply = device.infer(&CLOUDY.clone().model(name).within(400)).await?;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(reply.route()?, Route::of("device", "fallback", "HighComplexity"), "{name}");
        assert_eq!(reply.walk()?, format!("cloud {outcome}, device Answered"), "{name}");
        assert!(reply.latency_ms()? <= 400.0, "{name}: {} ms", reply.latency_ms()?);
    }
    assert_eq!(failures.elsewhere.connections(), 0, "a redirect was followed");
    Ok(())
}

#[tokio::test]
async fn without_a_deadline_the_tiers_own_timeout_ends_an_attempt() -> Result<()> {
    let failures = Failures::new().await?;
    let site = Site::new()?;
    failures.declare(&site, |policy| policy.timeout("250ms"))?;
    let device = site.agent().ready().await?;
    for Broken { name, outcome, .. } in &failures.list {
        let reply = device.infer(&CLOUDY.clone().model(name)).await?;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(reply.walk()?, format!("cloud {outcome}, device Answered"), "{name}");
        let ms = reply.attempts()?[0].ms;
        if *outcome == "TimedOut" {
            assert!(ms >= 250.0, "{name} was given up after {ms} ms");
        }
        assert!(ms < AMPLE as f64, "{name} was given up after {ms} ms");
    }
    Ok(())
}

#[tokio::test]
async fn where_no_other_tier_may_answer_the_client_is_told_what_failed() -> Result<()> {
    let failures = Failures::new().await?;
    let site = Site::new()?;
    failures.declare(&site, |policy| policy.timeout("250ms").fallback("{enabled: false}"))?;
    let device = site.agent().ready().await?;
    for Broken { name, .. } in &failures.list {
        for ask in [CLOUDY.clone().model(name), Ask::image(image()).model(name).parameter("tier", "cloud")] {
            let reply = device.infer(&ask).await?;
            assert_eq!(reply.status, 503, "{name}: {}", reply.text());
            assert!(reply.error()?.contains("cloud"), "{name}: {}", reply.text());
            assert!(!reply.header("retry-after").is_empty(), "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_policys_order_says_who_steps_in() -> Result<()> {
    let (refused, edge) = (Refused::new()?, upstreams::answering().await?);
    let policy =
        Policy::named("near").edge(&edge.url()).cloud(&refused.url()).fallback("{order: [Edge, Device]}");
    let (_site, device) = scenes::device_under(&policy).await?;
    let reply = device.infer(&CLOUDY).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("edge", "fallback", "HighComplexity"));
    assert_eq!(reply.walk()?, "cloud ConnectFailed, edge Answered");
    assert_eq!(reply.labels()?, [LABEL]);
    Ok(())
}

#[tokio::test]
async fn a_tier_that_says_the_request_is_wrong_is_believed() -> Result<()> {
    let edge = upstreams::answering().await?;
    for status in [400, 422] {
        let words = json!({"error": "input \"image\": shape [1, 64] is not [1, 3]"}).to_string();
        let cloud = upstreams::planned(Plan::status(status, words)).await?;
        let policy =
            Policy::named("near").edge(&edge.url()).cloud(&cloud.url()).fallback("{order: [Edge, Device]}");
        let (_site, device) = scenes::device_under(&policy).await?;
        let reply = device.infer(&CLOUDY).await?;
        assert_eq!(reply.status, 400, "{status}: {}", reply.text());
        let error = reply.error()?;
        assert!(error.contains("cloud") && error.contains("shape"), "{error}");
        assert_eq!(cloud.requests().len(), 1);
        assert_eq!(device.counted("terrace_attempts_total", &["tier=\"device\""]).await?, 0.0);
    }
    assert_eq!(edge.connections(), 0, "another tier was asked");
    Ok(())
}

#[tokio::test]
async fn a_tier_that_says_it_is_too_late_is_believed_where_there_is_a_deadline() -> Result<()> {
    let words = json!({"error": "too little of the deadline was left"}).to_string();
    let policy = |url: &str| Policy::named("near").cloud(url).fallback("{enabled: false}");
    for (body, deadline, expected) in [
        (words.as_str(), Some(5_000), 504),
        (&words, None, 503),
        ("<html>a proxy's</html>", Some(5_000), 503),
    ] {
        let cloud = upstreams::planned(Plan::status(504, body)).await?;
        let (_site, device) = scenes::device_under(&policy(&cloud.url())).await?;
        let ask = CLOUDY.clone();
        let reply = device.infer(&deadline.map_or_else(|| ask.clone(), |ms| ask.clone().within(ms))).await?;
        assert_eq!(reply.status, expected, "{body} {deadline:?}: {}", reply.text());
        assert_eq!(reply.header("retry-after").is_empty(), expected == 504, "asked again it is as late");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_one_tier_finds_too_large_is_taken_to_the_next() -> Result<()> {
    let cloud = upstreams::planned(Plan::status(413, "<html>too large</html>")).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let reply = device.infer(&CLOUDY).await?.answered()?;
    assert_eq!(reply.walk()?, "cloud BadStatus, device Answered");
    let reply = device.infer(&CLOUDY.clone().parameter("tier", "cloud")).await?;
    assert_eq!(reply.status, 413, "{}", reply.text());
    assert!(reply.error()?.starts_with("cloud: "), "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn a_version_that_is_named_is_answered_by_no_other() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let version = device.model("digits").await?.serving_revision.context("nothing serves")?;
    let mut request = CLOUDY.request();
    request.path = format!("/v2/models/digits/versions/{version}/infer");
    let reply = device.send(&request).await?.answered()?;
    assert_eq!((reply.route()?.tier.as_str(), reply.model_version()?), ("device", version));
    assert_eq!(cloud.connections(), 0);
    Ok(())
}
