//! A request that did not come over HTTP, on its way to a tier that is asked over HTTP.

use serde::Serialize;

use crate::error::EncodeError;
use crate::parameters::Parameters;
use crate::request::{InferRequest, RequestedOutput};
use crate::tensor::Tensor;
use crate::tensor_text::TensorText;

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    parameters: &'a Parameters,
    inputs: Vec<TensorText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<Wanted<'a>>>,
}

#[derive(Serialize)]
struct Wanted<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    parameters: &'a Parameters,
}

impl<'a> Wanted<'a> {
    fn of(output: &'a RequestedOutput) -> Self {
        Self { name: &output.name, parameters: &output.parameters }
    }
}

impl InferRequest {
    /// Writes a body whose elements are binary, and asks for an answer of that kind. The second is the length of its
    /// JSON.
    pub fn to_http(&self) -> Result<(Vec<u8>, usize), EncodeError> {
        let mut parameters = self.parameters.clone();
        parameters.insert("binary_data_output", true);
        parameters.check()?;
        let tensors: Vec<&Tensor> = self.inputs.iter().map(|input| &input.tensor).collect();
        let mut body =
            Vec::with_capacity(tensors.iter().map(|tensor| tensor.data().raw_size()).sum::<usize>() + 1024);
        serde_json::to_writer(
            &mut body,
            &Body {
                id: self.id.as_deref(),
                parameters: &parameters,
                inputs: tensors.iter().map(|tensor| TensorText { tensor, is_binary: true }).collect(),
                outputs: self.outputs.as_ref().map(|outputs| outputs.iter().map(Wanted::of).collect()),
            },
        )?;
        let json_length = body.len();
        for tensor in tensors {
            tensor.data().append_raw(&mut body);
        }
        Ok((body, json_length))
    }
}
