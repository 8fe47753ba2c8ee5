//! The digits: models, their digests and cases, test images, and files that must be refused.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sha2::Digest as _;

/// A file that a manifest can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Its URI below the file root that is [`folder`].
    pub uri: String,
    /// Its SHA-256.
    pub sha256: String,
}

/// Images and what they show.
#[derive(Clone, Debug)]
pub struct TestSet {
    /// 64 pixels each.
    pub images: Vec<Vec<f32>>,
    /// The digit on each.
    pub labels: Vec<i64>,
}

/// A request and the answer that a model must give to it.
#[derive(Clone, Debug)]
pub struct Case {
    /// 64 pixels each.
    pub images: Vec<Vec<f32>>,
    /// Ten probabilities for each image, to 6 decimals.
    pub probabilities: Vec<f64>,
    /// The digit on each.
    pub labels: Vec<i64>,
}

/// How far from a case's probability an answer may be.
pub const TOLERANCE: f64 = 1e-4;

/// Where the digits lie.
pub fn folder() -> PathBuf {
    crate::checkout().join("e2e/digits")
}

/// A model's file.
pub fn model(name: &str) -> Result<Artifact> {
    artifact(&format!("models/{name}.onnx"))
}

/// A model's cases.
pub fn cases_file(name: &str) -> Result<Artifact> {
    artifact(&format!("cases/{name}.json"))
}

/// A file that no agent may serve, or not with the device's cases.
pub fn bad(name: &str) -> Result<Artifact> {
    artifact(&format!("bad/{name}.onnx"))
}

/// The bytes of a model's file.
pub fn model_bytes(name: &str) -> Result<Vec<u8>> {
    read(&format!("models/{name}.onnx"))
}

/// The SHA-256 of some bytes, as a manifest has it.
pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The held-out images.
pub fn test_set() -> &'static TestSet {
    #[allow(clippy::expect_used)] // committed
    static SET: LazyLock<TestSet> =
        LazyLock::new(|| read_test_set().expect("e2e/digits/data/digits-test.json"));
    &SET
}

/// What a model must answer.
pub fn cases(name: &str) -> Result<Vec<Case>> {
    let file: Value = serde_json::from_slice(&read(&format!("cases/{name}.json"))?)?;
    let cases = file["cases"].as_array().context("no cases")?;
    cases
        .iter()
        .map(|case| {
            Ok(Case {
                images: floats(&case["inputs"][0]["data"])?.chunks(64).map(<[f32]>::to_vec).collect(),
                probabilities: serde_json::from_value(case["outputs"][0]["data"].clone())?,
                labels: serde_json::from_value(case["outputs"][1]["data"].clone())?,
            })
        })
        .collect()
}

/// The share of clean test images that a model gets right, as the table beside the models says.
pub fn documented_accuracy(name: &str) -> Result<f64> {
    let readme = String::from_utf8(read("README.md")?)?;
    let row = readme
        .lines()
        .find(|line| line.starts_with(&format!("| {name} |")))
        .context("no row for the model")?;
    let cell = row.split('|').nth(2).context("no cell")?.trim().trim_end_matches('%');
    Ok(cell.parse::<f64>()? / 100.0)
}

fn artifact(path: &str) -> Result<Artifact> {
    Ok(Artifact { uri: format!("file:///{path}"), sha256: sha256(&read(path)?) })
}

fn read(path: &str) -> Result<Vec<u8>> {
    let path = folder().join(path);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_test_set() -> Result<TestSet> {
    let file: Value = serde_json::from_slice(&read("data/digits-test.json")?)?;
    let images = file["images"].as_array().context("no images")?;
    Ok(TestSet {
        images: images.iter().map(floats).collect::<Result<_>>()?,
        labels: serde_json::from_value(file["labels"].clone())?,
    })
}

fn floats(value: &Value) -> Result<Vec<f32>> {
    Ok(serde_json::from_value(value.clone())?)
}
