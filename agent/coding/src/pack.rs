//! Packing, given up where it gains too little.

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd_safe::zstd_sys::ZSTD_EndDirective::{self, ZSTD_e_end, ZSTD_e_flush};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use crate::Coding;

/// What is packed first, to see what it gains.
const TRIAL: usize = 64 << 10;
/// Packed, it is at most this share of what it was, in percent: numbers that a model computed are close to noise, and
/// the time that unpacking takes comes on top.
const WORTH_PERCENT: usize = 90;
/// Room that is made at a time.
const STEP: usize = 32 << 10;

/// What is packed between two looks at whether anybody still waits.
const STRETCH: usize = 256 << 10;

/// Packs pieces that follow each other into one body. Nothing where that gains too little, unless it `must` be packed.
pub fn pack(coding: Coding, pieces: &[&[u8]], must: bool) -> Option<Vec<u8>> {
    pack_while(coding, pieces, must, || true)
}

/// The same, for as long as somebody waits for it; nothing once nobody does.
pub fn pack_while(
    coding: Coding,
    pieces: &[&[u8]],
    must: bool,
    is_awaited: impl Fn() -> bool,
) -> Option<Vec<u8>> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut encoder = Encoder::new(coding, total)?;
    let mut packed = Vec::with_capacity(STEP.min(total + 64));
    let mut read = 0;
    for piece in pieces.iter().flat_map(|piece| piece.chunks(STRETCH)) {
        if !is_awaited() {
            return None;
        }
        let is_last = read + piece.len() == total;
        if read >= TRIAL || total < 2 * TRIAL || must {
            encoder.run(piece, &mut packed, if is_last { End::Finish } else { End::Open })?;
        } else {
            let (trial, rest) = piece.split_at(piece.len().min(TRIAL - read));
            let is_tried = read + trial.len() == TRIAL;
            encoder.run(trial, &mut packed, if is_tried { End::Flush } else { End::Open })?;
            if is_tried && !is_worth_it(packed.len(), TRIAL) {
                return None;
            }
            encoder.run(rest, &mut packed, if is_last { End::Finish } else { End::Open })?;
        }
        read += piece.len();
    }
    if total == 0 {
        encoder.run(&[], &mut packed, End::Finish)?;
    }
    (must || is_worth_it(packed.len(), total)).then_some(packed)
}

const fn is_worth_it(packed: usize, bytes: usize) -> bool {
    packed * 100 <= bytes * WORTH_PERCENT
}

/// How a piece ends.
#[derive(Clone, Copy)]
enum End {
    /// More follows.
    Open,
    /// More follows, and everything until here is wanted now.
    Flush,
    /// Nothing follows.
    Finish,
}

enum Encoder {
    Deflate(Box<Compress>),
    Zstd(Box<CCtx<'static>>),
}

impl Encoder {
    /// The quickest of each: whoever asks waits for it.
    fn new(coding: Coding, total: usize) -> Option<Self> {
        Some(match coding {
            Coding::Gzip => Self::Deflate(Box::new(Compress::new_gzip(Compression::fast(), 15))),
            Coding::Deflate => Self::Deflate(Box::new(Compress::new(Compression::fast(), true))),
            Coding::Zstd => {
                let mut context = CCtx::try_create()?;
                context.set_parameter(CParameter::CompressionLevel(1)).ok()?;
                context.set_pledged_src_size(u64::try_from(total).ok()).ok()?;
                Self::Zstd(Box::new(context))
            }
        })
    }

    /// Packs a piece behind what is there.
    fn run(&mut self, piece: &[u8], packed: &mut Vec<u8>, end: End) -> Option<()> {
        let mut rest = piece;
        loop {
            packed.reserve(STEP);
            let before = packed.len();
            let (read, is_done) = match self {
                Self::Deflate(deflate) => {
                    let flush = match end {
                        End::Open => FlushCompress::None,
                        End::Flush => FlushCompress::Sync,
                        End::Finish => FlushCompress::Finish,
                    };
                    let read = deflate.total_in();
                    let status = deflate.compress_vec(rest, packed, flush).ok()?;
                    let has_room = packed.len() < packed.capacity();
                    let is_done = match end {
                        End::Finish => status == Status::StreamEnd,
                        End::Open | End::Flush => has_room,
                    };
                    (usize::try_from(deflate.total_in() - read).ok()?, is_done)
                }
                Self::Zstd(context) => {
                    let directive = match end {
                        End::Open => ZSTD_EndDirective::ZSTD_e_continue,
                        End::Flush => ZSTD_e_flush,
                        End::Finish => ZSTD_e_end,
                    };
                    let mut from = InBuffer::around(rest);
                    let mut to = OutBuffer::around_pos(packed, before);
                    let left = context.compress_stream2(&mut to, &mut from, directive).ok()?;
                    let is_done = matches!(end, End::Open) || left == 0;
                    (from.pos(), is_done)
                }
            };
            rest = rest.get(read..).unwrap_or_default();
            if rest.is_empty() && is_done {
                return Some(());
            }
            if read == 0 && packed.len() == before {
                return None;
            }
        }
    }
}
