//! What the node must know to serve again after any end: the last accepted spec, and what served.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use terrace_crds::InferenceNodeSpec;
use terrace_fleet::Sha256;

use super::revision::Revision;
use crate::registry::ModelKey;
use crate::store::journal::{read_json, write_json};

/// The journal's file, and what stands in it.
#[derive(Debug)]
pub struct NodeJournal {
    path: PathBuf,
    state: Mutex<State>,
}

/// What stands in the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The last accepted spec.
    #[serde(default)]
    pub spec: Option<InferenceNodeSpec>,
    /// For each model, by its full name, the revision that last served.
    #[serde(default)]
    pub serving: BTreeMap<String, Revision>,
}

impl State {
    /// The digests of everything that may be needed again.
    pub fn digests(&self) -> HashSet<Sha256> {
        let wanted = self.spec.iter().flat_map(Revision::all);
        let revisions: Vec<Revision> = wanted.chain(self.serving.values().cloned()).collect();
        revisions.iter().flat_map(Revision::digests).filter_map(|digest| Sha256::parse(digest).ok()).collect()
    }
}

impl NodeJournal {
    /// Reads the journal at `path`; an absent one is empty.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let state = read_json(&path)?.unwrap_or_default();
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// Reads the file again: another process may have written it until now.
    pub fn reread(&self) -> io::Result<()> {
        *self.lock() = read_json(&self.path)?.unwrap_or_default();
        Ok(())
    }

    /// What stands in it.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// The revision of a model that last served.
    pub fn serving(&self, key: &ModelKey) -> Option<Revision> {
        self.lock().serving.get(&key.to_string()).cloned()
    }

    /// Writes an accepted spec.
    pub fn accept(&self, spec: &InferenceNodeSpec) -> io::Result<()> {
        self.write(|state| state.spec = Some(spec.clone()))
    }

    /// Writes that a revision serves.
    pub fn serves(&self, revision: &Revision) -> io::Result<()> {
        self.write(|state| {
            state.serving.insert(revision.key().to_string(), revision.clone());
        })
    }

    /// Forgets what served of every model that `keep` refuses.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        self.write(|state| state.serving.retain(|key, _| keep(key)))
    }

    /// Changes the state on disk first, then in memory, so that memory never knows more than the disk.
    fn write(&self, edit: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.lock();
        let mut next = state.clone();
        edit(&mut next);
        if next != *state {
            write_json(&self.path, &next)?;
            *state = next;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a panic elsewhere cannot have left it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
