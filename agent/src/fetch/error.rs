//! Why a file could not be fetched, and whether trying again may help.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use http::StatusCode;
use terrace_fleet::{Sha256, SourceUri};
use tokio::task::JoinError;

use crate::store::StoreError;
use terrace_egress::{Denied, RedirectRefused, causes};

/// Why a file could not be fetched. Messages are whole, with their cause: they stand in statuses. A URL in them has
/// neither user nor query.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The rules forbid the source's host.
    #[error("{uri}: {denied}")]
    NotAllowed {
        /// The source.
        uri: String,
        /// By which rule.
        denied: Denied,
    },
    /// The rules forbid every address that the source's host has now.
    #[error("{uri}: {denied}")]
    AddressNotAllowed {
        /// The source.
        uri: String,
        /// By which rule.
        denied: Denied,
    },
    /// The source answered with a redirect that is not followed.
    #[error("{uri} answers with {refused}")]
    Redirect {
        /// The source.
        uri: String,
        /// Why not.
        refused: RedirectRefused,
    },
    /// The source is not encrypted.
    #[error("{uri}: http:// sources are read only with --allow-http-sources; use https://")]
    HttpNotAllowed {
        /// The source.
        uri: String,
    },
    /// The source is a file that cannot be read.
    #[error("{uri}: {fault}")]
    File {
        /// The source.
        uri: String,
        /// Why not.
        fault: FileFault,
    },
    /// The source could not be connected to.
    #[error("{uri}: cannot connect: {cause}")]
    Connect {
        /// The source.
        uri: String,
        /// Why not.
        cause: String,
    },
    /// The source answered, and not with the file.
    #[error("{uri}: the source answered with status {status}{}", advice(*status))]
    Status {
        /// The source.
        uri: String,
        /// What it answered with.
        status: StatusCode,
    },
    /// The source stopped sending.
    #[error("{uri}: the source sent nothing for too long")]
    TimedOut {
        /// The source.
        uri: String,
    },
    /// The connection broke before the file was whole.
    #[error("{uri}: the connection broke after {received} bytes of the file: {cause}")]
    CutOff {
        /// The source.
        uri: String,
        /// How much had come.
        received: u64,
        /// What broke it.
        cause: String,
    },
    /// The file is larger than this agent takes.
    #[error(
        "{uri} has more than {limit} bytes, which is the limit here; for models it is set by --max-model-bytes"
    )]
    TooLarge {
        /// The source.
        uri: String,
        /// The limit.
        limit: u64,
    },
    /// The source has other bytes than were asked for.
    #[error(
        "{uri} has sha256 {actual} ({bytes} bytes) and not {expected}; if that is the right file, set its digest, else put the right file there"
    )]
    DigestMismatch {
        /// The source.
        uri: String,
        /// What was asked for.
        expected: Sha256,
        /// What it has.
        actual: Sha256,
        /// How much it has.
        bytes: u64,
    },
    /// The source should be a text.
    #[error("{uri} is no UTF-8 text")]
    NotText {
        /// The source.
        uri: String,
    },
    /// The file could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent is ending, or has a bug.
    #[error("reading or writing ended early: {cause}")]
    Ended {
        /// How.
        cause: JoinError,
    },
}

/// Why a file below the file roots cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// There are no file roots.
    #[error("file:// sources are read only below folders that --file-root names, and this agent has none")]
    NoRoots,
    /// No file root has it.
    #[error("no such file below {}", list(searched))]
    Absent {
        /// The file roots.
        searched: Vec<PathBuf>,
    },
    /// It is elsewhere.
    #[error("a symbolic link leads out of {}; links there must be relative and stay below it", root.display())]
    Escapes {
        /// The file root.
        root: PathBuf,
    },
    /// It is a folder, a pipe, a device …
    #[error("not a regular file")]
    NotAFile,
    /// The kernel cannot keep links from leading out of a file root.
    #[error(
        "this system has no openat2 (it needs Linux 5.6 and a seccomp profile that permits it), so files cannot be read safely; use https://"
    )]
    NoSafeOpen,
    /// The disk failed, or this process may not read it.
    #[error("cannot read it: {cause}")]
    Unreadable {
        /// Why not.
        cause: io::Error,
    },
}

impl FetchError {
    /// One word for the status and for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotAllowed { .. }
            | Self::AddressNotAllowed { .. }
            | Self::Redirect {
                refused: RedirectRefused::Insecure { .. } | RedirectRefused::Denied(_), ..
            }
            | Self::HttpNotAllowed { .. }
            | Self::File { fault: FileFault::NoRoots | FileFault::Escapes { .. }, .. } => "SourceNotAllowed",
            Self::TooLarge { .. } => "TooLarge",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::Store(StoreError::DiskFull { .. }) => "DiskFull",
            Self::Store(_) => "StoreFailed",
            Self::Redirect { .. }
            | Self::File { .. }
            | Self::Connect { .. }
            | Self::Status { .. }
            | Self::TimedOut { .. }
            | Self::CutOff { .. }
            | Self::NotText { .. }
            | Self::Ended { .. } => "FetchFailed",
        }
    }

    /// Whether the same may succeed later without a change of the manifest or of the agent's flags: what a source, a
    /// resolver or a disk does may change, also when it looks like a person's mistake (a file is often published
    /// after what names it).
    pub const fn retryable(&self) -> bool {
        !matches!(
            self,
            Self::NotAllowed { .. }
                | Self::HttpNotAllowed { .. }
                | Self::TooLarge { .. }
                | Self::File { fault: FileFault::NoRoots | FileFault::NoSafeOpen, .. }
        )
    }

    /// What it means that a request got no answer.
    pub(super) fn no_answer(uri: String, error: &reqwest::Error) -> Self {
        if let Some(denied) = cause_of::<Denied>(error) {
            Self::AddressNotAllowed { uri, denied: denied.clone() }
        } else if let Some(refused) = cause_of::<RedirectRefused>(error) {
            Self::Redirect { uri, refused: refused.clone() }
        } else if error.is_connect() {
            Self::Connect { uri, cause: causes(error) }
        } else {
            Self::cut_off(&uri, 0, error)
        }
    }

    /// What it means that an answer ended early.
    pub(super) fn cut_off(uri: &str, received: u64, error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::TimedOut { uri: uri.to_owned() }
        } else {
            Self::CutOff { uri: uri.to_owned(), received, cause: causes(error) }
        }
    }
}

fn cause_of<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

const fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; sources that ask for credentials are not supported"
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => "; there is no such file",
        _ => "",
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A source as it may be shown: a query may hold a signature.
pub fn shown(uri: &SourceUri) -> String {
    match uri {
        SourceUri::Https(url) | SourceUri::Http(url) => {
            let mut url = url.clone();
            url.set_query(None);
            // Fails only for URLs without a host, which are no sources.
            let _ = url.set_username("").and_then(|()| url.set_password(None));
            url.to_string()
        }
        SourceUri::File(_) => uri.to_string(),
    }
}
