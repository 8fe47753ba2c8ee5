//! The verdict on manifests alone, without an agent that would follow them: an operator's.

use std::path::Path;

use super::accept::{Accepted, FileSet, accept};
use super::document::Context;
use super::{Admission, Fault, FolderError, folder};

/// How much was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// How many models.
    pub(crate) models: usize,
    /// How many policies.
    pub(crate) policies: usize,
}

/// No flags: what may be reached is each agent's to say.
struct Everything;

impl Admission for Everything {
    fn source(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn tier(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// What a text says, or everything that is wrong with it.
pub(crate) fn check_text(file: &str, text: &str, default_namespace: &str) -> Result<Checked, Vec<Fault>> {
    read_text(file, text, default_namespace).map(|set| Checked::of([&set]))
}

/// The resources of a text, or everything that is wrong with it.
pub(crate) fn read_text(file: &str, text: &str, default_namespace: &str) -> Result<FileSet, Vec<Fault>> {
    let context = Context { default_namespace, admission: &Everything };
    folder::check(file, text, &context).map(|good| good.set)
}

/// The same of the manifests in a folder, together.
pub(crate) fn check_folder(
    dir: &Path,
    default_namespace: &str,
) -> Result<Result<Checked, Vec<Fault>>, FolderError> {
    let context = Context { default_namespace, admission: &Everything };
    let (accepted, faults) = accept(&Accepted::default(), &folder::read(dir, &context)?);
    Ok(if faults.is_empty() { Ok(Checked::of(accepted.files.values())) } else { Err(faults) })
}

impl Checked {
    fn of<'a>(sets: impl IntoIterator<Item = &'a FileSet>) -> Self {
        sets.into_iter().fold(Self { models: 0, policies: 0 }, |sum, set| Self {
            models: sum.models + set.models.len(),
            policies: sum.policies + set.policies.len(),
        })
    }
}
