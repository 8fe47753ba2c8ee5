//! Everything of the protocol besides inference: what a server and a model say about themselves, and errors.

use serde::Serialize;

use crate::error::DecodeError;
use crate::json::decode;

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
        let tensor =
            TensorMetadata { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, 64] };
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
