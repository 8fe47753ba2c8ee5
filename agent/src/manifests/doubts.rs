//! What is accepted and cannot be meant: resources that do not fit together, fields that never matter.
//!
//! Pure. Nothing of it keeps a manifest from being obeyed; `terrace-agent check` tells it.

use std::collections::BTreeMap;

use terrace_crds::{InferenceModel, Tier, TierPolicy};
use terrace_tiering::Policy;

use super::accept::{FileSet, ResourceKey};

/// Something that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Of which resource.
    pub(super) of: ResourceKey,
    /// Of which field.
    pub(super) path: String,
    /// What is the matter.
    pub(super) message: String,
}

/// Everything that is doubtful in sets of accepted resources. `are_all`: there are no others that a model could name.
pub(crate) fn doubts<'a>(sets: impl Iterator<Item = &'a FileSet> + Clone, are_all: bool) -> Vec<Doubt> {
    let policies: BTreeMap<ResourceKey, &TierPolicy> = sets
        .clone()
        .flat_map(|set| &set.policies)
        .map(|policy| (ResourceKey::of("TierPolicy", policy), policy))
        .collect();
    let of_models = sets.flat_map(|set| &set.models).filter_map(|model| of_model(model, &policies, are_all));
    let of_policies = policies.iter().flat_map(|(key, policy)| of_policy(key, policy));
    of_models.chain(of_policies).collect()
}

/// Whether a model and its policy fit.
fn of_model(
    model: &InferenceModel,
    policies: &BTreeMap<ResourceKey, &TierPolicy>,
    are_all: bool,
) -> Option<Doubt> {
    let named = model.spec.policy_ref.as_ref()?;
    let of = ResourceKey::of("InferenceModel", model);
    let wanted =
        ResourceKey { kind: "TierPolicy", namespace: of.namespace.clone(), name: named.name.clone() };
    let message = match policies.get(&wanted).map(|policy| Policy::parse(&policy.spec)) {
        None if are_all => format!(
            "no TierPolicy {:?} of namespace {} was checked: until there is one, every request is private",
            wanted.name, wanted.namespace
        ),
        Some(Ok(policy)) if policy.mode().needs_confidence() && model.spec.confidence.is_none() => format!(
            "{:?} has mode: {}, which goes by how sure the model is, and the model has no spec.confidence: until it has, every request is private",
            wanted.name,
            policy.mode().as_str()
        ),
        None | Some(_) => return None,
    };
    Some(Doubt { of, path: "spec.policyRef".to_owned(), message })
}

/// What of a policy never comes to pass.
fn of_policy(key: &ResourceKey, policy: &TierPolicy) -> Vec<Doubt> {
    let Ok(checked) = Policy::parse(&policy.spec) else { return Vec::new() };
    let mut doubts = Vec::new();
    let mut doubt = |path: String, message: String| doubts.push(Doubt { of: key.clone(), path, message });
    for (place, rule) in checked.rules().unwrap_or_default().iter().enumerate() {
        let tier = rule.tier();
        if tier != Tier::Device && checked.remote(tier).is_none() {
            let message = format!(
                "is {tier:?}, which spec.tiers does not have: only a node of that tier answers such requests, on others they go along the fallback order"
            );
            doubt(format!("spec.rules[{place}].tier"), message);
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::read_text;

    fn found(text: &str, are_all: bool) -> Vec<String> {
        let text = text.replace("KIND", "apiVersion: terrace.dev/v1alpha1\nkind:");
        let sets = read_text("a", &text, "default").expect("no faults");
        let told = doubts(sets.iter(), are_all).into_iter();
        told.map(|doubt| format!("{}: {}: {}", doubt.of, doubt.path, doubt.message)).collect()
    }

    fn model(name: &str, more: &str) -> String {
        let digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        format!(
            "---\nKIND InferenceModel\nmetadata: {{name: {name}}}\nspec:\n  source: {{uri: https://a.example/a.onnx, sha256: {digest}}}\n{more}"
        )
    }

    fn policy(name: &str, spec: &str) -> String {
        format!("---\nKIND TierPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    }

    #[test]
    fn a_model_and_its_policy_fit_or_do_not() {
        const SURE: &str = "  confidence: {output: p, method: Probability}\n";
        let named = |name: &str| format!("  policyRef: {{name: {name}}}\n");
        let tiers = "tiers: {cloud: {url: 'https://cloud.example'}}";
        let careful =
            policy("careful", &format!("{{mode: Speculative, speculative: {{verifier: Cloud}}, {tiers}}}"));
        for (text, are_all, expected) in [
            (model("a", ""), true, None),
            (model("a", &named("near")) + &policy("near", "{}"), true, None),
            (model("a", &named("near")), false, None),
            (
                model("a", &named("near")),
                true,
                Some("no TierPolicy \"near\" of namespace default was checked"),
            ),
            (model("a", &(named("careful") + SURE)) + &careful, true, None),
            (model("a", &named("careful")) + &careful, false, Some("has mode: Speculative")),
        ] {
            let found = found(&text, are_all);
            assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
            let start = format!(
                "InferenceModel default/a: spec.policyRef: {}",
                if expected.is_some_and(|one| one.starts_with("has")) { "\"careful\" " } else { "" }
            );
            assert!(expected.is_none_or(|expected| found[0].starts_with(&(start + expected))), "{found:?}");
        }
    }

    #[test]
    fn what_of_a_policy_never_comes_to_pass_is_told_with_its_field() {
        let rules =
            "rules: [{when: 'true', tier: Device}, {when: 'true', tier: Edge}, {when: 'true', tier: Cloud}]";
        let tier = "tiers: {cloud: {url: 'https://cloud.example'}}";
        let found = found(&policy("odd", &format!("{{{rules}, {tier}}}")), true);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("TierPolicy default/odd: spec.rules[1].tier: is Edge,"), "{found:?}");
    }
}
