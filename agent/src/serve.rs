//! One request, from its body to its answer: request → `tiering::decide` → executor → reply.
//!
//! Called by the protocol's front ends (`http`). Decides nothing itself: what a request may do is `tiering`'s
//! word, and the executor only walks the candidates that it named.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use terrace_oip::{InferRequest, InferResponse, Parameters};
use terrace_tiering::{Decision, Requirements, decide};

use crate::attempts::Attempts;
use crate::executor::{Answer, Executor, Job, Output};
use crate::http::refusal::Refusal;
use crate::node::Node;
use crate::registry::{Entry, ModelKey};
use crate::requirements;

/// A request as it arrived.
#[derive(Debug)]
pub struct Call {
    /// The model that it asks for.
    pub model: ModelKey,
    /// The version that it asks for, if it names one.
    pub version: Option<String>,
    /// Its headers; those named `terrace-*` state requirements.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When its headers had been read: its clock starts here.
    pub started: Instant,
}
