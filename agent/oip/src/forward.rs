//! A request on its way to a tier that is asked in another form than it came in. Its elements stay the bytes that they are,
//! where they came as bytes.

use bytes::Bytes;
use prost::Message as _;
use serde::Serialize;

use crate::error::EncodeError;
use crate::grpc::{wire_shape, write_parameters};
use crate::parameters::Parameters;
use crate::proto::ModelInferRequest;
use crate::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::request::{InferRequest, RequestedOutput};
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
    /// The JSON of a body whose elements follow it in binary, as [`InferRequest::raw_inputs`] has them; asks for an answer of
    /// that kind.
    pub fn http_head(&self) -> Result<Vec<u8>, EncodeError> {
        let mut parameters = self.parameters.clone();
        parameters.insert(BINARY_OUTPUT, true);
        parameters.check()?;
        let tensors = self.inputs.iter().map(|input| TensorText { tensor: &input.tensor, is_binary: true });
        let body = Body {
            id: self.id.as_deref(),
            parameters: &parameters,
            inputs: tensors.collect(),
            outputs: self.outputs.as_ref().map(|outputs| outputs.iter().map(Wanted::of).collect()),
        };
        Ok(serde_json::to_vec(&body)?)
    }

    /// Everything of a `ModelInferRequest` but the model's name and the elements: fields of a message may come in any order.
    pub fn grpc_head(&self) -> Vec<u8> {
        let inputs = self.inputs.iter().map(|input| InferInputTensor {
            name: input.tensor.name().to_owned(),
            datatype: input.tensor.data().datatype().as_str().to_owned(),
            shape: wire_shape(input.tensor.shape()),
            parameters: write_parameters(&input.parameters),
            contents: None,
        });
        let outputs = self.outputs.iter().flatten().map(|output| InferRequestedOutputTensor {
            name: output.name.clone(),
            parameters: write_parameters(&without(&output.parameters, "binary_data")),
        });
        let message = ModelInferRequest {
            id: self.id.clone().unwrap_or_default(),
            parameters: write_parameters(&without(&self.parameters, BINARY_OUTPUT)),
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            ..ModelInferRequest::default()
        };
        message.encode_to_vec()
    }

    /// The elements of its inputs as they are sent raw. Where `binary` holds those of all inputs, one after the other, they
    /// are parts of it; else they are copied.
    pub fn raw_inputs(&self, binary: &Bytes) -> Vec<Bytes> {
        let sizes = self.inputs.iter().map(|input| input.tensor.data().raw_size());
        if sizes.clone().sum::<usize>() == binary.len() {
            let mut rest = binary.clone();
            return sizes.map(|size| rest.split_to(size)).collect();
        }
        let copied = self.inputs.iter().zip(sizes).map(|(input, size)| {
            let mut raw = Vec::with_capacity(size);
            input.tensor.data().append_raw(&mut raw);
            Bytes::from(raw)
        });
        copied.collect()
    }
}

/// What asks a server over HTTP for a binary answer, and means nothing over gRPC.
const BINARY_OUTPUT: &str = "binary_data_output";

fn without(parameters: &Parameters, name: &str) -> Parameters {
    let mut parameters = parameters.clone();
    parameters.remove(name);
    parameters
}
