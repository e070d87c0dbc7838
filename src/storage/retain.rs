//! Doing what a retention plan says, for any number of partitions with one checkpoint.
//!
//! What leaves the local disk because the archive has it goes the same way, with another checkpoint in step 3: the local start rises
//! then, the log start stays.
//!
//! 1. The log is made ready for appends, so that what its producers wrote is known without the segments that go. If the
//!    active segment is due it is rolled. If it dies here: nothing has changed.
//! 2. What is not synced yet is synced, the new name too. If it dies here: as above.
//! 3. The new log starts are written, durably, in one file for all partitions; then the new local starts in theirs. If it dies
//!    here: the next start begins the log there; the segments are leftovers, which its first look removes. Those that only leave
//!    the local disk count as local again until the first look.
//! 4. The producer state at the new start is made durable: the batches it could be made from again are about to go. If it
//!    dies here: as above.
//!    So are the leader epochs where segments only leave the local disk.
//! 5. The log start rises, the segments leave the list; readers that were looking look again ([`super::turnover`]), and bytes
//!    they already have stay theirs.
//! 6. Their files are removed, the log before its indexes. If it dies here: what is left is a leftover, as above; an index
//!    without its log is removed by the start.
//! 7. The manifest is told. If it dies before: a start believes the directory, not the manifest.
//!
//! A full disk has no room for step 3. Then the first segment of each partition goes without it, and the directory itself says
//! where the log begins. Step 4 also makes durable what was removed before, so such segments leave the disk one after the
//! other: a crash finds the log with the last of them or without it, never with a gap. The room it leaves is the room for
//! step 3. Where a part of the log is only in the archive, its segments alone tell of no log start, and only such go without that
//! leave the local disk.
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

use super::config::{LogConfig, Retention};
use super::data_dir::DataDir;
use super::error::{AppendError, IoContext, ReadError, StoreError};
use super::files::{Replacements, read_whole, remove_if_there};
use super::hold::Hold;
use super::journal::JournalOf;
use super::load::{StateFiles, rebuild_producers};
use super::partition::Partition;
use super::partition_dir;
use super::paths::SegmentFile;
use super::retention::{Deletion, LogFacts, RetentionPlan, SegmentFacts, Stay, plan, plan_local};
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
    /// The segments that only the archive has from now on, oldest first.
    pub left: Vec<Deletion>,
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

    /// Plans what leaves the local disk at the next look, from memory; what is to be deleted altogether goes by the other plan.
    pub fn local_plan(&self, now: Timestamp) -> Vec<Deletion> {
        let config = Arc::clone(&self.config.read());
        let Some(limits) = config.archived.filter(|limits| *limits != Retention::default()) else {
            return Vec::new();
        };
        if config.cleanup.compacts() {
            return Vec::new();
        }
        let log = self.log_facts();
        let archived = Arc::clone(&self.archived.read());
        let active = self.segments.read().active().map(|active| active.base);
        let local_start = log.marks.local_start;
        let local: Vec<SegmentFacts> = log
            .segments
            .into_iter()
            .filter(|segment| segment.base >= local_start && Some(segment.base) != active)
            .collect();
        plan_local(&local, &archived, &limits, now)
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
        let first = list.at(0).map_or(marks.log_end, |first| first.bounds().0);
        let archived = Arc::clone(&self.archived.read());
        let cold = archived.iter().take_while(|segment| segment.base < first);
        let mut segments: Vec<SegmentFacts> = cold
            .filter(|segment| segment.end > marks.log_start)
            .copied()
            .collect();
        segments.extend(list.sealed().iter().map(|sealed| facts(&sealed.extent)));
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
        if limits(&config) || config.archived.is_some() || !self.retired.lock().is_empty() {
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
            && (!partition.retention_plan(now).deletions.is_empty()
                || !partition.local_plan(now).is_empty()
                || !partition.retired.lock().is_empty())
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
    let local_starts = |jobs: &[Job]| -> Vec<_> {
        let leaving = jobs
            .iter()
            .filter_map(|job| Some((&job.partition.id, job.leaving.last()?)));
        leaving.map(|(id, last)| (id.clone(), last.end)).collect()
    };
    let mut write = |jobs: &[Job]| {
        checkpoints.raise_log_starts(&dir.files, &starts(jobs))?;
        checkpoints.raise_local_starts(&dir.files, &local_starts(jobs))
    };
    let mut written = write(&jobs);
    if written.as_ref().is_err_and(StoreError::is_disk_full) {
        jobs.iter_mut().for_each(|job| job.make_room(now));
        written = write(&jobs);
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
    /// Still to leave the local disk alone, oldest first; behind those that are planned.
    leaving: Vec<Deletion>,
    /// The log start at the end.
    start: Offset,
    deleted: Vec<Deletion>,
    left: Vec<Deletion>,
    failure: Option<StoreError>,
}

impl Job {
    /// Steps 1 and 2; `None` when there is nothing to do after all.
    fn prepare(dir: &DataDir, partition: &Arc<Partition>, now: Timestamp) -> Option<Self> {
        let mut job = Self {
            partition: Arc::clone(partition),
            files: Arc::clone(&dir.files),
            planned: Vec::new(),
            leaving: Vec::new(),
            start: partition.watermarks().log_start,
            deleted: Vec::new(),
            left: Vec::new(),
            failure: None,
        };
        match job.ready(dir, now) {
            Ok(Some((plan, leaving))) => {
                job.planned = plan.deletions;
                job.start = plan.log_start;
                job.leaving = leaving;
            }
            Ok(None) if partition.retired.lock().is_empty() => return None,
            Ok(None) => {}
            Err(error) => job.failure = Some(error),
        }
        Some(job)
    }

    fn ready(
        &self,
        dir: &DataDir,
        now: Timestamp,
    ) -> Result<Option<(RetentionPlan, Vec<Deletion>)>, StoreError> {
        let partition = &self.partition;
        let config = Arc::clone(&partition.config.read());
        if partition.retention_plan(now).deletions.is_empty() && partition.local_plan(now).is_empty() {
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
        let mut leaving = partition.local_plan(now);
        leaving.retain(|segment| segment.base >= plan.log_start);
        let Some(last) = plan.deletions.last().copied() else {
            return Ok((!leaving.is_empty()).then_some((plan, leaving)));
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
        Ok(Some((plan, leaving)))
    }

    /// Lets the oldest segment go without a checkpoint. See the module.
    fn make_room(&mut self, now: Timestamp) {
        let marks = self.partition.watermarks();
        let is_partly_cold = marks.log_start < marks.local_start;
        let (planned, leaving) = (
            std::mem::take(&mut self.planned),
            std::mem::take(&mut self.leaving),
        );
        let (mut planned, mut leaving) = (planned.into_iter(), leaving.into_iter());
        match (is_partly_cold, planned.len(), leaving.len()) {
            (false, 1.., _) => self.planned.extend(planned.next()),
            (true, 0, 1..) => self.leaving.extend(leaving.next()),
            _ => {}
        }
        let done = match self.files_end() {
            Some(end) => self
                .keep_producers(end, now)
                .and_then(|()| self.keep_epochs())
                .and_then(|()| self.delete()),
            None => Ok(()),
        };
        match done {
            Ok(()) => {
                self.planned = planned.collect();
                self.leaving = leaving.collect();
            }
            Err(error) => {
                self.planned.clear();
                self.leaving.clear();
                self.failure = Some(error);
            }
        }
    }

    /// Returns where the local part begins when all is done; `None` when no local segment goes.
    fn files_end(&self) -> Option<Offset> {
        let last = self.leaving.last().or(self.planned.last())?;
        // By the files, not by the watermarks: a log start that was raised has taken the local start with it.
        let (first, _, _) = self.partition.segments.read().at(0)?.bounds();
        Some(last.end).filter(|end| *end > first)
    }

    /// Steps 4 to 7, and what an earlier look left behind.
    fn finish(&mut self, now: Timestamp) {
        let kept = match self.files_end() {
            Some(end) => self.keep_producers(end, now).and_then(|()| self.keep_epochs()),
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

    /// What leaves the local disk alone stays in the log, and its epochs are in no local batch any more.
    fn keep_epochs(&self) -> Result<(), StoreError> {
        let mut writer = self.partition.writer.lock();
        if self.leaving.is_empty() || writer.epochs_file == Saved::Yes {
            return Ok(());
        }
        let (path, bytes) = partition_dir::epochs_file(&writer.dir, &writer.epochs);
        writer.epochs_file = Saved::Yes;
        drop(writer);
        let mut replacements = Replacements::default();
        replacements.add(path, bytes);
        let written = replacements.commit(&self.files);
        if written.is_err() {
            self.partition.writer.lock().epochs_file = Saved::No;
        }
        written
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
        let starts = self.planned.last().map(|last| last.end);
        let begins = self.leaving.last().map(|last| last.end).or(starts);
        if let Some(begins) = begins {
            let mut writer = partition.writer.lock();
            if partition.refusal().is_some() {
                return Ok(());
            }
            let gone = partition.turnover.exchange(|| {
                if let Some(start) = starts {
                    partition.marks.raise_log_start(start);
                }
                partition.marks.raise_local_start(begins);
                partition.segments.write().remove_until(begins)
            });
            partition.retired.lock().extend(gone);
            partition.anew.lock().forget_before(begins);
            let known_from = starts.unwrap_or(Offset::ZERO);
            if writer.epochs.truncate_from_start(known_from) == EpochChange::Changed {
                writer.epochs_file = Saved::No;
            }
            drop(writer);
            self.deleted.append(&mut self.planned);
            self.left.append(&mut self.leaving);
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
            left: self.left,
            failure: self.failure,
        }
    }
}

/// Makes the producer state at `end` from the newest snapshot and the batches of `segments`, as the bytes of a snapshot.
pub(super) fn producers_at(
    state: StateFiles<'_>,
    segments: &[Segment],
    end: Offset,
) -> Result<Vec<u8>, StoreError> {
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
