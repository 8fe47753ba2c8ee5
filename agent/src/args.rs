//! Every setting of the agent: flags, each also an environment variable.

mod bytes;
mod environment;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use terrace_crds::Tier;

use crate::allowed::Allowed;
use crate::callers::CallerArgs;
use crate::tools::Tool;

/// Serves ONNX models on this node, and decides per request whether the device, the edge or the cloud answers.
#[derive(Clone, Debug, Parser)]
#[command(name = "terrace-agent", version, max_term_width = 110, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Something else than serving.
    #[command(subcommand)]
    pub tool: Option<Tool>,

    /// Folder of InferenceModel and TierPolicy YAML that this agent follows on its own, without Kubernetes. Without
    /// it the agent follows its node's InferenceNode in the cluster.
    #[arg(long, env = "TERRACE_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// The node's name in the cluster. Default: the one in the token of the agent's pod.
    #[arg(long, env = "TERRACE_NODE_NAME", value_name = "NAME", conflicts_with = "manifests")]
    pub node_name: Option<String>,

    /// Folder that the agent owns: fetched models, and what it needs to serve again after a restart.
    #[arg(long, env = "TERRACE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/terrace")]
    pub data_dir: PathBuf,

    /// ONNX Runtime's shared library, version 1.24 or newer.
    #[arg(long, env = "TERRACE_ONNXRUNTIME", value_name = "FILE", default_value = "libonnxruntime.so")]
    pub onnxruntime: PathBuf,

    /// Address of the Open Inference Protocol over HTTP.
    #[arg(long, env = "TERRACE_LISTEN_HTTP", value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen_http: SocketAddr,

    /// Address of the Open Inference Protocol over gRPC.
    #[arg(long, env = "TERRACE_LISTEN_GRPC", value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    pub listen_grpc: SocketAddr,

    /// Who may call the data ports.
    #[command(flatten)]
    pub callers: CallerArgs,

    /// Address of health, status and metrics.
    #[arg(long, env = "TERRACE_LISTEN_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:8002")]
    pub listen_admin: SocketAddr,

    /// The tier that this node is. In a cluster the node's label terrace.dev/tier says so instead.
    #[arg(long, env = "TERRACE_TIER", value_name = "TIER", default_value = "device", value_parser = tier)]
    pub tier: Tier,

    /// A label of this node, which models may select by. Repeatable.
    #[arg(long = "node-label", env = "TERRACE_NODE_LABELS", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,

    /// Namespace of models that a client names without one, and of manifests that state none.
    #[arg(long, env = "TERRACE_DEFAULT_NAMESPACE", value_name = "NAME", default_value = "default")]
    pub default_namespace: String,

    /// What it may read and reach.
    #[command(flatten)]
    pub allowed: Allowed,

    /// Folder of credentials for tiers: DIR/NAMESPACE/NAME/{token,username,password,ca.crt,tls.crt,tls.key}, each usable by
    /// resources of that namespace alone, read again when they change.
    #[arg(long, env = "TERRACE_CREDENTIALS_DIR", value_name = "DIR")]
    pub credentials_dir: Option<PathBuf>,

    /// The largest request body, in bytes.
    #[arg(long, env = "TERRACE_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 64 << 20, value_parser = bytes::parse::<usize>)]
    pub max_body_bytes: usize,

    /// The most bytes of requests that are held at once, from the first byte read to the answer, and of large answers until
    /// they are taken; more are refused with 429.
    #[arg(long, env = "TERRACE_MAX_HELD_BYTES", value_name = "BYTES", default_value_t = 256 << 20, value_parser = bytes::parse::<usize>)]
    pub max_held_bytes: usize,

    /// The largest model file, in bytes.
    #[arg(long, env = "TERRACE_MAX_MODEL_BYTES", value_name = "BYTES", default_value_t = 8 << 30, value_parser = bytes::parse::<u64>)]
    pub max_model_bytes: u64,

    /// The most connections at once on the data port; more wait to be accepted.
    #[arg(long, env = "TERRACE_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4096)]
    pub max_connections: usize,

    /// Requests that may wait for one model; more are refused with 429.
    #[arg(long, env = "TERRACE_QUEUE", value_name = "COUNT", default_value_t = 128)]
    pub queue: usize,

    /// The longest that a shutdown waits for requests in flight: `30s`.
    #[arg(long, env = "TERRACE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// How long a shutdown goes on accepting after it reports not ready, so that callers are sent elsewhere.
    #[arg(long, env = "TERRACE_SHUTDOWN_DELAY", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub shutdown_delay: Duration,

    /// File that decisions are recorded in, for `terrace-agent simulate`; of a private request nothing but that it
    /// came, and how its answer went.
    #[arg(long, env = "TERRACE_RECORD_DECISIONS", value_name = "FILE")]
    pub record_decisions: Option<PathBuf>,

    /// How large that file may become; the one before it is kept as FILE.1.
    #[arg(long, env = "TERRACE_RECORD_MAX_BYTES", value_name = "BYTES", default_value_t = 64 << 20, value_parser = bytes::parse::<u64>)]
    pub record_max_bytes: u64,

    /// Which log lines are written: `info`, `warn,terrace_agent=debug` …
    #[arg(long, env = "TERRACE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How log lines are written.
    #[arg(long, env = "TERRACE_LOG_FORMAT", value_name = "FORMAT", default_value = "text", value_parser = terrace_telemetry::Format::parse)]
    pub log_format: terrace_telemetry::Format,
}

impl Args {
    /// Addresses of the data ports, with the flags that name them.
    pub const fn data_ports(&self) -> [(&'static str, SocketAddr); 2] {
        [("--listen-http", self.listen_http), ("--listen-grpc", self.listen_grpc)]
    }

    /// The arguments of this process. Ends it where they are wrong, each or together.
    pub fn read() -> Self {
        let matches = environment::without_empty(Self::command()).get_matches();
        let args = Self::from_arg_matches(&matches)
            .unwrap_or_else(|error| error.format(&mut Self::command()).exit());
        if args.tool.is_some() {
            return args;
        }
        if let Err(fault) = args.callers.check(&args.data_ports()) {
            Self::command().error(ErrorKind::ArgumentConflict, fault).exit();
        }
        args
    }
}

/// A tier by its name.
pub fn tier(name: &str) -> Result<Tier, String> {
    Tier::parse(name).ok_or_else(|| "expected device, edge or cloud".to_owned())
}

/// A label as `KEY=VALUE`.
pub fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<terrace_crds::Duration>().map(Into::into).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Arg, ArgAction, CommandFactory as _};

    use super::*;

    const PAGE: &str = include_str!("../../docs/standalone.md");
    const UNIT: &str = include_str!("../../packaging/systemd/terrace-agent.service");
    const SETTINGS: &str = include_str!("../../packaging/systemd/terrace-agent.env");

    fn flags() -> Vec<Arg> {
        let mut command = Args::command();
        command.build();
        command.get_arguments().filter(|arg| arg.get_env().is_some() && !arg.is_hide_set()).cloned().collect()
    }

    /// How the page's table begins to tell of a flag: flag, variable and default.
    fn row(arg: &Arg) -> String {
        let flag = arg.get_long().unwrap();
        let value = match arg.get_value_names() {
            Some(names) if arg.get_action().takes_values() => format!(" {}", names[0].replace('|', "\\|")),
            _ => String::new(),
        };
        let several = if matches!(arg.get_action(), ArgAction::Append) { " ⁺" } else { "" };
        let default = match arg.get_default_values() {
            [default] => format!("`{}`", default.to_str().unwrap()),
            _ if arg.is_required_set() => "required".to_owned(),
            _ => "none".to_owned(),
        };
        format!("| `--{flag}{value}`{several} | `{}` | {default} |", variable(arg))
    }

    fn variable(arg: &Arg) -> &str {
        arg.get_env().unwrap().to_str().unwrap()
    }

    #[test]
    fn the_page_has_every_flag_with_its_variable_and_default_and_no_other() {
        let expected: Vec<String> = flags().iter().map(row).collect();
        let found: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `--")).collect();
        for row in &expected {
            assert!(found.iter().any(|line| line.starts_with(row)), "docs/standalone.md lacks\n{row}");
        }
        assert_eq!(found.len(), expected.len(), "docs/standalone.md has a flag that the agent has not");
    }

    /// `NAME=value` lines, those that are commented out included.
    fn settings(text: &str) -> BTreeMap<&str, &str> {
        let lines = text.lines().map(|line| line.trim_start_matches('#').trim_start_matches("Environment="));
        lines.filter(|line| line.starts_with("TERRACE_")).filter_map(|line| line.split_once('=')).collect()
    }

    #[test]
    fn the_unit_and_its_settings_are_what_the_agent_reads() {
        let start = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let mut line: Vec<String> = start.split_whitespace().map(str::to_owned).collect();
        let (ours, yours) = (settings(UNIT), settings(SETTINGS));
        assert!(ours.len() >= 3 && yours.len() >= 8, "{ours:?} {yours:?}");
        for (name, value) in ours.into_iter().chain(yours) {
            let flags = flags();
            let flag = flags.iter().find(|arg| variable(arg) == name);
            line.push(format!("--{}={value}", flag.expect(name).get_long().unwrap()));
        }
        let args = Args::try_parse_from(line).unwrap();
        let patience = UNIT.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        assert!(duration(patience).unwrap() > args.drain_timeout + args.shutdown_delay);
        assert!(UNIT.contains("\nKillSignal=SIGTERM\n"), "the signal that drains");
    }
}
