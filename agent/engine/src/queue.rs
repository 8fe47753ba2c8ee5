//! What waits for a model's sessions: a bounded queue that many fill and each session's thread empties.
//!
//! Unlike a channel, filling it and waking whoever empties it are two steps. Waking a thread costs more than a small
//! model's run, so whoever fills it may let others do the same first: then one wake, and one run, is for all of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;

/// Fills it. Dropped, what waits is still taken; then readers hear of the end.
pub struct Writer<T>(Arc<Queue<T>>);

/// Empties it, on one thread.
pub struct Reader<T>(Arc<Queue<T>>);

/// A reader that sleeps although something waits. It is woken when this is dropped.
#[derive(Debug)]
#[must_use = "dropped, it wakes the reader at once"]
pub struct Wake(Thread);

/// Why something is not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As much waits as may.
    Full,
    /// There is no reader left.
    Ended,
}

struct Queue<T> {
    state: Mutex<State<T>>,
    room: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Readers that sleep and that nobody is about to wake.
    sleepers: Vec<Thread>,
    readers: usize,
    /// The writer is gone.
    is_ended: bool,
}

/// A queue in which so many may wait, and a reader for each of so many threads.
pub fn queue<T>(room: usize, readers: usize) -> (Writer<T>, Vec<Reader<T>>) {
    let state =
        State { waiting: VecDeque::new(), sleepers: Vec::with_capacity(readers), readers, is_ended: false };
    let queue = Arc::new(Queue { state: Mutex::new(state), room });
    let readers = (0..readers).map(|_| Reader(Arc::clone(&queue))).collect();
    (Writer(queue), readers)
}

impl<T> Queue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Writer<T> {
    /// Puts something behind what waits. Where a reader sleeps, it sleeps on until what is returned is dropped.
    pub fn push(&self, item: T) -> Result<Option<Wake>, Refused> {
        let mut state = self.0.state();
        if state.readers == 0 {
            return Err(Refused::Ended);
        }
        if state.waiting.len() >= self.0.room {
            return Err(Refused::Full);
        }
        state.waiting.push_back(item);
        Ok(state.sleepers.pop().map(Wake))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.state().waiting.len()
    }

    /// How many readers sleep.
    #[cfg(test)]
    pub fn sleepers(&self) -> usize {
        self.0.state().sleepers.len()
    }
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_ended = true;
        let sleepers = std::mem::take(&mut state.sleepers);
        drop(state);
        sleepers.iter().for_each(Thread::unpark);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

impl<T> Reader<T> {
    /// What has waited longest, as soon as there is something. None once nothing waits and nothing will.
    pub fn next(&self) -> Option<T> {
        self.next_by(None)
    }

    /// The same, if there is something before so long.
    pub fn next_before(&self, until: Instant) -> Option<T> {
        self.next_by(Some(until))
    }

    /// The same, if there is something now.
    pub fn try_next(&self) -> Option<T> {
        self.0.state().waiting.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.state().waiting.len()
    }

    fn next_by(&self, until: Option<Instant>) -> Option<T> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let mut state = self.0.state();
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            if state.is_ended || left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            let me = thread::current();
            let id = me.id();
            state.sleepers.push(me);
            drop(state);
            match left {
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
            // Whoever wakes this thread has taken it from the list; it may have woken by itself.
            self.0.state().sleepers.retain(|sleeper| sleeper.id() != id);
        }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.readers -= 1;
        if state.readers == 0 {
            // Nobody will take them.
            let unread = std::mem::take(&mut state.waiting);
            drop(state);
            drop(unread);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// How long something may take that takes no time.
    const SOON: Duration = Duration::from_secs(20);

    /// Readers on threads of their own, which tell what they took.
    fn read(readers: Vec<Reader<u32>>) -> mpsc::Receiver<u32> {
        let (tell, told) = mpsc::channel();
        for reader in readers {
            let tell = tell.clone();
            thread::spawn(move || {
                while let Some(item) = reader.next() {
                    tell.send(item).unwrap();
                }
            });
        }
        told
    }

    fn wait_for_sleepers(writer: &Writer<u32>, count: usize) {
        let until = Instant::now() + SOON;
        while writer.sleepers() != count {
            assert!(Instant::now() < until, "the readers do not sleep");
            thread::yield_now();
        }
    }

    #[test]
    fn a_reader_sleeps_until_it_is_woken_and_then_takes_everything_in_order() {
        let (writer, readers) = queue(8, 1);
        let told = read(readers);
        wait_for_sleepers(&writer, 1);
        let wake = writer.push(1).unwrap();
        assert!(wake.is_some());
        assert!(writer.push(2).unwrap().is_none(), "the only reader is about to be woken");
        assert_eq!((writer.len(), told.try_recv()), (2, Err(mpsc::TryRecvError::Empty)));
        drop(wake);
        assert_eq!([told.recv_timeout(SOON).unwrap(), told.recv_timeout(SOON).unwrap()], [1, 2]);
    }

    #[test]
    fn as_many_readers_are_woken_as_there_is_something_for() {
        let (writer, readers) = queue(8, 2);
        let told = read(readers);
        wait_for_sleepers(&writer, 2);
        let wakes: Vec<Option<Wake>> = (1..=3).map(|item| writer.push(item).unwrap()).collect();
        assert_eq!(wakes.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        drop(wakes);
        let mut taken: Vec<u32> = (0..3).map(|_| told.recv_timeout(SOON).unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
        wait_for_sleepers(&writer, 2);
    }

    #[test]
    fn a_full_queue_refuses_and_one_without_readers_too() {
        let (writer, readers) = queue(1, 1);
        assert!(writer.push(1).unwrap().is_none(), "nobody sleeps");
        assert_eq!(writer.push(2).unwrap_err(), Refused::Full);
        assert_eq!(readers[0].try_next(), Some(1));
        assert!(writer.push(2).unwrap().is_none());
        drop(readers);
        assert_eq!((writer.len(), writer.push(3).unwrap_err()), (0, Refused::Ended));
    }

    #[test]
    fn what_waits_when_the_writer_goes_is_still_taken() {
        let (writer, readers) = queue(8, 1);
        writer.push(1).unwrap();
        drop(writer);
        assert_eq!((readers[0].next(), readers[0].next()), (Some(1), None));
    }

    #[test]
    fn a_reader_that_sleeps_hears_that_the_writer_is_gone() {
        let (writer, readers) = queue::<u32>(8, 2);
        let told = read(readers);
        wait_for_sleepers(&writer, 2);
        drop(writer);
        assert_eq!(told.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_reader_waits_no_longer_than_it_wants_to() {
        let (writer, readers) = queue::<u32>(8, 1);
        let until = Instant::now() + Duration::from_millis(20);
        assert_eq!(readers[0].next_before(until), None);
        assert!(Instant::now() >= until);
        assert!(writer.push(1).unwrap().is_none(), "nobody sleeps any more");
        assert_eq!(readers[0].next_before(until), Some(1), "it is there, however late");
    }
}
