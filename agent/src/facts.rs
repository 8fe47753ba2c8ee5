//! What rules may ask of a request: its inputs, its headers, its model, and this node's labels.

use std::collections::BTreeMap;

use terrace_oip::{InferRequest, InputTensor};
use terrace_tiering::{Facts, Input};

use crate::registry::ModelKey;
use crate::requirements;

/// The longest value of a header that rules see, in bytes; a longer one counts as absent.
const MAX_HEADER_VALUE: usize = 1024;

/// A request, as rules see it.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a, 'h> {
    /// The request.
    pub request: &'a InferRequest,
    /// The model that it asks for.
    pub model: &'a ModelKey,
    /// This node's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The first value of a header, by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'h [u8]>,
}

impl RequestFacts<'_, '_> {
    fn inputs(&self) -> &[InputTensor] {
        &self.request.inputs
    }
}

impl Facts for RequestFacts<'_, '_> {
    fn entropy(&self) -> f64 {
        requirements::complexity(self.inputs().iter().map(|input| &input.tensor))
    }

    fn bytes(&self) -> u64 {
        self.inputs().iter().map(|input| input.tensor.data().raw_size() as u64).sum()
    }

    fn batch(&self) -> usize {
        self.inputs().first().and_then(|input| input.tensor.shape().first().copied()).unwrap_or(1)
    }

    fn input_count(&self) -> usize {
        self.inputs().len()
    }

    fn input(&self, name: &str) -> Option<Input<'_>> {
        let input = self.inputs().iter().find(|input| input.tensor.name() == name)?;
        let datatype = input.tensor.data().datatype().as_str();
        Some(Input { shape: input.tensor.shape(), datatype })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let value = (self.header)(name).filter(|value| value.len() <= MAX_HEADER_VALUE)?;
        std::str::from_utf8(value).ok()
    }

    fn model_namespace(&self) -> &str {
        &self.model.namespace
    }

    fn model_name(&self) -> &str {
        &self.model.name
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}
