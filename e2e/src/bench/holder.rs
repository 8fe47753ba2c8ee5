//! A C program that holds the sessions which an agent holds: the floor of its start and of its memory.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::program::{Program, Running};
use crate::{agent, digits};

/// The program, compiled.
pub struct Holder {
    program: Program,
    library: PathBuf,
}

impl Holder {
    /// Compiles it.
    pub fn compile() -> Result<Self> {
        let library = agent::onnxruntime().context("ONNX Runtime is missing: run `make setup`")?;
        Ok(Self { program: Program::compile("holder", &["-ldl"])?, library })
    }

    /// Runs it with these models of the digits until it has run each once; it then waits.
    pub fn start(&self, models: &[&str]) -> Result<Running> {
        let models = models.iter().map(|name| digits::folder().join(format!("models/{name}.onnx")));
        let (holding, line) = Running::start(self.program.command().arg(&self.library).args(models))?;
        ensure!(line == "ready", "the holder says {line:?}");
        Ok(holding)
    }
}
