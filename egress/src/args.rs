//! The flags by which a process is told what it may reach: the same for an agent and an operator.

use crate::{Allowance, Egress};

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EgressArgs {
    /// Read `http://` sources, or their checksum files, too. Bytes are still checked against the digest, but anyone on the
    /// path can see them, and can change a checksum file.
    #[arg(long, env = "TERRACE_ALLOW_HTTP_SOURCES")]
    pub allow_http_sources: bool,

    /// What may be reached of sources, their checksum files and tiers: a host name, an address or a network. Repeatable.
    /// Without one, everything but loopback and link-local addresses and the cluster's API server; with one, only what is
    /// listed.
    #[arg(
        long = "allow-upstream",
        env = "TERRACE_ALLOW_UPSTREAM",
        value_name = "HOST|CIDR",
        value_delimiter = ','
    )]
    pub allow_upstream: Vec<Allowance>,

    /// The address of the cluster's API server, as every pod is told it: not reached unless it is listed.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    kubernetes_service_host: Option<String>,
}

impl EgressArgs {
    /// What may be reached, in a process that knows its cluster's API server at this host, too.
    pub fn egress(&self, api_server: Option<&str>) -> Egress {
        let guarded = self.kubernetes_service_host.as_deref().into_iter().chain(api_server);
        Egress::new(self.allow_upstream.clone()).guarding(guarded)
    }
}
