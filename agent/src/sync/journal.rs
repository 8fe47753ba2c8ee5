//! What the node must know to serve again after any end: the last accepted spec, and what served.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use terrace_crds::InferenceNodeSpec;
use terrace_fleet::Sha256;

use super::revision::Revision;
use crate::registry::Registry;
use crate::store::journal::{read_json, tidy, write_json};

/// The journal's file, and what stands in it.
#[derive(Debug)]
pub struct NodeJournal {
    path: PathBuf,
    state: Mutex<State>,
    /// The file does not hold the state: it could not be written.
    behind: AtomicBool,
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
    /// Takes over what serves of the models that are to be served here. One that does not serve now may again.
    fn observe(&mut self, registry: &Registry) {
        let wanted: Vec<Revision> =
            self.spec.iter().flat_map(Revision::all).filter(Revision::is_placed).collect();
        let mut before = std::mem::take(&mut self.serving);
        for key in wanted.iter().map(Revision::key) {
            let name = key.to_string();
            let entry = registry.get(&key);
            let now = entry.as_ref().and_then(|entry| entry.served()).map(|served| (*served.of).clone());
            if let Some(revision) = now.or_else(|| before.remove(&name)) {
                self.serving.insert(name, revision);
            }
        }
    }

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
        Ok(Self { path, state: Mutex::new(state), behind: AtomicBool::new(false) })
    }

    /// Reads the file again: another process may have written it until now.
    pub fn reread(&self) -> io::Result<()> {
        *self.lock() = read_json(&self.path)?.unwrap_or_default();
        Ok(())
    }

    /// Removes what a killed process left beside the file. For who holds the data directory's lock.
    pub fn tidy(&self) -> io::Result<()> {
        tidy(&self.path).map_err(io::Error::from)
    }

    /// What stands in it.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Writes an accepted spec, and what serves now.
    pub fn accept(&self, spec: &InferenceNodeSpec, registry: &Registry) -> io::Result<()> {
        self.write(|state| {
            state.spec = Some(spec.clone());
            state.observe(registry);
        })
    }

    /// Writes what serves now. Whoever writes last has looked last, so that writes may overtake each other.
    pub fn record(&self, registry: &Registry) -> io::Result<()> {
        self.write(|state| state.observe(registry))
    }

    /// Whether the file lacks something: after an end now, the node would serve what it served before.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// Writes what could not be written before.
    pub fn catch_up(&self) -> io::Result<()> {
        if self.is_behind() { self.write_file(&self.lock()) } else { Ok(()) }
    }

    /// Changes the state, and the file after it. A disk that is full must not keep a node from what it is told, which
    /// may be to keep more to itself; so the state holds even where the file cannot be written.
    fn write(&self, edit: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.lock();
        let before = state.clone();
        edit(&mut state);
        if *state == before && !self.is_behind() { Ok(()) } else { self.write_file(&state) }
    }

    fn write_file(&self, state: &State) -> io::Result<()> {
        let written = write_json(&self.path, state).map_err(io::Error::from);
        self.behind.store(written.is_err(), Ordering::Relaxed);
        written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a panic elsewhere cannot have left it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_cannot_be_written_holds_in_memory_and_catches_up() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("journal");
        std::fs::create_dir(&place).unwrap();
        let journal = NodeJournal::open(place.join("node.json")).unwrap();
        // A file where the folder should be: not even root can write there.
        std::fs::remove_dir(&place).unwrap();
        std::fs::write(&place, "").unwrap();
        let spec = InferenceNodeSpec::default();
        let registry = Registry::default();
        assert!(journal.accept(&spec, &registry).is_err() && journal.is_behind());
        assert_eq!(journal.state().spec, Some(spec.clone()));
        assert!(journal.catch_up().is_err() && journal.is_behind());
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
        journal.catch_up().unwrap();
        assert!(!journal.is_behind());
        let again = NodeJournal::open(place.join("node.json")).unwrap();
        assert_eq!(again.state().spec, Some(spec));
    }
}
