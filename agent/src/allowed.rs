//! What an agent may read and reach, by its flags; the same flags tell `terrace-agent check`.

use std::path::PathBuf;

use terrace_egress::{Egress, EgressArgs};

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Allowed {
    /// Folder below which `file://` sources are read: `file:///a.onnx` is DIR/a.onnx. Repeatable; the first
    /// folder that has the file wins. Without one, no `file://` source is read.
    #[arg(long = "file-root", env = "TERRACE_FILE_ROOTS", value_name = "DIR", value_delimiter = ',')]
    pub file_roots: Vec<PathBuf>,

    /// What it may reach.
    #[command(flatten)]
    reach: EgressArgs,
}

impl Allowed {
    /// What may be reached, in a process that knows its cluster's API server at this host, too.
    pub fn egress(&self, api_server: Option<&str>) -> Egress {
        self.reach.egress(api_server)
    }

    /// Whether `http://` sources are read.
    pub const fn allows_http(&self) -> bool {
        self.reach.allow_http_sources
    }

    /// Whether anything was said.
    pub fn is_given(&self) -> bool {
        let EgressArgs { allow_http_sources, allow_upstream, .. } = &self.reach;
        !self.file_roots.is_empty() || *allow_http_sources || !allow_upstream.is_empty()
    }
}
