//! The verdict on manifests, without anybody who would follow them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::accept::{Accepted, FileSet, ResourceKey, accept};
use super::document::Context;
use super::{Admission, Doubt, Fault, FolderError, folder, yaml};

/// What is checked.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// One text.
    Text {
        /// Its name.
        file: String,
        /// What it says.
        text: String,
    },
    /// The manifests of a folder, together.
    Folder(PathBuf),
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checked {
    /// By file, what was accepted.
    pub(crate) files: BTreeMap<String, FileSet>,
    /// How many resources of others there are.
    pub(crate) others: usize,
    /// What was not accepted, and why.
    pub(crate) faults: Vec<Fault>,
}

impl Checked {
    /// How many models and how many policies were accepted.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let sets = self.files.values();
        sets.fold((0, 0), |(models, policies), set| {
            (models + set.models.len(), policies + set.policies.len())
        })
    }
}

/// Checks manifests as somebody with this admission does.
pub(crate) fn check(
    input: &Input,
    default_namespace: &str,
    admission: &dyn Admission,
) -> Result<Checked, FolderError> {
    let context = Context { default_namespace, admission };
    let dir = match input {
        Input::Folder(dir) => dir,
        Input::Text { file, text } => {
            return Ok(match folder::check(file, text, &context) {
                Ok(good) => Checked {
                    others: good.others,
                    files: BTreeMap::from([(file.clone(), good.set)]),
                    faults: Vec::new(),
                },
                Err(faults) => Checked { faults, ..Checked::default() },
            });
        }
    };
    let reading = folder::read(dir, &context)?;
    let others = reading.files.values().flatten().map(|good| good.others).sum();
    let (accepted, mut faults) = accept(&Accepted::default(), &reading);
    if reading.files.is_empty() {
        faults.push(Fault::of_file(&dir.to_string_lossy(), "holds no *.yaml, *.yml or *.json"));
    }
    Ok(Checked { files: accepted.files, others, faults })
}

impl Input {
    /// A doubt as a fault, with its place; none where it is about none of these resources.
    pub(crate) fn place(&self, checked: &Checked, doubt: &Doubt, default_namespace: &str) -> Option<Fault> {
        let (file, _) = checked.files.iter().find(|(_, set)| set.holds(&doubt.of))?;
        let line = match self {
            Self::Text { text, .. } => line(text, doubt, default_namespace),
            Self::Folder(dir) => {
                fs::read_to_string(dir.join(file)).ok().and_then(|text| line(&text, doubt, default_namespace))
            }
        };
        Some(Fault { file: file.clone(), line, path: doubt.path.clone(), message: doubt.message.clone() })
    }
}

/// The line of a field of a resource.
fn line(text: &str, doubt: &Doubt, default_namespace: &str) -> Option<u64> {
    let ResourceKey { kind, namespace, name } = &doubt.of;
    let documents = yaml::documents(text).into_iter().flatten();
    let mut found = documents.filter(|document| {
        let value = document.value();
        let metadata = &value["metadata"];
        let its_namespace = metadata["namespace"].as_str().unwrap_or(default_namespace);
        value["kind"] == *kind && metadata["name"] == *name && its_namespace == namespace
    });
    found.next().map(|document| document.line(&doubt.path))
}

/// Allows everything: what may be reached is each agent's to say.
struct Everything;

impl Admission for Everything {
    fn source(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn tier(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn site(&self) -> Result<(), String> {
        Ok(())
    }

    fn passes_over_others(&self) -> bool {
        true
    }
}

/// The resources of a text, or everything that is wrong with it.
pub(crate) fn read_text(file: &str, text: &str, default_namespace: &str) -> Result<Vec<FileSet>, Vec<Fault>> {
    let context = Context { default_namespace, admission: &Everything };
    folder::check(file, text, &context).map(|good| vec![good.set])
}

/// The same of the manifests in a folder, together.
pub(crate) fn read_folder(
    dir: &Path,
    default_namespace: &str,
) -> Result<Result<Vec<FileSet>, Vec<Fault>>, FolderError> {
    let context = Context { default_namespace, admission: &Everything };
    let (accepted, faults) = accept(&Accepted::default(), &folder::read(dir, &context)?);
    Ok(if faults.is_empty() { Ok(accepted.files.into_values().collect()) } else { Err(faults) })
}
