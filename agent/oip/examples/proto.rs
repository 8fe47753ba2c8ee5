//! Writes the Rust code of `proto/inference.proto` into the folder that is named: `messages.rs`, which this crate holds,
//! and `service.rs`, which the agent holds. `make proto` runs it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tonic_prost_build::{Builder, FileDescriptorSet, configure};

#[allow(dead_code)] // the test of what is committed calls what is below
fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).context("name the folder to write into")?.into();
    into(&folder)
}

/// Writes both files into a folder.
pub fn into(folder: &Path) -> anyhow::Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["inference.proto"], [&proto])?;
    let messages = configure().build_client(false).build_server(false).bytes(".");
    generate(messages, files.clone(), &folder.join("messages.rs"))?;
    let service = configure().build_client(false).extern_path(".inference", "::terrace_oip::proto");
    generate(service, files, &folder.join("service.rs"))
}

/// The generator names a file by its package.
fn generate(builder: Builder, files: FileDescriptorSet, target: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    builder.out_dir(folder.path()).compile_fds(files)?;
    fs::copy(folder.path().join("inference.rs"), target)?;
    Ok(())
}
