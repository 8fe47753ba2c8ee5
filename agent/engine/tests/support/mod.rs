//! What the tests of real models share.

#![allow(dead_code)] // each test binary uses a part of it

pub mod models;
pub mod onnx;

use std::path::PathBuf;

use terrace_engine::onnxruntime::OnnxRuntime;

/// ONNX Runtime's library. `make` says where it is.
#[allow(clippy::disallowed_methods)] // tests have no arguments
pub fn library() -> PathBuf {
    let path = std::env::var_os("TERRACE_ONNXRUNTIME")
        .expect("TERRACE_ONNXRUNTIME is not set: run `make setup`, then `make test`, which sets it");
    let path = PathBuf::from(path);
    assert!(path.exists(), "{} is not there: run `make setup`", path.display());
    path
}

/// ONNX Runtime. Every test of a process gets the same.
pub fn runtime() -> OnnxRuntime {
    OnnxRuntime::open(&library()).unwrap_or_else(|error| panic!("{error}"))
}
