//! Memory for what is decoded, asked for before anything is made: what takes two bytes in a message may take dozens here.
//!
//! Whoever holds a message says how much there is; the readers of JSON, of raw elements and of gRPC's messages ask.

use std::fmt;

use crate::error::Fault;

/// What an allocator adds to a text, about.
const ALLOCATED: usize = 16;

/// Who gives memory to what is decoded.
#[derive(Clone, Copy)]
pub struct Memory<'a>(&'a dyn Fn(usize) -> bool);

impl<'a> Memory<'a> {
    /// As much as there is: for what is small, or comes from nobody else.
    pub const UNBOUNDED: Memory<'static> = Memory(&|_| true);

    /// As `take` gives it: whether there are so many bytes more, which are then taken. Of what takes long, it is asked for
    /// none at times: to say whether anybody still waits.
    pub const fn new(take: &'a dyn Fn(usize) -> bool) -> Self {
        Self(take)
    }

    /// Takes so many bytes.
    pub(crate) fn take(self, bytes: usize) -> Result<(), Fault> {
        if bytes == 0 || (self.0)(bytes) { Ok(()) } else { Err(Fault::NoMemory) }
    }

    /// Whether to go on with what takes long.
    pub(crate) fn look(self) -> Result<(), Fault> {
        if (self.0)(0) { Ok(()) } else { Err(Fault::NoMemory) }
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// What a text of so many bytes takes beside its place in a vector.
pub(crate) const fn of_text(length: usize) -> usize {
    if length == 0 { 0 } else { length + ALLOCATED }
}
