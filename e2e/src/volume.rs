//! A folder whose files change as a kubelet changes those of a Secret or a ConfigMap: all at once, by turning a link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Such a folder.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
    version: u32,
}

impl Volume {
    /// A folder with these files; a name may be a path.
    pub fn new(folder: PathBuf, files: &[(&str, &str)]) -> Result<Self> {
        fs::create_dir(&folder)?;
        let mut volume = Self { folder, version: 0 };
        volume.turn(files)?;
        Ok(volume)
    }

    /// Puts these files in the place of those that it has.
    pub fn turn(&mut self, files: &[(&str, &str)]) -> Result<()> {
        self.version += 1;
        let version = format!("..{}", self.version);
        fs::create_dir(self.folder.join(&version))?;
        for (name, text) in files {
            let path = self.folder.join(&version).join(name);
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(path, text)?;
        }
        symlink(&version, self.folder.join("..new"))?;
        fs::rename(self.folder.join("..new"), self.folder.join("..data"))?;
        for (name, _) in files {
            // What a kubelet links is the first part of a path.
            let name = name.split('/').next().unwrap_or(name);
            let link = self.folder.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link)?;
            }
        }
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.is_symlink() && !path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
