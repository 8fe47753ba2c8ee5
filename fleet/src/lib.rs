//! What a node should serve: from models and policies to the spec of an `InferenceNode`.
//!
//! Called by whoever decides for nodes: the operator, or a standalone agent for itself. Pure: everything that a
//! decision depends on is an argument, and a decision says why. Must not import a runtime, a client, a server or
//! an inference engine, and must not read a clock, the environment, files or randomness.
//!
//! The way of a model: [`ModelPlan::parse`] (checked, once) → [`digest_for`] (which bytes, where a checksum file
//! names them) → [`desired`] (one entry a model, with the name of its revision) → [`fit`]; [`next_sync`] says when to read
//! the checksum file again; [`summarize`] says how the nodes fare with it. A policy comes checked, as [`terrace_tiering::Policy`].

mod checksum;
mod digest;
mod fit;
mod model;
mod node;
mod provider;
mod revision;
mod site;
mod source;
mod summary;
mod sync;

pub use checksum::{ChecksumError, MAX_CHECKSUM_BYTES, digest_for};
pub use digest::{DigestError, Sha256};
pub use fit::{NODE_SPEC_TOO_LARGE, fit};
pub use model::{DigestSource, ModelPlan};
pub use node::{Desired, NamedPolicy, NodeFacts, Note, NoteReason, WantedModel, desired, hold};
pub use provider::execution_providers;
pub use revision::{ModelRevision, RevisionContent, model_revision, policy_hash, revision_name};
pub use site::{EdgeAgent, NotReady, Reachable, sites, sites_resolved};
pub use source::{FilePath, SourceError, SourceUri};
pub use summary::{ObservedNode, Obstacle, Summary, Verdict, summarize};
pub use sync::{next_sync, sync_seed};
pub use terrace_tiering::Fault;
