//! Small JSON files, each replaced as a whole: after a kill there is the old one or the new one.
//!
//! One writer a file: the holder of the data directory's lock.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::StoreError;
use super::disk::{self, Temporary, failed};

/// What stands in the file; none where there is no file.
///
/// A file that cannot be understood is moved aside, to `<name>.corrupt`, and counts as none: what it told can be
/// found out again, and an agent that does not start helps nobody.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("read", path, 0, cause)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let aside = beside(path, OsStr::new(""), ".corrupt");
            let moved = fs::rename(path, &aside);
            warn!(
                path = %path.display(), %error, moved_to = %aside.display(), moved = moved.is_ok(),
                "the file is damaged, or of another version; starting without it"
            );
            Ok(None)
        }
    }
}

/// Makes `value` what stands in the file, durably. Writes nothing where it stands there already.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut bytes =
        serde_json::to_vec(value).map_err(|cause| StoreError::Json { path: path.to_owned(), cause })?;
    bytes.push(b'\n');
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        disk::create_folder(folder)?;
        remove_left_behind(folder, path)?;
    }
    let mut temporary =
        Temporary::create(beside(path, OsStr::new("."), &format!(".{}.tmp", disk::unique())))?;
    let written = temporary.file().write_all(&bytes);
    written.map_err(|cause| failed("write", temporary.path(), bytes.len() as u64, cause))?;
    temporary.put(path)
}

/// Removes what a killed writer of this file left behind. For who becomes its writer.
pub fn tidy(path: &Path) -> Result<(), StoreError> {
    match path.parent().filter(|folder| folder.exists()) {
        Some(folder) => remove_left_behind(folder, path),
        None => Ok(()),
    }
}

fn remove_left_behind(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let prefix = file_name(beside(path, OsStr::new("."), "."));
    for entry in fs::read_dir(folder).map_err(|cause| failed("list", folder, 0, cause))? {
        let name = entry.map_err(|cause| failed("list", folder, 0, cause))?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".tmp") {
            disk::remove(&folder.join(&name))?;
        }
    }
    Ok(())
}

/// The path in the same folder, with more before and after the name.
fn beside(path: &Path, before: &OsStr, after: &str) -> PathBuf {
    let mut name = before.to_owned();
    name.push(file_name(path));
    name.push(after);
    path.with_file_name(name)
}

fn file_name(path: impl AsRef<Path>) -> OsString {
    path.as_ref().file_name().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct State {
        spec: u32,
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_writer_left_behind_is_removed_where_nothing_is_written_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        tidy(&dir.path().join("nowhere/node.json")).unwrap();
        for name in [".node.json.0123.tmp", ".other.json.0123.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        tidy(&path).unwrap();
        assert_eq!(names(dir.path()), [".other.json.0123.tmp"]);
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal/node.json");
        assert_eq!(read_json::<State>(&path).unwrap(), None);
        for spec in [1, 2] {
            write_json(&path, &State { spec }).unwrap();
            assert_eq!(read_json(&path).unwrap(), Some(State { spec }));
        }
        assert_eq!(names(&dir.path().join("journal")), ["node.json"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_stands_there_already_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        let inode = || fs::metadata(&path).unwrap().ino();
        write_json(&path, &State { spec: 1 }).unwrap();
        // Holds the inode, so that its number is not given to another file.
        let _first = fs::File::open(&path).unwrap();
        let before = inode();
        write_json(&path, &State { spec: 1 }).unwrap();
        assert_eq!(inode(), before);
        write_json(&path, &State { spec: 2 }).unwrap();
        assert_ne!(inode(), before);
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        for damaged in ["", "{\"spec\": 1", "{\"spec\": \"one\"}", "\0\0\0\0", "{\"spec\": 1} and more"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(read_json::<State>(&path).unwrap(), None, "{damaged}");
            assert_eq!(names(dir.path()), ["node.json.corrupt"]);
            assert_eq!(fs::read_to_string(dir.path().join("node.json.corrupt")).unwrap(), damaged);
        }
        write_json(&path, &State { spec: 2 }).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(State { spec: 2 }));
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        for name in [".node.json.0123.tmp", ".other.json.0123.tmp", "node.json.tmp"] {
            fs::write(dir.path().join(name), "{\"spe").unwrap();
        }
        write_json(&path, &State { spec: 1 }).unwrap();
        assert_eq!(names(dir.path()), [".other.json.0123.tmp", "node.json", "node.json.tmp"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("journal"), "").unwrap();
        let message = write_json(&dir.path().join("journal/node.json"), &1).unwrap_err().to_string();
        assert!(message.contains("journal is not a directory"), "{message}");
        let unreadable = read_json::<State>(dir.path()).unwrap_err().to_string();
        assert!(unreadable.contains(&dir.path().display().to_string()), "{unreadable}");
    }

    #[test]
    fn a_value_without_a_json_form_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        write_json(&path, &State { spec: 1 }).unwrap();
        let bad = std::collections::HashMap::from([(vec![1], 2)]);
        assert!(matches!(write_json(&path, &bad), Err(StoreError::Json { .. })));
        assert_eq!(read_json(&path).unwrap(), Some(State { spec: 1 }));
    }
}
