//! The shape of a manifest: every field is known, is there if it must be, and has the right type.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use terrace_tiering::Fault as FieldFault;

use super::path::FieldPath;
use super::suggest;

/// After so many faults of one sort a manifest is not read further: its author has enough to do.
const MOST_FAULTS: usize = 20;

/// A manifest's resource, if its types allow one, and what is wrong with its shape.
pub(super) struct Shaped<K> {
    /// The resource; there may be faults beside it.
    pub(super) resource: Option<K>,
    /// Nothing had to be left out of it: what it means can be judged.
    pub(super) whole: bool,
    /// Unknown fields, wrong types, missing fields.
    pub(super) faults: Vec<FieldFault>,
}

/// Reads a manifest as a kind. A parser stops at the first wrong type; here the culprit is noted and taken out, and
/// the rest is read again.
pub(super) fn read<K: DeserializeOwned + CustomResourceExt>(mut manifest: Value) -> Shaped<K> {
    if let Some(fields) = manifest.as_object_mut() {
        // What says which kind this is was checked before. A status is not the author's to write; manifests that
        // were taken from a cluster carry one, and an API server ignores it too.
        for field in ["apiVersion", "kind", "status"] {
            fields.remove(field);
        }
    }
    let mut unknown = BTreeSet::new();
    let mut faults = Vec::new();
    let mut taken = BTreeSet::new();
    let resource = loop {
        if faults.len() >= MOST_FAULTS {
            break None;
        }
        let error = match attempt::<K>(manifest.clone(), &mut unknown) {
            Ok(resource) => break Some(resource),
            Err(error) => error,
        };
        let path = FieldPath::from(error.path());
        let message = error.inner().to_string();
        let culprit = if let Some(field) = missing_field(&message) {
            if !taken.contains(&path.join(field)) {
                faults.push(FieldFault::new(path.join(field).to_string(), "is missing"));
            }
            path
        } else {
            faults.push(FieldFault::new(path.to_string(), readable(&message)));
            path
        };
        match culprit.take_out(&mut manifest) {
            Some(place) => taken.insert(place),
            None => break None,
        };
    };
    let whole = faults.is_empty();
    let unknown = unknown
        .iter()
        .take(MOST_FAULTS)
        .map(|path| FieldFault::new(path.to_string(), suggest::unknown_field::<K>(path)));
    faults.extend(unknown);
    Shaped { resource, whole, faults }
}

fn attempt<K: DeserializeOwned>(
    manifest: Value,
    unknown: &mut BTreeSet<FieldPath>,
) -> Result<K, serde_path_to_error::Error<serde_json::Error>> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(manifest, &mut track);
    serde_ignored::deserialize(deserializer, |path| {
        unknown.insert(FieldPath::from(&path));
    })
    .map_err(|error| serde_path_to_error::Error::new(track.path(), error))
}

fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Serde's words for a value that does not fit, in the words of YAML.
pub(in crate::manifests) fn readable(message: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else { return message.to_owned() };
    let unknown = found.strip_prefix("unknown variant ").or_else(|| found.strip_prefix("unknown field "));
    if let Some(value) = unknown {
        return format!("{value} is not known: expected {expected}");
    }
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    let scalar = ["integer ", "floating point ", "boolean "].iter().find_map(|kind| found.strip_prefix(kind));
    let shown = match found {
        "map" => "a mapping",
        "sequence" => "a list",
        "null" => "nothing",
        other => scalar.unwrap_or(other).trim_start_matches("string ").trim_matches('`'),
    };
    match expected {
        "a string" if scalar.is_some() => format!("expected text, found {shown}: put it in quotes"),
        "a string" => format!("expected text, found {shown}"),
        "a boolean" => format!("expected true or false, found {shown}"),
        "a sequence" => format!("expected a list, found {shown}"),
        "f64" => format!("expected a number, found {shown}"),
        "u16" | "u32" | "u64" if found.starts_with("integer") => format!("{shown} is out of range"),
        "u16" | "u32" | "u64" => format!("expected a whole number, found {shown}"),
        other if other == "a map" || other.starts_with("struct ") => {
            format!("expected a mapping, found {shown}")
        }
        other => format!("expected {other}, found {shown}"),
    }
}

/// What a value is, in the words of YAML.
pub(super) fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
