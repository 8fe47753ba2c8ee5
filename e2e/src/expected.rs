//! What each revision of a model answers, to the last digit: recorded from an agent that serves nothing else.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::digits::{self, TOLERANCE};
use crate::http::Reply;
use crate::infer::Ask;
use crate::manifests::Model;
use crate::site::Site;

/// Outputs by revision, one entry an image.
#[derive(Clone, Debug)]
pub struct Expected {
    requests: Vec<crate::http::Request>,
    outputs: BTreeMap<String, Vec<Value>>,
    /// Revisions have other names where they are asked: any of the outputs will do.
    any_name: bool,
}

impl Expected {
    /// Records what models answer to single images of the test set. They must be named `digits`; what they answer to
    /// their cases must be right.
    pub async fn record(models: &[(&str, Model)], images: usize) -> Result<Self> {
        let images = digits::test_set().images.get(..images).context("not so many images")?;
        let requests: Vec<_> = images.iter().map(|image| Ask::image(image).request()).collect();
        let mut outputs = BTreeMap::new();
        for (which, model) in models {
            let site = Site::new()?;
            site.manifests().model(model)?;
            let agent = site.agent().ready().await?;
            for case in digits::cases(which)? {
                let found = agent.infer(&Ask::images(&case.images)).await?.answered()?.probabilities()?;
                let close = found.iter().zip(&case.probabilities).all(|(a, b)| (a - b).abs() <= TOLERANCE);
                ensure!(close && found.len() == case.probabilities.len(), "{which} fails its cases");
            }
            let mut connection = agent.connect().await?;
            let mut recorded = Vec::new();
            for request in &requests {
                recorded.push(connection.send(request).await?.answered()?.outputs()?);
            }
            let revision = agent.model("digits").await?.serving_revision.context("nothing serves")?;
            outputs.insert(revision, recorded);
        }
        ensure!(outputs.len() == models.len(), "two of the models are the same revision");
        Ok(Self { requests, outputs, any_name: false })
    }

    /// The same where policies differ, and so the names of revisions do.
    #[must_use]
    pub fn under_other_names(mut self) -> Self {
        self.any_name = true;
        self
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The request about an image; counts on from the first after the last.
    pub fn request(&self, image: usize) -> &crate::http::Request {
        &self.requests[image % self.requests.len()]
    }

    /// What the revisions answer about an image.
    pub fn all(&self, image: usize) -> impl Iterator<Item = &Value> {
        self.outputs.values().filter_map(move |recorded| recorded.get(image % self.requests.len()))
    }

    /// The revision that gave an answer; fails unless its outputs are exactly those of that revision.
    pub fn check(&self, image: usize, reply: Reply) -> Result<String> {
        let reply = reply.answered()?;
        let revision = reply.model_version()?;
        if self.any_name {
            let outputs = reply.outputs()?;
            ensure!(self.all(image).any(|known| *known == outputs), "no revision answers {outputs}");
            return Ok(revision);
        }
        let recorded =
            self.outputs.get(&revision).with_context(|| format!("nobody knows revision {revision}"))?;
        let (outputs, expected) = (reply.outputs()?, &recorded[image % self.requests.len()]);
        ensure!(outputs == *expected, "{revision} answered {outputs}, expected is {expected}");
        Ok(revision)
    }
}
