//! What a rule is called: in answers, metrics and explanations.

use std::fmt;

/// The longest name, in bytes; also in the CRD's schema.
const MAX_LENGTH: usize = 32;

/// What a rule is called: the name that its author gave it, or its place, `Rule[2]`. Copied freely: a decision takes
/// no memory to say which rule it went by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RuleName {
    bytes: [u8; MAX_LENGTH],
    length: u8,
}

impl RuleName {
    /// A name that an author may give: CamelCase, short.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let is_camel_case = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_camel_case.then(|| Self::of(name)).flatten()
    }

    /// The name of the rule at `place`, which has none.
    pub(crate) fn at(place: usize) -> Self {
        Self::of(&format!("Rule[{place}]")).unwrap_or(Self { bytes: [0; MAX_LENGTH], length: 0 })
    }

    fn of(name: &str) -> Option<Self> {
        let mut bytes = [0; MAX_LENGTH];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes, length: u8::try_from(name.len()).ok()? })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
