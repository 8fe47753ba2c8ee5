//! Bodies that are sent in pieces: nothing is copied that is whole already.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A body of pieces whose length is known.
#[derive(Clone, Debug)]
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// Of these, in order.
    pub fn new(pieces: impl Iterator<Item = Bytes>) -> Self {
        Self(pieces.filter(|piece| !piece.is_empty()).collect())
    }

    /// What is left of them.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
    }
}
