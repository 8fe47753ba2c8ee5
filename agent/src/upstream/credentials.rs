//! What tiers are asked with: files below `--credentials-dir/<namespace>/<name>`, read again when they change.
//!
//! A resource reaches only the folders of its own namespace: names are DNS labels, checked before they come here. What is
//! read stands in no error, log or status.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use http::HeaderValue;
use terrace_crds::policy::{TierAuth, TierTls as TlsNames};
use terrace_egress::TierTls;
use terrace_tiering::RemoteTier;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Where credentials lie.
#[derive(Clone, Debug, Default)]
pub struct CredentialsDir(Option<PathBuf>);

/// Which credentials an endpoint is asked with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The folder of the policy's namespace.
    namespace: String,
    authority: Option<String>,
    certificate: Option<String>,
    bearer: Option<String>,
    basic: Option<String>,
    /// Whom the server must be: in no file, but asked by connections of its own all the same.
    server_name: Option<String>,
}

/// What was read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// For TLS.
    pub tls: TierTls,
    /// `authorization`, where one is sent.
    pub authorization: Option<HeaderValue>,
}

/// Why credentials cannot be had: names the file, and nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is no folder to look in.
    #[error("the policy names credentials, and the agent has none: start it with --credentials-dir")]
    NoFolder,
    /// A file is not there, or may not be read.
    #[error("credentials {file} cannot be read: {kind}")]
    Unreadable {
        /// `namespace/name/file`.
        file: String,
        /// Why.
        kind: io::ErrorKind,
    },
    /// A file holds something else.
    #[error("credentials {file}: {why}")]
    Unusable {
        /// `namespace/name/file`.
        file: String,
        /// What it should hold.
        why: &'static str,
    },
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, authorization {}", self.tls, self.authorization.is_some())
    }
}

impl Wanted {
    /// What a policy of `namespace` names for a tier; none where it names nothing.
    pub fn of(remote: &RemoteTier, namespace: &str) -> Option<Self> {
        let TlsNames { authority, server_name, client_certificate } = remote.tls.clone();
        let TierAuth { bearer, basic } = remote.auth.clone();
        (remote.needs_credentials() || server_name.is_some()).then(|| Self {
            namespace: namespace.to_owned(),
            authority,
            certificate: client_certificate,
            bearer,
            basic,
            server_name,
        })
    }
}

impl CredentialsDir {
    /// Below this folder.
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self(folder)
    }

    /// Reads all that is wanted.
    pub fn read(&self, wanted: &Wanted) -> Result<Secrets, CredentialsError> {
        let read = |name: &str, file: &str| {
            let shown = || format!("{}/{name}/{file}", wanted.namespace);
            let folder = self.0.as_deref().ok_or(CredentialsError::NoFolder)?.join(&wanted.namespace);
            bounded(&folder.join(name).join(file)).map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => {
                    CredentialsError::Unusable { file: shown(), why: "is larger than 1 MiB" }
                }
                kind => CredentialsError::Unreadable { file: shown(), kind },
            })
        };
        let authorities = wanted.authority.as_deref().map(|name| read(name, "ca.crt")).transpose()?;
        let identity =
            wanted.certificate.as_deref().map(|name| Ok((read(name, "tls.crt")?, read(name, "tls.key")?)));
        let bearer = wanted.bearer.as_deref().map(|name| {
            let token = read(name, "token")?;
            header(&[b"Bearer ", token.trim_ascii()].concat())
                .ok_or_else(|| unusable(wanted, name, "token", "holds no token that a header can carry"))
        });
        let basic = wanted.basic.as_deref().map(|name| {
            let (user, password) = (read(name, "username")?, read(name, "password")?);
            let pair = [user.trim_ascii(), b":", password.trim_ascii_end()].concat();
            header(format!("Basic {}", base64(&pair)).as_bytes())
                .ok_or_else(|| unusable(wanted, name, "username", "holds no name that a header can carry"))
        });
        Ok(Secrets {
            tls: TierTls {
                authorities,
                identity: identity.transpose()?,
                server_name: wanted.server_name.clone(),
            },
            authorization: bearer.or(basic).transpose()?,
        })
    }
}

fn unusable(wanted: &Wanted, name: &str, file: &str, why: &'static str) -> CredentialsError {
    CredentialsError::Unusable { file: format!("{}/{name}/{file}", wanted.namespace), why }
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Nothing of it is shown, nor put into a table of headers on the way. One without anything behind its scheme is none.
fn header(value: &[u8]) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_bytes(value).ok().filter(|_| !value.ends_with(b" "))?;
    header.set_sensitive(true);
    Some(header)
}

/// The alphabet of RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let symbol = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(symbol) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            namespace: "vision".to_owned(),
            authority: None,
            certificate: None,
            bearer: None,
            basic: None,
            server_name: None,
        }
    }

    fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, CredentialsDir) {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let credentials = CredentialsDir::new(Some(folder.path().to_owned()));
        (folder, credentials)
    }

    #[test]
    fn a_token_is_sent_as_it_lies_there_without_the_line_end() {
        let (_folder, credentials) = folder(&[("vision/cloud/token", b"abc.def\n")]);
        let bearer = Wanted { bearer: Some("cloud".to_owned()), ..wanted() };
        let secrets = credentials.read(&bearer).unwrap();
        assert_eq!(secrets.authorization.as_ref().unwrap(), "Bearer abc.def");
        assert!(!format!("{secrets:?} {:?}", secrets.authorization).contains("abc"));
        let other = Wanted { namespace: "other".to_owned(), ..bearer };
        assert!(matches!(credentials.read(&other), Err(CredentialsError::Unreadable { .. })));
    }

    #[test]
    fn name_and_password_are_sent_as_http_has_them() {
        let (_folder, credentials) =
            folder(&[("vision/cloud/username", b"Aladdin\n"), ("vision/cloud/password", b"open sesame\n")]);
        let secrets = credentials.read(&Wanted { basic: Some("cloud".to_owned()), ..wanted() }).unwrap();
        assert_eq!(secrets.authorization.unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe", "//4=")]
        {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_what_was_read() {
        let large = vec![b'a'; 1 << 21];
        let (_folder, credentials) = folder(&[
            ("vision/empty/token", b" \n"),
            ("vision/binary/token", b"secret\x01\n"),
            ("vision/large/token", &large),
        ]);
        for (name, said) in [
            ("empty", "credentials vision/empty/token: holds no token that a header can carry"),
            ("binary", "credentials vision/binary/token: holds no token that a header can carry"),
            ("large", "credentials vision/large/token: is larger than 1 MiB"),
            ("gone", "credentials vision/gone/token cannot be read: entity not found"),
        ] {
            let error = credentials.read(&Wanted { bearer: Some(name.to_owned()), ..wanted() }).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        let named = Wanted { bearer: Some("cloud".to_owned()), ..wanted() };
        let none = CredentialsDir::default().read(&named).unwrap_err();
        assert!(none.to_string().contains("--credentials-dir"));
    }

    #[test]
    fn a_servers_name_lies_in_no_file_and_tells_endpoints_apart() {
        let named = Wanted { server_name: Some("gateway.example".to_owned()), ..wanted() };
        let secrets = CredentialsDir::default().read(&named).unwrap();
        assert_eq!(secrets.tls.server_name.as_deref(), Some("gateway.example"));
        assert_ne!(named, wanted());
    }
}
