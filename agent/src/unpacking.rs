//! A compressed body on its way into memory: it takes room as it appears, and large ones do not hold up others.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use terrace_coding::{Coding, UnpackError, Unpacker};

use crate::decoding::unread;
use crate::heavy::{LIGHT, heavy};
use crate::refusal::{Refusal, busy};
use crate::rest::body::Limits;
use crate::room::{Room, Taken};
use crate::serve::Due;

/// A body that is unpacked while it comes.
#[derive(Debug)]
pub struct Unpacking {
    unpacker: Unpacker,
    room: Room,
    due: Due,
}

impl Unpacking {
    /// Of a body in this coding, which is given up once it is late.
    pub fn new(coding: Coding, limits: &Limits, due: Due) -> Result<Self, Refusal> {
        let unpacker = Unpacker::new(coding, limits.bytes).map_err(refusal)?;
        Ok(Self { unpacker, room: limits.room.clone(), due })
    }

    /// Takes what has come, and room for what becomes of it.
    pub fn feed(&mut self, mut input: &[u8], taken: &mut Taken) -> Result<(), Refusal> {
        let begun = self.unpacker.given();
        while self.unpacker.given() - begun < LIGHT {
            if !self.step(&mut input, taken)? {
                return Ok(());
            }
        }
        // How much there is to be done shows only while it is done: that was little, more may be anything.
        heavy(usize::MAX, || {
            while self.step(&mut input, taken)? {}
            Ok(())
        })
    }

    /// The whole body. Its decoder's room is given back.
    pub fn finish(self, taken: &mut Taken) -> Result<Bytes, Refusal> {
        let bytes = self.unpacker.finish().map_err(refusal)?;
        taken.shrink(bytes.len());
        Ok(Bytes::from(bytes))
    }

    fn step(&mut self, input: &mut &[u8], taken: &mut Taken) -> Result<bool, Refusal> {
        if !self.due.is_ahead() {
            return Err(unread());
        }
        self.room.cover(taken, self.unpacker.needed()).map_err(busy)?;
        let more = self.unpacker.step(input).map_err(refusal)?;
        // A decoder of zstd's only knows its window once it has read of it.
        self.room.cover(taken, self.unpacker.held()).map_err(busy)?;
        taken.shrink(self.unpacker.held());
        Ok(more)
    }
}

fn refusal(error: UnpackError) -> Refusal {
    match error {
        UnpackError::TooLarge { limit } => Refusal::TooLarge { limit },
        UnpackError::TooDense => Refusal::TooDense(error.to_string()),
        UnpackError::Corrupt { .. } | UnpackError::Truncated { .. } | UnpackError::Trailing { .. } => {
            Refusal::Invalid(error.to_string())
        }
        UnpackError::NoMemory => Refusal::Busy(error.to_string()),
    }
}

/// A header's values; one that is no text is as good as any other that is not known.
pub fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn packed(bytes: usize) -> Vec<u8> {
        terrace_coding::pack(Coding::Gzip, &[&vec![b' '; bytes]], true).unwrap()
    }

    fn bomb() -> Vec<u8> {
        terrace_coding::pack(Coding::Zstd, &[&vec![b' '; 8 << 20]], true).unwrap()
    }

    #[test]
    fn room_is_taken_as_bytes_appear_and_the_decoders_is_given_back() {
        let limits = Limits { bytes: 1 << 20, room: Room::new(1200 << 10) };
        let mut taken = Taken::default();
        let mut unpacking = Unpacking::new(Coding::Gzip, &limits, Due::by(None)).unwrap();
        let body = packed(500 << 10);
        let (one, other) = body.split_at(body.len() / 2);
        unpacking.feed(one, &mut taken).unwrap();
        assert!(limits.room.cover(&mut Taken::default(), 900 << 10).is_err(), "half of it takes room");
        unpacking.feed(other, &mut taken).unwrap();
        assert_eq!(unpacking.finish(&mut taken).unwrap().len(), 500 << 10);
        limits.room.cover(&mut Taken::default(), 700 << 10).unwrap();
        assert!(limits.room.cover(&mut Taken::default(), 701 << 10).is_err());
        drop(taken);
        limits.room.cover(&mut Taken::default(), 1200 << 10).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused_as_what_it_is() {
        for (limit, room, body, expected) in [
            (16 << 20, 100 << 20, bomb(), Some(413)),
            (100 << 10, 1 << 20, packed(100 << 10), None),
            (100 << 10, 1 << 20, packed((100 << 10) + 1), Some(413)),
            (1 << 20, 100 << 10, packed(500 << 10), Some(413)),
            (1 << 20, 1 << 20, b"{}".to_vec(), Some(400)),
            (1 << 20, 1 << 20, packed(10)[..12].to_vec(), Some(400)),
        ] {
            let limits = Limits { bytes: limit, room: Room::new(room) };
            let mut taken = Taken::default();
            let coding = if body.starts_with(b"\x28\xb5") { Coding::Zstd } else { Coding::Gzip };
            let mut unpacking = Unpacking::new(coding, &limits, Due::by(None)).unwrap();
            let fed = unpacking.feed(&body, &mut taken);
            let ended = fed.and_then(|()| unpacking.finish(&mut taken));
            assert_eq!(ended.err().map(|refusal| refusal.status().as_u16()), expected);
        }
    }
    #[test]
    fn what_is_late_is_not_unpacked_on() {
        let limits = Limits { bytes: 16 << 20, room: Room::new(100 << 20) };
        let mut unpacking = Unpacking::new(Coding::Gzip, &limits, Due::by(Some(Instant::now()))).unwrap();
        let refused = unpacking.feed(&packed(1 << 20), &mut Taken::default()).unwrap_err();
        assert_eq!((refused.status().as_u16(), unpacking.unpacker.given()), (504, 0));
    }

    #[test]
    fn headers_that_ask_for_much_take_little() {
        let limits = Limits { bytes: 16 << 20, room: Room::new(8 << 20) };
        let mut begun = Vec::new();
        for _ in 0..30 {
            // A frame of zstd's with the largest window that there is, and nothing of its first block.
            let mut unpacking = Unpacking::new(Coding::Zstd, &limits, Due::by(None)).unwrap();
            let mut taken = Taken::default();
            unpacking.feed(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68], &mut taken).unwrap();
            begun.push((unpacking, taken));
        }
        limits.room.cover(&mut Taken::default(), 2 << 20).unwrap();
    }
}
