//! The tiered segment object: one sealed segment, whole, with all that a reader needs to find its way in it.
//!
//! ```text
//! 0            log bytes    the segment's .log, unchanged: record batches, Kafka's format version 2, back to back
//! log bytes    sections     offset index, time index, aborted transactions, producer state, leader epochs; each as the
//!                           local file of that name has it (storage/format), each where the footer says
//! end - 32 - n footer       n bytes, n at most 1 MiB; see below
//! end - 32     trailer      fixed, so that a reader who knows nothing but the key begins with the last 32 bytes
//!
//! footer                                              trailer
//!  0 topic id, 16 bytes                                0 footer position u64
//! 16 partition i32                                     8 footer bytes u32
//! 20 epoch of the server that wrote it i32            12 CRC-32 of the footer u32
//! 24 attempt u64, as in the key                       16 format version u16 = 1
//! 32 written at i64, ms                               18 reserved u16 = 0
//! 40 chunk bytes u32                                  20 CRC-32 of the 20 bytes before u32
//! 44 chunks u32                                       24 magic, 8 bytes "SILTSEG\0"
//! 48 sections u16
//! 50 topic name bytes u16                             section, 32 bytes
//! 52 summary bytes u16                                 0 kind u16: 1 offset index, 2 time index, 3 transactions,
//! 54 transform u16 = 0: chunks are stored as is          4 producers, 5 leader epochs, 6 key index, 7 key filter
//! 56 reserved, 8 bytes = 0: of the transform           2 entry bytes u16, 0 when it has no entries
//! 64 topic name                                        4 page bytes u32
//!    summary (storage/format/segment_summary.rs)       8 position u64
//!    chunk table: CRC-32 u32, reserved u32 = 0        16 section bytes u64
//!      for each chunk of the log                      24 reserved u64 = 0
//!    sections, each followed by: CRC-32 u32 of each   all numbers big-endian; CRC-32 is that of zlib and gzip
//!      page, then the first entry of each page
//! ```
//!
//! **Chunks** are 1 MiB: a gigabyte has a chunk table of 8 KiB, so that footer and tables come in one small request, and a
//! request of a chunk spends more time on bytes than on being asked. A chunk is the unit of checksums, not of reading: a batch has a
//! checksum of its own, so who looks for one batch may fetch less than a chunk ([`super::chunk_cache`]).
//!
//! **Pages** are 8,192 entries of an index. The first entry of each stands in the footer: a lookup fetches one page of 64 or
//! 96 KiB, however large the index. With a footer below 32 KiB and a first window of 64 KiB, a point lookup stays far below two
//! chunks beyond its batch.
//!
//! Versions
//! - 1: the first. A section of an unknown kind is passed over. A new transform needs a new number there, which readers that
//!   do not know it refuse; anything else needs a new version.
//!
//! Invariants
//! - Sections lie behind the log and before the footer, in the order of the table, without overlap.
//! - The chunks cover the log, the pages cover their section; the last of each may be shorter.
//! - Whatever the bytes, decoding does not panic, and what it allocates is at most a small multiple of the footer.
//!
//! What is not here: writing one ([`super::object_writer`]), reading batches from one ([`super::read`]), its key
//! ([`super::keys`]).

use std::ops::Range;

use bytes::Bytes;

use super::keys::ObjectId;
use crate::storage::{Fields, OffsetEntry, SegmentSummary, TimeEntry};
use crate::types::{LeaderEpoch, PartitionId, Timestamp, TopicId, TopicName};

/// Bytes of a chunk of the log, in the objects that we write.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// Entries in a page of an index, in the objects that we write.
pub(super) const PAGE_ENTRIES: u32 = 8192;
/// Bytes in a page of a section without entries, in the objects that we write.
pub(super) const PLAIN_PAGE_BYTES: u32 = 64 << 10;
/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 32;
/// Bytes of a footer at most.
pub(super) const MAX_FOOTER_LEN: usize = 1 << 20;
/// Format version of the objects that we write, the only one there is.
pub(super) const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SILTSEG\0";
const CHECKED_TRAILER_LEN: usize = 20;
const FIXED_LEN: usize = 64;
const SECTION_LEN: usize = 32;
const _: () = assert!(2 + 2 + 4 + 8 + 8 + 8 == SECTION_LEN);
const CRC_LEN: usize = 4;
const CHUNK_ENTRY_LEN: usize = 8;
const MAX_ENTRY_LEN: u16 = 64;
const CHUNK_RANGE: std::ops::RangeInclusive<u32> = 4096..=(64 << 20);
const _: () = assert!(CHECKED_TRAILER_LEN + CRC_LEN + MAGIC.len() == TRAILER_LEN);
const _: () = assert!(16 + 4 + 4 + 8 + 8 + 4 + 4 + 2 * 4 + 8 == FIXED_LEN);

/// What a section holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionKind(pub u16);

impl SectionKind {
    /// The segment's `.index`.
    pub const OFFSET_INDEX: Self = Self(1);
    /// Its `.timeindex`.
    pub const TIME_INDEX: Self = Self(2);
    /// Its `.txnindex`: transactions that were aborted.
    pub const TRANSACTIONS: Self = Self(3);
    /// The `.snapshot` at its end: what is known of producers there.
    pub const PRODUCERS: Self = Self(4);
    /// The `leader-epoch-checkpoint`, cut at its end.
    pub const EPOCHS: Self = Self(5);

    /// Returns the length of one entry in bytes; 0 when a lookup cannot go by entries.
    pub fn entry_len(self) -> u16 {
        let len = match self {
            Self::OFFSET_INDEX => OffsetEntry::LEN,
            Self::TIME_INDEX => TimeEntry::LEN,
            _ => 0,
        };
        u16::try_from(len).expect("an entry has a few bytes")
    }

    /// Returns the length of a page in the objects that we write.
    pub fn page_bytes(self) -> u32 {
        match u32::from(self.entry_len()) {
            0 => PLAIN_PAGE_BYTES,
            entry => entry * PAGE_ENTRIES,
        }
    }
}

/// Where one section lies, and how its pages are checked and chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Where it begins in the object.
    pub position: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Length of its pages in bytes, the last one apart.
    pub page_bytes: u32,
    /// Length of an entry in bytes; 0 when it has none.
    pub entry_len: u16,
    /// CRC-32 of each page.
    pub page_crcs: Vec<u32>,
    /// The first entry of each page, back to back: itself a small index of the same format.
    pub fences: Bytes,
}

impl Section {
    /// Returns where page `index` lies in the object; `None` behind the last.
    pub fn page(&self, index: usize) -> Option<Range<u64>> {
        part(self.position, self.len_bytes, self.page_bytes, index)
    }

    /// Checks the bytes of page `index`.
    ///
    /// # Errors
    /// [`ObjectDamage::Page`] when they are not those that were written.
    pub fn check_page(&self, index: usize, bytes: &[u8]) -> Result<(), ObjectDamage> {
        let found = crc32fast::hash(bytes);
        match self.page_crcs.get(index) {
            Some(&expected) if expected == found => Ok(()),
            _ => Err(ObjectDamage::Page {
                section: self.kind.0,
                page: index,
            }),
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.kind.0.to_be_bytes());
        into.extend_from_slice(&self.entry_len.to_be_bytes());
        into.extend_from_slice(&self.page_bytes.to_be_bytes());
        into.extend_from_slice(&self.position.to_be_bytes());
        into.extend_from_slice(&self.len_bytes.to_be_bytes());
        into.extend_from_slice(&[0; 8]);
        for crc in &self.page_crcs {
            into.extend_from_slice(&crc.to_be_bytes());
        }
        into.extend_from_slice(&self.fences);
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let kind = SectionKind(fields.u16()?);
        let entry_len = fields.u16()?;
        let page_bytes = fields.u32()?;
        let position = fields.u64()?;
        let len_bytes = fields.u64()?;
        fields.u64()?;
        let known = kind.entry_len();
        let whole_entries = entry_len == 0 || page_bytes.is_multiple_of(u32::from(entry_len));
        let sound = page_bytes > 0 && entry_len <= MAX_ENTRY_LEN && whole_entries;
        if !sound || (known != 0 && entry_len != known) {
            return None;
        }
        let pages = usize::try_from(len_bytes.div_ceil(u64::from(page_bytes))).ok()?;
        let crcs = fields.bytes(pages.checked_mul(CRC_LEN)?)?;
        let fences = fields.bytes(pages.checked_mul(usize::from(entry_len))?)?;
        Some(Self {
            kind,
            position,
            len_bytes,
            page_bytes,
            entry_len,
            page_crcs: crcs
                .as_chunks()
                .0
                .iter()
                .map(|crc| u32::from_be_bytes(*crc))
                .collect(),
            fences: Bytes::copy_from_slice(fences),
        })
    }
}

fn part(position: u64, len: u64, part: u32, index: usize) -> Option<Range<u64>> {
    let start = u64::try_from(index).ok()?.checked_mul(u64::from(part))?;
    let end = start.saturating_add(u64::from(part)).min(len);
    (start < len).then_some(position + start..position + end)
}

/// The last 32 bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// Where the footer begins.
    pub footer_position: u64,
    /// Its length in bytes.
    pub footer_len: u32,
    /// Its CRC-32.
    pub footer_crc: u32,
}

impl Trailer {
    /// Returns the bytes.
    pub fn to_bytes(self) -> [u8; TRAILER_LEN] {
        let mut bytes = Vec::with_capacity(TRAILER_LEN);
        bytes.extend_from_slice(&self.footer_position.to_be_bytes());
        bytes.extend_from_slice(&self.footer_len.to_be_bytes());
        bytes.extend_from_slice(&self.footer_crc.to_be_bytes());
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 2]);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.try_into().expect("the fields make 32 bytes")
    }

    /// Reads the last bytes of an object of `object_len` bytes.
    ///
    /// # Errors
    /// [`ObjectDamage`] when they are no trailer, one of a version that we do not know, or one of another object.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self, ObjectDamage> {
        let mut fields = Fields(bytes);
        let short = ObjectDamage::Short { len: bytes.len() };
        let trailer = Self {
            footer_position: fields.u64().ok_or(short)?,
            footer_len: fields.u32().ok_or(short)?,
            footer_crc: fields.u32().ok_or(short)?,
        };
        let version = fields.u16().ok_or(short)?;
        fields.u16().ok_or(short)?;
        let expected = fields.u32().ok_or(short)?;
        if fields.array().ok_or(short)? != MAGIC {
            return Err(ObjectDamage::Magic);
        }
        let found = crc32fast::hash(&bytes[..CHECKED_TRAILER_LEN]);
        if expected != found {
            return Err(ObjectDamage::Checksum { expected, found });
        }
        if version != VERSION {
            return Err(ObjectDamage::Version { version });
        }
        let len = u64::from(trailer.footer_len);
        let end = trailer.footer_position.checked_add(len + TRAILER_LEN as u64);
        if end != Some(object_len) || !fields.is_empty() || len > MAX_FOOTER_LEN as u64 {
            return Err(ObjectDamage::Length { object_len });
        }
        Ok(trailer)
    }

    /// Returns where the footer lies.
    pub fn footer(&self) -> Range<u64> {
        self.footer_position..self.footer_position + u64::from(self.footer_len)
    }
}

/// What an object says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The topic's id.
    pub topic_id: TopicId,
    /// The topic's name.
    pub topic: TopicName,
    /// Which partition.
    pub partition: PartitionId,
    /// Under which epoch and attempt it was written.
    pub id: ObjectId,
    /// When, by the clock of the server that wrote it.
    pub written: Timestamp,
    /// Offsets, times and sizes of the segment.
    pub summary: SegmentSummary,
    /// Length of the chunks of the log in bytes, the last one apart.
    pub chunk_bytes: u32,
    /// CRC-32 of each chunk.
    pub chunk_crcs: Vec<u32>,
    /// The sections, by position.
    pub sections: Vec<Section>,
}

impl Footer {
    /// Returns the bytes.
    ///
    /// # Errors
    /// [`FooterTooLong`] when a section is so long that its table would not fit.
    pub fn encode(&self) -> Result<Vec<u8>, FooterTooLong> {
        let mut summary = Vec::new();
        self.summary.encode(&mut summary);
        let name = self.topic.as_str().as_bytes();
        let short = |len: usize| u16::try_from(len).expect("a name and a summary are at most a few KiB");
        let chunks = u32::try_from(self.chunk_crcs.len()).map_err(|_| FooterTooLong)?;
        let mut into = Vec::new();
        into.extend_from_slice(&self.topic_id.0);
        into.extend_from_slice(&self.partition.0.to_be_bytes());
        into.extend_from_slice(&self.id.epoch.0.to_be_bytes());
        into.extend_from_slice(&self.id.attempt.to_be_bytes());
        into.extend_from_slice(&self.written.0.to_be_bytes());
        into.extend_from_slice(&self.chunk_bytes.to_be_bytes());
        into.extend_from_slice(&chunks.to_be_bytes());
        into.extend_from_slice(&short(self.sections.len()).to_be_bytes());
        into.extend_from_slice(&short(name.len()).to_be_bytes());
        into.extend_from_slice(&short(summary.len()).to_be_bytes());
        into.extend_from_slice(&[0; 10]);
        into.extend_from_slice(name);
        into.extend_from_slice(&summary);
        for crc in &self.chunk_crcs {
            into.extend_from_slice(&crc.to_be_bytes());
            into.extend_from_slice(&[0; CHUNK_ENTRY_LEN - CRC_LEN]);
        }
        for section in &self.sections {
            section.encode(&mut into);
        }
        if into.len() > MAX_FOOTER_LEN {
            return Err(FooterTooLong);
        }
        Ok(into)
    }

    /// Reads the footer that `trailer` tells of.
    ///
    /// # Errors
    /// [`ObjectDamage`] when the bytes are not those that were written, or what they say does not fit together.
    pub fn decode(bytes: &[u8], trailer: &Trailer) -> Result<Self, ObjectDamage> {
        let found = crc32fast::hash(bytes);
        if found != trailer.footer_crc {
            return Err(ObjectDamage::Checksum {
                expected: trailer.footer_crc,
                found,
            });
        }
        let (footer, transform) = Self::fields(Fields(bytes)).ok_or(ObjectDamage::Malformed)?;
        if transform != 0 {
            return Err(ObjectDamage::Transform { transform });
        }
        footer.check(trailer.footer_position)?;
        Ok(footer)
    }

    fn fields(mut fields: Fields<'_>) -> Option<(Self, u16)> {
        let topic_id = TopicId(fields.array()?);
        let partition = PartitionId(fields.i32()?);
        let epoch = LeaderEpoch(fields.i32()?);
        let attempt = fields.u64()?;
        let written = Timestamp(fields.i64()?);
        let chunk_bytes = fields.u32()?;
        let chunks = usize::try_from(fields.u32()?).ok()?;
        let sections = fields.u16()?;
        let (name_len, summary_len) = (fields.u16()?, fields.u16()?);
        let transform = fields.u16()?;
        fields.u64()?;
        let name = std::str::from_utf8(fields.bytes(usize::from(name_len))?).ok()?;
        let topic = TopicName::new(name).ok()?;
        let summary = SegmentSummary::from_bytes(fields.bytes(usize::from(summary_len))?)?;
        let table = fields.bytes(chunks.checked_mul(CHUNK_ENTRY_LEN)?)?;
        let chunk_crcs = table
            .as_chunks::<CHUNK_ENTRY_LEN>()
            .0
            .iter()
            .map(|[a, b, c, d, ..]| u32::from_be_bytes([*a, *b, *c, *d]))
            .collect();
        let mut decoded = Vec::new();
        for _ in 0..sections {
            decoded.push(Section::decode(&mut fields)?);
        }
        let footer = Self {
            topic_id,
            topic,
            partition,
            id: ObjectId {
                base: summary.base_offset,
                epoch,
                attempt,
            },
            written,
            summary,
            chunk_bytes,
            chunk_crcs,
            sections: decoded,
        };
        fields.is_empty().then_some((footer, transform))
    }

    fn check(&self, footer_position: u64) -> Result<(), ObjectDamage> {
        let log = self.summary.log_bytes;
        let chunks = log.div_ceil(u64::from(self.chunk_bytes.max(1)));
        let covered = u64::try_from(self.chunk_crcs.len()).is_ok_and(|found| found == chunks);
        let sound = covered
            && CHUNK_RANGE.contains(&self.chunk_bytes)
            && log <= u64::from(u32::MAX)
            && self.partition.0 >= 0
            && self.id.epoch.0 >= 0;
        let mut end = log;
        for section in &self.sections {
            let next = section.position.checked_add(section.len_bytes);
            match next {
                Some(next) if section.position >= end && next <= footer_position => end = next,
                _ => {
                    return Err(ObjectDamage::Section {
                        section: section.kind.0,
                    });
                }
            }
        }
        if sound && end <= footer_position {
            Ok(())
        } else {
            Err(ObjectDamage::Malformed)
        }
    }

    /// Returns the section of a kind; `None` when there is none.
    pub fn section(&self, kind: SectionKind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// Returns where chunk `index` of the log lies in the object; `None` behind the last.
    pub fn chunk(&self, index: usize) -> Option<Range<u64>> {
        part(0, self.summary.log_bytes, self.chunk_bytes, index)
    }

    /// Checks the bytes of chunk `index`.
    ///
    /// # Errors
    /// [`ObjectDamage::Chunk`] when they are not those that were written.
    pub fn check_chunk(&self, index: usize, bytes: &[u8]) -> Result<(), ObjectDamage> {
        let found = crc32fast::hash(bytes);
        match self.chunk_crcs.get(index) {
            Some(&expected) if expected == found => Ok(()),
            _ => Err(ObjectDamage::Chunk { chunk: index }),
        }
    }
}

/// A footer would be longer than [`MAX_FOOTER_LEN`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the footer would have more than {MAX_FOOTER_LEN} bytes")]
pub struct FooterTooLong;

/// Why bytes are not those of a tiered segment. The layer above adds the object's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ObjectDamage {
    /// Shorter than a trailer.
    #[error("{len} bytes are shorter than a trailer of {TRAILER_LEN}")]
    Short {
        /// How many there are.
        len: usize,
    },
    /// Something else.
    #[error("it does not end with the magic of a tiered segment")]
    Magic,
    /// A version we do not know.
    #[error("it has format version {version}, expected {VERSION}")]
    Version {
        /// What it has.
        version: u16,
    },
    /// Chunks are stored in a way that we do not know.
    #[error("its chunks went through transform {transform}, which this version does not know")]
    Transform {
        /// Which.
        transform: u16,
    },
    /// It is not as long as it says.
    #[error("it has {object_len} bytes, its trailer tells of another length")]
    Length {
        /// Its length in bytes.
        object_len: u64,
    },
    /// Trailer or footer are not those that were written.
    #[error("its footer has crc {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What stands beside it.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The footer is whole, and yet none.
    #[error("its footer does not fit together")]
    Malformed,
    /// A section lies where it cannot.
    #[error("its section of kind {section} lies outside its place")]
    Section {
        /// The kind.
        section: u16,
    },
    /// A chunk of the log is not what was written.
    #[error("chunk {chunk} of its log does not have its crc")]
    Chunk {
        /// Which, from 0.
        chunk: usize,
    },
    /// A page of a section is not what was written.
    #[error("page {page} of its section of kind {section} does not have its crc")]
    Page {
        /// The kind.
        section: u16,
        /// Which, from 0.
        page: usize,
    },
    /// It belongs to another partition, or to another segment, than its key says.
    #[error("it is not the object that its key names")]
    Stranger,
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
