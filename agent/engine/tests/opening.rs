//! Loading ONNX Runtime's library: once a process, so one test has this process for itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use terrace_engine::Engine as _;
use terrace_engine::onnxruntime::{OnnxRuntime, OpenError};

/// What is said where a library cannot be used: one line, with the path and what to do.
fn refused(path: &Path) -> String {
    let Err(error @ OpenError::Library { .. }) = OnnxRuntime::open(path) else {
        panic!("{} was loaded", path.display())
    };
    assert!(std::error::Error::source(&error).is_none(), "a chain of errors would tell it twice");
    let said = error.to_string();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(said.matches(&path.display().to_string()).count(), 1, "{said}");
    assert!(said.ends_with("with --onnxruntime (`tools/onnxruntime` fetches one)"), "{said}");
    said
}

/// Some library that is not ONNX Runtime: the C library of this very process.
fn another_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.split_whitespace().find(|word| word.starts_with('/') && word.contains("libc.so"));
    path.expect("this process uses a C library").into()
}

#[test]
fn only_onnx_runtime_is_loaded_and_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("libonnxruntime.so");
    assert!(refused(&missing).contains(": cannot open shared object file: No such file or directory;"));
    let text = dir.path().join("text.so");
    fs::write(&text, "no library at all\n").unwrap();
    assert!(refused(&text).contains(": file too short;"));
    fs::write(&text, "no library at all ".repeat(1000)).unwrap();
    assert!(refused(&text).contains(": invalid ELF header;"));
    assert!(refused(&another_library()).contains(": it is another library;"));

    // None of that stands in the way of the right one.
    let library = support::library();
    let runtime = OnnxRuntime::open(&library).unwrap();
    let info = runtime.runtime();
    assert_eq!(info.name, "onnxruntime");
    assert!(info.to_string().starts_with("onnxruntime 1.") && info.version.contains(" build "), "{info}");

    let link = dir.path().join("link.so");
    std::os::unix::fs::symlink(&library, &link).unwrap();
    for same in [&library, &library.canonicalize().unwrap(), &link] {
        assert_eq!(OnnxRuntime::open(same).unwrap().runtime(), info);
    }
    for other in [missing, another_library()] {
        let Err(OpenError::Another { path }) = OnnxRuntime::open(&other) else {
            panic!("{} was loaded beside the first", other.display())
        };
        assert_eq!(path, library);
    }
}
