//! Bringing to disk what recovery would otherwise have to work out again: indexes, epochs, producer state, the manifest.
//!
//! None of it is needed for an acknowledgement, all of it is rebuildable; so it happens here, off the append path: before each
//! checkpoint, and when the store closes.

use std::sync::Arc;
use std::thread;

use parking_lot::{Mutex, MutexGuard};

use crate::env::FileCache;

use super::data_dir::DataDir;
use super::error::StoreError;
use super::files::Replacements;
use super::journal::{Complete, JournalOf, closed_manifest};
use super::partition::Partition;
use super::paths::SegmentFile;
use super::segment::{IndexLens, Sealed, add_pending_indexes};
use super::writer::{Saved, Sealing};
use super::{Closed, commit, encode_snapshot, partition_dir};

/// So many partitions are closed in one batch of syncs.
const AT_ONCE: usize = 128;
/// And so many when there are very many: what each batch replaces makes the next one's files dearer, see [`super::files`].
const MOST_AT_ONCE: usize = 1024;
/// Contents that are held in memory for one batch, in bytes: the partition that goes beyond it is the last.
const CONTENTS_AT_ONCE: usize = 8 << 20;
/// So many such batches at once when there are several.
const THREADS: usize = 3;

/// Writes what is only in memory of sealed segments and epochs, durably.
pub(super) fn settle(files: &FileCache, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    partitions
        .chunks(AT_ONCE)
        .try_for_each(|some| settle_some(files, some))
}

fn settle_some(files: &FileCache, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    let names = hold_names(partitions);
    let mut settling = Settling::default();
    partitions.iter().for_each(|partition| settling.add(partition));
    settling.commit(files)?;
    drop(names);
    Ok(())
}

/// Until what is being written is there, nobody swaps the segments that it is of.
fn hold_names(partitions: &[Arc<Partition>]) -> Vec<MutexGuard<'_, ()>> {
    partitions
        .iter()
        .map(|partition| partition.names.lock())
        .collect()
}

/// What is going to be on disk, and who is to be told.
#[derive(Default)]
struct Settling<'a> {
    replacements: Replacements,
    indexes: Vec<(Arc<Sealed>, IndexLens)>,
    epochs: Vec<&'a Arc<Partition>>,
}

impl<'a> Settling<'a> {
    /// Adds indexes and epochs that are only in memory.
    fn add(&mut self, partition: &'a Arc<Partition>) {
        let sealed = partition.segments.read().sealed().to_vec();
        for segment in sealed.into_iter().filter(|segment| segment.has_its_name()) {
            if let Some(lens) = add_pending_indexes(&segment, &mut self.replacements) {
                self.indexes.push((segment, lens));
            }
        }
        let mut writer = partition.writer.lock();
        if writer.epochs_file == Saved::No {
            let (path, bytes) = partition_dir::epochs_file(&writer.dir, &writer.epochs);
            self.replacements.add(path, bytes);
            writer.epochs_file = Saved::Yes;
            self.epochs.push(partition);
        }
    }

    /// Adds what a sealed partition is opened from: its manifest and, if it was written to, its producers.
    fn add_closed(&mut self, dir: &DataDir, partition: &Partition, sealing: Sealing) {
        let writer = partition.writer.lock();
        let view = partition.watermarks();
        let sealed = partition.segments.read().sealed().to_vec();
        // Of a log nobody wrote to, the producers were not loaded.
        if sealing == Sealing::Done {
            let within = sealed.last().is_some_and(|last| last.extent.base < view.log_end);
            if within {
                // What was lost of it would be made from the segment that it lies in, and the snapshot before that.
                writer.write_snapshot(view.log_end);
            } else {
                // The one that is there may be all that tells of producers whose batches retention took.
                let path = SegmentFile::Snapshot.path(&writer.dir, view.log_end);
                self.replacements
                    .add(path, encode_snapshot(&writer.producers.snapshot()));
            }
        }
        let closed = Closed {
            log_start: view.log_start,
            log_end: view.log_end,
            epoch: dir.epoch(),
            first_unstable: Some(view.last_stable).filter(|stable| *stable < view.high_watermark),
        };
        let log = JournalOf {
            files: &dir.files,
            dir: &writer.dir,
            id: &partition.id,
            topic_id: partition.topic_id,
        };
        // What retention could not remove lies below the log start, and no segment of the list: only the directory tells of it.
        let complete = if partition.retired.lock().is_empty() {
            Complete::Yes
        } else {
            Complete::No
        };
        let (path, bytes) = closed_manifest(&log, &sealed, closed, complete);
        self.replacements.add(path, bytes);
    }

    /// Writes it all, durably.
    fn commit(self, files: &FileCache) -> Result<(), StoreError> {
        let committed = self.replacements.commit(files);
        if committed.is_err() {
            self.epochs
                .iter()
                .for_each(|partition| partition.writer.lock().epochs_file = Saved::No);
        }
        committed?;
        self.indexes
            .into_iter()
            .for_each(|(segment, lens)| segment.indexes_written(lens));
        Ok(())
    }
}

/// Seals a partition whose every byte is safe.
fn seal(partition: &Partition) -> Result<Sealing, StoreError> {
    let mut writer = partition.writer.lock();
    let view = partition.watermarks();
    if view.recovery_point < view.log_end {
        let reason = format!("offsets from {} on are still being synced", view.recovery_point);
        return Err(StoreError::Unusable {
            path: writer.dir.to_path_buf(),
            reason,
        });
    }
    writer.seal_for_good()
}

/// Syncs every partition, many at once, and lets no pass of the cleaner begin. What is left to do then can be done anew by any
/// start.
///
/// # Errors
/// The first failure, after all were tried; a swap of the cleaner that is not finished.
pub(super) fn sync_all(dir: &DataDir, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    for partition in partitions {
        drop(partition.maintenance.end());
        if partition.cleaner.look().unfinished.is_some() {
            let reason = "a swap of the cleaner is unfinished; the next start finishes it".to_owned();
            let path = partition.dir().to_path_buf();
            outcome = outcome.and(Err(StoreError::Unusable { path, reason }));
        }
    }
    for some in partitions.chunks(AT_ONCE) {
        for result in commit::sync(&dir.files, &dir.path, some) {
            outcome = outcome.and(result.map(drop));
        }
    }
    outcome
}

/// Closes every partition, all of them synced: seals its active segment, writes producer state and manifest. Appends are
/// refused from then on.
///
/// # Errors
/// A failure; a partition that refused writes before is one: only recovery may judge what it holds.
pub(super) fn close_all(dir: &DataDir, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    let portion = partitions.len().div_ceil(THREADS).clamp(AT_ONCE, MOST_AT_ONCE);
    let portions = Mutex::new(partitions.chunks(portion));
    let outcome = Mutex::new(Ok(()));
    let close = || {
        loop {
            let Some(some) = portions.lock().next() else {
                return;
            };
            if let Err(error) = close_some(dir, some) {
                let mut outcome = outcome.lock();
                // A disk without room is the least that can be wrong.
                if outcome.as_ref().err().is_none_or(StoreError::is_disk_full) {
                    *outcome = Err(error);
                }
                return;
            }
        }
    };
    // While one waits for the disk, another makes files; few have nothing to gain.
    let beside = if partitions.len() > AT_ONCE {
        THREADS - 1
    } else {
        0
    };
    thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(close);
        }
        close();
    });
    outcome.into_inner()
}

/// Closes some partitions with one sync of each directory. A death in it may leave a manifest without the indexes that it
/// tells of: a start makes those anew.
fn close_some(dir: &DataDir, some: &[Arc<Partition>]) -> Result<(), StoreError> {
    let mut open = Vec::new();
    for partition in some {
        let sealing = seal(partition)?;
        if sealing != Sealing::Untouched {
            open.push((partition, sealing));
        }
    }
    let names = hold_names(some);
    let mut settling = Settling::default();
    for (partition, sealing) in open {
        settling.add(partition);
        settling.add_closed(dir, partition, sealing);
        if settling.replacements.size_bytes() >= CONTENTS_AT_ONCE {
            std::mem::take(&mut settling).commit(&dir.files)?;
        }
    }
    settling.commit(&dir.files)?;
    drop(names);
    Ok(())
}
