//! Memory for what is decoded, asked for before anything is made: what takes two bytes in a message may take dozens here.
//!
//! Whoever holds a message says how much there is; the readers of JSON, of raw elements and of gRPC's messages ask.

use std::cell::Cell;
use std::fmt;

use crate::error::Fault;

/// How much is read between two looks at whether anybody still waits: a fraction of a millisecond's worth.
const STEP: usize = 64 << 10;
/// What it takes to read anything, however small it is, in bytes.
const EACH: usize = 8;

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

/// Looks at times, of what takes long, whether anybody still waits.
pub(crate) struct Pace<'a> {
    memory: Memory<'a>,
    left: Cell<usize>,
}

impl<'a> Pace<'a> {
    pub(crate) const fn new(memory: Memory<'a>) -> Self {
        Self { memory, left: Cell::new(STEP) }
    }

    /// Something of so many bytes was read.
    #[inline]
    pub(crate) fn step(&self, bytes: usize) -> Result<(), Fault> {
        let left = self.left.get().saturating_sub(bytes.saturating_add(EACH));
        self.left.set(if left == 0 { STEP } else { left });
        if left == 0 { self.memory.look() } else { Ok(()) }
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
