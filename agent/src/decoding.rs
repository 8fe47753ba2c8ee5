//! Bytes on their way to a request: what it takes in memory finds room before it is made.

use std::cell::{Cell, RefCell};

use terrace_oip::{DecodeError, Memory};

use crate::refusal::{Refusal, busy};
use crate::room::{Room, Taken};

/// Decodes; what that takes is added to what the bytes take.
pub fn within<T>(
    room: &Room,
    taken: &mut Taken,
    decode: impl FnOnce(Memory<'_>) -> Result<T, DecodeError>,
) -> Result<T, Refusal> {
    let (taken, full) = (RefCell::new(taken), Cell::new(None));
    let take = |bytes| {
        let added = room.add(&mut taken.borrow_mut(), bytes);
        full.set(added.err());
        added.is_ok()
    };
    decode(Memory::new(&take)).map_err(|error| match full.get() {
        Some(full) => busy(full),
        None => Refusal::Invalid(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use terrace_oip::InferRequest;

    use super::*;

    /// What comes of a body where there is so much room for what it becomes.
    fn decoded(body: &str, bytes: usize) -> Result<usize, u16> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let room = Room::new(bytes);
        let mut taken = Taken::default();
        let read = |memory: Memory<'_>| InferRequest::from_http_within(&body, None, memory);
        let request = within(&room, &mut taken, read).map_err(|refusal| refusal.status().as_u16())?;
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
        let refused = within(&room, &mut taken, read).unwrap_err();
        assert_eq!(refused.status().as_u16(), 429, "{refused}");
    }
}
