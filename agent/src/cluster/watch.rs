//! Hears what this node should serve.

use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use terrace_crds::{InferenceNode, InferenceNodeStatus};
use tokio::sync::watch::Sender;
use tracing::{info, warn};

use crate::status::{Board, CONNECTED, Verdict};
use crate::sync::{Instruction, Instructions};

/// A watch is begun anew after this many seconds. A connection that died without a word is noticed five seconds later.
const WATCH_SECONDS: u32 = 60;

/// What the cluster has of this node's status; none while it has no object.
pub type Seen = Option<Option<InferenceNodeStatus>>;

/// Instructs `sync` with each spec, for ever.
pub async fn watch(
    api: &Api<InferenceNode>,
    name: &str,
    board: &Board,
    instructions: &Instructions,
    seen: &Sender<Seen>,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(watcher::watcher(api.clone(), config).default_backoff());
    let mut heard = Heard { instructions, seen, present: false };
    connection(board, false, "Connecting", "the cluster has not been heard from yet");
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => heard.present = false,
            Ok(Event::InitApply(node) | Event::Apply(node)) => {
                heard.told(node);
                connection(board, true, "Connected", "the cluster says what to serve");
            }
            Ok(Event::InitDone) if heard.present => {}
            Ok(Event::InitDone | Event::Delete(_)) => {
                seen.send_replace(None);
                warn!(node = name, "the cluster has no InferenceNode for this node; what serves goes on");
                connection(
                    board,
                    true,
                    "NoInferenceNode",
                    "the cluster has no InferenceNode for this node; what serves goes on",
                );
            }
            Err(error) => {
                warn!(%error, "the cluster cannot be watched; what serves goes on, and it is tried again");
                connection(board, false, "Disconnected", &error.to_string());
            }
        }
    }
}

/// What was heard so far.
struct Heard<'a> {
    instructions: &'a Instructions,
    seen: &'a Sender<Seen>,
    present: bool,
}

impl Heard<'_> {
    fn told(&mut self, node: InferenceNode) {
        self.present = true;
        let instruction = Instruction { spec: node.spec, generation: node.metadata.generation };
        self.seen.send_replace(Some(node.status));
        let is_news = self.instructions.borrow().as_deref() != Some(&instruction);
        if is_news {
            info!(
                generation = instruction.generation,
                models = instruction.spec.models.len(),
                "told what to serve"
            );
            self.instructions.send_replace(Some(Arc::new(instruction)));
        }
    }
}

fn connection(board: &Board, holds: bool, reason: &'static str, message: &str) {
    board.condition(CONNECTED, Verdict { holds, reason, message: message.to_owned() });
}
