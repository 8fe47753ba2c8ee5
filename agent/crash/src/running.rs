//! What runs now, kept where a signal handler may look: no lock, no allocation.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The length of a label.
pub const LABEL: usize = 64;
/// What something is called in the record.
pub type Label = [u8; LABEL];

/// As many things as may be known at once. What finds no room runs all the same, unrecorded.
const SLOTS: usize = 1024;

static TABLE: [Entry; SLOTS] = [const { Entry::new() }; SLOTS];

thread_local! {
    /// What this thread runs: the place in the table, or `NOTHING`.
    static HERE: Cell<usize> = const { Cell::new(NOTHING) };
}
const NOTHING: usize = usize::MAX;

struct Entry {
    is_taken: AtomicBool,
    is_running: AtomicBool,
    label: [AtomicU8; LABEL],
}

impl Entry {
    const fn new() -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            is_running: AtomicBool::new(false),
            label: [const { AtomicU8::new(0) }; LABEL],
        }
    }

    fn label(&self) -> Label {
        std::array::from_fn(|place| self.label[place].load(Ordering::Relaxed))
    }
}

/// Something that is going to run, again and again, on one thread at a time.
#[derive(Debug)]
pub struct Slot(Option<usize>);

impl Slot {
    /// A slot of this label.
    pub fn take(label: &Label) -> Self {
        let free = |entry: &Entry| {
            entry.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let place = TABLE.iter().position(free);
        if let Some(entry) = place.and_then(|place| TABLE.get(place)) {
            for (kept, byte) in entry.label.iter().zip(label) {
                kept.store(*byte, Ordering::Relaxed);
            }
        }
        Self(place)
    }

    /// It runs on this thread until what is returned is dropped.
    pub fn run(&mut self) -> Running<'_> {
        if let Some(place) = self.0 {
            // The label was written before.
            TABLE[place].is_running.store(true, Ordering::Release);
            HERE.set(place);
        }
        Running { place: self.0, of: PhantomData }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            TABLE[place].is_taken.store(false, Ordering::Release);
        }
    }
}

/// Something that runs.
#[derive(Debug)]
pub struct Running<'a> {
    place: Option<usize>,
    /// Of one thread, and while its slot is.
    of: PhantomData<(&'a mut Slot, *const ())>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            HERE.set(NOTHING);
            TABLE[place].is_running.store(false, Ordering::Release);
        }
    }
}

/// Tells what this thread runs, or where it runs nothing, all that runs anywhere. Safe in a signal handler.
pub(crate) fn suspects(mut tell: impl FnMut(&Label)) {
    // Constant and without a destructor, so that looking at it makes nothing.
    let here = HERE.try_with(Cell::get).unwrap_or(NOTHING);
    let suspects = TABLE.get(here).map_or(&TABLE[..], std::slice::from_ref);
    for entry in suspects.iter().filter(|entry| entry.is_running.load(Ordering::Acquire)) {
        tell(&entry.label());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn told() -> Vec<Label> {
        let mut told = Vec::new();
        suspects(|label| told.push(*label));
        told.sort_unstable();
        told
    }

    #[test]
    fn a_thread_is_suspected_of_what_it_runs_and_another_of_all_that_runs() {
        let (one, other) = ([b'1'; LABEL], [b'2'; LABEL]);
        let (mut first, mut second) = (Slot::take(&one), Slot::take(&other));
        assert_eq!(told(), Vec::<Label>::new());
        let running = first.run();
        assert_eq!(told(), [one]);
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(told(), [one], "it runs nothing itself");
                let running = second.run();
                assert_eq!(told(), [other]);
                drop(running);
                assert_eq!(told(), [one]);
            });
        });
        drop(running);
        assert_eq!(told(), Vec::<Label>::new());
    }
}
