//! The data directory: content-addressed blobs, journals, and the lock that says whose it is.
//!
//! Called by `fetch` (writes blobs), `sync` and `standalone` (journals, sweeping, reading blobs) and `main` (the
//! lock). Everything here blocks on the disk: call it from `spawn_blocking`. Must not import a runtime or the network,
//! and decides nothing about models.
//!
//! ```text
//! <data>/lock                 exclusive: who may write, fetch and sweep
//! <data>/blobs/sha256/<hex>   whole files that match their name, or are removed when that is found out
//! <data>/tmp/                 what is being written
//! <data>/journal/             small JSON files, each replaced as a whole
//! ```
//!
//! Any number of processes may read. Whoever holds [`lock::DataLock`] alone writes. Whatever is renamed into place was
//! synced before, so a kill or a power loss leaves the old file, the new one, or something to sweep.
//!
//! Messages of errors are whole, with their cause: they stand in statuses, where nobody walks a chain.

mod blobs;
mod disk;
pub mod journal;
pub mod lock;

use std::io;
use std::path::PathBuf;

pub use blobs::{BlobWriter, CommitError, ReadError, Store};

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else has the name of a folder.
    #[error("{} is not a directory; choose another --data-dir, or move what is there away", path.display())]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// This process may not do it there.
    #[error("cannot {action} {}: {cause}; the agent's user must own --data-dir and may need it mounted writable", path.display())]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// No folder can be made there: it is no file system for it.
    #[error("cannot create {}: {cause}; choose another --data-dir, where the agent's user may make folders", path.display())]
    NoFolder {
        /// What was to be made.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// There is no room.
    #[error("no room for {}: {needed} bytes are needed at least; free disk space or quota there, or choose another --data-dir", path.display())]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
        /// How much of it was known to be coming.
        needed: u64,
    },
    /// The disk or the file system failed.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// A value has no JSON form.
    #[error("cannot write {} as JSON: {cause}", path.display())]
    Json {
        /// The file that was to hold it.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NotADirectory { .. } => io::ErrorKind::NotADirectory,
            StoreError::DiskFull { .. } => io::ErrorKind::StorageFull,
            StoreError::NotPermitted { cause, .. }
            | StoreError::NoFolder { cause, .. }
            | StoreError::Io { cause, .. } => cause.kind(),
            StoreError::Json { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
