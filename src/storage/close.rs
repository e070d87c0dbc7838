//! Bringing to disk what recovery would otherwise have to work out again: indexes, epochs, producer state, the manifest.
//!
//! None of it is needed for an acknowledgement, all of it is rebuildable; so it happens here, off the append path: before each
//! checkpoint, and when the store closes.

use std::sync::Arc;

use crate::env::FileCache;

use super::data_dir::DataDir;
use super::error::StoreError;
use super::files::Replacements;
use super::journal::{JournalOf, closed_manifest};
use super::partition::Partition;
use super::paths::SegmentFile;
use super::segment::{IndexLens, Sealed, add_pending_indexes};
use super::writer::{Saved, Sealing};
use super::{Closed, commit, encode_snapshot, partition_dir};

/// So many partitions are closed in one batch of syncs.
const AT_ONCE: usize = 128;

/// Writes what is only in memory of sealed segments and epochs, durably.
pub(super) fn settle(files: &FileCache, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    partitions
        .chunks(AT_ONCE)
        .try_for_each(|some| settle_some(files, some))
}

fn settle_some(files: &FileCache, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    let mut replacements = Replacements::default();
    let mut indexes: Vec<(Arc<Sealed>, IndexLens)> = Vec::new();
    let mut epochs: Vec<&Arc<Partition>> = Vec::new();
    // Until they are written nobody swaps the segments that they are of.
    let names: Vec<_> = partitions
        .iter()
        .map(|partition| partition.names.lock())
        .collect();
    for partition in partitions {
        let sealed = partition.segments.read().sealed().to_vec();
        for segment in sealed.into_iter().filter(|segment| segment.has_its_name()) {
            if let Some(lens) = add_pending_indexes(&segment, &mut replacements) {
                indexes.push((segment, lens));
            }
        }
        let mut writer = partition.writer.lock();
        if writer.epochs_file == Saved::No {
            let (path, bytes) = partition_dir::epochs_file(&writer.dir, &writer.epochs);
            replacements.add(path, bytes);
            writer.epochs_file = Saved::Yes;
            epochs.push(partition);
        }
    }
    let committed = replacements.commit(files);
    if committed.is_err() {
        epochs
            .iter()
            .for_each(|partition| partition.writer.lock().epochs_file = Saved::No);
    }
    committed?;
    indexes
        .into_iter()
        .for_each(|(segment, lens)| segment.indexes_written(lens));
    drop(names);
    Ok(())
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

/// Closes every partition: syncs it, seals its active segment, writes producer state and manifest. Appends are refused from
/// then on.
///
/// # Errors
/// The first failure; a partition that refused writes before is one: only recovery may judge what it holds.
pub(super) fn close_all(dir: &DataDir, partitions: &[Arc<Partition>]) -> Result<(), StoreError> {
    for partition in partitions {
        drop(partition.maintenance.end());
        if partition.cleaner.look().unfinished.is_some() {
            let reason = "a swap of the cleaner is unfinished; the next start finishes it".to_owned();
            let path = partition.dir().to_path_buf();
            return Err(StoreError::Unusable { path, reason });
        }
    }
    for some in partitions.chunks(AT_ONCE) {
        commit::sync(&dir.files, &dir.path, some)
            .into_iter()
            .try_for_each(|result| result.map(drop))?;
        let (mut open, mut written) = (Vec::new(), Vec::new());
        for partition in some {
            let sealing = seal(partition)?;
            if sealing != Sealing::Untouched {
                open.push(Arc::clone(partition));
                written.push(sealing == Sealing::Done);
            }
        }
        settle(&dir.files, &open)?;
        let mut replacements = Replacements::default();
        for (partition, written) in open.iter().zip(written) {
            let writer = partition.writer.lock();
            let view = partition.watermarks();
            if written {
                // Of a log nobody wrote to, the producers were not loaded.
                let snapshot = SegmentFile::Snapshot.path(&writer.dir, view.log_end);
                replacements.add(snapshot, encode_snapshot(&writer.producers.snapshot()));
            }
            let closed = Closed {
                log_start: view.log_start,
                log_end: view.log_end,
                epoch: dir.epoch(),
                first_unstable: Some(view.last_stable).filter(|stable| *stable < view.high_watermark),
            };
            let sealed = partition.segments.read().sealed().to_vec();
            let log = JournalOf {
                files: &dir.files,
                dir: &writer.dir,
                id: &partition.id,
                topic_id: partition.topic_id,
            };
            let (path, bytes) = closed_manifest(&log, &sealed, closed);
            replacements.add(path, bytes);
        }
        replacements.commit(&dir.files)?;
    }
    Ok(())
}
