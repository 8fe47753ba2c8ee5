//! Speculation: a real device, and verifiers that answer, fail in every way, or come too late.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::digits;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::opinions::{
    FOR_EVER, Outputs, PROBABILITIES, Three, confidence, device_under, many, one, patient, patient_under,
    scores, sure,
};
use terrace_e2e::server::{Pace, Plan};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, BlackHole, Refused};
use terrace_e2e::wait;

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
async fn a_verifier_that_was_asked_early_leaves_time_to_write_the_devices_answer() -> Result<()> {
    const DEADLINE_MS: f64 = 4_000.0;
    // 16 MB of 20 ns a byte, beside a twentieth of the time.
    const WRITING_MS: f64 = 320.0;
    const GIVEN_UP_MS: f64 = DEADLINE_MS - WRITING_MS - DEADLINE_MS / 20.0;
    let silent = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&silent.url());
    let speculative = "{verifier: Cloud, threshold: 1, parallelAfter: 0s}";
    let (_site, device) = patient_under(&policy.speculative(speculative)).await?;
    let parameters = json!({"max_latency_ms": DEADLINE_MS, "binary_data_output": true});
    let reply = device.send(&many(4_000_000, &parameters)).await?.answered()?;
    assert_eq!(reply.walk()?, "device Answered, cloud TimedOut");
    assert_eq!(reply.route()?, Route::of("device", "unverified", "NotConfident"));
    let took = reply.latency_ms()?;
    assert!(took < GIVEN_UP_MS + WRITING_MS / 2.0, "{took} ms, of {DEADLINE_MS}");
    assert!(took > GIVEN_UP_MS - WRITING_MS / 2.0, "{took} ms: the verifier has its time, too");
    Ok(())
}

#[tokio::test]
async fn a_request_that_claims_rows_without_elements_is_refused_before_anything_is_made_of_them() -> Result<()>
{
    let cloud = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&cloud.url()).timeout("250ms");
    let (_site, device) =
        patient_under(&policy.speculative("{verifier: Cloud, threshold: 1, parallelAfter: 0s}")).await?;
    let claiming = |rows: u64, columns: u64| {
        Ask::inputs(json!([
            {"name": "x", "datatype": "FP32", "shape": [rows, columns], "data": []},
            {"name": "rounds", "datatype": "INT64", "shape": [], "data": [0]},
        ]))
        .model("patient")
    };
    device.infer(&patient(0.9, 0)).await?.answered()?;
    let before = device.peak_memory()?;
    for (rows, columns) in [(60_000_000, 0), (3_000_000_000, 0), (1 << 40, 0), (0, 1 << 40)] {
        let reply = device.infer(&claiming(rows, columns)).await?;
        assert_eq!(reply.status, 400, "{rows} {columns}: {}", reply.text());
        assert!(reply.error()?.contains("has no element"), "{}", reply.text());
        assert!(reply.took < Duration::from_secs(2), "{:?}", reply.took);
    }
    let (grown, none) = (device.peak_memory()?.saturating_sub(before), claiming(0, 2));
    assert!(grown < 32 << 20, "{grown} bytes");
    let reply = device.infer(&none).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("device", "unverified", "NotConfident"), "no row is as good as any");
    assert!(confidence(&reply)?.abs() < 1e-9, "nobody is sure of nothing");
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
    assert_eq!(reply.route()?, Route::of("device", "primary", "ConfidenceMissing"));
    assert_eq!(cloud.connections(), 0);
    Ok(())
}
