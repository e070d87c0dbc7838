//! Bringing a log back after a failed sync, while the server runs (DESIGN invariant 6).
//!
//! A failed sync leaves open which of the unsynced bytes are on disk, and the page cache may show bytes that are not. So:
//! 1. Appends are refused already. Whatever the page cache holds of the unsynced part is dropped.
//! 2. Every log from the recovery point on is read again, from the disk, and verified. What is not a sound batch, and all
//!    that follows, is cut as a torn tail.
//! 3. What remains of each such log is copied into a new file, synced, and renamed over the old one. If it dies here: the old
//!    file is found, or the new one, both with every acknowledged record; recovery verifies either.
//! 4. The manifest goes, and the directory is synced: no later log has a durable name before these do, and no start is told of
//!    what was cut by a manifest from before. Then a new, empty log is begun where the log ends, and the directory synced again:
//!    behind the last of the others nobody then expects what was cut off it. If it dies here: recovery finds it last, or not at
//!    all.
//! 5. The segments are replaced in memory, producer state is rebuilt, the manifest is written anew, appends resume.
//!
//! Steps 1 to 3 hold no lock but the one that keeps repairs apart: the refusal is what keeps the doubtful segments as they
//! are. Safe segments may be replaced or removed meanwhile; step 5 takes them as it finds them.
//!
//! Offsets of records that were cut are not given again: the log end stays, and a hole remains. Acknowledged records of a
//! synced log lie below the recovery point, so none of them is among those.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::env::{File, FileCache, OpenMode, SyncSite};
use crate::types::{Offset, Timestamp};

use super::error::{IoContext, ReadError, StoreError};
use super::files::{copy_over, remove_if_there};
use super::journal::{Journal, JournalOf};
use super::load::{StateFiles, rebuild_producers, replay_batch};
use super::partition::Partition;
use super::partition_dir::write_metadata;
use super::paths::SegmentFile;
use super::recovery::sealed_of;
use super::scan::{ScanSpec, Scanned, scan};
use super::segment::{Extent, Sealed, Segment};
use super::segment_list::SegmentList;
use super::watermarks::Source;
use super::writer::{Names, Readiness, Unsynced};
use super::{LogConfig, Producers};

const SITE_DIR: SyncSite = SyncSite("directory of repaired log");
const SITE_NEXT: SyncSite = SyncSite("partition directory with the log behind a repair");
const SITE_PARENT: SyncSite = SyncSite("data directory with a repaired partition");

impl Partition {
    /// Brings a log that refuses writes back. Blocks for as long as it takes to read and copy what was not synced; nobody who
    /// looks at the log meanwhile waits for that. Does nothing to a log that takes writes, or that has ended.
    ///
    /// # Errors
    /// What the disk says; the log still refuses writes, and the repair can be tried again.
    pub fn repair(&self, now: Timestamp) -> Result<(), StoreError> {
        let _alone = self.repairing.lock();
        if !self.awaits_repair() {
            return Ok(());
        }
        let config = Arc::clone(&self.config.read());
        let view = self.marks.view();
        let reread = Rereading {
            partition: self,
            config: &config,
            now,
        }
        .run(view.recovery_point)?;
        let names = self.writer.lock().unsynced.names;
        if names == Names::PartitionItself {
            // Its first sync failed: what the file of the topic's id holds on disk is as open as the rest.
            write_metadata(&self.files, &self.dir, self.topic_id)?;
        }
        // Gone with the same sync, it cannot come back after a crash and tell of what was cut here.
        self.writer.lock().journal.outdated();
        Journal::remove(&self.files, &self.dir)?;
        let fs = self.files.fs();
        fs.sync_dir(&self.dir, SITE_DIR).context("sync", &self.dir)?;
        let log_end = self.marks.view().log_end;
        let log = self.writer.lock().create_log(log_end)?;
        let parent = self.dir.parent().expect("a partition lies in a data directory");
        fs.sync_dir(&self.dir, SITE_NEXT).context("sync", &self.dir)?;
        // A sync that was to make the partition's own name safe may be the one that failed.
        fs.sync_dir(parent, SITE_PARENT).context("sync", parent)?;
        self.install(reread, log, now, &config)
    }

    fn awaits_repair(&self) -> bool {
        let writer = self.writer.lock();
        self.stand.is_repairable() && writer.readiness == Readiness::Open
    }

    /// Puts what was read again in place of what was there, and lets appends in.
    fn install(
        &self,
        reread: Reread,
        log: Arc<Path>,
        now: Timestamp,
        config: &LogConfig,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if !self.stand.is_repairable() {
            return Ok(());
        }
        let log_end = self.marks.view().log_end;
        writer.producers = reread.producers;
        writer.producers.advance(log_end);
        self.turnover.exchange(|| {
            let mut list = self.segments.write();
            let now_there = list.sealed().to_vec();
            *list = SegmentList::of(joined(&now_there, reread.from, reread.again));
        });
        writer.begin_in(log, log_end, now, config);
        let journal_of = JournalOf {
            files: &self.files,
            dir: &self.dir,
            id: &self.id,
            topic_id: self.topic_id,
        };
        writer.journal.rewrite(&journal_of, &self.segments);
        writer.unsynced = Unsynced::default();
        self.stand.resume();
        let view = self.marks.confirm(Source::Synced, log_end);
        self.marks
            .set_first_unstable(writer.producers.first_unstable(view.high_watermark));
        tracing::warn!(partition = %self.id, %log_end, "log read again from disk; writes resume");
        Ok(())
    }
}

/// What was not safe of a log as it is on disk, and the producer state of the whole.
struct Reread {
    /// Where it begins: every segment from there on was read again.
    from: Offset,
    again: Vec<Arc<Sealed>>,
    producers: Producers,
}

/// Returns the safe segments as they are now, which others may have replaced or removed meanwhile, and those read again.
fn joined(now_there: &[Arc<Sealed>], from: Offset, again: Vec<Arc<Sealed>>) -> Vec<Arc<Sealed>> {
    let safe = now_there.iter().filter(|segment| segment.extent.base < from);
    safe.cloned().chain(again).collect()
}

struct Rereading<'a> {
    partition: &'a Partition,
    config: &'a LogConfig,
    now: Timestamp,
}

impl Rereading<'_> {
    /// Reads what was not synced again, and returns it as it is on disk now, synced.
    fn run(&self, recovery_point: Offset) -> Result<Reread, StoreError> {
        let Partition {
            files, dir, segments, ..
        } = self.partition;
        let all = super::read::snapshot(segments);
        let (safe, doubtful): (Vec<_>, Vec<_>) = all.into_iter().partition(|segment| {
            matches!(segment, Segment::Sealed(_)) && segment.bounds().1 <= recovery_point
        });
        let from = doubtful.first().map_or(recovery_point, |first| first.bounds().0);
        let mut reread = Reread {
            from,
            again: Vec::new(),
            producers: self.producers(&safe, from)?,
        };
        let mut cut = false;
        for segment in doubtful {
            if cut {
                remove_segment(files, dir, segment.bounds().0)?;
            } else {
                cut = self.one(&segment, &mut reread)?;
            }
        }
        Ok(reread)
    }

    fn producers(&self, segments: &[Segment], end: Offset) -> Result<Producers, StoreError> {
        let state = StateFiles {
            files: &self.partition.files,
            dir: &self.partition.dir,
            now: self.now,
        };
        rebuild_producers(state, segments, end).map_err(|error| match error {
            ReadError::Storage(error) => error,
            damage => StoreError::Unusable {
                path: self.partition.dir.to_path_buf(),
                reason: damage.to_string(),
            },
        })
    }

    /// Reads one segment again; tells whether something was cut off.
    fn one(&self, segment: &Segment, reread: &mut Reread) -> Result<bool, StoreError> {
        let Partition { files, dir, .. } = self.partition;
        let extent = segment.extent();
        let (base, end) = (extent.base, extent.end);
        let path = Arc::clone(segment.log_path());
        files.forget(&path);
        let file = files
            .fs()
            .open(&path, OpenMode::ReadWrite)
            .context("open", &path)?;
        file.drop_cache(0).context("drop the cache of", &path)?;
        let scanned = self
            .verify(file.as_ref(), &extent, &mut reread.producers)
            .context("read", &path)?;
        if let Some(reason) = &scanned.stop {
            tracing::error!(log = %path.display(), position = scanned.end, lost_bytes = end - scanned.end, %reason,
                "records that were not synced are lost");
        }
        let cut = scanned.stop.is_some();
        if scanned.end == 0 {
            remove_segment(files, dir, base)?;
            return Ok(cut);
        }
        copy_over(files, file.as_ref(), &path, scanned.end)?;
        let append_times = extent.append_times.before(scanned.next);
        reread
            .again
            .push(Arc::new(sealed_of(path, scanned, append_times)));
        Ok(cut)
    }

    fn verify(
        &self,
        file: &dyn File,
        extent: &Extent,
        producers: &mut Producers,
    ) -> std::io::Result<Scanned> {
        let end = extent.end;
        let on_disk = u32::try_from(file.len_bytes()?).unwrap_or(u32::MAX);
        let spec = ScanSpec {
            base: extent.base,
            len: end.min(on_disk),
            until: extent.next,
            holes: extent.holes(),
            index_interval_bytes: self.config.index_interval_bytes,
            max_decompressed_bytes: self.config.max_decompressed_bytes,
        };
        let mut scanned = scan(file, spec, |batch, indexes| {
            if let Some(aborted) = replay_batch(producers, batch, self.now) {
                indexes.add_aborted(aborted);
            }
            ControlFlow::Continue(())
        })?;
        scanned.indexes.seal();
        if scanned.stop.is_none() && scanned.end < end {
            scanned.stop = Some(format!("the file ends at {} of {end} bytes", scanned.end));
        }
        Ok(scanned)
    }
}

fn remove_segment(files: &FileCache, dir: &Path, base: Offset) -> Result<(), StoreError> {
    for kind in SegmentFile::ALL.into_iter().rev() {
        let path = kind.path(dir, base);
        remove_if_there(files, &path).context("remove", &path)?;
    }
    Ok(())
}
