//! Reads a published checksum file: which digest does it give for a file?

use crate::digest::Sha256;

/// A checksum file may have as many bytes.
pub const MAX_CHECKSUM_BYTES: usize = 1 << 20;

/// Why a checksum file gives no digest. Repeats nothing of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// It is larger than any that is read.
    #[error("the checksum file has more than {MAX_CHECKSUM_BYTES} bytes")]
    TooLarge,
    /// It has no line that a digest could be read from.
    #[error(
        "the checksum file holds no SHA-256: expected a single digest, or lines as sha256sum writes them"
    )]
    NoDigest,
    /// It has digests, none of them for this file.
    #[error("the checksum file lists no file named {name:?}")]
    NotListed {
        /// The file's name.
        name: String,
    },
    /// It has several digests for files of this name.
    #[error("the checksum file lists {name:?} more than once, with different digests")]
    Ambiguous {
        /// The file's name.
        name: String,
    },
}

/// The digest that a checksum file gives for the file of this name (without folders).
///
/// A file that holds a single digest and nothing else gives it for any name. Else each line is as `sha256sum`
/// writes it (`<digest>  <name>`, `<digest> *<name>`) or as BSD's `sha256` does (`SHA256 (<name>) = <digest>`);
/// lines of any other form are passed over, so that comments and signatures do no harm. Folders before a listed
/// name do not count. Upper-case digits are accepted.
pub fn digest_for(text: &str, file_name: &str) -> Result<Sha256, ChecksumError> {
    if text.len() > MAX_CHECKSUM_BYTES {
        return Err(ChecksumError::TooLarge);
    }
    if let Some(digest) = digest(text.trim_ascii()) {
        return Ok(digest);
    }
    let mut any = false;
    let mut found = None;
    for (digest, name) in text.lines().filter_map(entry) {
        any = true;
        if base_name(name) != file_name {
            continue;
        }
        if found.is_some_and(|found| found != digest) {
            return Err(ChecksumError::Ambiguous { name: file_name.to_owned() });
        }
        found = Some(digest);
    }
    match found {
        Some(digest) => Ok(digest),
        None if any => Err(ChecksumError::NotListed { name: file_name.to_owned() }),
        None => Err(ChecksumError::NoDigest),
    }
}

fn entry(line: &str) -> Option<(Sha256, &str)> {
    let line = line.trim_ascii();
    if let Some(rest) = line.strip_prefix("SHA256 (") {
        let (name, hex) = rest.rsplit_once(") = ")?;
        return Some((digest(hex)?, name));
    }
    let (hex, name) = line.split_once([' ', '\t'])?;
    let name = name.trim_ascii_start();
    Some((digest(hex)?, name.strip_prefix('*').unwrap_or(name)))
}

fn digest(hex: &str) -> Option<Sha256> {
    Sha256::parse(&hex.to_ascii_lowercase()).ok()
}

fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(byte: u8) -> String {
        Sha256::from_bytes([byte; 32]).to_string()
    }

    fn given(text: &str) -> Result<u8, ChecksumError> {
        digest_for(text, "digits.onnx").map(|digest| digest.as_bytes()[0])
    }

    #[test]
    fn a_single_digest_stands_for_any_file() {
        for text in [hex(7), format!("{}\n", hex(7)), format!("\n  {}\r\n\r\n", hex(7).to_uppercase())] {
            assert_eq!(given(&text), Ok(7), "{text:?}");
        }
    }

    #[test]
    fn lines_of_every_form_are_read() {
        let other = hex(1);
        for line in [
            format!("{}  digits.onnx", hex(7)),
            format!("{} *digits.onnx", hex(7)),
            format!("{} digits.onnx", hex(7)),
            format!("{}\tdigits.onnx", hex(7)),
            format!("{}  ./models/digits.onnx", hex(7).to_uppercase()),
            format!("{}  models\\digits.onnx", hex(7)),
            format!("SHA256 (digits.onnx) = {}", hex(7)),
            format!("SHA256 (models/digits.onnx) = {}", hex(7)),
        ] {
            for end in ["\n", "\r\n", ""] {
                let text = format!("# release 7\n\n{other}  other.onnx\n{line}{end}");
                assert_eq!(given(&text), Ok(7), "{text:?}");
            }
        }
        let spaced = format!("{}  my (best) = model.onnx\nSHA256 (a) = b) = {}", hex(7), hex(8));
        assert_eq!(digest_for(&spaced, "my (best) = model.onnx").unwrap().as_bytes()[0], 7);
        assert_eq!(digest_for(&spaced, "a) = b").unwrap().as_bytes()[0], 8);
    }

    #[test]
    fn a_name_is_matched_as_a_whole() {
        let name = "digits.onnx".to_owned();
        for listed in ["mydigits.onnx", "digits.onnx.sig", "Digits.onnx", "digits.onnx/"] {
            let refused = Err(ChecksumError::NotListed { name: name.clone() });
            assert_eq!(given(&format!("{}  {listed}\n", hex(7))), refused, "{listed}");
        }
        assert_eq!(given(&format!("{}\n{}\n", hex(7), hex(8))), Err(ChecksumError::NoDigest));
    }

    #[test]
    fn the_same_name_twice_needs_the_same_digest() {
        let twice =
            |one, other| given(&format!("{}  a/digits.onnx\n{}  b/digits.onnx\n", hex(one), hex(other)));
        assert_eq!(twice(7, 7), Ok(7));
        assert_eq!(twice(7, 8), Err(ChecksumError::Ambiguous { name: "digits.onnx".to_owned() }));
    }

    #[test]
    fn a_file_without_digests_or_with_too_many_bytes_is_refused() {
        let sha512 = format!("{0}{0}  digits.onnx\n", hex(7));
        for text in ["", "\n", "<html>404</html>", "digits.onnx", &sha512, &hex(7)[1..]] {
            assert_eq!(given(text), Err(ChecksumError::NoDigest), "{text}");
        }
        let large = format!("{}  digits.onnx\n{}", hex(7), "#".repeat(MAX_CHECKSUM_BYTES));
        assert_eq!(given(&large), Err(ChecksumError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>(), name in any::<String>()) {
            let _ = digest_for(&text, &name);
        }

        #[test]
        fn a_listed_file_is_found_whatever_its_name(name in "[^/\\\\[:cntrl:][:space:]]([^/\\\\[:cntrl:]]*[^/\\\\[:cntrl:][:space:]])?", byte in 0_u8..) {
            prop_assume!(!name.starts_with('*'));
            for line in [format!("{}  {name}", hex(byte)), format!("SHA256 ({name}) = {}", hex(byte))] {
                let digest = digest_for(&format!("{line}\n{}  other\u{1}", hex(1)), &name);
                prop_assert_eq!(digest, Ok(Sha256::from_bytes([byte; 32])), "{}", line);
            }
        }
    }
}
