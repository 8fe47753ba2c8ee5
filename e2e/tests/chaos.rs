//! Tiers that have lost their minds, in every mode: what holds whatever they answer.
//!
//! An edge and a cloud answer each request at random: rightly, late, in part, in another shape, in none, not in HTTP, not
//! at all. Clients ask with random deadlines, some of them in private, and some hang up. The seed is printed;
//! `TERRACE_E2E_SEED` runs it again. Times are held to as in `deadline.rs`. There is one test in this file, so that nothing
//! else of it runs meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::Agent;
use terrace_e2e::chaos::{self, POISON};
use terrace_e2e::checkout;
use terrace_e2e::dice::Dice;
use terrace_e2e::digits::{self, Artifact};
use terrace_e2e::http::Reply;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::server::find;
use terrace_e2e::site::Site;
use terrace_e2e::wait;

const FOR: Duration = Duration::from_secs(15);
const CLIENTS: usize = 10;
/// What the deadline grants at the client.
const GRACE_MS: f64 = 5.0;
/// What a hiccup of the machine excuses, and no more than one in fifty of them.
const HICCUP_MS: f64 = 50.0;
/// What no hiccup excuses.
const FAR_TOO_LATE_MS: f64 = 1_000.0;
/// Below this a hiccup may cost the answer.
const AMPLE_MS: u32 = 150;
/// In the id of private requests, and the digits of their scores.
const CANARY: &str = "canary-77c0de";
const DIGITS: &str = "74831927";

/// Each mode, and what else of a policy changes how others are asked.
fn policies(edge: &str, cloud: &str) -> Vec<(&'static str, Policy)> {
    let tiers = |name: &str| {
        let often = "breaker: {failures: 6, period: 50ms, maxPeriod: 200ms}";
        let edge = Policy::named(name).edge(edge).timeout("400ms").having(often);
        edge.cloud(cloud).timeout("400ms").having(often)
    };
    let up = "rules: [{when: 'true', tier: Cloud}]";
    vec![
        ("select", tiers("select").with(up)),
        ("select-twice", tiers("select-twice").having("hedge: {after: 15ms, maxExtraLoad: 100}").with(up)),
        ("select-grpc", tiers("select-grpc").having("protocol: GRPC").with(up)),
        ("unsure", tiers("unsure").speculative("{verifier: Cloud, threshold: 0.9}")),
        ("early", tiers("early").speculative("{verifier: Edge, threshold: 0.9, parallelAfter: 0s}")),
        ("surest", tiers("surest").ensemble("{members: [Device, Edge, Cloud], combine: MaxConfidence}")),
        ("mean", tiers("mean").ensemble("{members: [Device, Edge, Cloud], combine: Mean, quorum: 2}")),
        ("vote", tiers("vote").ensemble("{members: [Cloud, Device], combine: Vote}")),
    ]
}

/// One request, and what is expected of its answer.
#[derive(Clone, Debug)]
struct Asked {
    model: String,
    scores: [f64; 2],
    rounds: u64,
    deadline: Option<u32>,
    private: bool,
}

impl Asked {
    fn random(dice: &mut Dice, models: &[String]) -> Self {
        let private = dice.below(4) == 0;
        // At most six digits, so that the canary's eight are in no other request.
        let score = (500_000 + dice.below(499_999)) as f64 / 1e6;
        let score = if private { format!("0.{DIGITS}").parse().unwrap_or_default() } else { score };
        Self {
            model: models[dice.below(models.len() as u64) as usize].clone(),
            scores: [score, 1.0 - score],
            rounds: if dice.below(3) == 0 { dice.below(4_000) } else { 0 },
            deadline: (dice.below(5) > 0).then(|| 15 + dice.below(450) as u32),
            private,
        }
    }

    fn ask(&self) -> Ask {
        let ask = Ask::inputs(json!([
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": self.scores},
            {"name": "rounds", "datatype": "INT64", "shape": [], "data": [self.rounds]},
        ]))
        .model(&self.model);
        let ask = if let Some(deadline) = self.deadline { ask.within(deadline) } else { ask };
        if self.private { ask.private().id(CANARY) } else { ask }
    }
}

/// What came of one request.
struct Sample {
    asked: Asked,
    reply: Reply,
}

impl Sample {
    fn told(&self) -> String {
        let walk = self.reply.walk().unwrap_or_else(|_| self.reply.text());
        let took = self.reply.took.as_secs_f64() * 1e3;
        format!("{:?}: {} after {took:.1} ms: {walk}", self.asked, self.reply.status)
    }

    fn over(&self) -> Option<f64> {
        Some(self.reply.took.as_secs_f64() * 1e3 - f64::from(self.asked.deadline?))
    }

    /// What must hold of every answer by itself.
    fn check(&self) -> Result<()> {
        let Self { asked, reply } = self;
        let is_ensemble = ["surest", "mean", "vote"].contains(&asked.model.as_str());
        // Members that answer what does not fit are no answer, and the client is told which.
        let unfit = is_ensemble && !asked.private && reply.status == 502;
        let hurried = asked.deadline.is_some_and(|deadline| deadline < AMPLE_MS);
        ensure!(
            reply.status == 200 || unfit || (hurried && reply.status == 504) || self.is_late(),
            "not answered"
        );
        if reply.status != 200 {
            reply.error()?;
            return Ok(());
        }
        let route = reply.route()?;
        if asked.private {
            ensure!(route.tier == "device" && route.reason == "PrivacyRequired", "a private request left");
        }
        if let Some(deadline) = asked.deadline {
            let clock = reply.latency_ms()?;
            ensure!(clock <= f64::from(deadline) + GRACE_MS, "{clock} ms by the agent's clock");
        }
        let outputs = reply.outputs()?;
        let output = outputs.as_array().and_then(|outputs| outputs.first()).context("no output")?;
        let data = data(reply, output)?;
        ensure!(!data.iter().any(|score| (score - POISON).abs() < 1.0), "an answer to no request");
        if output["name"] == "scores" && output["shape"] == json!([1, 2]) && output["datatype"] == "FP32" {
            // A tier that answers what is no number is told as it answers.
            let near = data
                .iter()
                .zip(asked.scores)
                .all(|(one, other)| (one - other).abs() < 1e-5 || (one.is_nan() && route.tier != "device"));
            ensure!(near && data.len() == 2, "another request's answer: {data:?}");
        } else {
            ensure!(
                route.tier != "device" && route.source != "ensemble",
                "the device answers rightly: {output}"
            );
        }
        Ok(())
    }

    /// It had ample time and was too late all the same: a few may be.
    fn is_late(&self) -> bool {
        self.reply.status == 504 && self.asked.deadline.is_some()
    }
}

/// The elements of an output, be they text or binary; of one that holds no numbers, none.
fn data(reply: &Reply, output: &Value) -> Result<Vec<f64>> {
    if !output["data"].is_null() {
        return Ok(serde_json::from_value(output["data"].clone())?);
    }
    let length: usize = reply.header("inference-header-content-length").parse()?;
    let floats = reply.body[length..].chunks_exact(4);
    Ok(floats.map(|bytes| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))).collect())
}

/// Asks, one after the other, until the time is over; now and then hangs up.
async fn client(
    agent: Arc<Agent>,
    models: Arc<Vec<String>>,
    mut dice: Dice,
    end: Instant,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut connection = agent.connect().await?;
    while Instant::now() < end {
        let asked = Asked::random(&mut dice, &models);
        let request = asked.ask().request();
        if dice.below(20) == 0 {
            let patience = dice.time_below(Duration::from_millis(60));
            // Whatever comes of it, nobody waits for it.
            let _ = tokio::time::timeout(patience, connection.send(&request)).await;
            connection = agent.connect().await?;
            continue;
        }
        let reply = connection.send(&request).await.with_context(|| format!("{asked:?}"))?;
        samples.push(Sample { asked, reply });
    }
    Ok(samples)
}

/// Files, tasks, connections and requests that the agent has now.
async fn held(agent: &Agent) -> Result<[f64; 2]> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count();
    Ok([files as f64, agent.counted("terrace_tasks", &[]).await?])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_tiers_answer_every_request_has_its_answer_in_time_and_nothing_leaks() -> Result<()> {
    let mut dice = Dice::shaken("chaos");
    let (edge, cloud) = (chaos::start(dice.roll()).await?, chaos::start(dice.roll()).await?);
    let bytes = std::fs::read(checkout().join("e2e/models/patient.onnx"))?;
    let site = Site::new()?;
    site.offer("patient.onnx", &bytes)?;
    let file = Artifact { uri: "file:///patient.onnx".to_owned(), sha256: digits::sha256(&bytes) };
    let mut models = Vec::new();
    for (name, policy) in policies(&edge.url(), &cloud.url()) {
        site.manifests().policy(&policy)?;
        let model = Model::of(name, &file).confidence("{output: scores, method: Probability}");
        site.manifests().model(&model.called("edge", "patient").called("cloud", "patient").policy(name))?;
        models.push(name.to_owned());
    }
    let agent = Arc::new(site.agent().set("--log", "debug").ready().await?);
    for model in &models {
        let asked =
            Asked { model: model.clone(), scores: [0.75, 0.25], rounds: 0, deadline: None, private: true };
        agent.infer(&asked.ask()).await?.answered()?;
    }
    let (before, memory) = (held(&agent).await?, agent.peak_memory()?);

    let end = Instant::now() + FOR;
    let models = Arc::new(models);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(Arc::clone(&agent), Arc::clone(&models), Dice::of(dice.roll()), end)))
        .collect();
    let mut samples = Vec::new();
    for client in clients {
        samples.extend(client.await??);
    }

    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for sample in &samples {
        for attempt in sample.reply.attempts().unwrap_or_default() {
            *outcomes.entry(format!("{} {}", attempt.tier, attempt.outcome)).or_default() += 1;
        }
        *outcomes.entry(format!("status {}", sample.reply.status)).or_default() += 1;
    }
    println!("{} requests: {outcomes:#?}", samples.len());
    let faults: Vec<String> = samples
        .iter()
        .filter_map(|sample| Some(format!("{:#}: {}", sample.check().err()?, sample.told())))
        .collect();
    assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(20)]);
    let over = |limit: f64| -> Vec<String> {
        let late = samples.iter().filter(|sample| sample.over().is_some_and(|over| over > limit));
        late.map(Sample::told).collect()
    };
    assert!(over(FAR_TOO_LATE_MS).is_empty(), "far too late: {:#?}", over(FAR_TOO_LATE_MS));
    assert!(over(HICCUP_MS).len() * 50 <= samples.len(), "too late: {:#?}", over(HICCUP_MS));
    let ample = |sample: &&Sample| sample.asked.deadline.is_some_and(|deadline| deadline >= AMPLE_MS);
    let unanswered: Vec<String> =
        samples.iter().filter(ample).filter(|sample| sample.is_late()).map(Sample::told).collect();
    assert!(
        unanswered.len() * 50 <= samples.iter().filter(ample).count(),
        "{} had time and no answer: {unanswered:#?}",
        unanswered.len()
    );
    for outcome in ["Answered", "TimedOut", "ConnectionBroken", "BadStatus", "Malformed"] {
        assert!(outcomes.contains_key(&format!("cloud {outcome}")), "the cloud was never {outcome}");
    }

    let value = DIGITS.parse::<f64>()? / 10_f64.powi(DIGITS.len() as i32);
    for (place, bytes) in
        [("the edge", edge.bytes()), ("the cloud", cloud.bytes()), ("the log", agent.log().into_bytes())]
    {
        for canary in [CANARY.as_bytes(), DIGITS.as_bytes(), &(value as f32).to_le_bytes()] {
            assert_eq!(find(&bytes, canary), None, "{:?} is in {place}", String::from_utf8_lossy(canary));
        }
    }

    let grown = agent.peak_memory()?.saturating_sub(memory);
    assert!(grown < 96 << 20, "{grown} bytes more than before");
    wait::until("everything to be given back", || async {
        let [files, tasks] = held(&agent).await?;
        let in_flight = agent.counted("terrace_tier_in_flight", &[]).await?;
        let pooled = agent.counted("terrace_tier_connections", &[]).await?;
        // A pooled connection is a file and a task.
        let told = format!(
            "{files} files, {tasks} tasks, {pooled} pooled, {in_flight} in flight; before: {before:?}"
        );
        ensure!(in_flight == 0.0 && pooled <= 64.0, "{told}");
        ensure!(files <= before[0] + pooled + 4.0 && tasks <= before[1] + 2.0 * pooled + 4.0, "{told}");
        Ok(())
    })
    .await?;
    let after =
        Asked { model: "select".to_owned(), scores: [0.75, 0.25], rounds: 0, deadline: None, private: true };
    let reply = agent.infer(&after.ask()).await?.answered()?;
    assert_eq!(reply.outputs()?[0]["data"], json!([0.75, 0.25]));
    assert_eq!(reply.parameter("privacy_required")?, Value::Null);
    Ok(())
}
