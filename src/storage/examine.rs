//! Examining a sealed segment in which a reader found damage: the whole log is read, once, to learn what of it is lost.
//!
//! What a gap is, and what readers are told of it: [`super::gap`].

use std::ops::ControlFlow;
use std::path::Path;

use crate::env::{FileCache, OpenMode};
use crate::types::Offset;

use super::config::LogConfig;
use super::error::{IoContext, StoreError};
use super::files::read_whole;
use super::paths::SegmentFile;
use super::scan::{ScanSpec, Vouched, scan_through};
use super::segment::{Sealed, Segment};

/// What an examination brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Examined {
    /// Gaps that were not known before.
    NewGaps,
    /// Nothing new.
    NothingNew,
}

impl Segment {
    /// Reads all of a sealed log to learn what of it is lost; see [`Sealed::examine`].
    pub(super) fn examine(&self, files: &FileCache) -> Result<Examined, StoreError> {
        match self {
            Self::Sealed(sealed) => sealed.examine(files),
            Self::Active(_) => Ok(Examined::NothingNew),
        }
    }
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
            until: self.extent.next,
            holes: self.extent.holes(),
            index_interval_bytes: config.index_interval_bytes,
            max_decompressed_bytes: config.max_decompressed_bytes,
        };
        let vouched = Vouched {
            upto: self.extent.next,
            end: self.extent.next,
            whole_len: Some(self.extent.end),
            index: &|| index_bytes(files, self.dir(), self.extent.base),
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
