//! Opening a log: trusting what a clean stop wrote down, verifying the rest.
//!
//! ```text
//!   clean:    manifest says "closed", last .log has its length  ->  no directory listing, no segment opened
//!   unclean:  tidy the directory -> per segment: below the recovery point and in the manifest? trusted
//!             else read whole, every CRC -> first unsound byte: cut there, later segments go -> sync -> publish
//! ```
//!
//! Invariants
//! - Nothing above the old recovery point is published before it was verified and synced.
//! - Nothing needs free disk space: cutting and removing free it, rebuilt indexes stay in memory until there is room. Only an
//!   adopted log that shares its bytes with the original is cut as a copy, so that the original stays as it is.
//! - Below the recovery point nothing is ever cut: damage there is not a torn tail, and neither are missing bytes. They are told,
//!   the file is kept, and a read that comes to them fails ([`super::gap`]).
//! - The log ends at the recovery point or later: no offset below it is given again.
//! - Dying at any point leaves a directory that the next start brings to the same result.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use crate::env::{File, FileCache, OpenMode, SyncSite};
use crate::types::{Offset, Timestamp, TopicPartition};

use super::config::LogConfig;
use super::error::{IoContext, ReadError, StoreError};
use super::examine::index_bytes;
use super::files::{copy_over, remove_if_there};
use super::journal::{Journal, Known};
use super::load::{StateFiles, epochs_of, rebuild_producers, replay_batch};
use super::partition_dir::{self, Logs, Swaps, Tidied};
use super::paths::SegmentFile;
use super::scan::{ScanSpec, Scanned, Vouched, scan_through};
use super::segment::{Extent, Sealed, Segment, log_path};
use super::spacing::Holes;
use super::{AppendTimes, LeaderEpochs, PartitionMetadata, Producers};

const SITE_LOGS: SyncSite = SyncSite("recovered logs");
/// So many recovered files are held open to be synced together, by all threads that recover.
const SYNC_AT_ONCE: usize = 64;
const SITE_DIR: SyncSite = SyncSite("recovered directory");

/// What recovery starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovery<'a> {
    pub(super) files: &'a FileCache,
    pub(super) id: &'a TopicPartition,
    pub(super) dir: &'a Path,
    pub(super) config: &'a LogConfig,
    /// Everything below it is on disk.
    pub(super) recovery_point: Offset,
    /// As the checkpoint says.
    pub(super) log_start: Option<Offset>,
    /// As the checkpoint says: what lies before it is only in the archive.
    pub(super) local_start: Option<Offset>,
    pub(super) stop: Stop,
    /// How many threads recover beside each other.
    pub(super) threads: usize,
    pub(super) now: Timestamp,
}

/// How the process that wrote the directory ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    Clean,
    Unclean,
}

/// A log as it was found, safe to its last byte.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Arc<Sealed>>,
    pub(super) log_start: Offset,
    /// What lies before it is only in the archive.
    pub(super) local_start: Offset,
    pub(super) log_end: Offset,
    pub(super) journal: Journal,
    /// The first offset of the earliest open transaction.
    pub(super) first_unstable: Option<Offset>,
    /// Of an unclean start: as the batches tell. Else loaded when needed.
    pub(super) epochs: LeaderEpochs,
}

impl Recovery<'_> {
    pub(super) fn run(&self, known: Known) -> Result<Recovered, StoreError> {
        if self.stop == Stop::Clean
            && let Some(recovered) = self.trust(&known)
        {
            return Ok(recovered);
        }
        self.verify(known)
    }

    /// Takes the manifest's word, if it says that the log was closed and the last file agrees.
    fn trust(&self, known: &Known) -> Option<Recovered> {
        let closed = known.closed?;
        let segments: Vec<Arc<Sealed>> = known.sealed(self.dir);
        if let Some(last) = segments.last() {
            let stat = self.files.fs().stat(&last.log_path).ok()?;
            if stat.len_bytes != u64::from(last.extent.end) || last.extent.next != closed.log_end {
                return None;
            }
        }
        let log_start = closed.log_start.max(self.log_start.unwrap_or(closed.log_start));
        let log_start = log_start.min(closed.log_end);
        let local_start = match self.may_be_cold() {
            true => self.local_start_of(begins(&segments, closed.log_end).max(log_start), closed.log_end),
            false => log_start,
        };
        Some(Recovered {
            segments,
            log_start,
            local_start,
            log_end: closed.log_end,
            journal: Journal::intact(known),
            first_unstable: closed.first_unstable,
            epochs: LeaderEpochs::default(),
        })
    }

    fn verify(&self, known: Known) -> Result<Recovered, StoreError> {
        let Tidied { logs, swaps } = partition_dir::tidy(self.files, self.dir)?;
        let known = match swaps {
            Swaps::None => known,
            Swaps::Finished => known.without_segments(),
        };
        // A snapshot may have reached the disk before the batches it tells of. Of those before the log start it may be all that
        // is left.
        let told = self.recovery_point.max(self.log_start.unwrap_or(Offset::ZERO));
        partition_dir::remove_snapshots_after(self.files, self.dir, told)?;
        let mut found = Found {
            epochs: partition_dir::read_epochs(self.files, self.dir),
            ..Found::default()
        };
        let had_epochs = !found.epochs.entries().is_empty();
        self.segments(&logs, &known, &mut found)?;
        if !had_epochs {
            // Of trusted segments no batch was read, and no file tells their epochs.
            let segments: Vec<Segment> = found.segments.iter().cloned().map(Segment::Sealed).collect();
            found.epochs = epochs_of(self.files, &segments);
        }
        if found.cut {
            // Its summaries may describe what was cut; without it they are made from the logs.
            Journal::remove(self.files, self.dir)?;
        }
        let log_start = self
            .log_start
            .unwrap_or_else(|| self.log_start_without_checkpoint(&known, &found));
        let begins_at = log_start.max(self.local_start.unwrap_or(log_start));
        let mut log_end = found.segments.last().map_or(begins_at, |last| last.extent.next);
        if found.segments.is_empty() && self.must_reach(begins_at) > begins_at {
            tracing::error!(partition = %self.id, dir = %self.dir.display(), from = %begins_at, until = %self.recovery_point,
                "every log is gone from the directory, and its records with them; new records begin at `until`");
        }
        if log_end < log_start {
            tracing::warn!(partition = %self.id, %log_start, %log_end, "the log ends before its start; it begins anew there");
            self.remove_all(&found.segments)?;
            found.segments.clear();
            log_end = log_start;
        }
        let first_base = begins(&found.segments, log_end);
        // Offsets before the recovery point are not given again: what a repair or damage took leaves a hole, and the point
        // never vouches for records that came after it was written.
        log_end = self.must_reach(log_end);
        if log_end < self.recovery_point {
            tracing::error!(partition = %self.id, recovery_point = %self.recovery_point, %log_end,
                "the recovery point lies far beyond the log; it is taken for damage");
        }
        // Written again with the next settled state, changed or not.
        let _ = found.epochs.truncate_from_end(log_end);
        self.sync_logs(&mut found.verified)?;
        self.files
            .fs()
            .sync_dir(self.dir, SITE_DIR)
            .context("sync", self.dir)?;
        let producers = match found.producers.take() {
            Some(producers) => producers,
            None => self.producers(&found.segments, log_end)?,
        };
        let local_start = self.local_start_of(log_start.max(first_base), log_end);
        Ok(Recovered {
            segments: found.segments,
            log_start: match self.may_be_cold() {
                true => log_start.min(log_end),
                false => local_start,
            },
            local_start,
            log_end,
            journal: Journal::stale(&known),
            first_unstable: producers.first_unstable(log_end),
            epochs: found.epochs,
        })
    }

    /// The local part begins where the checkpoint says, if that is later than the first file: a file that should have gone may
    /// have stayed while others behind it went.
    fn local_start_of(&self, found: Offset, log_end: Offset) -> Offset {
        found.max(self.local_start.unwrap_or(found)).min(log_end)
    }

    /// Tells whether the archive may have what lies between the log start and the first segment: a checkpoint says so, or
    /// segments of this log go there. A compacted log keeps all of its own: what its first segments do not have is gone.
    fn may_be_cold(&self) -> bool {
        self.local_start.is_some() || (self.config.archived.is_some() && !self.config.cleanup.compacts())
    }

    /// What the manifest says is a lower bound: the log start never goes back. It takes nothing away that is there.
    fn log_start_without_checkpoint(&self, known: &Known, found: &Found) -> Offset {
        let known = known.last_closed.map_or(Offset::ZERO, |closed| closed.log_start);
        known.min(found.end().unwrap_or(Offset::ZERO))
    }

    /// Returns how far a log that reaches to `log_end` must reach. The checkpoint has no checksum: a point further from the
    /// log's end than a segment can span is damage, not a hole.
    fn must_reach(&self, log_end: Offset) -> Offset {
        if self.recovery_point.0.saturating_sub(log_end.0) <= i64::from(i32::MAX) {
            return self.recovery_point.max(log_end);
        }
        log_end
    }

    fn segments(&self, logs: &Logs, known: &Known, found: &mut Found) -> Result<(), StoreError> {
        let bases: Vec<Offset> = logs.keys().copied().collect();
        for (index, (&base, &len)) in logs.iter().enumerate() {
            let next_base = bases.get(index + 1).copied();
            let end = next_base.unwrap_or_else(|| self.must_reach(base));
            let whole_len = self.whole_len(known, base..end, len, next_base);
            if len == 0 && next_base.is_some() && whole_len.is_none() {
                tracing::info!(partition = %self.id, %base, "an empty log is removed");
                self.remove_segment(base)?;
                continue;
            }
            let trusted = known.trusted(self.dir, base, len, self.recovery_point);
            if let Some(sealed) = trusted.filter(|sealed| self.has_its_aborted(sealed)) {
                let last = sealed.extent.append_times.last();
                found.trusted_to = last.map(|last| last.time).or(found.trusted_to);
                found.segments.push(Arc::new(sealed));
                continue;
            }
            let log = Log {
                base,
                len,
                next_base,
                end,
                whole_len,
                holes: known.holes(base, len),
            };
            if self.one(log, found)? == Tail::Torn && found.end() != next_base {
                for &later in &bases[index + 1..] {
                    self.remove_segment(later)?;
                }
                break;
            }
        }
        Ok(())
    }

    /// Returns how many bytes a log had, or at least had, if it must have had more than the `len` that are there; [`super::gap`]
    /// says what tells. What lies before the log start is nobody's loss, and what lies before the local one is in the archive.
    fn whole_len(
        &self,
        known: &Known,
        offsets: Range<Offset>,
        len: u64,
        next_base: Option<Offset>,
    ) -> Option<u32> {
        let start = self.log_start.max(self.local_start);
        if start.is_some_and(|start| start >= offsets.end) {
            return None;
        }
        let more = len.saturating_add(1);
        let told = known.safe_len(offsets.start, self.recovery_point);
        let whole_len = match (told, next_base) {
            // Of the last log a manifest may tell what it was before it grew on.
            (told, None) => told.unwrap_or(0).max(more),
            (Some(told), Some(_)) => told,
            (None, Some(_)) if len == 0 && offsets.start < self.recovery_point => more,
            (None, Some(_)) => return None,
        };
        u32::try_from(whole_len).ok().filter(|_| whole_len > len)
    }

    /// Tells whether the transaction index that a manifest tells of is there. A stop that died may have left the manifest alone;
    /// the other indexes are made anew when a read misses them, and of aborted transactions nothing else tells.
    fn has_its_aborted(&self, sealed: &Sealed) -> bool {
        let Some(len) = sealed.index_lens().aborted else {
            return true;
        };
        let path = SegmentFile::TxnIndex.path(self.dir, sealed.extent.base);
        let found = self.files.fs().stat(&path);
        found.is_ok_and(|stat| stat.len_bytes == u64::from(len))
    }

    /// Verifies one segment, and cuts it where it ends to be sound.
    fn one(&self, log: Log, found: &mut Found) -> Result<Tail, StoreError> {
        let Log { base, len, .. } = log;
        let path = log_path(self.dir, base);
        let file = self
            .files
            .fs()
            .open(&path, OpenMode::ReadWrite)
            .context("open", &path)?;
        let mut scanned = self.scan(file.as_ref(), log, found)?;
        let reason = scanned
            .stop
            .take()
            .or_else(|| (len > u64::from(scanned.end)).then(|| "beyond 4 GiB".to_owned()));
        let tail = match reason {
            None => Tail::Sound,
            Some(reason) => {
                tracing::warn!(partition = %self.id, log = %path.display(), position = scanned.end, removed_bytes = len - u64::from(scanned.end), %reason,
                    "torn tail cut");
                self.cut(file.as_ref(), &path, scanned.end)?;
                found.cut = true;
                Tail::Torn
            }
        };
        for gap in &scanned.gaps {
            tracing::error!(partition = %self.id, log = %path.display(), position = gap.positions.start, bytes = gap.positions.len(),
                from = %gap.offsets.start, until = %gap.offsets.end, reason = %gap.reason,
                "damage below the recovery point: the file is kept as it is, and reads of these offsets fail");
        }
        found.verified.push((Arc::clone(&path), file));
        if found.verified.len() >= held_by_each(self.threads) {
            self.sync_logs(&mut found.verified)?;
        }
        let modified = self.files.fs().stat(&path).context("read", &path)?.modified;
        let last = Offset(scanned.next.0 - 1);
        let append_times = AppendTimes::between(base, last, self.appended_after(found), modified);
        found
            .segments
            .push(Arc::new(sealed_of(path, scanned, append_times)));
        Ok(tail)
    }

    /// Returns a time before which nothing of what follows was appended: the last append that the manifest tells of, else the
    /// partition's creation. A file's last change is none: a pass of the cleaner may have written it long after.
    fn appended_after(&self, found: &Found) -> Option<Timestamp> {
        found.trusted_to.or_else(|| {
            let stat = self.files.fs().stat(&self.dir.join(PartitionMetadata::FILE_NAME));
            stat.ok().map(|stat| stat.modified)
        })
    }

    /// Reads one log; epochs and producer state follow what is found.
    fn scan(&self, file: &dyn File, log: Log, found: &mut Found) -> Result<Scanned, StoreError> {
        let spec = ScanSpec {
            base: log.base,
            len: u32::try_from(log.len).unwrap_or(u32::MAX),
            until: log.next_base.unwrap_or(Offset::MAX),
            holes: log.holes,
            index_interval_bytes: self.config.index_interval_bytes,
            max_decompressed_bytes: self.config.max_decompressed_bytes,
        };
        let mut producers = match found.producers.take() {
            Some(producers) => producers,
            None => self.producers(&found.segments, log.base)?,
        };
        let vouched = Vouched {
            upto: self.recovery_point,
            end: log.end,
            whole_len: log.whole_len,
            index: &|| index_bytes(self.files, self.dir, log.base),
        };
        let epochs = &mut found.epochs;
        let mut scanned = scan_through(file, spec, vouched, |batch, indexes| {
            if let Some(epoch) = batch.header().leader_epoch {
                let _ = epochs.assign(epoch, batch.header().base_offset);
            }
            if let Some(aborted) = replay_batch(&mut producers, batch, self.now) {
                indexes.add_aborted(aborted);
            }
            ControlFlow::Continue(())
        })
        .context("read", &log_path(self.dir, log.base))?;
        scanned.indexes.seal();
        found.producers = Some(producers);
        Ok(scanned)
    }

    /// Cuts a log. One that has another name, in the directory it was adopted from, is cut as a copy: what is not ours alone
    /// is not written.
    fn cut(&self, file: &dyn File, path: &Arc<Path>, end: u32) -> Result<(), StoreError> {
        if self.files.fs().stat(path).context("read", path)?.links > 1 {
            return copy_over(self.files, file, path, end);
        }
        file.set_len(u64::from(end)).context("cut", path)
    }

    fn producers(&self, segments: &[Arc<Sealed>], log_end: Offset) -> Result<Producers, StoreError> {
        let segments: Vec<Segment> = segments.iter().cloned().map(Segment::Sealed).collect();
        let state = StateFiles {
            files: self.files,
            dir: self.dir,
            now: self.now,
        };
        rebuild_producers(state, &segments, log_end).or_else(|error| match error {
            ReadError::Storage(error) => Err(error),
            damage => {
                tracing::error!(partition = %self.id, %damage, "producer state is incomplete: retries from before may be written again");
                Ok(Producers::default())
            }
        })
    }

    fn sync_logs(&self, verified: &mut Vec<(Arc<Path>, Arc<dyn File>)>) -> Result<(), StoreError> {
        let (paths, files): (Vec<_>, Vec<_>) = verified.drain(..).unzip();
        for (path, result) in paths.iter().zip(self.files.fs().sync_many(&files, SITE_LOGS)) {
            result.context("sync", path)?;
        }
        Ok(())
    }

    fn remove_all(&self, segments: &[Arc<Sealed>]) -> Result<(), StoreError> {
        segments
            .iter()
            .try_for_each(|segment| self.remove_segment(segment.extent.base))
    }

    fn remove_segment(&self, base: Offset) -> Result<(), StoreError> {
        // The log last: indexes without it are removed at the next start anyway.
        for kind in SegmentFile::ALL.into_iter().rev() {
            let path = kind.path(self.dir, base);
            remove_if_there(self.files, &path).context("remove", &path)?;
        }
        Ok(())
    }
}

/// Returns where the first of `segments` begins; `end` when there is none.
fn begins(segments: &[Arc<Sealed>], end: Offset) -> Offset {
    segments.first().map_or(end, |first| first.extent.base)
}

/// Returns how many files each of some threads may hold, beside the one that it reads.
pub(super) fn held_by_each(threads: usize) -> usize {
    (SYNC_AT_ONCE / threads.max(1)).max(1)
}

/// A log to verify.
#[derive(Clone, Copy, Debug)]
struct Log {
    base: Offset,
    /// Length of the file in bytes.
    len: u64,
    /// Where the next log begins.
    next_base: Option<Offset>,
    /// Where it ends, as far as something else than its batches tells.
    end: Offset,
    /// How many bytes it had, if some are missing.
    whole_len: Option<u32>,
    holes: Holes,
}

#[derive(Debug, Default)]
struct Found {
    segments: Vec<Arc<Sealed>>,
    epochs: LeaderEpochs,
    /// State after the last verified segment; `None` before the first.
    producers: Option<Producers>,
    /// Verified, not yet synced.
    verified: Vec<(Arc<Path>, Arc<dyn File>)>,
    cut: bool,
    /// The last append of the last segment that the manifest told of.
    trusted_to: Option<Timestamp>,
}

impl Found {
    /// Returns the first offset after what was found.
    fn end(&self) -> Option<Offset> {
        self.segments.last().map(|last| last.extent.next)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tail {
    Sound,
    Torn,
}

/// Makes a segment of what a scan found, with the times of its appends, if there are any.
pub(super) fn sealed_of(path: Arc<Path>, scanned: Scanned, append_times: AppendTimes) -> Sealed {
    let base = scanned.indexes.base();
    let append_times = match scanned.end {
        0 => AppendTimes::default(),
        _ => append_times,
    };
    let mut content = scanned.content;
    if !scanned.gaps.is_empty() {
        // Of what cannot be read the times are not known: no read bounded in time may pass it over.
        (content.least, content.greatest) = (Some(Timestamp::MIN), Some(Timestamp::MAX));
    }
    let extent = Extent {
        base,
        next: scanned.next,
        end: scanned.end,
        content,
        append_times,
    };
    let sealed = Sealed::pending(path, extent, Arc::new(scanned.indexes));
    if !scanned.gaps.is_empty() {
        sealed.know_gaps(scanned.gaps);
    }
    sealed
}
