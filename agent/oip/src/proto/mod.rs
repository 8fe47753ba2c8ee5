//! The messages of the protocol's gRPC binding, generated from `proto/inference.proto` by `make proto`.

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)] // generated
#[rustfmt::skip]
mod messages;

pub use messages::*;
