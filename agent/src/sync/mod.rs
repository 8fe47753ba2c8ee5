//! Makes what serves follow what is wanted: spec → per model: activate → swap → journal.
//!
//! Fed with instructions by `standalone` or by `cluster`. Writes the
//! registry and the board; nobody else does. A revision that cannot be activated changes nothing for the one that
//! serves.

pub mod activate;
pub mod backoff;
mod confidence;
pub mod execution;
pub mod journal;
pub mod revision;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use terrace_crds::InferenceNodeSpec;
use terrace_crds::node::{ModelError, ModelPhase};
use terrace_tiering::{Lacking, Policy};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::node::Node;
use crate::registry::{Entry, Local, ModelKey, Registry, Served};
use crate::status::{JOURNAL_WRITTEN, Verdict};
use activate::{ActivateError, Activator};
use journal::NodeJournal;
use revision::Revision;

/// How long to wait until a journal that could not be written is tried again.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How long a revision that is replaced is waited for: its runs go on for as long as somebody waits for them.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked for.
const GONE_EVERY: Duration = Duration::from_millis(5);

/// What this node should serve, from whoever decides it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instruction {
    /// The spec.
    pub spec: InferenceNodeSpec,
    /// The generation of the InferenceNode that it stands in; a standalone agent has none.
    pub generation: Option<i64>,
}

/// Where instructions are given.
pub type Instructions = watch::Sender<Option<Arc<Instruction>>>;
/// Where they arrive.
pub type Instructed = watch::Receiver<Option<Arc<Instruction>>>;

/// Makes what serves follow what is wanted.
#[derive(Debug)]
pub struct Sync {
    shared: Arc<Shared>,
    running: HashMap<ModelKey, Running>,
    /// Tells of every activation that ended by itself.
    ended: mpsc::UnboundedReceiver<Ended>,
    tell_ended: mpsc::UnboundedSender<Ended>,
    /// How many activations were ever begun.
    begun: u64,
    /// What was followed last.
    followed: Option<Arc<Instruction>>,
}

/// What every activation needs.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    activator: Arc<Activator>,
    journal: Arc<NodeJournal>,
    /// Varies the waits of this process.
    seed: RandomState,
}

/// An activation under way.
#[derive(Debug)]
struct Running {
    revision: Revision,
    number: u64,
    task: JoinHandle<()>,
}

/// An activation that ended, by its number: another one of the same model may have begun since.
#[derive(Debug)]
struct Ended {
    key: ModelKey,
    number: u64,
}

/// Tells of an activation's end when it is dropped, so also where it panicked.
struct TellsItsEnd {
    ended: Option<Ended>,
    to: mpsc::UnboundedSender<Ended>,
}

impl Drop for TellsItsEnd {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Fails only where the sync has ended before it.
            let _ = self.to.send(ended);
        }
    }
}

impl Sync {
    /// A sync that has done nothing yet.
    pub fn new(node: Arc<Node>, activator: Arc<Activator>, journal: Arc<NodeJournal>) -> Self {
        let shared = Arc::new(Shared { node, activator, journal, seed: RandomState::new() });
        let (tell_ended, ended) = mpsc::unbounded_channel();
        Self { shared, running: HashMap::new(), ended, tell_ended, begun: 0, followed: None }
    }

    /// Serves again, from disk alone, what served when this node last ended. What serves already goes on.
    pub async fn boot(&self) {
        let state = self.shared.journal.state();
        let Some(spec) = state.spec else { return };
        self.shared.node.become_tier(spec.tier);
        self.shared.node.be_labelled(&spec.labels);
        self.shared.node.registry.move_to(&spec.sites, &self.shared.node.upstream);
        let revisions: Vec<Revision> = Revision::all(&spec).collect();
        for revision in &revisions {
            self.shared.announce(revision);
        }
        self.shared.node.board.spec_read();
        for wanted in revisions.iter().filter(|wanted| wanted.is_placed()) {
            let Some(served) = state.serving.get(&wanted.key().to_string()) else { continue };
            if !self.shared.is_serving(served) {
                self.shared.restore(served, wanted).await;
            }
        }
    }

    /// Follows the newest spec until its sender is gone. Needs the data directory's lock: it fetches and sweeps.
    pub async fn run(mut self, mut instructions: Instructed) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CATCH_UP), if self.shared.journal.is_behind() => {
                    self.shared.journaled(NodeJournal::catch_up).await;
                }
                changed = instructions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let instruction = instructions.borrow_and_update().clone();
                    if let Some(instruction) = instruction {
                        self.follow(instruction).await;
                    }
                    self.sweep_where_idle().await;
                }
                Some(ended) = self.ended.recv() => {
                    if self.running.get(&ended.key).is_some_and(|running| running.number == ended.number) {
                        self.running.remove(&ended.key);
                    }
                    self.sweep_where_idle().await;
                }
            }
        }
    }

    /// Starts what a spec adds, and ends what it no longer has.
    async fn follow(&mut self, instruction: Arc<Instruction>) {
        let accepted = Arc::clone(&instruction);
        self.shared.record(move |journal, registry| journal.accept(&accepted.spec, registry)).await;
        self.shared.node.become_tier(instruction.spec.tier);
        self.shared.node.be_labelled(&instruction.spec.labels);
        self.shared.node.registry.move_to(&instruction.spec.sites, &self.shared.node.upstream);
        let is_moved_alone = self.followed.as_ref().is_some_and(|followed| {
            let InferenceNodeSpec { sites, labels, .. } = instruction.spec.clone();
            InferenceNodeSpec { sites, labels, ..followed.spec.clone() } == instruction.spec
        });
        self.followed = Some(Arc::clone(&instruction));
        if is_moved_alone {
            // No reason to try again what failed: agents of the edge come and go.
            self.shared.node.board.spec_followed(instruction.generation);
            return;
        }
        let wanted: HashMap<ModelKey, Revision> =
            Revision::all(&instruction.spec).map(|revision| (revision.key(), revision)).collect();
        self.retire(&wanted).await;
        for (key, revision) in &wanted {
            if self.running.get(key).is_some_and(|running| running.revision == *revision) {
                continue;
            }
            self.stop(key).await;
            self.shared.announce(revision);
            if revision.is_placed() && !self.shared.is_serving(revision) {
                self.start(key.clone(), revision.clone());
            }
        }
        self.shared.node.board.spec_followed(instruction.generation);
    }

    fn start(&mut self, key: ModelKey, revision: Revision) {
        self.begun += 1;
        let number = self.begun;
        let end =
            TellsItsEnd { ended: Some(Ended { key: key.clone(), number }), to: self.tell_ended.clone() };
        let (shared, target) = (Arc::clone(&self.shared), revision.clone());
        let task = tokio::spawn(async move {
            let _end = end;
            shared.activate(&target).await;
        });
        self.running.insert(key, Running { revision, number, task });
    }

    /// Stops what is under way for a model, and waits until it has: what it swapped in last is known then, and it swaps
    /// nothing in any more.
    async fn stop(&mut self, key: &ModelKey) {
        if let Some(running) = self.running.remove(key) {
            running.task.abort();
            // It was aborted, or panicked, or had ended.
            let _ = running.task.await;
        }
    }

    /// Ends every model that is not wanted any more.
    async fn retire(&mut self, wanted: &HashMap<ModelKey, Revision>) {
        let gone: Vec<ModelKey> =
            self.running.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.stop(&key).await;
        }
        for key in self.shared.node.registry.keys() {
            if !wanted.contains_key(&key) {
                self.shared.node.registry.retire(&key);
                self.shared.node.board.forget(&key);
                info!(model = %key, "model removed: the spec no longer has it");
            }
        }
    }

    /// Removes from disk what neither the spec nor anything that serves needs, unless something is being fetched.
    async fn sweep_where_idle(&self) {
        if !self.running.is_empty() || self.shared.journal.is_behind() {
            // After an end now, what the file still names would be needed.
            return;
        }
        let (store, journal) = (Arc::clone(&self.shared.activator.store), Arc::clone(&self.shared.journal));
        match tokio::task::spawn_blocking(move || store.sweep(&journal.state().digests())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot remove artifacts that are no longer needed"),
            Err(error) => warn!(%error, "removing artifacts ended early"),
        }
    }
}

impl Shared {
    /// Makes a model known: what it is called elsewhere, and that it is on the way or not placed here. What serves
    /// goes on with the policy that it came with, as far as the new one is not more private: that holds at once. One
    /// that was never loaded is forwarded by the new policy.
    fn announce(&self, revision: &Revision) {
        let key = revision.key();
        let placed = revision.is_placed();
        let serving = self.node.registry.get(&key).and_then(|entry| entry.served().cloned());
        match &serving {
            Some(served) if placed => {
                let served = Arc::clone(served);
                let terms = Terms::of(&served.of).now_of(revision);
                self.publish(&served.of.clone(), terms, Local::Serving(served));
            }
            _ => {
                let local = if placed { Local::Absent } else { Local::NotPlaced };
                self.publish(revision, Terms::of(revision), local);
            }
        }
        self.node.board.model(&key, |model| {
            model.desired_revision = Some(revision.model.revision.clone());
            if !placed {
                model.phase = ModelPhase::NotPlaced;
                model.serving_revision = None;
                model.serving_sha256 = None;
                model.execution_provider = None;
                model.execution = None;
                model.error = revision
                    .model
                    .not_placed
                    .as_ref()
                    .map(|why| ModelError { reason: why.reason.clone(), message: why.message.clone() });
            } else if model.serving_revision.as_ref() != Some(&revision.model.revision) {
                model.phase = ModelPhase::Pending;
                model.error = None;
            } else if serving.is_some() {
                // Back to what serves, after something else that did not come to serve.
                model.phase = ModelPhase::Serving;
                model.error = None;
            }
        });
    }

    /// Whether this very revision answers already.
    fn is_serving(&self, revision: &Revision) -> bool {
        let entry = self.node.registry.get(&revision.key());
        entry.is_some_and(|entry| entry.served().is_some_and(|served| *served.of == *revision))
    }

    /// Loads a revision that served before this process began; as private as the one that is wanted now.
    async fn restore(&self, revision: &Revision, wanted: &Revision) {
        let key = revision.key();
        let progress = |phase| self.node.board.model(&key, |model| model.phase = phase);
        match self.activator.load(revision, &progress).await {
            Ok(served) => {
                self.swap(revision, Terms::of(revision).now_of(wanted), served);
                info!(model = %key, revision = revision.model.revision, "serving again from disk");
            }
            Err(error) => {
                warn!(model = %key, revision = revision.model.revision, %error, "cannot serve again from disk; fetching it anew");
                self.failed(&key, &error);
            }
        }
    }

    fn failed(&self, key: &ModelKey, error: &ActivateError) {
        self.node.board.model(key, |model| {
            model.phase = ModelPhase::Failed;
            model.error =
                Some(ModelError { reason: error.reason.to_string(), message: error.message.clone() });
        });
    }

    /// Tries until the revision serves, or cannot.
    async fn activate(&self, revision: &Revision) {
        let key = revision.key();
        for failures in 1.. {
            let Err(error) = self.attempt(revision).await else { return };
            self.node.metrics.activation(&key, &error.reason);
            self.failed(&key, &error);
            let entry = self.node.registry.get(&key);
            let serving = entry.as_ref().and_then(|entry| entry.served());
            let serving = serving.map_or("none", |served| served.revision());
            let wait = backoff::wait(failures, self.seed.hash_one((&key, failures)));
            if error.retry {
                warn!(model = %key, revision = revision.model.revision, reason = %error.reason, %error, serving, retry_in = ?wait,
                    "revision not ready; what serves goes on");
            } else {
                error!(model = %key, revision = revision.model.revision, reason = %error.reason, %error, serving,
                    "revision refused; what serves goes on");
            }
            let is_done = self.fetch_again(revision).await;
            if !error.retry && is_done {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Where nothing serves, what served last and could not be loaded from disk is fetched anew. Whether nothing is left
    /// to be done: something serves, or there is no way to.
    async fn fetch_again(&self, wanted: &Revision) -> bool {
        let key = wanted.key();
        if self.node.registry.get(&key).is_some_and(|entry| entry.served().is_some()) {
            return true;
        }
        let last = self.journal.state().serving.remove(&key.to_string());
        let Some(last) = last.filter(|last| last != wanted) else { return true };
        let activated = async {
            self.activator.fetch(&last, &|_| ()).await?;
            self.activator.load(&last, &|_| ()).await
        };
        match activated.await {
            Ok(served) => {
                let error = self.node.board.error(&key);
                self.swap(&last, Terms::of(&last).now_of(wanted), served);
                // It serves, and is not what is wanted.
                self.node.board.model(&key, |model| {
                    model.phase = ModelPhase::Failed;
                    model.error = error;
                });
                info!(model = %key, revision = last.model.revision, "serving again, fetched anew");
                true
            }
            Err(error) => {
                warn!(model = %key, revision = last.model.revision, %error, "what served last cannot be fetched anew");
                !error.retry
            }
        }
    }

    /// One try: reuse what is loaded where nothing but the policy differs, else activate, then swap.
    async fn attempt(&self, revision: &Revision) -> Result<(), ActivateError> {
        let key = revision.key();
        let current = self.node.registry.get(&key).and_then(|entry| entry.served().cloned());
        let served = match current {
            Some(current) if current.of.runs_like(revision) => Served {
                of: Arc::new(revision.clone()),
                sha256: current.sha256.clone(),
                model: Arc::clone(&current.model),
                execution: current.execution.clone(),
                pace: Arc::clone(&current.pace),
            },
            _ => {
                let progress = |phase| self.node.board.model(&key, |model| model.phase = phase);
                self.activator.fetch(revision, &progress).await?;
                match current {
                    Some(current) if revision.replaces() => self.make_room(revision, current).await,
                    Some(_) => self.activator.check_room(revision)?,
                    None => {}
                }
                self.activator.load(revision, &progress).await?
            }
        };
        confidence::check(revision, served.model.signature())?;
        self.swap(revision, Terms::of(revision), served);
        self.node.metrics.activation(&key, "Serving");
        info!(model = %key, revision = revision.model.revision, "revision serves");
        self.record(NodeJournal::record).await;
        Ok(())
    }

    /// Takes away what serves, so that `revision` has its memory. What runs is waited for; callers are forwarded
    /// meanwhile, or told to come again. The journal still knows the old one, which is loaded again where the new one
    /// cannot serve, also by the next agent.
    async fn make_room(&self, revision: &Revision, current: Arc<Served>) {
        let key = revision.key();
        info!(model = %key, revision = current.revision(), "taken away, to be replaced");
        let model = Arc::downgrade(&current.model);
        self.publish(revision, Terms::of(&current.of).now_of(revision), Local::Absent);
        self.node.board.model(&key, |model| {
            model.serving_revision = None;
            model.serving_sha256 = None;
            model.execution_provider = None;
        });
        drop(current);
        let gone = async {
            while model.strong_count() > 0 {
                tokio::time::sleep(GONE_EVERY).await;
            }
        };
        if tokio::time::timeout(GONE_WITHIN, gone).await.is_err() {
            warn!(model = %key, "requests still run on the revision that is replaced; the new one is loaded beside it");
        }
    }

    /// Writes what serves into the journal.
    async fn record(&self, write: impl FnOnce(&NodeJournal, &Registry) -> io::Result<()> + Send + 'static) {
        let node = Arc::clone(&self.node);
        self.journaled(move |journal| write(journal, &node.registry)).await;
    }

    /// Writes the journal off the threads that answer requests: a slow disk must not slow them.
    async fn journaled(&self, write: impl FnOnce(&NodeJournal) -> io::Result<()> + Send + 'static) {
        let journal = Arc::clone(&self.journal);
        let written = match tokio::task::spawn_blocking(move || write(&journal)).await {
            Ok(written) => written,
            Err(error) => Err(error.into()),
        };
        let verdict = match written {
            Ok(()) => {
                Verdict { holds: true, reason: "Written", message: "what serves is known on disk".to_owned() }
            }
            Err(error) => {
                error!(%error, retry_in = ?CATCH_UP, "the journal cannot be written; what serves goes on, and would be forgotten at an end");
                Verdict {
                    holds: false,
                    reason: "JournalUnwritable",
                    message: format!(
                        "the data directory cannot be written: {error}; make room: until then a restart serves what was known before"
                    ),
                }
            }
        };
        self.node.board.condition(JOURNAL_WRITTEN, verdict);
    }

    /// From here on new requests are answered by `served`; those under way finish where they began.
    fn swap(&self, revision: &Revision, terms: Terms, served: Served) {
        let provider = served.model.signature().provider.clone();
        let (sha256, execution) = (served.sha256.clone(), served.execution.clone());
        self.publish(revision, terms, Local::Serving(Arc::new(served)));
        self.node.board.model(&revision.key(), |model| {
            model.phase = ModelPhase::Serving;
            model.serving_revision = Some(revision.model.revision.clone());
            model.serving_sha256 = Some(sha256);
            model.execution_provider = Some(provider);
            model.execution = execution;
            model.error = None;
        });
    }

    fn publish(&self, revision: &Revision, terms: Terms, local: Local) {
        let serving = if let Local::Serving(served) = &local { Some(served.model.signature()) } else { None };
        let measure = confidence::measure(revision, serving);
        let key = revision.key();
        let label = key.to_string().into();
        let entry = Entry {
            measure,
            reach: Arc::default(),
            label,
            key,
            policy: Arc::new(terms.policy),
            upstreams: revision.model.upstreams.clone(),
            allowed_namespaces: terms.allowed_namespaces,
            local,
        };
        self.node.registry.publish(&entry, &self.node.upstream);
    }
}

/// Who may answer requests for a model, and who may ask.
struct Terms {
    policy: Policy,
    allowed_namespaces: Vec<String>,
}

impl Terms {
    fn of(revision: &Revision) -> Self {
        Self { policy: policy(revision), allowed_namespaces: revision.model.allowed_namespaces.clone() }
    }

    /// What of them holds for a model of which `wanted` is to be served: what keeps more to the node, and who may ask,
    /// hold at once.
    fn now_of(self, wanted: &Revision) -> Self {
        let wanted = Self::of(wanted);
        Self { policy: self.policy.tightened_by(&wanted.policy), ..wanted }
    }
}

/// The revision's policy; one that cannot be read keeps every request on this node.
fn policy(revision: &Revision) -> Policy {
    let Some(spec) = &revision.policy else { return Policy::local_only() };
    let parsed = Policy::parse(spec);
    if parsed.as_ref().is_ok_and(|policy| policy.mode().needs_confidence())
        && revision.model.confidence.is_none()
    {
        warn!(model = %revision.key(), "the policy goes by a confidence that the model does not have; every request stays on this node");
        return Policy::without(Lacking::Confidence);
    }
    parsed.unwrap_or_else(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        warn!(model = %revision.key(), faults = faults.join("; "), "the policy cannot be read; every request stays on this node");
        Policy::local_only()
    })
}
