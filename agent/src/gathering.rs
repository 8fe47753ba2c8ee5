//! A body as it comes, until it is whole. Its end lies where a machine reads numbers best: tensors that end a body need no
//! copy to be computed on.

use bytes::{Buf as _, Bytes, BytesMut};

/// Where any number may lie.
const ALIGNMENT: usize = 8;
/// Memory that is not written to is none yet; so much of it may be more than there will be.
const AT_ONCE: usize = 1 << 20;

/// What has come of a body. The first piece is often all of it, and then nothing is copied.
#[derive(Debug, Default)]
pub struct Gathering {
    first: Bytes,
    all: BytesMut,
    /// How many bytes of `all` are none of the body's, and only put its end where it belongs.
    lead: usize,
}

impl Gathering {
    /// How much has come.
    pub fn len(&self) -> usize {
        self.first.len() + self.all.len() - self.lead
    }

    /// Takes the next piece of what says that it is so long in all; 0 where it does not say.
    pub fn push(&mut self, data: Bytes, stated: usize) {
        let come = self.len() + data.len();
        if come == data.len() {
            self.first = data;
            return;
        }
        if self.all.capacity() < self.lead + come {
            let whole = ahead(stated, come).max(stated.min(AT_ONCE));
            if self.all.is_empty() {
                self.all.reserve(whole + ALIGNMENT);
                self.lead = self.all.as_ptr().wrapping_add(stated).align_offset(ALIGNMENT).min(ALIGNMENT);
                self.all.resize(self.lead, 0);
            } else {
                self.all.reserve(self.lead + whole - self.all.len());
            }
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    /// All of it.
    pub fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            return self.first;
        }
        let mut bytes = self.all.freeze();
        bytes.advance(self.lead);
        bytes
    }
}

/// How much there is to be room for when so much of something has come: as much again, by which memory grows, and no more
/// than it says that it is. Who says much and sends little has little.
pub fn ahead(stated: usize, come: usize) -> usize {
    stated.min(come.saturating_mul(2)).max(come)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_needed_for_what_has_come_and_no_more_than_as_much_again() {
        for (stated, come, expected) in [
            (64 << 20, 1, 2),
            (64 << 20, 20 << 20, 40 << 20),
            (64 << 20, 40 << 20, 64 << 20),
            (100, 100, 100),
            (100, 60, 100),
            // More than it says: that is for others to refuse.
            (100, 200, 200),
        ] {
            assert_eq!(ahead(stated, come), expected, "{come} of {stated}");
        }
    }

    #[test]
    fn pieces_make_a_whole_however_they_come_and_its_end_lies_well() {
        let whole: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        for length in 99_990..=100_000 {
            for (size, stated) in [(1000, length), (700, 0), (length - 1, length), (length, 0), (30_000, 7)] {
                let mut gathering = Gathering::default();
                for piece in whole[..length].chunks(size) {
                    gathering.push(Bytes::copy_from_slice(piece), stated);
                }
                assert_eq!(gathering.len(), length);
                let bytes = gathering.into_bytes();
                assert!(bytes == whole[..length], "{size} of {stated}");
                let over = bytes.as_ptr_range().end.align_offset(ALIGNMENT);
                assert!(
                    over == 0 || stated != length,
                    "{length} bytes end {over} bytes before a place for numbers"
                );
            }
        }
    }

    #[test]
    fn what_grows_keeps_its_place() {
        let (mut gathering, stated) = (Gathering::default(), 5 * AT_ONCE + 3);
        let piece = Bytes::from(vec![7; 100_000]);
        let mut left = stated;
        while left > 0 {
            let next = piece.slice(..left.min(piece.len()));
            left -= next.len();
            gathering.push(next, stated);
        }
        let bytes = gathering.into_bytes();
        assert!(bytes.len() == stated && bytes.iter().all(|byte| *byte == 7));
        assert_eq!(bytes.as_ptr_range().end.align_offset(ALIGNMENT), 0);
    }
}
