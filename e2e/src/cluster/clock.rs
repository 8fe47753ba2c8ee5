//! A wall clock that is wrong, for one process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::checkout;

/// Compiles the library that shifts the clock of the process it is loaded into.
pub fn compile(folder: &Path) -> Result<PathBuf> {
    let library = folder.join("clock.so");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(checkout().join("e2e/src/cluster/clock.c"))
        .arg("-ldl")
        .status()
        .context("a C compiler is needed: cc")?;
    ensure!(compiled.success(), "e2e/src/cluster/clock.c does not compile");
    Ok(library)
}
