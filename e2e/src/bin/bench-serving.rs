//! `make bench-serving`: measures the data plane beside other servers, and prints it as Markdown.
//!
//! With a file's name it also writes it there. ROUNDS is how often each target is measured; PEERS=1 takes all other
//! servers, PEERS=0 none, otherwise those that are installed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use terrace_e2e::bench::serving;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [floor, length] if floor == serving::FLOOR => serving::serve_floor(length),
        _ => measure(arguments.first().map(PathBuf::from)),
    }
}

#[tokio::main]
async fn measure(file: Option<PathBuf>) -> Result<()> {
    let page = serving::run().await?;
    print!("{page}");
    if let Some(file) = file {
        std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
