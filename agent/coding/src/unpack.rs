//! Unpacking, bounded in what it gives and in how much more that is than what came.

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::Coding;

/// How many times as large as it came a body may get, beyond [`FREE`] bytes.
pub const RATIO: usize = 200;
/// So many bytes may come of anything: zeros to try a model with, say.
pub const FREE: usize = 4 << 20;

/// How much a step gives at most, and at first: little may come of what has hardly begun.
const STEP: usize = 64 << 10;
const FIRST_STEP: usize = 4 << 10;
/// The largest window that a recipient of HTTP has to keep (RFC 9659), as a power of two.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How much zstd decodes at a time: it goes into the window before it is given out, and its literals may lie behind it.
const ZSTD_BLOCK: usize = 128 << 10;
/// Of fewer bytes than a frame's header and the shortest of blocks, nothing is decoded.
const ZSTD_LEAST: usize = 10;
/// What zlib's window and tables take.
const INFLATE_BYTES: usize = 48 << 10;

/// Why a body cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It gets larger than it may.
    #[error("the body is larger than {limit} bytes once it is decompressed")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// It gets larger than a body that came in so few bytes may.
    #[error(
        "the body is more than {RATIO} times as large as it came once it is decompressed; send it as it is"
    )]
    TooDense,
    /// It is something else.
    #[error("the body is not what its content-encoding says, {coding}: {}", .coding.faults())]
    Corrupt {
        /// What it is said to be in.
        coding: Coding,
    },
    /// Its end is missing.
    #[error("the body ends before its {coding} stream does")]
    Truncated {
        /// What it is in.
        coding: Coding,
    },
    /// There is something behind its end.
    #[error("something follows the end of the body's {coding} stream; send one stream a body")]
    Trailing {
        /// What it is in.
        coding: Coding,
    },
    /// There is no memory for a decoder.
    #[error("there is no memory to decompress the body")]
    NoMemory,
}

impl Coding {
    /// What may be wrong where a body cannot be read.
    const fn faults(self) -> &'static str {
        match self {
            Self::Gzip | Self::Deflate => "it is damaged, or in another coding",
            Self::Zstd => {
                "it is damaged, in another coding, or needs a window of more than 8 MiB or a dictionary"
            }
        }
    }
}

/// A body on its way out of a coding.
pub struct Unpacker {
    coding: Coding,
    decoder: Decoder,
    /// What came of it.
    bytes: Vec<u8>,
    /// The most that may come of it.
    limit: usize,
    /// How much of it was read.
    read: usize,
    is_at_end: bool,
}

enum Decoder {
    Inflate(Box<Decompress>),
    Zstd {
        context: Box<DCtx<'static>>,
        /// What it took before it had a window.
        bare: usize,
    },
}

impl Unpacker {
    /// Of a body of which at most `limit` bytes may come.
    pub fn new(coding: Coding, limit: usize) -> Result<Self, UnpackError> {
        let decoder = match coding {
            Coding::Gzip => Decoder::Inflate(Box::new(Decompress::new_gzip(15))),
            Coding::Deflate => Decoder::Inflate(Box::new(Decompress::new(true))),
            Coding::Zstd => {
                let mut context = DCtx::try_create().ok_or(UnpackError::NoMemory)?;
                let set = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
                set.map_err(|_| UnpackError::NoMemory)?;
                Decoder::Zstd { bare: context.sizeof(), context: Box::new(context) }
            }
        };
        Ok(Self { coding, decoder, bytes: Vec::new(), limit, read: 0, is_at_end: false })
    }

    /// Unpacks some of `input`, which then begins behind it. Whether there is more to be had of what is left of it.
    pub fn step(&mut self, input: &mut &[u8]) -> Result<bool, UnpackError> {
        let coding = self.coding;
        if self.is_at_end {
            return if input.is_empty() { Ok(false) } else { Err(UnpackError::Trailing { coding }) };
        }
        let start = self.bytes.len();
        let room = self.room();
        self.bytes.reserve_exact(self.grown().saturating_sub(start));
        self.bytes.resize(start + room, 0);
        let ran = self.decoder.run(input, &mut self.bytes[start..]);
        let Some(Progress { read, written, is_at_end }) = ran else {
            self.bytes.truncate(start);
            return Err(UnpackError::Corrupt { coding });
        };
        self.bytes.truncate(start + written);
        *input = input.get(read..).unwrap_or_default();
        self.read += read;
        self.is_at_end = is_at_end;
        if self.bytes.len() > self.limit {
            return Err(UnpackError::TooLarge { limit: self.limit });
        }
        if self.bytes.len() > FREE && self.bytes.len() / RATIO > self.read {
            return Err(UnpackError::TooDense);
        }
        if is_at_end {
            return if input.is_empty() { Ok(false) } else { Err(UnpackError::Trailing { coding }) };
        }
        if read == 0 && written == 0 && !input.is_empty() {
            return Err(UnpackError::Corrupt { coding });
        }
        Ok(!input.is_empty() || written == room)
    }

    /// How much has come of it.
    pub fn given(&self) -> usize {
        self.bytes.len()
    }

    /// How much memory it takes: what came so far and what that may still grow into, and the decoder.
    pub fn held(&self) -> usize {
        self.bytes.capacity() + self.decoder.held(self.read, self.bytes.len())
    }

    /// How much memory the next step may take: where what came has to move, it is there twice for a moment.
    pub fn needed(&self) -> usize {
        let (grown, given) = (self.grown(), self.bytes.len() + self.room());
        let moved = if grown > self.bytes.capacity() { grown } else { 0 };
        self.bytes.capacity() + moved + self.decoder.held(usize::MAX, given)
    }

    /// The whole body, once nothing more comes.
    pub fn finish(mut self) -> Result<Vec<u8>, UnpackError> {
        if !self.is_at_end {
            return Err(UnpackError::Truncated { coding: self.coding });
        }
        self.bytes.shrink_to_fit();
        Ok(self.bytes)
    }

    /// What a step may give: one more than may come, to see whether it does.
    fn room(&self) -> usize {
        self.bytes
            .len()
            .clamp(FIRST_STEP, STEP)
            .min(self.limit.saturating_sub(self.bytes.len()).saturating_add(1))
    }

    /// What there is to be room for before the next step: half as much again each time it is full, and never more
    /// than may come.
    fn grown(&self) -> usize {
        let (least, capacity) = (self.bytes.len() + self.room(), self.bytes.capacity());
        if least <= capacity {
            return capacity;
        }
        least.max((capacity + capacity / 2).min(self.limit.saturating_add(1)))
    }
}

struct Progress {
    read: usize,
    written: usize,
    is_at_end: bool,
}

impl Decoder {
    /// How much memory it takes once it has read and given so much. A window is written to from its beginning as bytes
    /// are decoded, and what is not written to yet is no memory: a frame of a few bytes may state the largest there is.
    fn held(&self, read: usize, given: usize) -> usize {
        match self {
            Self::Inflate(_) => INFLATE_BYTES,
            Self::Zstd { context, bare } => {
                let written =
                    if read < ZSTD_LEAST { 0 } else { read.min(ZSTD_BLOCK) + given + 2 * ZSTD_BLOCK };
                bare + context.sizeof().saturating_sub(*bare).min(written)
            }
        }
    }

    /// One call of the decoder; nothing where the input makes no sense to it.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Option<Progress> {
        match self {
            Self::Inflate(inflate) => {
                let before = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(input, output, FlushDecompress::None).ok()?;
                let read = usize::try_from(inflate.total_in() - before.0).ok()?;
                let written = usize::try_from(inflate.total_out() - before.1).ok()?;
                Some(Progress { read, written, is_at_end: status == Status::StreamEnd })
            }
            Self::Zstd { context, .. } => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(output);
                let hint = context.decompress_stream(&mut to, &mut from).ok()?;
                Some(Progress { read: from.pos(), written: to.pos(), is_at_end: hint == 0 })
            }
        }
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {} of {}", self.bytes.len(), self.read, self.coding)
    }
}
