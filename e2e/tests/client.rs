//! Triton's own client, from PyPI, speaks to the agent.

use std::process::Stdio;

use anyhow::{Result, ensure};
use terrace_e2e::{checkout, digits, scenes};

#[tokio::test]
async fn tritons_python_client_works() -> Result<()> {
    let (_site, agent) = scenes::device().await?;
    let python = checkout().join(".tools/venv/test/bin/python");
    ensure!(python.exists(), "there is no {}: run `make test`, which makes it", python.display());
    let mut suite = std::process::Command::new(python);
    suite
        .arg(checkout().join("e2e/tests/tritonclient_suite.py"))
        .arg(agent.http.to_string())
        .arg(digits::folder())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || suite.output()).await??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}\nthe agent's log:\n{}", agent.log());
    Ok(())
}
