//! What the agent's program does besides serving: it checks manifests, explains a decision, and replays recorded ones.
//! Each runs to its end without network, engine or data directory.

mod check;
mod explain;
mod given;
mod simulate;
mod sited;

use std::fs::File;
use std::io::{self, Read as _};
use std::process::ExitCode;

use clap::Subcommand;

/// The name of standard input.
const STDIN: &str = "-";

/// What else the program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Say what an operator and a standalone agent would say of InferenceModels and TierPolicies.
    Check(check::Args),
    /// Say which tier a policy gives a request to, and why, without running anything.
    Explain(explain::Args),
    /// Replay recorded decisions against a policy.
    Simulate(simulate::Args),
}

/// Runs a tool.
pub fn run(tool: &Tool) -> ExitCode {
    let (mut out, mut warnings) = (io::stdout().lock(), io::stderr().lock());
    let ran = match tool {
        Tool::Check(args) => check::run(args, &mut out, &mut warnings),
        Tool::Explain(args) => explain::run(args, &mut out).map(|()| true),
        Tool::Simulate(args) => simulate::run(args, &mut out).map(|()| true),
    };
    drop(warnings);
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Who reads has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terrace-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
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

/// How many: `1 model`, `2 models`.
fn count(count: usize, of: &str) -> String {
    match (count, of.strip_suffix('y')) {
        (1, _) => format!("1 {of}"),
        (count, Some(start)) => format!("{count} {start}ies"),
        (count, None) => format!("{count} {of}s"),
    }
}

/// The first of some names.
fn listed(names: impl Iterator<Item = String>, most: usize) -> String {
    let mut names: Vec<String> = names.take(most + 1).collect();
    if names.len() > most {
        names.truncate(most);
        names.push("…".to_owned());
    }
    names.join(", ")
}

/// The arguments that a line gives, without the program's name.
#[cfg(test)]
fn parsed<A: clap::Args>(
    line: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("tool").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_several() {
        assert_eq!([count(1, "policy"), count(0, "policy")], ["1 policy", "0 policies"]);
        assert_eq!([count(1, "model"), count(2, "model")], ["1 model", "2 models"]);
        let names = || ["a", "b", "c"].into_iter().map(str::to_owned);
        assert_eq!([listed(names(), 3), listed(names(), 2)], ["a, b, c", "a, b, …"]);
    }
}
