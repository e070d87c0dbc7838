//! The offset checkpoints of a data directory: what each says now, and how it comes to say something else.
//!
//! ```text
//!   log-start-offset-checkpoint        per partition: everything before is gone
//!   local-start-offset-checkpoint      per partition of which a part is only in the archive: everything before is; Kafka has none
//!   recovery-point-offset-checkpoint   per partition: everything before is on disk
//!   replication-offset-checkpoint      per partition: the high watermark, for a Kafka broker that takes over
//!   cleaner-offset-checkpoint          per compacted partition: everything before is clean, whatever is held
//!   once-clean-offset-checkpoint       per compacted partition whose cleaner point is less than that for the sake of a hold, or of what
//!                                      could not be read: everything before was clean once; Kafka has none
//!   compacted-offset-checkpoint        per partition that was ever compacted: a record before may have been replaced; Kafka has none
//! ```
//!
//! Invariants
//! - A partition that is there and not open keeps its lines.
//! - A line outlives its partition by nothing: it is gone before another partition of that name takes its first record. The
//!   line of an earlier one would let a start trust, or drop, what it must not.
//!
//! What is not here: when to write them, and what must be on disk before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::env::{FileCache, SyncSite};
use crate::types::{Offset, TopicPartition};

use super::cleaner_state::{CleanerMarks, Settled};
use super::error::{IoContext, StoreError};
use super::files::read_whole;
use super::{WatermarkView, decode_offsets, encode_offsets, write_atomic};

pub(super) const LOG_STARTS: &str = "log-start-offset-checkpoint";
pub(super) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
pub(super) const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const CLEANER_POINTS: &str = "cleaner-offset-checkpoint";
const ONCE_CLEAN: &str = "once-clean-offset-checkpoint";
pub(super) const LOCAL_STARTS: &str = "local-start-offset-checkpoint";
pub(super) const COMPACTED: &str = "compacted-offset-checkpoint";
const SITE: SyncSite = SyncSite("checkpoint");
const SITE_DIR: SyncSite = SyncSite("directory of checkpoint");

type Lines = BTreeMap<TopicPartition, Offset>;

/// The seven files.
#[derive(Debug)]
pub(super) struct Checkpoints {
    log_starts: Checkpoint,
    local_starts: Checkpoint,
    recovery_points: Checkpoint,
    high_watermarks: Checkpoint,
    cleaner_points: Checkpoint,
    once_clean: Checkpoint,
    compacted: Checkpoint,
}

#[derive(Debug)]
struct Checkpoint {
    path: PathBuf,
    /// What the file says; `None` when there is no sound one.
    lines: Option<Lines>,
}

impl Checkpoints {
    /// Reads them. A damaged one is as good as none, and told: recovery then verifies everything, and finds lower bounds of the
    /// log starts elsewhere.
    pub(super) fn read(files: &FileCache, dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            log_starts: Checkpoint::read(
                files,
                dir.join(LOG_STARTS),
                "log starts are taken from manifests and segments; records that were deleted may be seen again",
            )?,
            local_starts: Checkpoint::read(
                files,
                dir.join(LOCAL_STARTS),
                "of topics that are no longer archived, what is only in the archive is not seen",
            )?,
            recovery_points: Checkpoint::read(
                files,
                dir.join(RECOVERY_POINTS),
                "every log is verified whole",
            )?,
            high_watermarks: Checkpoint::read(files, dir.join(HIGH_WATERMARKS), "it is written anew")?,
            cleaner_points: Checkpoint::read(
                files,
                dir.join(CLEANER_POINTS),
                "compacted logs are cleaned again from their start",
            )?,
            once_clean: Checkpoint::read(
                files,
                dir.join(ONCE_CLEAN),
                "compaction of what a hold kept counts as late from the first append on",
            )?,
            compacted: Checkpoint::read(
                files,
                dir.join(COMPACTED),
                "readers of compacted logs are told that anything before the active segment may have been replaced",
            )?,
        })
    }

    pub(super) fn log_start(&self, id: &TopicPartition) -> Option<Offset> {
        self.log_starts.lines.as_ref()?.get(id).copied()
    }

    /// What lies before it is only in the archive; `None` where nothing is.
    pub(super) fn local_start(&self, id: &TopicPartition) -> Option<Offset> {
        self.local_starts.lines.as_ref()?.get(id).copied()
    }

    /// How far it is clean, and compacted: anywhere before `sealed_end`, if nothing tells.
    pub(super) fn cleaner_marks(&self, id: &TopicPartition, sealed_end: Offset) -> CleanerMarks {
        let line = |lines: &Lines| lines.get(id).copied();
        CleanerMarks {
            point: self.cleaner_points.lines.as_ref().and_then(line),
            once_clean: self.once_clean.lines.as_ref().and_then(line),
            compacted_below: match &self.compacted.lines {
                Some(lines) => line(lines).unwrap_or(Offset::ZERO),
                None => sealed_end,
            },
        }
    }

    /// Everything before it is on disk.
    pub(super) fn recovery_point(&self, id: &TopicPartition) -> Offset {
        let known = self
            .recovery_points
            .lines
            .as_ref()
            .and_then(|lines| lines.get(id));
        known.copied().unwrap_or(Offset::ZERO)
    }

    /// Returns where it ended at the latest, as far as these files know.
    pub(super) fn log_end(&self, id: &TopicPartition) -> Offset {
        let line = |checkpoint: &Checkpoint| checkpoint.lines.as_ref()?.get(id).copied();
        let told = [
            &self.log_starts,
            &self.local_starts,
            &self.recovery_points,
            &self.high_watermarks,
        ];
        told.into_iter().filter_map(line).max().unwrap_or(Offset::ZERO)
    }

    /// Writes the offsets of `open` partitions; of those that are only `there`, the lines stay.
    pub(super) fn write(
        &mut self,
        files: &FileCache,
        open: &[(TopicPartition, WatermarkView)],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        let pick = |pick: fn(&WatermarkView) -> Offset| -> Vec<(TopicPartition, Offset)> {
            open.iter().map(|(id, view)| (id.clone(), pick(view))).collect()
        };
        // Log starts first: a start that knows them forgets less than one that does not.
        let log_starts = pick(|view| view.log_start);
        self.log_starts.write(files, &log_starts, there)?;
        let local_start = |view: &WatermarkView| match view.local_start > view.log_start {
            true => view.local_start,
            false => Offset::ZERO,
        };
        self.local_starts.write_if_any(files, &pick(local_start), there)?;
        let recovery_points = pick(|view| view.recovery_point);
        self.recovery_points.write(files, &recovery_points, there)?;
        let high_watermarks = pick(|view| view.high_watermark);
        self.high_watermarks.write(files, &high_watermarks, there)
    }

    /// Writes the cleaner points of `open` partitions, each with the offset before which the log was clean once; of those that are
    /// only `there`, the lines stay.
    pub(super) fn write_cleaner_points(
        &mut self,
        files: &FileCache,
        open: &[(TopicPartition, Settled)],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        let pick = |pick: fn(&Settled) -> Offset| -> Vec<(TopicPartition, Offset)> {
            let settled = open.iter();
            settled.map(|(id, settled)| (id.clone(), pick(settled))).collect()
        };
        // First: with a point that falls the other would be missed.
        let once_clean = pick(|settled| settled.once_clean.unwrap_or(Offset::ZERO));
        self.once_clean.write_if_any(files, &once_clean, there)?;
        self.cleaner_points
            .write(files, &pick(|settled| settled.point), there)
    }

    /// Writes below which offsets `open` partitions may be compacted; of those that are only `there`, the lines stay.
    pub(super) fn write_compacted(
        &mut self,
        files: &FileCache,
        open: &[(TopicPartition, Offset)],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        self.compacted.write(files, open, there)
    }

    /// Raises the log starts of some partitions, durably; every other line stays.
    pub(super) fn raise_log_starts(
        &mut self,
        files: &FileCache,
        starts: &[(TopicPartition, Offset)],
    ) -> Result<(), StoreError> {
        self.log_starts.raise(files, starts)
    }

    /// Raises the local starts of some partitions, durably; every other line stays.
    pub(super) fn raise_local_starts(
        &mut self,
        files: &FileCache,
        starts: &[(TopicPartition, Offset)],
    ) -> Result<(), StoreError> {
        self.local_starts.raise(files, starts)
    }

    /// Forgets partitions whose directories are gone, durably.
    pub(super) fn forget(&mut self, files: &FileCache, ids: &[TopicPartition]) -> Result<(), StoreError> {
        let ids: BTreeSet<&TopicPartition> = ids.iter().collect();
        self.log_starts.forget(files, &ids)?;
        self.local_starts.forget(files, &ids)?;
        self.recovery_points.forget(files, &ids)?;
        self.high_watermarks.forget(files, &ids)?;
        self.cleaner_points.forget(files, &ids)?;
        self.once_clean.forget(files, &ids)?;
        self.compacted.forget(files, &ids)
    }
}

impl Checkpoint {
    fn read(files: &FileCache, path: PathBuf, consequence: &'static str) -> Result<Self, StoreError> {
        let lines = read_whole(files, &path)?.and_then(|bytes| {
            let decoded = decode_offsets(&bytes);
            decoded
                .inspect_err(|damage| {
                    tracing::error!(path = %path.display(), %damage, consequence, "checkpoint is damaged");
                })
                .ok()
        });
        Ok(Self { path, lines })
    }

    fn write(
        &mut self,
        files: &FileCache,
        open: &[(TopicPartition, Offset)],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        let kept = self.lines.iter().flatten().filter(|(id, _)| there.contains(*id));
        let mut lines: Lines = kept.map(|(id, offset)| (id.clone(), *offset)).collect();
        for (id, offset) in open {
            lines.remove(id);
            if *offset > Offset::ZERO {
                lines.insert(id.clone(), *offset);
            }
        }
        self.replace(files, lines)
    }

    /// As [`write`](Self::write), and no file for nothing.
    fn write_if_any(
        &mut self,
        files: &FileCache,
        open: &[(TopicPartition, Offset)],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        if self.lines.is_none() && open.iter().all(|(_, offset)| *offset == Offset::ZERO) {
            return Ok(());
        }
        self.write(files, open, there)
    }

    fn raise(&mut self, files: &FileCache, starts: &[(TopicPartition, Offset)]) -> Result<(), StoreError> {
        if starts.is_empty() {
            return Ok(());
        }
        let mut lines = self.lines.clone().unwrap_or_default();
        for (id, start) in starts {
            let line = lines.entry(id.clone()).or_insert(*start);
            *line = (*line).max(*start);
        }
        self.replace(files, lines)
    }

    fn forget(&mut self, files: &FileCache, ids: &BTreeSet<&TopicPartition>) -> Result<(), StoreError> {
        match &self.lines {
            Some(lines) if ids.iter().any(|id| lines.contains_key(*id)) => {
                let mut lines = lines.clone();
                lines.retain(|id, _| !ids.contains(&id));
                self.replace(files, lines)
            }
            _ => Ok(()),
        }
    }

    fn replace(&mut self, files: &FileCache, lines: Lines) -> Result<(), StoreError> {
        if self.lines.as_ref() == Some(&lines) {
            return Ok(());
        }
        let bytes = encode_offsets(&lines);
        // Until it is known to be durable, either may be found.
        let before = self.lines.take();
        let written = write_atomic(files.fs().as_ref(), &self.path, &bytes, SITE, SITE_DIR);
        self.lines = if written.is_ok() { Some(lines) } else { before };
        written.context("write", &self.path)
    }
}
