//! A SHA-256, as bytes: nothing that was not parsed into one ever becomes part of a path.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The SHA-256 of a file. Written, also by `serde`, as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a SHA-256: exactly 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl Sha256 {
    /// The digest that `text` writes.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

const fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError),
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The SHA-256 of nothing, as every implementation documents it.
    const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Sha256::of(b"").to_string(), OF_NOTHING);
        assert_eq!(Sha256::parse(OF_NOTHING), Ok(Sha256::of(b"")));
    }

    #[test]
    fn only_64_lower_case_digits_are_a_digest() {
        let multibyte = format!("{}é", &OF_NOTHING[..62]);
        for text in [
            "",
            &OF_NOTHING[1..],
            &format!("{OF_NOTHING}0"),
            &OF_NOTHING.to_uppercase(),
            &format!("{} ", &OF_NOTHING[1..]),
            &format!("0x{}", &OF_NOTHING[2..]),
            &format!("../{}", &OF_NOTHING[3..]),
            &format!("{}g", &OF_NOTHING[1..]),
            &multibyte,
        ] {
            assert_eq!(Sha256::parse(text), Err(DigestError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_reads_back_as_it_was_written(bytes in any::<[u8; 32]>()) {
            let digest = Sha256::from_bytes(bytes);
            prop_assert_eq!(Sha256::parse(&digest.to_string()), Ok(digest));
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sha256>(&json).unwrap(), digest);
        }
    }
}
