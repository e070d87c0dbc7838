//! Writing a tiered segment object: watches its bytes go by, and makes footer and trailer of what it saw.
//!
//! The bytes of log and sections go from their files to the store without a stop here: the writer sees each part once, keeps
//! running checksums and the first entry of each page, and never holds more than the tables that grow from them.
//!
//! ```text
//! begin -> write write write -> section(kind) -> write write -> section(kind) -> write -> finish -> footer + trailer
//!          the log                              one section after the other              what to put behind it
//! ```
//!
//! Invariants
//! - What is put in front of the footer is exactly what `write` has seen, in that order.
//! - A log of another length than its summary says makes no object.
//!
//! What is not here: I/O, and the layout itself ([`super::object`]).

use bytes::Bytes;

use super::keys::{ObjectId, PartitionKey};
use super::object::{CHUNK_BYTES, Footer, FooterTooLong, Section, SectionKind, Trailer};
use crate::storage::SegmentSummary;
use crate::types::Timestamp;

/// What is known of an object before its first byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectFacts {
    /// Whose segment it is.
    pub partition: PartitionKey,
    /// Its own name.
    pub id: ObjectId,
    /// The present.
    pub written: Timestamp,
    /// The segment.
    pub summary: SegmentSummary,
}

/// Checksums over parts of equal length, and the first entry of each.
#[derive(Debug)]
struct Parts {
    part_bytes: u32,
    entry_len: u16,
    crcs: Vec<u32>,
    fences: Vec<u8>,
    current: crc32fast::Hasher,
    /// Bytes of the current part so far.
    filled: u32,
    len_bytes: u64,
}

impl Parts {
    fn of(part_bytes: u32, entry_len: u16) -> Self {
        Self {
            part_bytes,
            entry_len,
            crcs: Vec::new(),
            fences: Vec::new(),
            current: crc32fast::Hasher::new(),
            filled: 0,
            len_bytes: 0,
        }
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(self.part_bytes - self.filled).expect("32 bits fit");
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let fence_left = usize::from(self.entry_len)
                .saturating_sub(usize::try_from(self.filled).expect("32 bits fit"));
            self.fences.extend_from_slice(&now[..now.len().min(fence_left)]);
            self.current.update(now);
            self.filled += u32::try_from(now.len()).expect("at most a part");
            self.len_bytes += u64::try_from(now.len()).expect("64 bits fit");
            if self.filled == self.part_bytes {
                self.close_part();
            }
            bytes = later;
        }
    }

    fn close_part(&mut self) {
        if self.filled > 0 {
            let done = std::mem::replace(&mut self.current, crc32fast::Hasher::new());
            self.crcs.push(done.finalize());
            self.filled = 0;
        }
    }
}

/// Makes the end of an object while its beginning goes by.
#[derive(Debug)]
pub struct ObjectWriter {
    facts: ObjectFacts,
    /// The log, then each section.
    parts: Vec<(SectionKind, Parts)>,
}

/// Stands for the log where sections have their kind.
const LOG: SectionKind = SectionKind(0);

impl ObjectWriter {
    /// Begins an object; the log comes first.
    pub fn begin(facts: ObjectFacts) -> Self {
        Self {
            facts,
            parts: vec![(LOG, Parts::of(CHUNK_BYTES, 0))],
        }
    }

    /// Ends what was written so far and begins a section; each kind at most once.
    pub fn section(&mut self, kind: SectionKind) {
        let parts = Parts::of(kind.page_bytes(), kind.entry_len());
        self.parts.push((kind, parts));
    }

    /// Takes note of the next bytes of the log or of the section that was begun last.
    pub fn write(&mut self, bytes: &[u8]) {
        let (_, parts) = self
            .parts
            .last_mut()
            .expect("the log is there from the beginning");
        parts.write(bytes);
    }

    /// Returns what follows the bytes written so far.
    ///
    /// # Errors
    /// [`WriteError`] when the bytes are not the segment that was announced.
    pub fn finish(mut self) -> Result<Tail, WriteError> {
        let mut sections = Vec::new();
        let mut position = 0;
        let mut chunk_crcs = Vec::new();
        for (kind, parts) in &mut self.parts {
            parts.close_part();
            if *kind == LOG {
                let expected = self.facts.summary.log_bytes;
                if parts.len_bytes != expected {
                    return Err(WriteError::Log {
                        found: parts.len_bytes,
                        expected,
                    });
                }
                chunk_crcs = std::mem::take(&mut parts.crcs);
            } else {
                let torn = parts.entry_len > 0 && !parts.len_bytes.is_multiple_of(u64::from(parts.entry_len));
                let twice = sections.iter().any(|known: &Section| known.kind == *kind);
                if torn || twice {
                    return Err(WriteError::Section { section: kind.0 });
                }
                sections.push(Section {
                    kind: *kind,
                    position,
                    len_bytes: parts.len_bytes,
                    page_bytes: parts.part_bytes,
                    entry_len: parts.entry_len,
                    page_crcs: std::mem::take(&mut parts.crcs),
                    fences: Bytes::from(std::mem::take(&mut parts.fences)),
                });
            }
            position += parts.len_bytes;
        }
        let footer = Footer {
            topic_id: self.facts.partition.topic_id,
            topic: self.facts.partition.topic,
            partition: self.facts.partition.partition,
            id: self.facts.id,
            written: self.facts.written,
            summary: self.facts.summary,
            chunk_bytes: CHUNK_BYTES,
            chunk_crcs,
            sections,
        };
        let mut bytes = footer.encode()?;
        let trailer = Trailer {
            footer_position: position,
            footer_len: u32::try_from(bytes.len()).map_err(|_| FooterTooLong)?,
            footer_crc: crc32fast::hash(&bytes),
        };
        bytes.extend_from_slice(&trailer.to_bytes());
        Ok(Tail {
            bytes: bytes.into(),
            trailer,
        })
    }
}

/// What stands at the end of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tail {
    /// Footer and trailer.
    pub bytes: Bytes,
    /// The trailer alone.
    pub trailer: Trailer,
}

impl Tail {
    /// Returns the length of the whole object in bytes.
    pub fn object_len(&self) -> u64 {
        self.trailer.footer_position + u64::try_from(self.bytes.len()).expect("64 bits fit")
    }
}

/// Why no object can be made of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// The log has another length.
    #[error("the log has {found} bytes, its summary says {expected}")]
    Log {
        /// What went by.
        found: u64,
        /// What was announced.
        expected: u64,
    },
    /// An index ends inside an entry, or is there twice.
    #[error("its section of kind {section} is torn, or there twice")]
    Section {
        /// The kind.
        section: u16,
    },
    /// So long that its tables would not fit.
    #[error(transparent)]
    TooLong(#[from] FooterTooLong),
}
