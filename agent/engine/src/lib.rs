//! Running models: a runtime behind a trait, worker threads in front of it, cases to pass, and a probe to survive.
//!
//! Called by the agent. Knows tensors and files of bytes; must not import an HTTP server, a client or Kubernetes.

mod batch;
pub mod cases;
#[cfg(test)]
mod clock;
mod compare;
mod figures;
mod learn;
pub mod memory;
mod model;
pub mod onnxruntime;
pub mod probe;
pub mod provider;
mod queue;
mod sessions;
mod statistics;
mod stop;
mod validate;
mod weights;
mod worker;

use std::path::Path;
use std::sync::Arc;

use provider::Reason;
use terrace_oip::{Datatype, Tensor};

pub use compare::Comparison;
pub use figures::LoadFigures;
pub use model::{Batching, InferError, Model, ModelOptions, Request, StartError};
pub use provider::{ExecutionProvider, Placement, ProviderKind};
pub use statistics::{Runs, Statistics};
pub use stop::Stop;
pub use validate::InvalidInput;

/// Something that loads models.
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// What it is.
    fn runtime(&self) -> &RuntimeInfo;

    /// Loads a model from its bytes.
    fn load(&self, model: &[u8], options: SessionOptions<'_>) -> Result<Box<dyn Session>, LoadError>;
}

/// A loaded model. One run at a time.
pub trait Session: Send {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// What runs it, read back from the runtime.
    fn placement(&self) -> Placement {
        Placement::whole(&self.signature().provider)
    }

    /// Runs it on inputs that fit its signature. All outputs are computed; those that are named are copied.
    fn run(&mut self, inputs: &[Tensor], outputs: Option<&[String]>) -> Result<Vec<Tensor>, RunError>;

    /// What stops its runs, where anything does.
    fn stopper(&self) -> Arc<dyn Stop> {
        Arc::new(stop::Unstoppable)
    }
}

/// What runs models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
}

impl std::fmt::Display for RuntimeInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// How a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions<'a> {
    /// Threads that one run may use.
    pub threads: usize,
    /// What runs it, in order of preference; the CPU runs what is left.
    pub providers: &'a [ExecutionProvider],
    /// The folder of weights that lie apart from the model, to be shared with other sessions; those of a model that
    /// has none apart are the session's own.
    pub weights: Option<&'a Path>,
}

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs that every request gives.
    pub inputs: Vec<TensorSpec>,
    /// Inputs that a request may leave out: the model has a value for them.
    pub optional: Vec<TensorSpec>,
    /// Its outputs.
    pub outputs: Vec<TensorSpec>,
    /// What runs it, or most of it.
    pub provider: String,
}

impl Signature {
    /// Whether some of these inputs might have been left out.
    pub fn states_optional(&self, inputs: &[Tensor]) -> bool {
        self.optional.iter().any(|spec| inputs.iter().any(|tensor| tensor.name() == spec.name))
    }
}

/// A tensor that a model takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 where any size fits.
    pub shape: Vec<i64>,
}

/// Why a model cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The runtime refuses it.
    #[error("the runtime refuses the model: {0}")]
    Refused(String),
    /// An execution provider that is required does not run it.
    #[error("{message}")]
    Provider {
        /// Why, as one word.
        reason: Reason,
        /// Why, for a person.
        message: String,
    },
    /// An input or output is something that the protocol cannot carry.
    #[error(
        "{what} {name:?} is {kind}, which the Open Inference Protocol cannot carry; export the model with tensors instead"
    )]
    Unsupported {
        /// Input or output.
        what: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The inputs do not fit.
    #[error(transparent)]
    InvalidInput(#[from] InvalidInput),
    /// The runtime failed. Its words may repeat values, so they are for the log of the developer alone.
    #[error("the model failed to run")]
    Failed(String),
}
