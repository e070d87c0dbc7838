//! Gaps: parts of a log that were on disk once and cannot be read any more.
//!
//! ```text
//!   | batch | batch | ??? ??? ??? | batch | batch |
//!                   '---- gap ----'
//!        positions: from the first unsound byte to the next sound batch
//!        offsets:   from the end of the batch before to the base of the batch behind
//! ```
//!
//! Damage below the recovery point is no torn tail: nothing is cut, and nobody is led past it without a word. A read of an
//! offset in a gap, or one that comes to it, is refused with its place and with the offset where reading can go on; what lies
//! before and behind is served.
//!
//! Where the next sound batch is, is not searched for byte by byte: a record may hold what looks like a batch. It is where the
//! length of the damaged batch says, or where the offset index knows of one, and its checksum holds.
//!
//! Gaps are found by recovery, and when a reader stumbles over one in a segment that the start had no reason to read
//! ([`Sealed::examine`]). They live in memory: a manifest never vouches for a segment that has one, so the next start reads it
//! again, and says so again.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use crate::env::{FileCache, OpenMode};
use crate::types::Offset;

use super::config::LogConfig;
use super::error::{IoContext, ReadError, StoreError};
use super::files::read_whole;
use super::paths::SegmentFile;
use super::scan::{ScanSpec, Vouched, scan_through};
use super::segment::Sealed;

/// A part of a log that cannot be read. Neither range is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// Its bytes in the `.log`.
    pub(super) positions: Range<u32>,
    /// The offsets that may have been in it.
    pub(super) offsets: Range<Offset>,
    /// What is wrong at its first byte.
    pub(super) reason: String,
}

impl Gap {
    /// Returns what a read that comes to it is told.
    pub(super) fn told(&self, path: &Path) -> ReadError {
        let (first, behind) = (self.offsets.start, self.offsets.end);
        let last = behind.0 - 1;
        ReadError::Damaged {
            path: path.to_path_buf(),
            position: u64::from(self.positions.start),
            reason: format!(
                "{}; offsets {first} to {last} are lost, reading can go on at {behind}",
                self.reason
            ),
        }
    }
}

/// What an examination brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Examined {
    /// Gaps that were not known before.
    NewGaps,
    /// Nothing new.
    NothingNew,
}

impl Sealed {
    /// Reads the whole log, once, to learn what of it cannot be read: somebody has found a part of it damaged. Blocks for the
    /// disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn examine(&self, files: &FileCache) -> Result<Examined, StoreError> {
        if !self.gaps().is_empty() {
            return Ok(Examined::NothingNew);
        }
        let path = &self.log_path;
        let file = files.fs().open(path, OpenMode::Read).context("open", path)?;
        let config = LogConfig::default();
        let on_disk = file.len_bytes().context("read", path)?;
        let spec = ScanSpec {
            base: self.extent.base,
            len: u32::try_from(on_disk).map_or(self.extent.end, |len| len.min(self.extent.end)),
            index_interval_bytes: config.index_interval_bytes,
            max_decompressed_bytes: config.max_decompressed_bytes,
        };
        let index = index_bytes(files, self.dir(), self.extent.base);
        let vouched = Vouched {
            upto: self.extent.next,
            end: self.extent.next,
            index: &index,
        };
        let scanned = scan_through(file.as_ref(), spec, vouched, |_, _| ControlFlow::Continue(()))
            .context("read", path)?;
        for gap in &scanned.gaps {
            tracing::error!(log = %path.display(), position = gap.positions.start, bytes = gap.positions.len(),
                from = %gap.offsets.start, until = %gap.offsets.end, reason = %gap.reason,
                "a part of the log cannot be read");
        }
        if scanned.gaps.is_empty() {
            return Ok(Examined::NothingNew);
        }
        self.know_gaps(scanned.gaps);
        Ok(Examined::NewGaps)
    }
}

/// Returns the offset index of a segment as it is on disk, to find batches by; empty when there is none. What it says is
/// checked where it leads.
pub(super) fn index_bytes(files: &FileCache, dir: &Path, base: Offset) -> Vec<u8> {
    let path = SegmentFile::OffsetIndex.path(dir, base);
    read_whole(files, &path).ok().flatten().unwrap_or_default()
}
