//! A request's body: whole, in time, and no larger than there is room for.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use terrace_coding::Coding;

use crate::gathering::{Gathering, ahead};
use crate::message::Message;
use crate::refusal::{Refusal, busy};
use crate::requirements::refuse_trailers;
use crate::room::{Room, Taken};
use crate::serve::Due;
use crate::unpacking::{Unpacking, texts};

/// The longest that a body may take to arrive, where its request has no nearer deadline.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How much is read.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body, as it came and once it is decompressed.
    pub bytes: usize,
    /// Where it finds room.
    pub room: Room,
}

/// The next of a body's bytes.
async fn next(body: &mut Body) -> Option<Result<Bytes, Refusal>> {
    loop {
        match body.frame().await?.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(other)) => {
                let trailers = other.into_trailers().unwrap_or_default();
                if let Err(error) = refuse_trailers(&trailers) {
                    return Some(Err(Refusal::Invalid(error.to_string())));
                }
            }
            Err(_) => {
                return Some(Err(Refusal::Invalid("the body ended before it was whole".to_owned())));
            }
        }
    }
}

/// Reads a body until `deadline`, if there is one. The room that it takes is given back when the second is dropped.
pub async fn read(
    body: &mut Body,
    headers: &HeaderMap,
    limits: &Limits,
    deadline: Option<Instant>,
) -> Result<(Message, Taken), Refusal> {
    let coding = terrace_coding::of_content(texts(headers, &header::CONTENT_ENCODING));
    let coding = coding.map_err(|unsupported| Refusal::Unsupported(unsupported.to_string()))?;
    let json_length = Message::json_length(headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let patience = Instant::now() + PATIENCE;
    let until = deadline.map_or(patience, |deadline| deadline.min(patience));
    let due = Due::by(deadline);
    let collected = async {
        let stated = stated_length(headers, limits.bytes)?;
        match coding {
            None => collect(body, stated, limits, due).await,
            Some(coding) => unpack(body, coding, limits, due).await,
        }
    };
    let (bytes, room) =
        tokio::time::timeout_at(until.into(), collected).await.map_err(|_| match deadline {
            Some(deadline) if deadline <= patience => too_late(),
            _ => Refusal::SlowBody { seconds: PATIENCE.as_secs() },
        })??;
    Ok((Message { bytes, json_length }, room))
}

/// How long a body says that it is, if it does.
fn stated_length(headers: &HeaderMap, limit: usize) -> Result<Option<usize>, Refusal> {
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let stated: Option<u64> = stated.and_then(|length| length.parse().ok());
    match stated {
        Some(length) if length > limit as u64 => Err(Refusal::TooLarge { limit }),
        Some(length) => Ok(usize::try_from(length).ok()),
        None => Ok(None),
    }
}

fn too_late() -> Refusal {
    Refusal::Deadline("the deadline passed before the body had arrived".to_owned())
}

async fn collect(
    body: &mut Body,
    stated: Option<usize>,
    limits: &Limits,
    due: Due,
) -> Result<(Bytes, Taken), Refusal> {
    let limit = limits.bytes;
    let (mut room, mut whole) = (Taken::default(), Gathering::default());
    while let Some(data) = next(body).await {
        let data = data?;
        // While more comes at once, nobody else looks.
        if !due.is_ahead() {
            return Err(too_late());
        }
        let come = whole.len() + data.len();
        if come > limit {
            return Err(Refusal::TooLarge { limit });
        }
        limits.room.cover(&mut room, ahead(stated.unwrap_or(limit), come)).map_err(busy)?;
        whole.push(data, stated.unwrap_or(0));
    }
    room.shrink(whole.len());
    Ok((whole.into_bytes(), room))
}

/// The same for a body in a coding: of what comes, only what becomes of it is kept.
async fn unpack(
    body: &mut Body,
    coding: Coding,
    limits: &Limits,
    due: Due,
) -> Result<(Bytes, Taken), Refusal> {
    let mut room = Taken::default();
    let mut unpacking = Unpacking::new(coding, limits, due)?;
    let (limit, mut come) = (limits.bytes, 0);
    while let Some(data) = next(body).await {
        let data = data?;
        // What becomes of it may be nothing.
        come += data.len();
        if come > limit {
            return Err(Refusal::TooLarge { limit });
        }
        unpacking.feed(&data, &mut room)?;
    }
    Ok((unpacking.finish(&mut room)?, room))
}
