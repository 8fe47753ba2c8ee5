//! What a request says of itself, from its protocol's words to `tiering`'s.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use terrace_oip::{DecodeError, InferRequest, Memory, Parameter, Parameters, Tensor};
use terrace_tiering::{
    Elements, ParameterValue, RequirementError, Stated, entropy, misplaced, refuse_misplaced,
};
use url::form_urlencoded;

use crate::executor::scores::elements;

/// Reads a request over HTTP. What is ours and stands beside its parameters, where nothing would read it, is refused.
pub fn read(
    body: &Bytes,
    json_length: Option<usize>,
    memory: Memory<'_>,
) -> Result<InferRequest, DecodeError> {
    InferRequest::from_http_but(body, json_length, memory, misplaced)
}

/// What a request states in its parameters. What it states in those of a tensor is refused, for the same reason.
pub fn from_request(request: &InferRequest) -> Result<Stated, RequirementError> {
    for (index, input) in request.inputs.iter().enumerate() {
        refuse_misplaced(names(&input.parameters), || format!("inputs[{index}].parameters"))?;
    }
    for (index, output) in request.outputs.iter().flatten().enumerate() {
        refuse_misplaced(names(&output.parameters), || format!("outputs[{index}].parameters"))?;
    }
    Stated::from_parameters(request.parameters.iter().map(|(name, value)| (name, parameter(value))))
}

fn names(parameters: &Parameters) -> impl Iterator<Item = &str> {
    parameters.iter().map(|(name, _)| name)
}

/// Refuses what a URL states behind its path: nothing there is read.
pub fn refuse_query(query: Option<&str>) -> Result<(), RequirementError> {
    // Some write `;` between pairs.
    let pairs = query.into_iter().flat_map(|query| query.split(';'));
    let pairs = pairs.flat_map(|pairs| form_urlencoded::parse(pairs.as_bytes()));
    let names: Vec<Cow<'_, str>> = pairs.map(|(name, _)| name).collect();
    refuse_misplaced(names.iter().map(|name| &**name), || "the URL's query".to_owned())
}

/// Refuses what is stated behind a body: by then it may have been decided.
pub fn refuse_trailers(trailers: &HeaderMap) -> Result<(), RequirementError> {
    refuse_misplaced(trailers.keys().map(HeaderName::as_str), || "the trailers".to_owned())
}

/// What its headers state.
pub fn from_headers(headers: &HeaderMap) -> Result<Stated, RequirementError> {
    Stated::from_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// What gRPC's own header for a deadline states.
pub fn from_grpc_timeout(headers: &HeaderMap) -> Result<Stated, RequirementError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(Stated::default()) };
    let timeout = value.to_str().ok().and_then(grpc_timeout);
    let timeout = timeout.ok_or(RequirementError::Header {
        name: "grpc-timeout",
        expected: "up to eight digits and one of the units H, M, S, m, u, n",
    })?;
    Ok(Stated { max_latency_ms: Some(timeout.as_secs_f64() * 1e3), ..Stated::default() })
}

fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_is_a_number_and_a_unit() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0S", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789S", None),
            ("+1S", None),
            ("1s", None),
            ("1 S", None),
            ("1\u{e9}", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text:?}");
        }
    }
}
