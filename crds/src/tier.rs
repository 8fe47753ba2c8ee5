//! Where an answer can come from.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place that can answer: the node itself, the site's gateway, or the cloud.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Tier {
    /// The node that the caller runs on.
    #[default]
    Device,
    /// The gateway of the node's site.
    Edge,
    /// The data centre.
    Cloud,
}

impl Tier {
    /// Every tier, nearest first.
    pub const ALL: [Self; 3] = [Self::Device, Self::Edge, Self::Cloud];

    /// The name on the wire, in metrics and in flags: `device`, `edge`, `cloud`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Edge => "edge",
            Self::Cloud => "cloud",
        }
    }

    /// The tier with this name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
