//! Checksum files, read when a model asks for it: the digests of models that name none.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use terrace_egress::{Egress, causes};
use terrace_fleet::{
    DigestSource, MAX_CHECKSUM_BYTES, ModelPlan, Sha256, SourceUri, digest_for, next_sync, sync_seed,
};

use crate::catalog::{Key, Published};

/// A whole checksum file is read in this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first wait after a failure; it doubles up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// What was read last, by model.
#[derive(Debug)]
pub struct Checksums {
    client: reqwest::Client,
    egress: Egress,
    allow_http: bool,
    readings: Mutex<BTreeMap<Key, Reading>>,
}

/// One model's checksum file.
#[derive(Clone, Debug)]
struct Reading {
    from: SourceUri,
    file_name: String,
    digest: Option<Sha256>,
    error: Option<String>,
    due: Instant,
    count: u64,
    failures: u32,
}

/// What is known of a model's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Why the last reading failed, for a person.
    pub error: Option<String>,
    /// The digest is another one than before this call.
    pub is_new: bool,
    /// When to ask again; none where the model pins its digest.
    pub again: Option<Duration>,
}

/// Why a checksum file cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(
        "file:// names a file on a node, which the operator cannot read; publish the checksum file over https://, or pin sha256"
    )]
    File,
    #[error("http:// checksum files are read only with --allow-http-sources; use https://")]
    Http,
    #[error(transparent)]
    Denied(#[from] terrace_egress::Denied),
    #[error("{0}")]
    Request(String),
    #[error("the server answers {0}")]
    Status(reqwest::StatusCode),
    #[error("it is longer than {MAX_CHECKSUM_BYTES} bytes")]
    TooLong,
    #[error("it is no text")]
    NotText,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
    #[error(transparent)]
    Checksum(#[from] terrace_fleet::ChecksumError),
}

impl Checksums {
    /// Fails only where no HTTP client can be built.
    pub fn new(egress: Egress, allow_http: bool) -> Result<Self, reqwest::Error> {
        let client = egress.sources_client(allow_http)?;
        Ok(Self { client, egress, allow_http, readings: Mutex::default() })
    }

    /// Every digest that was read.
    pub fn published(&self) -> Published {
        let readings = self.lock();
        readings.iter().filter_map(|(key, reading)| Some((key.clone(), reading.digest?))).collect()
    }

    /// Reads a model's checksum file if it is due.
    pub async fn refresh(&self, plan: &ModelPlan) -> Known {
        let key = (plan.namespace().to_owned(), plan.name().to_owned());
        let DigestSource::Published { from, interval } = plan.digest() else {
            self.lock().remove(&key);
            return Known { error: None, is_new: false, again: None };
        };
        let file_name = plan.uri().file_name();
        let before = self.lock().get(&key).cloned();
        let before = before.filter(|reading| reading.from == *from && reading.file_name == file_name);
        if let Some(known) = before.as_ref().filter(|reading| reading.due > Instant::now()) {
            let again = known.due.saturating_duration_since(Instant::now());
            return Known { error: known.error.clone(), is_new: false, again: Some(again) };
        }
        let read = self.read(from, &file_name).await;
        let count = before.as_ref().map_or(0, |reading| reading.count) + 1;
        let seed = sync_seed("operator", &format!("{}/{}", key.0, key.1), count);
        let (digest, error, failures, wait) = match read {
            Ok(digest) => (Some(digest), None, 0, next_sync(Duration::ZERO, *interval, seed)),
            Err(error) => {
                let failures = before.as_ref().map_or(0, |reading| reading.failures) + 1;
                let doubled = FIRST_RETRY.saturating_mul(1 << failures.min(10));
                // What was read before goes on.
                let digest = before.as_ref().and_then(|reading| reading.digest);
                (digest, Some(error.to_string()), failures, doubled.min(*interval))
            }
        };
        let is_new = digest != before.and_then(|reading| reading.digest);
        let due = Instant::now() + wait;
        let reading =
            Reading { from: from.clone(), file_name, digest, error: error.clone(), due, count, failures };
        self.lock().insert(key, reading);
        Known { error, is_new, again: Some(wait) }
    }

    async fn read(&self, from: &SourceUri, file_name: &str) -> Result<Sha256, ReadError> {
        let url = match from {
            SourceUri::File(_) => return Err(ReadError::File),
            SourceUri::Http(_) if !self.allow_http => return Err(ReadError::Http),
            SourceUri::Http(url) | SourceUri::Https(url) => url.clone(),
        };
        self.egress.check_url(&url)?;
        let request = |error: reqwest::Error| ReadError::Request(causes(&error));
        let read = async {
            let mut response = self.client.get(url).send().await.map_err(request)?;
            if !response.status().is_success() {
                return Err(ReadError::Status(response.status()));
            }
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(request)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() > MAX_CHECKSUM_BYTES {
                    return Err(ReadError::TooLong);
                }
            }
            String::from_utf8(bytes).map_err(|_| ReadError::NotText)
        };
        let text = tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(ReadError::TimedOut))?;
        Ok(digest_for(&text, file_name)?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Reading>> {
        // Entries are replaced whole.
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
