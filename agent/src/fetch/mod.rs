//! Gets files into the store: from web servers and from folders of this machine, by digest.
//!
//! Called by `sync::activate` (artifacts and cases) and by `standalone::checksums` (small texts). Asks `egress` what
//! may be reached. Must not know what a file is for.
//!
//! Nothing is kept in memory but a piece at a time, and nothing enters the store that does not match its digest. What
//! is dropped half-way leaves nothing behind.

mod body;
mod error;
mod file;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use reqwest::Client;
use terrace_fleet::{Sha256, SourceUri};
use tracing::{info, warn};

use crate::store::{BlobWriter, CommitError, ReadError, Store};
use terrace_egress::Egress;

use body::{Body, blocking};
pub use error::FetchError;
use error::shown;

/// How much is gathered before it is written.
const BATCH: usize = 1 << 20;
/// The longest that a text may take in all.
const TEXT_TIMEOUT: Duration = Duration::from_mins(1);
/// Wrong answers that are remembered.
const MAX_KNOWN_WRONG: usize = 64;

/// What a [`Fetcher`] needs.
#[derive(Debug)]
pub struct FetchOptions {
    /// Where files go.
    pub store: Arc<Store>,
    /// What may be reached.
    pub egress: Egress,
    /// The folders below which `file://` sources are; the first that has the file wins.
    pub file_roots: Vec<PathBuf>,
    /// Whether `http://` sources are read.
    pub allow_http: bool,
    /// The largest file.
    pub max_bytes: u64,
}

/// Fetches files.
#[derive(Debug)]
pub struct Fetcher {
    options: FetchOptions,
    client: Client,
    /// What sources answered instead of a file.
    wrong: Mutex<HashMap<(String, Sha256), Wrong>>,
}

/// An answer that did not match its digest. With the source's own tag for it, it is not downloaded again only to find
/// that it is still wrong.
#[derive(Clone, Debug)]
struct Wrong {
    etag: HeaderValue,
    actual: Sha256,
    bytes: u64,
}

/// A file that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its size.
    pub bytes: u64,
    /// Whether it was there before.
    pub already: bool,
}

impl Fetcher {
    /// What it may reach.
    pub const fn egress(&self) -> &Egress {
        &self.options.egress
    }

    /// Fails only where no HTTP client can be built.
    pub fn new(options: FetchOptions) -> Result<Self, reqwest::Error> {
        let client = options.egress.sources_client(options.allow_http)?;
        Ok(Self { options, client, wrong: Mutex::default() })
    }

    /// Gets a file into the store, if it is not there. What is there is checked; what is damaged is fetched anew.
    pub async fn fetch(&self, uri: &SourceUri, sha256: &Sha256) -> Result<Fetched, FetchError> {
        let (store, digest) = (Arc::clone(&self.options.store), *sha256);
        match blocking(move || store.verify(&digest)).await? {
            Ok(bytes) => return Ok(Fetched { bytes, already: true }),
            Err(ReadError::Absent { .. } | ReadError::Corrupt { .. }) => {}
            Err(error @ ReadError::Unreadable(_)) => {
                warn!(%sha256, %error, "a stored file cannot be read; fetching it anew");
            }
        }
        let wrong = self.known_wrong(uri, sha256);
        let mut body = match (self.open(uri, self.options.max_bytes, wrong.as_ref()).await, wrong) {
            (
                Err(FetchError::Status { uri, status: StatusCode::NOT_MODIFIED }),
                Some(Wrong { actual, bytes, .. }),
            ) => {
                return Err(FetchError::DigestMismatch { uri, expected: *sha256, actual, bytes });
            }
            (opened, _) => opened?,
        };
        let stored = self.store(uri, &mut body, sha256).await;
        if let Err(FetchError::DigestMismatch { actual, bytes, .. }) = stored {
            self.remember(uri, sha256, body.etag().map(|etag| Wrong { etag, actual, bytes }));
        }
        let bytes = stored?;
        info!(source = shown(uri), %sha256, bytes, "fetched");
        Ok(Fetched { bytes, already: false })
    }

    /// A small text, such as a checksum file.
    pub async fn text(&self, uri: &SourceUri, limit: usize) -> Result<String, FetchError> {
        let read = async {
            let mut body = self.open(uri, limit as u64, None).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = body.next().await? {
                bytes.extend_from_slice(&piece);
            }
            String::from_utf8(bytes).map_err(|_| FetchError::NotText { uri: shown(uri) })
        };
        let timed_out = |_| Err(FetchError::TimedOut { uri: shown(uri) });
        tokio::time::timeout(TEXT_TIMEOUT, read).await.unwrap_or_else(timed_out)
    }

    /// Streams a body into the store; how many bytes it had.
    async fn store(&self, uri: &SourceUri, body: &mut Body, sha256: &Sha256) -> Result<u64, FetchError> {
        let (store, size, digest) = (Arc::clone(&self.options.store), body.size(), *sha256);
        let begin = move || {
            let mut writer = store.writer()?;
            writer.reserve(size.unwrap_or(0)).map(|()| writer)
        };
        let mut writer = blocking(begin).await??;
        let (mut batch, mut gathered) = (Vec::new(), 0);
        while let Some(piece) = body.next().await? {
            gathered += piece.len();
            batch.push(piece);
            if gathered >= BATCH {
                writer = append(writer, std::mem::take(&mut batch)).await?;
                gathered = 0;
            }
        }
        writer = append(writer, batch).await?;
        blocking(move || writer.commit(&digest)).await?.map_err(|error| match error {
            CommitError::DigestMismatch { expected, actual, bytes } => {
                FetchError::DigestMismatch { uri: shown(uri), expected, actual, bytes }
            }
            CommitError::Store(error) => error.into(),
        })
    }

    /// Begins to read a source, if it is allowed: up to `limit` bytes, and nothing that is known to be wrong.
    async fn open(&self, uri: &SourceUri, limit: u64, wrong: Option<&Wrong>) -> Result<Body, FetchError> {
        let url = match uri {
            SourceUri::File(path) => {
                let (roots, path) = (self.options.file_roots.clone(), path.as_path().to_owned());
                let opened = blocking(move || file::open(&roots, &path)).await?;
                let file = opened.map_err(|fault| FetchError::File { uri: shown(uri), fault })?;
                return Body::of_file(shown(uri), file, limit);
            }
            SourceUri::Http(_) if !self.options.allow_http => {
                return Err(FetchError::HttpNotAllowed { uri: shown(uri) });
            }
            SourceUri::Http(url) | SourceUri::Https(url) => url,
        };
        let not_allowed = |denied| FetchError::NotAllowed { uri: shown(uri), denied };
        self.options.egress.check_url(url).map_err(not_allowed)?;
        let mut request = self.client.get(url.clone());
        if let Some(wrong) = wrong {
            request = request.header(header::IF_NONE_MATCH, &wrong.etag);
        }
        let response = request.send().await.map_err(|error| FetchError::no_answer(shown(uri), &error))?;
        if !response.status().is_success() {
            return Err(FetchError::Status { uri: shown(uri), status: response.status() });
        }
        Body::of_response(shown(uri), response, limit)
    }

    fn known_wrong(&self, uri: &SourceUri, sha256: &Sha256) -> Option<Wrong> {
        let known = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(uri.to_string(), *sha256)).cloned()
    }

    fn remember(&self, uri: &SourceUri, sha256: &Sha256, wrong: Option<Wrong>) {
        let mut known = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN_WRONG {
            known.clear();
        }
        let key = (uri.to_string(), *sha256);
        match wrong {
            Some(wrong) => known.insert(key, wrong),
            None => known.remove(&key),
        };
    }
}

async fn append(mut writer: BlobWriter, batch: Vec<Bytes>) -> Result<BlobWriter, FetchError> {
    let written = blocking(move || batch.iter().try_for_each(|piece| writer.write(piece)).map(|()| writer));
    Ok(written.await??)
}
