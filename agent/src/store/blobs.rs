//! Whole files, named by what is in them.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FallocateFlags};
use rustix::io::Errno;
use sha2::Digest as _;
use terrace_fleet::Sha256;
use tracing::{debug, warn};

use super::StoreError;
use super::disk::{self, Temporary, failed};

/// How much of a file is hashed at a time.
const PIECE: usize = 256 << 10;

/// The blobs of a data directory.
#[derive(Debug)]
pub struct Store {
    blobs: PathBuf,
    tmp: PathBuf,
    /// Begins the names of this store's temporary files, to tell them from those of a process that is gone.
    instance: String,
}

/// Why a blob cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was never fetched, or was swept.
    #[error("{sha256} is not on disk; it has to be fetched")]
    Absent {
        /// Its digest.
        sha256: Sha256,
    },
    /// It is not what its name says. It was removed.
    #[error(
        "{sha256} was damaged on disk (it had become {actual}) and was removed; it has to be fetched anew"
    )]
    Corrupt {
        /// What it should be.
        sha256: Sha256,
        /// What it was.
        actual: Sha256,
    },
    /// The disk failed, or this process may not read it.
    #[error(transparent)]
    Unreadable(#[from] StoreError),
}

/// Why a blob did not enter the store.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The bytes are others than expected. None of them was kept.
    #[error("expected {expected}, got {actual} ({bytes} bytes)")]
    DigestMismatch {
        /// What should have been written.
        expected: Sha256,
        /// What was.
        actual: Sha256,
        /// How much was.
        bytes: u64,
    },
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The store in `data_dir`, which is created where it is missing. Says at once if it cannot be written.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let (blobs, tmp) = (data_dir.join("blobs/sha256"), data_dir.join("tmp"));
        for folder in [data_dir, &data_dir.join("blobs"), &blobs, &tmp] {
            disk::create_folder(folder)?;
            rustix::fs::access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|errno| failed("use", folder, 0, errno.into()))?;
        }
        Ok(Self { blobs, tmp, instance: disk::unique() })
    }

    /// Where the blob is, or would be.
    pub fn path(&self, sha256: &Sha256) -> PathBuf {
        self.blobs.join(sha256.to_string())
    }

    /// Where a model's weights may lie for as long as it is being loaded. What is left there after an end is swept.
    pub fn scratch(&self) -> PathBuf {
        self.tmp.join(format!("{}-weights", self.instance))
    }

    /// Begins a blob. It is nowhere until it is committed.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let path = self.tmp.join(format!("{}-{}", self.instance, disk::unique()));
        let temporary = Temporary::create(path)?;
        Ok(BlobWriter { temporary, blobs: self.blobs.clone(), hasher: sha2::Sha256::new(), bytes: 0 })
    }

    /// The bytes of a blob, if they are what its name says. A damaged blob is removed, to be fetched anew.
    pub fn read_verified(&self, sha256: &Sha256) -> Result<Vec<u8>, ReadError> {
        let (mut file, path) = self.open_blob(sha256)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|cause| failed("read", &path, 0, cause))?;
        self.admit(sha256, Sha256::of(&bytes), &file)?;
        Ok(bytes)
    }

    /// Whether a blob is there and whole; how many bytes it has. A damaged blob is removed, to be fetched anew.
    pub fn verify(&self, sha256: &Sha256) -> Result<u64, ReadError> {
        let (mut file, path) = self.open_blob(sha256)?;
        let (mut hasher, mut piece, mut bytes) = (sha2::Sha256::new(), vec![0; PIECE], 0);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    bytes += read as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(failed("read", &path, 0, cause).into()),
            }
        }
        self.admit(sha256, Sha256::from_bytes(hasher.finalize().into()), &file)?;
        Ok(bytes)
    }

    /// Removes every blob that is not to be kept, and what writers of processes that are gone left behind. Only for
    /// the holder of the data directory's lock.
    pub fn sweep(&self, keep: &HashSet<Sha256>) -> Result<(), StoreError> {
        let is_kept = |name: &str| Sha256::parse(name).map_or(true, |sha256| keep.contains(&sha256));
        let blobs = remove_all(&self.blobs, is_kept);
        let left_behind = remove_all(&self.tmp, |name| name.starts_with(&self.instance));
        blobs.and(left_behind)
    }

    fn open_blob(&self, sha256: &Sha256) -> Result<(File, PathBuf), ReadError> {
        let path = self.path(sha256);
        match File::open(&path) {
            Ok(file) => Ok((file, path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Err(ReadError::Absent { sha256: *sha256 })
            }
            Err(cause) => Err(failed("read", &path, 0, cause).into()),
        }
    }

    fn admit(&self, sha256: &Sha256, actual: Sha256, file: &File) -> Result<(), ReadError> {
        if *sha256 == actual {
            return Ok(());
        }
        let path = self.path(sha256);
        let is_same = |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        // The lock's holder may have replaced it by a good one since it was opened.
        let is_still_there =
            file.metadata().is_ok_and(|read| fs::metadata(&path).is_ok_and(|now| is_same(&read, &now)));
        if is_still_there {
            disk::remove(&path)?;
        }
        warn!(%sha256, %actual, "a damaged artifact was removed from disk");
        Err(ReadError::Corrupt { sha256: *sha256, actual })
    }
}

/// Removes the files of a folder, save those whose name is to be kept. Goes on after a failure; tells the first.
fn remove_all(folder: &Path, is_kept: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let unreadable = |cause| failed("list", folder, 0, cause);
    let mut outcome = Ok(());
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().to_str().is_none_or(&is_kept) {
            continue;
        }
        debug!(path = %entry.path().display(), "no longer needed");
        outcome = outcome.and(disk::remove(&entry.path()));
    }
    outcome
}

/// A blob that is being written. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    temporary: Temporary,
    blobs: PathBuf,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl BlobWriter {
    /// Makes sure that there is room for `bytes` in all, where the file system can tell.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        if bytes == 0 {
            return Ok(());
        }
        let reserved = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&*self.temporary.file(), FallocateFlags::KEEP_SIZE, 0, bytes)
        });
        match reserved {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(failed("reserve", self.temporary.path(), bytes, errno.into())),
        }
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let after = self.bytes + bytes.len() as u64;
        let written = self.temporary.file().write_all(bytes);
        written.map_err(|cause| failed("write", self.temporary.path(), after, cause))?;
        self.hasher.update(bytes);
        self.bytes = after;
        Ok(())
    }

    /// Enters the store, if what was written is what is expected; how many bytes it has. Nothing is kept otherwise.
    pub fn commit(self, expected: &Sha256) -> Result<u64, CommitError> {
        let actual = Sha256::from_bytes(self.hasher.finalize().into());
        if actual != *expected {
            return Err(CommitError::DigestMismatch { expected: *expected, actual, bytes: self.bytes });
        }
        self.temporary.put(&self.blobs.join(expected.to_string()))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn put(store: &Store, bytes: &[u8]) -> Sha256 {
        let sha256 = Sha256::of(bytes);
        let mut writer = store.writer().unwrap();
        bytes.chunks(3).for_each(|piece| writer.write(piece).unwrap());
        assert_eq!(writer.commit(&sha256).unwrap(), bytes.len() as u64);
        sha256
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_committed_is_read_back() {
        let (_dir, store) = store();
        for bytes in [&b""[..], b"a model", &vec![7; 3 * PIECE + 1]] {
            let sha256 = put(&store, bytes);
            assert_eq!(store.read_verified(&sha256).unwrap(), bytes);
            assert_eq!(store.verify(&sha256).unwrap(), bytes.len() as u64);
        }
        assert!(files(&store.tmp).is_empty());
    }

    #[test]
    fn only_this_user_may_read_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        let store = Store::open(&data).unwrap();
        let sha256 = put(&store, b"a model");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for folder in
            [&dir.path().join("a"), &data, &data.join("blobs"), &data.join("blobs/sha256"), &data.join("tmp")]
        {
            assert_eq!(mode(folder), 0o700, "{}", folder.display());
        }
        assert_eq!(mode(&store.path(&sha256)), 0o600);
    }

    #[test]
    fn a_digest_that_does_not_match_leaves_nothing() {
        let (_dir, store) = store();
        let (expected, actual) = (Sha256::of(b"a model"), Sha256::of(b"another"));
        let mut writer = store.writer().unwrap();
        writer.write(b"another").unwrap();
        let Err(CommitError::DigestMismatch { expected: told, actual: got, bytes: 7 }) =
            writer.commit(&expected)
        else {
            panic!("a mismatch")
        };
        assert_eq!((told, got), (expected, actual));
        assert!(files(&store.tmp).is_empty() && files(&store.blobs).is_empty());
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_nothing() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write(b"half a mo").unwrap();
        assert_eq!(files(&store.tmp).len(), 1);
        drop(writer);
        assert!(files(&store.tmp).is_empty());
    }

    #[test]
    fn an_absent_blob_is_said_to_be_absent() {
        let (_dir, store) = store();
        let sha256 = Sha256::of(b"never fetched");
        assert!(matches!(store.read_verified(&sha256), Err(ReadError::Absent { .. })));
        assert!(matches!(store.verify(&sha256), Err(ReadError::Absent { .. })));
    }

    #[test]
    fn a_damaged_blob_is_never_returned_and_makes_room_for_a_good_one() {
        let (_dir, store) = store();
        let reads: [fn(&Store, &Sha256) -> Option<ReadError>; 2] =
            [|store, sha256| store.read_verified(sha256).err(), |store, sha256| store.verify(sha256).err()];
        for read in reads {
            for damaged in [&b"a mode"[..], b"b model", b"", b"a model and more"] {
                let sha256 = put(&store, b"a model");
                fs::write(store.path(&sha256), damaged).unwrap();
                let Some(ReadError::Corrupt { actual, .. }) = read(&store, &sha256) else {
                    panic!("damaged")
                };
                assert_eq!(actual, Sha256::of(damaged));
                assert!(matches!(store.verify(&sha256), Err(ReadError::Absent { .. })));
            }
        }
        let sha256 = put(&store, b"a model");
        assert_eq!(store.read_verified(&sha256).unwrap(), b"a model");
    }

    #[test]
    fn two_writers_of_one_blob_both_succeed() {
        let (_dir, store) = store();
        let bytes = vec![7; 2 * PIECE];
        let sha256 = Sha256::of(&bytes);
        let barrier = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut writer = store.writer().unwrap();
                    writer.write(&bytes).unwrap();
                    barrier.wait();
                    writer.commit(&sha256).unwrap();
                    assert_eq!(store.read_verified(&sha256).unwrap(), bytes);
                });
            }
        });
        assert_eq!(files(&store.blobs), [sha256.to_string()]);
        assert!(files(&store.tmp).is_empty());
    }

    #[test]
    fn a_sweep_removes_what_is_not_kept_and_what_a_killed_process_left() {
        let (dir, killed) = store();
        let (kept, other) = (put(&killed, b"kept"), put(&killed, b"other"));
        let mut writer = killed.writer().unwrap();
        writer.write(b"half a mo").unwrap();
        // A kill between write and rename: nobody removes the file.
        std::mem::forget(writer);

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(files(&store.tmp).len(), 1, "a predecessor may still be writing when a successor opens");
        let mut fetching = store.writer().unwrap();
        fetching.write(b"new").unwrap();
        store.sweep(&HashSet::from([kept, Sha256::of(b"new")])).unwrap();

        assert_eq!(files(&store.tmp).len(), 1, "what is being fetched goes on");
        fetching.commit(&Sha256::of(b"new")).unwrap();
        assert!(store.verify(&kept).is_ok() && store.verify(&Sha256::of(b"new")).is_ok());
        assert!(matches!(store.verify(&other), Err(ReadError::Absent { .. })));
    }

    #[test]
    fn more_than_the_disk_can_hold_is_refused_before_it_is_fetched() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.reserve(0).unwrap();
        writer.reserve(7).unwrap();
        let Err(StoreError::DiskFull { needed, .. }) = writer.reserve(1 << 60) else {
            panic!("no disk is that large")
        };
        assert_eq!(needed, 1 << 60);
        writer.write(b"a model").unwrap();
        writer.commit(&Sha256::of(b"a model")).unwrap();
        assert_eq!(store.read_verified(&Sha256::of(b"a model")).unwrap(), b"a model");
    }

    #[test]
    fn a_data_directory_that_cannot_be_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for data_dir in [file.clone(), file.join("below")] {
            let Err(StoreError::NotADirectory { path }) = Store::open(&data_dir) else { panic!("a file") };
            assert_eq!(path, file);
        }
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("blobs"), "").unwrap();
        assert!(matches!(Store::open(&data_dir), Err(StoreError::NotADirectory { .. })));
    }

    #[test]
    fn a_data_directory_that_cannot_be_written_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
        if rustix::process::geteuid().is_root() {
            return; // Nothing is forbidden to root.
        }
        let message = Store::open(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&dir.path().display().to_string()) && message.contains("--data-dir"),
            "{message}"
        );
    }
}
