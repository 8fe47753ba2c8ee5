//! Waiting for a condition, with a deadline.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

/// Far longer than anything takes on a slow machine; a test that waits so long has failed.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until the look succeeds, and returns what it saw. Fails with the last failure once [`LIMIT`] is over.
pub async fn until<T, F>(what: &str, look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    until_within(what, LIMIT, look).await
}

/// The same with another limit.
pub async fn until_within<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("waited {limit:?} for {what}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
