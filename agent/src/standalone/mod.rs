//! Decides, without Kubernetes, what this node should serve: manifests → accepted → `fleet::desired` → spec.
//!
//! Sends specs to `sync`, exactly as a watch on this node's InferenceNode would. Keeps what it accepted, and what
//! its checksum files resolved to, in a journal of its own: a manifest that is broken later, or a checksum file that
//! cannot be read any more, takes nothing away.

mod admission;
mod checksums;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use terrace_crds::InferenceNodeSpec;
use terrace_crds::node::{ModelError, ModelPhase};
use terrace_fleet::{ModelPlan, NodeFacts};
use terrace_tiering::Policy;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::egress::Egress;
use crate::fetch::Fetcher;
use crate::manifests::{self, Accepted, Fault, Follower, Reading};
use crate::node::Node;
use crate::registry::ModelKey;
use crate::status::{MANIFESTS_ACCEPTED, Verdict};
use admission::Flags;
use checksums::Checksums;
use state::State;
