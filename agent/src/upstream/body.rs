//! Bodies on their way back from a tier: nothing is copied that is whole already.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::UpstreamError;
use crate::gathering::Gathering;

/// A whole answer: its bytes, and what came behind them. Memory is taken as it arrives, up to `limit`.
pub async fn whole(mut body: Incoming, limit: usize) -> Result<(Bytes, HeaderMap), UpstreamError> {
    let too_large = || UpstreamError::TooLarge { limit };
    let claimed = body.size_hint().exact().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    if claimed > limit {
        return Err(too_large());
    }
    let (mut gathering, mut trailers) = (Gathering::default(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| UpstreamError::broken(error.into()))?;
        match frame.into_data() {
            Ok(data) if gathering.len() + data.len() > limit => return Err(too_large()),
            Ok(data) => gathering.push(data, claimed),
            Err(other) => trailers.extend(other.into_trailers().unwrap_or_default()),
        }
    }
    Ok((gathering.into_bytes(), trailers))
}
