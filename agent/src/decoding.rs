//! Bytes on their way to a request: what it takes in memory finds room before it is made.

use std::cell::{Cell, RefCell};

use terrace_oip::{DecodeError, Memory};

use crate::refusal::{Refusal, busy};
use crate::room::{Full, Room, Taken};
use crate::serve::Due;

/// How many times memory is asked for between two looks at the clock.
const LOOK_EVERY: u8 = 64;

/// Why something is not decoded.
#[derive(Debug, PartialEq)]
pub enum Stopped {
    /// Nobody waits for it any more.
    Late,
    /// There is no room for what becomes of it.
    Full(Full),
    /// It is wrong.
    Wrong(DecodeError),
}

/// Decodes, until it is late; what that takes is added to what the bytes take, but for so much that is `free`.
pub fn bounded<T>(
    room: &Room,
    (taken, free): (&mut Taken, usize),
    due: Due,
    decode: impl FnOnce(Memory<'_>) -> Result<T, DecodeError>,
) -> Result<T, Stopped> {
    let (taken, free, full) = (RefCell::new(taken), Cell::new(free), Cell::new(None));
    let (asked, is_late) = (Cell::new(0_u8), Cell::new(false));
    let take = |bytes| {
        asked.set(asked.get().wrapping_add(1));
        if (bytes == 0 || asked.get() % LOOK_EVERY == 1) && !due.is_ahead() {
            is_late.set(true);
            return false;
        }
        if let Some(left) = free.get().checked_sub(bytes) {
            free.set(left);
            return true;
        }
        let added = room.add(&mut taken.borrow_mut(), bytes);
        full.set(added.err());
        added.is_ok()
    };
    let decoded = decode(Memory::new(&take)).map_err(|error| match full.get() {
        _ if is_late.get() => Stopped::Late,
        Some(full) => Stopped::Full(full),
        None => Stopped::Wrong(error),
    })?;
    if due.is_ahead() { Ok(decoded) } else { Err(Stopped::Late) }
}

/// The same of a request.
pub fn within<T>(
    room: &Room,
    taken: &mut Taken,
    due: Due,
    decode: impl FnOnce(Memory<'_>) -> Result<T, DecodeError>,
) -> Result<T, Refusal> {
    bounded(room, (taken, 0), due, decode).map_err(|stopped| match stopped {
        Stopped::Late => unread(),
        Stopped::Full(full) => busy(full),
        Stopped::Wrong(error) => Refusal::Invalid(error.to_string()),
    })
}

/// What is said where the deadline passed before the request was read.
pub fn unread() -> Refusal {
    Refusal::Deadline("the deadline passed before the request had been read".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use terrace_oip::InferRequest;

    use super::*;

    /// What comes of a body where there is so much room for what it becomes.
    fn decoded(body: &str, bytes: usize) -> Result<usize, u16> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let room = Room::new(bytes);
        let mut taken = Taken::default();
        let read = |memory: Memory<'_>| InferRequest::from_http_within(&body, None, memory);
        let request =
            within(&room, &mut taken, Due::by(None), read).map_err(|refusal| refusal.status().as_u16())?;
        Ok(request.inputs[0].tensor.data().len())
    }

    #[test]
    fn what_becomes_large_is_refused_while_it_does() {
        let texts = |count: usize| {
            let data = vec!["\"\""; count].join(",");
            format!(r#"{{"inputs":[{{"name":"x","datatype":"BYTES","shape":[{count}],"data":[{data}]}}]}}"#)
        };
        assert_eq!(decoded(&texts(1000), 28 << 10), Ok(1000));
        assert_eq!(decoded(&texts(1000), 20 << 10), Err(413));
        assert_eq!(decoded("{", 20 << 10), Err(400));
    }

    #[test]
    fn nothing_is_read_on_once_it_is_late() {
        let (room, mut taken) = (Room::new(64 << 20), Taken::default());
        let late = Due::by(Instant::now().checked_sub(Duration::from_millis(1)));
        let numbers = "1,".repeat(1_000_000);
        // Its end is missing: who reads it to there finds that it is wrong.
        let body =
            format!(r#"{{"inputs":[{{"name":"x","datatype":"FP64","shape":[1000001],"data":[{numbers}"#);
        let body = Bytes::from(body);
        let read = |memory: Memory<'_>| InferRequest::from_http_within(&body, None, memory);
        assert_eq!(within(&room, &mut taken, late, read).unwrap_err(), unread());
        let none = |_: Memory<'_>| Ok(());
        assert_eq!(within(&room, &mut taken, late, none).unwrap_err(), unread(), "it was read too late");
        let in_time = Due::by(Instant::now().checked_add(Duration::from_secs(60)));
        assert_eq!(within(&room, &mut taken, in_time, read).unwrap_err().status().as_u16(), 400);
        within(&room, &mut taken, in_time, none).unwrap();
    }

    #[test]
    fn where_others_have_the_room_it_may_come_free() {
        let room = Room::new(28 << 10);
        let mut others = Taken::default();
        room.cover(&mut others, 20 << 10).unwrap();
        let numbers = "1,".repeat(2000);
        let body =
            format!(r#"{{"inputs":[{{"name":"x","datatype":"FP64","shape":[2001],"data":[{numbers}1]}}]}}"#);
        let mut taken = Taken::default();
        let body = Bytes::from(body);
        let read = |memory: Memory<'_>| InferRequest::from_http_within(&body, None, memory);
        let refused = within(&room, &mut taken, Due::by(None), read).unwrap_err();
        assert_eq!(refused.status().as_u16(), 429, "{refused}");
    }
}
