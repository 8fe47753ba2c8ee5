//! Memory that is free goes back to the system. An allocator keeps what was given back to it, for when it is asked again: glibc's
//! has such memory for each thread, and large pieces of it stay where they are once they have been used.
//!
//! Called by the agent when it starts, and once a burst of large requests is over.

/// Gives whole pages that nothing lies in back to the system. Whoever allocates meanwhile may wait for that, some milliseconds,
/// so it is not to be called often. Another allocator than glibc's is left alone.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim takes the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How large a piece is that the system gives and takes back by itself, and how much that is free may lie at the end of a
/// thread's memory. Below that a request costs no calls of the system; by itself, glibc comes to keep up to 64 MiB for each thread.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 8 << 20;

/// Has the allocator keep no more than it needs for what is common. To be called once, before there are threads.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: mallopt takes the allocator's own locks, and both values are within its bounds.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kibibytes that this process has in memory.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn pages_between_what_is_in_use_go_back() {
        const PIECE: usize = 16 << 10;
        let mut pieces: Vec<Vec<u8>> = (0..8 << 10).map(|_| vec![1; PIECE]).collect();
        // The last of them is in use, and the allocator keeps what lies before it.
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        give_back();
        let after = resident();
        assert!(before > after + (64 << 10), "{before} KiB before, {after} KiB after");
        assert_eq!(last.map(|last| last.len()), Some(PIECE));
    }
}
