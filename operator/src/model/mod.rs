//! A model: its revision, and how the nodes fare with it. What nodes are told is `node`'s to write.
//!
//! observe → resolve (the digest) → keep (the revision) → report (status and Events).

mod observe;
mod report;

use std::sync::Arc;
use std::time::Duration;

use kube::Resource as _;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use terrace_crds::InferenceModel;
use terrace_fleet::{DigestSource, Fault, ModelPlan, ModelRevision, Obstacle, model_revision};

use crate::catalog::{accepted, digest_of};
use crate::context::{Context, Error};
use crate::controller::{Done, RESYNC};
use crate::queues::Queues;
use crate::revisions::{self, Kind, Revision};

/// What a look at a model found.
#[derive(Debug)]
struct Findings {
    plan: Option<ModelPlan>,
    revision: Option<ModelRevision>,
    obstacle: Option<Obstacle>,
    /// When to look again, whatever happens.
    again: Duration,
}

/// One look at a model.
pub async fn look(model: Arc<InferenceModel>, context: Arc<Context>, queues: Queues) -> Result<Done, Error> {
    if model.metadata.deletion_timestamp.is_some() {
        return Ok(Done { outcome: "Deleted", again: RESYNC });
    }
    let findings = resolve(&model, &context, &queues).await;
    if let (Some(plan), Some(revision)) = (&findings.plan, &findings.revision) {
        keep(&model, plan, revision, &context).await?;
    }
    let nodes = observe::nodes(&model, &context);
    let waits = report::report(&model, &findings, &nodes, &context).await?;
    Ok(Done { outcome: "Done", again: waits.map_or(findings.again, |waits| waits.min(findings.again)) })
}

/// What the model asks for, and what stands in its way.
async fn resolve(model: &InferenceModel, context: &Context, queues: &Queues) -> Findings {
    let plan = match ModelPlan::parse(model) {
        Ok(plan) => plan,
        Err(faults) => return Findings::invalid(&faults),
    };
    let known = context.checksums.refresh(&plan).await;
    if known.is_new {
        queues.all_nodes(&context.world);
    }
    let kept = context.world.revisions.state();
    let digest = digest_of(&plan, &kept, &context.checksums.published());
    let policy = plan.policy().map(|name| (name, policy(context, plan.namespace(), name)));
    let obstacle = match (&policy, &known.error) {
        (Some((name, None)), _) => Some(policy_not_found(&plan, name)),
        (Some((name, Some(policy))), _) if !plan.suits(policy) => Some(confidence_missing(name, policy)),
        (_, Some(error)) => Some(Obstacle {
            reason: "ChecksumUnreadable",
            message: format!(
                "the checksum file that sha256From names cannot be read: {error}; what served goes on{}",
                if digest.is_none() { ", and nothing else can begin" } else { "" }
            ),
        }),
        _ => None,
    };
    let policy = policy.and_then(|(_, policy)| policy);
    let revision = digest.map(|digest| model_revision(&plan, digest, policy.as_ref()));
    Findings { plan: Some(plan), revision, obstacle, again: known.again.unwrap_or(RESYNC).min(RESYNC) }
}

impl Findings {
    fn invalid(faults: &[Fault]) -> Self {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let message = format!("{}; what served goes on", faults.join("; "));
        Self {
            plan: None,
            revision: None,
            obstacle: Some(Obstacle { reason: "Invalid", message }),
            again: RESYNC,
        }
    }
}

fn policy(context: &Context, namespace: &str, name: &str) -> Option<terrace_tiering::Policy> {
    let policy = context.world.policies.get(&ObjectRef::new(name).within(namespace))?;
    accepted(&policy, &context.world.revisions.state())
}

fn policy_not_found(plan: &ModelPlan, name: &str) -> Obstacle {
    Obstacle {
        reason: "PolicyNotFound",
        message: format!(
            "there is no accepted TierPolicy {name:?} in namespace {:?}: create it, or see its Accepted condition; until then every request is private and answered on the node itself",
            plan.namespace()
        ),
    }
}

fn confidence_missing(name: &str, policy: &terrace_tiering::Policy) -> Obstacle {
    Obstacle {
        reason: "ConfidenceMissing",
        message: format!(
            "TierPolicy {name:?} has mode: {}, which goes by how sure the model is: give the model spec.confidence; until then every request is private and answered on the node itself",
            policy.mode().as_str()
        ),
    }
}

/// The revision as a ControllerRevision.
async fn keep(
    model: &InferenceModel,
    plan: &ModelPlan,
    revision: &ModelRevision,
    context: &Context,
) -> Result<(), Error> {
    let sha256_from = match plan.digest() {
        DigestSource::Published { from, .. } => Some(from.to_string()),
        DigestSource::Pinned(_) => None,
    };
    let kept =
        Revision { kind: Kind::Model, name: &revision.name, content: revision.content.clone(), sha256_from };
    if revisions::keep(context, model, kept).await? {
        let note = format!("{} is what nodes should serve now", revision.name);
        let related = revisions::reference(model, Some(&revision.name));
        context.tell(&model.object_ref(&()), EventType::Normal, ("RevisionCreated", note), related).await;
    }
    Ok(())
}
