//! What is measured about an agent, each beside what it is compared with, alternating within one run.
//!
//! Run by `make bench`; nothing here passes or fails. Each part prints its method, a table and its noise.

mod figures;
pub mod fleet;
mod forward;
mod holder;
mod machine;
mod memory;
mod program;
mod proxy;
pub mod serving;
mod stalls;
mod start;
mod swaps;

use anyhow::Result;

use figures::Report;

/// Measures everything, or the part that `ONLY` names; what was found is a page of Markdown.
pub async fn run() -> Result<String> {
    let only = setting("ONLY");
    let has = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut report = Report::default();
    machine::describe(&mut report, "make bench")?;
    if has("start") {
        start::measure(&mut report).await?;
    }
    if has("memory") {
        memory::measure(&mut report).await?;
    }
    if has("swaps") {
        swaps::measure(&mut report).await?;
    }
    if has("stalls") {
        stalls::measure(&mut report).await?;
    }
    if has("forward") {
        forward::measure(&mut report).await?;
    }
    machine::load_at_end(&mut report)?;
    Ok(report.markdown())
}

#[allow(clippy::disallowed_methods)] // a bench has no flags of its own
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
