//! `make bench`: measures an agent and prints what it found, as Markdown. Progress goes to standard error.
//!
//! With a file's name it also writes it there: `docs/bench.md` holds what was measured last.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let page = terrace_e2e::bench::run().await?;
    print!("{page}");
    if let Some(file) = std::env::args_os().nth(1).map(PathBuf::from) {
        std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
