//! gRPC's messages as they come: each behind a byte that says whether it is compressed, and its length in four.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use terrace_coding::Coding;

use crate::refusal::{Refusal, busy};
use crate::rest::body::Limits;
use crate::room::Taken;
use crate::unpacking::Unpacking;

/// How many bytes precede a message.
const PREFIX: usize = 5;

/// The messages of one call, on their way to the service: sizes are checked, room is taken, and what is compressed is
/// unpacked.
#[derive(Debug)]
pub struct Messages {
    /// What compressed ones are in.
    coding: Option<Coding>,
    limits: Limits,
    /// The beginning of a prefix.
    prefix: Vec<u8>,
    open: Option<Open>,
    /// Room that whole messages take.
    passed: usize,
}

/// A message of which so much is to come.
#[derive(Debug)]
enum Open {
    Plain { left: usize },
    Packed { left: usize, unpacking: Box<Unpacking>, taken: Taken },
}

impl Messages {
    /// Of a call whose compressed messages are in this coding.
    pub const fn new(coding: Option<Coding>, limits: Limits) -> Self {
        Self { coding, limits, prefix: Vec::new(), open: None, passed: 0 }
    }

    /// Takes what has come, and appends to `ready` what can be passed on.
    pub fn feed(
        &mut self,
        mut data: Bytes,
        taken: &mut Taken,
        ready: &mut VecDeque<Bytes>,
    ) -> Result<(), Refusal> {
        while !data.is_empty() {
            match self.open.take() {
                None => self.begin(&mut data, taken, ready)?,
                Some(Open::Plain { left }) => {
                    let piece = data.split_to(left.min(data.len()));
                    self.pass(piece.len(), taken)?;
                    let left = left - piece.len();
                    ready.push_back(piece);
                    self.open = Some(Open::Plain { left }).filter(|_| left > 0);
                }
                Some(Open::Packed { left, mut unpacking, taken: mut its }) => {
                    let piece = data.split_to(left.min(data.len()));
                    unpacking.feed(&piece, &mut its)?;
                    let left = left - piece.len();
                    self.open = Some(Open::Packed { left, unpacking, taken: its });
                    if left == 0 {
                        self.end(taken, ready)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a prefix, or what there is of it.
    fn begin(
        &mut self,
        data: &mut Bytes,
        taken: &mut Taken,
        ready: &mut VecDeque<Bytes>,
    ) -> Result<(), Refusal> {
        let whole = if self.prefix.is_empty() && data.len() >= PREFIX {
            data.split_to(PREFIX)
        } else {
            let more = (PREFIX - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data.split_to(more));
            if self.prefix.len() < PREFIX {
                return Ok(());
            }
            Bytes::from(std::mem::take(&mut self.prefix))
        };
        let mut prefix = &*whole;
        let (flag, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if length > self.limits.bytes {
            return Err(Refusal::TooLarge { limit: self.limits.bytes });
        }
        if let (1, Some(coding)) = (flag, self.coding) {
            let unpacking = Box::new(Unpacking::new(coding, &self.limits)?);
            self.open = Some(Open::Packed { left: length, unpacking, taken: Taken::default() });
            if length == 0 {
                self.end(taken, ready)?;
            }
        } else {
            // A flag that makes no sense is the service's to refuse.
            self.pass(PREFIX, taken)?;
            ready.push_back(whole);
            self.open = Some(Open::Plain { left: length }).filter(|_| length > 0);
        }
        Ok(())
    }

    /// Passes on what has been unpacked.
    fn end(&mut self, taken: &mut Taken, ready: &mut VecDeque<Bytes>) -> Result<(), Refusal> {
        let Some(Open::Packed { unpacking, taken: mut its, .. }) = self.open.take() else { return Ok(()) };
        let message = unpacking.finish(&mut its)?;
        // It is no larger than the limit, which gRPC's own length bounds.
        let length =
            u32::try_from(message.len()).map_err(|_| Refusal::TooLarge { limit: self.limits.bytes })?;
        drop(its);
        self.pass(PREFIX + message.len(), taken)?;
        ready.push_back([&[0][..], &length.to_be_bytes()].concat().into());
        ready.push_back(message);
        Ok(())
    }

    /// So many bytes more are held.
    fn pass(&mut self, bytes: usize, taken: &mut Taken) -> Result<(), Refusal> {
        self.passed += bytes;
        self.limits.room.cover(taken, self.passed).map_err(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    const LIMIT: usize = 8 << 20;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// What is passed on of bytes that come in pieces of a size.
    fn passed(coding: Option<Coding>, bytes: &[u8], size: usize) -> Result<Vec<u8>, Refusal> {
        let room = Room::new(2 * LIMIT);
        let mut messages = Messages::new(coding, Limits { bytes: LIMIT, room });
        let (mut taken, mut ready) = (Taken::default(), VecDeque::new());
        for piece in bytes.chunks(size) {
            messages.feed(Bytes::copy_from_slice(piece), &mut taken, &mut ready)?;
        }
        Ok(ready.into_iter().flatten().collect())
    }

    #[test]
    fn messages_come_out_uncompressed_however_they_came() {
        let text = "1.5,".repeat(1000);
        for coding in Coding::ALL {
            let packed = terrace_coding::pack(coding, &[text.as_bytes()], true).unwrap();
            let came = [framed(1, &packed), framed(0, b"plain"), framed(0, b"")].concat();
            let expected = [framed(0, text.as_bytes()), framed(0, b"plain"), framed(0, b"")].concat();
            for size in [1, 3, 7, 100, usize::MAX] {
                assert_eq!(passed(Some(coding), &came, size).unwrap(), expected, "{coding} {size}");
            }
        }
        // A flag without a coding: what is wrong with it, the service says.
        assert_eq!(passed(None, &framed(1, b"x"), 2).unwrap(), framed(1, b"x"));
    }

    #[test]
    fn messages_are_refused_by_what_they_are_and_by_what_they_would_be() {
        let bomb = terrace_coding::pack(Coding::Zstd, &[&vec![0; LIMIT]], true).unwrap();
        for (came, status) in [
            (framed(1, b"no zstd"), 400),
            (framed(1, b""), 400),
            (framed(1, &bomb), 413),
            (framed(1, &terrace_coding::pack(Coding::Zstd, &[b"abc"], true).unwrap()[..9]), 400),
            ([&[0][..], &u32::MAX.to_be_bytes()].concat(), 413),
            ([&[1][..], &u32::MAX.to_be_bytes()].concat(), 413),
        ] {
            let refused = passed(Some(Coding::Zstd), &came, usize::MAX).unwrap_err();
            assert_eq!(refused.status().as_u16(), status, "{refused}");
        }
    }
}
