//! Everything of the protocol besides inference: what a server and a model say about themselves, and errors.

use serde::Serialize;

use crate::error::DecodeError;
use crate::json::{Reader, decode};

/// `GET /v2`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerMetadata {
    /// The server's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The extensions of the protocol that it speaks.
    pub extensions: Vec<String>,
}

/// `GET /v2/models/{model}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelMetadata {
    /// The model's name.
    pub name: String,
    /// The versions that can be asked for.
    pub versions: Vec<String>,
    /// Framework and format, as `onnx_onnxv1`.
    pub platform: String,
    /// What it takes.
    pub inputs: Vec<TensorMetadata>,
    /// What it gives.
    pub outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// Its element type, a [`crate::Datatype`]'s name (a model may have types that the protocol has not).
    pub datatype: String,
    /// Its dimensions, −1 for one of any size.
    pub shape: Vec<i64>,
    /// What else there is to say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<TensorNotes>,
}

/// Notes on an input, as parameters: the protocol has no field for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TensorNotes {
    /// A request may leave it out.
    pub optional: bool,
}

/// `GET /v2/models/{model}/config`: Triton's description of a model, as far as its clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    /// The model's name.
    pub name: String,
    /// Framework and format.
    pub platform: String,
    /// What runs it.
    pub backend: String,
    /// The most rows that run at once; then the dimensions below are those of one row. 0 where each request runs alone,
    /// with all its dimensions below.
    pub max_batch_size: usize,
    /// What it takes.
    pub input: Vec<ConfigTensor>,
    /// What it gives.
    pub output: Vec<ConfigTensor>,
}

/// An input or output in a [`ModelConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigTensor {
    /// Its name.
    pub name: String,
    /// `TYPE_FP32` …
    pub data_type: String,
    /// Its dimensions, −1 for one of any size.
    pub dims: Vec<i64>,
    /// A request may leave it out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// `GET /v2/models/stats`, `GET /v2/models/{model}/stats`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// One a model that serves.
    pub model_stats: Vec<ModelStatistics>,
}

/// What a model has done since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it was asked last, in milliseconds since 1970; 0 for never.
    pub last_inference: u64,
    /// Rows.
    pub inference_count: u64,
    /// Runs.
    pub execution_count: u64,
    /// Requests.
    pub inference_stats: InferenceStatistics,
    /// Runs by their rows.
    pub batch_stats: Vec<BatchStatistics>,
}

/// What became of requests, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferenceStatistics {
    /// Those that were answered: waiting and running.
    pub success: Spent,
    /// Those that failed.
    pub fail: Spent,
    /// Waiting.
    pub queue: Spent,
    /// Making inputs ready; part of running here.
    pub compute_input: Spent,
    /// Running.
    pub compute_infer: Spent,
    /// Making outputs ready; part of running here.
    pub compute_output: Spent,
}

/// Runs of so many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// Rows.
    pub batch_size: u64,
    /// Part of running here.
    pub compute_input: Spent,
    /// Running.
    pub compute_infer: Spent,
    /// Part of running here.
    pub compute_output: Spent,
}

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// How often.
    pub count: u64,
    /// How long, in nanoseconds.
    pub ns: u64,
}

/// An entry of `POST /v2/repository/index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Indexed {
    /// The model's name.
    pub name: String,
    /// The version that serves; empty where none does.
    pub version: String,
    /// `READY` or `UNAVAILABLE`.
    pub state: String,
    /// Why not.
    pub reason: String,
}

/// `GET /v2/health/live`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Whether the server runs.
    pub live: bool,
}

/// `GET /v2/health/ready`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Whether the server takes requests.
    pub ready: bool,
}

/// `GET /v2/models/{model}/ready`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelReady {
    /// The model's name.
    pub name: String,
    /// Whether it takes requests.
    pub ready: bool,
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
}

/// The body of `POST /v2/repository/index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRequest {
    /// Only models that take requests.
    pub ready: bool,
}

impl IndexRequest {
    /// Reads a body; one that is empty asks for every model.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        decode(body, |reader| {
            let mut request = Self::default();
            reader.object(|reader, key| {
                match key {
                    "ready" => request.ready = reader.optional(Reader::boolean)?.unwrap_or_default(),
                    _ => {
                        reader.skip()?;
                    }
                }
                Ok(())
            })?;
            Ok(request)
        })
    }
}

impl ModelReady {
    /// Reads an upstream's answer.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        decode(body, |reader| {
            let mut name = None;
            let mut ready = None;
            reader.object(|reader, key| {
                match key {
                    "name" => name = Some(reader.string()?.into_owned()),
                    "ready" => ready = Some(reader.boolean()?),
                    _ => {
                        reader.skip()?;
                    }
                }
                Ok(())
            })?;
            let name = name.ok_or_else(|| DecodeError::missing("name"))?;
            let ready = ready.ok_or_else(|| DecodeError::missing("ready"))?;
            Ok(Self { name, ready })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_protocols_fields() {
        let tensor = TensorMetadata {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![-1, 64],
            parameters: None,
        };
        let model = ModelMetadata {
            name: "default.digits".to_owned(),
            versions: vec!["3".to_owned()],
            platform: "onnx_onnxv1".to_owned(),
            inputs: vec![tensor],
            outputs: vec![],
        };
        assert_eq!(
            serde_json::to_string(&model).unwrap(),
            r#"{"name":"default.digits","versions":["3"],"platform":"onnx_onnxv1","inputs":[{"name":"x","datatype":"FP32","shape":[-1,64]}],"outputs":[]}"#
        );
        let server =
            ServerMetadata { name: "terrace".to_owned(), version: "1".to_owned(), extensions: vec![] };
        assert_eq!(
            serde_json::to_string(&server).unwrap(),
            r#"{"name":"terrace","version":"1","extensions":[]}"#
        );
        assert_eq!(serde_json::to_string(&Live { live: true }).unwrap(), r#"{"live":true}"#);
        assert_eq!(serde_json::to_string(&Ready { ready: false }).unwrap(), r#"{"ready":false}"#);
        let error = ErrorBody { error: "a \"b\"".to_owned() };
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":"a \"b\""}"#);
    }

    #[test]
    fn a_models_readiness_is_read_back_and_a_wrong_one_refused() {
        let ready = ModelReady { name: "default.digits".to_owned(), ready: true };
        assert_eq!(ModelReady::from_json(&serde_json::to_vec(&ready).unwrap()), Ok(ready));
        for (body, message) in [
            (r#"{"name":"m"}"#, "ready: missing"),
            (r#"{"ready":true}"#, "name: missing"),
            (r#"{"name":"m","ready":"yes"}"#, "ready: expected a boolean, got a string"),
        ] {
            assert_eq!(ModelReady::from_json(body.as_bytes()).unwrap_err().to_string(), message);
        }
    }
}
