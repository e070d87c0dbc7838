//! Zstandard: written as one frame that states its content size; read as frames back to back.
//!
//! Kafka's Java client does not state the size, so the output is guessed and, when the guess was too small, decompressed
//! again with four times the room, up to the limit. Decompressing straight into the output needs no window buffer: a
//! frame that asks for one of 128 MiB costs nothing.

use std::ops::RangeInclusive;

use zstd::zstd_safe::{self, ErrorCode};

use super::{DecompressLimit, Fault};

/// The levels to choose from, the library's own range.
pub(super) const LEVELS: RangeInclusive<i32> = -131_072..=22;
/// Kafka's default level.
const DEFAULT_LEVEL: i32 = 3;
/// What is guessed for a frame that does not state its size. Memory that is not written to is not taken.
const GUESSED_RATIO: usize = 8;
const GUESS_MIN_LEN: usize = 64 << 10;
/// `ZSTD_error_dstSize_tooSmall`, part of the library's stable interface; returned as a negative number.
const TOO_SMALL: ErrorCode = 70;

pub(super) fn decompress(stream: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, Fault> {
    let mut room = stream
        .len()
        .saturating_mul(GUESSED_RATIO)
        .max(GUESS_MIN_LEN)
        .max(stated_len(stream)?)
        .min(limit.bytes());
    loop {
        let mut out = Vec::with_capacity(room);
        match zstd_safe::decompress(&mut out, stream) {
            Ok(_) => return Ok(out),
            Err(code) if code.wrapping_neg() != TOO_SMALL => {
                return Err(Fault::corrupt(zstd_safe::get_error_name(code)));
            }
            Err(_) if room >= limit.bytes() => return Err(Fault::TooLarge),
            Err(_) => room = room.saturating_mul(4).min(limit.bytes()),
        }
    }
}

/// Returns the content size that the first frame states, 0 when it states none.
fn stated_len(stream: &[u8]) -> Result<usize, Fault> {
    let stated = zstd_safe::get_frame_content_size(stream)
        .map_err(|_| Fault::corrupt("not a frame"))?
        .unwrap_or(0);
    Ok(usize::try_from(stated).unwrap_or(usize::MAX))
}

pub(super) fn compress(level: Option<i32>, records: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(records.len()), 0);
    let written = zstd_safe::compress(&mut out[start..], records, level.unwrap_or(DEFAULT_LEVEL))
        .expect("the room is what the library asks for");
    out.truncate(start + written);
}
