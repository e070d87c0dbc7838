//! A segment as a cleaner reads it: sound batches, and gaps of bytes that are none, in the order of the file.
//!
//! ```text
//!   | batch | batch | ####### gap ####### | batch | batch |
//!                   ^ a check fails        ^ the next sound batch: its offsets fit, its checksum holds
//! ```
//!
//! By positioned reads in chunks; the chunk's memory is used again once nobody holds a batch of it.
//!
//! Invariants
//! - The pieces are the whole file, without overlap.
//! - Batches of a segment grow in offsets and stay below the base of what follows it; one that was moved to other offsets is
//!   damage, as far as that can be known (`spacing`).
//! - After damage, what follows is searched with a bounded amount of work; bytes in which nothing was found are a gap.
//! - Memory: one chunk, or one batch if that is larger. A batch that would be larger is read in chunks first: a length that
//!   damage made up takes no memory.
//!
//! A record may hold bytes that look like a batch. They are taken for one only behind damage, with offsets that fit and a
//! checksum that holds; then whoever wrote them wrote them for that.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::env::{File, Fs, OpenMode};
use crate::record::{BatchHeader, Damage, HEADER_LEN, MAX_BATCH_BYTES, PartwiseCheck, RecordBatch};
use crate::storage::StoreError;
use crate::types::Offset;

use super::super::spacing::{Holes, told, was_moved};
use super::gate::{CompactError, Gate, UnreadPlace};
use super::source::Source;

/// Bytes asked of the disk at a time.
pub(super) const CHUNK: usize = 1 << 20;
/// Behind damage, so many bytes of candidates are checked before the rest of the file is given up.
const SEARCH_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Pieces {
    file: Arc<dyn File>,
    path: Arc<Path>,
    chunk: Bytes,
    chunk_at: u32,
    position: u32,
    len: u32,
    /// The least offset that the next batch may have, and the first that none may have.
    offsets: Range<Offset>,
    holes: Holes,
    /// Whether the next batch follows on what was seen: not while what lies behind damage is searched.
    follows: bool,
}

/// A piece of a segment's log.
#[derive(Debug)]
pub(super) enum Piece {
    Batch {
        position: u32,
        batch: RecordBatch,
    },
    Gap {
        range: Range<u32>,
        /// The least offset that may have been in it.
        offset: Offset,
        reason: String,
    },
}

impl Pieces {
    /// Opens the log of a segment.
    pub(super) fn open(fs: &dyn Fs, source: &Source, gate: &mut Gate<'_>) -> Result<Self, CompactError> {
        let path = source.path();
        let opened = fs.open(path, OpenMode::Read);
        let opened = opened.and_then(|file| Ok((file.len_bytes()?, file)));
        let opened = opened.and_then(|(len, file)| match len < u64::from(source.sealed.extent.end) {
            // What is known to be missing is told elsewhere, and the rest of the file can be learned.
            true if !source.sealed.ends_early() => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok((len, file)),
        });
        let (len, file) = opened.map_err(|error| {
            let place = UnreadPlace {
                position: 0,
                len_bytes: u64::from(source.sealed.extent.end),
                offset: source.sealed.extent.base,
            };
            unread(path, place, &error, gate)
        })?;
        Ok(Self {
            file,
            path: Arc::clone(path),
            chunk: Bytes::new(),
            chunk_at: 0,
            position: 0,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            offsets: source.offsets(),
            holes: source.sealed.extent.holes(),
            follows: true,
        })
    }

    /// Returns the length of the file in bytes.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns the next piece; `None` at the end.
    pub(super) fn next(&mut self, gate: &mut Gate<'_>) -> Result<Option<Piece>, CompactError> {
        let position = self.position;
        if position >= self.len {
            return Ok(None);
        }
        let batch = match self.batch_at(position, gate)? {
            Ok(batch) => self.in_place(position, batch, gate)?,
            damage => damage,
        };
        Ok(Some(match batch {
            Ok(batch) => {
                self.position += batch.header().size_bytes;
                self.offsets.start = batch.header().next_offset();
                self.follows = true;
                Piece::Batch { position, batch }
            }
            Err(reason) => {
                let offset = self.offsets.start;
                self.follows = false;
                self.position = self.search(position, gate)?;
                Piece::Gap {
                    range: position..self.position,
                    offset,
                    reason,
                }
            }
        }))
    }

    /// Passes a sound batch that is where it was written; its base offset lies outside its checksum.
    fn in_place(
        &mut self,
        position: u32,
        batch: RecordBatch,
        gate: &mut Gate<'_>,
    ) -> Result<Result<RecordBatch, String>, CompactError> {
        let (expected, header) = (self.offsets.start, *batch.header());
        if header.base_offset == expected || !self.follows {
            return Ok(Ok(batch));
        }
        let moved = match self.holes {
            Holes::None => true,
            Holes::Legal => {
                let behind = position + header.size_bytes;
                let header_len = len_32(HEADER_LEN);
                let is_there = self.len - behind >= header_len;
                if is_there {
                    self.fill(behind, header_len, gate)?;
                }
                is_there
                    && BatchHeader::parse(&self.held(behind, header_len))
                        .is_ok_and(|behind| was_moved(expected, &header, &behind))
            }
        };
        Ok(if moved {
            Err(told(expected, &header))
        } else {
            Ok(batch)
        })
    }

    /// Reads bytes of the file, for whoever copies them as they are.
    pub(super) fn read(&mut self, range: Range<u32>, gate: &mut Gate<'_>) -> Result<Bytes, CompactError> {
        self.fill(range.start, range.end - range.start, gate)?;
        Ok(self.held(range.start, range.end - range.start))
    }

    /// Takes the batch at `position`; the inner error says why there is none.
    fn batch_at(
        &mut self,
        position: u32,
        gate: &mut Gate<'_>,
    ) -> Result<Result<RecordBatch, String>, CompactError> {
        let header = match self.header_at(position, gate)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if len_of(header.size_bytes) > CHUNK
            && let Err(damage) = self.check_in_chunks(position, &header, gate)?
        {
            return Ok(Err(damage.to_string()));
        }
        self.fill(position, header.size_bytes, gate)?;
        let bytes = self.held(position, header.size_bytes);
        let sound = RecordBatch::parse(bytes).and_then(|batch| batch.verify_crc().map(|()| batch));
        Ok(sound.map_err(|damage| damage.to_string()))
    }

    /// Checks the checksum of a batch that is larger than a chunk, chunk by chunk.
    fn check_in_chunks(
        &mut self,
        position: u32,
        header: &BatchHeader,
        gate: &mut Gate<'_>,
    ) -> Result<Result<(), Damage>, CompactError> {
        let mut check = PartwiseCheck::of(header);
        let end = position + header.size_bytes;
        for at in (position..end).step_by(CHUNK) {
            let len = len_32(CHUNK).min(end - at);
            self.fill(at, len, gate)?;
            check.add(&self.held(at, len));
        }
        Ok(check.finish())
    }

    /// Takes the header at `position`, if it may be one of this segment's.
    fn header_at(
        &mut self,
        position: u32,
        gate: &mut Gate<'_>,
    ) -> Result<Result<BatchHeader, String>, CompactError> {
        let left = self.len - position;
        let header_len = len_32(HEADER_LEN);
        if left < header_len {
            return Ok(Err(format!("{left} bytes are left, no batch header")));
        }
        self.fill(position, header_len, gate)?;
        let header = match BatchHeader::parse(&self.held(position, header_len)) {
            Ok(header) => header,
            Err(damage) => return Ok(Err(damage.to_string())),
        };
        let Range { start, end } = self.offsets;
        if header.size_bytes > left || header.size_bytes > MAX_BATCH_BYTES {
            return Ok(Err(format!(
                "batch of {} bytes, {left} are left",
                header.size_bytes
            )));
        }
        if header.base_offset < start || header.last_offset() >= end {
            let (first, last) = (header.base_offset, header.last_offset());
            return Ok(Err(format!(
                "batch of offsets {first} to {last}, expected {start} or later and less than {end}"
            )));
        }
        Ok(Ok(header))
    }

    /// Returns where the next sound batch after the damage at `from` begins, or the end.
    fn search(&mut self, from: u32, gate: &mut Gate<'_>) -> Result<u32, CompactError> {
        let mut work = SEARCH_BYTES;
        // Mostly the length field is as it was written, and something behind it is not.
        if let Ok(header) = self.header_at(from, gate)? {
            let end = from + header.size_bytes;
            if end == self.len || self.is_sound(end, &mut work, gate)? {
                return Ok(end);
            }
        }
        let last = self.len.saturating_sub(len_32(HEADER_LEN));
        let mut at = from + 1;
        while at <= last && work > 0 {
            if self.is_sound(at, &mut work, gate)? {
                return Ok(at);
            }
            at += 1;
        }
        Ok(self.len)
    }

    fn is_sound(&mut self, at: u32, work: &mut u64, gate: &mut Gate<'_>) -> Result<bool, CompactError> {
        if at >= self.len {
            return Ok(false);
        }
        *work = work.saturating_sub(1);
        match self.header_at(at, gate)? {
            Ok(header) => {
                *work = work.saturating_sub(u64::from(header.size_bytes));
                Ok(self.batch_at(at, gate)?.is_ok())
            }
            Err(_) => Ok(false),
        }
    }

    /// Makes `len` bytes at `position` part of the chunk.
    fn fill(&mut self, position: u32, len: u32, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        let chunk_end = u64::from(self.chunk_at) + self.chunk.len() as u64;
        if position >= self.chunk_at && u64::from(position) + u64::from(len) <= chunk_end {
            return Ok(());
        }
        let wanted = CHUNK.max(len_of(len)).min(len_of(self.len - position));
        gate.read(wanted)?;
        let mut bytes = match std::mem::take(&mut self.chunk).try_into_mut() {
            Ok(bytes) => bytes,
            Err(_) => BytesMut::new(),
        };
        bytes.resize(wanted, 0);
        if let Err(error) = self.file.read_exact_at(&mut bytes, u64::from(position)) {
            let place = UnreadPlace {
                position: u64::from(position),
                len_bytes: wanted as u64,
                offset: self.offsets.start,
            };
            return Err(unread(&self.path, place, &error, gate));
        }
        self.chunk = bytes.freeze();
        self.chunk_at = position;
        Ok(())
    }

    fn held(&self, position: u32, len: u32) -> Bytes {
        let from = len_of(position - self.chunk_at);
        self.chunk.slice(from..from + len_of(len))
    }
}

/// Tells the gate and the caller of a place that cannot be read.
fn unread(path: &Path, place: UnreadPlace, error: &io::Error, gate: &mut Gate<'_>) -> CompactError {
    gate.could_not_read(place);
    let UnreadPlace { position, offset, .. } = place;
    CompactError::Storage(StoreError::Unusable {
        path: path.to_path_buf(),
        reason: format!("it cannot be read at position {position}, offset {offset} or later: {error}"),
    })
}

/// A length of a file as a length in memory.
pub(super) fn len_of(len: u32) -> usize {
    usize::try_from(len).expect("32 bits fit")
}

/// A length in memory as a length of a file.
pub(super) fn len_32(len: usize) -> u32 {
    u32::try_from(len).expect("a chunk is part of a segment")
}
