//! The names of revisions and policies: hashes of everything that they would run.

use serde::Serialize;
use serde_json::Value;
use terrace_crds::TierPolicySpec;
use terrace_crds::confidence::Confidence;
use terrace_crds::model::{Runtime, Upstreams, Verification};
use terrace_tiering::Policy;

use crate::digest::Sha256;
use crate::model::ModelPlan;

/// How many hexadecimal digits of the hash stand in a revision's name.
const DIGITS: usize = 10;

/// Everything that a revision would run. What is the same here is the same revision; whatever differs makes
/// another one.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionContent<'a> {
    /// Where the model's file comes from.
    pub uri: &'a str,
    /// Its digest. `None` only where the digest is not known and the node does not need it.
    pub sha256: Option<&'a str>,
    /// How it runs, defaults written out.
    pub runtime: &'a Runtime,
    /// What it must pass, defaults written out.
    pub verification: Option<&'a Verification>,
    /// How sure it is of its answers, defaults written out. Left out where it does not say: it is younger than names are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<&'a Confidence>,
    /// What it is called elsewhere.
    pub upstreams: &'a Upstreams,
    /// Its policy, defaults written out.
    pub policy: Option<&'a TierPolicySpec>,
}

/// `imodel-<model>-<hash>`, with ten digits of hash.
pub fn revision_name(model: &str, content: &RevisionContent<'_>) -> String {
    let hash = hash(content);
    format!("imodel-{model}-{}", &hash[..DIGITS])
}

/// A revision with all that it would run, as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRevision {
    /// Its name.
    pub name: String,
    /// Its content; [`RevisionContent`] as JSON.
    pub content: Value,
}

/// The revision that a model asks for, once its digest is known. Nodes that serve the model are told of this one.
pub fn model_revision(plan: &ModelPlan, digest: Sha256, policy: Option<&Policy>) -> ModelRevision {
    let (uri, sha256, policy) = (plan.uri.to_string(), digest.to_string(), policy.map(Policy::to_spec));
    let content = RevisionContent {
        uri: &uri,
        sha256: Some(&sha256),
        runtime: &plan.runtime,
        verification: plan.verification.as_ref(),
        confidence: plan.confidence.as_ref(),
        upstreams: &plan.upstreams,
        policy: policy.as_ref(),
    };
    ModelRevision { name: revision_name(&plan.name, &content), content: as_json(&content) }
}

/// The name of a policy in an `InferenceNode`'s spec. Policies that mean the same have the same.
pub fn policy_hash(policy: &Policy) -> String {
    hash(&policy.to_spec())
}

#[allow(clippy::expect_used)] // an invariant; any other value would make different content the same
fn as_json(content: &impl Serialize) -> Value {
    serde_json::to_value(content).expect("specs hold nothing that JSON cannot write")
}

pub(crate) fn hash(content: &impl Serialize) -> String {
    let value = as_json(content);
    let mut text = String::new();
    write_canonical(&value, &mut text);
    Sha256::of(text.as_bytes()).to_string()
}

/// JSON without white space and with sorted keys, whatever order `serde_json` was compiled to keep.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (position, (key, value)) in fields.into_iter().enumerate() {
                separate(position, text);
                write_canonical(&Value::from(key.as_str()), text);
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                separate(position, text);
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn separate(position: usize, text: &mut String) {
    if position > 0 {
        text.push(',');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let mut text = String::new();
        write_canonical(&json!({"b": [1, {"d": null, "c": "x\"y"}], "a": 0.0001, "": true}), &mut text);
        assert_eq!(text, r#"{"":true,"a":0.0001,"b":[1,{"c":"x\"y","d":null}]}"#);
    }

    #[test]
    fn a_name_is_as_long_as_its_model_allows() {
        let content = RevisionContent {
            uri: "file:///m.onnx",
            sha256: None,
            runtime: &Runtime::default(),
            verification: None,
            confidence: None,
            upstreams: &Upstreams::default(),
            policy: None,
        };
        let name = revision_name(&"m".repeat(63), &content);
        assert_eq!(name.len(), 81);
        let hash = name.rsplit('-').next().unwrap();
        assert!(hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{hash}");
        // The same on every architecture and in every version: a change of it is a new revision of every model.
        assert_eq!(revision_name("digits", &content), "imodel-digits-c6c28e817b");
    }
}
