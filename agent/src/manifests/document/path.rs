//! The place of a field in a document: `spec.fallback.order[1]`.

use std::fmt;

use serde_json::Value;

/// Steps from the document to a field.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FieldPath(Vec<Step>);

/// One step into a collection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// To a field of a mapping.
    Key(String),
    /// To an item of a list.
    Index(usize),
}

impl FieldPath {
    /// The steps, from the document on.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The field `key` of this one.
    pub(super) fn join(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// Takes the nearest field of a mapping on this path out of a document and returns its place. Items stay: without
    /// one, those behind it would move.
    pub(super) fn take_out(&self, document: &mut Value) -> Option<Self> {
        let mut steps = self.0.as_slice();
        while let [before @ .., last] = steps {
            if let Step::Key(key) = last {
                let parent = before.iter().try_fold(document, |value, step| match step {
                    Step::Key(key) => value.get_mut(key),
                    Step::Index(index) => value.get_mut(index),
                })?;
                parent.as_object_mut()?.remove(key)?;
                return Some(Self(steps.to_vec()));
            }
            steps = before;
        }
        None
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl From<&serde_path_to_error::Path> for FieldPath {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let steps = path.iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Self(steps.collect())
    }
}

impl From<&serde_ignored::Path<'_>> for FieldPath {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path;
        let mut steps = Vec::new();
        let mut place = path;
        loop {
            place = match place {
                Path::Root => break,
                Path::Seq { parent, index } => {
                    steps.push(Step::Index(*index));
                    parent
                }
                Path::Map { parent, key } => {
                    steps.push(Step::Key(key.clone()));
                    parent
                }
                Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                    parent
                }
            };
        }
        steps.reverse();
        Self(steps)
    }
}
