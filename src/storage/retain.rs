//! Doing what a retention plan says, for any number of partitions with one checkpoint.
//!
//! 1. The log is made ready for appends, so that what its producers wrote is known without the segments that go. If the
//!    active segment is due it is rolled. If it dies here: nothing has changed.
//! 2. What is not synced yet is synced, the new name too. If it dies here: as above.
//! 3. The new log starts are written, durably, in one file for all partitions. If it dies here: the next start begins the
//!    log there; the segments are leftovers, which its first look removes.
//! 4. The producer state at the new start is made durable: the batches it could be made from again are about to go. If it
//!    dies here: as above.
//! 5. The log start rises, the segments leave the list; readers that were looking look again ([`super::turnover`]), and bytes
//!    they already have stay theirs.
//! 6. Their files are removed, the log before its indexes. If it dies here: what is left is a leftover, as above; an index
//!    without its log is removed by the start.
//! 7. The manifest is told. If it dies before: a start believes the directory, not the manifest.
//!
//! A full disk has no room for step 3. Then the first segment of each partition goes without it, and the directory itself says
//! where the log begins. Step 4 also makes durable what was removed before, so such segments leave the disk one after the
//! other: a crash finds the log with the last of them or without it, never with a gap. The room it leaves is the room for
//! step 3.
//!
//! Invariants
//! - No checkpoint is written meanwhile: it would look for files that are going.
//! - A partition that refuses writes is left alone until it is repaired.
//! - What fails is told, and stays due: the next look tries again.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::env::{FileCache, OpenMode, SyncSite};
use crate::types::{Offset, Timestamp};

use super::config::LogConfig;
use super::data_dir::DataDir;
use super::error::{AppendError, IoContext, ReadError, StoreError};
use super::files::{Replacements, read_whole, remove_if_there};
use super::hold::Hold;
use super::journal::JournalOf;
use super::load::{StateFiles, rebuild_producers};
use super::partition::Partition;
use super::paths::SegmentFile;
use super::retention::{Deletion, LogFacts, RetentionPlan, SegmentFacts, Stay, plan};
use super::segment::{Extent, Sealed, Segment};
use super::writer::{Saved, Writer};
use super::{EpochChange, commit, decode_snapshot, encode_snapshot};

const SITE_SNAPSHOT: SyncSite = SyncSite("producer snapshot that outlives its batches");
const SITE_DIR: SyncSite = SyncSite("partition directory before segments are removed");

/// What a look did to one partition.
#[derive(Debug)]
pub struct Retained {
    /// Which partition.
    pub partition: Arc<Partition>,
    /// The segments that are gone, oldest first.
    pub deleted: Vec<Deletion>,
    /// What kept it from coming to its end; the next look tries again.
    pub failure: Option<StoreError>,
}

impl Partition {
    /// Plans what the next look of retention does here, from memory.
    pub fn retention_plan(&self, now: Timestamp) -> RetentionPlan {
        let config = Arc::clone(&self.config.read());
        let log = self.log_facts();
        if is_quiet(&log, &config) {
            return RetentionPlan {
                deletions: Vec::new(),
                log_start: log.marks.log_start,
                stay: match log.segments.first() {
                    Some(first) if first.size_bytes > 0 => Stay::NotDue { age_ms: None },
                    _ => Stay::NothingLeft,
                },
                kept_bytes: log.segments.iter().map(|segment| segment.size_bytes).sum(),
            };
        }
        plan(&log, &config, now)
    }

    /// Returns what holds a record before `to`, or may.
    pub(super) fn held_before(&self, to: Offset, config: &LogConfig) -> Option<Hold> {
        if config.holds.is_empty() {
            return None;
        }
        let log = self.log_facts();
        let reached = |segment: &SegmentFacts| SegmentFacts {
            base: segment.base.max(log.marks.log_start),
            end: segment.end.min(to),
            ..*segment
        };
        let mut before = log
            .segments
            .iter()
            .map(reached)
            .filter(|segment| segment.base < segment.end);
        before.find_map(|segment| config.holds.iter().find(|hold| segment.may_be_in(hold)).cloned())
    }

    fn log_facts(&self) -> LogFacts {
        // The marks first: the list may only run ahead of them.
        let marks = self.marks.view();
        let list = self.segments.read();
        let mut segments: Vec<SegmentFacts> =
            list.sealed().iter().map(|sealed| facts(&sealed.extent)).collect();
        segments.extend(
            list.active()
                .map(|active| active.look(|state| facts(&state.extent))),
        );
        for index in 1..segments.len() {
            segments[index - 1].end = segments[index].base;
        }
        if let Some(last) = segments.last_mut() {
            last.end = last.end.max(marks.log_end);
        }
        LogFacts { segments, marks }
    }

    /// True when a look has nothing to do, without a plan: no rule is set, and nothing lies before the log start.
    fn has_nothing_due(&self) -> bool {
        let config = Arc::clone(&self.config.read());
        if limits(&config) || !self.retired.lock().is_empty() {
            return false;
        }
        let log_start = self.marks.view().log_start;
        let list = self.segments.read();
        match list.at(0) {
            None => true,
            Some(first) => first.bounds().1 > log_start,
        }
    }
}

fn limits(config: &LogConfig) -> bool {
    config.cleanup.deletes() && (config.retention.ms.is_some() || config.retention.bytes.is_some())
}

fn is_quiet(log: &LogFacts, config: &LogConfig) -> bool {
    let below = |first: &SegmentFacts| first.end <= log.marks.log_start;
    !limits(config) && !log.segments.first().is_some_and(below)
}

fn facts(extent: &Extent) -> SegmentFacts {
    let times = &extent.append_times;
    SegmentFacts {
        base: extent.base,
        end: extent.next,
        size_bytes: u64::from(extent.end),
        least: extent.content.least,
        greatest: extent.content.greatest,
        // A first append that may have been later counts as late as it can have been: nothing goes too soon.
        appended: times
            .first_at_latest()
            .zip(times.last())
            .map(|(first, last)| (first, last.time)),
    }
}

/// One look. See the module.
pub(super) fn retain(dir: &DataDir, partitions: &[Arc<Partition>], now: Timestamp) -> Vec<Retained> {
    let due = partitions.iter().filter(|partition| {
        !partition.has_nothing_due()
            && (!partition.retention_plan(now).deletions.is_empty() || !partition.retired.lock().is_empty())
    });
    let due: Vec<&Arc<Partition>> = due.collect();
    if due.is_empty() {
        return Vec::new();
    }
    let mut checkpoints = dir.checkpoints.lock();
    let mut jobs: Vec<Job> = due
        .into_iter()
        .filter_map(|partition| Job::prepare(dir, partition, now))
        .collect();
    let starts = |jobs: &[Job]| -> Vec<_> {
        let going = jobs
            .iter()
            .filter(|job| !(job.planned.is_empty() && job.deleted.is_empty()));
        going.map(|job| (job.partition.id.clone(), job.start)).collect()
    };
    let mut written = checkpoints.raise_log_starts(&dir.files, &starts(&jobs));
    if written.as_ref().is_err_and(StoreError::is_disk_full) {
        jobs.iter_mut().for_each(|job| job.make_room(now));
        written = checkpoints.raise_log_starts(&dir.files, &starts(&jobs));
    }
    match written {
        Ok(()) => jobs.iter_mut().for_each(|job| job.finish(now)),
        Err(error) => fail_all(&mut jobs, error),
    }
    jobs.into_iter().map(Job::into_retained).collect()
}

/// The checkpoint is for all of them, and so is its failure.
fn fail_all(jobs: &mut [Job], error: StoreError) {
    let text = error.to_string();
    let mut error = Some(error);
    for job in jobs.iter_mut().filter(|job| job.failure.is_none()) {
        job.failure = Some(error.take().unwrap_or_else(|| StoreError::Unusable {
            path: job.partition.dir().to_path_buf(),
            reason: text.clone(),
        }));
    }
}

/// One partition's share of a look.
struct Job {
    partition: Arc<Partition>,
    files: Arc<FileCache>,
    /// Still to be done, oldest first.
    planned: Vec<Deletion>,
    /// The log start at the end.
    start: Offset,
    deleted: Vec<Deletion>,
    failure: Option<StoreError>,
}

impl Job {
    /// Steps 1 and 2; `None` when there is nothing to do after all.
    fn prepare(dir: &DataDir, partition: &Arc<Partition>, now: Timestamp) -> Option<Self> {
        let mut job = Self {
            partition: Arc::clone(partition),
            files: Arc::clone(&dir.files),
            planned: Vec::new(),
            start: partition.watermarks().log_start,
            deleted: Vec::new(),
            failure: None,
        };
        match job.ready(dir, now) {
            Ok(Some(plan)) => {
                job.planned = plan.deletions;
                job.start = plan.log_start;
            }
            Ok(None) if partition.retired.lock().is_empty() => return None,
            Ok(None) => {}
            Err(error) => job.failure = Some(error),
        }
        Some(job)
    }

    fn ready(&self, dir: &DataDir, now: Timestamp) -> Result<Option<RetentionPlan>, StoreError> {
        let partition = &self.partition;
        let config = Arc::clone(&partition.config.read());
        if partition.retention_plan(now).deletions.is_empty() {
            return Ok(None);
        }
        let mut writer = match partition.open_writer(now, &config) {
            Ok(writer) => writer,
            Err(AppendError::Storage(error)) => return Err(error),
            // It refuses writes; no other error comes from an opening.
            Err(_) => return Ok(None),
        };
        // Again, now that no append can come between.
        let plan = partition.retention_plan(now);
        let Some(last) = plan.deletions.last().copied() else {
            return Ok(None);
        };
        let view = partition.watermarks();
        let rolls = writer.active().base == last.base;
        if rolls {
            writer.roll(view.log_end, now, &config)?;
        }
        drop(writer);
        if rolls || view.recovery_point < last.end {
            commit::sync(&dir.files, &dir.path, std::slice::from_ref(partition))
                .into_iter()
                .try_for_each(|synced| synced.map(drop))?;
        }
        Ok(Some(plan))
    }

    /// Lets the oldest segment go without a checkpoint. See the module.
    fn make_room(&mut self, now: Timestamp) {
        if self.planned.is_empty() {
            return;
        }
        let rest = self.planned.split_off(1);
        let done = self.keep_producers(self.planned[0].end, now);
        match done.and_then(|()| self.delete()) {
            Ok(()) => self.planned = rest,
            Err(error) => {
                self.planned.clear();
                self.failure = Some(error);
            }
        }
    }

    /// Steps 4 to 7, and what an earlier look left behind.
    fn finish(&mut self, now: Timestamp) {
        let kept = match self.planned.last() {
            Some(last) => self.keep_producers(last.end, now),
            None => Ok(()),
        };
        let done = kept.and_then(|()| self.delete());
        if let Err(error) = done {
            self.failure.get_or_insert(error);
        }
    }

    /// Step 4. The state lies in a snapshot since the roll that began at `start`; one that is missing is made again.
    fn keep_producers(&self, start: Offset, now: Timestamp) -> Result<(), StoreError> {
        let files = &self.files;
        let dir = self.partition.dir();
        let path = SegmentFile::Snapshot.path(&dir, start);
        let found = read_whole(files, &path)?;
        if found.is_some_and(|bytes| decode_snapshot(&bytes).is_ok()) {
            let file = files
                .fs()
                .open(&path, OpenMode::ReadWrite)
                .context("open", &path)?;
            file.sync_data(SITE_SNAPSHOT).context("sync", &path)?;
        } else {
            self.make_snapshot(path, start, now)?;
        }
        files.fs().sync_dir(&dir, SITE_DIR).context("sync", &dir)
    }

    /// Without room for a snapshot, producers may be forgotten rather than the deletion put off.
    fn make_snapshot(&self, path: PathBuf, start: Offset, now: Timestamp) -> Result<(), StoreError> {
        let mut before = super::read::snapshot(&self.partition.segments);
        before.retain(|segment| segment.bounds().1 <= start);
        let state = StateFiles {
            files: &self.files,
            dir: &self.partition.dir(),
            now,
        };
        let written = producers_at(state, &before, start).and_then(|bytes| {
            let mut replacements = Replacements::default();
            replacements.add(path, bytes);
            replacements.commit(&self.files)
        });
        match written {
            Err(error) if error.is_disk_full() => {
                tracing::warn!(partition = %self.partition.id, %error,
                    "producer snapshot not written; after a crash, retries of batches that retention took may be written again");
                Ok(())
            }
            written => written,
        }
    }

    /// Steps 5 to 7.
    fn delete(&mut self) -> Result<(), StoreError> {
        let partition = Arc::clone(&self.partition);
        let _turn = partition.maintenance.take_for_deletion();
        if let Some(last) = self.planned.last() {
            let mut writer = partition.writer.lock();
            if partition.refusal().is_some() {
                return Ok(());
            }
            let gone = partition.turnover.exchange(|| {
                partition.marks.raise_log_start(last.end);
                partition.segments.write().remove_until(last.end)
            });
            partition.retired.lock().extend(gone);
            if writer.epochs.truncate_from_start(last.end) == EpochChange::Changed {
                writer.epochs_file = Saved::No;
            }
            drop(writer);
            self.deleted.append(&mut self.planned);
        }
        let retired = std::mem::take(&mut *partition.retired.lock());
        let (mut removed, mut failure) = (Vec::new(), Ok(()));
        for segment in retired {
            match self.unlink(&segment) {
                Ok(()) => removed.push(segment),
                Err(error) => {
                    partition.retired.lock().push(segment);
                    failure = failure.and(Err(error));
                }
            }
        }
        self.tell_manifest(partition.writer.lock(), &removed);
        failure
    }

    fn unlink(&self, segment: &Sealed) -> Result<(), StoreError> {
        for kind in SegmentFile::ALL {
            let path = kind.path(segment.dir(), segment.extent.base);
            remove_if_there(&self.files, &path).context("remove", &path)?;
        }
        // A replacement that is not finished still has its temporary name.
        if !segment.has_its_name() {
            remove_if_there(&self.files, &segment.log_path).context("remove", &segment.log_path)?;
        }
        Ok(())
    }

    fn tell_manifest(&self, mut writer: MutexGuard<'_, Writer>, removed: &[Arc<Sealed>]) {
        let log = JournalOf {
            files: &self.files,
            dir: &writer.dir.clone(),
            id: &self.partition.id,
            topic_id: self.partition.topic_id,
        };
        writer.journal.removed(&log, removed);
    }

    fn into_retained(self) -> Retained {
        Retained {
            partition: self.partition,
            deleted: self.deleted,
            failure: self.failure,
        }
    }
}

fn producers_at(state: StateFiles<'_>, segments: &[Segment], end: Offset) -> Result<Vec<u8>, StoreError> {
    match rebuild_producers(state, segments, end) {
        Ok(producers) => Ok(encode_snapshot(&producers.snapshot())),
        Err(ReadError::Storage(error)) => Err(error),
        Err(damage) => {
            tracing::error!(dir = %state.dir.display(), %damage, "producer state is incomplete: retries of batches that retention took may be written again");
            Ok(encode_snapshot(&[]))
        }
    }
}

#[cfg(test)]
#[path = "retain_tests.rs"]
mod tests;
