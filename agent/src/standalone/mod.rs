//! Decides, without Kubernetes, what this node should serve: manifests → accepted → `fleet::desired` → spec.
//!
//! Instructs `sync`, exactly as a watch on this node's InferenceNode does. Keeps what it accepted, and what
//! its checksum files resolved to, in a journal of its own: a manifest that is broken later, or a checksum file that
//! cannot be read any more, takes nothing away.

mod checksums;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use terrace_crds::InferenceNodeSpec;
use terrace_crds::node::{ModelError, ModelPhase};
use terrace_fleet::{DigestSource, ModelPlan, NamedPolicy, NodeFacts, Note, NoteReason, Sha256, WantedModel};
use terrace_tiering::Policy;
use tracing::{error, info, warn};

use crate::args::Args;
use crate::fetch::Fetcher;
use crate::manifests::{self, Fault, Flags, FolderError, Follower, Reading};
use crate::node::Node;
use crate::registry::ModelKey;
use crate::status::{MANIFESTS_ACCEPTED, POLICIES_FOUND, Verdict};
use crate::store::journal::{read_json, tidy, write_json};
use crate::sync::{Instruction, Instructions};
use checksums::Checksums;
use state::{Resolved, State};

/// The journal of a standalone agent, in its data directory.
const JOURNAL: &str = "journal/standalone.json";
/// How long to wait until a journal that could not be written is tried again.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How many faults a condition repeats.
const MAX_FAULTS_TOLD: usize = 16;

/// Follows a folder of manifests.
pub struct Standalone {
    node: Arc<Node>,
    facts: NodeFacts,
    follower: Follower,
    checksums: Checksums,
    journal: PathBuf,
    state: State,
    /// What was sent last, or served before this process began.
    spec: Option<InferenceNodeSpec>,
    /// The folder was read, now or by an earlier process: until then nothing is known to be wanted.
    was_read: bool,
    /// The journal lacks something: it could not be written.
    behind: bool,
    /// Models that have no entry in a spec, because their digest is not known yet.
    waiting: BTreeSet<ModelKey>,
    /// Files that were refused when the folder was read last.
    refused: BTreeSet<String>,
}

impl Standalone {
    /// Continues where the last process on this data directory ended, with the spec that it followed.
    pub fn open(
        args: &Args,
        manifests: &Path,
        node: Arc<Node>,
        fetcher: Arc<Fetcher>,
        spec: Option<InferenceNodeSpec>,
    ) -> anyhow::Result<Self> {
        let journal = args.data_dir.join(JOURNAL);
        tidy(&journal)?;
        let state = read_json(&journal)?.unwrap_or_default();
        let flags = Flags::new(&args.allowed, &args.node_labels, fetcher.egress().clone());
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self {
            node,
            facts: NodeFacts { tier: args.tier, labels: args.node_labels.iter().cloned().collect() },
            follower: Follower::new(manifests, &args.default_namespace, Arc::new(flags)),
            checksums: Checksums::new(fetcher, name),
            journal,
            state,
            was_read: spec.is_some(),
            behind: false,
            spec,
            waiting: BTreeSet::new(),
            refused: BTreeSet::new(),
        })
    }

    /// Sends a spec whenever the manifests or a checksum file ask for another one.
    pub async fn run(mut self, instructions: Instructions) {
        loop {
            tokio::select! {
                reading = self.follower.next() => self.read(reading).await,
                reading = self.checksums.next() => self.resolve(reading).await,
                () = tokio::time::sleep(CATCH_UP), if self.behind => self.write().await,
            }
            if self.was_read {
                self.plan(&instructions);
            }
        }
    }

    /// Takes from the folder what is right in it.
    async fn read(&mut self, reading: Result<Reading, FolderError>) {
        let verdict = match reading {
            Ok(reading) => {
                let (accepted, faults) = manifests::accept(&self.state.accepted, &reading);
                for fault in &faults {
                    if accepted.files.contains_key(&fault.file) {
                        warn!(%fault, "manifest refused; what it said before still holds");
                    } else {
                        warn!(%fault, "manifest refused; nothing of it holds until it is mended");
                    }
                }
                let refused: BTreeSet<String> = faults.iter().map(|fault| fault.file.clone()).collect();
                for file in self.refused.difference(&refused) {
                    info!(file, "manifest accepted again, or gone");
                }
                self.refused = refused;
                self.was_read = true;
                self.remember(|state| state.accept(accepted)).await;
                self.watch_checksums();
                accepted_verdict(&faults, self.state.accepted.files.len())
            }
            Err(error) => {
                if self.was_read {
                    warn!(%error, "the manifests cannot be read; what they said before still holds");
                } else {
                    warn!(%error, "the manifests cannot be read; nothing is served until they can be");
                }
                Verdict { holds: false, reason: "FolderUnreadable", message: error.to_string() }
            }
        };
        self.node.board.condition(MANIFESTS_ACCEPTED, verdict);
    }

    fn watch_checksums(&mut self) {
        let plans = self.plans();
        self.checksums.watch(plans.iter(), Instant::now());
    }

    /// Takes what a checksum file says now.
    async fn resolve(&mut self, reading: checksums::Reading) {
        let name = reading.model.to_string();
        let sha256 = match reading.digest {
            Ok(sha256) => sha256.to_string(),
            Err(error) => {
                if self.state.resolved.contains_key(&name) {
                    warn!(
                        model = name,
                        error, "the checksum file gives no digest; what it said before still holds"
                    );
                } else {
                    warn!(
                        model = name,
                        error, "the checksum file gives no digest; the model is not served until it does"
                    );
                }
                self.node.board.model(&reading.model, |model| {
                    if model.desired_revision.is_none() {
                        model.phase = ModelPhase::Failed;
                        model.error =
                            Some(ModelError { reason: "DigestUnknown".to_owned(), message: error.clone() });
                    }
                });
                return;
            }
        };
        let source = self
            .state
            .accepted
            .models()
            .find_map(|model| (key_of(model) == reading.model).then(|| model.spec.source.clone()));
        let Some(source) = source else { return };
        if self.state.digest(&name, &source) != Some(sha256.as_str()) {
            info!(model = name, sha256, "the checksum file names a new digest");
            self.remember(|state| {
                state.resolved.insert(name, Resolved { source, sha256 });
            })
            .await;
        }
    }

    /// Decides, and sends what is new.
    fn plan(&mut self, instructions: &Instructions) {
        let plans = self.plans();
        let wanted: Vec<WantedModel<'_>> =
            plans.iter().map(|plan| WantedModel { plan, published: self.published(plan) }).collect();
        let policies = self.policies();
        let named: Vec<NamedPolicy<'_>> = policies
            .iter()
            .map(|((namespace, name), policy)| NamedPolicy { namespace, name, policy })
            .collect();
        let mut desired = terrace_fleet::desired(&wanted, &named, &self.facts, self.spec.as_ref());
        // Its labels say where it is. Of other agents it knows none.
        desired.spec.sites = terrace_fleet::sites(&desired.spec, "", &self.facts, Vec::new);
        if self.spec.as_ref() != Some(&desired.spec) || instructions.borrow().is_none() {
            for note in &desired.warnings {
                warn!(model = %ModelKey { namespace: note.namespace.clone(), name: note.name.clone() },
                    reason = note.reason.as_str(), "{}", note.message);
            }
            self.spec = Some(desired.spec.clone());
            instructions.send_replace(Some(Arc::new(Instruction { spec: desired.spec, generation: None })));
        }
        self.node.board.condition(POLICIES_FOUND, policies_verdict(&desired.warnings, policies.len()));
        self.report_waiting(&desired.waiting);
    }

    /// Reports models that no spec names, and so nobody else reports.
    fn report_waiting(&mut self, notes: &[Note]) {
        let has_entry = |key: &ModelKey| {
            let models = self.spec.iter().flat_map(|spec| &spec.models);
            models.into_iter().any(|model| model.namespace == key.namespace && model.name == key.name)
        };
        let mut waiting = BTreeSet::new();
        for note in notes {
            let key = ModelKey { namespace: note.namespace.clone(), name: note.name.clone() };
            if has_entry(&key) {
                continue;
            }
            self.node.board.model(&key, |model| {
                model.error.get_or_insert_with(|| ModelError {
                    reason: note.reason.as_str().to_owned(),
                    message: note.message.clone(),
                });
            });
            waiting.insert(key);
        }
        for key in self.waiting.difference(&waiting).filter(|key| !has_entry(key)) {
            self.node.board.forget(key);
        }
        self.waiting = waiting;
    }

    /// Every accepted model. One that an older agent accepted and this one does not is passed over.
    fn plans(&self) -> Vec<ModelPlan> {
        let parsed = self.state.accepted.models().map(|model| (model, ModelPlan::parse(model)));
        parsed
            .filter_map(|(model, plan)| {
                plan.inspect_err(|faults| {
                    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                    warn!(model = %key_of(model), faults = faults.join("; "), "an accepted model is not understood any more");
                })
                .ok()
            })
            .collect()
    }

    /// What the checksum file of a model last said.
    fn published(&self, plan: &ModelPlan) -> Option<Sha256> {
        if matches!(plan.digest(), DigestSource::Pinned(_)) {
            return None;
        }
        let key = ModelKey { namespace: plan.namespace().to_owned(), name: plan.name().to_owned() };
        let model = self.state.accepted.models().find(|model| key_of(model) == key)?;
        Sha256::parse(self.state.digest(&key.to_string(), &model.spec.source)?).ok()
    }

    /// Every accepted policy, by namespace and name.
    fn policies(&self) -> BTreeMap<(String, String), Policy> {
        let policies = self.state.accepted.policies();
        policies
            .filter_map(|policy| {
                let key = (policy.namespace().unwrap_or_default(), policy.name_any());
                Policy::parse(&policy.spec).ok().map(|policy| (key, policy))
            })
            .collect()
    }

    /// Changes what is known, and the journal after it. What cannot be written holds all the same: the folder that
    /// says it is there to be read again.
    async fn remember(&mut self, edit: impl FnOnce(&mut State)) {
        let before = self.state.clone();
        edit(&mut self.state);
        if self.state != before || self.behind {
            self.write().await;
        }
    }

    /// Off the threads that answer requests: a slow disk must not slow them.
    async fn write(&mut self) {
        let (journal, state) = (self.journal.clone(), self.state.clone());
        let written =
            tokio::task::spawn_blocking(move || write_json(&journal, &state).map_err(io::Error::from));
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        self.behind = written.is_err();
        if let Err(error) = written {
            error!(journal = %self.journal.display(), %error, retry_in = ?CATCH_UP, "the journal of accepted manifests cannot be written");
        }
    }
}

fn key_of(model: &terrace_crds::InferenceModel) -> ModelKey {
    ModelKey { namespace: model.namespace().unwrap_or_default(), name: model.name_any() }
}

fn policies_verdict(missing: &[Note], found: usize) -> Verdict {
    if missing.is_empty() {
        return Verdict { holds: true, reason: "AllFound", message: format!("{found} policies") };
    }
    let told = missing.iter().map(|note| format!("{}.{}: {}", note.namespace, note.name, note.message));
    let reason = missing.first().map_or(NoteReason::PolicyNotFound, |note| note.reason);
    Verdict { holds: false, reason: reason.as_str(), message: told_of(told) }
}

fn accepted_verdict(faults: &[Fault], files: usize) -> Verdict {
    if faults.is_empty() {
        return Verdict { holds: true, reason: "Accepted", message: format!("{files} files") };
    }
    let message = told_of(faults.iter().map(ToString::to_string));
    Verdict { holds: false, reason: "ManifestRefused", message }
}

/// The first of them; a condition is no log.
fn told_of(faults: impl ExactSizeIterator<Item = String>) -> String {
    let more = faults.len().saturating_sub(MAX_FAULTS_TOLD);
    let mut told: Vec<String> = faults.take(MAX_FAULTS_TOLD).collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}
