//! LZ4 frames: written with independent blocks of 64 KiB and no checksum of the content, as Kafka's Java client does.
//!
//! ```text
//!  04 22 4D 18 | flags u8 | block size u8 | content size u64? | dictionary id u32? | header checksum u8
//!  (length u32, top bit: not compressed | block | checksum u32?) ...
//!  00 00 00 00 | content checksum u32?                                            all little-endian
//! ```
//!
//! Exactly one whole frame is read. The walk over its outline here comes first, because Kafka's readers stop after one frame
//! while the library would read on, also over kinds of frame that Kafka does not have.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::{DecompressLimit, Fault, drain};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];
const FLAG_BLOCK_CHECKSUMS: u8 = 1 << 4;
const FLAG_CONTENT_SIZE: u8 = 1 << 3;
const FLAG_CONTENT_CHECKSUM: u8 = 1 << 2;
const FLAG_DICTIONARY_ID: u8 = 1;
const CHECKSUM_LEN: usize = 4;

pub(super) fn decompress(stream: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, Fault> {
    let rest = after_frame(stream).ok_or_else(|| Fault::corrupt("not a whole frame"))?;
    if !rest.is_empty() {
        return Err(Fault::corrupt(format_args!(
            "{} bytes after the frame",
            rest.len()
        )));
    }
    let mut out = Vec::new();
    let mut decoder = FrameDecoder::new(stream);
    drain(&mut decoder, limit, &mut out)?;
    let left = decoder.get_ref().len();
    if left > 0 {
        // The library takes a block of nothing for the end, and would look at no checksum behind it.
        return Err(Fault::corrupt(format_args!(
            "a block of no bytes, with {left} bytes behind it"
        )));
    }
    Ok(out)
}

/// Returns what follows the frame at the start of `stream`; `None` when it is not a frame or not whole.
fn after_frame(stream: &[u8]) -> Option<&[u8]> {
    let rest = stream.strip_prefix(&MAGIC)?;
    let flags = *rest.first()?;
    let optional_len = |flag: u8, len: usize| if flags & flag == 0 { 0 } else { len };
    let header_len = 2 + optional_len(FLAG_CONTENT_SIZE, 8) + optional_len(FLAG_DICTIONARY_ID, 4) + 1;
    let mut rest = rest.get(header_len..)?;
    loop {
        // The format's numbers are little-endian; reversed, they are read like all others here.
        let (&[a, b, c, d], after) = rest.split_first_chunk()?;
        let word = u32::from_be_bytes([d, c, b, a]);
        if word == 0 {
            return after.get(optional_len(FLAG_CONTENT_CHECKSUM, CHECKSUM_LEN)..);
        }
        let length = usize::try_from(word & !(1 << 31)).ok()?;
        let block_len = length.checked_add(optional_len(FLAG_BLOCK_CHECKSUMS, CHECKSUM_LEN))?;
        rest = after.get(block_len..)?;
    }
}

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) {
    let frame = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder
        .write_all(records)
        .and_then(|()| encoder.try_finish().map_err(std::io::Error::from))
        .expect("writing to memory does not fail");
}
