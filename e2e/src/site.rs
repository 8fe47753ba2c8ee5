//! Where one agent lives: its manifests, its data directory, the files that it may be offered.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use crate::agent::Launch;
use crate::manifests::Manifests;

/// A temporary folder that outlives the agents in it.
#[derive(Debug)]
pub struct Site(TempDir);

impl Site {
    /// An empty site.
    pub fn new() -> Result<Self> {
        let site = Self(TempDir::with_prefix("terrace-e2e-")?);
        for folder in [site.0.path().join("manifests"), site.files()] {
            fs::create_dir(folder)?;
        }
        Ok(site)
    }

    /// The manifests that its agents follow.
    pub fn manifests(&self) -> Manifests {
        Manifests::at(self.0.path().join("manifests"))
    }

    /// The data directory of its agents.
    pub fn data_dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// The first file root of its agents; the second holds the digits.
    pub fn files(&self) -> PathBuf {
        self.0.path().join("files")
    }

    /// Puts a file below the file root, as a whole.
    pub fn offer(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let new = self.0.path().join("new-file");
        fs::write(&new, bytes)?;
        Ok(fs::rename(new, self.files().join(name))?)
    }

    /// An agent to be started here.
    pub fn agent(&self) -> Launch {
        Launch::at(self)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Every file below the data directory, with its path relative to it.
    pub fn stored(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut folders = vec![self.data_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = fs::read(&path) {
                    // One that is gone meanwhile was temporary.
                    found.push((path.strip_prefix(self.data_dir())?.display().to_string(), bytes));
                }
            }
        }
        Ok(found)
    }
}
