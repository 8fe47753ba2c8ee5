//! C programs that do a part of what an agent does, as little as that takes: the floors of what is measured.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::checkout;

/// One, compiled; gone when dropped.
pub struct Program {
    folder: TempDir,
}

/// One that runs until it is dropped.
pub struct Running(Child);

impl Program {
    /// Compiles `e2e/bench/NAME.c` with `cc`.
    pub fn compile(name: &str, libraries: &[&str]) -> Result<Self> {
        let program = Self { folder: TempDir::with_prefix("terrace-bench-")? };
        let source = checkout().join("e2e/bench").join(name).with_extension("c");
        let compiled = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(program.path())
            .arg(&source)
            .args(libraries)
            .status()
            .context("a C compiler is needed: cc")?;
        ensure!(compiled.success(), "{} does not compile", source.display());
        Ok(program)
    }

    /// What runs it.
    pub fn command(&self) -> Command {
        Command::new(self.path())
    }

    /// A folder that is gone with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self) -> PathBuf {
        self.folder().join("program")
    }
}

impl Running {
    /// Starts it.
    pub fn begin(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }

    /// Starts it, and waits for its first line.
    pub fn start(command: &mut Command) -> Result<(Self, String)> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let said = child.stdout.take().context("no output")?;
        let running = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        Ok((running, line.trim().to_owned()))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
