//! Policies with rules of their own: decided, explained, recorded, replayed and checked by real agents.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use terrace_e2e::agent::{Agent, executable};
use terrace_e2e::http::Request;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::opinions::PROBABILITIES;
use terrace_e2e::site::Site;
use terrace_e2e::upstreams::Refused;
use terrace_e2e::{checkout, digits, scenes, wait};

/// Gold goes up, small stays; one rule fails on every request.
const RULES: &str = "\
requestHeaders: [x-class]
rules:
  - {when: request.batch / 0 == 1, tier: Cloud}
  - name: Gold
    when: request.headers['x-class'] == 'gold'
    tier: Edge
  - {when: \"node.labels['hall'] == '3' && request.inputs['image'].shape == [1, 64]\", tier: Device}";

fn image() -> Ask {
    Ask::image(&digits::test_set().images[0])
}

fn tool(words: &[&str]) -> Result<Output> {
    Command::new(executable("terrace-agent")?)
        .args(words)
        .output()
        .context("the agent's program does not run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A device with a policy of these rules, and the edge that it forwards to.
async fn device(site: &Site, more: &[(&'static str, &Path)]) -> Result<((Site, Agent), Agent)> {
    let edge = scenes::tier("Edge", "digits-edge", "digits").await?;
    let policy = Policy::named("near").edge(&scenes::url(&edge.1)).with(RULES);
    site.manifests().policy(&policy)?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let launch = site.agent().set("--node-label", "hall=3");
    let launch = more.iter().fold(launch, |launch, (flag, value)| launch.set(flag, value));
    Ok((edge, launch.ready().await?))
}

#[tokio::test]
async fn rules_decide_by_header_label_and_shape_and_are_explained_as_they_decide() -> Result<()> {
    let site = Site::new()?;
    let (_edge, agent) = device(&site, &[]).await?;
    for (ask, tier, reason) in [
        (image().header("x-class", "gold"), "edge", "Gold"),
        (image().header("x-class", "tin"), "device", "Rule[2]"),
        (Ask::images(&digits::test_set().images[..2]).header("x-class", "tin"), "device", "RulesFailed"),
        (image(), "device", "Rule[2]"),
        (image().header("x-class", "gold").private(), "device", "PrivacyRequired"),
    ] {
        let route = agent.infer(&ask).await?.answered()?.route()?;
        assert_eq!((&*route.tier, &*route.reason), (tier, reason), "{ask:?}");

        let mut explain = ask.request();
        explain.path = "/explain/digits".to_owned();
        let explained = agent.ask_admin(&explain).await?.answered()?.json()?;
        assert_eq!(explained["reason"], reason, "{explained}");
        assert_eq!(explained["candidates"][0]["tier"], tier, "{explained}");
    }
    let metrics = agent.admin("/metrics").await?.text();
    let failed = r#"terrace_rule_failures_total{model="default.digits",rule="Rule[0]"} 4"#;
    assert!(metrics.contains(failed), "{metrics}");

    for (path, method, how) in
        [("/explain/digits", "POST", "/v2/models/MODEL/infer"), ("/log", "PUT", "a filter such as")]
    {
        let refused = agent.admin(path).await?;
        assert_eq!((refused.status, refused.header("allow")), (405, method), "{path}");
        assert!(refused.error()?.contains(how), "{path}: {}", refused.text());
    }
    let unknown = agent.ask_admin(&Request::post("/explain/other", "{}")).await?;
    assert_eq!(unknown.status, 404);
    let wrong = agent.ask_admin(&Request::post("/explain/digits", "{}")).await?;
    assert_eq!(wrong.status, 400);
    Ok(())
}

#[tokio::test]
async fn recorded_decisions_are_replayed_and_hold_nothing_of_a_private_request() -> Result<()> {
    let site = Site::new()?;
    let file = site.folder().join("decisions.jsonl");
    let (_edge, agent) = device(&site, &[("--record-decisions", &file)]).await?;
    let canary = "canary-7391";
    for ask in [
        image().header("x-class", "gold").id(canary),
        image().header("x-class", "tin").within(10_000),
        image().header("x-class", canary).id(canary).complexity(0.123_456_789).private(),
    ] {
        agent.infer(&ask).await?.answered()?;
    }
    let records = wait::until("three records", || async {
        let text = fs::read_to_string(&file).unwrap_or_default();
        ensure!(text.lines().count() == 3, "{text}");
        Ok(text)
    })
    .await?;
    assert!(!records.contains(canary) && !records.contains("0.123456"), "{records}");
    let records: Vec<Value> = records.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let request = &records[0]["request"];
    assert_eq!((&request["bytes"], &request["batch"]), (&json!(256), &json!(1)));
    assert_eq!(request["inputs"], json!([{"name": "image", "datatype": "FP32", "shape": [1, 64]}]));
    assert_eq!(request["headers"], json!({"x-class": "gold"}));
    assert_eq!(records[0]["decision"]["reason"], "Gold");
    assert_eq!(records[0]["happened"]["tier"], "edge");
    assert_eq!(records[1]["request"]["maxLatencyMs"], 10_000.0);
    let mut private: Vec<&str> =
        records[2].as_object().context("no object")?.keys().map(String::as_str).collect();
    private.sort_unstable();
    assert_eq!(private, ["happened", "model", "node", "private", "time"]);

    let near = site.manifests().folder().join("policy-near.yaml");
    let policy = near.to_str().context("no text")?;
    let requests = file.to_str().context("no text")?;
    let line = ["simulate", "--policy", policy, "--requests", requests, "--node-label", "hall=3", "--json"];
    let same: Value = serde_json::from_slice(&tool(&line)?.stdout)?;
    assert_eq!(same["would"]["tiers"], json!({"device": 1, "edge": 1}), "{same}");
    assert_eq!((&same["moved"], &same["private"]), (&json!([]), &json!(1)));
    assert_eq!((&same["happened"]["bytesUp"], &same["would"]["bytesUp"]), (&json!(256), &json!(256)));

    let nobody = Refused::new()?.url();
    let up = site.folder().join("up.yaml");
    fs::write(&up, Policy::named("up").edge(&nobody).with("rules: [{when: 'true', tier: Edge}]").yaml())?;
    let line = ["simulate", "--policy", up.to_str().context("no text")?, "--requests", requests, "--json"];
    let other: Value = serde_json::from_slice(&tool(&line)?.stdout)?;
    assert_eq!(other["would"]["tiers"], json!({"edge": 2}), "{other}");
    assert_eq!(other["moved"], json!([{"from": "device", "to": "edge", "requests": 1}]));
    Ok(())
}

#[tokio::test]
async fn an_explanation_says_who_would_be_passed_over_and_the_next_request_does() -> Result<()> {
    let site = Site::new()?;
    let nobody = Refused::new()?;
    let breaker = "breaker: {failures: 2, period: 10m, maxPeriod: 10m}";
    let policy = Policy::named("near").edge(&nobody.url()).having(breaker);
    site.manifests().policy(&policy.with("rules: [{when: 'true', tier: Edge}]"))?;
    site.manifests().model(&Model::digits("digits-device")?.policy("near"))?;
    let agent = site.agent().ready().await?;
    let mut explain = image().request();
    explain.path = "/explain/digits".to_owned();
    let explained = async || agent.ask_admin(&explain).await?.answered()?.json();

    let before = explained().await?;
    assert_eq!(before["candidates"][0], json!({"tier": "edge", "source": "primary"}), "{before}");
    for _ in 0..2 {
        agent.infer(&image()).await?.answered()?;
    }
    let after = explained().await?;
    let edge = json!({"tier": "edge", "source": "primary", "wouldSkip": "BreakerOpen"});
    assert_eq!(after["candidates"][0], edge, "{after}");
    assert_eq!(agent.infer(&image()).await?.answered()?.walk()?, "edge BreakerOpen, device Answered");
    Ok(())
}

#[tokio::test]
async fn a_threshold_is_tried_on_requests_that_the_node_answered_by_itself() -> Result<()> {
    let site = Site::new()?;
    let file = site.folder().join("decisions.jsonl");
    site.manifests().policy(&Policy::named("record").with("rules: [{when: 'true', tier: Device}]"))?;
    site.manifests().model(&Model::digits("digits-device")?.confidence(PROBABILITIES).policy("record"))?;
    let agent = site.agent().set("--record-decisions", &file).ready().await?;
    let images = &digits::test_set().images[..24];
    let mut sure = Vec::new();
    for image in images {
        let scores = agent.infer(&Ask::image(image)).await?.answered()?.probabilities()?;
        sure.push(scores.into_iter().fold(0.0, f64::max));
    }
    agent.infer(&image().outputs(&["label"])).await?.answered()?;
    agent.infer(&image().private()).await?.answered()?;
    let all = sure.len() + 2;
    let records = wait::until("the records", || async {
        let text = fs::read_to_string(&file).unwrap_or_default();
        ensure!(text.lines().count() == all, "{text}");
        Ok(text)
    })
    .await?;
    assert_eq!(records.matches("nodeConfidence").count(), sure.len(), "of those whose scores were there");

    let careful = site.folder().join("careful.yaml");
    let policy = Policy::named("careful")
        .cloud("https://cloud.example")
        .speculative("{verifier: Cloud, threshold: 0.9}");
    fs::write(&careful, policy.yaml())?;
    let (policy, requests) = (careful.to_str().context("no text")?, file.to_str().context("no text")?);
    let line = [
        "simulate",
        "--policy",
        policy,
        "--requests",
        requests,
        "--model",
        "digits",
        "--thresholds=0.5,0.99",
        "--json",
    ];
    let told = tool(&line)?;
    let told: Value = serde_json::from_slice(&told.stdout).with_context(|| text(&told.stderr))?;
    let up = |threshold: f64| sure.iter().filter(|sure| **sure <= threshold).count();
    let speculated = &told["speculated"];
    assert_eq!((&speculated["known"], &speculated["notKnown"]), (&json!(sure.len()), &json!(1)), "{told}");
    for (place, threshold) in [0.9, 0.5, 0.99].into_iter().enumerate() {
        let found = &speculated["thresholds"][place];
        assert_eq!((&found["threshold"], &found["requests"]), (&json!(threshold), &json!(up(threshold))));
    }
    assert!(up(0.5) < up(0.99), "{sure:?}");
    let nothing = tool(&["simulate", "--policy", policy, "--requests", requests, "--model", "digit"])?;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).contains("it has default.digits"), "{}", text(&nothing.stderr));
    Ok(())
}

#[test]
fn what_a_cluster_is_given_is_accepted_for_a_cluster_and_the_quickstart_with_its_agents_flags() -> Result<()>
{
    let manifests = checkout().join("e2e/manifests");
    let mut files: Vec<String> = Vec::new();
    for folder in ["cluster", "examples"] {
        for entry in fs::read_dir(manifests.join(folder))? {
            files.push(entry?.path().to_str().context("no text")?.to_owned());
        }
    }
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let check = |more: &[&str], files: &[&str]| tool(&[&["check"][..], more, files].concat());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let checked = check(&["--for", "cluster", "--strict"], &files)?;
    ensure!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    assert!(
        text(&checked.stdout).contains("sites.yaml: accepted: 2 models, 1 policy\n"),
        "{}",
        text(&checked.stdout)
    );
    let sites = manifests.join("examples/sites.yaml");
    let both = check(&[], &[sites.to_str().context("no text")?])?;
    assert_eq!(both.status.code(), Some(1));
    assert!(
        text(&both.stdout).contains("a standalone agent refuses this, an operator does not"),
        "{}",
        text(&both.stdout)
    );

    let device = manifests.join("quickstart/device");
    let device = device.to_str().context("no text")?;
    let flags = ["--for", "standalone", "--strict", "--file-root", "/srv", "--allow-upstream", "127.0.0.1"];
    let checked = check(&flags, &[device])?;
    ensure!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    assert_eq!(check(&flags[..2], &[device])?.status.code(), Some(1));
    Ok(())
}

#[test]
fn the_example_is_accepted_explained_and_what_the_page_shows() -> Result<()> {
    let file = checkout().join("e2e/manifests/policies/gold-goes-up.yaml");
    let example = file.to_str().context("no text")?;
    let page = fs::read_to_string(checkout().join("docs/policies.md"))?;
    assert!(page.contains(&fs::read_to_string(&file)?), "docs/policies.md shows another example");

    let checked = tool(&["check", example])?;
    ensure!(checked.status.success(), "{}", text(&checked.stdout));
    assert_eq!(text(&checked.stdout), format!("{example}: accepted: 0 models, 1 policy\n"));

    let request = checkout().join("e2e/manifests/quickstart/request.json");
    let request = request.to_str().context("no text")?;
    let line = ["explain", "--policy", example, "--request", request, "--header", "x-class: gold", "--json"];
    let explained = tool(&line)?;
    let explained: Value =
        serde_json::from_slice(&explained.stdout).with_context(|| text(&explained.stderr))?;
    assert_eq!(
        (&explained["reason"], &explained["candidates"][0]["tier"]),
        (&json!("GoldCustomers"), &json!("cloud"))
    );
    Ok(())
}

#[tokio::test]
async fn an_agent_and_the_check_say_the_same_of_a_wrong_rule() -> Result<()> {
    let site = Site::new()?;
    site.manifests().policy(&Policy::named("near").with("rules: [{when: request.byte > 1, tier: Edge}]"))?;
    site.manifests().model(&Model::digits("digits-device")?)?;
    let agent = site.agent().start().await?;
    let fault = "policy-near.yaml:6: spec.rules[0].when: 1:9: request has no field byte: expected";
    wait::until("the fault", || async {
        let status = agent.admin("/status").await?.text();
        ensure!(status.contains(fault), "{status}");
        Ok(())
    })
    .await?;
    let file = site.manifests().folder().join("policy-near.yaml");
    let checked = tool(&["check", file.to_str().context("no text")?])?;
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stdout).contains(fault), "{}", text(&checked.stdout));
    Ok(())
}
