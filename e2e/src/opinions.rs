//! What tests of speculation and of ensembles begin with: tiers that are sure, or are as sure as a request says.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::checkout;
use crate::digits::{self, Artifact};
use crate::http::{Reply, Request};
use crate::infer::Ask;
use crate::manifests::{Model, Policy};
use crate::scenes::{self, url};
use crate::server::{Pace, Plan, Server};
use crate::site::Site;
use crate::upstreams;

/// How the digits models say how sure they are.
pub const PROBABILITIES: &str = "{output: probabilities, method: Probability}";
/// A run that is never over by itself.
pub const FOR_EVER: i64 = i64::MAX;

/// Outputs, image by image.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// Of each class.
    pub probabilities: Vec<Vec<f64>>,
    /// The classes.
    pub labels: Vec<i64>,
}

impl Outputs {
    /// Of a reply.
    pub fn of(reply: &Reply) -> Result<Self> {
        let probabilities = reply.probabilities()?.chunks(10).map(<[f64]>::to_vec).collect();
        Ok(Self { probabilities, labels: reply.labels()? })
    }

    /// The largest probability of an image.
    pub fn confidence(&self, image: usize) -> f64 {
        self.probabilities[image].iter().copied().fold(0.0, f64::max)
    }

    /// The confidence of the least sure image.
    pub fn least(&self) -> f64 {
        (0..self.labels.len()).map(|image| self.confidence(image)).fold(1.0, f64::min)
    }

    /// How many images of the test set, from its first, have the right label.
    pub fn right(&self) -> usize {
        self.labels.iter().zip(&digits::test_set().labels).filter(|(label, truth)| label == truth).count()
    }
}

/// A device under a policy, an edge and a cloud; each serves its own model, the cloud under another name.
#[derive(Debug)]
pub struct Three {
    /// Where requests go.
    pub device: Agent,
    /// The edge, until it is dropped.
    pub edge: Option<Agent>,
    /// The cloud, until it is dropped.
    pub cloud: Option<Agent>,
    /// The device's folders.
    pub site: Site,
    _sites: [Site; 2],
}

impl Three {
    /// Starts them. The policy is given its tiers, and must keep its name.
    pub async fn start(policy: impl FnOnce(Policy) -> Policy) -> Result<Self> {
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
    pub async fn alone(&self, tier: &str, images: usize) -> Result<Outputs> {
        let ask = first(images).parameter("tier", tier);
        Outputs::of(&self.device.infer(&ask).await?.answered()?)
    }
}

/// A model under the policy `near` that says how sure it is.
pub fn sure(model: Model) -> Model {
    model.confidence(PROBABILITIES).policy("near")
}

/// About the first images of the test set, in one request.
pub fn first(images: usize) -> Ask {
    Ask::images(&digits::test_set().images[..images])
}

/// About one image of the test set.
pub fn one(image: usize) -> Ask {
    Ask::image(&digits::test_set().images[image])
}

/// How sure an answer is said to be.
pub fn confidence(reply: &Reply) -> Result<f64> {
    reply.parameter("confidence")?.as_f64().with_context(|| format!("no confidence: {}", reply.text()))
}

/// A device alone under `policy`, whose name must be `near`.
pub async fn device_under(policy: &Policy) -> Result<(Site, Agent)> {
    let site = Site::new()?;
    site.manifests().policy(policy)?;
    site.manifests().model(&sure(Model::digits("digits-device")?))?;
    let agent = site.agent().ready().await?;
    Ok((site, agent))
}

/// A device whose model is as sure, and takes as long, as each request says.
pub async fn patient_under(policy: &Policy) -> Result<(Site, Agent)> {
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

/// Asks the patient model for an answer that is so sure, after so many rounds.
pub fn patient(confidence: f64, rounds: i64) -> Ask {
    Ask::inputs(json!([
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [confidence, 1.0 - confidence]},
        {"name": "rounds", "datatype": "INT64", "shape": [], "data": [rounds]},
    ]))
    .model("patient")
}

/// Asks the patient model, in binary, to give back so many scores; with more parameters.
pub fn many(scores: usize, parameters: &Value) -> Request {
    // Three digits each, in no order: they take their time to be written, and to be packed.
    let score = |place: usize| (place.wrapping_mul(0x9e37_79b9) >> 7) % 1_000;
    let elements: Vec<u8> = (0..scores).flat_map(|place| (score(place) as f32 / 1e3).to_le_bytes()).collect();
    let head = json!({"parameters": parameters, "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, scores],
            "parameters": {"binary_data_size": elements.len()}},
        {"name": "rounds", "datatype": "INT64", "shape": [], "data": [0]},
    ]})
    .to_string();
    let body = [head.as_bytes(), &elements].concat();
    Request::post("/v2/models/patient/infer", body)
        .header("inference-header-content-length", &head.len().to_string())
}

/// A tier that answers as the patient model does, with these scores.
pub async fn scores(scores: [f64; 2], pace: Pace) -> Result<Server> {
    let body = json!({"model_name": "patient", "model_version": "9", "outputs": [
        {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": scores}
    ]});
    let plan = Plan::ok(body.to_string()).header("content-type", "application/json").pace(pace);
    upstreams::planned(plan).await
}
