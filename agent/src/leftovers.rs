//! Memory after a burst of large requests: the allocator keeps what was given back to it, and others on the node may need it.
//!
//! Nothing of this is done while requests are served, and an agent that holds little never wakes up for it.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use crate::room::{MUCH, Room};

/// How long it must have been quiet.
const QUIET: Duration = Duration::from_secs(1);
/// How long it is left alone then.
const PAUSE: Duration = Duration::from_secs(10);
/// Which part of what was held at most may be held when it is quiet.
const PART: usize = 4;

/// Has memory given back to the system each time that requests held much of it and hold little now.
pub async fn give_back<F: Future>(room: Room, release: impl Fn() -> F) {
    loop {
        let mut most = room.filled().await;
        while most >= MUCH {
            sleep(QUIET).await;
            let lately = room.most_lately();
            if lately > most / PART {
                most = most.max(lately);
                continue;
            }
            release().await;
            debug!(held_at_most = most, "memory that requests held was given back to the system");
            sleep(PAUSE).await;
            // What was still held has its turn when it is not.
            most = lately.max(room.most_lately());
        }
    }
}

/// Away from the threads that speak to clients: it takes a while where there is much.
pub async fn release() {
    // It cannot fail, and nobody needs what comes of it.
    let _ = tokio::task::spawn_blocking(terrace_heap::give_back).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::room::Taken;

    #[tokio::test(start_paused = true)]
    async fn it_is_given_back_once_a_burst_is_over_and_not_while_it_goes_on() {
        let (room, released) = (Room::new(8 * MUCH), Arc::new(AtomicUsize::new(0)));
        let times = Arc::clone(&released);
        let task = tokio::spawn(give_back(room.clone(), move || {
            times.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        }));
        let hold = |bytes| {
            let mut taken = Taken::default();
            room.cover(&mut taken, bytes).unwrap();
            taken
        };
        let after = async |seconds: u64| {
            sleep(Duration::from_secs(seconds)).await;
            released.load(Ordering::Relaxed)
        };
        drop(hold(MUCH - (8 << 10)));
        assert_eq!(after(60).await, 0, "that was little");
        for _ in 0..30 {
            drop(hold(4 * MUCH));
            assert_eq!(after(0).await, 0);
            sleep(QUIET / 2).await;
        }
        assert_eq!(after(3).await, 1, "it is over");
        assert_eq!(after(60).await, 1);
        // As long as most of it is held it is in use; a small part of it is not waited for.
        let (most, part) = (hold(4 * MUCH), hold(MUCH - (8 << 10)));
        assert_eq!(after(60).await, 1);
        drop(most);
        assert_eq!(after(3).await, 2);
        drop(part);
        assert_eq!(after(60).await, 2, "that was little");
        let (most, part) = (hold(6 * MUCH), hold(MUCH));
        drop((after(5).await, most));
        assert_eq!(after(3).await, 3);
        drop(part);
        assert_eq!(after(30).await, 4, "the last of a burst, too");
        drop(hold(4 * MUCH));
        assert_eq!(after(3).await, 5);
        // What follows at once has its turn later.
        drop(hold(4 * MUCH));
        assert_eq!(after(5).await, 5);
        assert_eq!(after(10).await, 6);
        assert_eq!(after(60).await, 6);
        task.abort();
    }
}
