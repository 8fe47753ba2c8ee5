//! docs/experiment.md says what its results say, its scripts compute what they should, and real agents do the same.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use terrace_e2e::agent::{executable, onnxruntime};
use terrace_e2e::checkout;

fn script() -> PathBuf {
    checkout().join("docs/experiment/script")
}

/// Runs Python in the folder of the scripts.
fn python(arguments: &[&str]) -> Result<()> {
    let python = checkout().join(".tools/venv/test/bin/python");
    ensure!(python.exists(), "there is no {}: run `make test`, which makes it", python.display());
    let mut command = Command::new(python);
    command.arg("-B").args(arguments).current_dir(script()).stdin(Stdio::null());
    command.env("TERRACE_AGENT_BIN", executable("terrace-agent")?);
    command.env("TERRACE_ONNXRUNTIME", onnxruntime().context("no ONNX Runtime: run `make test`")?);
    let output = command.output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{out}\n{err}");
    Ok(())
}

#[test]
fn the_page_has_the_figures_of_the_results() -> Result<()> {
    python(&["page.py", "--check"])
}

#[test]
fn the_scripts_compute_what_their_definitions_say() -> Result<()> {
    python(&["-m", "unittest", "-q", "test_parts"])
}

#[test]
fn real_agents_are_as_sure_and_as_right_as_the_scripts() -> Result<()> {
    python(&["agents.py"])
}
