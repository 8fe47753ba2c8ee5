//! What is packed is unpacked, what is not what it should be is refused, and bombs go off in a box.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::cell::Cell;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::collection::vec;
use proptest::prelude::*;
use terrace_coding::{Coding, FREE, RATIO, UnpackError, Unpacker, pack, pack_while};

const LIMIT: usize = 16 << 20;

/// Unpacks what comes in pieces of `size`; the most that was held at a time beside it.
fn unpack(coding: Coding, packed: &[u8], size: usize, limit: usize) -> (Result<Vec<u8>, UnpackError>, usize) {
    let mut unpacker = Unpacker::new(coding, limit).unwrap();
    let mut most = 0;
    for mut piece in packed.chunks(size.max(1)) {
        loop {
            let needed = unpacker.needed();
            assert!(needed >= unpacker.held());
            match unpacker.step(&mut piece) {
                Ok(more) => {
                    // zstd's decoder knows its window only once it has read of it, and writes to a little of it then.
                    let window = if coding == Coding::Zstd { 400 << 10 } else { 0 };
                    assert!(unpacker.held() <= needed + window, "{needed} bytes are too few");
                    most = most.max(unpacker.held());
                    if !more {
                        break;
                    }
                }
                Err(error) => return (Err(error), most),
            }
        }
    }
    (unpacker.finish(), most)
}

fn whole(coding: Coding, packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    unpack(coding, packed, usize::MAX, LIMIT).0
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// As small as it gets.
fn dense(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    match coding {
        Coding::Gzip => GzEncoder::new(&mut packed, Compression::best()).write_all(bytes).unwrap(),
        Coding::Deflate => ZlibEncoder::new(&mut packed, Compression::best()).write_all(bytes).unwrap(),
        Coding::Zstd => packed = pack(coding, &[bytes], true).unwrap(),
    }
    packed
}

proptest! {
    #[test]
    fn what_is_packed_is_what_comes_out(
        pieces in vec(vec(0_u8..4, 0..3000), 0..5), size in 1_usize..5000, which in 0_usize..3,
    ) {
        let coding = Coding::ALL[which];
        let views: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let packed = pack(coding, &views, true).unwrap();
        let (unpacked, _) = unpack(coding, &packed, size, LIMIT);
        prop_assert_eq!(unpacked, Ok(pieces.concat()));
    }
}

#[test]
fn large_bodies_go_through_in_whatever_pieces_they_come() {
    let text = "0.125,-17.5,".repeat(100_000);
    let noise = noise(300_000);
    for coding in Coding::ALL {
        for pieces in [vec![text.as_bytes(), &noise], vec![&noise[..1000], &[], text.as_bytes()]] {
            let packed = pack(coding, &pieces, false).unwrap();
            assert!(packed.len() < pieces.concat().len() / 2, "{coding}: {}", packed.len());
            for size in [1000, 70_000, usize::MAX] {
                assert_eq!(
                    unpack(coding, &packed, size, LIMIT).0.unwrap(),
                    pieces.concat(),
                    "{coding} {size}"
                );
            }
        }
    }
}

#[test]
fn a_large_body_is_given_up_soon_after_nobody_waits_for_it() {
    let (head, text) = ("x", "0.125,-17.5,".repeat(100_000));
    let pieces = [head.as_bytes(), text.as_bytes()];
    for coding in Coding::ALL {
        let looks = Cell::new(0);
        let waits_for = |patience| {
            looks.set(0);
            pack_while(coding, &pieces, true, || {
                looks.set(looks.get() + 1);
                looks.get() <= patience
            })
        };
        assert_eq!((waits_for(2), looks.get()), (None, 3), "{coding}");
        assert_eq!(waits_for(usize::MAX), pack(coding, &pieces, true), "{coding}");
        assert_eq!(looks.get(), 1 + text.len().div_ceil(256 << 10), "{coding}: once in 256 KiB");
    }
}

#[test]
fn what_gains_nothing_is_left_as_it_is_unless_it_must_be_packed() {
    for coding in Coding::ALL {
        for bytes in [2_000, 300_000] {
            let noise = noise(bytes);
            assert_eq!(pack(coding, &[&noise], false), None, "{coding}");
            let packed = pack(coding, &[&noise], true).unwrap();
            assert_eq!(whole(coding, &packed), Ok(noise), "{coding}");
        }
    }
}

#[test]
fn a_body_cut_off_anywhere_and_one_with_more_behind_it_are_refused() {
    let text = "1.5,".repeat(500);
    for coding in Coding::ALL {
        let packed = pack(coding, &[text.as_bytes()], true).unwrap();
        for length in 0..packed.len() {
            assert_eq!(whole(coding, &packed[..length]), Err(UnpackError::Truncated { coding }), "{length}");
        }
        for size in [1, usize::MAX] {
            let more = [&packed[..], b"x"].concat();
            assert_eq!(unpack(coding, &more, size, LIMIT).0, Err(UnpackError::Trailing { coding }));
            let twice = [&packed[..], &packed].concat();
            assert_eq!(unpack(coding, &twice, size, LIMIT).0, Err(UnpackError::Trailing { coding }));
        }
    }
}

#[test]
fn a_damaged_body_and_one_in_another_coding_are_refused() {
    let text = "1.5,".repeat(500);
    for coding in Coding::ALL {
        let packed = pack(coding, &[text.as_bytes()], true).unwrap();
        for other in Coding::ALL.into_iter().filter(|other| *other != coding) {
            assert_eq!(whole(other, &packed), Err(UnpackError::Corrupt { coding: other }));
        }
        assert_eq!(whole(coding, b"{\"inputs\": []}"), Err(UnpackError::Corrupt { coding }));
    }
    // The checksum at the end.
    for coding in [Coding::Gzip, Coding::Deflate] {
        let mut packed = pack(coding, &[text.as_bytes()], true).unwrap();
        let end = packed.len() - 1;
        packed[end - 4 * usize::from(coding == Coding::Gzip)] ^= 1;
        assert_eq!(whole(coding, &packed), Err(UnpackError::Corrupt { coding }));
    }
}

#[test]
fn a_bomb_is_stopped_by_its_size_or_its_ratio_and_little_is_held_until_then() {
    let zeros = vec![0; LIMIT + 1];
    for coding in Coding::ALL {
        let bomb = dense(coding, &zeros);
        let (stopped, most) = unpack(coding, &bomb, usize::MAX, LIMIT);
        assert_eq!(stopped, Err(UnpackError::TooDense), "{coding}: {}", bomb.len());
        // zstd keeps its window beside what came.
        assert!(most < FREE.max(bomb.len() * RATIO) * 3 / 2 + (9 << 20), "{coding}: {most} bytes");

        let few = dense(coding, &zeros[..FREE]);
        assert_eq!(whole(coding, &few).unwrap().len(), FREE, "{coding}");
        let (stopped, most) = unpack(coding, &few, usize::MAX, 1000);
        assert_eq!(stopped, Err(UnpackError::TooLarge { limit: 1000 }), "{coding}");
        assert!(most < 5 << 20, "{coding}: {most} bytes");
        assert_eq!(unpack(coding, &few, usize::MAX, FREE).0.unwrap().len(), FREE, "{coding}");
    }
}

#[test]
fn a_window_that_is_larger_than_a_recipient_must_have_is_refused_and_not_allocated() {
    // A frame's header that asks for a window of 1 GiB, and a block of one repeated byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x03, 0x00, 0x00, 0x07];
    let (refused, most) = unpack(Coding::Zstd, &frame, usize::MAX, LIMIT);
    assert_eq!(refused, Err(UnpackError::Corrupt { coding: Coding::Zstd }));
    assert!(most < 1 << 20, "{most} bytes");
}

/// A frame that asks for the largest window that is given, and so much of one repeated byte in its first block.
fn wide(bytes: u32) -> Vec<u8> {
    let block = (bytes << 3 | 0b10).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68][..], &block[..3], &[7]].concat()
}

#[test]
fn a_window_counts_as_far_as_it_is_written_to() {
    let held = |coding, begun: &[u8]| {
        let mut unpacker = Unpacker::new(coding, LIMIT).unwrap();
        let mut piece = begun;
        while unpacker.step(&mut piece).unwrap() {}
        (unpacker.given(), unpacker.held())
    };
    let (given, most) = held(Coding::Zstd, &wide(0)[..6]);
    assert!(given == 0 && most < 200 << 10, "{most} bytes for a header");
    let (given, least) = held(Coding::Zstd, &wide(100_000));
    assert!(given == 100_000 && least > 500_000 && least < 1 << 20, "{least} bytes");
    let (given, most) = held(Coding::Gzip, &[0x1f]);
    assert!(given == 0 && most < 56 << 10, "{most} bytes for one");
    let noise = pack(Coding::Zstd, &[&noise(10 << 20)], true).unwrap();
    let (given, least) = held(Coding::Zstd, &noise[..noise.len() - 1]);
    assert!(least > given + (512 << 10), "{least} bytes: all of its window is used");
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_window_counts_as_is_what_it_takes() {
    let resident = || -> usize {
        let told = std::fs::read_to_string("/proc/self/statm").unwrap();
        told.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let (before, mut held, mut all) = (resident(), 0, Vec::new());
    for _ in 0..64 {
        let mut unpacker = Unpacker::new(Coding::Zstd, LIMIT).unwrap();
        let bytes = wide(1000);
        let mut piece = &bytes[..];
        while unpacker.step(&mut piece).unwrap() {}
        held += unpacker.held();
        all.push(unpacker);
    }
    // Other tests run beside this one.
    let grown = resident().saturating_sub(before);
    assert!(grown < held + (64 << 20), "{grown} bytes, counted as {held}; windows of {}", all.len() << 23);
}
