//! Three tiers: who is chosen, who steps in, and what travels between them.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes::{self, url};
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, BlackHole, LABEL, Refused};

/// Time enough for anything that succeeds, on a machine that is busy with other tests.
const AMPLE: u64 = 2_000;

fn image() -> &'static [f32] {
    &digits::test_set().images[0]
}

/// Shannon entropy of the image over 256 equal bins, as a share of its maximum, by the book.
fn entropy(image: &[f32]) -> f64 {
    let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let mut bins = [0_usize; 256];
    for &value in image {
        let place = f64::from(value - low) / f64::from(high - low) * 256.0;
        bins[(place as usize).min(255)] += 1;
    }
    let shares = bins.iter().filter(|count| **count > 0).map(|count| *count as f64 / image.len() as f64);
    shares.map(|share| -share * share.log2()).sum::<f64>() / 8.0
}

/// A device with three tiers above and below: each serves its own model, the cloud under another name.
struct Three {
    device: Agent,
    edge: Agent,
    cloud: Agent,
    _sites: [Site; 3],
}

impl Three {
    async fn start(policy: impl FnOnce(Policy) -> Policy) -> Result<Self> {
        let (edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
        let (cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits-large").await?;
        let site = Site::new()?;
        let tiers = Policy::named("near").edge(&url(&edge)).cloud(&url(&cloud));
        site.manifests().policy(&policy(tiers))?;
        let model = Model::digits("digits-device")?.policy("near").called("cloud", "digits-large");
        site.manifests().model(&model)?;
        let device = site.agent().ready().await?;
        let three = Self { device, edge, cloud, _sites: [edge_site, cloud_site, site] };
        // Connections are there and code is paged in before anything is in a hurry.
        for tier in ["device", "edge", "cloud"] {
            three.device.infer(&Ask::image(image()).parameter("tier", tier)).await?.answered()?;
        }
        Ok(three)
    }
}

#[tokio::test]
async fn the_rules_choose_the_tier_whose_outputs_come_back() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    let ask = Ask::image(image());
    let outputs = |agent: &Agent, name: &str| {
        let (agent, ask) = (agent.http, ask.clone().model(name));
        async move { terrace_e2e::http::send(agent, &ask.request()).await?.answered()?.outputs() }
    };
    let device = outputs(&three.device, "digits").await?; // its policy lets the edge answer
    let edge = outputs(&three.edge, "digits").await?;
    let cloud = outputs(&three.cloud, "digits-large").await?;
    assert_eq!(device, edge, "an ordinary request goes to the edge");
    let device = three.device.infer(&ask.clone().private()).await?.answered()?.outputs()?;
    assert!(device != edge && edge != cloud && device != cloud, "the tiers' models differ");

    let rows = [
        (ask.clone().private(), "device", "PrivacyRequired"),
        (ask.clone().private().complexity(0.9).within(500), "device", "PrivacyRequired"),
        (ask.clone().complexity(0.29).within(49), "device", "LowComplexityTightDeadline"),
        (ask.clone().complexity(0.3).within(49), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.1).within(50), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.1), "edge", "ModerateComplexity"),
        (ask.clone().complexity(0.69).within(200), "edge", "ModerateComplexity"),
        (ask.clone().complexity(0.9).within(199), "edge", "ModerateDeadline"),
        (ask.clone().complexity(0.7).within(200), "cloud", "HighComplexity"),
        (ask.clone().complexity(0.7), "cloud", "HighComplexity"),
        (
            ask.clone().header("terrace-complexity", "1").header("terrace-max-latency-ms", "60000"),
            "cloud",
            "HighComplexity",
        ),
        (ask.clone().parameter("tier", "device"), "device", "RequestedTier"),
        (ask.clone().parameter("tier", "edge").complexity(0.9), "edge", "RequestedTier"),
        (ask.clone().header("terrace-tier", "cloud"), "cloud", "RequestedTier"),
    ];
    for (ask, tier, reason) in rows {
        let reply = in_time(&three.device, &ask).await?;
        assert_eq!(reply.route()?, Route::of(tier, "primary", reason), "{}", ask.body()["parameters"]);
        assert_eq!(reply.walk()?, format!("{tier} Answered"));
        let expected = match tier {
            "device" => &device,
            "edge" => &edge,
            _ => &cloud,
        };
        assert_eq!(&reply.outputs()?, expected, "{tier}");
        assert_eq!(reply.json()?["model_name"], "digits", "{tier}");
    }
    Ok(())
}

/// The reply of the chosen tier. One that was too slow on a busy machine is rightly replaced; it is asked again.
async fn in_time(device: &Agent, ask: &Ask) -> Result<terrace_e2e::http::Reply> {
    let mut reply = device.infer(ask).await?;
    for _ in 0..20 {
        let late = reply.status == 504 || (reply.status == 200 && reply.walk()?.contains("TimedOut"));
        if !late {
            break;
        }
        reply = device.infer(ask).await?;
    }
    reply.answered()
}

#[tokio::test]
async fn complexity_is_measured_from_the_inputs_where_the_request_states_none() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    for image in &digits::test_set().images[..30] {
        let reply = three.device.infer(&Ask::image(image)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("edge", "primary", "ModerateComplexity"));
        let measured = reply.parameter("complexity")?.as_f64().unwrap_or(-1.0);
        assert!((measured - entropy(image)).abs() < 1e-9, "{measured}, by the book it is {}", entropy(image));
    }
    // 4096 different values: as hard as it gets. The model takes images of 64 pixels, so there are 64 of them.
    let hard: Vec<f32> = (0_u16..4096).map(f32::from).collect();
    let reply = three.device.infer(&Ask::batch(64, &hard)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("cloud", "primary", "HighComplexity"));
    assert_eq!(reply.parameter("complexity")?, json!(1.0));
    let constant = three.device.infer(&Ask::image(&[7.0; 64]).within(49)).await?.answered()?;
    assert_eq!(constant.route()?.reason, "LowComplexityTightDeadline");
    assert_eq!(constant.parameter("complexity")?, json!(0.0));
    Ok(())
}

#[tokio::test]
async fn each_tier_is_better_than_the_one_below_it() -> Result<()> {
    let three = Three::start(|policy| policy).await?;
    let set = digits::test_set();
    let mut accuracies = Vec::new();
    for tier in ["device", "edge", "cloud"] {
        let ask = Ask::images(&set.images).parameter("tier", tier);
        let labels = three.device.infer(&ask).await?.answered()?.labels()?;
        accuracies.push(labels.iter().zip(&set.labels).filter(|(label, truth)| label == truth).count());
    }
    assert!(accuracies.is_sorted() && accuracies[0] + 5 < accuracies[1], "{accuracies:?}");
    Ok(())
}

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

static CLOUDY: LazyLock<Ask> = LazyLock::new(|| Ask::image(image()).complexity(0.9));

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

#[tokio::test]
async fn binary_tensors_are_passed_on_and_come_back_untouched() -> Result<()> {
    // A cloud that answers in binary, with bits that no float prints.
    let json = r#"{"model_name":"m","outputs":[{"name":"label","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}}]}"#;
    let tail = [1, 2, 3, 4, 5, 6, 7, 8];
    let answer = Plan::ok([json.as_bytes(), &tail].concat())
        .header("inference-header-content-length", &json.len().to_string());
    let cloud = upstreams::planned(answer).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let pixels: Vec<u8> = image().iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let head = r#"{"parameters":{"complexity":0.9,"binary_data_output":true},"inputs":[{"name":"image","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":256}}]}"#;
    let body = [head.as_bytes(), &pixels].concat();
    let request = terrace_e2e::http::Request::post("/v2/models/digits/infer", body.clone())
        .header("inference-header-content-length", &head.len().to_string());
    let reply = device.send(&request).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let length: usize = reply.header("inference-header-content-length").parse()?;
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.body[length..], tail);
    let told: Value = serde_json::from_slice(&reply.body[..length])?;
    assert_eq!(told["parameters"]["tier"], "cloud");

    let [seen] = <[_; 1]>::try_from(cloud.requests()).map_err(|_| anyhow::anyhow!("one request"))?;
    assert_eq!(seen.body, body);
    assert_eq!(seen.header("inference-header-content-length"), Some(&*head.len().to_string()));

    // And by the device itself.
    let private = request.header("terrace-privacy-required", "true");
    let reply = device.send(&private).await?;
    let length: usize = reply.header("inference-header-content-length").parse()?;
    let told: Value = serde_json::from_slice(&reply.body[..length])?;
    let sizes: Vec<_> = told["outputs"]
        .as_array()
        .context("no outputs")?
        .iter()
        .map(|output| &output["parameters"]["binary_data_size"])
        .collect();
    assert_eq!(sizes, [&json!(40), &json!(8)]);
    assert_eq!(reply.body.len(), length + 48);
    Ok(())
}

#[tokio::test]
async fn a_forwarded_request_carries_its_body_its_hop_and_the_time_that_is_left() -> Result<()> {
    let (edge, cloud) = (upstreams::answering().await?, upstreams::answering().await?);
    let policy = Policy::named("near").edge(&edge.url()).cloud(&format!("{}/gateway/", cloud.url()));
    let site = Site::new()?;
    site.manifests().policy(&policy)?;
    let model = Model::digits("digits-device")?.policy("near").called("cloud", "vision.digits-large");
    site.manifests().model(&model)?;
    let device = site.agent().ready().await?;

    let ask = CLOUDY
        .clone()
        .id("one")
        .header("authorization", "Bearer secret")
        .header("cookie", "secret")
        .header("x-trace", "secret");
    let reply = device.infer(&ask.clone().within(AMPLE)).await?.answered()?;
    let body = reply.json()?;
    assert_eq!((&body["model_name"], &body["id"]), (&json!("digits"), &json!("one")));
    assert_eq!(body["model_version"], "7", "the revision that answered is the cloud's");
    assert_eq!(body["parameters"]["made_up"], true, "what else the cloud says is passed on");
    assert_eq!(reply.labels()?, [LABEL]);

    let [seen] = <[_; 1]>::try_from(cloud.requests()).map_err(|_| anyhow::anyhow!("one request"))?;
    assert_eq!(seen.path(), "/gateway/v2/models/vision.digits-large/infer");
    assert_eq!(seen.body, ask.clone().within(AMPLE).request().body);
    assert_eq!(seen.header("terrace-hop"), Some("device"));
    let left: f64 = seen.header("terrace-max-latency-ms").unwrap_or_default().parse()?;
    assert!(left > 0.0 && left < AMPLE as f64, "{left}");
    let all = String::from_utf8_lossy(&cloud.bytes()).into_owned();
    assert!(!all.contains("secret"), "the client's own headers were passed on:\n{all}");

    device.infer(&Ask::image(image()).complexity(0.5)).await?.answered()?;
    let seen = edge.requests();
    assert_eq!(seen[0].path(), "/v2/models/digits/infer");
    assert_eq!(seen[0].header("terrace-max-latency-ms"), None);
    Ok(())
}

#[tokio::test]
async fn a_relayed_answer_keeps_its_outputs_to_the_letter() -> Result<()> {
    // Numbers that a float would not give back, and a field that nobody knows.
    let outputs =
        r#"[{"name":"label","datatype":"INT64","shape":[1],"data":[9007199254740993],"extra":1e-400}]"#;
    let body = format!(r#"{{"model_name":"m","outputs":{outputs},"unknown":{{"a":[1,2]}}}}"#);
    let cloud = upstreams::planned(Plan::ok(body)).await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").cloud(&cloud.url())).await?;
    let text = device.infer(&CLOUDY).await?.answered()?.text();
    ensure!(text.contains(outputs), "{text}");
    ensure!(text.contains(r#""unknown":{"a":[1,2]}"#), "{text}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_forwarded_twice_even_where_two_agents_name_each_other() -> Result<()> {
    let (device_site, edge_site) = (Site::new()?, Site::new()?);
    let device = device_site.agent().ready().await?;
    let edge = edge_site.agent().tier("edge").ready().await?;
    // The edge has no model of its own that works, and would ask the device, which is its cloud.
    edge_site.manifests().policy(&Policy::named("near").cloud(&url(&device)))?;
    let broken = Model::digits("digits-edge")?.on("Edge").pinned(&"0".repeat(64)).policy("near");
    edge_site.manifests().model(&broken)?;
    device_site.manifests().policy(&Policy::named("near").edge(&url(&edge)))?;
    let model = Model::digits("digits-device")?.policy("near");
    device_site.manifests().model(&model)?;
    device.wait_serving("digits", model.sha256()).await?;
    edge.wait_failed("digits", "DigestMismatch").await?;

    let reply = device.infer(&Ask::image(image()).complexity(0.5)).await?.answered()?;
    assert_eq!(reply.walk()?, "edge BadStatus, device Answered");
    assert_eq!(device.counted("terrace_requests_total", &[]).await?, 1.0);
    assert_eq!(edge.counted("terrace_requests_total", &[]).await?, 1.0);
    assert_eq!(edge.counted("terrace_requests_total", &["code=\"503\""]).await?, 1.0);

    let reply = device.infer(&Ask::image(image()).parameter("tier", "edge").complexity(0.9)).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(device.counted("terrace_requests_total", &[]).await?, 2.0);
    assert_eq!(edge.counted("terrace_requests_total", &[]).await?, 2.0);

    // The edge itself would forward what was not forwarded before.
    let reply = edge.infer(&Ask::image(image()).complexity(0.9)).await?.answered()?;
    assert_eq!(reply.route()?.tier, "cloud");
    assert_eq!(
        edge.infer(&Ask::image(image()).complexity(0.9).header("terrace-hop", "device")).await?.status,
        503
    );
    Ok(())
}

#[tokio::test]
async fn a_stated_tier_is_obeyed_or_refused_by_name() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").edge(&edge.url())).await?;
    let ask = Ask::image(image());
    assert_eq!(device.infer(&ask.clone().parameter("tier", "edge")).await?.answered()?.labels()?, [LABEL]);
    let before = edge.requests().len();
    for ask in [
        ask.clone().parameter("tier", "cloud"),
        ask.clone().header("terrace-tier", "cloud"),
        ask.clone().parameter("tier", "Edge"),
        ask.clone().parameter("tier", "edge").header("terrace-tier", "device"),
        ask.clone().parameter("tier", "edge").private(),
    ] {
        let reply = device.infer(&ask).await?;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.error()?.contains("tier"), "{}", reply.text());
    }
    assert_eq!(edge.requests().len(), before);
    Ok(())
}

#[tokio::test]
async fn a_tier_that_is_not_configured_leaves_the_fallback_order() -> Result<()> {
    let edge = upstreams::answering().await?;
    let (_site, device) = scenes::device_under(&Policy::named("near").edge(&edge.url())).await?;
    let reply = device.infer(&CLOUDY).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "fallback", "TierNotConfigured"));
    Ok(())
}

#[tokio::test]
async fn callers_of_a_model_that_is_placed_elsewhere_are_forwarded() -> Result<()> {
    let edge = upstreams::answering().await?;
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("near").edge(&edge.url()))?;
    site.manifests().model(&Model::digits("digits-edge")?.on("Edge").policy("near"))?;
    let device = site.agent().ready().await?;
    let reply = device.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(reply.route()?.tier, "edge");
    assert_eq!(device.get("/v2/models/digits/ready").await?.status, 200);
    assert_eq!(device.get("/v2/models/digits").await?.status, 404);
    assert_eq!(device.infer(&Ask::image(image()).private()).await?.status, 503);
    assert_eq!(edge.requests().len(), 1);
    let model = device.model("digits").await?;
    assert_eq!(model.serving_sha256, None);
    let why = model.error.context("no reason why it is not placed")?;
    assert_eq!(why.reason, "TierMismatch", "{}", why.message);
    Ok(())
}

#[tokio::test]
async fn a_policy_whose_tier_is_not_allowed_is_refused_with_its_line() -> Result<()> {
    let edge = upstreams::answering().await?;
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("near").edge("http://10.1.2.3:8000"))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().ready().await?;
    device.wait_condition("ManifestsAccepted", "False", "policy-near.yaml:7: spec.tiers.edge.url").await?;
    device
        .wait_condition("PoliciesFound", "False", "default.digits: there is no accepted TierPolicy")
        .await?;
    let reply = device.infer(&Ask::image(image())).await?.answered()?;
    assert_eq!(reply.route()?.tier, "device", "a model without an accepted policy stays on the node");
    assert_eq!(reply.parameter("complexity")?, Value::Null);
    site.manifests().policy(&Policy::named("near").edge(&edge.url()))?;
    device.wait_condition("ManifestsAccepted", "True", "").await?;
    device.wait_condition("PoliciesFound", "True", "").await?;
    terrace_e2e::wait::until("the policy to be in force", || async {
        let reply = device.infer(&Ask::image(image())).await?.answered()?;
        ensure!(reply.route()?.tier == "edge", "{}", reply.text());
        Ok(())
    })
    .await
}
