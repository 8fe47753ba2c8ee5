//! Answers of other tiers that contradict themselves, or the node's own model: who notices, and what happens then.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::digits;
use terrace_e2e::grpc;
use terrace_e2e::infer::{Ask, Route};
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::opinions::{
    FOR_EVER, PROBABILITIES, confidence, device_under, one, patient, patient_under, scores,
};
use terrace_e2e::server::{Pace, Plan, Server};
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::{self, LABEL, Refused};

const GO_UP: &str = "rules: [{when: 'true', tier: Cloud}]";

fn output(name: &str, datatype: &str, shape: &[usize], data: Value) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

fn ten() -> Value {
    json!([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
}

fn label() -> Value {
    output("label", "INT64", &[1], json!([LABEL]))
}

fn answer(outputs: &Value) -> Plan {
    let body = json!({"model_name": "made-up", "outputs": outputs}).to_string();
    Plan::ok(body).header("content-type", "application/json")
}

/// The same with the elements behind the JSON.
fn binary(shape: &[usize], sizes: [usize; 2]) -> Plan {
    let of = |name: &str, datatype: &str, shape: &[usize], size: usize| json!({"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}});
    let outputs = json!([of("probabilities", "FP32", shape, sizes[0]), of("label", "INT64", &[1], sizes[1])]);
    let head = json!({"model_name": "made-up", "outputs": outputs}).to_string();
    let body = [head.as_bytes(), &vec![0; sizes[0] + sizes[1]]].concat();
    Plan::ok(body).header("inference-header-content-length", &head.len().to_string())
}

/// A device with one model for each of these answers, under policies that `policy` makes of the tier that gives it.
async fn device_of(
    answers: &[(&str, Plan)],
    policy: impl Fn(Policy) -> Policy,
) -> Result<(Site, Agent, Vec<Server>)> {
    let (site, mut servers) = (Site::new()?, Vec::new());
    for (name, plan) in answers {
        let cloud = upstreams::planned(plan.clone()).await?;
        site.manifests().policy(&policy(Policy::named(name).cloud(&cloud.url())))?;
        let model = Model::digits("digits-device")?.named(name).confidence(PROBABILITIES).policy(name);
        site.manifests().model(&model)?;
        servers.push(cloud);
    }
    let device = site.agent().ready().await?;
    Ok((site, device, servers))
}

#[tokio::test]
async fn an_answer_that_contradicts_itself_is_none_and_the_fallback_goes_on() -> Result<()> {
    let probabilities = |shape: &[usize], data: Value| output("probabilities", "FP32", shape, data);
    let good = [
        ("good", answer(&json!([probabilities(&[1, 10], ten()), label()]))),
        ("good-binary", binary(&[1, 10], [40, 8])),
        ("other", answer(&json!([output("anything", "UINT8", &[2, 1], json!([[1], [2]]))]))),
    ];
    let bad = [
        ("too-few", answer(&json!([probabilities(&[1, 11], ten()), label()]))),
        ("too-many", answer(&json!([probabilities(&[1, 9], ten()), label()]))),
        ("no-shape", answer(&json!([{"name": "y", "datatype": "FP32", "data": [1]}]))),
        ("twice", answer(&json!([label(), label()]))),
        ("short-binary", binary(&[1, 11], [40, 8])),
        ("odd-binary", binary(&[1, 10], [39, 8])),
    ];
    let answers: Vec<(&str, Plan)> = good.iter().chain(&bad).cloned().collect();
    let (_site, device, _servers) = device_of(&answers, |policy| policy.with(GO_UP)).await?;
    for (name, _) in &good {
        let reply = device.infer(&one(0).model(name)).await?.answered()?;
        assert_eq!(reply.route()?, Route::of("cloud", "primary", "Rule[0]"), "{name}");
    }
    for (name, _) in &bad {
        let reply = device.infer(&one(0).model(name)).await?.answered()?;
        assert_eq!(reply.walk()?, "cloud Malformed, device Answered", "{name}");
        assert_eq!(reply.labels()?, [digits::test_set().labels[0]], "{name}");
        let alone = device.infer(&one(0).model(name).parameter("tier", "cloud")).await?;
        assert_eq!(alone.status, 503, "{name}: {}", alone.text());
        assert!(alone.error()?.contains(": outputs"), "{}", alone.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_verifier_that_answers_something_else_leaves_the_devices_answer_unverified() -> Result<()> {
    let probabilities =
        |datatype: &str, shape: &[usize], data: Value| output("probabilities", datatype, shape, data);
    let eleven = json!([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]);
    let answers = [
        ("good", answer(&json!([label(), probabilities("FP32", &[1, 10], ten())]))),
        (
            "more",
            answer(&json!([
                probabilities("FP32", &[1, 10], ten()),
                label(),
                output("x", "BOOL", &[1], json!([true]))
            ])),
        ),
        ("good-binary", binary(&[1, 10], [40, 8])),
        ("name", answer(&json!([output("probs", "FP32", &[1, 10], ten()), label()]))),
        ("missing", answer(&json!([probabilities("FP32", &[1, 10], ten())]))),
        ("type", answer(&json!([probabilities("FP64", &[1, 10], ten()), label()]))),
        ("unknown-type", answer(&json!([probabilities("FP8", &[1, 10], ten()), label()]))),
        ("classes", answer(&json!([probabilities("FP32", &[1, 11], eleven), label()]))),
        ("rank", answer(&json!([probabilities("FP32", &[10], ten()), label()]))),
        ("rank-binary", binary(&[10], [40, 8])),
        ("count", answer(&json!([probabilities("FP32", &[1, 11], ten()), label()]))),
    ];
    let (_site, device, servers) =
        device_of(&answers, |policy| policy.speculative("{verifier: Cloud, threshold: 1}")).await?;
    for (name, outcome) in [
        ("good", "Answered"),
        ("more", "Answered"),
        ("good-binary", "Answered"),
        ("name", "DoesNotFit"),
        ("missing", "DoesNotFit"),
        ("type", "DoesNotFit"),
        ("unknown-type", "DoesNotFit"),
        ("classes", "DoesNotFit"),
        ("rank", "DoesNotFit"),
        ("rank-binary", "DoesNotFit"),
        ("count", "Malformed"),
    ] {
        let reply = device.infer(&one(0).model(name)).await?.answered()?;
        assert_eq!(reply.walk()?, format!("device Answered, cloud {outcome}"), "{name}");
        if outcome == "Answered" {
            assert_eq!(reply.route()?, Route::of("cloud", "verifier", "NotConfident"), "{name}");
            continue;
        }
        assert_eq!(reply.route()?, Route::of("device", "unverified", "NotConfident"), "{name}");
        let alone = device.infer(&one(0).model(name).parameter("tier", "device")).await?.answered()?;
        assert_eq!(reply.outputs()?, alone.outputs()?, "{name}");
        assert!(confidence(&reply)? > 0.0);
    }
    // What the client does not ask for need not fit.
    let reply = device.infer(&one(0).model("classes").outputs(&["label"])).await?.answered()?;
    assert_eq!(reply.route()?, Route::of("cloud", "verifier", "NotConfident"));
    // It is an answer: the endpoint is left alone for nothing of this.
    for (server, (name, _)) in servers.iter().zip(&answers) {
        ensure!(!server.requests().is_empty(), "{name} was not asked");
    }
    let counted = device.counted("terrace_attempts_total", &["outcome=\"DoesNotFit\""]).await?;
    assert_eq!(counted as usize, 7);
    Ok(())
}

#[tokio::test]
async fn a_verifier_that_does_not_fit_is_told_of_once_and_when_that_is_over() -> Result<()> {
    let fits = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answers = std::sync::Arc::clone(&fits);
    let cloud = Server::start(move |_| {
        let fits = answers.load(std::sync::atomic::Ordering::Relaxed);
        if fits { upstreams::outputs() } else { answer(&json!([label()])) }
    })
    .await?;
    let policy = Policy::named("near").cloud(&cloud.url()).speculative("{verifier: Cloud, threshold: 1}");
    let (_site, device) = device_under(&policy).await?;
    let told = async || anyhow::Ok(device.admin("/status").await?.json()?["tiers"][0].clone());
    let said = |what: &str| device.log().matches(what).count();
    let (begun, over) = ("a verifier's answers are not used", "a verifier's answers fit again");
    for _ in 0..3 {
        let reply = device.infer(&one(0)).await?.answered()?;
        assert_eq!(reply.walk()?, "device Answered, cloud DoesNotFit");
    }
    assert_eq!((said(begun), said(over)), (1, 0), "{}", device.log());
    let failure = told().await?;
    assert_eq!(
        (&failure["lastFailure"]["reason"], &failure["breaker"]),
        (&json!("DoesNotFit"), &json!("closed"))
    );
    let message = failure["lastFailure"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("it lacks the output \"probabilities\""), "{message}");
    assert!(message.contains("spec.upstreams"), "{message}");
    for (now, walk) in [(true, "Answered"), (false, "DoesNotFit")] {
        fits.store(now, std::sync::atomic::Ordering::Relaxed);
        let reply = device.infer(&one(0)).await?.answered()?;
        assert_eq!(reply.walk()?, format!("device Answered, cloud {walk}"));
        assert_eq!(told().await?["lastFailure"].is_null(), now);
    }
    // What turns back and forth is not told each time.
    assert_eq!((said(begun), said(over)), (1, 1), "{}", device.log());
    Ok(())
}

#[tokio::test]
async fn a_verifier_that_is_asked_early_must_fit_too() -> Result<()> {
    // Of another type than the device's.
    let body = json!({"model_name": "p", "outputs": [output("scores", "FP64", &[1, 2], json!([0.5, 0.5]))]});
    let cloud = upstreams::planned(Plan::ok(body.to_string())).await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let early = "{verifier: Cloud, parallelAfter: 0s}";
    let (_site, device) = patient_under(&policy.fallback("{enabled: false}").speculative(early)).await?;
    let reply = device.infer(&patient(0.95, 0)).await?.answered()?;
    assert_eq!(reply.route()?.tier, "device", "{}", reply.text());
    // Nobody is left: the device is stopped by the deadline, and the verifier's answer is no answer.
    let reply = device.infer(&patient(0.95, FOR_EVER).within(400)).await?;
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert!(reply.error()?.contains("cloud DoesNotFit"), "{}", reply.text());
    Ok(())
}

#[tokio::test]
async fn a_member_whose_scores_can_be_none_is_left_out() -> Result<()> {
    let much = || scores([2.5, 0.0], Pace::AtOnce);
    for how in ["Mean", "WeightedMean, weights: [1, 1]", "MaxConfidence"] {
        let cloud = much().await?;
        let policy = Policy::named("near").cloud(&cloud.url());
        let (_site, device) =
            patient_under(&policy.ensemble(&format!("{{members: [Device, Cloud], combine: {how}}}"))).await?;
        let reply = device.infer(&patient(0.75, 0)).await?.answered()?;
        assert_eq!(reply.walk()?, "device Answered, cloud NotScores", "{how}");
        assert_eq!(reply.outputs()?[0]["data"], json!([0.75, 0.25]), "{how}");
        assert!((confidence(&reply)? - 0.75).abs() < 1e-6);
    }
    // Which of them is the largest can be told all the same.
    let cloud = much().await?;
    let policy = Policy::named("near").cloud(&cloud.url());
    let vote = "{members: [Device, Cloud], combine: Vote}";
    let (_site, device) = patient_under(&policy.ensemble(vote)).await?;
    assert_eq!(device.infer(&patient(0.75, 0)).await?.answered()?.walk()?, "device Answered, cloud Answered");
    Ok(())
}

#[tokio::test]
async fn numbers_that_are_none_are_no_vote_and_no_quorum() -> Result<()> {
    // NaN travels in binary alone.
    let head = json!({"model_name": "patient", "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    ]})
    .to_string();
    let elements: Vec<u8> = [f32::NAN, 0.5].iter().flat_map(|score| score.to_le_bytes()).collect();
    let plan = Plan::ok([head.as_bytes(), &elements].concat())
        .header("inference-header-content-length", &head.len().to_string());
    let cloud = upstreams::planned(plan).await?;
    for how in ["Mean", "Vote", "MaxConfidence"] {
        let policy = Policy::named("near").cloud(&cloud.url()).fallback("{enabled: false}");
        let two = format!("{{members: [Device, Cloud], quorum: 2, combine: {how}}}");
        let (_site, device) = patient_under(&policy.ensemble(&two)).await?;
        let reply = device.infer(&patient(0.75, 0)).await?;
        assert_eq!(reply.status, 502, "{how}: {}", reply.text());
        let told = reply.error()?;
        assert!(
            told.starts_with("1 of 2 members answered, and the policy's quorum is 2: cloud NotScores after "),
            "{told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_missed_quorum_says_how_many_answered_and_who_did_not() -> Result<()> {
    let (edge, cloud) = (Refused::new()?, upstreams::slow(Duration::from_secs(20)).await?);
    let policy = Policy::named("near").edge(&edge.url()).cloud(&cloud.url()).fallback("{enabled: false}");
    let ensemble = "{members: [Device, Edge, Cloud], quorum: 2}";
    let (_site, device) = device_under(&policy.ensemble(ensemble)).await?;
    let reply = device.infer(&one(0).within(400)).await?;
    // The cloud would have needed more time.
    assert_eq!(reply.status, 504, "{}", reply.text());
    let told = reply.error()?;
    assert!(
        told.starts_with("1 of 3 members answered within the deadline, and the policy's quorum is 2: edge ConnectFailed after ")
            && told.contains("cloud TimedOut after ")
            && !told.contains("device"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_not_there_is_refused_in_words() -> Result<()> {
    let site = Site::new()?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().ready().await?;
    let mut connection = grpc::Connection::open(agent.grpc, None).await?;
    for call in ["RepositoryModelLoad", "SystemSharedMemoryStatus", "Nothing"] {
        let reply = connection.call(call, None, &grpc::named("digits")).await?;
        assert_eq!(reply.code, grpc::UNIMPLEMENTED, "{call}");
        assert!(reply.words.contains("InferenceModel"), "{call}: {}", reply.words);
    }
    let reply = agent.infer(&Ask::image(&digits::test_set().images[0]).parameter("tier", "edge")).await?;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.error()?,
        "tier must be device: the model has no accepted policy, so this node alone may answer"
    );
    Ok(())
}
