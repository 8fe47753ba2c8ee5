//! Bodies on their way back from a tier: nothing is copied that is whole already, and what is large finds room as it comes.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::error::{MAX_ERROR_BYTES, UpstreamError};
use crate::answer::SMALL;
use crate::gathering::{Gathering, ahead};
use crate::rest::body::Limits;
use crate::room::Taken;

/// How long a tier that refuses may take to say why: its status says what matters.
const WORDS: Duration = Duration::from_secs(1);

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Bytes,
    /// What came behind them.
    pub trailers: HeaderMap,
    /// The room that it takes; what is small takes none.
    pub taken: Taken,
}

/// Reads an answer to its end. Memory is taken as it arrives.
pub async fn whole(mut body: Incoming, limits: &Limits) -> Result<Whole, UpstreamError> {
    let limit = limits.bytes;
    let too_large = || UpstreamError::TooLarge { limit };
    let claimed = body.size_hint().exact().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    if claimed > limit {
        return Err(too_large());
    }
    let (mut gathering, mut trailers, mut taken) = (Gathering::default(), HeaderMap::new(), Taken::default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| UpstreamError::broken(error.into()))?;
        match frame.into_data() {
            Ok(data) => {
                let come = gathering.len() + data.len();
                if come > limit {
                    return Err(too_large());
                }
                if come > SMALL {
                    let most = if claimed == 0 { limit } else { claimed };
                    limits.room.cover(&mut taken, ahead(most, come)).map_err(UpstreamError::NoRoom)?;
                }
                gathering.push(data, claimed);
            }
            Err(other) => trailers.extend(other.into_trailers().unwrap_or_default()),
        }
    }
    taken.shrink(gathering.len());
    Ok(Whole { bytes: gathering.into_bytes(), trailers, taken })
}

/// What a tier says that refuses, if it says it soon and shortly.
pub async fn words(body: Incoming, limits: &Limits) -> Bytes {
    let few = Limits { bytes: MAX_ERROR_BYTES, room: limits.room.clone() };
    let read = tokio::time::timeout(WORDS, whole(body, &few)).await;
    read.ok().and_then(Result::ok).map(|whole| whole.bytes).unwrap_or_default()
}
