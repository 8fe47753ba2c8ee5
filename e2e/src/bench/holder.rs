//! A C program that holds the sessions which an agent holds: the floor of its start and of its memory.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{agent, checkout, digits};

/// The program, compiled.
pub struct Holder {
    folder: TempDir,
    library: PathBuf,
}

/// A holder that has run each of its models once and waits. Ends when dropped.
pub struct Holding(Child);

impl Holder {
    /// Compiles it with `cc`.
    pub fn compile() -> Result<Self> {
        let folder = TempDir::with_prefix("terrace-bench-")?;
        let program = folder.path().join("holder");
        let compiled = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(&program)
            .arg(checkout().join("e2e/bench/holder.c"))
            .arg("-ldl")
            .status()
            .context("a C compiler is needed: cc")?;
        ensure!(compiled.success(), "e2e/bench/holder.c does not compile");
        let library = agent::onnxruntime().context("ONNX Runtime is missing: run `make setup`")?;
        Ok(Self { folder, library })
    }

    /// Runs it with these models of the digits until it is ready.
    pub fn start(&self, models: &[&str]) -> Result<Holding> {
        let models = models.iter().map(|name| digits::folder().join(format!("models/{name}.onnx")));
        let mut child = Command::new(self.folder.path().join("holder"))
            .arg(&self.library)
            .args(models)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().context("no output")?;
        BufReader::new(said).read_line(&mut line)?;
        let holding = Holding(child);
        ensure!(line.trim() == "ready", "the holder says {line:?}");
        Ok(holding)
    }
}

impl Holding {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
