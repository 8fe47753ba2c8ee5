//! Ensembles: real tiers whose answers are combined, and members that fail, are late, or do not fit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::Policy;
use terrace_e2e::opinions::{
    FOR_EVER, Outputs, Three, confidence, device_under, first, many, one, patient, patient_under, scores,
};
use terrace_e2e::scenes::url;
use terrace_e2e::server::{Pace, Plan};
use terrace_e2e::upstreams::{self, Refused};
use terrace_e2e::wait;

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
async fn a_member_that_was_asked_twice_is_marked() -> Result<()> {
    let cloud = upstreams::slow(Duration::from_millis(200)).await?;
    let policy = Policy::named("near").cloud(&cloud.url()).having("hedge: {after: 30ms}");
    let (_site, device) = device_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
    let attempts = device.infer(&one(0)).await?.answered()?.attempts()?;
    let hedged: Vec<_> = attempts.iter().map(|attempt| (attempt.tier.as_str(), attempt.hedged)).collect();
    assert_eq!(hedged, [("device", false), ("cloud", true)]);
    assert_eq!(cloud.requests().len(), 2);
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
    let reply = device.infer(&patient(0.95, FOR_EVER).within(1_000)).await?.answered()?;
    assert_eq!(reply.walk()?, "device DeadlineExceeded, cloud Answered");
    assert!(reply.latency_ms()? <= 1_000.0, "{} ms", reply.latency_ms()?);
    assert_eq!(reply.outputs()?[0]["data"], json!([0.25, 0.75]));
    let again = device.infer(&patient(0.75, 0).within(2_000)).await?.answered()?;
    assert_eq!(again.walk()?, "device Answered, cloud Answered");
    assert_eq!(again.outputs()?[0]["data"], json!([0.5, 0.5]));
    Ok(())
}

#[tokio::test]
async fn members_that_are_all_too_late_for_the_deadline_are_a_504() -> Result<()> {
    let silent = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&silent.url());
    let (_site, device) = patient_under(&policy.ensemble("{members: [Device, Cloud]}")).await?;
    let reply = device.infer(&patient(0.95, FOR_EVER).within(300)).await?;
    assert_eq!(reply.status, 504, "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn a_member_is_waited_for_less_long_where_the_answer_in_hand_is_large() -> Result<()> {
    const DEADLINE_MS: f64 = 4_000.0;
    // 16 MB in hand and as much that may come, of 20 ns a byte: 640 ms, beside a twentieth of the time.
    const GIVEN_UP_MS: f64 = DEADLINE_MS - 640.0 - DEADLINE_MS / 20.0;
    let silent = upstreams::silent().await?;
    let policy = Policy::named("near").cloud(&silent.url()).having("hedge: {after: 30ms}");
    let (_site, device) = patient_under(&policy.ensemble("{members: [Device, Cloud], quorum: 2}")).await?;
    let parameters = json!({"max_latency_ms": DEADLINE_MS, "binary_data_output": true});
    let reply = device.send(&many(4_000_000, &parameters)).await?.answered()?;
    assert_eq!(reply.walk()?, "device Answered, cloud TimedOut");
    assert_eq!(reply.route()?, Route::of("device", "fallback", "QuorumNotMet"));
    let hedged: Vec<bool> = reply.attempts()?.iter().map(|attempt| attempt.hedged).collect();
    assert_eq!(hedged, [false, true], "given up, it was asked twice all the same");
    let took = reply.latency_ms()?;
    assert!(took < GIVEN_UP_MS + 320.0, "{took} ms, of {DEADLINE_MS}");
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
async fn a_member_that_claims_rows_without_elements_costs_no_time_and_no_memory() -> Result<()> {
    const LONG: u64 = 1 << 40;
    const DEADLINE_MS: u64 = 500;
    for (combine, shape, status) in [
        ("MaxConfidence", json!([1, LONG, 0]), 200),
        ("MaxConfidence", json!([60_000_000, 0]), 502),
        ("MaxConfidence", json!([LONG, 1, 0]), 502),
        ("Mean", json!([1, LONG, 0]), 502),
        ("Vote", json!([LONG, LONG, LONG, 0]), 502),
    ] {
        let body = json!({"model_name": "digits", "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": shape, "data": []},
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]},
        ]});
        let plan = Plan::ok(body.to_string()).header("content-type", "application/json");
        let cloud = upstreams::planned(plan).await?;
        let policy = Policy::named("near").cloud(&cloud.url());
        let ensemble = format!("{{members: [Device, Cloud], combine: {combine}}}");
        let (_site, device) = device_under(&policy.ensemble(&ensemble)).await?;
        device.infer(&one(0).private()).await?.answered()?;
        let before = device.peak_memory()?;
        let (ask, private) = (one(0).within(DEADLINE_MS), one(0).private().within(DEADLINE_MS));
        let [one, other, private] = [device.infer(&ask), device.infer(&ask), device.infer(&private)];
        let (one, other, private) = tokio::try_join!(one, other, private)?;
        assert_eq!(private.status, 200, "{combine} {shape}: {}", private.text());
        for reply in [one, other] {
            assert_eq!(reply.status, status, "{combine} {shape}: {}", reply.text());
            assert!(reply.took < Duration::from_millis(DEADLINE_MS), "{combine} {shape}: {:?}", reply.took);
            if status == 200 {
                let found = (reply.walk()?, reply.route()?);
                let combined = Route::of("ensemble", "ensemble", "Ensemble");
                assert_eq!(found, ("device Answered, cloud Answered".to_owned(), combined));
                assert_eq!(reply.labels()?, [device_label(&device).await?]);
            }
        }
        let grown = device.peak_memory()?.saturating_sub(before);
        assert!(grown < 32 << 20, "{combine} {shape}: {grown} bytes");
    }
    Ok(())
}

/// What the device alone says of the first image.
async fn device_label(device: &Agent) -> Result<i64> {
    let reply = device.infer(&one(0).private()).await?.answered()?;
    reply.labels()?.first().copied().context("a label")
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
    let (text, tail) = (reply.json()?, &reply.body[length..]);
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
