//! Command line and environment: everything that can be configured, in one place.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser};
use terrace_egress::EgressArgs;

/// The operator: reconciles models, policies and nodes, and hands each node's agent its spec.
///
/// Talks to the cluster whose ServiceAccount it is given, or to the one that KUBECONFIG names.
#[derive(Clone, Debug, Parser)]
#[command(name = "terrace-operator", version)]
pub struct Args {
    /// Health and metrics.
    #[arg(long, env = "TERRACE_LISTEN_ADMIN", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8082")]
    pub listen_admin: SocketAddr,

    /// The namespace of the agents' pods.
    #[arg(long, env = "TERRACE_AGENT_NAMESPACE", value_name = "NAMESPACE", default_value = "terrace-agents")]
    pub agent_namespace: String,

    /// The label that the agents' pods have.
    #[arg(
        long,
        env = "TERRACE_AGENT_SELECTOR",
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/name=terrace-agent"
    )]
    pub agent_selector: String,

    /// The namespace of the lease that says which replica leads.
    #[arg(long, env = "TERRACE_LEASE_NAMESPACE", value_name = "NAMESPACE", default_value = "terrace-system")]
    pub lease_namespace: String,

    /// How long a leader that went silent is waited for. It renews three times in this time.
    #[arg(long, env = "TERRACE_LEASE_DURATION", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,

    /// The name of this replica: its pod's.
    #[arg(long, env = "TERRACE_IDENTITY", value_name = "NAME")]
    pub identity: String,

    /// What it may reach: it reads checksum files.
    #[command(flatten)]
    pub reach: EgressArgs,

    /// The longest that a shutdown waits for what is being written.
    #[arg(long, env = "TERRACE_SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub shutdown_timeout: Duration,

    /// Which log lines are written: `info`, `warn,terrace_operator=debug` …
    #[arg(long, env = "TERRACE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How log lines are written: `text` or `json`.
    #[arg(long, env = "TERRACE_LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_parser = terrace_telemetry::Format::parse)]
    pub log_format: terrace_telemetry::Format,
}

impl Args {
    /// The arguments of this process; a variable that is empty counts as not set. Ends it where they are wrong.
    pub fn read() -> Self {
        let matches = Self::command().mut_args(without_empty).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Self::command()).exit())
    }
}

/// An argument that does not read its variable, where that is there and empty.
#[allow(clippy::disallowed_methods)] // clap reads the others itself
fn without_empty(arg: Arg) -> Arg {
    let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { arg.env(Resettable::Reset) } else { arg }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<terrace_crds::Duration>().map(Into::into).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/kubernetes.md");

    #[test]
    fn the_page_has_every_flag_with_its_variable_and_default() {
        let mut command = Args::command();
        command.build();
        for arg in command.get_arguments().filter(|arg| arg.get_env().is_some() && !arg.is_hide_set()) {
            let (flag, variable) = (arg.get_long().unwrap(), arg.get_env().unwrap().to_string_lossy());
            let row = PAGE.lines().find(|line| line.starts_with(&format!("| `--{flag}")));
            let row = row.unwrap_or_else(|| panic!("docs/kubernetes.md lacks --{flag}"));
            assert!(row.contains(&format!("`{variable}`")), "{row}");
            if let Some(default) =
                arg.get_default_values().first().filter(|_| arg.get_action().takes_values())
            {
                assert!(row.contains(&format!("`{}`", default.to_string_lossy())), "{row}");
            }
        }
    }
}
