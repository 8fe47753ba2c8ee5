//! `make bench-fleet`: measures operator and agents against a real control plane, and prints it as Markdown.
//!
//! With a file's name it also writes it there.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let page = terrace_e2e::bench::fleet::run().await?;
    print!("{page}");
    if let Some(file) = std::env::args_os().nth(1).map(PathBuf::from) {
        std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
