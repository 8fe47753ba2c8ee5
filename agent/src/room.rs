//! How many bytes of requests this node holds at once: each takes room as it comes and before it is decoded, and gives it
//! back with its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What room is counted in: most small requests take it once. A semaphore counts to some half a billion on a small machine.
const UNIT: usize = 4 << 10;

/// So much that is held at once is much.
pub const MUCH: usize = 16 << 20;

/// The room of a node.
#[derive(Clone, Debug)]
pub struct Room {
    free: Arc<Semaphore>,
    bytes: usize,
    low: Arc<Low>,
}

/// How little room there was.
#[derive(Debug)]
struct Low {
    /// How many units were free at the least since the last look.
    least: AtomicUsize,
    /// Woken where so much is held that it is much.
    much: Notify,
}

/// Room that is taken. Dropped, it is free again.
#[derive(Debug, Default)]
pub struct Taken {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

/// There is not so much room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Others have it.
    #[error(
        "this agent holds as many bytes of requests as it may, {bytes} (--max-held-bytes); try again in a moment"
    )]
    Now {
        /// All the room that there is.
        bytes: usize,
    },
    /// There never is.
    #[error(
        "the request takes more memory than this agent has for all of them, {bytes} bytes (--max-held-bytes); send less \
         at once"
    )]
    Ever {
        /// All the room that there is.
        bytes: usize,
    },
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS);
        let low = Low { least: AtomicUsize::new(units), much: Notify::new() };
        Self { free: Arc::new(Semaphore::new(units)), bytes, low: Arc::new(low) }
    }

    /// Once much was held, how much that was at most.
    pub async fn filled(&self) -> usize {
        loop {
            self.low.much.notified().await;
            let most = self.most_lately();
            if most >= MUCH {
                return most;
            }
        }
    }

    /// How much was held at most since this was asked last.
    pub fn most_lately(&self) -> usize {
        let free = self.free.available_permits();
        let least = self.low.least.swap(free, Ordering::Relaxed).min(free);
        self.units().saturating_sub(least) * UNIT
    }

    /// All that there are.
    fn units(&self) -> usize {
        self.bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS)
    }

    /// There is less room than there was.
    #[cold]
    fn lower(&self, free: usize) {
        self.low.least.fetch_min(free, Ordering::Relaxed);
        if (self.units() - free) * UNIT >= MUCH {
            self.low.much.notify_one();
        }
    }

    /// Takes room until `taken` covers `bytes` in all.
    pub fn cover(&self, taken: &mut Taken, bytes: usize) -> Result<(), Full> {
        let units = bytes.div_ceil(UNIT).saturating_sub(taken.bytes.div_ceil(UNIT));
        if units > 0 {
            let all = self.bytes.div_ceil(UNIT).max(1);
            let is_ever = bytes.div_ceil(UNIT) > all;
            let full =
                if is_ever { Full::Ever { bytes: self.bytes } } else { Full::Now { bytes: self.bytes } };
            let units = u32::try_from(units).map_err(|_| full)?;
            let more = Arc::clone(&self.free).try_acquire_many_owned(units).map_err(|_| full)?;
            let free = self.free.available_permits();
            if free < self.low.least.load(Ordering::Relaxed) {
                self.lower(free);
            }
            match &mut taken.permit {
                Some(permit) => permit.merge(more),
                None => taken.permit = Some(more),
            }
        }
        taken.bytes = taken.bytes.max(bytes);
        Ok(())
    }

    /// Takes so much more.
    pub fn add(&self, taken: &mut Taken, bytes: usize) -> Result<(), Full> {
        self.cover(taken, taken.bytes.saturating_add(bytes))
    }
}

impl Taken {
    /// As much of it as so many bytes fill, apart.
    pub fn split(&mut self, bytes: usize) -> Self {
        let units = (bytes / UNIT).min(self.bytes.div_ceil(UNIT));
        let permit = self.permit.as_mut().filter(|_| units > 0).and_then(|permit| permit.split(units));
        let bytes = if permit.is_some() { units * UNIT } else { 0 };
        self.bytes = self.bytes.saturating_sub(bytes);
        Self { permit, bytes }
    }

    /// What another has taken of the same room, beside it.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.permit, other.permit) {
            (Some(permit), Some(more)) => permit.merge(more),
            (permit, more) => *permit = permit.take().or(more),
        }
        // Each covers whole units.
        self.bytes = self.bytes.next_multiple_of(UNIT) + other.bytes;
    }

    /// Gives back what is taken beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let excess = self.bytes.div_ceil(UNIT).saturating_sub(bytes.div_ceil(UNIT));
        if let Some(permit) = self.permit.as_mut().filter(|_| excess > 0) {
            drop(permit.split(excess));
        }
        self.bytes = self.bytes.min(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_as_it_is_needed_and_given_back() {
        let room = Room::new(10 * UNIT);
        let (mut one, mut other) = (Taken::default(), Taken::default());
        room.cover(&mut one, 1).unwrap();
        room.cover(&mut one, UNIT).unwrap();
        assert_eq!(room.free.available_permits(), 9);
        room.cover(&mut one, 6 * UNIT).unwrap();
        room.cover(&mut other, 4 * UNIT).unwrap();
        let full = room.cover(&mut one, 7 * UNIT).unwrap_err();
        assert_eq!(full, Full::Now { bytes: 10 * UNIT });
        assert_eq!(room.cover(&mut one, 10 * UNIT + 1), Err(Full::Ever { bytes: 10 * UNIT }));
        assert_eq!(room.cover(&mut one, usize::MAX), Err(Full::Ever { bytes: 10 * UNIT }));
        room.cover(&mut one, 6 * UNIT).unwrap();
        drop(other);
        room.cover(&mut one, 10 * UNIT).unwrap();
        one.shrink(11 * UNIT);
        one.shrink(3 * UNIT - 1);
        assert_eq!(room.free.available_permits(), 7);
        room.cover(&mut one, 4 * UNIT).unwrap();
        assert_eq!(room.free.available_permits(), 6);
        drop(one);
        assert_eq!(room.free.available_permits(), 10);
    }

    #[test]
    fn what_is_taken_may_come_free_in_parts() {
        let room = Room::new(10 * UNIT);
        let mut all = Taken::default();
        room.cover(&mut all, 5 * UNIT + 1).unwrap();
        let (one, other) = (all.split(3 * UNIT), all.split(UNIT - 1));
        drop(other);
        assert_eq!(room.free.available_permits(), 4);
        drop(one);
        assert_eq!(room.free.available_permits(), 7);
        let rest = all.split(9 * UNIT);
        drop(all);
        assert_eq!(room.free.available_permits(), 7);
        drop(rest);
        assert_eq!(room.free.available_permits(), 10);
        drop(Taken::default().split(UNIT));
    }

    #[test]
    fn nothing_takes_no_room() {
        let room = Room::new(0);
        let mut taken = Taken::default();
        room.cover(&mut taken, 0).unwrap();
        room.cover(&mut taken, UNIT).unwrap();
        assert_eq!(room.cover(&mut Taken::default(), 1), Err(Full::Now { bytes: 0 }));
    }

    #[test]
    fn what_two_have_taken_is_covered_by_one() {
        let room = Room::new(10 * UNIT);
        let (mut one, mut other) = (Taken::default(), Taken::default());
        room.cover(&mut one, UNIT + 1).unwrap();
        room.cover(&mut other, 2 * UNIT + 1).unwrap();
        one.merge(other);
        assert_eq!((room.free.available_permits(), one.bytes), (5, 4 * UNIT + 1));
        room.cover(&mut one, 5 * UNIT).unwrap();
        assert_eq!(room.free.available_permits(), 5);
        one.merge(Taken::default());
        one.shrink(UNIT);
        assert_eq!(room.free.available_permits(), 9);
        let mut none = Taken::default();
        none.merge(one);
        assert_eq!(none.bytes, UNIT);
        drop(none);
        assert_eq!(room.free.available_permits(), 10);
    }

    #[test]
    fn what_is_added_piece_by_piece_is_counted_to_the_byte() {
        let room = Room::new(3 * UNIT);
        let mut taken = Taken::default();
        for _ in 0..UNIT {
            room.add(&mut taken, 2).unwrap();
        }
        assert_eq!(room.free.available_permits(), 1);
        taken.shrink(UNIT + 1);
        room.add(&mut taken, UNIT - 1).unwrap();
        assert_eq!(room.free.available_permits(), 1);
        room.add(&mut taken, UNIT).unwrap();
        assert!(room.add(&mut taken, 1).is_err());
    }
}
