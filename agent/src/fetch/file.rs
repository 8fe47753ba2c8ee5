//! Opens a file below a file root, and nothing else.
//!
//! The kernel resolves the path beneath the root (`openat2`), so neither `..` nor a symbolic link leads out of it, also
//! when someone exchanges folders for links meanwhile. Hard links are taken as they are: the bytes are copied and
//! checked against a digest, so a link to another file can only fail the check.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::FileFault;

/// How often an open is tried that someone's renames get in the way of.
const MAX_TRIES: usize = 16;

/// The file that `path` names below the first of `roots` that has it.
pub fn open(roots: &[PathBuf], path: &Path) -> Result<File, FileFault> {
    if roots.is_empty() {
        return Err(FileFault::NoRoots);
    }
    for root in roots {
        match open_beneath(root, path) {
            Ok(file) => return regular(file),
            // A root on a disk that is not mounted now counts as one that lacks the file.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::XDEV) => return Err(FileFault::Escapes { root: root.clone() }),
            Err(Errno::NXIO) => return Err(FileFault::NotAFile),
            Err(Errno::NOSYS | Errno::PERM) => return Err(FileFault::NoSafeOpen),
            Err(errno) => return Err(FileFault::Unreadable { cause: errno.into() }),
        }
    }
    Err(FileFault::Absent { searched: roots.to_vec() })
}

fn open_beneath(root: &Path, path: &Path) -> Result<File, Errno> {
    let folder =
        rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A pipe that nobody writes to must not hold up the open.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match rustix::fs::openat2(&folder, path, flags, Mode::empty(), beneath) {
            Err(Errno::AGAIN | Errno::INTR) if tries < MAX_TRIES => tries += 1,
            outcome => return outcome.map(File::from),
        }
    }
}

fn regular(file: File) -> Result<File, FileFault> {
    let status = rustix::fs::fstat(&file).map_err(|errno| FileFault::Unreadable { cause: errno.into() })?;
    if FileType::from_raw_mode(status.st_mode).is_file() { Ok(file) } else { Err(FileFault::NotAFile) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(roots: &[PathBuf], path: &str) -> Result<String, FileFault> {
        let mut text = String::new();
        open(roots, Path::new(path))?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    /// A file root, and a file outside of it.
    fn root() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/m.onnx"), "a model").unwrap();
        fs::write(dir.path().join("secret"), "a secret").unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_is_read_below_its_root() {
        let (_dir, root) = root();
        assert_eq!(read(&[root], "a/m.onnx").unwrap(), "a model");
    }

    #[test]
    fn the_first_root_that_has_the_file_wins() {
        let (dir, root) = root();
        let other = dir.path().join("other");
        fs::create_dir_all(other.join("a")).unwrap();
        fs::write(other.join("a/m.onnx"), "another").unwrap();
        fs::write(other.join("b"), "below other").unwrap();
        let roots = [dir.path().join("not-mounted"), root, other];
        assert_eq!(read(&roots, "a/m.onnx").unwrap(), "a model");
        assert_eq!(read(&roots, "b").unwrap(), "below other");
        let Err(FileFault::Absent { searched }) = read(&roots, "a/none") else { panic!("absent") };
        assert_eq!(searched, roots);
        assert!(matches!(read(&roots, "a/m.onnx/none"), Err(FileFault::Absent { .. })));
    }

    #[test]
    fn without_a_root_nothing_is_read() {
        assert!(matches!(read(&[], "a/m.onnx"), Err(FileFault::NoRoots)));
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        let (dir, root) = root();
        symlink("../secret", root.join("relative")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("..", root.join("folder")).unwrap();
        symlink("relative", root.join("twice")).unwrap();
        for path in
            ["relative", "absolute", "magic/etc/passwd", "folder/secret", "twice", "../secret", "/etc/passwd"]
        {
            let outcome = read(&[root.clone(), dir.path().to_owned()], path);
            assert!(matches!(outcome, Err(FileFault::Escapes { .. })), "{path}: {outcome:?}");
        }
    }

    #[test]
    fn links_that_stay_below_the_root_are_followed() {
        let (_dir, root) = root();
        // As a mounted ConfigMap has them.
        symlink("a", root.join("..data")).unwrap();
        symlink("..data/m.onnx", root.join("m.onnx")).unwrap();
        symlink("../a/m.onnx", root.join("a/again")).unwrap();
        for path in ["m.onnx", "..data/m.onnx", "a/again"] {
            assert_eq!(read(std::slice::from_ref(&root), path).unwrap(), "a model", "{path}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let (_dir, root) = root();
        let _listening = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
        assert!(made.success());
        for path in ["a", "socket", "pipe"] {
            assert!(matches!(read(std::slice::from_ref(&root), path), Err(FileFault::NotAFile)), "{path}");
        }
        symlink("loop", root.join("loop")).unwrap();
        assert!(matches!(read(&[root], "loop"), Err(FileFault::Unreadable { .. })));
    }
}
