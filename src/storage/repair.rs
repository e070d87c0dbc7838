//! Bringing a log back after a failed sync, while the server runs (DESIGN invariant 6).
//!
//! A failed sync leaves open which of the unsynced bytes are on disk, and the page cache may show bytes that are not. So:
//! 1. Appends are refused already. Whatever the page cache holds of the unsynced part is dropped.
//! 2. Every log from the recovery point on is read again, from the disk, and verified. What is not a sound batch, and all
//!    that follows, is cut as a torn tail.
//! 3. What remains of each such log is copied into a new file, synced, and renamed over the old one. If it dies here: the old
//!    file is found, or the new one, both with every acknowledged record; recovery verifies either.
//! 4. The directory is synced, the segments are replaced in memory, producer state is rebuilt, appends resume.
//!
//! Offsets of records that were cut are not given again: the log end stays, and a hole remains. Acknowledged records of a
//! synced log lie below the recovery point, so none of them is among those.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::env::{File, FileCache, OpenMode, SyncSite};
use crate::types::{Offset, Timestamp};

use super::error::{IoContext, ReadError, StoreError};
use super::files::remove_if_there;
use super::journal::JournalOf;
use super::load::{rebuild_producers, replay_batch};
use super::partition::Partition;
use super::paths::{CLEANED, SegmentFile};
use super::recovery::sealed_of;
use super::scan::{ScanSpec, Scanned, scan};
use super::segment::{Sealed, Segment};
use super::segment_list::SegmentList;
use super::watermarks::Source;
use super::writer::{Names, Readiness, Unsynced, Writer};
use super::{LogConfig, Producers};

const SITE_COPY: SyncSite = SyncSite("repaired log");
const SITE_DIR: SyncSite = SyncSite("directory of repaired log");
const COPY_CHUNK: usize = 1 << 20;

impl Partition {
    /// Brings a log that refuses writes back. Blocks for as long as it takes to read and copy what was not synced. Does
    /// nothing to a log that takes writes.
    ///
    /// # Errors
    /// What the disk says; the log still refuses writes, and the repair can be tried again.
    pub fn repair(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if writer.refused.is_none() || writer.readiness != Readiness::Open {
            return Ok(());
        }
        let config = Arc::clone(&self.config.read());
        let view = self.marks.view();
        let kept = reread(&writer, view.recovery_point, &config)?;
        let names = writer.unsynced.names.max(Names::InPartition);
        self.files.fs().sync_dir(&writer.dir, SITE_DIR).context("sync", &writer.dir)?;
        if names == Names::PartitionItself {
            let parent = writer.dir.parent().expect("a partition lies in a data directory");
            self.files.fs().sync_dir(parent, SITE_DIR).context("sync", parent)?;
        }
        let segments: Vec<Segment> = kept.iter().cloned().map(Segment::Sealed).collect();
        writer.producers = rebuilt(&writer, &segments, view.log_end)?;
        *self.segments.write() = SegmentList::of(kept);
        writer.begin_segment(view.log_end, now, &config)?;
        let log = JournalOf { files: &self.files, dir: &writer.dir.clone(), id: &self.id, topic_id: self.topic_id };
        writer.journal.rewrite(&log, &self.segments);
        writer.unsynced = Unsynced { names: Names::InPartition, ..Unsynced::default() };
        writer.refused = None;
        let view = self.marks.confirm(Source::Synced, view.log_end);
        self.marks.set_first_unstable(writer.producers.first_unstable(view.high_watermark));
        tracing::warn!(partition = %self.id, log_end = %view.log_end, "log read again from disk; writes resume");
        Ok(())
    }
}

fn rebuilt(writer: &Writer, segments: &[Segment], log_end: Offset) -> Result<Producers, StoreError> {
    rebuild_producers(&writer.files, &writer.dir, segments, log_end).map_err(|error| match error {
        ReadError::Storage(error) => error,
        damage => StoreError::Unusable { path: writer.dir.to_path_buf(), reason: damage.to_string() },
    })
}

/// Reads what was not synced again, and returns all segments as they are on disk now, synced.
fn reread(
    writer: &Writer,
    recovery_point: Offset,
    config: &LogConfig,
) -> Result<Vec<Arc<Sealed>>, StoreError> {
    let all = super::read::snapshot(&writer.segments);
    let mut kept: Vec<Arc<Sealed>> = Vec::with_capacity(all.len());
    let mut cut = false;
    for segment in all {
        let (base, next, end) = segment.bounds();
        let path = Arc::clone(segment.log_path());
        if let Segment::Sealed(sealed) = &segment
            && next <= recovery_point
        {
            kept.push(Arc::clone(sealed));
            continue;
        }
        if cut {
            remove_segment(&writer.files, &writer.dir, base)?;
            continue;
        }
        let file = writer.files.fs().open(&path, OpenMode::ReadWrite).context("open", &path)?;
        file.drop_cache(0).context("drop the cache of", &path)?;
        let scanned = verify(file.as_ref(), base, end, config).context("read", &path)?;
        if let Some(reason) = &scanned.stop {
            tracing::error!(log = %path.display(), position = scanned.end, lost_bytes = end - scanned.end, %reason,
                "records that were not synced are lost");
            cut = true;
        }
        if scanned.end == 0 {
            remove_segment(&writer.files, &writer.dir, base)?;
            continue;
        }
        copy_over(&writer.files, file.as_ref(), &path, scanned.end)?;
        let modified = writer.files.fs().stat(&path).context("read", &path)?.modified;
        kept.push(Arc::new(sealed_of(path, scanned, modified)));
    }
    Ok(kept)
}

fn verify(file: &dyn File, base: Offset, end: u32, config: &LogConfig) -> std::io::Result<Scanned> {
    let on_disk = u32::try_from(file.len_bytes()?).unwrap_or(u32::MAX);
    let spec = ScanSpec {
        base,
        len: end.min(on_disk),
        index_interval_bytes: config.index_interval_bytes,
        max_decompressed_bytes: config.max_decompressed_bytes,
    };
    // Only markers matter here: which transactions were aborted goes into the index.
    let mut producers = Producers::default();
    let mut scanned = scan(file, spec, |batch, indexes| {
        replay_batch(&mut producers, batch, indexes);
        ControlFlow::Continue(())
    })?;
    scanned.indexes.seal();
    if scanned.stop.is_none() && scanned.end < end {
        scanned.stop = Some(format!("the file ends at {} of {end} bytes", scanned.end));
    }
    Ok(scanned)
}

/// Gives the first `len` bytes of a log a new file, synced, under the same name.
fn copy_over(files: &FileCache, from: &dyn File, path: &Arc<Path>, len: u32) -> Result<(), StoreError> {
    let mut copy = path.as_os_str().to_owned();
    copy.push(CLEANED);
    let copy = Path::new(&copy);
    remove_if_there(files, copy).context("remove", copy)?;
    let to = files.fs().open(copy, OpenMode::CreateNew).context("create", copy)?;
    let len = u64::from(len);
    let mut chunk = vec![0; COPY_CHUNK];
    let mut position = 0;
    while position < len {
        let part = usize::try_from(len - position).map_or(COPY_CHUNK, |left| left.min(COPY_CHUNK));
        from.read_exact_at(&mut chunk[..part], position).context("read", path)?;
        to.write_all_at(&[IoSlice::new(&chunk[..part])], position).context("write", copy)?;
        position += u64::try_from(part).expect("a chunk fits");
    }
    to.sync_data(SITE_COPY).context("sync", copy)?;
    files.fs().rename(copy, path).context("replace", path)?;
    files.forget(path);
    Ok(())
}

fn remove_segment(files: &FileCache, dir: &Path, base: Offset) -> Result<(), StoreError> {
    for kind in SegmentFile::ALL.into_iter().rev() {
        let path = kind.path(dir, base);
        remove_if_there(files, &path).context("remove", &path)?;
    }
    Ok(())
}
