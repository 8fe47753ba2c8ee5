//! CPU time as the kernel counts it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

/// The unit of times in /proc, on every architecture: USER_HZ.
const TICKS: f64 = 100.0;

/// Seconds that a process, those it started and those they started have used so far, with those that have ended.
pub fn of_tree(root: u32) -> Result<f64> {
    let processes: HashMap<u32, (u32, u64)> = fs::read_dir("/proc")?
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // One that has ended meanwhile counts for its parent.
            Some((pid, parent_and_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
        })
        .collect();
    ensure!(processes.contains_key(&root), "process {root} has ended");
    let is_below = |mut pid: u32| loop {
        match processes.get(&pid) {
            _ if pid == root => return true,
            Some((parent, _)) => pid = *parent,
            None => return false,
        }
    };
    let ticks: u64 = processes.iter().filter(|(pid, _)| is_below(**pid)).map(|(_, (_, ticks))| ticks).sum();
    Ok(ticks as f64 / TICKS)
}

/// Seconds that this thread has used so far.
pub fn of_this_thread() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// Parent, and the ticks of a process and of its children that have ended.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // A name may hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_are_read_over() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 0 0 0 10 20 30 40 20 0 1";
        assert_eq!(parent_and_ticks(stat), Some((3, 100)));
    }

    #[test]
    fn a_tree_holds_its_root() {
        assert!(of_tree(std::process::id()).is_ok());
        assert!(of_tree(u32::MAX).is_err());
    }
}
