//! docs/experiment.md says what its results say, its scripts compute what they should, and real agents do the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use terrace_e2e::http::Connection;
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
    ensembles: BTreeMap<String, Together>,
    confidences: Vec<Confidences>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Gate {
    #[serde(rename = "sent up")]
    sent_up: usize,
    right: usize,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Together {
    weights: [u32; 3],
    right: usize,
    #[serde(rename = "right without cloud")]
    right_without_cloud: usize,
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
fn serve(site: &Site, name: &str, confidence: &str, policy: Policy, mode: &str) -> Result<()> {
    // Both manifests end within `spec`.
    site.manifests().write(&format!("policy-{name}.yaml"), &(policy.yaml() + mode))?;
    let model = Model::digits("digits-device")?.named(name).policy(name);
    let model = model.called("edge", "digits").called("cloud", "digits").yaml();
    site.manifests().write(&format!("{name}.yaml"), &format!("{model}  confidence: {confidence}\n"))
}

/// Without a threshold that anything must be verified for, by a verifier that is not there.
fn sure(site: &Site, name: &str, method: &str, temperature: f64) -> Result<()> {
    let confidence = format!("{{output: probabilities, method: {method}, temperature: {temperature}}}");
    let mode = "  mode: Speculative\n  speculative: {threshold: 0, verifier: Cloud}\n";
    serve(site, name, &confidence, Policy::named(name).cloud("http://127.0.0.1:9"), mode)
}

const PROBABILITY: &str = "{output: probabilities, method: Probability}";

/// How many of the test images the cloud has part in, and how many are right.
async fn asked(connection: &mut Connection, model: &str) -> Result<Gate> {
    let mut gate = Gate { sent_up: 0, right: 0 };
    let test = digits::test_set();
    for (image, label) in test.images.iter().zip(&test.labels) {
        let reply = connection.send(&Ask::image(image).model(model).request()).await?.answered()?;
        gate.sent_up += usize::from(reply.walk()?.contains("cloud Answered"));
        gate.right += usize::from(reply.labels()? == [*label]);
    }
    Ok(gate)
}

#[tokio::test]
async fn real_agents_are_as_sure_as_the_scripts() -> Result<()> {
    let site = Site::new()?;
    let expected = committed()?.confidences;
    ensure!(expected.len() == 9, "{} lists of confidences", expected.len());
    for (place, one) in expected.iter().enumerate() {
        sure(&site, &format!("sure-{place}"), &one.method, one.temperature)?;
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
        let mode =
            format!("  mode: Speculative\n  speculative: {{threshold: {threshold}, verifier: Cloud}}\n");
        let policy = Policy::named(&named(threshold)).cloud(&scenes::url(&cloud));
        serve(&site, &named(threshold), PROBABILITY, policy, &mode)?;
    }
    let device = site.agent().ready().await?;
    let mut connection = device.connect().await?;
    let mut found = BTreeMap::new();
    for threshold in expected.keys() {
        found.insert(threshold.clone(), asked(&mut connection, &named(threshold)).await?);
    }
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test]
async fn ensembles_of_real_agents_get_as_many_right_as_the_scripts() -> Result<()> {
    let (_cloud_site, cloud) = scenes::tier("Cloud", "digits-cloud", "digits").await?;
    let (_edge_site, edge) = scenes::tier("Edge", "digits-edge", "digits").await?;
    let site = Site::new()?;
    let expected = committed()?.ensembles;
    ensure!(expected.len() == 4, "{} ensembles", expected.len());
    for (combination, together) in &expected {
        let weights = match combination.as_str() {
            "WeightedMean" => format!(", weights: {:?}", together.weights),
            _ => String::new(),
        };
        let members = format!("{{members: [Device, Edge, Cloud], combine: {combination}{weights}}}");
        let mode = format!("  mode: Ensemble\n  ensemble: {members}\n");
        for (suffix, cloud) in [("all", scenes::url(&cloud)), ("left", "http://127.0.0.1:9".to_owned())] {
            let name = format!("{}-{suffix}", combination.to_lowercase());
            let policy = Policy::named(&name).edge(&scenes::url(&edge)).cloud(&cloud);
            serve(&site, &name, PROBABILITY, policy, &mode)?;
        }
    }
    let device = site.agent().ready().await?;
    let mut connection = device.connect().await?;
    for (combination, together) in &expected {
        let name = combination.to_lowercase();
        let all = asked(&mut connection, &format!("{name}-all")).await?;
        assert_eq!(all, Gate { sent_up: 360, right: together.right }, "{combination}");
        let left = asked(&mut connection, &format!("{name}-left")).await?;
        assert_eq!(left, Gate { sent_up: 0, right: together.right_without_cloud }, "{combination}");
    }
    Ok(())
}
