//! A clock that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    begun: Instant,
    passed_us: Arc<AtomicU64>,
}

impl Clock {
    pub fn new() -> Self {
        Self { begun: Instant::now(), passed_us: Arc::default() }
    }

    pub fn now(&self) -> Instant {
        self.begun + Duration::from_micros(self.passed_us.load(Ordering::Relaxed))
    }

    pub fn pass(&self, time: Duration) {
        self.passed_us.fetch_add(u64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }
}
