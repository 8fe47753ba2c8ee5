//! Real agents, real models and hostile neighbours: what the end-to-end tests and the benchmarks are made of.
//!
//! Knows an agent only from outside: its flags, ports, files and log. Of Terrace's crates it may import the kinds
//! alone, whose status it reads.

pub mod agent;
pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod codings;
pub mod dice;
pub mod digits;
pub mod expected;
pub mod grpc;
pub mod http;
pub mod infer;
pub mod load;
pub mod manifests;
pub mod opinions;
pub mod pki;
pub mod relay;
pub mod scenes;
pub mod server;
pub mod site;
pub mod streams;
pub mod upstreams;
pub mod volume;
pub mod wait;

/// The root of the checkout.
pub fn checkout() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
