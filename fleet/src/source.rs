//! Where files come from: checked URIs.

use std::fmt;
use std::path::Path;

use url::Url;

/// The longest URI, as in the CRD's schema.
const MAX_LENGTH: usize = 2048;
/// How much of an unknown scheme an error repeats.
const MAX_SCHEME_CHARS: usize = 16;

/// Where a file comes from. Displayed as it would be written in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceUri {
    /// A file on a web server.
    Https(Url),
    /// A file on a web server, over a connection that anyone on the path can read and change. Only where the
    /// agent's administrator allows it.
    Http(Url),
    /// A file below one of the agent's file roots.
    File(FilePath),
}

/// A path below a file root: names only, at least one; neither absolute nor with a way out. So it may be joined
/// to a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

/// Why a text is no source. The message says what is accepted; it repeats nothing that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is longer than any that is accepted.
    #[error("must have at most {MAX_LENGTH} characters")]
    TooLong,
    /// It has no scheme, or is otherwise no URI.
    #[error("is not a URI such as https://host/model.onnx or file:///model.onnx (a space is written %20)")]
    NotAUri,
    /// Its scheme is not among those that can be read.
    #[error(
        "scheme {scheme} is not supported; use https://, file:// (below the agent's --file-root), or http:// with --allow-http-sources"
    )]
    Scheme {
        /// The scheme, cut to a sane length.
        scheme: String,
    },
    /// It holds a user name or a password.
    #[error("must not hold a user name or a password: everyone who can read the model would read them")]
    UserInfo,
    /// It names a part of a file.
    #[error("must not have a fragment (#): a file is fetched as a whole")]
    Fragment,
    /// It names a file on another host.
    #[error(
        "a file:// URI has no host: write file:///model.onnx for the file model.onnx below a --file-root"
    )]
    FileHost,
    /// Its path could lead elsewhere, or is none.
    #[error(
        "a file:// URI is file:/// and the path below a --file-root: names separated by single slashes, without '.', '..' and query"
    )]
    FilePath,
}

impl SourceUri {
    /// The source that `text` names.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.len() > MAX_LENGTH {
            return Err(SourceError::TooLong);
        }
        // A URL parser drops or rewrites these; what is written should be what is fetched.
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(SourceError::NotAUri);
        }
        let (scheme, rest) = text.split_once("://").ok_or(SourceError::NotAUri)?;
        match scheme {
            "https" => web(text, rest).map(Self::Https),
            "http" => web(text, rest).map(Self::Http),
            "file" => FilePath::from_uri(rest).map(Self::File),
            _ if is_scheme(scheme) => {
                Err(SourceError::Scheme { scheme: scheme.chars().take(MAX_SCHEME_CHARS).collect() })
            }
            _ => Err(SourceError::NotAUri),
        }
    }

    /// The name of the file, without what leads to it; empty where a URL names a folder.
    pub fn file_name(&self) -> String {
        let last = match self {
            Self::Https(url) | Self::Http(url) => {
                let segment = url.path_segments().and_then(|mut segments| segments.next_back());
                return segment.and_then(percent_decoded).unwrap_or_default();
            }
            Self::File(path) => path.0.rsplit('/').next(),
        };
        last.unwrap_or_default().to_owned()
    }
}

impl FilePath {
    /// The path, relative to a file root.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    fn from_uri(rest: &str) -> Result<Self, SourceError> {
        let (host, path) = rest.split_once('/').ok_or(SourceError::FilePath)?;
        if !host.is_empty() && host != "localhost" {
            return Err(SourceError::FileHost);
        }
        if path.contains(['?', '#']) {
            return Err(SourceError::FilePath);
        }
        let is_name = |name: &String| {
            !matches!(name.as_str(), "" | "." | "..")
                && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
        };
        let names: Option<Vec<String>> =
            path.split('/').map(|segment| percent_decoded(segment).filter(is_name)).collect();
        names.map(|names| Self(names.join("/"))).ok_or(SourceError::FilePath)
    }
}

fn web(text: &str, rest: &str) -> Result<Url, SourceError> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(SourceError::UserInfo);
    }
    if rest.contains('#') {
        return Err(SourceError::Fragment);
    }
    if authority.is_empty() {
        return Err(SourceError::NotAUri);
    }
    Url::parse(text).map_err(|_| SourceError::NotAUri)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `None` where it is no text, or wrongly encoded.
fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https(url) | Self::Http(url) => url.fmt(f),
            Self::File(path) => write!(f, "file:///{path}"),
        }
    }
}

/// As in a URI: with percent signs where they are needed.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => write!(f, "{}", char::from(byte)),
            b'/' | b'-' | b'.' | b'_' | b'~' | b'+' | b',' | b'=' | b'@' | b':' => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sources_that_are_accepted_and_how_they_are_written() {
        for (text, written, file_name) in [
            ("https://models.example/digits.onnx", "https://models.example/digits.onnx", "digits.onnx"),
            (
                "https://models.example/a/my%20model.onnx",
                "https://models.example/a/my%20model.onnx",
                "my model.onnx",
            ),
            ("https://models.example:8443/m?v=2", "https://models.example:8443/m?v=2", "m"),
            ("https://models.example", "https://models.example/", ""),
            ("https://models.example/a@b", "https://models.example/a@b", "a@b"),
            ("http://10.0.0.7/m.onnx", "http://10.0.0.7/m.onnx", "m.onnx"),
            ("file:///m.onnx", "file:///m.onnx", "m.onnx"),
            ("file://localhost/a/m.onnx", "file:///a/m.onnx", "m.onnx"),
            ("file:///a/my%20mod%C3%A8le.onnx", "file:///a/my%20mod%C3%A8le.onnx", "my modèle.onnx"),
            ("file:///modèle..onnx", "file:///mod%C3%A8le..onnx", "modèle..onnx"),
        ] {
            let uri = SourceUri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(uri.to_string(), written);
            assert_eq!(uri.file_name(), file_name);
        }
        let SourceUri::File(path) = SourceUri::parse("file:///a/m.onnx").unwrap() else { panic!("a file") };
        assert_eq!(path.as_path(), Path::new("a/m.onnx"));
    }

    #[test]
    fn sources_that_are_refused_and_why() {
        use SourceError::{FileHost, FilePath, Fragment, NotAUri, TooLong, UserInfo};
        let long = format!("https://host/{}", "a".repeat(2048));
        for (text, why) in [
            ("", NotAUri),
            ("m.onnx", NotAUri),
            ("/m.onnx", NotAUri),
            ("https:host/m", NotAUri),
            ("https://", NotAUri),
            ("https:///m", NotAUri),
            ("https://host:port/m", NotAUri),
            ("https://host/a b", NotAUri),
            ("https://host/a\nb", NotAUri),
            ("https://host\\@other/m", NotAUri),
            ("://host/m", NotAUri),
            ("https://user@host/m", UserInfo),
            ("https://user:secret@host/m", UserInfo),
            ("http://@host/m", UserInfo),
            ("https://host/m#a", Fragment),
            ("file://host/m.onnx", FileHost),
            ("file://..", FilePath),
            ("file:///", FilePath),
            ("file:////etc/passwd", FilePath),
            ("file:///a//m", FilePath),
            ("file:///a/", FilePath),
            ("file:///../m", FilePath),
            ("file:///a/../m", FilePath),
            ("file:///a/%2e%2E/m", FilePath),
            ("file:///./m", FilePath),
            ("file:///a%2fm", FilePath),
            ("file:///a%5cm", FilePath),
            ("file:///a%00", FilePath),
            ("file:///a%0a", FilePath),
            ("file:///a%", FilePath),
            ("file:///a%4", FilePath),
            ("file:///a%+1", FilePath),
            ("file:///a%ff", FilePath),
            ("file:///a%é", FilePath),
            ("file:///m?v=1", FilePath),
            ("file:///m#a", FilePath),
            (&long, TooLong),
        ] {
            assert_eq!(SourceUri::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_scheme_that_is_not_supported_is_named_with_those_that_are() {
        for scheme in ["oci", "s3", "hf", "ftp", "HTTPS", "git+ssh"] {
            let message = SourceUri::parse(&format!("{scheme}://host/m")).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("scheme {scheme} is not supported; use https://")),
                "{message}"
            );
        }
    }

    #[test]
    fn an_error_does_not_repeat_what_may_be_a_password() {
        for text in ["https://user:hunter2@host/m", "user:hunter2@https://host", "hunter2@host://m"] {
            let message = SourceUri::parse(text).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn a_source_reads_back_as_it_was_written(path in "[^/?#]{1,20}(/[^/?#]{1,20}){0,3}") {
            for prefix in ["file:///", "https://host/"] {
                if let Ok(uri) = SourceUri::parse(&format!("{prefix}{path}")) {
                    prop_assert_eq!(SourceUri::parse(&uri.to_string()), Ok(uri));
                }
            }
        }

        #[test]
        fn a_file_path_never_leads_out_of_its_root(
            segments in prop::collection::vec("a|\\.|\\.\\.|%2e|%2E%2e|\\.%2e|%2f|a%2f\\.\\.|%5c|%00|", 1..4),
        ) {
            if let Ok(SourceUri::File(path)) = SourceUri::parse(&format!("file:///{}", segments.join("/"))) {
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.as_path().components().all(plain), "{:?}", path);
                prop_assert!(path.as_path().components().next().is_some());
            }
        }
    }
}
