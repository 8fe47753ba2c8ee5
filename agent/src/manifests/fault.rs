//! What is wrong with a manifest, for the person who wrote it.

use std::fmt;

/// One thing that is wrong with one file. Displayed as `digits.yaml:7: spec.source.sha256: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The file's name, without its folder.
    pub file: String,
    /// The line, counted from 1; absent where the fault is the file as a whole.
    pub line: Option<u64>,
    /// The field, such as `spec.fallback.order[1]`; empty where it is no field.
    pub path: String,
    /// What is wrong, and what is accepted.
    pub message: String,
}

impl Fault {
    /// A fault of a file as a whole.
    pub(super) fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, path: String::new(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}
