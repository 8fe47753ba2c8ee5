//! One manifest: from a located YAML document to a model or a policy without faults.
//!
//! Everything that is wrong with a document is collected, so that its author mends it in one go. The checks run in
//! this order: what kind it is, its shape, its name, its meaning (crates `fleet` and `tiering`), and what this
//! agent's flags allow.

mod meaning;
mod path;
mod shape;
mod suggest;

pub(super) use shape::readable;

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use terrace_crds::{GROUP, InferenceModel, TierPolicy, VERSION};
use terrace_tiering::Fault as FieldFault;

use super::{Admission, Fault, yaml};

/// What the checks need to know of the agent.
pub(super) struct Context<'a> {
    /// The namespace of manifests that state none.
    pub(super) default_namespace: &'a str,
    /// What the agent's flags allow.
    pub(super) admission: &'a dyn Admission,
}

/// A manifest without faults.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document {
    /// A model.
    Model(Box<InferenceModel>),
    /// A policy.
    Policy(Box<TierPolicy>),
    /// Something that is not ours, where that may stand.
    Other,
}

/// Reads a document of `file`, or says everything that is wrong with it.
pub(super) fn read(
    file: &str,
    document: &yaml::Document,
    context: &Context<'_>,
) -> Result<Document, Vec<Fault>> {
    let value = document.value();
    if context.admission.passes_over_others() && is_of_others(&value) {
        return Ok(Document::Other);
    }
    kind(value)
        .and_then(|(kind, value)| match kind {
            Kind::Model => {
                let model: InferenceModel = resource(value, context, |model| meaning::model(model, context))?;
                Ok(Document::Model(Box::new(model)))
            }
            Kind::Policy => {
                let policy: TierPolicy = resource(value, context, |policy| meaning::policy(policy, context))?;
                Ok(Document::Policy(Box::new(policy)))
            }
        })
        .map_err(|faults| locate(file, document, faults))
}

/// Puts faults into the order of the file. One fault a field is enough: the first check that failed is the cause.
fn locate(file: &str, document: &yaml::Document, faults: Vec<FieldFault>) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    let mut faults: Vec<Fault> = faults
        .into_iter()
        .filter(|fault| seen.insert(fault.field.clone()))
        .map(|FieldFault { field, message }| Fault {
            file: file.to_owned(),
            line: Some(document.line(&field)),
            path: shorten(field),
            message: shorten(message),
        })
        .collect();
    faults.sort_by_key(|fault| fault.line);
    faults
}

/// Text from a manifest stands in logs and status: no more of it than tells what is meant.
fn shorten(mut text: String) -> String {
    const MOST: usize = 400;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}

enum Kind {
    Model,
    Policy,
}

/// Whether a document is a resource of another API than ours. One that holds others may hold ours.
fn is_of_others(value: &Value) -> bool {
    let field = |name| value.get(name).and_then(Value::as_str);
    let is_ours = |version: &str| version.split('/').next() == Some(GROUP);
    match (field("apiVersion"), field("kind")) {
        (Some(version), Some(kind)) => !is_ours(version) && !matches!(kind, "List" | "Kustomization"),
        _ => false,
    }
}

/// Which kind a document is.
fn kind(value: Value) -> Result<(Kind, Value), Vec<FieldFault>> {
    const KNOWN: &str = "InferenceModel and TierPolicy are read here";
    let one = |path: &str, message: String| Err(vec![FieldFault::new(path, message)]);
    let Value::Object(fields) = &value else {
        return one("", format!("expected a manifest, found {}: {KNOWN}", shape::name_of(&value)));
    };
    let kind = match fields.get("kind") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(other) => {
            return one("kind", format!("expected text, found {}: {KNOWN}", shape::name_of(other)));
        }
        None => return one("kind", format!("is missing: {KNOWN}")),
    };
    let known = match kind {
        "InferenceModel" => Kind::Model,
        "TierPolicy" => Kind::Policy,
        "InferenceNode" => {
            return one("kind", format!("InferenceNode is written by Terrace itself: {KNOWN}"));
        }
        "List" => {
            return one(
                "kind",
                "a List is not read: write its items as documents, with --- between them".into(),
            );
        }
        "Kustomization" => {
            return one(
                "kind",
                "a Kustomization is not read: put what `kubectl kustomize` writes here instead".into(),
            );
        }
        other => return one("kind", format!("{other} is not read by a standalone agent: {KNOWN}")),
    };
    match fields.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == format!("{GROUP}/{VERSION}") => Ok((known, value)),
        Some(version) => {
            one("apiVersion", format!("{version} is not known for {kind}: expected {GROUP}/{VERSION}"))
        }
        None => one("apiVersion", format!("is missing: expected {GROUP}/{VERSION}")),
    }
}

/// A resource of a kind, checked with `meaning` once its shape is right.
fn resource<K>(
    value: Value,
    context: &Context<'_>,
    meaning: impl FnOnce(&K) -> Vec<FieldFault>,
) -> Result<K, Vec<FieldFault>>
where
    K: DeserializeOwned + CustomResourceExt + kube::Resource,
{
    let shape::Shaped { resource, whole, mut faults } = shape::read::<K>(value);
    if let Some(mut resource) = resource {
        faults.extend(settle(resource.meta_mut(), context.default_namespace));
        if whole {
            faults.extend(meaning(&resource));
        }
        if faults.is_empty() {
            return Ok(resource);
        }
    }
    Err(faults)
}

/// Gives a resource its namespace and leaves of its metadata what its author can mean: manifests that were taken
/// from a cluster carry more, which would only make equal resources look different.
fn settle(metadata: &mut ObjectMeta, default_namespace: &str) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    let found = std::mem::take(metadata);
    match found.name.as_deref() {
        None => faults.push(FieldFault::new("metadata.name", "is missing")),
        Some(name) => faults.extend(not_a_label("metadata.name", name)),
    }
    let namespace = found.namespace.unwrap_or_else(|| default_namespace.to_owned());
    faults.extend(not_a_label("metadata.namespace", &namespace));
    *metadata = ObjectMeta {
        name: found.name,
        namespace: Some(namespace),
        labels: found.labels,
        annotations: found.annotations,
        ..ObjectMeta::default()
    };
    faults
}

/// Names become parts of URLs and file names.
fn not_a_label(path: &str, name: &str) -> Option<FieldFault> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    let accepted = "expected at most 63 lower-case letters, digits and hyphens, no hyphen first or last";
    (!good).then(|| FieldFault::new(path, format!("{name:?} is no DNS label: {accepted}")))
}

#[cfg(test)]
mod tests;
