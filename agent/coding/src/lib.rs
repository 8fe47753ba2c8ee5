//! Content codings, as HTTP and gRPC bodies travel in them: which one a message has or wants, and bodies unpacked and
//! packed within limits.
//!
//! Called by the agent's front ends. Pure: bytes in, bytes out; it must not import a runtime, a server or another crate
//! of Terrace.
//!
//! * What a request is in: [`of_content`]; what its answer may be in: [`Accepted`].
//! * Unpacking: [`Unpacker`], a step at a time, so that whoever counts memory counts it while it appears.
//! * Packing: [`pack`], which gives up where it gains nothing, and [`pack_while`] also where nobody waits any more.

mod negotiate;
mod pack;
mod unpack;

use std::fmt;

pub use negotiate::{Accepted, Unsupported, of_content};
pub use pack::{pack, pack_while};
pub use unpack::{FREE, RATIO, UnpackError, Unpacker};

/// A coding that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950: deflate behind zlib's header, as HTTP has it.
    Deflate,
    /// RFC 8878, with windows of up to 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    /// Every coding.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Deflate, Self::Zstd];

    /// What a client is told to choose from.
    pub const NAMES: &str = "gzip, deflate, zstd";

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The coding of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let is = |coding: &Self| coding.as_str().eq_ignore_ascii_case(name);
        // An old name that recipients still have to know (RFC 9110).
        if name.eq_ignore_ascii_case("x-gzip") { Some(Self::Gzip) } else { Self::ALL.into_iter().find(is) }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
