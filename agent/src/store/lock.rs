//! Whose the data directory is.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::StoreError;
use super::disk::{self, failed};

/// The right to fetch, to sweep and to write journals. The kernel takes it back when it is dropped or the process
/// ends, however that happens; a successor that waits gets it then.
#[derive(Debug)]
pub struct DataLock {
    /// Closed on exec, so that a child process does not hold what its parent gave up.
    _file: File,
}

impl DataLock {
    /// The lock, or none while another process has it.
    pub fn try_acquire(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        let (file, path) = open(data_dir)?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed("lock", &path, 0, errno.into())),
        }
    }

    /// The lock, once no other process has it. Blocks as long as that takes.
    pub fn acquire_blocking(data_dir: &Path) -> Result<Self, StoreError> {
        let (file, path) = open(data_dir)?;
        retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| failed("lock", &path, 0, errno.into()))?;
        Ok(Self { _file: file })
    }
}

/// The file is never removed: two processes could hold locks on two files of the same name otherwise.
fn open(data_dir: &Path) -> Result<(File, PathBuf), StoreError> {
    disk::create_folder(data_dir)?;
    let path = data_dir.join("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    opened.map_err(|cause| failed("open", &path, 0, cause)).map(|file| (file, path))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Another test's child process, not yet past its exec, may hold a copy of the lock for a moment.
    fn soon(data_dir: &Path) -> Option<DataLock> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match DataLock::try_acquire(data_dir).unwrap() {
                None if Instant::now() < deadline => thread::yield_now(),
                outcome => return outcome,
            }
        }
    }

    #[test]
    fn one_at_a_time_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataLock::try_acquire(dir.path()).unwrap().expect("nobody has it");
        assert!(DataLock::try_acquire(dir.path()).unwrap().is_none());
        drop(held);
        assert!(soon(dir.path()).is_some());
    }

    #[test]
    fn a_successor_waits_until_its_predecessor_ends() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataLock::try_acquire(dir.path()).unwrap().expect("nobody has it");
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let successor = scope.spawn(|| {
                let lock = DataLock::acquire_blocking(dir.path()).unwrap();
                assert!(ended.load(Ordering::SeqCst), "two processes have it");
                lock
            });
            ended.store(true, Ordering::SeqCst);
            drop(held);
            let lock = successor.join().unwrap();
            assert!(DataLock::try_acquire(dir.path()).unwrap().is_none());
            drop(lock);
        });
    }

    #[test]
    fn a_child_process_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataLock::try_acquire(dir.path()).unwrap().expect("nobody has it");
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        drop(held);
        assert!(soon(dir.path()).is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
