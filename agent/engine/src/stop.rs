//! A run that nobody waits for any more is stopped, so that its thread is free for those who do.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Stops what a session runs, from another thread.
pub trait Stop: Send + Sync {
    /// Ends the run as soon as the runtime can; at once it cannot inside of one operator.
    fn stop(&self);

    /// Lets later runs run.
    fn rearm(&self);
}

/// What a session runs now.
pub(crate) struct Underway {
    state: Mutex<State>,
    stop: Arc<dyn Stop>,
}

#[derive(Debug, Default)]
struct State {
    /// The requests of the run that somebody waits for.
    awaited: Vec<u64>,
    is_stopped: bool,
}

impl Underway {
    /// Nothing yet.
    pub(crate) fn new(stop: Arc<dyn Stop>) -> Self {
        Self { state: Mutex::default(), stop }
    }

    /// A run of these requests is to begin; not where it is of none. Who still waits is asked behind the lock: a request
    /// that is abandoned later is found here.
    pub(crate) fn begin(&self, awaited: impl Iterator<Item = u64>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.awaited.extend(awaited);
        !state.awaited.is_empty()
    }

    /// The run is over.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.awaited.clear();
        if std::mem::take(&mut state.is_stopped) {
            self.stop.rearm();
        }
    }

    /// Nobody waits for a request any more. Whether it was of this run.
    pub(crate) fn abandon(&self, request: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = state.awaited.iter().position(|known| *known == request) else { return false };
        state.awaited.swap_remove(place);
        if state.awaited.is_empty() {
            state.is_stopped = true;
            self.stop.stop();
        }
        true
    }
}

impl fmt::Debug for Underway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Underway").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Runs that cannot be stopped.
pub(crate) struct Unstoppable;

impl Stop for Unstoppable {
    fn stop(&self) {}

    fn rearm(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;

    /// How often it was stopped more than rearmed.
    #[derive(Default)]
    struct Stopped(AtomicI32);

    impl Stop for Stopped {
        fn stop(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn rearm(&self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_run_is_stopped_when_the_last_who_waited_is_gone_and_the_next_one_runs() {
        let stopped = Arc::new(Stopped::default());
        let is_stopped = || stopped.0.load(Ordering::Relaxed);
        let underway = Underway::new(Arc::<Stopped>::clone(&stopped));
        assert!(underway.begin([1, 2].into_iter()));
        assert!(!underway.abandon(3) && underway.abandon(1));
        assert_eq!(is_stopped(), 0);
        assert!(underway.abandon(2) && !underway.abandon(2));
        assert_eq!(is_stopped(), 1);
        underway.end();
        assert!(!underway.begin([].into_iter()), "there is nothing to run");
        assert!(underway.begin([4].into_iter()));
        assert_eq!(is_stopped(), 0, "what comes later is let run");
        underway.end();
        assert!(!underway.abandon(4), "it was over");
        assert_eq!(is_stopped(), 0);
    }
}
