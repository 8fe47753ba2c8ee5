//! What an agent may read and reach, by its flags; the same flags tell `terrace-agent check`.

use std::path::PathBuf;

use terrace_egress::{Allowance, Egress};

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Allowed {
    /// Folder below which `file://` sources are read: `file:///a.onnx` is DIR/a.onnx. Repeatable; the first
    /// folder that has the file wins. Without one, no `file://` source is read.
    #[arg(long = "file-root", env = "TERRACE_FILE_ROOTS", value_name = "DIR", value_delimiter = ',')]
    pub file_roots: Vec<PathBuf>,

    /// Read `http://` sources too. Their bytes are still checked against the digest, but anyone on the path can
    /// see them, and can change a checksum file.
    #[arg(long, env = "TERRACE_ALLOW_HTTP_SOURCES")]
    pub allow_http_sources: bool,

    /// What sources and tiers may be reached: a host name, an address or a network. Repeatable. Without one,
    /// everything but loopback and link-local addresses and the cluster's API server; with one, only what is listed.
    #[arg(
        long = "allow-upstream",
        env = "TERRACE_ALLOW_UPSTREAM",
        value_name = "HOST|CIDR",
        value_delimiter = ','
    )]
    pub allow_upstream: Vec<Allowance>,

    /// The address of the cluster's API server, as every pod is told it: not reached unless it is listed.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub kubernetes_service_host: Option<String>,
}

impl Allowed {
    /// What may be reached, in a process that knows its cluster's API server at this host, too.
    pub fn egress(&self, api_server: Option<&str>) -> Egress {
        let guarded = self.kubernetes_service_host.as_deref().into_iter().chain(api_server);
        Egress::new(self.allow_upstream.clone()).guarding(guarded)
    }

    /// Whether anything was said.
    pub fn is_given(&self) -> bool {
        !self.file_roots.is_empty() || self.allow_http_sources || !self.allow_upstream.is_empty()
    }
}
