//! The machine that was measured on, and how busy it was with other things.

use std::fs;

use anyhow::{Context as _, Result};

use super::figures::Report;

/// The page's head.
pub fn describe(report: &mut Report, command: &str) -> Result<()> {
    report.section(
        "Measured",
        &format!(
            "Printed by `{command}`, which runs release builds on this machine, the clients beside them. Compare within \
             a table only: what is compared ran alternating."
        ),
    );
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let model = model.trim_start_matches(['\t', ' ', ':']);
    report.say(format_args!(
        "Machine: {cores} cores of {model}, Linux {}. Load before: {}.",
        kernel.trim(),
        load()?
    ));
    Ok(())
}

/// The page's foot.
pub fn load_at_end(report: &mut Report) -> Result<()> {
    report.say(format_args!("Load after: {}.", load()?));
    Ok(())
}

/// The mean number of processes that wanted to run in the last minute.
fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("no load")?.to_owned())
}
