//! Bodies as clients compress them, by other code than the agent's.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

/// The codings of HTTP that an agent reads and writes.
pub const ALL: [&str; 3] = ["gzip", "deflate", "zstd"];

/// What these bytes are in a coding.
pub fn packed(coding: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(bytes)?;
            Ok(encoder.finish()?)
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(bytes)?;
            Ok(encoder.finish()?)
        }
        "zstd" => {
            let mut packed = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
            zstd_safe::compress(&mut packed, bytes, 3)
                .map_err(|code| anyhow::anyhow!("zstd: {}", zstd_safe::get_error_name(code)))?;
            Ok(packed)
        }
        _ => bail!("no such coding here: {coding}"),
    }
}

/// What comes out of a body in a coding, at most 64 MiB.
pub fn unpacked(coding: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    const MOST: usize = 64 << 20;
    let mut unpacked = Vec::new();
    match coding {
        "gzip" => drop(GzDecoder::new(bytes).take(MOST as u64).read_to_end(&mut unpacked)?),
        "deflate" => drop(ZlibDecoder::new(bytes).take(MOST as u64).read_to_end(&mut unpacked)?),
        "zstd" => {
            unpacked.reserve(MOST);
            zstd_safe::decompress(&mut unpacked, bytes).ok().context("no zstd")?;
        }
        _ => bail!("no such coding here: {coding}"),
    }
    Ok(unpacked)
}
