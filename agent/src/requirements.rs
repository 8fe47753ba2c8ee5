//! What a request says of itself, from its protocol's words to `tiering`'s.

use half::slice::HalfFloatSliceExt as _;
use http::HeaderMap;
use terrace_oip::{Parameter, Parameters, Tensor, TensorData};
use terrace_tiering::{Elements, ParameterValue, RequirementError, Stated, entropy};

/// What the parameters of a request state.
pub fn from_parameters(parameters: &Parameters) -> Result<Stated, RequirementError> {
    Stated::from_parameters(parameters.iter().map(|(name, value)| (name, parameter(value))))
}

/// What its headers state.
pub fn from_headers(headers: &HeaderMap) -> Result<Stated, RequirementError> {
    Stated::from_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// How hard its inputs look.
pub fn complexity<'a>(inputs: impl Iterator<Item = &'a Tensor>) -> f64 {
    let elements: Vec<Elements<'a>> = inputs.map(|tensor| elements(tensor.data())).collect();
    entropy(&elements)
}

fn parameter(value: &Parameter) -> ParameterValue<'_> {
    match value {
        Parameter::Bool(value) => ParameterValue::Bool(*value),
        Parameter::Int(value) => ParameterValue::Int(*value),
        Parameter::Double(value) => ParameterValue::Double(*value),
        Parameter::String(value) => ParameterValue::Str(value),
    }
}

fn elements(data: &TensorData) -> Elements<'_> {
    match data {
        TensorData::Bool(values) => Elements::Bool(values),
        TensorData::Uint8(values) => Elements::U8(values),
        TensorData::Uint16(values) => Elements::U16(values),
        TensorData::Uint32(values) => Elements::U32(values),
        TensorData::Uint64(values) => Elements::U64(values),
        TensorData::Int8(values) => Elements::I8(values),
        TensorData::Int16(values) => Elements::I16(values),
        TensorData::Int32(values) => Elements::I32(values),
        TensorData::Int64(values) => Elements::I64(values),
        TensorData::Fp16(values) => Elements::F16(values.reinterpret_cast()),
        TensorData::Bf16(values) => Elements::Bf16(values.reinterpret_cast()),
        TensorData::Fp32(values) => Elements::F32(values),
        TensorData::Fp64(values) => Elements::F64(values),
        TensorData::Bytes(values) => Elements::Bytes(values),
    }
}
