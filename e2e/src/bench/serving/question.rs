//! What is asked of a model, on the wire, and what it must answer.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

use super::raw::Raw;
use super::{grpc, protobuf};
use crate::dice::Dice;
use crate::http::{Reply, Request, send};

const SEED: u64 = 7;
/// How far an output may be from the bare runtime's, as NumPy's `allclose` has it.
const RELATIVE: f32 = 1e-4;
const ABSOLUTE: f32 = 1e-6;
const JSON_LENGTH: &str = "inference-header-content-length";

/// A model that `e2e/bench/models/make.py` makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    pub name: &'static str,
    /// Of one row.
    shape: &'static [usize],
}

pub const MLP: Model = Model { name: "mlp", shape: &[64] };
pub const CNN: Model = Model { name: "cnn", shape: &[3, 224, 224] };
pub const WIDE: Model = Model { name: "wide", shape: &[1024] };
pub const ECHO: Model = Model { name: "echo", shape: &[3 * 224 * 224] };

/// How tensors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Binary,
    Grpc,
}

/// How a request travels.
#[derive(Clone, Debug)]
enum Sent {
    Http(Request),
    /// A call's frames.
    Grpc(Vec<u8>),
}

/// One row for a model, and its answer by the bare runtime.
pub struct Question {
    request: Sent,
    expected: Vec<f32>,
}

impl Model {
    /// `1x3x224x224`
    pub fn shape(&self, rows: usize) -> String {
        self.axes(rows).map(|axis| axis.to_string()).collect::<Vec<_>>().join("x")
    }

    /// Rows like 8-bit images.
    pub fn input(&self, rows: usize) -> Vec<f32> {
        let mut dice = Dice::of(SEED);
        let count = self.axes(rows).product();
        std::iter::repeat_with(|| f32::from(dice.roll() as u8) / 255.0).take(count).collect()
    }

    fn axes(&self, rows: usize) -> impl Iterator<Item = usize> {
        std::iter::once(rows).chain(self.shape.iter().copied())
    }
}

impl Encoding {
    /// As the page and the peers have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Binary => "binary",
            Self::Grpc => "gRPC",
        }
    }
}

impl Question {
    /// One row for this model.
    pub fn of(model: &Model, encoding: Encoding, raw: &Raw) -> Result<Self> {
        let request = match encoding {
            Encoding::Grpc => Sent::Grpc(call(model)?),
            Encoding::Json | Encoding::Binary => Sent::Http(request(model, encoding)?),
        };
        Ok(Self { request, expected: raw.answer(model)? })
    }

    /// Whether it is asked over gRPC, which may have a port of its own.
    pub const fn is_grpc(&self) -> bool {
        matches!(self.request, Sent::Grpc(_))
    }

    /// Asks once and checks the answer; its body's bytes.
    pub async fn check(&self, address: SocketAddr) -> Result<Bytes> {
        let (outputs, body) = match &self.request {
            Sent::Http(request) => {
                let reply = send(address, request).await?.answered()?;
                (outputs(&reply)?, reply.body)
            }
            Sent::Grpc(call) => {
                let answer = grpc::Connection::open(address).await?.exchange(call).await?;
                let outputs = floats_of(protobuf::output(grpc::message(&answer)?)?);
                (outputs, answer.into())
            }
        };
        ensure!(
            outputs.len() == self.expected.len(),
            "{} outputs, not {}",
            outputs.len(),
            self.expected.len()
        );
        let close = |(is, should): (&f32, &f32)| (is - should).abs() <= ABSOLUTE + RELATIVE * should.abs();
        ensure!(outputs.iter().zip(&self.expected).all(close), "the answer is wrong");
        Ok(body)
    }

    /// All bytes of the request.
    pub fn wire(&self, address: SocketAddr) -> Bytes {
        let Request { method, path, headers, body } = match &self.request {
            Sent::Http(request) => request,
            Sent::Grpc(call) => return call.clone().into(),
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}content-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat().into()
    }
}

/// A call's frames.
fn call(model: &Model) -> Result<Vec<u8>> {
    let message = protobuf::request(model.name, model.axes(1), &bytes_of(&model.input(1)));
    grpc::call("/inference.GRPCInferenceService/ModelInfer", &message)
}

/// The members in the order in which Triton's client writes them.
fn request(model: &Model, encoding: Encoding) -> Result<Request> {
    let input = model.input(1);
    let shape = serde_json::to_string(&model.axes(1).collect::<Vec<_>>())?;
    let tensor = format!(r#"{{"name":"input","shape":{shape},"datatype":"FP32","#);
    let path = format!("/v2/models/{}/infer", model.name);
    if encoding == Encoding::Json {
        let data = serde_json::to_string(&input)?;
        let body = format!(r#"{{"inputs":[{tensor}"data":{data}}}]}}"#);
        return Ok(Request::post(path, body).header("content-type", "application/json"));
    }
    let data = bytes_of(&input);
    let size = data.len();
    let head = format!(
        r#"{{"inputs":[{tensor}"parameters":{{"binary_data_size":{size}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let body = [head.as_bytes(), &data].concat();
    Ok(Request::post(path, body)
        .header("content-type", "application/octet-stream")
        .header(JSON_LENGTH, &head.len().to_string()))
}

/// The numbers of the only output, as either encoding has them.
fn outputs(reply: &Reply) -> Result<Vec<f32>> {
    let length = reply.header(JSON_LENGTH);
    if length.is_empty() {
        let data = reply.json()?.pointer_mut("/outputs/0/data").map(Value::take).context("no output")?;
        return Ok(serde_json::from_value(data)?);
    }
    let data = reply.body.get(length.parse()?..).context("the body is shorter than its JSON")?;
    Ok(floats_of(data))
}

/// Numbers as they lie in memory and in binary messages.
pub fn bytes_of(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect()
}

/// The same read.
pub fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// Where a model's file is, in a folder of them.
pub fn file(folder: &Path, model: &Model) -> std::path::PathBuf {
    folder.join(format!("{}.onnx", model.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_hold_the_same_row() {
        let json = request(&MLP, Encoding::Json).unwrap();
        let body: Value = serde_json::from_slice(&json.body).unwrap();
        let input: Vec<f32> = serde_json::from_value(body["inputs"][0]["data"].clone()).unwrap();
        assert_eq!(input, MLP.input(1));

        let binary = request(&MLP, Encoding::Binary).unwrap();
        let (name, length) = binary.headers.last().unwrap();
        assert_eq!(name, JSON_LENGTH);
        let (head, data) = binary.body.split_at(length.parse().unwrap());
        let head: Value = serde_json::from_slice(head).unwrap();
        assert_eq!(head["inputs"][0]["parameters"]["binary_data_size"], data.len());
        assert_eq!(floats_of(data), MLP.input(1));
    }
}
