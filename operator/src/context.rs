//! What every controller shares, and how anything is written.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::PatchParams;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::time::timeout;
use tracing::warn;

use crate::checksums::Checksums;
use crate::metrics::Metrics;
use crate::world::World;

/// The one field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "terrace-operator";
/// The API server is given this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What reconciliation needs.
pub struct Context {
    /// Talks to the cluster.
    pub client: Client,
    /// What is known of it.
    pub world: World,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Reads checksum files.
    pub checksums: Checksums,
    /// Keeps status writes apart.
    pub pacer: Pacer,
    recorder: Recorder,
}

/// When each object's status was written last.
#[derive(Debug, Default)]
pub struct Pacer(Mutex<HashMap<(String, String), Instant>>);

impl Pacer {
    /// How long a write is to wait, if it may wait and the last one is less than `every` ago. Else this is a write.
    pub fn hold(&self, namespace: &str, name: &str, may_wait: bool, every: Duration) -> Option<Duration> {
        let now = Instant::now();
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of what is long past nothing has to be known: objects come and go.
        written.retain(|_, at| now.saturating_duration_since(*at) < every);
        let key = (namespace.to_owned(), name.to_owned());
        match written.get(&key) {
            Some(at) if may_wait => Some(every.saturating_sub(now.saturating_duration_since(*at))),
            _ => {
                written.insert(key, now);
                None
            }
        }
    }
}

/// Why something could not be read or written. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server says no, or cannot be reached.
    #[error("the API server: {0}")]
    Api(#[from] Box<kube::Error>),
    /// The API server does not answer.
    #[error("the API server does not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

impl Error {
    /// One word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Silent => "TimedOut",
            Self::Api(error) => match &**error {
                kube::Error::Api(status) if status.is_conflict() => "Conflict",
                kube::Error::Api(status) if status.is_forbidden() => "Forbidden",
                kube::Error::Api(status) if status.code == 429 => "TooManyRequests",
                kube::Error::Api(status) if status.code >= 500 => "ServerError",
                kube::Error::Api(_) => "Refused",
                _ => "Unreachable",
            },
        }
    }
}

/// Parameters of every write: fields of other writers stay theirs, ours are taken back.
pub fn server_side_apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

impl Context {
    /// Puts the parts together.
    pub fn new(
        client: Client,
        world: World,
        recorder: Recorder,
        metrics: Arc<Metrics>,
        checksums: Checksums,
    ) -> Self {
        Self { client, world, metrics, checksums, pacer: Pacer::default(), recorder }
    }

    /// A write to the API server, counted and bounded.
    pub async fn write<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        self.metrics.write();
        self.read(request).await
    }

    /// A question to the API server, bounded.
    pub async fn read<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|error| Error::Api(Box::new(error))),
            Err(_) => Err(Error::Silent),
        }
    }

    /// A deletion; what is gone already is as good as deleted.
    pub async fn delete<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<(), Error> {
        match self.write(request).await {
            Ok(_) => Ok(()),
            Err(Error::Api(error)) if matches!(&*error, kube::Error::Api(status) if status.is_not_found()) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the story of an object, for `kubectl describe`. A story that cannot be told stops nothing.
    ///
    /// Events of the same reason are counted as one, under the first one's note, unless they are about something
    /// else: `related`.
    pub async fn tell(
        &self,
        about: &ObjectReference,
        type_: EventType,
        told: (&str, String),
        related: Option<ObjectReference>,
    ) {
        let (reason, note) = told;
        let event = Event {
            type_,
            reason: reason.to_owned(),
            // The API server takes no longer one.
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: related,
        };
        if let Err(error) = self.write(self.recorder.publish(&event, about)).await {
            warn!(%error, reason, "an Event could not be written");
        }
    }
}

impl Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("world", &self.world).finish_non_exhaustive()
    }
}
