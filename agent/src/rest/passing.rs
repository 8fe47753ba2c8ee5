//! Bodies that nobody reads to their end: the rest is passed over, so that their clients hear the answer. One that is still
//! sending does not listen, and to a connection that is closed in the middle of that nothing gets through.
//!
//! The answer does not wait for that: it is on its way meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;

/// How much is passed over, and for how long.
#[derive(Clone, Copy, Debug)]
struct Patience(usize, Duration);

/// Of whoever may ask: as much as it sends in that time.
const USUAL: Patience = Patience(usize::MAX, Duration::from_secs(2));
/// Of whoever is not let in.
const LITTLE: Patience = Patience(64 << 10, Duration::from_millis(100));

/// A body whose rest is passed over once nobody reads it any more. Nothing of that is kept.
#[derive(Debug)]
pub struct Passing<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// Until it has ended.
    body: Option<B>,
    patience: Patience,
    /// Its client sends it once it is told to go on, which it is when somebody begins to read.
    is_held_back: bool,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Passing<B> {
    /// That of a request with these headers.
    pub fn new(body: B, headers: &HeaderMap) -> Self {
        let is_held_back = headers.contains_key(header::EXPECT);
        Self { body: Some(body), patience: USUAL, is_held_back }
    }

    /// That of a client that is not let in.
    #[must_use]
    pub fn of_a_stranger(mut self) -> Self {
        self.patience = LITTLE;
        self
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Passing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.is_held_back = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Passing<B> {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !self.is_held_back && !body.is_end_stream());
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(pass_over(rest, self.patience));
        }
    }
}

async fn pass_over(mut body: impl Body<Data = Bytes> + Unpin, Patience(mut left, time): Patience) {
    let passing = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > left {
                break;
            }
            left -= length;
        }
    };
    // Nobody wants it.
    let _ = tokio::time::timeout(time, passing).await;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// A body that comes in pieces of a KiB, and tells how many were read and when it was dropped.
    struct Coming {
        pieces: VecDeque<Bytes>,
        every: Duration,
        next: Option<Pin<Box<tokio::time::Sleep>>>,
        read: Arc<AtomicUsize>,
        dropped: Arc<tokio::sync::Notify>,
    }

    impl Coming {
        fn new(pieces: usize, every: Duration) -> (Self, Arc<AtomicUsize>, Arc<tokio::sync::Notify>) {
            let (read, dropped) = (Arc::default(), Arc::default());
            let body = Self {
                pieces: std::iter::repeat_n(Bytes::from_static(&[b'x'; 1024]), pieces).collect(),
                every,
                next: None,
                read: Arc::clone(&read),
                dropped: Arc::clone(&dropped),
            };
            (body, read, dropped)
        }
    }

    impl Body for Coming {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let every = self.every;
            let next = self.next.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            std::task::ready!(next.as_mut().poll(context));
            self.next = None;
            let piece = self.pieces.pop_front();
            self.read.fetch_add(usize::from(piece.is_some()), Ordering::Relaxed);
            Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    impl Drop for Coming {
        fn drop(&mut self) {
            self.dropped.notify_one();
        }
    }

    fn headers(expects: bool) -> HeaderMap {
        let expect = expects.then(|| (header::EXPECT, "100-continue".parse().unwrap()));
        expect.into_iter().collect()
    }

    /// How many of 100 pieces were read, of which so many by somebody, and how long after that the rest was given up.
    async fn passed(every: Duration, by_somebody: usize, expects: bool, stranger: bool) -> (usize, Duration) {
        let (body, read, dropped) = Coming::new(100, every);
        let mut body = Passing::new(body, &headers(expects));
        if stranger {
            body = body.of_a_stranger();
        }
        for _ in 0..by_somebody {
            body.frame().await.unwrap().unwrap();
        }
        let begun = Instant::now();
        drop(body);
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for it");
        dropped.notified().await;
        (read.load(Ordering::Relaxed), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_passed_over_while_its_client_hears_why() {
        let ms = Duration::from_millis;
        // Until its end.
        assert_eq!(passed(ms(10), 30, false, false).await.0, 100);
        // As long as that may take.
        let (read, took) = passed(ms(100), 3, false, false).await;
        assert!((22..=23).contains(&read) && took <= ms(2002), "{read} {took:?}");
        // Who is not let in is read little of.
        let (read, took) = passed(ms(1), 0, false, true).await;
        assert!(read == 65 && took < ms(100), "{read} {took:?}");
        let (read, took) = passed(ms(50), 0, false, true).await;
        assert!(read <= 2 && took <= ms(102), "{read} {took:?}");
        // Who was to be told to go on is not read, unless somebody began to.
        assert_eq!(passed(ms(10), 0, true, false).await, (0, Duration::ZERO));
        assert_eq!(passed(ms(10), 1, true, false).await.0, 100);
        // What has ended is over.
        let (body, _, dropped) = Coming::new(1, Duration::ZERO);
        let mut body = Passing::new(body, &headers(false));
        while body.frame().await.is_some() {}
        dropped.notified().await;
        assert!(body.is_end_stream());
    }
}
