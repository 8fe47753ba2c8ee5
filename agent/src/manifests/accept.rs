//! What of a folder is obeyed: a good file enters whole, a bad one leaves in force what it held before.
//!
//! Pure: [`folder`](super::folder) reads, the caller keeps the result in its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use terrace_crds::{InferenceModel, TierPolicy};

use super::Fault;

/// The resources of one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileSet {
    /// Its models, in the order in which they stand there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<InferenceModel>,
    /// Its policies, in the order in which they stand there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<TierPolicy>,
}

/// What is in force: the last good content of every file that is still there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// By the file's name. No resource is in two of them.
    pub files: BTreeMap<String, FileSet>,
}

/// A folder as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// By the file's name: what it holds, or everything that is wrong with it.
    pub files: BTreeMap<String, Result<GoodFile, Vec<Fault>>>,
}

/// A file without faults.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GoodFile {
    /// What it holds; nothing twice.
    pub set: FileSet,
    /// Where each resource is named.
    pub(super) lines: BTreeMap<ResourceKey, u64>,
    /// How many resources of others it holds.
    pub(super) others: usize,
}

/// What tells resources apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResourceKey {
    /// The kind's name.
    pub(super) kind: &'static str,
    /// The namespace.
    pub(super) namespace: String,
    /// The name in it.
    pub(super) name: String,
}

impl ResourceKey {
    /// The key of a resource that has a namespace.
    pub(super) fn of<K: kube::Resource<DynamicType = ()>>(kind: &'static str, resource: &K) -> Self {
        Self { kind, namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl FileSet {
    fn keys(&self) -> impl Iterator<Item = ResourceKey> + '_ {
        let models = self.models.iter().map(|model| ResourceKey::of("InferenceModel", model));
        models.chain(self.policies.iter().map(|policy| ResourceKey::of("TierPolicy", policy)))
    }

    pub(super) fn holds(&self, key: &ResourceKey) -> bool {
        self.keys().any(|held| held == *key)
    }
}

impl Accepted {
    /// Every model in force, by file.
    pub(crate) fn models(&self) -> impl Iterator<Item = &InferenceModel> {
        self.files.values().flat_map(|set| &set.models)
    }

    /// Every policy in force, by file.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &TierPolicy> {
        self.files.values().flat_map(|set| &set.policies)
    }
}

/// What is in force after a reading, and every fault that kept a file from being obeyed.
///
/// A file that is gone takes its resources along. A file with faults goes on with what it held before. Where two
/// files hold the same resource, the one that held it before keeps it, among newcomers the one whose name comes
/// first; the other file has a fault. So no fault ever removes a resource that was in force.
pub(crate) fn accept(previous: &Accepted, reading: &Reading) -> (Accepted, Vec<Fault>) {
    let mut faults: Vec<Fault> =
        reading.files.values().filter_map(|file| file.as_ref().err()).flatten().cloned().collect();
    let mut files: Files<'_> = previous.files.iter().map(|(file, set)| (file.as_str(), set)).collect();
    // Once more until nothing moves: files that did not fit one by one may fit together (two resources that change
    // places) when their rivals are settled. What is fresh stays fresh, which ends this.
    let choice = loop {
        let choice = Choice::settle(files.clone(), reading);
        if choice.files == files {
            break choice;
        }
        files = choice.files;
    };
    for &file in &choice.refused {
        let Some(Ok(good)) = reading.files.get(file) else { continue };
        faults.extend(choice.rivals(file).into_iter().map(|(key, rival)| Fault {
            file: file.to_owned(),
            line: good.lines.get(&key).copied(),
            path: "metadata.name".to_owned(),
            message: format!("{key} is in {rival} already: remove one of the two"),
        }));
    }
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let files = files.into_iter().map(|(file, set)| (file.to_owned(), set.clone())).collect();
    (Accepted { files }, faults)
}

/// A content for each file.
type Files<'a> = BTreeMap<&'a str, &'a FileSet>;

/// A content for each file, on the way to one without clashes.
struct Choice<'a> {
    /// What was in force.
    held: Files<'a>,
    /// What is found in good files.
    fresh: Files<'a>,
    /// What stands so far: of each file one or the other.
    files: Files<'a>,
    /// Good files that stay with what they held before.
    refused: BTreeSet<&'a str>,
}

impl<'a> Choice<'a> {
    /// The choice without clashes.
    fn settle(held: Files<'a>, reading: &'a Reading) -> Self {
        let good = reading.files.iter().filter_map(|(file, read)| Some((file.as_str(), read.as_ref().ok()?)));
        let fresh: Files<'a> = good.map(|(file, good)| (file, &good.set)).collect();
        let mut files = held.clone();
        files.retain(|file, _| reading.files.contains_key(*file));
        files.extend(fresh.clone());
        let mut choice = Self { held, fresh, files, refused: BTreeSet::new() };
        while let Some(loser) = choice.loser() {
            choice.refuse(loser);
        }
        choice.admit_what_fits();
        choice
    }

    /// A file that must give way because another holds one of its resources. Files that stay with what they held
    /// never clash among themselves, so it always is a fresh one.
    fn loser(&self) -> Option<&'a str> {
        let mut holders: BTreeMap<ResourceKey, &'a str> = BTreeMap::new();
        for (&file, set) in &self.files {
            for key in set.keys() {
                if let Some(&earlier) = holders.get(&key) {
                    let had_it = self.held.get(file).is_some_and(|held| held.holds(&key));
                    return Some(if had_it { earlier } else { file });
                }
                holders.insert(key, file);
            }
        }
        None
    }

    /// Puts a file back to what it held before.
    fn refuse(&mut self, file: &'a str) {
        match self.held.get(file) {
            Some(&held) => self.files.insert(file, held),
            None => self.files.remove(file),
        };
        self.refused.insert(file);
    }

    /// Admits refused files whose rivals were themselves refused in the end.
    fn admit_what_fits(&mut self) {
        while let Some(file) = self.refused.iter().copied().find(|file| self.rivals(file).is_empty()) {
            self.refused.remove(file);
            self.files.insert(file, self.fresh[file]);
        }
    }

    /// The resources of a file's fresh content that stand in other files, and in which.
    fn rivals(&self, file: &str) -> Vec<(ResourceKey, &'a str)> {
        let wanted: BTreeSet<ResourceKey> =
            self.fresh.get(file).into_iter().flat_map(|set| set.keys()).collect();
        let others = self.files.iter().filter(|(other, _)| **other != file);
        others
            .flat_map(|(other, set)| set.keys().map(|key| (key, *other)))
            .filter(|(key, _)| wanted.contains(key))
            .collect()
    }
}

#[cfg(test)]
mod tests;
