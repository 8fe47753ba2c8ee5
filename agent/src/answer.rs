//! Answers on their way to clients who may take their time: they hold room for as long as they are in memory, and large ones
//! leave a piece at a time, so that it shows whether they do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::refusal::Refusal;
use crate::room::{Full, Room, Taken};
use crate::streams;

/// An answer of so many bytes goes out as it is, and is refused for no lack of room: a stream takes about as much by itself.
pub const SMALL: usize = 16 << 10;
/// How much leaves at a time over HTTP/2: of less than a client has to take in two minutes, it shows that it does.
const PIECE: usize = 32 << 10;

/// The room of an answer of so many bytes, of its request's.
pub fn room(room: &Room, mut of_request: Taken, bytes: usize) -> Result<Taken, Refusal> {
    match room.cover(&mut of_request, bytes) {
        Ok(()) => {}
        // It holds what its request did.
        Err(_) if bytes <= SMALL => {}
        Err(full) => return Err(no_room(full)),
    }
    of_request.shrink(bytes);
    Ok(of_request)
}

/// What is said where there is no room for an answer.
pub fn no_room(full: Full) -> Refusal {
    match full {
        Full::Now { .. } => Refusal::Busy(full.to_string()),
        Full::Ever { bytes } => Refusal::TooDense(format!(
            "the answer is larger than all that this agent may hold, {bytes} bytes (--max-held-bytes); ask for less of it"
        )),
    }
}

/// An answer as a body.
#[derive(Debug)]
pub struct Answer {
    rest: VecDeque<Bytes>,
    /// What is told behind it.
    trailers: Option<HeaderMap>,
    /// What has been handed on over HTTP/2.
    leaving: Option<Arc<Leaving>>,
    /// How many pieces of that were there at the last look.
    seen: usize,
}

impl Answer {
    /// Of these pieces, in order, which hold this room until they have left.
    pub fn new(pieces: impl Iterator<Item = Bytes>, mut taken: Taken, trailers: Option<HeaderMap>) -> Self {
        let rest = pieces.filter(|piece| !piece.is_empty()).map(|piece| {
            let share = taken.split(piece.len());
            Bytes::from_owner(Held { bytes: piece, _room: share })
        });
        let mut rest: VecDeque<Bytes> = rest.collect();
        if let Some(last) = rest.pop_back() {
            // What shares leave over, since each is of whole units.
            rest.push_back(Bytes::from_owner(Held { bytes: last, _room: taken }));
        }
        Self { rest, trailers, leaving: None, seen: 0 }
    }

    /// The next piece over HTTP/2.
    fn piece(&mut self) -> Option<Bytes> {
        let mut next = self.rest.pop_front()?;
        let piece = next.split_to(PIECE.min(next.len()));
        if !next.is_empty() {
            self.rest.push_front(next);
        }
        let leaving = self.leaving.get_or_insert_default();
        leaving.pieces.fetch_add(1, Ordering::Relaxed);
        Some(Bytes::from_owner(Piece { bytes: piece, leaving: Arc::clone(leaving) }))
    }

    /// Whether all that was handed on has left. An answer whose end is handed on cannot be given up any more.
    fn poll_left(&mut self, context: &Context<'_>) -> Poll<()> {
        let Some(leaving) = &self.leaving else { return Poll::Ready(()) };
        *leaving.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        let pieces = leaving.pieces.load(Ordering::SeqCst);
        if pieces != std::mem::replace(&mut self.seen, pieces) {
            streams::moved();
        }
        if pieces == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = if streams::is_one() { self.piece() } else { self.rest.pop_front() };
        if let Some(piece) = piece {
            streams::moved();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        std::task::ready!(self.poll_left(context));
        self.leaving = None;
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.leaving.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.rest.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

/// A small answer as a body.
#[derive(Debug)]
pub struct Small {
    bytes: Option<Bytes>,
    trailers: Option<HeaderMap>,
    taken: Taken,
}

impl Small {
    /// Of these bytes, which hold this room until they have left, and what is told behind them.
    pub const fn new(bytes: Bytes, taken: Taken, trailers: Option<HeaderMap>) -> Self {
        Self { bytes: Some(bytes), trailers, taken }
    }
}

impl Body for Small {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(bytes) = self.bytes.take() else {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        };
        // A stream may be kept waiting with it, and with as many others as there are streams.
        let room = std::mem::take(&mut self.taken);
        let bytes = if streams::is_one() { Bytes::from_owner(Held { bytes, _room: room }) } else { bytes };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Bytes, and the room that they take until nobody refers to them.
struct Held {
    bytes: Bytes,
    _room: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What has been handed on and not left yet.
#[derive(Debug, Default)]
struct Leaving {
    pieces: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

/// One piece of it.
struct Piece {
    bytes: Bytes,
    leaving: Arc<Leaving>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.leaving.pieces.fetch_sub(1, Ordering::SeqCst);
        let waiting = self.leaving.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const KIB: usize = 1 << 10;

    fn bytes(size: usize) -> Bytes {
        vec![b'x'; size].into()
    }

    fn is_free(room: &Room, bytes: usize) -> bool {
        room.cover(&mut Taken::default(), bytes).is_ok()
    }

    #[tokio::test]
    async fn room_is_held_by_each_piece_until_nobody_has_it() {
        let all = Room::new(1000 * KIB);
        let mut taken = Taken::default();
        all.cover(&mut taken, 300 * KIB).unwrap();
        // What its request took is more than it needs, or less.
        let taken = room(&all, taken, 600 * KIB + 100).unwrap();
        let pieces = [bytes(100), Bytes::new(), bytes(200 * KIB), bytes(400 * KIB)];
        let mut answer = Answer::new(pieces.into_iter(), taken, None);
        assert_eq!(answer.size_hint().exact(), Some(600 * 1024 + 100));
        assert!(is_free(&all, 396 * KIB) && !is_free(&all, 404 * KIB));
        let mut left = Vec::new();
        while let Some(piece) = answer.frame().await {
            left.push(piece.unwrap().into_data().unwrap());
        }
        assert_eq!(left.iter().map(Bytes::len).collect::<Vec<_>>(), [100, 200 * KIB, 400 * KIB]);
        drop(answer);
        assert!(!is_free(&all, 404 * KIB), "they are in memory yet");
        left.remove(1);
        assert!(is_free(&all, 592 * KIB) && !is_free(&all, 604 * KIB));
        drop(left);
        assert!(is_free(&all, 1000 * KIB));
    }

    #[test]
    fn an_answer_has_what_its_request_had_and_more_where_there_is_more() {
        let all = Room::new(1000 * KIB);
        let taken = |bytes| {
            let mut taken = Taken::default();
            all.cover(&mut taken, bytes).unwrap();
            taken
        };
        let small = room(&all, taken(900 * KIB), SMALL).unwrap();
        assert!(is_free(&all, 984 * KIB) && !is_free(&all, 985 * KIB));
        let others = taken(984 * KIB);
        assert!(room(&all, Taken::default(), SMALL).is_ok(), "a small one is refused for nothing");
        drop((small, others));
        let less = room(&all, taken(900 * KIB), 100 * KIB).unwrap();
        assert!(is_free(&all, 900 * KIB));
        assert_eq!(room(&all, taken(100 * KIB), 901 * KIB).unwrap_err().status().as_u16(), 429);
        drop(less);
        let refused = room(&all, taken(100 * KIB), 1001 * KIB).unwrap_err();
        assert_eq!(refused.status().as_u16(), 413);
        assert!(refused.to_string().contains("the answer is larger"), "{refused}");
        assert!(is_free(&all, 1000 * KIB));
    }
}
