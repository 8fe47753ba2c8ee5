//! Says what this node serves: the board, as the status of its InferenceNode, where it differs from what is there.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _};
use serde::Serialize;
use terrace_crds::{InferenceNode, InferenceNodeStatus};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::watch::Seen;
use crate::status::{Board, CONNECTED};
use crate::sync::backoff;

/// The field manager of every agent; each writes one object.
const FIELD_MANAGER: &str = "terrace-agent";
/// Steps that follow each other quickly are reported together.
const TOGETHER: Duration = Duration::from_millis(20);
/// What the API server says of an applied field that its kind does not have.
const NOT_IN_SCHEMA: &str = "field not declared in schema";
/// The API server is given this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The one thing that an agent writes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: Named<'a>,
    status: &'a InferenceNodeStatus,
}

#[derive(Debug, Serialize)]
struct Named<'a> {
    name: &'a str,
}

/// Reports for ever. Writes where the board and the cluster differ, be it that the node changed, or that somebody
/// cleared what was there.
pub async fn report(api: &Api<InferenceNode>, name: &str, board: &Board, mut seen: Receiver<Seen>) {
    let mut failures = 0;
    loop {
        let changed = board.changes();
        let there = seen.borrow_and_update().clone();
        let status = reported(board, there.as_ref().and_then(Option::as_ref));
        // Without a generation the board still tells of what an earlier process was told.
        let is_due = status.observed_generation.is_some()
            && there.is_some_and(|there| there.as_ref() != Some(&status));
        if is_due {
            match timeout(PATIENCE, write(api, name, &status)).await {
                Ok(Ok(written)) => {
                    debug!("status written");
                    failures = 0;
                    // The watch brings the same in a moment; until then this is what is there.
                    if written.is_some() {
                        wait(changed, &mut seen).await;
                        continue;
                    }
                }
                Ok(Err(error)) => failures = told(failures, &error.to_string()),
                Err(_) => failures = told(failures, "the API server does not answer"),
            }
            sleep(if failures > 0 {
                backoff::wait(failures, u64::from(std::process::id()))
            } else {
                TOGETHER
            })
            .await;
            continue;
        }
        wait(changed, &mut seen).await;
    }
}

/// Until the board or the cluster has something new.
async fn wait(changed: impl Future<Output = ()>, seen: &mut Receiver<Seen>) {
    tokio::select! {
        () = changed => {}
        // Its sender lives as long as the watch, which never ends.
        _ = seen.changed() => {}
    }
    sleep(TOGETHER).await;
}

/// The board without what is known on the node alone. A condition that has not turned keeps the time that is there: an
/// agent that was started again does not know when it turned.
fn reported(board: &Board, there: Option<&InferenceNodeStatus>) -> InferenceNodeStatus {
    let mut status = board.status();
    status.conditions.retain(|condition| condition.type_ != CONNECTED);
    for condition in &mut status.conditions {
        let known = there.into_iter().flat_map(|there| &there.conditions);
        let same = known.into_iter().find(|k| k.type_ == condition.type_ && k.status == condition.status);
        if let Some(same) = same {
            condition.last_transition_time.clone_from(&same.last_transition_time);
        }
        condition.observed_generation = status.observed_generation;
    }
    status
}

async fn write(
    api: &Api<InferenceNode>,
    name: &str,
    status: &InferenceNodeStatus,
) -> kube::Result<Option<InferenceNodeStatus>> {
    let applied = Applied {
        api_version: &InferenceNode::api_version(&()),
        kind: &InferenceNode::kind(&()),
        metadata: Named { name },
        status,
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = match api.patch_status(name, &parameters, &Patch::Apply(&applied)).await {
        Err(kube::Error::Api(refused)) if refused.message.contains(NOT_IN_SCHEMA) => {
            warn!(
                error = refused.message,
                "the cluster's InferenceNode is older than this agent and takes only a part of its status: apply Terrace's CRDs"
            );
            let manager =
                PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api.patch_status(name, &manager, &Patch::Merge(&merged(status)?)).await
        }
        written => written,
    };
    written.map(|node| node.status)
}

/// A patch that leaves out, unasked, what an older kind does not know. Lists are replaced as a whole; what is absent is
/// taken away.
fn merged(status: &InferenceNodeStatus) -> kube::Result<serde_json::Value> {
    let mut fields = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    if let Some(fields) = fields.as_object_mut() {
        for optional in ["observedGeneration", "agent", "models", "conditions"] {
            fields.entry(optional).or_insert(serde_json::Value::Null);
        }
    }
    Ok(serde_json::json!({"status": fields}))
}

fn told(failures: u32, error: &str) -> u32 {
    warn!(error, "the status cannot be written; trying again");
    failures + 1
}
