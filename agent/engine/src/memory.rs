//! How much memory a process can still have: what the system and every control group above the process leave.

use std::fs;
use std::path::Path;

/// Bytes that this process can still have, as far as the system tells.
pub fn available() -> Option<u64> {
    let of_system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").ok();
    let of_groups = groups.and_then(|text| of_groups(Path::new("/sys/fs/cgroup"), &text));
    of_system.into_iter().chain(of_groups).min()
}

/// What the system has left.
fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What the tightest control group around the process has left; none where none has a limit.
fn of_groups(root: &Path, own: &str) -> Option<u64> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = root.join(own);
    let around = folder.ancestors().take_while(|folder| folder.starts_with(root));
    around.filter_map(|folder| of_group(&|file| fs::read_to_string(folder.join(file)).ok())).min()
}

/// What a group has left of its limit. Files that are cached for it and not in use make room when it is needed.
fn of_group(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    // "max" is no number, and no limit.
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let cached = read("memory.stat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
    });
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_it_has_left() {
        assert_eq!(of_meminfo("MemTotal: 9 kB\nMemAvailable:   1024 kB\n"), Some(1 << 20));
        assert_eq!(of_meminfo("MemTotal: 9 kB\n"), None);
        assert!(available().is_some_and(|bytes| bytes > 0), "this one says it");
    }

    fn group(files: &[(&str, &str)]) -> Option<u64> {
        of_group(&|file| files.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn a_group_has_left_what_it_does_not_use() {
        let cases: [(&str, &str, &str, Option<u64>); 5] = [
            ("1000\n", "400\n", "anon 5\ninactive_file 100\n", Some(700)),
            ("1000\n", "400\n", "anon 5\n", Some(600)),
            ("1000\n", "1200\n", "", Some(0)),
            ("1000\n", "50\n", "inactive_file 100\n", Some(1000)),
            ("max\n", "400\n", "", None),
        ];
        for (limit, used, stat, left) in cases {
            let files = [("memory.max", limit), ("memory.current", used), ("memory.stat", stat)];
            assert_eq!(group(&files), left, "{limit:?} {used:?} {stat:?}");
        }
        assert_eq!(group(&[]), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("pods/pod");
        fs::create_dir_all(pod.join("agent")).unwrap();
        for (folder, limit) in [(pod.clone(), "500"), (pod.join("agent"), "900")] {
            fs::write(folder.join("memory.max"), limit).unwrap();
            fs::write(folder.join("memory.current"), "100").unwrap();
        }
        assert_eq!(of_groups(root.path(), "1:cpu:/x\n0::/pods/pod/agent\n"), Some(400));
        assert_eq!(of_groups(root.path(), "0::/\n"), None);
        assert_eq!(of_groups(root.path(), "1:memory:/old\n"), None);
    }
}
