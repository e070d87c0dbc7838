//! Walking the batch headers of a log, for readers.
//!
//! Checks no checksum: what is read often is not read whole for it. The base offset lies outside the checksum, and is checked
//! here, as far as it can be:
//! - offsets rise, and stay within the segment;
//! - where there are no holes, each batch begins where the one before it ends;
//! - where there may be some, a batch that leaves one is held against the batch behind it ([`spacing`](super::spacing));
//! - the first one of a walk from the middle ends where the index says. If it does not, one of the two is wrong, and the walk
//!   begins anew at the segment's start, where the rules above tell which.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::FileCache;
use crate::record::{BatchHeader, HEADER_LEN};
use crate::types::Offset;

use super::error::{IoContext, ReadError};
use super::gap::Gap;
use super::spacing::{Holes, told, was_moved};

/// How much of a log is made resident at a time while batch headers are walked: little at first, since a search mostly ends
/// within an index interval, then twice as much each time.
const WALK_FIRST: u32 = 8 << 10;
const WALK_MOST: u32 = 256 << 10;
/// Walking from here, every gap lies before.
pub(super) const EVERY_OFFSET: Offset = Offset(i64::MAX);
/// Bytes of a header.
const HEADER_BYTES: u32 = 61;
const _: () = assert!(HEADER_LEN == 61);

/// Where a walk begins: at the segment's beginning, or where its index knows of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Start {
    /// A batch boundary.
    pub(super) position: u32,
    /// The last offset of the batch there, as the index says.
    pub(super) last: Option<Offset>,
}

/// What of a log is walked.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) start: Start,
    /// A batch boundary, or the end of what was published.
    pub(super) end: u32,
    /// The offsets of the segment.
    pub(super) offsets: Range<Offset>,
    pub(super) holes: Holes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    files: &'a FileCache,
    path: &'a Arc<Path>,
    stretch: Stretch,
    position: u32,
    /// Where the next batch begins at the least; there exactly, if it follows on one that was seen and there are no holes.
    expected: Offset,
    follows: bool,
    chunk: Bytes,
    chunk_at: u32,
    gaps: &'a [Gap],
    /// Gaps that end at this offset or before are passed over.
    from: Offset,
    next_len: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn new(files: &'a FileCache, path: &'a Arc<Path>, stretch: Stretch) -> Self {
        Self {
            files,
            path,
            position: stretch.start.position,
            expected: stretch.offsets.start,
            follows: stretch.start.position == 0,
            chunk: Bytes::new(),
            chunk_at: stretch.start.position,
            gaps: &[],
            from: EVERY_OFFSET,
            next_len: WALK_FIRST,
            stretch,
        }
    }

    /// A gap is passed over when it lies before `from`, and told else.
    pub(super) fn past(self, gaps: &'a [Gap], from: Offset) -> Self {
        Self { gaps, from, ..self }
    }

    /// Steps over the gaps at the current position, or tells of one.
    fn pass_gaps(&mut self) -> Result<(), ReadError> {
        let gaps = self.gaps;
        let mut next = gaps.partition_point(|gap| gap.positions.end <= self.position);
        while let Some(gap) = gaps
            .get(next)
            .filter(|gap| gap.positions.contains(&self.position))
        {
            next += 1;
            if gap.offsets.end > self.from {
                return Err(gap.told(self.path));
            }
            self.position = gap.positions.end;
            // The batch behind it begins right there.
            self.expected = self.expected.max(gap.offsets.end);
            self.follows = true;
            self.stretch.start.last = None;
        }
        Ok(())
    }

    /// Returns the next batch's position and header; `None` at the end.
    pub(super) fn next_header(&mut self) -> Result<Option<(u32, BatchHeader)>, ReadError> {
        self.pass_gaps()?;
        if self.position >= self.stretch.end {
            return Ok(None);
        }
        let mut at = self.position;
        let mut header = self.header_at(at)?;
        let indexed = self.stretch.start.last.take();
        if indexed.is_some_and(|last| last != header.last_offset()) {
            self.begin_anew();
            self.pass_gaps()?;
            at = self.position;
            header = self.header_at(at)?;
        }
        self.check(at, &header)?;
        self.expected = header.next_offset();
        self.follows = true;
        match at.checked_add(header.size_bytes) {
            Some(next) if next <= self.stretch.end => self.position = next,
            _ => {
                return Err(self.damaged(
                    at,
                    format!("batch of {} bytes reaches past the end", header.size_bytes),
                ));
            }
        }
        Ok(Some((at, header)))
    }

    /// From the segment's beginning, where it is known how offsets must go on.
    fn begin_anew(&mut self) {
        self.position = 0;
        self.expected = self.stretch.offsets.start;
        self.follows = true;
    }

    fn header_at(&mut self, at: u32) -> Result<BatchHeader, ReadError> {
        let left = self.stretch.end - at;
        if left < HEADER_BYTES {
            return Err(self.damaged(at, format!("{left} bytes are left, no batch header")));
        }
        if !self.holds_header(at) {
            self.chunk = self.ahead(at)?;
            self.chunk_at = at;
        }
        let within = usize::try_from(at - self.chunk_at).expect("32 bits fit");
        BatchHeader::parse(&self.chunk[within..within + HEADER_LEN])
            .map_err(|damage| self.damaged(at, damage.to_string()))
    }

    fn holds_header(&self, at: u32) -> bool {
        let len = u32::try_from(self.chunk.len()).expect("a chunk is part of a segment");
        at >= self.chunk_at && at + HEADER_BYTES <= self.chunk_at + len
    }

    /// Checks the offsets of the batch at `at`. See the module.
    fn check(&self, at: u32, header: &BatchHeader) -> Result<(), ReadError> {
        let (expected, end) = (self.expected, self.stretch.offsets.end);
        if header.base_offset < expected || header.last_offset() >= end {
            let (first, last) = (header.base_offset, header.last_offset());
            let reason =
                format!("batch of offsets {first} to {last}, expected from {expected} to below {end}");
            return Err(self.damaged(at, reason));
        }
        if header.base_offset == expected || !self.follows {
            return Ok(());
        }
        let moved = match self.stretch.holes {
            Holes::None => true,
            Holes::Legal => self
                .header_behind(at, header)
                .is_some_and(|behind| was_moved(expected, header, &behind)),
        };
        if moved {
            Err(self.damaged(at, told(expected, header)))
        } else {
            Ok(())
        }
    }

    /// Returns the header of the batch behind that at `at`, if there is one that can be read.
    fn header_behind(&self, at: u32, header: &BatchHeader) -> Option<BatchHeader> {
        let next = at.checked_add(header.size_bytes)?;
        let end = next.checked_add(HEADER_BYTES)?;
        let lost = self.gaps.iter().any(|gap| gap.positions.contains(&next));
        if end > self.stretch.end || lost {
            return None;
        }
        if self.holds_header(next) {
            let within = usize::try_from(next - self.chunk_at).expect("32 bits fit");
            return BatchHeader::parse(&self.chunk[within..within + HEADER_LEN]).ok();
        }
        // What is wrong there is told when the walk comes to it.
        let bytes = read(self.files, self.path, next, HEADER_BYTES).ok()?;
        BatchHeader::parse(&bytes).ok()
    }

    /// Reads on from `at`. The log may be shorter than it should be, and one under repair than what was published of it, by what
    /// was not synced and is lost; then the header alone is read.
    fn ahead(&mut self, at: u32) -> Result<Bytes, ReadError> {
        let len = self.next_len.min(self.stretch.end - at);
        self.next_len = (2 * self.next_len).min(WALK_MOST);
        match read(self.files, self.path, at, len) {
            Err(ReadError::Damaged { .. }) => read(self.files, self.path, at, HEADER_BYTES),
            read => read,
        }
    }

    /// Returns the whole batch that [`next_header`](Self::next_header) just found at `position`.
    pub(super) fn batch(&self, position: u32, header: &BatchHeader) -> Result<Bytes, ReadError> {
        let len = usize::try_from(header.size_bytes).expect("32 bits fit");
        let known = usize::try_from(position - self.chunk_at)
            .ok()
            .and_then(|from| Some(from..from.checked_add(len)?))
            .filter(|range| range.end <= self.chunk.len());
        match known {
            Some(range) => Ok(self.chunk.slice(range)),
            None => read(self.files, self.path, position, header.size_bytes),
        }
    }

    fn damaged(&self, position: u32, reason: String) -> ReadError {
        ReadError::Damaged {
            path: self.path.to_path_buf(),
            position: u64::from(position),
            lost: None,
            reason,
        }
    }
}

/// Reads a range of a log, resident. Where the file ends before, that is damage: what was published was there.
pub(super) fn read(files: &FileCache, path: &Arc<Path>, position: u32, len: u32) -> Result<Bytes, ReadError> {
    let (position, len) = (u64::from(position), usize::try_from(len).expect("32 bits fit"));
    match files.read(path, position, len) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(ReadError::Damaged {
            path: path.to_path_buf(),
            position,
            lost: None,
            reason: "the file ends before what was in it".to_owned(),
        }),
        read => Ok(read.context("read", path)?),
    }
}
