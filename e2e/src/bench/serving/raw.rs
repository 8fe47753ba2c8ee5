//! A C program that runs sessions in a loop: what ONNX Runtime gives where there is no server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::question::{Model, bytes_of, file, floats_of};
use crate::agent;
use crate::bench::program::{Program, Running};

/// Longer than any measurement.
const FOR_EVER: Duration = Duration::from_mins(10);

/// The program, compiled.
pub struct Raw {
    program: Program,
    library: PathBuf,
    models: PathBuf,
}

/// What it counted.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    pub per_second: f64,
    /// CPU time of one, in microseconds.
    pub cpu: f64,
}

impl Raw {
    /// Compiles it, for the models in a folder.
    pub fn compile(models: &Path) -> Result<Self> {
        let library = agent::onnxruntime().context("ONNX Runtime is missing: run `make setup`")?;
        let program = Program::compile("raw", &["-ldl", "-lpthread"])?;
        Ok(Self { program, library, models: models.to_owned() })
    }

    /// What a model gives for one row.
    pub fn answer(&self, model: &Model) -> Result<Vec<f32>> {
        let output = self.command(model, 1)?.arg("answer").stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "raw ended with {}", output.status);
        Ok(floats_of(&output.stdout))
    }

    /// Runs so many sessions side by side, so many rows at once.
    pub async fn run(
        &self,
        model: &Model,
        (sessions, rows): (u16, usize),
        warm: Duration,
        time: Duration,
    ) -> Result<Runs> {
        let mut command = self.looping(model, (sessions, rows), warm, time)?;
        let output = tokio::task::spawn_blocking(move || command.stderr(Stdio::inherit()).output()).await??;
        let text = String::from_utf8(output.stdout)?;
        let (runs, cpu) = text.trim().split_once(' ').with_context(|| format!("raw says {text:?}"))?;
        let rows = rows as f64;
        Ok(Runs { per_second: runs.parse::<f64>()? * rows, cpu: cpu.parse::<f64>()? / rows })
    }

    /// Runs a session until what is returned is dropped.
    pub fn busy(&self, model: &Model) -> Result<Running> {
        let mut command = self.looping(model, (1, 1), Duration::ZERO, FOR_EVER)?;
        Running::begin(&mut command)
    }

    fn looping(
        &self,
        model: &Model,
        (sessions, rows): (u16, usize),
        warm: Duration,
        time: Duration,
    ) -> Result<Command> {
        let mut command = self.command(model, rows)?;
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        command.args([sessions.to_string(), seconds(warm), seconds(time)]);
        Ok(command)
    }

    fn command(&self, model: &Model, rows: usize) -> Result<Command> {
        let input = self.program.folder().join(format!("{}-{rows}", model.name));
        if !input.exists() {
            fs::write(&input, bytes_of(&model.input(rows)))?;
        }
        let mut command = self.program.command();
        command.arg(&self.library).arg(file(&self.models, model)).arg(input).arg(model.shape(rows));
        Ok(command)
    }
}
