//! A request's body: whole, in time, and no larger than there is room for.

use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use terrace_coding::Coding;

use crate::message::Message;
use crate::refusal::{Refusal, busy};
use crate::room::{Room, Taken};
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

/// Reads a body until `deadline`, if there is one. The room that it takes is given back when the second is dropped.
pub async fn read(
    body: Body,
    headers: &HeaderMap,
    limits: &Limits,
    deadline: Option<Instant>,
) -> Result<(Message, Taken), Refusal> {
    let coding = terrace_coding::of_content(texts(headers, &header::CONTENT_ENCODING));
    let coding = coding.map_err(|unsupported| Refusal::Unsupported(unsupported.to_string()))?;
    let json_length = Message::json_length(headers).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let patience = Instant::now() + PATIENCE;
    let until = deadline.map_or(patience, |deadline| deadline.min(patience));
    let collected = async {
        let stated = stated_length(headers, limits.bytes)?;
        match coding {
            None => collect(body, stated, limits).await,
            Some(coding) => unpack(body, coding, limits).await,
        }
    };
    let (bytes, room) =
        tokio::time::timeout_at(until.into(), collected).await.map_err(|_| match deadline {
            Some(deadline) if deadline <= patience => {
                Refusal::Deadline("the deadline passed before the body had arrived".to_owned())
            }
            _ => Refusal::SlowBody { seconds: PATIENCE.as_secs() },
        })??;
    Ok((Message { bytes, json_length }, room))
}

/// How long a body says that it is; 0 where it does not.
fn stated_length(headers: &HeaderMap, limit: usize) -> Result<usize, Refusal> {
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let stated: Option<u64> = stated.and_then(|length| length.parse().ok());
    match stated {
        Some(length) if length > limit as u64 => Err(Refusal::TooLarge { limit }),
        Some(length) => Ok(usize::try_from(length).unwrap_or(0)),
        None => Ok(0),
    }
}

async fn collect(mut body: Body, stated: usize, limits: &Limits) -> Result<(Bytes, Taken), Refusal> {
    let limit = limits.bytes;
    let mut room = Taken::default();
    limits.room.cover(&mut room, stated).map_err(busy)?;
    let mut whole = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| cut_off())?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Refusal::TooLarge { limit });
        }
        limits.room.cover(&mut room, stated.max(whole.len() + data.len())).map_err(busy)?;
        whole.push(data, stated);
    }
    Ok((whole.into_bytes(), room))
}

/// The same for a body in a coding: of what comes, only what becomes of it is kept.
async fn unpack(mut body: Body, coding: Coding, limits: &Limits) -> Result<(Bytes, Taken), Refusal> {
    let mut room = Taken::default();
    let mut unpacking = Unpacking::new(coding, limits)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| cut_off())?.into_data() {
            unpacking.feed(&data, &mut room)?;
        }
    }
    Ok((unpacking.finish(&mut room)?, room))
}

fn cut_off() -> Refusal {
    Refusal::Invalid("the body ended before it was whole".to_owned())
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
