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
    let sources = [
        ("spec.source.uri", Some(&source.uri)),
        ("spec.source.sha256From", source.sha256_from.as_ref()),
        ("spec.verification.cases.uri", cases.map(|cases| &cases.uri)),
    ];
    for (field, uri) in sources {
        if let Some(Err(message)) = uri.map(|uri| context.admission.source(uri)) {
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
        if remote.site.is_some() {
            let message = "needs a cluster, whose operator finds the agents of a site; a standalone agent knows no other: give a url, in which {site} stands for the value of --node-label topology.kubernetes.io/zone=…";
            faults.push(FieldFault::new(format!("spec.tiers.{tier}.site"), message));
        }
    }
    faults
}
