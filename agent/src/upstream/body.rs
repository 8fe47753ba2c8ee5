//! Bodies on their way to a tier and back: in pieces, and nothing copied that is whole already.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::UpstreamError;

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

/// A whole answer: its bytes, and what came behind them. Memory is taken as it arrives, up to `limit`.
pub async fn whole(mut body: Incoming, limit: usize) -> Result<(Bytes, HeaderMap), UpstreamError> {
    let too_large = || UpstreamError::TooLarge { limit };
    let claimed = body.size_hint().exact().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    if claimed > limit {
        return Err(too_large());
    }
    let (mut first, mut all, mut trailers) = (Bytes::new(), BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| UpstreamError::Broken(error.into()))?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(other) => {
                trailers.extend(other.into_trailers().unwrap_or_default());
                continue;
            }
        };
        let length = first.len() + all.len();
        if length + data.len() > limit {
            return Err(too_large());
        }
        if length == 0 {
            first = data;
        } else {
            if all.is_empty() {
                all.reserve(claimed.max(length + data.len()));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok((if all.is_empty() { first } else { all.freeze() }, trailers))
}
