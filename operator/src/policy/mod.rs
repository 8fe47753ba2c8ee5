//! A policy: is it accepted, and what did it last say that was.
//!
//! An unaccepted generation changes nothing on nodes: the last accepted one is kept as a ControllerRevision, which the
//! catalog falls back to.

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::Patch;
use kube::runtime::events::EventType;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use terrace_crds::TierPolicy;
use terrace_crds::policy::TierPolicyStatus;
use terrace_fleet::{Fault, Verdict, policy_hash};
use terrace_tiering::Policy;

use crate::catalog::parse_policy;
use crate::conditions::{condition, reason_of};
use crate::context::{Context, Error, server_side_apply};
use crate::controller::{Done, RESYNC};
use crate::revisions::{self, Kind, Revision};

/// One look at a policy.
pub async fn look(policy: Arc<TierPolicy>, context: Arc<Context>) -> Result<Done, Error> {
    judge(&policy, &context).await?;
    Ok(Done { outcome: "Done", again: RESYNC })
}

async fn judge(policy: &TierPolicy, context: &Context) -> Result<(), Error> {
    if policy.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let parsed = parse_policy(policy);
    if let Ok(accepted) = &parsed {
        keep(policy, accepted, context).await?;
    }
    report(policy, &verdict(&parsed), context).await
}

/// The accepted policy as a revision of its own.
async fn keep(policy: &TierPolicy, accepted: &Policy, context: &Context) -> Result<(), Error> {
    let name = format!("tpol-{}-{}", policy.name_any(), &policy_hash(accepted)[..10]);
    let content = json!(accepted.to_spec());
    let revision = Revision { kind: Kind::Policy, name: &name, content, sha256_from: None };
    revisions::keep(context, policy, revision).await.map(drop)
}

fn verdict(parsed: &Result<Policy, Vec<Fault>>) -> Verdict {
    match parsed {
        Ok(_) => Verdict {
            holds: true,
            reason: "Accepted".to_owned(),
            message: "nodes are told of this generation".to_owned(),
        },
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let message = format!("{}; nodes go on with the last accepted generation", faults.join("; "));
            Verdict { holds: false, reason: "Invalid".to_owned(), message }
        }
    }
}

async fn report(policy: &TierPolicy, verdict: &Verdict, context: &Context) -> Result<(), Error> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let before = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation;
    let accepted = condition("Accepted", verdict, generation, &before.conditions, Timestamp::now());
    let was = reason_of(&before.conditions, "Accepted").map(|(status, _)| status.to_owned());
    let is_told = was.as_deref() == Some(&accepted.status);
    let after = TierPolicyStatus { observed_generation: generation, conditions: vec![accepted] };
    if after == before {
        return Ok(());
    }
    let api = Api::<TierPolicy>::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": TierPolicy::api_version(&()), "kind": TierPolicy::kind(&()),
        "metadata": {"name": name, "namespace": namespace}, "status": after,
    });
    context.write(api.patch_status(&name, &server_side_apply(), &Patch::Apply(&patch))).await?;
    if !is_told {
        let type_ = if verdict.holds { EventType::Normal } else { EventType::Warning };
        let told = (&*verdict.reason, verdict.message.clone());
        context.tell(&policy.object_ref(&()), type_, told, None).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use terrace_crds::policy::TierRule;
    use terrace_crds::{Tier, TierPolicySpec};

    use super::*;

    #[test]
    fn the_field_and_the_place_of_a_fault_stand_in_the_condition() {
        let rule = TierRule { when: "request.byte > 1".to_owned(), tier: Tier::Edge, name: None };
        let spec = TierPolicySpec { rules: Some(vec![rule]), ..TierPolicySpec::default() };
        let told = verdict(&Policy::parse(&spec));
        assert_eq!((told.holds, &*told.reason), (false, "Invalid"));
        let start = "spec.rules[0].when: 1:9: request has no field byte: expected";
        assert!(told.message.starts_with(start), "{}", told.message);
    }
}
