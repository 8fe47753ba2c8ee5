//! Checksum files, each read again when its interval is over: the digests that models without one run by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use terrace_fleet::{
    DigestSource, MAX_CHECKSUM_BYTES, ModelPlan, Sha256, SourceUri, digest_for, next_sync, sync_seed,
};
use tokio::task::JoinSet;

use crate::fetch::Fetcher;
use crate::registry::ModelKey;
use crate::sync::backoff;

/// Reads checksum files on time.
#[derive(Debug)]
pub struct Checksums {
    fetcher: Arc<Fetcher>,
    /// Sets this node's times apart from those of others.
    node: String,
    watched: BTreeMap<ModelKey, Watched>,
    readings: JoinSet<Reading>,
}

/// One model's checksum file.
#[derive(Debug)]
struct Watched {
    target: Target,
    interval: Duration,
    /// When it is read next; none while it is being read.
    due: Option<Instant>,
    readings: u64,
    failures: u32,
}

/// What is read, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    from: SourceUri,
    file_name: String,
}

/// What a reading gave.
#[derive(Debug)]
pub struct Reading {
    /// The model.
    pub model: ModelKey,
    /// The digest, or why there is none, for a person.
    pub digest: Result<Sha256, String>,
    target: Target,
}

impl Checksums {
    /// Watches nothing yet.
    pub fn new(fetcher: Arc<Fetcher>, node: String) -> Self {
        Self { fetcher, node, watched: BTreeMap::new(), readings: JoinSet::new() }
    }

    /// Watches the checksum files of these models and no others. A new or changed one is due at once.
    pub fn watch<'a>(&mut self, plans: impl Iterator<Item = &'a ModelPlan>, now: Instant) {
        let mut before = std::mem::take(&mut self.watched);
        for plan in plans {
            let DigestSource::Published { from, interval } = plan.digest() else { continue };
            let key = ModelKey { namespace: plan.namespace().to_owned(), name: plan.name().to_owned() };
            let target = Target { from: from.clone(), file_name: plan.uri().file_name() };
            let watched = match before.remove(&key) {
                Some(known) if known.target == target && known.interval == *interval => known,
                _ => Watched { target, interval: *interval, due: Some(now), readings: 0, failures: 0 },
            };
            self.watched.insert(key, watched);
        }
    }

    /// The next reading that is over. Waits as long as none is due.
    pub async fn next(&mut self) -> Reading {
        loop {
            self.start_due(Instant::now());
            let due = self.watched.values().filter_map(|watched| watched.due).min();
            let reading = tokio::select! {
                Some(ended) = self.readings.join_next() => ended,
                () = sleep_until(due) => continue,
            };
            let Ok(reading) = reading else { continue };
            if self.settle(&reading, Instant::now()) {
                return reading;
            }
        }
    }

    fn start_due(&mut self, now: Instant) {
        for (key, watched) in &mut self.watched {
            if watched.due.is_none_or(|due| due > now) {
                continue;
            }
            watched.due = None;
            let (fetcher, model, target) = (Arc::clone(&self.fetcher), key.clone(), watched.target.clone());
            self.readings.spawn(async move {
                let digest = match fetcher.text(&target.from, MAX_CHECKSUM_BYTES).await {
                    Ok(text) => digest_for(&text, &target.file_name).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                Reading { model, digest, target }
            });
        }
    }

    /// Sets the time of the next reading. False where nobody waits for this one any more.
    fn settle(&mut self, reading: &Reading, now: Instant) -> bool {
        let Some(watched) = self.watched.get_mut(&reading.model) else { return false };
        if watched.target != reading.target {
            return false;
        }
        watched.readings += 1;
        let seed = sync_seed(&self.node, &reading.model.to_string(), watched.readings);
        let wait = if reading.digest.is_ok() {
            watched.failures = 0;
            next_sync(Duration::ZERO, watched.interval, seed)
        } else {
            watched.failures += 1;
            backoff::wait(watched.failures, seed).min(watched.interval)
        };
        watched.due = Some(now + wait);
        true
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
