//! What is measured about an agent, each beside what it is compared with, alternating within one run.
//!
//! Run by `make bench`; nothing here passes or fails. Each part prints its method, a table and its noise.

mod figures;
pub mod fleet;
mod forward;
mod holder;
mod machine;
mod memory;
pub mod serving;
mod stalls;
mod start;
mod swaps;

use anyhow::Result;

use figures::Report;

/// Measures everything; what was found is a page of Markdown.
pub async fn run() -> Result<String> {
    let mut report = Report::default();
    machine::describe(&mut report, "make bench")?;
    start::measure(&mut report).await?;
    memory::measure(&mut report).await?;
    swaps::measure(&mut report).await?;
    stalls::measure(&mut report).await?;
    forward::measure(&mut report).await?;
    machine::load_at_end(&mut report)?;
    Ok(report.markdown())
}
