//! What blobs, journals and the lock need of the file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// What went wrong with a file, and what to do about it. `needed` is how many bytes were to be written.
pub fn failed(action: &'static str, path: &Path, needed: u64, cause: io::Error) -> StoreError {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::DiskFull { path, needed }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::NotPermitted { action, path, cause }
        }
        _ => StoreError::Io { action, path, cause },
    }
}

/// A text that no other process or thread makes.
pub fn unique() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Creates a folder, and those above it, for this user alone. One that is there is left as it is.
pub fn create_folder(path: &Path) -> Result<(), StoreError> {
    let missing = !path.exists();
    if let Err(cause) = DirBuilder::new().recursive(true).mode(0o700).create(path) {
        return Err(match path.ancestors().find(|part| part.exists() && !part.is_dir()) {
            Some(part) => StoreError::NotADirectory { path: part.to_owned() },
            None => match failed("create", path, 0, cause) {
                StoreError::Io { path, cause, .. } => StoreError::NoFolder { path, cause },
                known => known,
            },
        });
    }
    match path.parent() {
        Some(parent) if missing => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Makes names in a folder survive a power loss.
pub fn sync_folder(path: &Path) -> Result<(), StoreError> {
    // The parent of a relative path with one part.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|cause| failed("sync", path, 0, cause))
}

/// Removes a file, or a folder with all that is in it; what is gone already is no failure.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    match if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, 0, cause)),
        _ => Ok(()),
    }
}

/// A file that is removed unless it is put in its place.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Creates it for this user alone. Its folder must be on the file system of the place that it is meant for.
    pub fn create(path: PathBuf) -> Result<Self, StoreError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(cause) => Err(failed("create", &path, 0, cause)),
        }
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts it at `place`, whole, instead of what is there, so that a power loss from here on does not undo it.
    pub fn put(self, place: &Path) -> Result<(), StoreError> {
        let needed = self.file.metadata().map_or(0, |metadata| metadata.len());
        // Delayed allocation means that a full disk may show only here.
        self.file.sync_all().map_err(|cause| failed("sync", &self.path, needed, cause))?;
        fs::rename(&self.path, place).map_err(|cause| failed("rename a file to", place, needed, cause))?;
        place.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it was put in place. What cannot be removed now is swept by the next owner.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do() {
        let told = |cause: io::Error| failed("write", Path::new("/data/tmp/a"), 4096, cause).to_string();
        let errno = |errno: rustix::io::Errno| io::Error::from(errno);
        for full in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG] {
            let message = told(errno(full));
            assert!(message.starts_with("no room for /data/tmp/a: 4096 bytes are needed"), "{message}");
        }
        for denied in [rustix::io::Errno::ACCESS, rustix::io::Errno::PERM, rustix::io::Errno::ROFS] {
            let message = told(errno(denied));
            assert!(
                message.starts_with("cannot write /data/tmp/a: ") && message.contains("--data-dir"),
                "{message}"
            );
        }
        let message = told(errno(rustix::io::Errno::IO));
        assert!(message.starts_with("cannot write /data/tmp/a: Input/output error"), "{message}");
    }

    #[test]
    fn unique_texts_differ() {
        let texts: std::collections::HashSet<String> = (0..1000).map(|_| unique()).collect();
        assert_eq!(texts.len(), 1000);
    }
}
