//! From a revision's name to a model that answers: fetch → probe → load → cases. Publishes nothing.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use terrace_crash::{LABEL, Label};
use terrace_crds::model::{CasesSource, Runtime, Verification};
use terrace_crds::node::ModelPhase;
use terrace_engine::cases::{self, Acceptance, Cases};
use terrace_engine::probe::{Artifact, ProbeError, ProbeRequest, Prober, Verdict};
use terrace_engine::provider::PassedOver;
use terrace_engine::{Batching, Engine, Model, ModelOptions, memory};
use terrace_fleet::{Sha256, SourceUri};
use tokio::sync::Semaphore;
use tracing::info;

use super::execution;
use super::revision::Revision;
use crate::crashes::Crashes;
use crate::fetch::{FetchError, Fetcher};
use crate::registry::Served;
use crate::store::{ReadError, Store};

/// How far a floating-point output may be from the expected one, where a model does not say.
const TOLERANCE: f64 = 1e-4;

/// Makes revisions ready to serve.
#[derive(Debug)]
pub struct Activator {
    /// Where artifacts lie.
    pub store: Arc<Store>,
    /// How they get there.
    pub fetcher: Arc<Fetcher>,
    /// What runs them.
    pub engine: Arc<dyn Engine>,
    /// What tries them first, in a child process.
    pub prober: Prober,
    /// What crashed the agent before.
    pub crashes: Crashes,
    /// Requests that may wait for one model.
    pub queue: usize,
    /// One load at a time: two at once could need more memory than either does.
    pub loading: Arc<Semaphore>,
}

/// Why a revision cannot serve.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ActivateError {
    /// One word for the status.
    pub reason: Cow<'static, str>,
    /// For a person, with what to do.
    pub message: String,
    /// Whether trying the same again may help.
    pub retry: bool,
}

impl ActivateError {
    fn last(reason: impl Into<Cow<'static, str>>, message: &(impl ToString + ?Sized)) -> Self {
        Self { reason: reason.into(), message: message.to_string(), retry: false }
    }

    fn passing(reason: impl Into<Cow<'static, str>>, message: &(impl ToString + ?Sized)) -> Self {
        Self { reason: reason.into(), message: message.to_string(), retry: true }
    }
}

impl From<FetchError> for ActivateError {
    fn from(error: FetchError) -> Self {
        Self { reason: error.reason().into(), retry: error.retryable(), message: error.to_string() }
    }
}

impl From<ReadError> for ActivateError {
    fn from(error: ReadError) -> Self {
        Self::passing("StoreUnreadable", &error)
    }
}

/// Told of each phase as it begins.
pub type Progress<'a> = &'a (dyn Fn(ModelPhase) + Sync);

impl Activator {
    /// Fetches what is missing.
    pub async fn fetch(&self, revision: &Revision, progress: Progress<'_>) -> Result<(), ActivateError> {
        let artifact = artifact(revision)?;
        progress(ModelPhase::Fetching);
        self.fetch_file(&artifact.uri, &artifact.sha256).await?;
        if let Some(cases) = cases_of(revision) {
            self.fetch_file(&cases.uri, &cases.sha256).await?;
        }
        Ok(())
    }

    /// Whether there is memory to load a revision beside the one that serves. What is known before a load is what it
    /// needs at least: the model as it is read, and its weights as they are laid out.
    pub fn check_room(&self, revision: &Revision) -> Result<(), ActivateError> {
        let artifact = artifact(revision)?;
        let Ok(file) = self.store.path(&digest(&artifact.sha256)?).metadata() else { return Ok(()) };
        fits_beside(file.len(), memory::available())
    }

    /// Loads what lies on disk already.
    pub async fn load(&self, revision: &Revision, progress: Progress<'_>) -> Result<Served, ActivateError> {
        let artifact = artifact(revision)?;
        let model = digest(&artifact.sha256)?;
        self.crashes
            .check(&model, SystemTime::now())
            .map_err(|held| ActivateError::passing("HeldBack", &held))?;
        let cases = cases_of(revision).map(|cases| digest(&cases.sha256)).transpose()?;
        let acceptance = acceptance(revision.model.verification.as_ref());
        let asked = execution::asked(&revision.model.runtime)
            .map_err(|why| ActivateError::last("RuntimeInvalid", &why))?;
        let mut options = ModelOptions {
            providers: asked.clone(),
            threads: revision.model.runtime.threads.map_or(1, usize::from),
            instances: revision.model.runtime.instances.map_or(1, usize::from),
            queue: self.queue,
            batching: batching(&revision.model.runtime),
            name: revision.model.name.clone(),
            crash_label: crash_label(&model),
            scratch: Some(self.store.scratch()),
            memory: memory::available(),
        };
        let one_at_a_time = Arc::clone(&self.loading)
            .acquire_owned()
            .await
            .map_err(|_| ActivateError::passing("ShuttingDown", "the agent is ending"))?;

        progress(ModelPhase::Probing);
        let mut request = ProbeRequest {
            model: self.stored(&model),
            cases: cases.as_ref().map(|cases| self.stored(cases)),
            tolerance: acceptance.tolerance,
            threads: options.threads,
            providers: asked.clone(),
        };
        let mut died_with = Vec::new();
        let comparison = loop {
            match self.prober.probe(&request, SystemTime::now()).await {
                Ok(Verdict::Accepted) => break None,
                Ok(Verdict::Compared(comparison)) => break Some(comparison),
                Ok(Verdict::Refused { reason, message }) => {
                    return Err(ActivateError::last(reason, &message));
                }
                // A driver may end its process. What is asked for less urgently may do better.
                Ok(Verdict::Died { message }) => match execution::without_first(&request.providers) {
                    Some((passed, rest)) => {
                        died_with.push(PassedOver { message, ..passed });
                        request.providers = rest;
                    }
                    // Asking again costs little: the prober knows when the model is to be tried again.
                    None => return Err(ActivateError::passing("ProbeRefused", &message)),
                },
                Err(ProbeError::Unplaced { reason, message }) => {
                    return Err(ActivateError {
                        reason: reason.as_str().into(),
                        message,
                        retry: reason.may_pass(),
                    });
                }
                Err(error) => return Err(ActivateError::passing("ProbeFailed", &error)),
            }
        };
        options.providers = request.providers;

        progress(ModelPhase::Loading);
        let (engine, store) = (Arc::clone(&self.engine), Arc::clone(&self.store));
        let loaded = tokio::task::spawn_blocking(move || {
            // To its end, also where nobody waits for it any more.
            let _one_at_a_time = one_at_a_time;
            load_verified(&*engine, &store, &Loading { model, cases, acceptance, options })
        })
        .await
        .map_err(|error| ActivateError::last("LoadFailed", &format!("loading ended early: {error}")))??;
        let execution = (!asked.is_empty()).then(|| {
            let mut placement = loaded.placement().clone();
            placement.passed_over.splice(..0, died_with);
            for PassedOver { provider, device, reason, message } in &placement.passed_over {
                let (model, reason) = (revision.key(), reason.as_str());
                info!(%model, provider, device, reason, message, "an execution provider is passed over");
            }
            // What was compared is what was probed; an accelerator that went away since is compared with nothing.
            let comparison = comparison.filter(|_| !placement.is_cpu_alone());
            execution::status(&placement, comparison)
        });
        Ok(Served {
            of: Arc::new(revision.clone()),
            sha256: artifact.sha256.clone(),
            model: Arc::new(loaded),
            execution,
            pace: Arc::default(),
        })
    }

    fn stored(&self, sha256: &Sha256) -> Artifact {
        Artifact { path: self.store.path(sha256), sha256: sha256.to_string() }
    }

    async fn fetch_file(&self, uri: &str, sha256: &str) -> Result<(), ActivateError> {
        let uri = SourceUri::parse(uri).map_err(|error| ActivateError::last("SourceNotAllowed", &error))?;
        self.fetcher.fetch(&uri, &digest(sha256)?).await?;
        Ok(())
    }
}

/// What a blocking load needs.
struct Loading {
    model: Sha256,
    cases: Option<Sha256>,
    acceptance: Acceptance,
    options: ModelOptions,
}

/// Reads, checks and loads a model, and has the very session that will serve pass its cases.
fn load_verified(engine: &dyn Engine, store: &Store, loading: &Loading) -> Result<Model, ActivateError> {
    let bytes = store.read_verified(&loading.model)?;
    let cases = loading.cases.as_ref().map(|cases| store.read_verified(cases)).transpose()?;
    let cases = cases
        .map(|bytes| Cases::parse(&bytes))
        .transpose()
        .map_err(|error| ActivateError::last("CasesUnreadable", &error))?;
    let samples = cases.as_ref().map(Cases::inputs).unwrap_or_default();
    Model::load(engine, &bytes, &loading.options, &samples, |session| {
        cases.as_ref().map_or(Ok(()), |cases| cases::verify(session, cases, &loading.acceptance))
    })
    .map_err(|error| ActivateError {
        reason: error.reason().into(),
        message: error.to_string(),
        retry: error.may_pass(),
    })
}

/// Whether a model of so many bytes may fit into the memory that is left.
fn fits_beside(bytes: u64, available: Option<u64>) -> Result<(), ActivateError> {
    let needed = bytes.saturating_mul(2);
    let Some(available) = available.filter(|available| needed > *available) else { return Ok(()) };
    Err(ActivateError::passing(
        "OverlapDoesNotFit",
        &format!(
            "it needs at least {} MiB beside the revision that serves, and {} MiB are left; set runtime.swap: Replace, so \
             that the old one goes first, or give the agent more memory",
            needed.div_ceil(1 << 20),
            available >> 20
        ),
    ))
}

fn artifact(revision: &Revision) -> Result<&terrace_crds::model::ResolvedSource, ActivateError> {
    revision
        .model
        .artifact
        .as_ref()
        .ok_or_else(|| ActivateError::last("NotPlaced", "the spec names no artifact for this node"))
}

fn cases_of(revision: &Revision) -> Option<&CasesSource> {
    revision.model.verification.as_ref()?.cases.as_ref()
}

fn batching(runtime: &Runtime) -> Batching {
    let most = runtime.batching.as_ref().and_then(|batching| batching.max_size);
    most.map_or(Batching::Learned, |most| Batching::AtMost(usize::from(most)))
}

fn acceptance(verification: Option<&Verification>) -> Acceptance {
    let cases = verification.and_then(|verification| verification.cases.as_ref());
    let max_latency = verification.and_then(|verification| verification.max_latency).map(Duration::from);
    Acceptance { tolerance: cases.and_then(|cases| cases.tolerance).unwrap_or(TOLERANCE), max_latency }
}

/// What a record of crashes calls an artifact: its digest.
fn crash_label(sha256: &Sha256) -> Label {
    // 64 hexadecimal digits, or not a digest.
    sha256.to_string().as_bytes().try_into().unwrap_or([b'?'; LABEL])
}

fn digest(text: &str) -> Result<Sha256, ActivateError> {
    Sha256::parse(text).map_err(|error| ActivateError::last("DigestInvalid", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_that_does_not_fit_is_told_with_its_figures_and_tried_again() {
        let mebibytes = |count: u64| count << 20;
        for (bytes, available) in [(100, Some(200)), (100, None), (0, Some(0))] {
            assert!(fits_beside(mebibytes(bytes), available.map(mebibytes)).is_ok(), "{bytes} {available:?}");
        }
        for (bytes, available, told) in [(100, 199, "200 MiB"), (1, 0, "2 MiB")] {
            let error = fits_beside(mebibytes(bytes), Some(mebibytes(available))).unwrap_err();
            assert!(error.retry && error.reason == "OverlapDoesNotFit");
            assert!(
                error.message.contains(told) && error.message.contains(&format!(" {available} MiB are left"))
            );
        }
        assert!(fits_beside(u64::MAX, Some(u64::MAX - 1)).is_err());
    }
}
