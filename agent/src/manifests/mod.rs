//! The manifests of a standalone agent: a folder of the YAML that `kubectl apply` takes, followed as it changes.
//!
//! The agent's desired state comes from here. [`Follower`] reads and checks the folder; [`accept`] decides, purely,
//! what of it is in force; the caller keeps [`Accepted`] in its journal and plans from it. Nothing here may touch the
//! network, the engine or the store.

mod accept;
mod check;
mod document;
mod doubts;
mod fault;
mod flags;
mod folder;
mod plain;
mod watch;
mod yaml;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use accept::{Accepted, FileSet, Reading, accept};
pub(crate) use check::{Checked, Input, check, read_folder, read_text};
pub(crate) use doubts::{Doubt, doubts};
pub(crate) use fault::Fault;
pub(crate) use flags::Flags;
pub(crate) use folder::{FolderError, MOST_BYTES};
pub(crate) use plain::read_plain;

use document::Context;
use watch::{Timing, Watch};

/// What whoever follows the manifests allows: an agent, by its flags. Asked once the text is well-formed; an `Err` is told to
/// the manifest's author, and should say which flag would allow it.
pub(crate) trait Admission: Send + Sync {
    /// Whether a model or a file of cases may come from here.
    fn source(&self, uri: &str) -> Result<(), String>;
    /// Whether requests may be forwarded here.
    fn tier(&self, url: &str) -> Result<(), String>;
    /// Whether a checksum file may come from here.
    fn checksums(&self, uri: &str) -> Result<(), String> {
        self.source(uri)
    }
    /// Whether a tier may be found by the site of a node.
    fn site(&self) -> Result<(), String> {
        Err("needs a cluster, whose operator finds the agents of a site; a standalone agent knows no other: give a url, in which {site} stands for the value of --node-label topology.kubernetes.io/zone=…".to_owned())
    }
    /// Whether documents of kinds that are not ours may stand beside them.
    fn passes_over_others(&self) -> bool {
        false
    }
}

/// Follows a folder of manifests.
pub(crate) struct Follower {
    folder: Folder,
    watch: Watch,
    /// The folder has to be read.
    due: bool,
    last: Option<Outcome>,
}

/// How the last reading went; the error as text, since errors cannot be compared.
type Outcome = Result<Reading, String>;

#[derive(Clone)]
struct Folder {
    dir: PathBuf,
    default_namespace: String,
    admission: Arc<dyn Admission>,
}

impl Follower {
    /// Follows `dir`, which need not exist yet. Manifests that state no namespace are in `default_namespace`.
    pub(crate) fn new(dir: &Path, default_namespace: &str, admission: Arc<dyn Admission>) -> Self {
        let folder =
            Folder { dir: dir.to_owned(), default_namespace: default_namespace.to_owned(), admission };
        // The watch begins before the first reading, so that no change falls between the two.
        Self { folder, watch: Watch::start(dir, Timing::default()), due: true, last: None }
    }

    /// The folder as it is: at once the first time, then whenever something in it is not as it was. A call that is
    /// dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Reading, FolderError> {
        loop {
            if !self.due {
                self.watch.changed().await;
                self.due = true;
            }
            let folder = self.folder.clone();
            let read = match tokio::task::spawn_blocking(move || folder.read()).await {
                Ok(read) => read,
                Err(error) => Err(folder::unreadable(&self.folder.dir, error.into())),
            };
            self.due = false;
            let outcome = match &read {
                Ok(reading) => Ok(reading.clone()),
                Err(error) => Err(error.to_string()),
            };
            if self.last.as_ref() != Some(&outcome) {
                self.last = Some(outcome);
                return read;
            }
        }
    }
}

impl Folder {
    fn read(&self) -> Result<Reading, FolderError> {
        let context =
            Context { default_namespace: &self.default_namespace, admission: self.admission.as_ref() };
        folder::read(&self.dir, &context)
    }
}

#[cfg(test)]
mod tests;
