//! Bodies on their way back from a tier: nothing is copied that is whole already.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::UpstreamError;

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
