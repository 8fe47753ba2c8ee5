//! Speculation and ensembles: real agents, real models, and tiers that fail in every way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::http::Reply;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::scenes::{self, url};
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, BlackHole, Refused};
use terrace_e2e::{checkout, wait};

/// How the digits models say how sure they are.
const PROBABILITIES: &str = "{output: probabilities, method: Probability}";
/// A run that is never over by itself.
const FOR_EVER: i64 = i64::MAX;

/// Outputs, image by image.
#[derive(Clone, Debug, PartialEq)]
struct Outputs {
    probabilities: Vec<Vec<f64>>,
    labels: Vec<i64>,
}

impl Outputs {
    fn of(reply: &Reply) -> Result<Self> {
        let probabilities = reply.probabilities()?.chunks(10).map(<[f64]>::to_vec).collect();
        Ok(Self { probabilities, labels: reply.labels()? })
    }

    /// The largest probability of an image.
    fn confidence(&self, image: usize) -> f64 {
        self.probabilities[image].iter().copied().fold(0.0, f64::max)
    }

    fn least(&self) -> f64 {
        (0..self.labels.len()).map(|image| self.confidence(image)).fold(1.0, f64::min)
    }

    fn right(&self) -> usize {
        self.labels.iter().zip(&digits::test_set().labels).filter(|(label, truth)| label == truth).count()
    }
}

/// A device under a policy, an edge and a cloud; each serves its own model, the cloud under another name.
struct Three {
    device: Agent,
    edge: Option<Agent>,
    cloud: Option<Agent>,
    site: Site,
    _sites: [Site; 2],
}

impl Three {
    async fn start(policy: impl FnOnce(Policy) -> Policy) -> Result<Self> {
        let (edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
        let (cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits-large").await?;
        let site = Site::new()?;
        let tiers = Policy::named("near").edge(&url(&edge)).cloud(&url(&cloud));
        site.manifests().policy(&policy(tiers))?;
        site.manifests().model(&sure(Model::digits("digits-device")?).called("cloud", "digits-large"))?;
        let device = site.agent().ready().await?;
        Ok(Self { device, edge: Some(edge), cloud: Some(cloud), site, _sites: [edge_site, cloud_site] })
    }

    /// What one tier alone answers to the first images of the test set.
    async fn alone(&self, tier: &str, images: usize) -> Result<Outputs> {
        let ask = first(images).parameter("tier", tier);
        Outputs::of(&self.device.infer(&ask).await?.answered()?)
    }
}

fn sure(model: Model) -> Model {
    model.confidence(PROBABILITIES).policy("near")
}

fn first(images: usize) -> Ask {
    Ask::images(&digits::test_set().images[..images])
}

fn one(image: usize) -> Ask {
    Ask::image(&digits::test_set().images[image])
}

fn confidence(reply: &Reply) -> Result<f64> {
    reply.parameter("confidence")?.as_f64().with_context(|| format!("no confidence: {}", reply.text()))
}

/// A device alone under `policy`, whose name must be `near`.
async fn device_under(policy: &Policy) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().policy(policy)?;
    site.manifests().model(&sure(Model::digits("digits-device")?))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

/// A device whose model is as sure, and takes as long, as each request says.
async fn patient_under(policy: &Policy) -> Result<(Site, Agent)> {
    let bytes = std::fs::read(checkout().join("e2e/models/patient.onnx"))?;
    let site = Site::new()?;
    site.offer("patient.onnx", &bytes)?;
    let file = Artifact { uri: "file:///patient.onnx".to_owned(), sha256: digits::sha256(&bytes) };
    site.manifests().policy(policy)?;
    let model = Model::of("patient", &file).confidence("{output: scores, method: Probability}");
    site.manifests().model(&model.policy("near"))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

fn patient(confidence: f64, rounds: i64) -> Ask {
    Ask::inputs(json!([
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [confidence, 1.0 - confidence]},
        {"name": "rounds", "datatype": "INT64", "shape": [], "data": [rounds]},
    ]))
    .model("patient")
}

/// A tier that answers as the patient model does, with these scores.
async fn scores(scores: [f64; 2], pace: Pace) -> Result<Server> {
    let body = json!({"model_name": "patient", "model_version": "9", "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": scores}
    ]});
    let plan = Plan::ok(body.to_string()).header("content-type", "application/json").pace(pace);
    upstreams::planned(plan).await
}

#[tokio::test]
async fn what_the_device_is_sure_of_it_answers_and_the_cloud_answers_the_rest() -> Result<()> {
    const IMAGES: usize = 120;
    let three = Three::start(|policy| policy.speculative("{verifier: Cloud}")).await?;
    let (device, cloud) = (three.alone("device", IMAGES).await?, three.alone("cloud", IMAGES).await?);
    let (mut labels, mut verified) = (Vec::new(), 0);
    for image in 0..IMAGES {
        let reply = three.device.infer(&one(image)).await?.answered()?;
        let sure = device.confidence(image) > 0.9;
        let (from, route, walk) = if sure {
            (&device, Route::of("device", "primary", "Confident"), "device Answered")
        } else {
            (&cloud, Route::of("cloud", "verifier", "NotConfident"), "device Answered, cloud Answered")
        };
        assert_eq!((reply.route()?, reply.walk()?.as_str()), (route, walk), "image {image}");
        assert_eq!(reply.labels()?, [from.labels[image]], "image {image}");
        let told = confidence(&reply)?;
        assert!((told - device.confidence(image)).abs() < 1e-6, "{told}, not {}", device.confidence(image));
        labels.push(from.labels[image]);
        verified += usize::from(!sure);
    }
    assert!((1..IMAGES).contains(&verified), "{verified} of {IMAGES} were verified");
    let right = Outputs { labels, probabilities: Vec::new() }.right();
    assert!(right > device.right(), "{right} right with a verifier, {} without", device.right());
    for (source, count) in [("primary", IMAGES - verified), ("verifier", verified)] {
        let label = format!("source=\"{source}\"");
        // `alone` asked once for each tier.
        let alone = usize::from(source == "primary") * 2;
        let counted = three.device.counted("terrace_requests_total", &[&label]).await?;
        assert_eq!(counted as usize, count + alone, "{source}");
    }
    assert_eq!(three.device.counted("terrace_confidence_count", &[]).await? as usize, IMAGES);
    Ok(())
}

#[tokio::test]
async fn a_batch_is_as_sure_as_its_least_sure_image_and_verified_as_a_whole() -> Result<()> {
    let three = Three::start(|policy| policy.speculative("{verifier: Cloud, threshold: 0.7}")).await?;
    let device = three.alone("device", 120).await?;
    let set = &digits::test_set().images;
    let sure: Vec<usize> = (0..120).filter(|image| device.confidence(*image) > 0.9).collect();
    let unsure = (0..120).find(|image| device.confidence(*image) < 0.6).context("an image that is hard")?;
    let images = |which: &[usize]| which.iter().map(|image| set[*image].clone()).collect::<Vec<_>>();
    let easy = three.device.infer(&Ask::images(&images(&sure[..8]))).await?.answered()?;
    assert_eq!(easy.route()?, Route::of("device", "primary", "Confident"));
    let mixed: Vec<usize> = sure[..8].iter().copied().chain([unsure]).collect();
    let mixed = three.device.infer(&Ask::images(&images(&mixed))).await?.answered()?;
    assert_eq!(mixed.route()?, Route::of("cloud", "verifier", "NotConfident"));
    assert!((confidence(&mixed)? - device.confidence(unsure)).abs() < 1e-6);
    assert_eq!(mixed.labels()?.len(), 9);
    Ok(())
}

#[tokio::test]
async fn however_the_verifier_fails_the_devices_answer_comes_unverified_and_in_time() -> Result<()> {
    let (refused, black_hole) = (Refused::new()?, BlackHole::new().await?);
    let mut failing =
        vec![("refused", refused.url(), "ConnectFailed"), ("black-hole", black_hole.url(), "TimedOut")];
    let mut servers = Vec::new();
    for (name, outcome, server) in [
        ("silent", "TimedOut", upstreams::silent().await?),
        ("slow", "TimedOut", upstreams::slow(Duration::from_secs(20)).await?),
        ("dribbling", "TimedOut", upstreams::dribbling(Duration::from_millis(50)).await?),
        ("error-500", "BadStatus", upstreams::planned(Plan::status(500, "{\"error\": \"x\"}")).await?),
        ("error-400", "Rejected", upstreams::planned(Plan::status(400, "{\"error\": \"x\"}")).await?),
        ("garbage", "Malformed", upstreams::planned(Plan::ok("<html>Welcome</html>")).await?),
        (
            "half",
            "ConnectionBroken",
            upstreams::planned(upstreams::outputs().pace(Pace::CutAfter(40))).await?,
        ),
    ] {
        failing.push((name, server.url(), outcome));
        servers.push(server);
    }
    let site = Site::new()?;
    for (name, url, _) in &failing {
        let policy = Policy::named(name).cloud(url).speculative("{verifier: Cloud, threshold: 1}");
        site.manifests().policy(&policy)?;
        let model = Model::digits("digits-device")?.named(name).confidence(PROBABILITIES).policy(name);
        site.manifests().model(&model)?;
    }
    let device = site.agent().ready().await?;
    for (name, _, outcome) in &failing {
        let alone = device.infer(&one(0).model(name).parameter("tier", "device")).await?.answered()?;
        let reply = device.infer(&one(0).model(name).within(400)).await?;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        assert_eq!(reply.route()?, Route::of("device", "unverified", "NotConfident"), "{name}");
        assert_eq!(reply.walk()?, format!("device Answered, cloud {outcome}"), "{name}");
        assert!(reply.latency_ms()? <= 400.0, "{name}: {} ms", reply.latency_ms()?);
        assert_eq!(reply.outputs()?, alone.outputs()?, "{name}");
        assert!(confidence(&reply)? > 0.0);
    }
    let counted = device.counted("terrace_requests_total", &["source=\"unverified\""]).await?;
    assert_eq!(counted as usize, failing.len());
    Ok(())
}

#[tokio::test]
async fn without_a_deadline_the_verifiers_timeout_ends_the_wait() -> Result<()> {
    let cloud = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).timeout("250ms");
    let (_site, device) = device_under(&policy.speculative("{verifier: Cloud, threshold: 1}")).await?;
    let reply = device.infer(&one(0)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "unverified", "NotConfident"));
    assert!(reply.latency_ms()? >= 250.0);
    Ok(())
}

#[tokio::test]
async fn a_verifier_that_is_asked_early_answers_for_a_slow_device_whose_run_is_stopped() -> Result<()> {
    let cloud = scores([0.25, 0.75], Pace::AtOnce).await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let (_site, device) =
        patient_under(&policy.speculative("{verifier: Cloud, parallelAfter: 250ms}")).await?;
    let quick = device.infer(&patient(0.95, 0)).await?.answered()?;
    assert_eq!(quick.route()?, Route::of("device", "primary", "Confident"));
    assert_eq!(cloud.connections(), 0, "the device was quick enough");

    let slow = device.infer(&patient(0.95, FOR_EVER)).await?.answered()?;
    assert_eq!(slow.route()?, Route::of("cloud", "verifier", "DeviceSlow"));
    assert_eq!(slow.walk()?, "cloud Answered, device Cancelled");
    assert_eq!(
        slow.parameter("confidence")?,
        Value::Null,
        "nobody knows how sure the device would have been"
    );
    assert!(slow.latency_ms()? >= 250.0);
    wait::until("the run to stop", || async {
        let stopped = device.counted("terrace_model_stopped_total", &[]).await?;
        ensure!(stopped >= 1.0, "{stopped} were stopped");
        Ok(())
    })
    .await?;
    let again = device.infer(&patient(0.95, 0)).await?.answered()?;
    assert_eq!(again.route()?.tier, "device", "its model is free again");
    Ok(())
}

#[tokio::test]
async fn a_verifier_that_loses_is_cancelled_and_leaks_nothing() -> Result<()> {
    let cloud = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let (_site, device) = patient_under(&policy.speculative("{verifier: Cloud, parallelAfter: 0s}")).await?;
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{}/fd", device.pid()))?.count()) };
    let mut lost = 0;
    // The device must be slow enough for the verifier to be asked at all.
    for _ in 0..50 {
        let reply = device.infer(&patient(0.95, 2_000)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("device", "primary", "Confident"));
        lost += usize::from(reply.walk()? == "device Answered, cloud Cancelled");
    }
    assert!(lost > 40, "{lost} of 50");
    wait::until("connections to close", || async {
        let open = open()?;
        ensure!(open < 60, "{open} files are open");
        Ok(())
    })
    .await?;
    let before = open()?;
    for _ in 0..100 {
        device.infer(&patient(0.95, 2_000)).await?.answered()?;
    }
    wait::until("no more files to be open than before", || async {
        let now = open()?;
        ensure!(now <= before + 4, "{now}, {before} before");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_slow_device_that_is_not_sure_waits_for_the_verifier_that_was_asked_early() -> Result<()> {
    let cloud = scores([0.25, 0.75], Pace::After(Duration::from_millis(200))).await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let (_site, device) = patient_under(&policy.speculative("{verifier: Cloud, parallelAfter: 0s}")).await?;
    let reply = device.infer(&patient(0.6, 1_000)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("cloud", "verifier", "NotConfident"));
    assert_eq!(reply.walk()?, "device Answered, cloud Answered");
    assert!((confidence(&reply)? - 0.6).abs() < 1e-6);
    assert_eq!(cloud.requests().len(), 1, "asked once");
    Ok(())
}

#[tokio::test]
async fn a_device_that_cannot_answer_leaves_the_fallback_order() -> Result<()> {
    let (edge, cloud) = (upstreams::answering().await?, upstreams::answering().await?);
    let site = Site::new()?;
    let policy = Policy::named("near").edge(&edge.url()).cloud(&cloud.url());
    site.manifests().policy(&policy.speculative("{verifier: Cloud}"))?;
    site.manifests().model(&sure(Model::digits("digits-device")?.pinned(&"0".repeat(64))))?;
    let device = site.agent().start().await?;
    device.wait_failed("digits", "DigestMismatch").await?;
    let reply = device.infer(&one(0)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("edge", "fallback", "Speculative"));
    assert_eq!(cloud.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn requests_that_are_settled_are_not_verified() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).speculative("{verifier: Cloud, threshold: 1}");
    let (_site, device) = device_under(&policy).await?;
    for (ask, reason) in [
        (one(0).private(), "PrivacyRequired"),
        (one(0).parameter("tier", "device"), "RequestedTier"),
        (one(0).header("terrace-hop", "edge"), "Forwarded"),
    ] {
        let reply = device.infer(&ask).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("device", "primary", reason));
        assert_eq!(reply.parameter("confidence")?, Value::Null, "nobody has to know");
    }
    assert_eq!(cloud.connections(), 0);
    let reply = device.infer(&one(0).parameter("tier", "cloud")).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("cloud", "primary", "RequestedTier"));
    Ok(())
}

#[tokio::test]
async fn a_request_for_other_outputs_is_measured_all_the_same() -> Result<()> {
    let three = Three::start(|policy| policy.speculative("{verifier: Cloud}")).await?;
    let device = three.alone("device", 60).await?;
    let sure = (0..60).find(|image| device.confidence(*image) > 0.9).context("an easy image")?;
    let unsure = (0..60).find(|image| device.confidence(*image) < 0.9).context("a hard image")?;
    for (image, source) in [(sure, "primary"), (unsure, "verifier")] {
        let reply = three.device.infer(&one(image).outputs(&["label"])).await?.answered()?;
        assert_eq!(reply.route()?.source, source);
        assert!((confidence(&reply)? - device.confidence(image)).abs() < 1e-6);
        let outputs = reply.outputs()?;
        assert_eq!(outputs.as_array().map(Vec::len), Some(1), "{outputs}");
        assert_eq!(outputs[0]["name"], "label");
    }
    Ok(())
}

#[tokio::test]
async fn a_confidence_that_the_model_does_not_give_fails_the_revision_and_what_served_goes_on() -> Result<()>
{
    let cloud = upstreams::answering().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).speculative("{verifier: Cloud, threshold: 0}");
    let (site, device) = device_under(&policy).await?;
    let before = device.model("digits").await?;
    let loads = device.counted("terrace_activations_total", &["outcome=\"Serving\""]).await?;
    for (measure, told) in [
        ("{output: scores, method: Softmax}", "\"probabilities\" (FP32)"),
        ("{output: label, method: Softmax}", "INT64"),
    ] {
        let model = Model::digits("digits-device")?.confidence(measure).policy("near");
        site.manifests().model(&model)?;
        let failed = wait::until("the revision to fail", || async {
            let failed = device.wait_failed("digits", "ConfidenceInvalid").await?;
            let message = &failed.error.as_ref().context("no error")?.message;
            ensure!(message.contains(told), "{message}");
            Ok(failed)
        })
        .await?;
        assert_eq!(failed.serving_revision, before.serving_revision);
        let reply = device.infer(&one(0)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("device", "primary", "Confident"));
    }
    let model = Model::digits("digits-device")?;
    site.manifests().model(&model.confidence("{output: probabilities, method: Margin}").policy("near"))?;
    wait::until("another measure to hold", || async {
        let model = device.model("digits").await?;
        ensure!(model.error.is_none() && model.serving_revision != before.serving_revision, "{model:?}");
        Ok(())
    })
    .await?;
    let served = device.counted("terrace_activations_total", &["outcome=\"Serving\""]).await?;
    assert_eq!(served, loads + 1.0);
    Ok(())
}

#[tokio::test]
async fn a_model_without_confidence_is_kept_to_its_node_and_told_so() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let site = Site::new()?;
    let policy = Policy::named("near").cloud(&cloud.url());
    site.manifests().policy(&policy.speculative("{verifier: Cloud}"))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let device = site.agent().ready().await?;
    device.wait_condition("PoliciesFound", "False", "spec.confidence").await?;
    let reply = device.infer(&one(0)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "primary", "NoPolicy"));
    assert_eq!(cloud.connections(), 0);
    Ok(())
}

/// What an ensemble should answer, by the book.
fn by_the_book(how: &str, members: &[&Outputs], weights: &[f64]) -> Outputs {
    let (mut probabilities, mut labels) = (Vec::new(), Vec::new());
    let largest = |scores: &[f64]| {
        let most = scores.iter().copied().fold(0.0, f64::max);
        scores.iter().position(|score| *score >= most).unwrap_or_default()
    };
    for image in 0..members[0].labels.len() {
        let confidences: Vec<f64> = members.iter().map(|member| member.confidence(image)).collect();
        let classes: Vec<usize> =
            members.iter().map(|member| largest(&member.probabilities[image])).collect();
        let all: f64 = weights.iter().sum();
        let mean: Vec<f64> = (0..10)
            .map(|class| {
                let sum: f64 = members
                    .iter()
                    .zip(weights)
                    .map(|(m, weight)| m.probabilities[image][class] * weight)
                    .sum();
                sum / all
            })
            .collect();
        let support = |member: usize| match how {
            "Vote" => classes.iter().filter(|class| **class == classes[member]).count(),
            "MaxConfidence" => 0,
            _ => usize::from(classes[member] == largest(&mean)),
        };
        let chosen = (0..members.len())
            .rev()
            .max_by(|a, b| support(*a).cmp(&support(*b)).then(confidences[*a].total_cmp(&confidences[*b])))
            .unwrap_or_default();
        labels.push(members[chosen].labels[image]);
        let averaged = how.ends_with("Mean");
        probabilities.push(if averaged { mean } else { members[chosen].probabilities[image].clone() });
    }
    Outputs { probabilities, labels }
}

fn assert_near(found: &Outputs, expected: &Outputs, what: &str) {
    assert_eq!(found.labels, expected.labels, "{what}");
    for (image, (found, expected)) in found.probabilities.iter().zip(&expected.probabilities).enumerate() {
        let near = found.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-5);
        assert!(near, "{what}, image {image}: {found:?}, not {expected:?}");
    }
}

#[tokio::test]
async fn members_answers_are_combined_as_the_policy_says() -> Result<()> {
    const IMAGES: usize = 150;
    let three = Three::start(|policy| policy).await?;
    let (device, edge, cloud) = (
        three.alone("device", IMAGES).await?,
        three.alone("edge", IMAGES).await?,
        three.alone("cloud", IMAGES).await?,
    );
    let members = [&device, &edge, &cloud];
    let (at_edge, at_cloud) = (three.edge.as_ref().map(url), three.cloud.as_ref().map(url));
    let tiers = Policy::named("near").edge(&at_edge.context("an edge")?).cloud(&at_cloud.context("a cloud")?);
    for (how, weights, expected) in [
        ("Mean", "", [1.0, 1.0, 1.0]),
        ("WeightedMean", ", weights: [1, 2, 4.5]", [1.0, 2.0, 4.5]),
        ("Vote", "", [1.0; 3]),
        ("MaxConfidence", "", [1.0; 3]),
    ] {
        let before = three.device.model("digits").await?.serving_revision;
        let policy = tiers.clone();
        three.site.manifests().policy(
            &policy.ensemble(&format!("{{members: [Device, Edge, Cloud], combine: {how}{weights}}}")),
        )?;
        wait::until("the policy to hold", || async {
            let model = three.device.model("digits").await?;
            ensure!(model.serving_revision != before, "{before:?} still serves");
            Ok(())
        })
        .await?;
        let reply = three.device.infer(&first(IMAGES)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("ensemble", "ensemble", "Ensemble"), "{how}");
        assert_eq!(reply.walk()?, "device Answered, edge Answered, cloud Answered");
        let found = Outputs::of(&reply)?;
        assert_near(&found, &by_the_book(how, &members, &expected), how);
        let told = confidence(&reply)?;
        let least = found.least();
        assert!((told - least).abs() < 1e-6, "{how}: {told}, not {least}");
        assert!(
            found.right() > device.right(),
            "{how}: {} right, the device alone {}",
            found.right(),
            device.right()
        );
        assert_eq!(Some(reply.model_version()?), three.device.model("digits").await?.serving_revision);
    }
    Ok(())
}

#[tokio::test]
async fn a_member_that_is_down_or_late_is_dropped_and_named() -> Result<()> {
    let late = upstreams::slow(Duration::from_secs(20)).await?;
    let mut three =
        Three::start(|policy| policy.ensemble("{members: [Device, Edge, Cloud], combine: Mean}")).await?;
    let (device, edge) = (three.alone("device", 20).await?, three.alone("edge", 20).await?);
    drop(three.cloud.take());
    let reply = three.device.infer(&first(20)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("ensemble", "ensemble", "Ensemble"));
    assert!(reply.walk()?.starts_with("device Answered, edge Answered, cloud "), "{}", reply.walk()?);
    assert_near(&Outputs::of(&reply)?, &by_the_book("Mean", &[&device, &edge], &[1.0, 1.0]), "two of three");
    drop(three.edge.take());
    let reply = three.device.infer(&first(20)).await?.answered()?;
    assert_near(&Outputs::of(&reply)?, &device, "the survivor");
    assert!((confidence(&reply)? - device.least()).abs() < 1e-6, "its own confidence");
    assert_eq!(reply.route()?.tier, "ensemble");

    let policy = Policy::named("near").cloud(&late.url());
    let (_site, device) = device_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
    let reply = device.infer(&one(0).within(300)).await?.answered()?;
    assert_eq!(reply.walk()?, "device Answered, cloud TimedOut");
    assert!(reply.latency_ms()? <= 300.0, "{} ms", reply.latency_ms()?);
    Ok(())
}

#[tokio::test]
async fn a_late_device_is_dropped_and_its_run_is_stopped() -> Result<()> {
    let cloud = scores([0.25, 0.75], Pace::AtOnce).await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let (_site, device) = patient_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
    let reply = device.infer(&patient(0.95, FOR_EVER).within(300)).await?.answered()?;
    assert_eq!(reply.walk()?, "device DeadlineExceeded, cloud Answered");
    assert!(reply.latency_ms()? <= 300.0, "{} ms", reply.latency_ms()?);
    assert_eq!(reply.outputs()?[0]["data"], json!([0.25, 0.75]));
    let again = device.infer(&patient(0.75, 0).within(2_000)).await?.answered()?;
    assert_eq!(again.walk()?, "device Answered, cloud Answered");
    assert_eq!(again.outputs()?[0]["data"], json!([0.5, 0.5]));
    Ok(())
}

#[tokio::test]
async fn below_the_quorum_the_fallback_order_says_what_happens() -> Result<()> {
    let (refused, edge) = (Refused::new()?, upstreams::answering().await?);
    let ensemble = "{members: [Device, Cloud], quorum: 2}";
    let tiers = || Policy::named("near").edge(&edge.url()).cloud(&refused.url());
    let (_site, device) = device_under(&tiers().ensemble(ensemble)).await?;
    let reply = device.infer(&one(0)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "fallback", "QuorumNotMet"), "who answered stands in");
    assert!(reply.walk()?.starts_with("device Answered, cloud "));

    let others = tiers().ensemble(ensemble).fallback("{order: [Edge]}");
    let (_site, device) = device_under(&others).await?;
    let reply = device.infer(&one(0)).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("edge", "fallback", "QuorumNotMet"));

    let off = tiers().ensemble(ensemble).fallback("{enabled: false}");
    let (_site, device) = device_under(&off).await?;
    let reply = device.infer(&one(0)).await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let error = reply.error()?;
    assert!(error.contains("cloud"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_combined_is_a_502_that_says_why() -> Result<()> {
    let output = |name: &str, datatype: &str, shape: Value, data: Value| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    let ten = json!([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]);
    let label = output("label", "INT64", json!([1]), json!([7]));
    for (outputs, told) in [
        (
            json!([output("scores", "FP32", json!([1, 10]), ten.clone()), label]),
            ["\"probabilities\"", "cloud"],
        ),
        (json!([output("probabilities", "FP64", json!([1, 10]), ten), label]), ["FP64 [1, 10]", "cloud"]),
        (
            json!([output("probabilities", "FP32", json!([1, 2]), json!([0.5, 0.5])), label]),
            ["[1, 2]", "cloud"],
        ),
    ] {
        let body = json!({"model_name": "digits", "outputs": outputs}).to_string();
        let cloud = upstreams::planned(Plan::ok(body).header("content-type", "application/json")).await?;
        let policy = Policy::named("near").cloud(&cloud.url());
        let (_site, device) = device_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
        let reply = device.infer(&one(0)).await?;
        assert_eq!(reply.status, 502, "{}", reply.text());
        let error = reply.error()?;
        for word in told {
            assert!(error.contains(word), "{word} is not in {error}");
        }
        assert_eq!(device.counted("terrace_requests_total", &["code=\"502\""]).await?, 1.0);
    }
    Ok(())
}

#[tokio::test]
async fn a_private_request_is_no_ensemble() -> Result<()> {
    let cloud = upstreams::answering().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).ensemble("{members: [Device, Cloud], quorum: 2}");
    let (_site, device) = device_under(&policy).await?;
    for (ask, reason) in
        [(one(0).private(), "PrivacyRequired"), (one(0).header("terrace-hop", "edge"), "Forwarded")]
    {
        let reply = device.infer(&ask).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("device", "primary", reason));
    }
    assert_eq!(cloud.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_combined_answer_has_the_outputs_that_were_asked_for_in_binary_too() -> Result<()> {
    let three = Three::start(|policy| policy.ensemble("{members: [Device, Edge, Cloud]}")).await?;
    let whole = Outputs::of(&three.device.infer(&first(3)).await?.answered()?)?;
    let reply = three.device.infer(&first(3).outputs(&["label"])).await?.answered()?;
    assert_eq!(reply.outputs()?.as_array().map(Vec::len), Some(1), "{}", reply.text());
    assert_eq!(reply.labels()?, whole.labels);
    let told = confidence(&reply)?;
    assert!((told - whole.least()).abs() < 1e-6, "{told}");

    let reply = three.device.infer(&first(3).parameter("binary_data_output", true)).await?.answered()?;
    let length: usize = reply.header("inference-header-content-length").parse()?;
    let (text, tail) = reply.body.split_at(length);
    let text: Value = serde_json::from_slice(text)?;
    let sizes: Vec<usize> = text["outputs"]
        .as_array()
        .context("outputs")?
        .iter()
        .filter_map(|output| output["parameters"]["binary_data_size"].as_u64())
        .map(|size| size as usize)
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), tail.len(), "{text}");
    let place = text["outputs"]
        .as_array()
        .and_then(|outputs| outputs.iter().position(|output| output["name"] == "probabilities"))
        .context("probabilities")?;
    let before: usize = sizes[..place].iter().sum();
    let floats: Vec<f64> = tail[before..before + sizes[place]]
        .chunks_exact(4)
        .map(|bytes| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
        .collect();
    for (found, expected) in floats.iter().zip(whole.probabilities.concat()) {
        assert!((found - expected).abs() < 1e-6);
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_every_member_rejects_is_wrong() -> Result<()> {
    let words = json!({"error": "input \"image\": shape [1, 3] is not [1, 64]"}).to_string();
    let cloud = upstreams::planned(Plan::status(400, words)).await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let (_site, device) = device_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
    let wrong =
        Ask::inputs(json!([{"name": "image", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]));
    let reply = device.infer(&wrong).await?;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.error()?.contains("shape"), "{}", reply.text());
    Ok(())
}
