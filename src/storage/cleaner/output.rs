//! A segment that a pass is about to write, or writes: indexes and content from the first batch on, a file from the first
//! change on.
//!
//! ```text
//!   batches as they were:  nothing is written, the source says the same
//!   the first change:      <base>.log.cleaned gets what came before, by plain copy, and everything that follows
//! ```
//!
//! Invariants
//! - What lies before the first change is a prefix of the sources, byte for byte.
//! - Each [`SYNC_STEP`] bytes are synced, on another thread, while the next are gathered; further than that it does not get
//!   ahead. Beside clients ([`Writing::Gently`]) each [`BUFFER`] is on disk before anything else is done: whoever else syncs
//!   waits for no more than that.
//! - A sync that fails ends the file: at the next step, or when it is finished.
//! - A file that is not finished is removed.
//!
//! What is not here: which batches come (`survivors`), and names that a start looks for (`swap`).

use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{File, Fs, OpenMode, SyncSite, Syncing};
use crate::record::BatchHeader;
use crate::storage::{AbortedTransaction, RelativeOffset};
use crate::types::{Offset, Timestamp};

use super::super::gap::{Gap, Lost};
use super::super::index_set::{ContentSpan, IndexSet};
use super::super::paths::{CLEANED, SegmentFile};
use super::gate::{CompactError, Gate, Tried, Writing};
use super::pieces::len_32;
use super::survivors::TimeSpan;

/// So much is written between the begins of two syncs.
const SYNC_STEP: usize = 4 << 20;
/// So much is gathered before it is written.
const BUFFER: usize = 1 << 20;
/// As in `writer`: positions in an index are signed 32-bit numbers.
const LOG_MAX_BYTES: u32 = i32::MAX.unsigned_abs();
const SITE: SyncSite = SyncSite("cleaned log");

/// See the module.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) base: Offset,
    pub(super) indexes: IndexSet,
    pub(super) content: ContentSpan,
    /// The offset after its last batch, or gap.
    pub(super) next: Offset,
    /// What of it cannot be read.
    pub(super) gaps: Vec<Gap>,
    /// Length in bytes, whether written or not.
    pub(super) end: u32,
    max_bytes: u32,
    now: Timestamp,
    /// The earliest delete horizon in it that is not over.
    next_horizon: Option<Timestamp>,
    file: Option<Draft>,
}

#[derive(Debug)]
struct Draft {
    fs: Arc<dyn Fs>,
    file: Arc<dyn File>,
    path: PathBuf,
    written: u64,
    /// Bytes that no sync was begun for.
    unsynced: usize,
    /// The sync of the step before.
    under_way: Option<Syncing>,
    buffer: Vec<u8>,
}

/// What an output is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputLimits {
    pub(super) index_interval_bytes: u32,
    pub(super) max_bytes: u32,
    /// The present: horizons before it are over.
    pub(super) now: Timestamp,
}

impl OutputLimits {
    /// As large as a segment can be.
    pub(super) fn of_a_segment(index_interval_bytes: u32, now: Timestamp) -> Self {
        Self {
            index_interval_bytes,
            max_bytes: LOG_MAX_BYTES,
            now,
        }
    }
}

/// A batch that stays, for the indexes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a> {
    pub(super) header: &'a BatchHeader,
    pub(super) times: TimeSpan,
    pub(super) aborted: Option<AbortedTransaction>,
}

impl Output {
    pub(super) fn new(base: Offset, limits: OutputLimits) -> Self {
        Self {
            base,
            indexes: IndexSet::new(base, limits.index_interval_bytes),
            content: ContentSpan::default(),
            next: base,
            gaps: Vec::new(),
            end: 0,
            max_bytes: limits.max_bytes,
            now: limits.now,
            next_horizon: None,
            file: None,
        }
    }

    /// Tells whether a file is being written.
    pub(super) fn is_written(&self) -> bool {
        self.file.is_some()
    }

    /// Tells whether the batch would make it larger, or reach further, than a segment can be.
    pub(super) fn is_full_for(&self, header: &BatchHeader) -> bool {
        self.end > 0
            && (self.end > self.max_bytes.saturating_sub(header.size_bytes)
                || RelativeOffset::new(header.last_offset(), self.base).is_none())
    }

    /// Takes note of a batch at its end.
    pub(super) fn add(&mut self, kept: Kept<'_>) {
        let header = kept.header;
        self.indexes.add(header, self.end);
        if let Some(aborted) = kept.aborted {
            self.indexes.add_aborted(aborted);
        }
        // A marker has a time, but no record that a search by time could find.
        let times = kept.times.filter(|_| !header.is_control());
        self.content.add(header.record_count, times);
        let horizon = header.delete_horizon();
        let ahead = horizon.filter(|at| *at >= self.now && header.record_count > 0);
        self.next_horizon = [self.next_horizon, ahead].into_iter().flatten().min();
        self.end += header.size_bytes;
        self.next = header.next_offset();
    }

    /// Takes note of bytes that are no batch. Whoever reads on is told of them, also behind the last batch, and nobody who looks
    /// for a time passes them over.
    pub(super) fn add_gap(&mut self, len: u32, offsets: Range<Offset>, reason: String) {
        let positions = self.end..self.end + len;
        self.end += len;
        if !offsets.is_empty() {
            self.next = self.next.max(offsets.end);
            self.content.add(0, Some((Timestamp::MIN, Timestamp::MAX)));
            self.gaps.push(Gap {
                positions,
                offsets,
                lost: Lost::Damaged,
                reason,
            });
        }
    }

    /// Begins the file, with nothing in it yet.
    pub(super) fn begin(&mut self, fs: &Arc<dyn Fs>, dir: &Path) -> Result<(), CompactError> {
        let mut path = SegmentFile::Log.path(dir, self.base).into_os_string();
        path.push(CLEANED);
        let path = PathBuf::from(path);
        let file = fs.open(&path, OpenMode::CreateNew).tried("create", &path)?;
        self.file = Some(Draft {
            fs: Arc::clone(fs),
            file,
            path,
            written: 0,
            unsynced: 0,
            under_way: None,
            buffer: Vec::with_capacity(BUFFER),
        });
        Ok(())
    }

    /// Writes bytes at the end of the file, if there is one.
    pub(super) fn write(&mut self, bytes: &[u8], gate: &mut Gate<'_>) -> Result<(), CompactError> {
        match &mut self.file {
            Some(draft) => draft.write(bytes, gate),
            None => Ok(()),
        }
    }

    /// Makes the file whole and durable, and returns its path.
    pub(super) fn finish(&mut self, gate: &mut Gate<'_>) -> Result<Option<PathBuf>, CompactError> {
        self.indexes.seal();
        gate.next_horizon = [gate.next_horizon, self.next_horizon].into_iter().flatten().min();
        let Some(draft) = &mut self.file else {
            return Ok(None);
        };
        draft.flush(gate)?;
        draft.begin_sync()?;
        draft.settle()?;
        assert_eq!(
            draft.written,
            u64::from(self.end),
            "the indexes tell of the bytes that were written"
        );
        Ok(Some(draft.path.clone()))
    }
}

impl Draft {
    fn write(&mut self, bytes: &[u8], gate: &mut Gate<'_>) -> Result<(), CompactError> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush(gate)?;
        }
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        bytes
            .chunks(BUFFER)
            .try_for_each(|chunk| self.write_now(chunk, gate))
    }

    fn flush(&mut self, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = if buffer.is_empty() {
            Ok(())
        } else {
            self.write_now(&buffer, gate)
        };
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write_now(&mut self, bytes: &[u8], gate: &mut Gate<'_>) -> Result<(), CompactError> {
        let writing = gate.write(bytes.len())?;
        self.file
            .write_all_at(&[IoSlice::new(bytes)], self.written)
            .tried("write", &self.path)?;
        self.written += u64::from(len_32(bytes.len()));
        self.unsynced += bytes.len();
        if writing == Writing::Gently || self.unsynced >= SYNC_STEP {
            self.begin_sync()?;
        }
        match writing {
            Writing::Freely => Ok(()),
            Writing::Gently => self.settle(),
        }
    }

    /// Begins to sync what is written, once the sync of the step before has ended.
    fn begin_sync(&mut self) -> Result<(), CompactError> {
        self.settle()?;
        self.under_way = Some(self.fs.begin_sync(&self.file, SITE));
        self.unsynced = 0;
        Ok(())
    }

    /// Waits for the sync of the step before.
    fn settle(&mut self) -> Result<(), CompactError> {
        match self.under_way.take() {
            Some(sync) => sync.wait().tried("sync", &self.path),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
