//! The meaning of a manifest: the checks of the crates that act on it, and what this agent's flags allow.

use terrace_crds::{InferenceModel, Tier, TierPolicy};
use terrace_fleet::ModelPlan;
use terrace_tiering::{Fault as FieldFault, Policy};

use super::Context;

/// What is wrong with what a model asks for.
pub(super) fn model(model: &InferenceModel, context: &Context<'_>) -> Vec<FieldFault> {
    let mut faults = ModelPlan::parse(model).err().unwrap_or_default();
    let source = &model.spec.source;
    let cases = model.spec.verification.as_ref().and_then(|verification| verification.cases.as_ref());
    let admission = context.admission;
    let verdicts = [
        ("spec.source.uri", Some(admission.source(&source.uri))),
        ("spec.source.sha256From", source.sha256_from.as_ref().map(|uri| admission.checksums(uri))),
        ("spec.verification.cases.uri", cases.map(|cases| admission.source(&cases.uri))),
    ];
    for (field, verdict) in verdicts {
        if let Some(Err(message)) = verdict {
            faults.push(FieldFault::new(field, message));
        }
    }
    faults
}

/// What is wrong with what a policy asks for.
pub(super) fn policy(policy: &TierPolicy, context: &Context<'_>) -> Vec<FieldFault> {
    let mut faults = Policy::parse(&policy.spec).err().unwrap_or_default();
    let tiers = &policy.spec.tiers;
    for (tier, remote) in [(Tier::Edge, &tiers.edge), (Tier::Cloud, &tiers.cloud)] {
        let Some(remote) = remote else { continue };
        if let Some(Err(message)) = remote.url.as_ref().map(|url| context.admission.tier(url)) {
            faults.push(FieldFault::new(format!("spec.tiers.{tier}.url"), message));
        }
        if let Some(Err(message)) = remote.site.as_ref().map(|_| context.admission.site()) {
            faults.push(FieldFault::new(format!("spec.tiers.{tier}.site"), message));
        }
    }
    faults
}
