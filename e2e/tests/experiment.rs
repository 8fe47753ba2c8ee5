//! docs/experiment.md says what its results say, its scripts compute what they should, and real agents do the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use terrace_e2e::infer::Ask;
use terrace_e2e::manifests::{Model, Policy};
use terrace_e2e::site::Site;
use terrace_e2e::{checkout, digits, scenes};

fn script() -> PathBuf {
    checkout().join("docs/experiment/script")
}

/// Runs Python in the folder of the scripts.
fn python(arguments: &[&str]) -> Result<()> {
    let python = checkout().join(".tools/venv/test/bin/python");
    ensure!(python.exists(), "there is no {}: run `make test`, which makes it", python.display());
    let mut command = Command::new(python);
    command.arg("-B").args(arguments).current_dir(script()).stdin(Stdio::null());
    let output = command.output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{out}\n{err}");
    Ok(())
}

#[test]
fn the_page_has_the_figures_of_the_results() -> Result<()> {
    python(&["page.py", "--check"])
}

#[test]
fn the_scripts_compute_what_their_definitions_say() -> Result<()> {
    python(&["-m", "unittest", "-q", "test_parts"])
}

/// What the scripts expect of the committed models.
#[derive(Deserialize)]
struct Committed {
    gates: BTreeMap<String, Gate>,
    confidences: Vec<Confidences>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Gate {
    #[serde(rename = "sent up")]
    sent_up: usize,
    right: usize,
}

#[derive(Deserialize)]
struct Confidences {
    method: String,
    temperature: f64,
    values: Vec<f64>,
}

fn committed() -> Result<Committed> {
    let results: Value = serde_json::from_slice(&fs::read(checkout().join("docs/experiment/results.json"))?)?;
    Ok(serde_json::from_value(results["committed"].clone())?)
}

/// The committed device's model under a name, with a measure of confidence, and a policy of the same name.
fn speculating(
    site: &Site,
    name: &str,
    cloud: &str,
    threshold: f64,
    (method, temperature): (&str, f64),
) -> Result<()> {
    let policy = Policy::named(name).cloud(cloud).yaml();
    let mode = format!("  mode: Speculative\n  speculative: {{threshold: {threshold}, verifier: Cloud}}\n");
    site.manifests().write(&format!("policy-{name}.yaml"), &(policy + &mode))?;
    let model = Model::digits("digits-device")?.named(name).policy(name).called("cloud", "digits").yaml();
    let confidence =
        format!("  confidence: {{output: probabilities, method: {method}, temperature: {temperature}}}\n");
    site.manifests().write(&format!("{name}.yaml"), &(model + &confidence))
}

#[tokio::test]
async fn real_agents_are_as_sure_as_the_scripts() -> Result<()> {
    let site = Site::new()?;
    let expected = committed()?.confidences;
    ensure!(expected.len() == 9, "{} lists of confidences", expected.len());
    for (place, one) in expected.iter().enumerate() {
        // Nobody is there to verify, and above a threshold of 0 nobody needs to.
        speculating(
            &site,
            &format!("sure-{place}"),
            "http://127.0.0.1:9",
            0.0,
            (&one.method, one.temperature),
        )?;
    }
    let device = site.agent().ready().await?;
    let mut connection = device.connect().await?;
    let images = &digits::test_set().images;
    for (place, one) in expected.iter().enumerate() {
        ensure!(one.values.len() == images.len());
        for (number, (image, value)) in images.iter().zip(&one.values).enumerate() {
            let ask = Ask::image(image).model(&format!("sure-{place}"));
            let reply = connection.send(&ask.request()).await?.answered()?;
            let confidence = reply.parameter("confidence")?.as_f64().context("no confidence")?;
            let difference = (confidence - value).abs();
            ensure!(
                difference < 1e-5,
                "image {number}, {} at {}: {confidence}, the scripts say {value}",
                one.method,
                one.temperature
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn real_agents_send_up_as_many_and_get_as_many_right_as_the_scripts() -> Result<()> {
    let (_cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits").await?;
    let site = Site::new()?;
    let expected = committed()?.gates;
    ensure!(expected.len() == 3, "{} gates", expected.len());
    let named = |threshold: &str| format!("gate-{}", threshold.replace('.', "-"));
    for threshold in expected.keys() {
        speculating(
            &site,
            &named(threshold),
            &scenes::url(&cloud),
            threshold.parse()?,
            ("Probability", 1.0),
        )?;
    }
    let device = site.agent().ready().await?;
    let mut connection = device.connect().await?;
    let test = digits::test_set();
    let mut found = BTreeMap::new();
    for threshold in expected.keys() {
        let mut gate = Gate { sent_up: 0, right: 0 };
        for (image, label) in test.images.iter().zip(&test.labels) {
            let ask = Ask::image(image).model(&named(threshold));
            let reply = connection.send(&ask.request()).await?.answered()?;
            let route = reply.route()?;
            ensure!(route.source != "unverified", "{}", reply.text());
            gate.sent_up += usize::from(route.tier == "cloud");
            gate.right += usize::from(reply.labels()? == [*label]);
        }
        found.insert(threshold.clone(), gate);
    }
    assert_eq!(found, expected);
    Ok(())
}
