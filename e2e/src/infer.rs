//! Inference requests and what is read from their replies.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::http::{Reply, Request};

/// A request to be sent; cheap to vary.
#[derive(Clone, Debug)]
pub struct Ask {
    model: String,
    id: Option<String>,
    parameters: Map<String, Value>,
    headers: Vec<(String, String)>,
    inputs: Value,
    outputs: Option<Value>,
}

/// One step on the way to an answer, as the response tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Where.
    pub tier: String,
    /// How it ended.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// It was asked a second time, because the first answer was late.
    pub hedged: bool,
}

/// Who answered, as what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The tier.
    pub tier: String,
    /// `primary` or `fallback`.
    pub source: String,
    /// The rule.
    pub reason: String,
}

impl Ask {
    /// About one image, to the model `digits`.
    pub fn image(image: &[f32]) -> Self {
        Self::batch(1, image)
    }

    /// About several images at once.
    pub fn images(images: &[Vec<f32>]) -> Self {
        Self::batch(images.len(), &images.concat())
    }

    /// About images that lie one after the other.
    pub fn batch(count: usize, pixels: &[f32]) -> Self {
        Self::inputs(json!([{"name": "image", "datatype": "FP32", "shape": [count, 64], "data": pixels}]))
    }

    /// With inputs as they are written here.
    pub fn inputs(inputs: Value) -> Self {
        Self {
            model: "digits".to_owned(),
            id: None,
            parameters: Map::new(),
            headers: Vec::new(),
            inputs,
            outputs: None,
        }
    }

    /// To another model.
    #[must_use]
    pub fn model(mut self, name: &str) -> Self {
        name.clone_into(&mut self.model);
        self
    }

    /// With an id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// With a parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asking for these outputs alone.
    #[must_use]
    pub fn outputs(mut self, names: &[&str]) -> Self {
        self.outputs = Some(names.iter().map(|name| json!({"name": name})).collect());
        self
    }

    /// Nothing of it may leave the node.
    #[must_use]
    pub fn private(self) -> Self {
        self.parameter("privacy_required", true)
    }

    /// Due after so many milliseconds.
    #[must_use]
    pub fn within(self, milliseconds: impl Into<Value>) -> Self {
        self.parameter("max_latency_ms", milliseconds)
    }

    /// As hard as stated.
    #[must_use]
    pub fn complexity(self, complexity: f64) -> Self {
        self.parameter("complexity", complexity)
    }

    /// The body.
    pub fn body(&self) -> Value {
        let mut body = json!({"inputs": self.inputs});
        if let Some(id) = &self.id {
            body["id"] = json!(id);
        }
        if !self.parameters.is_empty() {
            body["parameters"] = Value::Object(self.parameters.clone());
        }
        if let Some(outputs) = &self.outputs {
            body["outputs"] = outputs.clone();
        }
        body
    }

    /// The request on the wire.
    pub fn request(&self) -> Request {
        let mut request = Request::post(format!("/v2/models/{}/infer", self.model), self.body().to_string());
        request.headers.push(("content-type".to_owned(), "application/json".to_owned()));
        request.headers.extend(self.headers.iter().cloned());
        request
    }
}

impl Reply {
    /// The body as JSON, without the tensors that follow it in binary.
    pub fn json(&self) -> Result<Value> {
        let length = self.header("inference-header-content-length").parse().unwrap_or(self.body.len());
        serde_json::from_slice(self.body.get(..length).context("a body shorter than its JSON")?)
            .with_context(|| format!("no JSON: {} {}", self.status, self.text()))
    }

    /// The reply, if it answers; else an error with what it says instead.
    pub fn answered(self) -> Result<Self> {
        ensure!(self.status == 200, "{} {}", self.status, self.text());
        Ok(self)
    }

    /// A response parameter; `Null` where it is absent.
    pub fn parameter(&self, name: &str) -> Result<Value> {
        Ok(self.json()?["parameters"][name].clone())
    }

    /// Who answered, and why.
    pub fn route(&self) -> Result<Route> {
        let text = |name: &str| -> Result<String> {
            let value = self.parameter(name)?;
            Ok(value.as_str().with_context(|| format!("no {name}: {}", self.text()))?.to_owned())
        };
        Ok(Route { tier: text("tier")?, source: text("source")?, reason: text("reason")? })
    }

    /// From the request's headers to the answer, by the agent's clock.
    pub fn latency_ms(&self) -> Result<f64> {
        self.parameter("latency_ms")?.as_f64().context("no latency_ms")
    }

    /// Every tier that was tried.
    pub fn attempts(&self) -> Result<Vec<Attempt>> {
        let text = self.parameter("attempts")?;
        let attempts: Value = serde_json::from_str(text.as_str().context("attempts is no text")?)?;
        let attempts = attempts.as_array().context("attempts holds no list")?;
        attempts
            .iter()
            .map(|attempt| {
                let text = |name: &str| attempt[name].as_str().map(str::to_owned);
                let (tier, outcome, ms) = (text("tier"), text("outcome"), attempt["ms"].as_f64());
                let (Some(tier), Some(outcome), Some(ms)) = (tier, outcome, ms) else {
                    anyhow::bail!("an attempt without tier, outcome or ms: {attempt}");
                };
                Ok(Attempt { tier, outcome, ms, hedged: attempt["hedged"] == true })
            })
            .collect()
    }

    /// How each attempt ended: `cloud TimedOut, device Answered`.
    pub fn walk(&self) -> Result<String> {
        let steps: Vec<String> =
            self.attempts()?.iter().map(|attempt| format!("{} {}", attempt.tier, attempt.outcome)).collect();
        Ok(steps.join(", "))
    }

    /// The outputs as they were written.
    pub fn outputs(&self) -> Result<Value> {
        let outputs = self.json()?["outputs"].clone();
        ensure!(outputs.is_array(), "no outputs: {} {}", self.status, self.text());
        Ok(outputs)
    }

    /// The revision that answered.
    pub fn model_version(&self) -> Result<String> {
        Ok(self.json()?["model_version"].as_str().context("no model_version")?.to_owned())
    }

    /// The labels that the model gave.
    pub fn labels(&self) -> Result<Vec<i64>> {
        self.output("label")
    }

    /// The probabilities that the model gave, image after image.
    pub fn probabilities(&self) -> Result<Vec<f64>> {
        self.output("probabilities")
    }

    /// The words of an error, which must be the only thing in the body.
    pub fn error(&self) -> Result<String> {
        let body = self.json()?;
        let fields = body.as_object().context("an error body is an object")?;
        ensure!(fields.len() == 1, "more than an error: {}", self.text());
        let kind = self.header("content-type");
        ensure!(kind == "application/json", "an error of type {kind:?}");
        Ok(fields
            .get("error")
            .and_then(Value::as_str)
            .context("an error body has the text error")?
            .to_owned())
    }

    fn output<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let outputs = self.outputs()?;
        let output =
            outputs.as_array().and_then(|outputs| outputs.iter().find(|output| output["name"] == name));
        let output = output.with_context(|| format!("no output {name}: {}", self.text()))?;
        Ok(serde_json::from_value(output["data"].clone())?)
    }
}

impl Route {
    /// The route of these words.
    pub fn of(tier: &str, source: &str, reason: &str) -> Self {
        Self { tier: tier.to_owned(), source: source.to_owned(), reason: reason.to_owned() }
    }
}
