//! The one message of a call, as it comes: behind a byte that says whether it is compressed, and its length in four. Its
//! size is checked, it takes room as it comes, and what is compressed is unpacked.

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use terrace_coding::Coding;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::decoding::unread;
use crate::gathering::{Gathering, ahead};
use crate::refusal::{Refusal, busy};
use crate::requirements;
use crate::rest::body::{Limits, PATIENCE};
use crate::room::Taken;
use crate::serve::Due;
use crate::unpacking::{Unpacking, texts};

/// How many bytes precede a message.
pub const PREFIX: usize = 5;
/// Says how messages of a call are compressed.
pub const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Why a call's message is not taken: what its client is told, and the status that HTTP has for that.
#[derive(Debug)]
pub struct Refused {
    /// What is told.
    pub status: Status,
    /// What is counted.
    pub code: u16,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.status().as_u16(), status: refusal.into() }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::Unimplemented => 415,
            Code::DeadlineExceeded => 504,
            _ => 400,
        };
        Self { status, code }
    }
}

/// Reads it, in so much time. The room that it takes is given back when the second is dropped.
pub async fn read<B>(
    mut body: B,
    coding: Option<Coding>,
    limits: &Limits,
    time: Duration,
) -> Result<(Bytes, Taken), Refused>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let due = Due::by(Instant::now().checked_add(time));
    let reading = async {
        let mut message = Message::new(coding, limits, due);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Status::cancelled("the call ended before its message was whole"))?;
            if !due.is_ahead() {
                return Err(unread().into());
            }
            if let Ok(data) = frame.into_data() {
                message.feed(data)?;
            }
        }
        message.end()
    };
    timeout(time, reading)
        .await
        .map_err(|_| Status::deadline_exceeded("the request did not arrive in time"))?
}

/// The coding of a call's compressed messages.
pub fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Status> {
    terrace_coding::of_content(texts(headers, &ENCODING)).map_err(|_| {
        let said = format!(
            "the messages' grpc-encoding is none that this agent reads; send one of {}, or none",
            Coding::NAMES
        );
        // As gRPC has it: what is not read, and what is.
        let mut told = HeaderMap::with_capacity(1);
        told.insert("grpc-accept-encoding", HeaderValue::from_static(Coding::NAMES));
        let told = tonic::metadata::MetadataMap::from_headers(told);
        Status::with_metadata(tonic::Code::Unimplemented, said, told)
    })
}

/// How long a request may take to arrive: until its deadline, if it states one. What is wrong with what it states, it
/// hears from who reads it.
pub fn patience(headers: &HeaderMap) -> Duration {
    let stated = [requirements::from_headers(headers), requirements::from_grpc_timeout(headers)];
    let limits = stated.into_iter().flatten().filter_map(|stated| stated.max_latency_ms);
    let limits = limits.filter_map(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
    limits.fold(PATIENCE, Duration::min)
}

struct Message<'a> {
    coding: Option<Coding>,
    limits: &'a Limits,
    due: Due,
    prefix: [u8; PREFIX],
    /// How much of it has come.
    begun: usize,
    rest: Rest,
    taken: Taken,
}

/// What follows the prefix.
enum Rest {
    Plain { length: usize, come: Gathering },
    Packed { left: usize, unpacking: Box<Unpacking> },
}

impl<'a> Message<'a> {
    fn new(coding: Option<Coding>, limits: &'a Limits, due: Due) -> Self {
        let rest = Rest::Plain { length: 0, come: Gathering::default() };
        Self { coding, limits, due, prefix: [0; PREFIX], begun: 0, rest, taken: Taken::default() }
    }

    /// Takes what has come.
    fn feed(&mut self, mut data: Bytes) -> Result<(), Refused> {
        if self.begun < PREFIX {
            let more = (PREFIX - self.begun).min(data.len());
            self.prefix[self.begun..][..more].copy_from_slice(&data[..more]);
            data.advance(more);
            self.begun += more;
            if self.begun < PREFIX {
                return Ok(());
            }
            self.begin()?;
        }
        match &mut self.rest {
            Rest::Plain { length, come } => {
                let all = come.len() + data.len();
                if all > *length {
                    return Err(not_one().into());
                }
                self.limits.room.cover(&mut self.taken, ahead(*length, all)).map_err(busy)?;
                come.push(data, *length);
            }
            Rest::Packed { left, unpacking } => {
                *left = left.checked_sub(data.len()).ok_or_else(not_one)?;
                unpacking.feed(&data, &mut self.taken)?;
            }
        }
        Ok(())
    }

    /// The prefix is there.
    fn begin(&mut self) -> Result<(), Refused> {
        let mut prefix = &self.prefix[..];
        let (flag, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if length > self.limits.bytes {
            return Err(Refusal::TooLarge { limit: self.limits.bytes }.into());
        }
        self.rest = match (flag, self.coding) {
            (0, _) => Rest::Plain { length, come: Gathering::default() },
            (1, Some(coding)) => Rest::Packed {
                left: length,
                unpacking: Box::new(Unpacking::new(coding, self.limits, self.due)?),
            },
            (1, None) => {
                return Err(Status::internal(
                    "the message is compressed, and no header grpc-encoding says how",
                )
                .into());
            }
            _ => {
                let said = "the byte before the message's length is neither 0 nor 1";
                return Err(Status::internal(said).into());
            }
        };
        Ok(())
    }

    /// All of it, and its room.
    fn end(mut self) -> Result<(Bytes, Taken), Refused> {
        if self.begun == 0 {
            return Err(Status::internal("Missing request message.").into());
        }
        let message = match self.rest {
            Rest::Plain { length, come } if self.begun == PREFIX && come.len() == length => come.into_bytes(),
            Rest::Packed { left: 0, unpacking } => unpacking.finish(&mut self.taken)?,
            Rest::Plain { .. } | Rest::Packed { .. } => {
                return Err(Status::internal("the call ended inside of its message").into());
            }
        };
        Ok((message, self.taken))
    }
}

fn not_one() -> Status {
    Status::internal("the call has not the one message that its length tells")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;
    use crate::room::Room;

    const LIMIT: usize = 8 << 20;

    /// Frames, one after the other.
    struct Frames(VecDeque<Bytes>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        stating(flag, u32::try_from(message.len()).unwrap(), message)
    }

    fn stating(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &length.to_be_bytes(), message].concat()
    }

    /// What is read of a call that comes in pieces of a size, and what room is free meanwhile.
    async fn came(coding: Option<Coding>, bytes: &[u8], size: usize) -> Result<Bytes, Status> {
        let limits = Limits { bytes: LIMIT, room: Room::new(2 * LIMIT) };
        let frames = Frames(bytes.chunks(size).map(Bytes::copy_from_slice).collect());
        let (message, taken) =
            read(frames, coding, &limits, PATIENCE).await.map_err(|refused| refused.status)?;
        let left = 2 * LIMIT - message.len();
        limits.room.cover(&mut Taken::default(), left - (8 << 10)).expect("it takes no more than it is");
        drop(taken);
        Ok(message)
    }

    #[tokio::test]
    async fn a_message_comes_out_uncompressed_however_it_came() {
        let text = "1.5,".repeat(1000);
        for coding in Coding::ALL {
            let packed = terrace_coding::pack(coding, &[text.as_bytes()], true).unwrap();
            let came = |bytes: Vec<u8>, size| async move { came(Some(coding), &bytes, size).await.unwrap() };
            for size in [1, 3, 7, 100, usize::MAX] {
                assert_eq!(came(framed(1, &packed), size).await, text, "{coding} {size}");
                assert_eq!(came(framed(0, text.as_bytes()), size).await, text, "{coding} {size}");
                assert_eq!(came(framed(0, b""), size).await, "", "{coding} {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_call_is_one_message_of_the_length_that_it_tells() {
        let bomb = terrace_coding::pack(Coding::Zstd, &[&vec![0; LIMIT]], true).unwrap();
        let cut = &terrace_coding::pack(Coding::Zstd, &[b"abc"], true).unwrap()[..9];
        let zstd = Some(Coding::Zstd);
        let two = [framed(0, b"abc"), framed(0, b"")].concat();
        for (coding, bytes, expected) in [
            (None, vec![], Code::Internal),
            (None, b"\0\0\0".to_vec(), Code::Internal),
            (None, stating(0, 4, b"abc"), Code::Internal),
            (None, stating(0, 2, b"abc"), Code::Internal),
            (None, two, Code::Internal),
            (None, framed(1, b"abc"), Code::Internal),
            (None, framed(7, b"abc"), Code::Internal),
            (None, stating(0, u32::MAX, b"abc"), Code::ResourceExhausted),
            (zstd, stating(1, u32::MAX, b"abc"), Code::ResourceExhausted),
            (zstd, framed(1, &bomb), Code::ResourceExhausted),
            (zstd, framed(1, b"no zstd"), Code::InvalidArgument),
            (zstd, framed(1, b""), Code::InvalidArgument),
            (zstd, framed(1, cut), Code::InvalidArgument),
            (zstd, stating(1, 10, cut), Code::Internal),
            (zstd, stating(1, 8, cut), Code::Internal),
        ] {
            for size in [1, 4, usize::MAX] {
                let refused = came(coding, &bytes, size).await.unwrap_err();
                assert_eq!(refused.code(), expected, "{refused:?} of {:?}", &bytes[..bytes.len().min(9)]);
            }
        }
    }

    #[test]
    fn who_says_much_and_sends_little_takes_little_room() {
        let limits = Limits { bytes: LIMIT, room: Room::new(LIMIT) };
        let mut message = Message::new(None, &limits, Due::by(None));
        message.feed(stating(0, u32::try_from(LIMIT).unwrap() - 5, b"abc").into()).unwrap();
        limits.room.cover(&mut Taken::default(), LIMIT - (4 << 10)).unwrap();
        message.feed(vec![0; LIMIT / 4].into()).unwrap();
        limits.room.cover(&mut Taken::default(), LIMIT / 2 - (4 << 10)).unwrap();
        assert!(limits.room.cover(&mut Taken::default(), LIMIT / 2 + (4 << 10)).is_err());
    }

    #[test]
    fn more_than_one_message_is_refused_as_it_comes() {
        let limits = Limits { bytes: LIMIT, room: Room::new(LIMIT) };
        let mut message = Message::new(None, &limits, Due::by(None));
        message.feed(framed(0, b"abc").into()).unwrap();
        assert_eq!(message.feed(Bytes::from_static(b"\0")).unwrap_err().status.code(), Code::Internal);
    }

    #[test]
    fn several_headers_name_one_coding_or_none() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ENCODING, value.parse().unwrap());
            }
            coding(&headers).map_err(|status| status.into_http::<()>().headers().clone())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["Identity", "GZIP"]), Ok(Some(Coding::Gzip)));
        let refused = of(&["gzip", "zstd"]).unwrap_err();
        assert_eq!(refused["grpc-status"], "12");
        assert_eq!(refused["grpc-accept-encoding"], "gzip, deflate, zstd");
        assert!(of(&["snappy"]).is_err());
    }
}
