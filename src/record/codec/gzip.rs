//! Gzip: written as one member; read as members back to back, nothing after them.

use std::io::{BufReader, Write};
use std::ops::RangeInclusive;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{DecompressLimit, Fault, drain};

/// The levels to choose from.
pub(super) const LEVELS: RangeInclusive<i32> = 1..=9;
/// Bytes decompressed at a time.
const CHUNK_LEN: usize = 16 << 10;

pub(super) fn decompress(stream: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    drain(
        BufReader::with_capacity(CHUNK_LEN, MultiGzDecoder::new(stream)),
        limit,
        &mut out,
    )?;
    Ok(out)
}

pub(super) fn compress(level: Option<i32>, records: &[u8], out: &mut Vec<u8>) {
    let level = level
        .and_then(|level| u32::try_from(level).ok())
        .map_or_else(Compression::default, Compression::new);
    let mut encoder = GzEncoder::new(out, level);
    encoder
        .write_all(records)
        .and_then(|()| encoder.finish().map(|_| ()))
        .expect("writing to memory does not fail");
}
