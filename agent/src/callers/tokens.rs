//! Static tokens: a file, or a folder of files, of lines `NAMESPACE[,NAMESPACE…] TOKEN`.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::caller::{Caller, EVERY};
use super::files::{Fingerprint, Source};

/// The most tokens, and the most bytes of a file: each token is compared with all of them.
const MAX_TOKENS: usize = 1024;
const MAX_BYTES: u64 = 1 << 20;
/// Shorter ones can be guessed.
const MIN_CHARS: usize = 16;
const MAX_CHARS: usize = 4096;

/// Tokens and who has them. Only digests are kept.
#[derive(Debug, Default)]
pub struct Tokens(Vec<(Words, Caller)>);

/// A digest by words: compared in an eighth of the time that its bytes take.
type Words = [u64; 4];

impl Tokens {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who has the token with this digest. Takes as long for one that nobody has: all are compared, whole.
    pub fn caller(&self, digest: &[u8; 32]) -> Option<Caller> {
        let digest = words(digest);
        let mut found = None;
        for (known, caller) in &self.0 {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(caller);
            }
        }
        found.cloned()
    }

    /// Adds the lines of a file. What is wrong is told by its line, never by what stands in it.
    fn add(&mut self, text: &str) -> Result<(), String> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (digest, caller) = entry(line).map_err(|fault| format!("line {}: {fault}", number + 1))?;
            if self.0.iter().any(|(known, _)| *known == digest) {
                return Err(format!("line {}: the same token stands in another line, too", number + 1));
            }
            if self.0.len() == MAX_TOKENS {
                return Err(format!("there are more than {MAX_TOKENS} tokens"));
            }
            self.0.push((digest, caller));
        }
        Ok(())
    }
}

fn words(digest: &[u8; 32]) -> Words {
    let mut words = Words::default();
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

fn entry(line: &str) -> Result<(Words, Caller), &'static str> {
    const FORM: &str = "must be NAMESPACE[,NAMESPACE…] and a token, with white space between them";
    let mut parts = line.split_whitespace();
    let (Some(namespaces), Some(token), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(FORM);
    };
    let namespaces: Vec<String> = namespaces.split(',').map(str::to_owned).collect();
    if !namespaces.iter().all(|namespace| namespace == EVERY || super::caller::is_namespace(namespace)) {
        return Err("must begin with namespaces, or * for every one, with commas between them");
    }
    if !is_token(token) {
        return Err("the token must have 16 to 4096 letters, digits and any of - . _ ~ + / =");
    }
    Ok((words(&Sha256::digest(token.as_bytes()).into()), Caller::of(namespaces)))
}

fn is_token(text: &str) -> bool {
    (MIN_CHARS..=MAX_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
}

/// Where tokens are read from.
#[derive(Debug)]
pub struct Files(pub PathBuf);

impl Files {
    /// The file itself, or what is in the folder, hidden files left out.
    fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        if !fs::metadata(&self.0)?.is_dir() {
            return Ok(vec![self.0.clone()]);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Source for Files {
    type Contents = Tokens;

    fn fingerprint(&self) -> Fingerprint {
        let files = self.files().unwrap_or_default();
        Fingerprint::of(std::iter::once(self.0.as_path()).chain(files.iter().map(PathBuf::as_path)))
    }

    fn load(&self) -> Result<Tokens, String> {
        let files = self.files().map_err(|error| format!("{}: {error}", self.0.display()))?;
        let mut tokens = Tokens::default();
        for file in files {
            let added = read(&file).and_then(|text| tokens.add(&text));
            added.map_err(|fault| format!("{}: {fault}", file.display()))?;
        }
        Ok(tokens)
    }
}

fn read(file: &Path) -> Result<String, String> {
    let size = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > MAX_BYTES {
        return Err(format!("has more than {MAX_BYTES} bytes"));
    }
    fs::read_to_string(file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn parsed(text: &str) -> Result<Tokens, String> {
        let mut tokens = Tokens::default();
        tokens.add(text).map(|()| tokens)
    }

    fn caller(tokens: &Tokens, token: &str) -> Option<Caller> {
        tokens.caller(&Sha256::digest(token.as_bytes()).into())
    }

    #[test]
    fn a_token_is_for_the_namespaces_of_its_line() {
        let tokens = parsed(&format!("# for the shop\n\nshop,till  {TOKEN}\n*\t{TOKEN}x== \n")).unwrap();
        assert_eq!(caller(&tokens, TOKEN), Some(Caller::of(["shop".to_owned(), "till".to_owned()])));
        assert_eq!(caller(&tokens, &format!("{TOKEN}x==")), Some(Caller::anyone()));
        assert_eq!(caller(&tokens, "0123456789abcdeg"), None);
        assert_eq!(caller(&tokens, ""), None);
        assert!(parsed("# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn a_fault_names_its_line_and_never_the_token() {
        for (line, words) in [
            (TOKEN.to_owned(), "with white space"),
            (format!("shop {TOKEN} more"), "with white space"),
            (format!("Shop {TOKEN}"), "namespaces"),
            (format!("shop,,till {TOKEN}"), "namespaces"),
            ("shop short".to_owned(), "16 to 4096"),
            ("shop 0123456789abcde\"".to_owned(), "16 to 4096"),
            (format!("shop {TOKEN}\nshop {TOKEN}"), "another line"),
        ] {
            let fault = parsed(&format!("\n{line}")).unwrap_err();
            assert!(fault.starts_with("line ") && fault.contains(words), "{line}: {fault}");
            assert!(!fault.contains("0123456789") && !fault.contains("short"), "{fault}");
        }
        let many: Vec<String> = (0..=MAX_TOKENS).map(|number| format!("a {number:016}")).collect();
        let many = many.join("\n");
        assert!(parsed(&many).unwrap_err().contains("1024"));
    }

    #[test]
    fn nothing_that_is_kept_or_printed_holds_a_token() {
        let tokens = parsed(&format!("shop {TOKEN}")).unwrap();
        assert!(!format!("{tokens:?}").contains(TOKEN));
    }

    #[test]
    fn a_folder_is_read_as_the_kubelet_mounts_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let version = |name: &str, text: &str| {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("shop"), text).unwrap();
        };
        version("..1", &format!("shop {TOKEN}"));
        version("..2", &format!("till {TOKEN}"));
        std::os::unix::fs::symlink("..1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/shop", path("shop")).unwrap();
        let files = Files(folder.path().to_owned());
        let before = files.fingerprint();
        assert_eq!(caller(&files.load().unwrap(), TOKEN), Some(Caller::of(["shop".to_owned()])));
        assert_eq!(files.fingerprint(), before);
        std::os::unix::fs::symlink("..2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        assert_ne!(files.fingerprint(), before);
        assert_eq!(caller(&files.load().unwrap(), TOKEN), Some(Caller::of(["till".to_owned()])));
    }
}
