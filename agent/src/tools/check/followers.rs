//! Who follows manifests, and what each of them allows.

use terrace_fleet::SourceUri;

use crate::manifests::{Admission, Flags};

/// Who follows manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Follower {
    /// An operator, and the agents that it instructs.
    Cluster,
    /// An agent by itself.
    Standalone,
}

impl Follower {
    pub(super) const BOTH: [Self; 2] = [Self::Cluster, Self::Standalone];

    /// That only this one refuses.
    pub(super) const fn alone(self) -> &'static str {
        match self {
            Self::Cluster => "an operator refuses this, a standalone agent does not",
            Self::Standalone => "a standalone agent refuses this, an operator does not",
        }
    }
}

/// What a cluster's operator allows: what may be reached is each agent's to say, but checksum files it reads itself.
pub(super) struct Operator {
    /// Checksum files may come over plain HTTP.
    pub(super) allow_http: bool,
}

impl Admission for Operator {
    fn source(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn tier(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn checksums(&self, uri: &str) -> Result<(), String> {
        let why = match SourceUri::parse(uri).map_err(|error| error.to_string())? {
            SourceUri::Https(_) => return Ok(()),
            SourceUri::Http(_) if self.allow_http => return Ok(()),
            SourceUri::Http(_) => {
                "an operator reads http:// checksum files only with --allow-http-sources; use https://"
            }
            SourceUri::File(_) => {
                "file:// names a file on a node, which an operator cannot read; publish the checksum file over https://, or pin sha256"
            }
        };
        Err(why.to_owned())
    }

    fn site(&self) -> Result<(), String> {
        Ok(())
    }

    fn passes_over_others(&self) -> bool {
        true
    }
}

/// What agents of a cluster that have these flags reach.
pub(super) struct ClusterAgents(pub(super) Flags);

impl Admission for ClusterAgents {
    fn source(&self, uri: &str) -> Result<(), String> {
        self.0.source(uri)
    }

    fn tier(&self, url: &str) -> Result<(), String> {
        self.0.tier(url)
    }

    fn checksums(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn site(&self) -> Result<(), String> {
        Ok(())
    }

    fn passes_over_others(&self) -> bool {
        true
    }
}
