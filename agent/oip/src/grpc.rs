//! The gRPC binding: its messages to checked types, and answers to messages.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{DecodeError, Fault};
use crate::limits::{MAX_PARAMETERS, MAX_RANK, MAX_TENSORS};
use crate::memory::{Memory, Pace, of_text};
use crate::outline::{Outline, check_message};
use crate::parameters::{Parameter, Parameters};
use crate::proto::infer_parameter::ParameterChoice;
use crate::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::proto::model_infer_response::InferOutputTensor;
use crate::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::raw::Part;
use crate::request::{InferRequest, InputTensor, RequestedOutput};
use crate::response::DecodedResponse;
use crate::tensor::{Datatype, Tensor, TensorData};

pub use crate::wire::{Kind, check, decode, toil};

impl InferRequest {
    /// Takes a message apart. Its model and version are for whoever routes it.
    pub fn from_grpc(message: ModelInferRequest) -> Result<Self, DecodeError> {
        Self::from_grpc_within(message, Memory::UNBOUNDED)
    }

    /// The same, with a bound on what it takes in memory beside the message.
    pub fn from_grpc_within(message: ModelInferRequest, memory: Memory<'_>) -> Result<Self, DecodeError> {
        let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents: raw, .. } = message;
        check_counts(inputs.len(), raw.len(), "raw_input_contents")?;
        Ok(Self {
            id: Some(id).filter(|id| !id.is_empty()),
            parameters: read_parameters(parameters).map_err(|error| error.in_field("parameters"))?,
            inputs: read_inputs(inputs, &raw, memory).map_err(|error| error.in_field("inputs"))?,
            outputs: read_requested(outputs).map_err(|error| error.in_field("outputs"))?,
        })
    }
}

fn read_inputs(
    inputs: Vec<InferInputTensor>,
    raw: &[Bytes],
    memory: Memory<'_>,
) -> Result<Vec<InputTensor>, DecodeError> {
    if inputs.len() > MAX_TENSORS {
        return Err(Fault::TooMany { what: "tensors", limit: MAX_TENSORS }.into());
    }
    let mut read: Vec<InputTensor> = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        let name = input.name.clone();
        let locate = |error: DecodeError| error.in_named(&name).in_item(index);
        if let Some(first) = read.iter().position(|known| known.tensor.name() == name) {
            return Err(locate(DecodeError::new(Fault::DuplicateName { first }).in_field("name")));
        }
        read.push(read_input(input, raw.get(index), memory).map_err(locate)?);
    }
    Ok(read)
}

fn read_input(
    input: InferInputTensor,
    raw: Option<&Bytes>,
    memory: Memory<'_>,
) -> Result<InputTensor, DecodeError> {
    let datatype = Datatype::parse(&input.datatype)
        .ok_or_else(|| DecodeError::new(Fault::UnknownDatatype).in_field("datatype"))?;
    let shape = read_shape(&input.shape).map_err(|fault| DecodeError::new(fault).in_field("shape"))?;
    let contents = input.contents.filter(|contents| *contents != InferTensorContents::default());
    let data = match (raw, contents) {
        (Some(_), Some(_)) => return Err(Fault::DataTwice.into()),
        (Some(raw), None) => TensorData::from_raw(datatype, &shape, Part::whole(raw), memory)?,
        (None, contents) => typed(datatype, contents.unwrap_or_default(), memory)
            .map_err(|error| error.in_field("contents"))?,
    };
    let parameters = read_parameters(input.parameters).map_err(|error| error.in_field("parameters"))?;
    Ok(InputTensor { tensor: Tensor::new(input.name, shape, data).map_err(Fault::from)?, parameters })
}

fn read_shape(shape: &[i64]) -> Result<Vec<usize>, Fault> {
    if shape.len() > MAX_RANK {
        return Err(Fault::TooMany { what: "dimensions", limit: MAX_RANK });
    }
    shape.iter().map(|size| usize::try_from(*size).map_err(|_| Fault::NotADimension)).collect()
}

/// Elements in the field of their type.
fn typed(
    datatype: Datatype,
    contents: InferTensorContents,
    memory: Memory<'_>,
) -> Result<TensorData, DecodeError> {
    Ok(match datatype {
        Datatype::Bool => TensorData::Bool(contents.bool_contents),
        Datatype::Uint8 => TensorData::Uint8(narrow(datatype, contents.uint_contents, memory)?.into()),
        Datatype::Uint16 => TensorData::Uint16(narrow(datatype, contents.uint_contents, memory)?.into()),
        Datatype::Uint32 => TensorData::Uint32(contents.uint_contents.into()),
        Datatype::Uint64 => TensorData::Uint64(contents.uint64_contents.into()),
        Datatype::Int8 => TensorData::Int8(narrow(datatype, contents.int_contents, memory)?.into()),
        Datatype::Int16 => TensorData::Int16(narrow(datatype, contents.int_contents, memory)?.into()),
        Datatype::Int32 => TensorData::Int32(contents.int_contents.into()),
        Datatype::Int64 => TensorData::Int64(contents.int64_contents.into()),
        Datatype::Fp16 | Datatype::Bf16 => return Err(Fault::OnlyRaw.into()),
        Datatype::Fp32 => TensorData::Fp32(contents.fp32_contents.into()),
        Datatype::Fp64 => TensorData::Fp64(contents.fp64_contents.into()),
        Datatype::Bytes => {
            let pace = Pace::new(memory);
            let bytes = contents.bytes_contents.iter().try_fold(0, |bytes, text| {
                pace.step(0)?;
                Ok::<usize, Fault>(bytes + size_of::<Vec<u8>>() + of_text(text.len()))
            });
            memory.take(bytes?)?;
            let mut texts = Vec::with_capacity(contents.bytes_contents.len());
            for text in &contents.bytes_contents {
                pace.step(text.len())?;
                texts.push(text.to_vec());
            }
            TensorData::Bytes(texts)
        }
    })
}

/// Small integers, which travel in larger ones.
fn narrow<T, U: TryFrom<T>>(
    datatype: Datatype,
    values: Vec<T>,
    memory: Memory<'_>,
) -> Result<Vec<U>, DecodeError> {
    memory.take(values.len() * size_of::<U>())?;
    let (mut narrowed, pace) = (Vec::with_capacity(values.len()), Pace::new(memory));
    for (index, value) in values.into_iter().enumerate() {
        pace.step(0)?;
        let out_of_range = Fault::OutOfRange { datatype: datatype.as_str() };
        narrowed.push(U::try_from(value).map_err(|_| DecodeError::new(out_of_range).in_element(index))?);
    }
    Ok(narrowed)
}

fn read_requested(
    outputs: Vec<InferRequestedOutputTensor>,
) -> Result<Option<Vec<RequestedOutput>>, DecodeError> {
    if outputs.len() > MAX_TENSORS {
        return Err(Fault::TooMany { what: "outputs", limit: MAX_TENSORS }.into());
    }
    let mut read: Vec<RequestedOutput> = Vec::with_capacity(outputs.len());
    for (index, output) in outputs.into_iter().enumerate() {
        let locate = |error: DecodeError| error.in_named(&output.name).in_item(index);
        if let Some(first) = read.iter().position(|known| known.name == output.name) {
            return Err(locate(DecodeError::new(Fault::DuplicateName { first }).in_field("name")));
        }
        let parameters = read_parameters(output.parameters)
            .map_err(|error| error.in_field("parameters").in_named(&output.name).in_item(index))?;
        read.push(RequestedOutput { name: output.name, parameters });
    }
    Ok(Some(read).filter(|read| !read.is_empty()))
}

/// By name, since a map has no order.
fn read_parameters(parameters: HashMap<String, InferParameter>) -> Result<Parameters, DecodeError> {
    if parameters.len() > MAX_PARAMETERS {
        return Err(Fault::TooMany { what: "parameters", limit: MAX_PARAMETERS }.into());
    }
    let mut sorted: Vec<(String, InferParameter)> = parameters.into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    sorted
        .into_iter()
        .map(|(name, value)| {
            let value = read_parameter(value).map_err(|fault| DecodeError::new(fault).in_field(&name))?;
            Ok((name, value))
        })
        .collect()
}

fn read_parameter(parameter: InferParameter) -> Result<Parameter, Fault> {
    match parameter.parameter_choice.ok_or(Fault::Missing)? {
        ParameterChoice::BoolParam(value) => Ok(Parameter::Bool(value)),
        ParameterChoice::Int64Param(value) => Ok(Parameter::Int(value)),
        ParameterChoice::StringParam(value) => Ok(Parameter::String(value.into())),
        ParameterChoice::DoubleParam(value) if value.is_finite() => Ok(Parameter::Double(value)),
        ParameterChoice::DoubleParam(_) => Err(Fault::OutOfRange { datatype: "a number parameter (double)" }),
        ParameterChoice::Uint64Param(value) => i64::try_from(value)
            .map(Parameter::Int)
            .map_err(|_| Fault::OutOfRange { datatype: "an integer parameter (int64)" }),
    }
}

fn write_parameter(parameter: &Parameter) -> InferParameter {
    let choice = match parameter {
        Parameter::Bool(value) => ParameterChoice::BoolParam(*value),
        Parameter::Int(value) => ParameterChoice::Int64Param(*value),
        Parameter::Double(value) => ParameterChoice::DoubleParam(*value),
        Parameter::String(value) => ParameterChoice::StringParam(value.to_string()),
    };
    InferParameter { parameter_choice: Some(choice) }
}

pub(crate) fn write_parameters(parameters: &Parameters) -> HashMap<String, InferParameter> {
    parameters.iter().map(|(name, value)| (name.to_owned(), write_parameter(value))).collect()
}

/// No machine has a dimension that does not fit.
pub(crate) fn wire_shape(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect()
}

/// Puts parameters beside those that a message has, in the place of those of the same name.
pub fn extend_parameters(message: &mut ModelInferResponse, parameters: &Parameters) {
    message.parameters.extend(write_parameters(parameters));
}

/// Whether an answer can be passed on as it is: as many elements as its shapes say, each once, and names that differ; and
/// what its outputs are. The elements themselves are looked at when they are needed.
pub fn check_response(message: &ModelInferResponse) -> Result<Vec<Outline>, DecodeError> {
    let ModelInferResponse { outputs, raw_output_contents: raw, .. } = message;
    check_counts(outputs.len(), raw.len(), "raw_output_contents")?;
    let mut outlines: Vec<Outline> = Vec::with_capacity(outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        let locate = |error: DecodeError| error.in_named(&output.name).in_item(index).in_field("outputs");
        if let Some(first) = outlines.iter().position(|known| known.name == output.name) {
            return Err(locate(DecodeError::new(Fault::DuplicateName { first }).in_field("name")));
        }
        let datatype = Datatype::parse(&output.datatype)
            .ok_or_else(|| locate(DecodeError::new(Fault::UnknownDatatype).in_field("datatype")))?;
        let shape =
            read_shape(&output.shape).map_err(|fault| locate(DecodeError::new(fault).in_field("shape")))?;
        check_message(datatype, &shape, raw.get(index), output.contents.as_ref()).map_err(locate)?;
        outlines.push(Outline { name: output.name.clone(), datatype: Some(datatype), shape });
    }
    Ok(outlines)
}

fn check_counts(tensors: usize, raw: usize, field: &str) -> Result<(), DecodeError> {
    if tensors > MAX_TENSORS {
        return Err(Fault::TooMany { what: "tensors", limit: MAX_TENSORS }.into());
    }
    if raw != 0 && raw != tensors {
        return Err(DecodeError::new(Fault::RawCount { inputs: tensors, raw }).in_field(field));
    }
    Ok(())
}

impl DecodedResponse {
    /// Reads the tensors of an answer.
    pub fn from_grpc(message: ModelInferResponse) -> Result<Self, DecodeError> {
        Self::from_grpc_within(message, Memory::UNBOUNDED)
    }

    /// The same, with a bound on what they take in memory beside the message.
    pub fn from_grpc_within(message: ModelInferResponse, memory: Memory<'_>) -> Result<Self, DecodeError> {
        check_response(&message)?;
        let ModelInferResponse {
            model_name,
            model_version,
            id,
            parameters,
            outputs,
            raw_output_contents: raw,
        } = message;
        let inputs = outputs.into_iter().map(|output| InferInputTensor {
            name: output.name,
            datatype: output.datatype,
            shape: output.shape,
            parameters: output.parameters,
            contents: output.contents,
        });
        let outputs =
            read_inputs(inputs.collect(), &raw, memory).map_err(|error| error.in_field("outputs"))?;
        Ok(Self {
            model_name,
            model_version: Some(model_version).filter(|version| !version.is_empty()),
            id: Some(id).filter(|id| !id.is_empty()),
            parameters: read_parameters(parameters).map_err(|error| error.in_field("parameters"))?,
            outputs: outputs.into_iter().map(|output| output.tensor).collect(),
        })
    }
}

/// An answer, its elements raw and not copied.
pub fn response(
    model_name: String,
    model_version: String,
    id: Option<String>,
    parameters: &Parameters,
    outputs: Vec<Tensor>,
) -> ModelInferResponse {
    let mut message = ModelInferResponse {
        model_name,
        model_version,
        id: id.unwrap_or_default(),
        parameters: write_parameters(parameters),
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::with_capacity(outputs.len()),
    };
    for output in outputs {
        let (name, shape, data) = output.into_parts();
        message.outputs.push(InferOutputTensor {
            name,
            datatype: data.datatype().as_str().to_owned(),
            shape: wire_shape(&shape),
            ..InferOutputTensor::default()
        });
        message.raw_output_contents.push(Bytes::from_owner(data.into_raw()));
    }
    message
}
