//! Snappy, in the two framings that Kafka's clients write.
//!
//! ```text
//!  raw     one snappy block (the C client)
//!  xerial  82 53 4E 41 50 50 59 00 | version i32 | least readable version i32 | chunk ...     (the Java client)
//!          chunk = length i32 | one snappy block
//! ```
//!
//! A raw block cannot begin like a xerial stream: after its length (82 53), its first element (4E) would copy from before
//! the start. A xerial stream may begin again where a chunk could.
//! A block states its decompressed length, which is checked against the limit before anything is allocated.

use super::{DecompressLimit, Fault};

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const VERSION: i32 = 1;
const STREAM_HEADER_LEN: usize = 16;
/// Bytes compressed into one chunk, as the Java library has it.
const CHUNK_LEN: usize = 32 << 10;
/// No block holds more than this times its own length: its densest element makes 64 bytes of 3.
const RATIO_MAX: usize = 22;

pub(super) fn decompress(stream: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    if stream.starts_with(&MAGIC) {
        xerial(stream, limit, &mut out)?;
    } else {
        block(stream, limit, &mut out)?;
    }
    Ok(out)
}

fn xerial(mut stream: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<(), Fault> {
    while !stream.is_empty() {
        if stream.starts_with(&MAGIC) {
            stream = after_stream_header(stream)?;
            continue;
        }
        let (length, rest) = stream
            .split_first_chunk()
            .ok_or_else(|| Fault::corrupt("cut off inside the length of a chunk"))?;
        let length = i32::from_be_bytes(*length);
        let (chunk, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length))
            .ok_or_else(|| {
                Fault::corrupt(format_args!(
                    "a chunk of {length} bytes where {} are left",
                    rest.len()
                ))
            })?;
        block(chunk, limit, out)?;
        stream = rest;
    }
    Ok(())
}

fn after_stream_header(stream: &[u8]) -> Result<&[u8], Fault> {
    let (header, rest) = stream
        .split_first_chunk::<STREAM_HEADER_LEN>()
        .ok_or_else(|| Fault::corrupt("cut off inside the stream header"))?;
    let [.., a, b, c, d] = *header;
    let least_readable = i32::from_be_bytes([a, b, c, d]);
    if least_readable > VERSION {
        return Err(Fault::corrupt(format_args!(
            "stream version {least_readable} is needed, only {VERSION} is read"
        )));
    }
    Ok(rest)
}

fn block(block: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<(), Fault> {
    let len = snap::raw::decompress_len(block).map_err(Fault::corrupt)?;
    if len > block.len().saturating_mul(RATIO_MAX) {
        return Err(Fault::corrupt(format_args!(
            "a block of {} bytes cannot hold {len}",
            block.len()
        )));
    }
    let start = out.len();
    limit.check(start.saturating_add(len))?;
    out.resize(start + len, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(Fault::corrupt)?;
    out.truncate(start + written);
    Ok(())
}

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for chunk in records.chunks(CHUNK_LEN) {
        let length_at = out.len();
        let block_at = length_at + size_of::<i32>();
        out.resize(block_at + snap::raw::max_compress_len(chunk.len()), 0);
        let written = encoder
            .compress(chunk, &mut out[block_at..])
            .expect("the room is what the encoder asks for");
        let length = i32::try_from(written).expect("a chunk of 32 KiB stays small");
        out[length_at..block_at].copy_from_slice(&length.to_be_bytes());
        out.truncate(block_at + written);
    }
}
