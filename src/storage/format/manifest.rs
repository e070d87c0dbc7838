//! Partition manifest: the file a clean start reads instead of the segments.
//!
//! An append-only journal, `siltstone.manifest` in the partition directory. A roll, a swap or a removal appends a
//! record; a clean close writes the file anew, with the active segment too and a closing record at its end.
//!
//! ```text
//! header                                    then records, back to back
//!  0 magic "SILTMAN\0"                      +---------+---------+---------------------+
//!  8 format version u16 = 1                 | len u32 | crc u32 | payload of len bytes|
//! 10 reserved u16 = 0                       +---------+---------+---------------------+
//! 12 topic id, 16 bytes                     crc: CRC-32 (IEEE) of the four bytes of len, then the payload
//! 28 partition i32                          payload: kind u8, then
//! 32 crc u32: CRC-32 (IEEE) of bytes 0..32    1 segment: `segment_summary`
//!                                             2 removed: base offset i64
//! all big-endian                              3 closed: log start i64, log end i64, leader epoch i32,
//!                                               first unstable offset i64, -1 when there is none
//! ```
//!
//! Versions
//! - 1: the first. A new kind of record needs a new version; a new fact about a segment is an extension of its summary.
//!
//! Invariants
//! - The newest record about a base offset counts. Between a replacement and the removals that go with it, segments may
//!   overlap; only the directory tells which of them are there.
//! - A closing record counts only as the last one, and only when it agrees with the newest segment's end. It says that
//!   the file was true when it was written: trust it only together with the data directory's clean-shutdown marker. One in
//!   front of other records is a bound: log start and epoch have not gone back since.
//! - Whatever is damaged ends the journal: records before it count, nothing behind it does. The owner writes the file
//!   anew before it appends again.
//! - Nothing in it is the only copy: it can be made again from the segments, append times excepted.
//!
//! What it does not do: I/O (`checkpoint::write_atomic` replaces the file), or decide when the journal has grown long
//! enough to be written anew.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::segment_summary::{self, SegmentSummary};
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId};

const MAGIC: [u8; 8] = *b"SILTMAN\0";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 36;
const CHECKED_HEADER_LEN: usize = 32;
const _: () = assert!(8 + 2 + 2 + 16 + 4 == CHECKED_HEADER_LEN && CHECKED_HEADER_LEN + 4 == HEADER_LEN);

/// Bytes before a record's payload.
const FRAME_LEN: usize = 8;
/// Bytes of a record's length field.
const LEN_LEN: usize = 4;
/// The greatest length of a payload: no reader allocates more for one.
const MAX_PAYLOAD_LEN: usize = segment_summary::MAX_LEN;

const SEGMENT: u8 = 1;
const REMOVED: u8 = 2;
const CLOSED: u8 = 3;

/// Name of the file in the partition directory.
pub const MANIFEST_FILE_NAME: &str = "siltstone.manifest";

/// What a clean close leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// The partition's first offset.
    pub log_start: Offset,
    /// The offset after its last.
    pub log_end: Offset,
    /// The newest leader epoch.
    pub epoch: LeaderEpoch,
    /// First offset of the earliest open transaction.
    pub first_unstable: Option<Offset>,
}

/// One record of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestRecord {
    /// A segment is there, as summarised; it replaces one of the same base offset.
    Segment(SegmentSummary),
    /// The segment of this base offset is gone.
    Removed(Offset),
    /// The partition was closed cleanly.
    Closed(Closed),
}

impl ManifestRecord {
    /// Returns the bytes to append to the journal.
    pub fn encode_append(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Segment(summary) => encode_segment(summary, &mut bytes),
            Self::Removed(base_offset) => frame(&mut bytes, |into| {
                into.push(REMOVED);
                into.extend_from_slice(&base_offset.0.to_be_bytes());
            }),
            Self::Closed(closed) => encode_closed(closed, &mut bytes),
        }
        bytes
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let record = match fields.u8()? {
            SEGMENT => return SegmentSummary::decode(fields).map(Self::Segment),
            REMOVED => Self::Removed(Offset(fields.i64()?)),
            CLOSED => Self::Closed(Closed {
                log_start: Offset(fields.i64()?),
                log_end: Offset(fields.i64()?),
                epoch: LeaderEpoch(fields.i32()?),
                first_unstable: Some(Offset(fields.i64()?)).filter(|first| first.0 >= 0),
            }),
            _ => return None,
        };
        fields.is_empty().then_some(record)
    }
}

/// What the journal comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The topic it belongs to.
    pub topic_id: TopicId,
    /// The partition it belongs to.
    pub partition: PartitionId,
    segments: BTreeMap<Offset, SegmentSummary>,
    closed: Option<Closed>,
}

impl Manifest {
    /// Makes the manifest of a partition without segments.
    pub fn new(topic_id: TopicId, partition: PartitionId) -> Self {
        Self {
            topic_id,
            partition,
            segments: BTreeMap::new(),
            closed: None,
        }
    }

    /// Returns the newest summary of each segment, by base offset.
    pub fn segments(&self) -> &BTreeMap<Offset, SegmentSummary> {
        &self.segments
    }

    /// Returns what the clean close left behind; `None` when anything happened since.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Takes in the next record of the journal.
    ///
    /// # Errors
    /// [`Contradiction`] when a closing record does not agree with the segments; nothing is then changed.
    pub fn apply(&mut self, record: ManifestRecord) -> Result<(), Contradiction> {
        self.closed = match record {
            ManifestRecord::Segment(summary) => {
                self.segments.insert(summary.base_offset, summary);
                None
            }
            ManifestRecord::Removed(base_offset) => {
                self.segments.remove(&base_offset);
                None
            }
            ManifestRecord::Closed(closed) => {
                let end = self
                    .segments
                    .last_key_value()
                    .map(|(_, newest)| newest.next_offset);
                if closed.log_start > closed.log_end || end.is_some_and(|end| end != closed.log_end) {
                    return Err(Contradiction {
                        log_end: closed.log_end,
                    });
                }
                Some(closed)
            }
        };
        Ok(())
    }

    /// Returns the bytes of a file that says just this, without history.
    pub fn encode_whole(&self) -> Vec<u8> {
        self.encode_after(None)
    }

    /// Returns the bytes of a file that says this, and of an earlier close how far log start and epoch had come.
    pub fn encode_after(&self, earlier: Option<&Closed>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.topic_id.0);
        bytes.extend_from_slice(&self.partition.0.to_be_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        if let Some(earlier) = earlier {
            encode_closed(earlier, &mut bytes);
        }
        for summary in self.segments.values() {
            encode_segment(summary, &mut bytes);
        }
        if let Some(closed) = &self.closed {
            encode_closed(closed, &mut bytes);
        }
        bytes
    }

    /// Reads the bytes of a file as far as they are sound.
    ///
    /// # Errors
    /// [`ManifestDamage`] when not even the header is; the caller makes the manifest again from the segments.
    pub fn decode(bytes: &[u8]) -> Result<DecodedManifest, ManifestDamage> {
        let mut manifest = decode_header(bytes)?;
        let mut valid_len = HEADER_LEN;
        let mut tail = None;
        let mut last_closed = None;
        while valid_len < bytes.len() {
            let taken = decode_record(&bytes[valid_len..]).and_then(|(record, len)| {
                manifest.apply(record)?;
                last_closed = manifest.closed.or(last_closed);
                Ok(len)
            });
            match taken {
                Ok(len) => valid_len += len,
                Err(reason) => {
                    // What stands behind the damage may have reopened the log.
                    manifest.closed = None;
                    tail = Some(TailDamage {
                        position: valid_len,
                        reason,
                    });
                    break;
                }
            }
        }
        Ok(DecodedManifest {
            manifest,
            last_closed,
            valid_len,
            tail,
        })
    }
}

/// A manifest read from a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedManifest {
    /// What the sound part comes to.
    pub manifest: Manifest,
    /// The newest closing record, though more may follow it: log start and epoch have not gone back since.
    pub last_closed: Option<Closed>,
    /// Length in bytes of the sound part.
    pub valid_len: usize,
    /// Where and why it ends before the file does.
    pub tail: Option<TailDamage>,
}

fn encode_segment(summary: &SegmentSummary, into: &mut Vec<u8>) {
    frame(into, |into| {
        into.push(SEGMENT);
        summary.encode(into);
    });
}

fn encode_closed(closed: &Closed, into: &mut Vec<u8>) {
    frame(into, |into| {
        into.push(CLOSED);
        into.extend_from_slice(&closed.log_start.0.to_be_bytes());
        into.extend_from_slice(&closed.log_end.0.to_be_bytes());
        into.extend_from_slice(&closed.epoch.0.to_be_bytes());
        into.extend_from_slice(&closed.first_unstable.map_or(-1, |first| first.0).to_be_bytes());
    });
}

/// Appends a record whose payload `write` appends.
fn frame(into: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend_from_slice(&[0; FRAME_LEN]);
    write(into);
    let len = u32::try_from(into.len() - start - FRAME_LEN).expect("a payload is at most a few KiB");
    into[start..start + LEN_LEN].copy_from_slice(&len.to_be_bytes());
    let crc = record_crc(len, &into[start + FRAME_LEN..]);
    into[start + LEN_LEN..start + FRAME_LEN].copy_from_slice(&crc.to_be_bytes());
}

fn record_crc(len: u32, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_be_bytes());
    crc.update(payload);
    crc.finalize()
}

fn decode_header(bytes: &[u8]) -> Result<Manifest, ManifestDamage> {
    let short = ManifestDamage::Short { len: bytes.len() };
    let mut fields = Fields(bytes);
    let magic: [u8; 8] = fields.array().ok_or(short)?;
    if magic != MAGIC {
        return Err(ManifestDamage::Magic);
    }
    let version = fields.u16().ok_or(short)?;
    if version != VERSION {
        return Err(ManifestDamage::Version { version });
    }
    fields.u16().ok_or(short)?;
    let topic_id = TopicId(fields.array().ok_or(short)?);
    let partition = PartitionId(fields.i32().ok_or(short)?);
    let expected = fields.u32().ok_or(short)?;
    let found = crc32fast::hash(&bytes[..CHECKED_HEADER_LEN]);
    if expected != found {
        return Err(ManifestDamage::Checksum { expected, found });
    }
    Ok(Manifest::new(topic_id, partition))
}

/// The record that `bytes` begin with, and its length with its frame.
fn decode_record(bytes: &[u8]) -> Result<(ManifestRecord, usize), TailReason> {
    let mut fields = Fields(bytes);
    let torn = TailReason::Torn { left: bytes.len() };
    let len = fields.u32().ok_or(torn)?;
    let expected = fields.u32().ok_or(torn)?;
    let payload_len = usize::try_from(len)
        .ok()
        .filter(|len| (1..=MAX_PAYLOAD_LEN).contains(len))
        .ok_or(TailReason::Length { len })?;
    let payload = fields.bytes(payload_len).ok_or(torn)?;
    let found = record_crc(len, payload);
    if expected != found {
        return Err(TailReason::Checksum { expected, found });
    }
    let record = ManifestRecord::decode(payload).ok_or(TailReason::Malformed { kind: payload[0] })?;
    Ok((record, FRAME_LEN + payload_len))
}

/// A closing record that does not agree with the segments before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the closing record ends the log at offset {log_end}, its segments do not")]
pub struct Contradiction {
    /// The log's end by that record.
    pub log_end: Offset,
}

/// Where a journal ends before its file does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("manifest record at position {position} does not count: {reason}")]
pub struct TailDamage {
    /// Where the record begins, in bytes.
    pub position: usize,
    /// What is wrong with it.
    pub reason: TailReason,
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TailReason {
    /// The file ends inside it: an append was cut short.
    #[error("the file ends {left} bytes behind its start")]
    Torn {
        /// Bytes from its start to the end of the file.
        left: usize,
    },
    /// A length that no record has.
    #[error("its length is {len}, not 1 to {MAX_PAYLOAD_LEN}")]
    Length {
        /// What it says.
        len: u32,
    },
    /// The bytes are not those that were written.
    #[error("its crc is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What its frame says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// Whole, and yet not a record that we know.
    #[error("it is no sound record of kind {kind}")]
    Malformed {
        /// Its first byte.
        kind: u8,
    },
    /// Sound, and yet not true.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
}

/// Why bytes are not a manifest. The layer above adds the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestDamage {
    /// Shorter than its header.
    #[error("manifest of {len} bytes is shorter than its header of {HEADER_LEN}")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// Something else.
    #[error("manifest does not begin with its magic")]
    Magic,
    /// A version we do not know.
    #[error("manifest has format version {version}, expected {VERSION}")]
    Version {
        /// What it has.
        version: u16,
    },
    /// The header is not the one that was written.
    #[error("manifest header has crc {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What it says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
