//! Files that are read again when they change, whatever way they are replaced: in place, by a rename, or by a link that a
//! kubelet turns. What cannot be used changes nothing.
//!
//! They are looked at, not watched: a look costs a few system calls, and misses nothing on any file system.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// What tells a file from what was there before: of each, where it is, how large, and when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<[i128; 5]>>);

impl Fingerprint {
    /// Of these files, through links.
    pub fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let of_one = |file: &Path| {
            let data = fs::metadata(file).ok()?;
            let time = |seconds: i64, nanoseconds: i64| {
                i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
            };
            Some([
                data.dev().into(),
                data.ino().into(),
                data.size().into(),
                time(data.mtime(), data.mtime_nsec()),
                time(data.ctime(), data.ctime_nsec()),
            ])
        };
        Self(files.map(of_one).collect())
    }
}

/// How some files are read.
pub trait Source: Debug + Send + Sync + 'static {
    /// What comes of them.
    type Contents: Debug + Send + Sync;

    /// What the files are now.
    fn fingerprint(&self) -> Fingerprint;

    /// Reads them; else says which and why, and nothing of what stands in them.
    fn load(&self) -> Result<Self::Contents, String>;
}

/// What some files said when they could last be used.
#[derive(Debug)]
pub struct Reloaded<T> {
    what: &'static str,
    now: ArcSwap<T>,
    seen: Mutex<Seen>,
    source: Box<dyn Source<Contents = T>>,
}

#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    /// What is wrong with the files as they are.
    fault: Option<String>,
}

impl<T: Debug + Send + Sync + 'static> Reloaded<T> {
    /// Reads them the first time.
    pub fn open(what: &'static str, source: impl Source<Contents = T>) -> anyhow::Result<Arc<Self>> {
        // Taken first: what is written meanwhile is a change.
        let fingerprint = source.fingerprint();
        let contents = source.load().map_err(|fault| anyhow::anyhow!("{what} cannot be used: {fault}"))?;
        Ok(Arc::new(Self {
            what,
            now: ArcSwap::from_pointee(contents),
            seen: Mutex::new(Seen { fingerprint, fault: None }),
            source: Box::new(source),
        }))
    }

    /// What holds now.
    pub fn now(&self) -> Arc<T> {
        self.now.load_full()
    }
}

/// Files that somebody looks at now and then.
pub trait Watched: Debug + Send + Sync {
    /// What they are, for a person.
    fn what(&self) -> &'static str;

    /// Reads them where they have changed. Whether something else holds now. Blocks.
    fn look(&self) -> bool;

    /// What is wrong with them as they are.
    fn fault(&self) -> Option<String>;
}

impl<T: Debug + Send + Sync + 'static> Watched for Reloaded<T> {
    fn what(&self) -> &'static str {
        self.what
    }

    fn look(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = self.source.fingerprint();
        if fingerprint == seen.fingerprint {
            return false;
        }
        seen.fingerprint = fingerprint;
        match self.source.load() {
            Ok(contents) => {
                self.now.store(Arc::new(contents));
                seen.fault = None;
                true
            }
            Err(fault) => {
                seen.fault = Some(format!("{}: {fault}", self.what));
                false
            }
        }
    }

    fn fault(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file of a number.
    #[derive(Debug)]
    struct Number(PathBuf);

    impl Source for Number {
        type Contents = u32;

        fn fingerprint(&self) -> Fingerprint {
            Fingerprint::of(std::iter::once(self.0.as_path()))
        }

        fn load(&self) -> Result<u32, String> {
            let text = fs::read_to_string(&self.0).map_err(|error| error.to_string())?;
            text.parse().map_err(|_| "no number".to_owned())
        }
    }

    #[test]
    fn what_cannot_be_used_changes_nothing_until_it_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        assert!(Reloaded::open("the number", Number(file.clone())).is_err());
        fs::write(&file, "1").unwrap();
        let number = Reloaded::open("the number", Number(file.clone())).unwrap();
        assert!(!number.look() && *number.now() == 1 && number.fault().is_none());
        fs::write(&file, "x").unwrap();
        assert!(!number.look() && *number.now() == 1);
        assert_eq!(number.fault().as_deref(), Some("the number: no number"));
        fs::remove_file(&file).unwrap();
        assert!(!number.look() && *number.now() == 1 && number.fault().is_some());
        // By a rename, with the same size.
        let new = folder.path().join("new");
        fs::write(&new, "2").unwrap();
        fs::rename(&new, &file).unwrap();
        assert!(number.look() && *number.now() == 2 && number.fault().is_none());
    }

    #[test]
    fn a_link_that_is_turned_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, text) in [("..1", "1"), ("..2", "2")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("number"), text).unwrap();
        }
        std::os::unix::fs::symlink("..1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/number", path("number")).unwrap();
        let number = Reloaded::open("the number", Number(path("number"))).unwrap();
        std::os::unix::fs::symlink("..2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        assert!(number.look() && *number.now() == 2);
    }
}
