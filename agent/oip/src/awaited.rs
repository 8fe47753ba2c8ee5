//! Text that grows for as long as somebody waits for it.

use std::io;

/// How much is written between two looks at whether anybody still waits: a fraction of a millisecond's worth.
const STEP: usize = 64 << 10;

/// A body that is being written, and given up once nobody waits for it.
pub(crate) struct AwaitedText<F> {
    body: Vec<u8>,
    is_awaited: F,
    /// How long the body is when it is looked again.
    next_look: usize,
    is_given_up: bool,
}

impl<F: Fn() -> bool> AwaitedText<F> {
    pub(crate) fn with_capacity(capacity: usize, is_awaited: F) -> Self {
        Self { body: Vec::with_capacity(capacity), is_awaited, next_look: STEP, is_given_up: false }
    }

    /// The whole text; none where it was given up.
    pub(crate) fn into_body(self) -> Option<Vec<u8>> {
        (!self.is_given_up).then_some(self.body)
    }

    #[cold]
    fn look(&mut self) -> io::Result<()> {
        self.next_look = self.body.len().saturating_add(STEP);
        self.is_given_up = !(self.is_awaited)();
        if self.is_given_up { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<F: Fn() -> bool> io::Write for AwaitedText<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.body.len() >= self.next_look {
            self.look()?;
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
