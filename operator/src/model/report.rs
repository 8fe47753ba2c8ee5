//! A model's status, written only where it changed, and the Events that tell its story.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::Patch;
use kube::runtime::events::EventType;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use terrace_crds::InferenceModel;
use terrace_crds::model::{InferenceModelStatus, ResolvedSource};
use terrace_fleet::{ObservedNode, Summary, Verdict, summarize};

use super::Findings;
use super::observe::Seen;
use crate::conditions::{condition, reason_of};
use crate::context::{Context, Error, server_side_apply};
use crate::revisions;

/// Counts alone are written no more often than this: a fleet's reports come one by one.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// Writes the status. Where counts alone changed and it is too early to write them, how long to wait.
pub async fn report(
    model: &InferenceModel,
    findings: &Findings,
    nodes: &[Seen],
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let before = model.status.clone().unwrap_or_default();
    let observed: Vec<ObservedNode<'_>> = nodes.iter().map(Seen::observed).collect();
    let after = match &findings.plan {
        Some(plan) => {
            let revision = findings.revision.as_ref().map(|revision| revision.name.as_str());
            let summary = summarize(plan, revision, findings.obstacle.as_ref(), &observed);
            status(model, findings, &summary, &before)
        }
        None => invalid(model, findings, &before),
    };
    if after == before {
        return Ok(None);
    }
    let (namespace, name) = (model.namespace().unwrap_or_default(), model.name_any());
    if let Some(wait) =
        context.pacer.hold(&namespace, &name, is_progress_alone(&before, &after), COUNTS_EVERY)
    {
        return Ok(Some(wait));
    }
    let api = Api::<InferenceModel>::namespaced(context.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": InferenceModel::api_version(&()), "kind": InferenceModel::kind(&()),
        "metadata": {"name": name, "namespace": namespace}, "status": after,
    });
    context.write(api.patch_status(&name, &server_side_apply(), &Patch::Apply(&patch))).await?;
    tell(model, &before, &after, context).await;
    Ok(None)
}

fn status(
    model: &InferenceModel,
    findings: &Findings,
    summary: &Summary,
    before: &InferenceModelStatus,
) -> InferenceModelStatus {
    let content = findings.revision.as_ref().map(|revision| &revision.content);
    let text = |field: &str| content.and_then(|content| content[field].as_str()).map(str::to_owned);
    InferenceModelStatus {
        observed_generation: model.metadata.generation,
        conditions: conditions(model, before, [&summary.ready, &summary.reconciling, &summary.stalled]),
        resolved: text("uri").zip(text("sha256")).map(|(uri, sha256)| ResolvedSource { uri, sha256 }),
        revision: findings.revision.as_ref().map(|revision| revision.name.clone()),
        ready: Some(summary.ready_text.clone()),
        nodes: Some(summary.counts),
    }
}

/// The status of a model that cannot be read: what was known of its nodes stays.
fn invalid(
    model: &InferenceModel,
    findings: &Findings,
    before: &InferenceModelStatus,
) -> InferenceModelStatus {
    let (reason, message) = findings
        .obstacle
        .as_ref()
        .map_or(("Invalid", String::new()), |found| (found.reason, found.message.clone()));
    let verdict = |holds| Verdict { holds, reason: reason.to_owned(), message: message.clone() };
    InferenceModelStatus {
        observed_generation: model.metadata.generation,
        conditions: conditions(model, before, [&verdict(false), &verdict(false), &verdict(true)]),
        ..before.clone()
    }
}

fn conditions(
    model: &InferenceModel,
    before: &InferenceModelStatus,
    [ready, reconciling, stalled]: [&Verdict; 3],
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let now = Timestamp::now();
    [("Ready", ready), ("Reconciling", reconciling), ("Stalled", stalled)]
        .map(|(type_, verdict)| condition(type_, verdict, model.metadata.generation, &before.conditions, now))
        .into()
}

/// Nothing changed but how many nodes are how far.
fn is_progress_alone(before: &InferenceModelStatus, after: &InferenceModelStatus) -> bool {
    let states = |status: &InferenceModelStatus| {
        let states = ["Ready", "Reconciling", "Stalled"].map(|type_| {
            reason_of(&status.conditions, type_)
                .map(|(status, reason)| (status.to_owned(), reason.to_owned()))
        });
        (states, status.revision.clone(), status.observed_generation)
    };
    states(before) == states(after)
}

/// Events where the story takes a turn: ready, or in the way of it.
async fn tell(
    model: &InferenceModel,
    before: &InferenceModelStatus,
    after: &InferenceModelStatus,
    context: &Context,
) {
    for (type_, kind) in [("Ready", EventType::Normal), ("Stalled", EventType::Warning)] {
        let Some(now) = after.conditions.iter().find(|condition| condition.type_ == type_) else { continue };
        let is_news = reason_of(&before.conditions, type_) != Some((&now.status, &now.reason))
            || (type_ == "Ready" && before.revision != after.revision);
        if now.status == "True" && is_news {
            let related = revisions::reference(model, after.revision.as_deref());
            context.tell(&model.object_ref(&()), kind, (&now.reason, now.message.clone()), related).await;
        }
    }
}
