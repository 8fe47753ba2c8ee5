//! A document that is no manifest, read with the same care: what is wrong with it has a line and a field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::document::readable;
use super::{Fault, yaml};

/// The first document of a text; a text without any is an empty mapping.
pub(crate) fn read_plain<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Fault> {
    let fault = |line, path: String, message| Fault { file: file.to_owned(), line, path, message };
    let first = yaml::documents(text).into_iter().next().transpose();
    let document = first.map_err(|error| fault(error.line, String::new(), error.message))?;
    let value = document.as_ref().map_or_else(|| Value::Object(Map::new()), yaml::Document::value);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".").unwrap_or_default();
        let line = document.as_ref().map(|document| document.line(&path));
        fault(line, path, readable(&error.inner().to_string()))
    })
}
