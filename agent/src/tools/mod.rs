//! What the agent's program does besides serving: it checks manifests, explains a decision, and replays recorded ones.
//! Each runs to its end without network, engine or data directory.

mod check;
mod explain;
mod policy;
mod simulate;

use std::fs::File;
use std::io::{self, Read as _};
use std::process::ExitCode;

use clap::Subcommand;

/// The name of standard input.
const STDIN: &str = "-";

/// What else the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Say what an operator would say of InferenceModels and TierPolicies.
    Check(check::Args),
    /// Say which tier a policy gives a request to, and why, without running anything.
    Explain(explain::Args),
    /// Replay recorded decisions against a policy.
    Simulate(simulate::Args),
}

/// Runs a tool.
pub fn run(tool: &Tool) -> ExitCode {
    let ran = match tool {
        Tool::Check(args) => check::run(args, &mut io::stdout().lock()),
        Tool::Explain(args) => explain::run(args, &mut io::stdout().lock()).map(|()| true),
        Tool::Simulate(args) => simulate::run(args, &mut io::stdout().lock()).map(|()| true),
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("terrace-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A file's text, or that of standard input; no more than `limit` bytes.
fn text(file: &str, limit: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = if file == STDIN {
        io::stdin().take(limit + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|opened| opened.take(limit + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| anyhow::anyhow!("{file} cannot be read: {error}"))?;
    if bytes.len() as u64 > limit {
        anyhow::bail!("{file} is larger than {} KiB, the most that is read", limit >> 10);
    }
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{file} is not UTF-8"))
}

/// What a tool's command line says.
#[cfg(test)]
fn parsed<A, I>(line: I) -> Result<A, clap::Error>
where
    A: clap::Args,
    I: IntoIterator<Item: Into<std::ffi::OsString> + Clone>,
{
    #[derive(clap::Parser)]
    struct Line<A: clap::Args> {
        #[command(flatten)]
        args: A,
    }
    <Line<A> as clap::Parser>::try_parse_from(line).map(|line| line.args)
}
