//! Work that takes long for a thread that speaks to clients: megabytes of JSON, say.

use tokio::runtime::{Handle, RuntimeFlavor};

/// So many bytes of text take about a fifth of a millisecond.
pub const LIGHT: usize = 64 << 10;

/// Does work on so many bytes. Where it is much, other connections and timers of this thread are seen to meanwhile.
pub fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let elsewhere =
        || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > LIGHT && elsewhere() { tokio::task::block_in_place(work) } else { work() }
}
