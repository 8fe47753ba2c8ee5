//! Reads a folder of manifests: every file whole, or with everything that is wrong with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::accept::{GoodFile, Reading, ResourceKey};
use super::document::{self, Context, Document};
use super::{Fault, yaml};

/// The largest file that is read.
pub(crate) const MOST_BYTES: u64 = 1 << 20;
/// The most files that a folder may hold.
const MOST_FILES: usize = 256;
/// The most faults of one file that are told.
const MOST_FAULTS: usize = 50;

/// Why a folder could not be read. Nothing may change on its account: a folder that is absent is not an empty one.
/// Worth another try when the folder changes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The folder is absent, is no folder, or may not be read.
    #[error("the manifests in {} cannot be read: {cause}", dir.display())]
    Unreadable {
        /// The folder.
        dir: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The folder holds more files than any site needs.
    #[error("{} holds {found} manifests, more than the {MOST_FILES} that are read", dir.display())]
    TooManyFiles {
        /// The folder.
        dir: PathBuf,
        /// How many it holds.
        found: usize,
    },
}

/// A folder that could not be read.
pub(super) fn unreadable(dir: &Path, cause: io::Error) -> FolderError {
    FolderError::Unreadable { dir: dir.to_owned(), cause }
}

/// Reads the manifests of a folder: `*.yaml`, `*.yml` and `*.json`, not the hidden ones, not those of folders in it.
pub(super) fn read(dir: &Path, context: &Context<'_>) -> Result<Reading, FolderError> {
    let names = names(dir).map_err(|cause| unreadable(dir, cause))?;
    if names.len() > MOST_FILES {
        return Err(FolderError::TooManyFiles { dir: dir.to_owned(), found: names.len() });
    }
    let mut files = BTreeMap::new();
    for (name, path) in names {
        match content(&path) {
            Content::Gone => {}
            Content::Refused(message) => {
                files.insert(name.clone(), Err(vec![Fault::of_file(&name, message)]));
            }
            Content::Text(text) => {
                files.insert(name.clone(), check(&name, &text, context));
            }
        }
    }
    Ok(Reading { files })
}

/// The names of the manifests in a folder. What is a manifest is told by the name alone: links are followed, which is
/// how Kubernetes mounts a `ConfigMap`.
fn names(dir: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut names = BTreeMap::new();
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if !name.starts_with('.') && matches!(suffix, Some("yaml" | "yml" | "json")) && !path.is_dir() {
            names.insert(name, path);
        }
    }
    Ok(names)
}

enum Content {
    Text(String),
    Refused(String),
    /// It was removed since the folder was listed.
    Gone,
}

fn content(path: &Path) -> Content {
    match text(path) {
        Ok(text) => text,
        // A link to nothing is still there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Content::Gone
        }
        Err(error) => Content::Refused(format!("cannot be read: {error}")),
    }
}

fn text(path: &Path) -> io::Result<Content> {
    // Opening a pipe would wait for its writer.
    if !path.metadata()?.is_file() {
        return Ok(Content::Refused("is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Ok(Content::Refused(format!(
            "is larger than {} KiB, the most that is read",
            MOST_BYTES >> 10
        )));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Content::Text(text),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.split(|byte| *byte == b'\n').count();
            Content::Refused(format!("is not UTF-8 in line {line}"))
        }
    })
}

/// Checks the text of one file: what it holds, or everything that is wrong with it.
pub(super) fn check(file: &str, text: &str, context: &Context<'_>) -> Result<GoodFile, Vec<Fault>> {
    if text.trim().is_empty() {
        // Also what a file looks like that is being written, or whose write was lost in a power cut.
        return Err(vec![Fault::of_file(file, "is empty: to remove what it held, delete the file")]);
    }
    let mut good = GoodFile::default();
    let mut faults = Vec::new();
    for document in yaml::documents(text) {
        let document = match document {
            Ok(document) => document,
            Err(yaml::SyntaxError { line, message }) => {
                faults.push(Fault { file: file.to_owned(), line, path: String::new(), message });
                continue;
            }
        };
        match document::read(file, &document, context) {
            Ok(Document::Other) => good.others += 1,
            Ok(Document::Model(model)) => {
                let key = ResourceKey::of("InferenceModel", model.as_ref());
                match good.name(file, &document, key) {
                    Ok(()) => good.set.models.push(*model),
                    Err(fault) => faults.push(fault),
                }
            }
            Ok(Document::Policy(policy)) => {
                let key = ResourceKey::of("TierPolicy", policy.as_ref());
                match good.name(file, &document, key) {
                    Ok(()) => good.set.policies.push(*policy),
                    Err(fault) => faults.push(fault),
                }
            }
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() {
        return Ok(good);
    }
    let more = faults.len().saturating_sub(MOST_FAULTS);
    if more > 0 {
        faults.truncate(MOST_FAULTS);
        faults.push(Fault::of_file(file, format!("has {more} more faults")));
    }
    Err(faults)
}

impl GoodFile {
    /// Notes where a resource is named, unless the file has it already.
    fn name(&mut self, file: &str, document: &yaml::Document, key: ResourceKey) -> Result<(), Fault> {
        const PATH: &str = "metadata.name";
        let line = document.line(PATH);
        if let Some(first) = self.lines.get(&key) {
            let message = format!("{key} stands in line {first} already: remove one of the two");
            return Err(Fault { file: file.to_owned(), line: Some(line), path: PATH.to_owned(), message });
        }
        self.lines.insert(key, line);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
