//! A request's body: whole, in time, and no larger than there is room for.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, Limited};

use crate::message::Message;
use crate::refusal::Refusal;
use crate::room::{Room, Taken};

/// The longest that a body may take to arrive, where its request has no nearer deadline.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How much is read.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body.
    pub bytes: usize,
    /// Where it finds room.
    pub room: Room,
}

/// Reads a body until `deadline`, if there is one. The room that it takes is given back when the second is dropped.
pub async fn read(
    body: Body,
    headers: &HeaderMap,
    limits: &Limits,
    deadline: Option<Instant>,
) -> Result<(Message, Taken), Refusal> {
    refuse_unread_encodings(headers)?;
    let json_length = Message::json_length(headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let patience = Instant::now() + PATIENCE;
    let until = deadline.map_or(patience, |deadline| deadline.min(patience));
    let (bytes, room) = tokio::time::timeout_at(until.into(), collect(body, headers, limits))
        .await
        .map_err(|_| match deadline {
            Some(deadline) if deadline <= patience => {
                Refusal::Deadline("the deadline passed before the body had arrived".to_owned())
            }
            _ => Refusal::SlowBody { seconds: PATIENCE.as_secs() },
        })??;
    Ok((Message { bytes, json_length }, room))
}

async fn collect(mut body: Body, headers: &HeaderMap, limits: &Limits) -> Result<(Bytes, Taken), Refusal> {
    let limit = limits.bytes;
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if stated.is_some_and(|length: u64| length > limit as u64) {
        return Err(Refusal::TooLarge { limit });
    }
    let stated = stated.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut room = Taken::default();
    limits.room.cover(&mut room, stated).map_err(|full| Refusal::Busy(full.to_string()))?;
    let mut whole = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Invalid("the body ended before it was whole".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Refusal::TooLarge { limit });
        }
        limits
            .room
            .cover(&mut room, stated.max(whole.len() + data.len()))
            .map_err(|full| Refusal::Busy(full.to_string()))?;
        whole.push(data, stated);
    }
    Ok((whole.into_bytes(), room))
}

/// A body as it comes: the first piece is often all of it, and then nothing is copied.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    /// How much has come.
    pub fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Memory is taken for what was stated, which is no more than the limit, once the first piece of it has come.
    pub fn push(&mut self, data: Bytes, stated: usize) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(stated.max(self.first.len() + data.len()));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }

    /// All of it.
    pub fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Reads what little a refused client still sends, so that it hears why on a connection that it can go on using.
pub async fn pass_over(body: Body) {
    const BYTES: usize = 64 << 10;
    const TIME: Duration = Duration::from_millis(100);
    // Nobody wants it.
    let _ = tokio::time::timeout(TIME, Limited::new(body, BYTES).collect()).await;
}

fn refuse_unread_encodings(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Refusal::Unsupported(
            "compressed bodies are not read by this agent yet; send the body without content-encoding"
                .to_owned(),
        )),
    }
}
