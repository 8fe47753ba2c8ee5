//! The bytes of a source, piece by piece, never more of them than allowed.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header};
use reqwest::Response;

use super::error::{FetchError, FileFault};

/// How much of a file is read at a time.
const PIECE: usize = 1 << 20;

/// What is being read.
#[derive(Debug)]
pub struct Body {
    /// As it may be shown.
    uri: String,
    source: Source,
    size: Option<u64>,
    received: u64,
    limit: u64,
}

#[derive(Debug)]
enum Source {
    Web(Response),
    File(Arc<File>),
}

impl Body {
    /// What a server answers.
    pub fn of_response(uri: String, response: Response, limit: u64) -> Result<Self, FetchError> {
        let size = response.content_length();
        Self::new(uri, Source::Web(response), size, limit)
    }

    /// What stands in a file.
    pub fn of_file(uri: String, file: File, limit: u64) -> Result<Self, FetchError> {
        let size = file.metadata().ok().map(|metadata| metadata.len());
        Self::new(uri, Source::File(Arc::new(file)), size, limit)
    }

    fn new(uri: String, source: Source, size: Option<u64>, limit: u64) -> Result<Self, FetchError> {
        if size.is_some_and(|size| size > limit) {
            return Err(FetchError::TooLarge { uri, limit });
        }
        Ok(Self { uri, source, size, received: 0, limit })
    }

    /// How many bytes it should have in all, if that is known.
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The server's tag for exactly these bytes.
    pub fn etag(&self) -> Option<HeaderValue> {
        let Source::Web(response) = &self.source else { return None };
        response.headers().get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let piece = match &mut self.source {
            Source::Web(response) => response
                .chunk()
                .await
                .map_err(|error| FetchError::cut_off(&self.uri, self.received, &error))?,
            Source::File(file) => {
                let file = Arc::clone(file);
                let piece = blocking(move || read_piece(&file)).await?;
                piece.map_err(|cause| FetchError::File {
                    uri: self.uri.clone(),
                    fault: FileFault::Unreadable { cause },
                })?
            }
        };
        self.received += piece.as_ref().map_or(0, Bytes::len) as u64;
        if self.received > self.limit {
            return Err(FetchError::TooLarge { uri: self.uri.clone(), limit: self.limit });
        }
        Ok(piece)
    }
}

fn read_piece(mut file: &File) -> io::Result<Option<Bytes>> {
    let mut piece = Vec::with_capacity(PIECE);
    file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
    Ok((!piece.is_empty()).then(|| piece.into()))
}

/// Runs what waits for a disk where it holds up nobody.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| FetchError::Ended { cause })
}
