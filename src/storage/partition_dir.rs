//! A partition's directory: its small files, and what an unclean stop may have left in it.
//!
//! What is cleaned up before the segments are looked at (the numbered replacement protocol is the cleaner's; these are its
//! rules for every state a crash can leave):
//! 1. `.deleted`, `.tmp`: removed.
//! 2. `.cleaned` of any base: the replacement was not complete. Removed, and with them every `.swap` of a base at or beyond
//!    the least `.cleaned`. Those take its name first: no crash finds one of them without a `.cleaned`.
//! 3. The remaining `.swap` files are complete. The manifest goes, and both are made safe: the process that did so may have been
//!    killed before it could. Every segment file whose base lies in the range they cover is removed; once that is safe, they get
//!    their final names.
//! 4. An index without its log is removed.
//!
//! Each rule may be cut off at any point and starts again at the next start with the same result.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{File, FileCache, FileKind, OpenMode, SyncSite};
use crate::record::RecordBatch;
use crate::types::{LeaderEpoch, Offset, TopicId};

use super::error::{IoContext, StoreError};
use super::files::{read_whole, remove_if_there};
use super::paths::{CLEANED, DELETED, SWAP, SegmentFile, TMP};
use super::scan::{ScanSpec, Scanned, scan};
use super::spacing::Holes;
use super::{LeaderEpochs, MANIFEST_FILE_NAME, PartitionMetadata, decode_epochs, encode_epochs};

/// File of leader epochs.
pub(super) const EPOCHS: &str = "leader-epoch-checkpoint";
const SITE_METADATA: SyncSite = SyncSite("partition metadata");
const SITE_SWAPS: SyncSite = SyncSite("directory of cleaned logs that a start swaps");
const SITE_REPLACED: SyncSite = SyncSite("directory without what a start's swaps replace");

/// Returns where the topic's id lies.
pub(super) fn metadata_path(dir: &Path) -> PathBuf {
    dir.join(PartitionMetadata::FILE_NAME)
}

/// Writes the topic's id into a new directory, without a sync: group commit makes it safe together with the first record, of
/// many new partitions at once.
pub(super) fn begin_metadata(files: &FileCache, dir: &Path, topic_id: TopicId) -> Result<(), StoreError> {
    put_metadata(files, dir, topic_id).map(drop)
}

/// Writes the topic's id and syncs it; the name of a file that was not there is the caller's to sync. If it dies here: what is
/// there is as damaged as what it replaces, and judged alike.
pub(super) fn write_metadata(files: &FileCache, dir: &Path, topic_id: TopicId) -> Result<(), StoreError> {
    let file = put_metadata(files, dir, topic_id)?;
    file.sync_data(SITE_METADATA).context("sync", &metadata_path(dir))
}

/// A file that says so already stays as it is: its age is that of the partition.
fn put_metadata(files: &FileCache, dir: &Path, topic_id: TopicId) -> Result<Arc<dyn File>, StoreError> {
    let path = metadata_path(dir);
    let bytes = PartitionMetadata { topic_id }.encode();
    let file = files
        .fs()
        .open(&path, OpenMode::ReadWrite)
        .context("open", &path)?;
    if !holds(file.as_ref(), &bytes).context("read", &path)? {
        let len = u64::try_from(bytes.len()).expect("a small file");
        file.set_len(len).context("cut", &path)?;
        file.write_all_at(&[IoSlice::new(&bytes)], 0)
            .context("write", &path)?;
    }
    Ok(file)
}

/// Tells whether a file holds these bytes and nothing else. What was not written to the disk yet is in memory still and waits for
/// the next sync; what a failed sync left there alone does not count.
fn holds(file: &dyn File, bytes: &[u8]) -> std::io::Result<bool> {
    if file.len_bytes()? != u64::try_from(bytes.len()).expect("a small file") {
        return Ok(false);
    }
    file.drop_cache(0)?;
    let mut found = vec![0; bytes.len()];
    file.read_exact_at(&mut found, 0)?;
    Ok(found == bytes)
}

/// Reads the topic's id; `None` when the file is missing or damaged.
///
/// # Errors
/// What the disk says: whose directory it is stays open then, and nothing may be done with it.
pub(super) fn read_topic_id(files: &FileCache, dir: &Path) -> Result<Option<TopicId>, StoreError> {
    let bytes = read_whole(files, &metadata_path(dir))?;
    let metadata = bytes.and_then(|bytes| PartitionMetadata::decode(&bytes).ok());
    Ok(metadata.map(|metadata| metadata.topic_id))
}

/// Reads the leader epochs. Damage is told and is no loss: they also stand in every batch.
pub(super) fn read_epochs(files: &FileCache, dir: &Path) -> LeaderEpochs {
    let path = dir.join(EPOCHS);
    match read_whole(files, &path) {
        Ok(Some(bytes)) => match decode_epochs(&bytes) {
            Ok(entries) => LeaderEpochs::from_entries(&entries),
            Err(damage) => {
                tracing::warn!(path = %path.display(), %damage, "leader epochs are damaged; they are taken from the batches");
                LeaderEpochs::default()
            }
        },
        Ok(None) => LeaderEpochs::default(),
        Err(error) => {
            tracing::warn!(%error, "leader epochs cannot be read; they are taken from the batches");
            LeaderEpochs::default()
        }
    }
}

/// Returns the greatest epoch of the batches in the newest log that has any; `None` when there is none. Reads that log whole.
pub(super) fn epoch_of_newest_log(files: &FileCache, dir: &Path) -> Result<Option<LeaderEpoch>, StoreError> {
    let names = names(files, dir)?;
    let logs = names.iter().filter_map(|name| match SegmentFile::parse(name) {
        Some((base, SegmentFile::Log)) => Some((base, dir.join(name))),
        _ => None,
    });
    let logs: BTreeMap<Offset, std::path::PathBuf> = logs.collect();
    for (base, path) in logs.into_iter().rev() {
        let mut latest = None;
        scan_file(files, &path, base, |batch| {
            latest = latest.max(batch.header().leader_epoch)
        })?;
        if latest.is_some() {
            return Ok(latest);
        }
    }
    Ok(None)
}

/// Returns path and content of the leader epoch file.
pub(super) fn epochs_file(dir: &Path, epochs: &LeaderEpochs) -> (std::path::PathBuf, Vec<u8>) {
    (dir.join(EPOCHS), encode_epochs(epochs.entries()))
}

/// The segment files of a directory: base offset to the length of its `.log` in bytes.
pub(super) type Logs = BTreeMap<Offset, u64>;

/// What [`tidy`] found and did.
#[derive(Debug)]
pub(super) struct Tidied {
    pub(super) logs: Logs,
    pub(super) swaps: Swaps,
}

/// Whether logs were put in the place of others. What a manifest said of the directory before is then not true of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Swaps {
    None,
    Finished,
}

/// Brings a directory into one of the states that a finished operation leaves, and lists its logs.
pub(super) fn tidy(files: &FileCache, dir: &Path) -> Result<Tidied, StoreError> {
    let names = names(files, dir)?;
    let (mut swaps, mut least_cleaned) = (Vec::new(), None::<(Offset, &str)>);
    for name in &names {
        if name.ends_with(DELETED) || name.ends_with(TMP) {
            remove(files, dir, name)?;
        } else if let Some(inner) = name.strip_suffix(CLEANED) {
            if let Some((base, _)) = SegmentFile::parse(inner) {
                let cleaned = (base, name.as_str());
                least_cleaned = Some(least_cleaned.map_or(cleaned, |least| least.min(cleaned)));
            }
        } else if let Some((base, kind)) = name.strip_suffix(SWAP).and_then(SegmentFile::parse) {
            swaps.push((base, kind, name.clone()));
        }
    }
    if let Some((least, cleaned)) = least_cleaned {
        for (_, _, name) in swaps.extract_if(.., |(base, ..)| *base >= least) {
            files.forget(&dir.join(&name));
            let renamed = files.fs().rename(&dir.join(&name), &dir.join(cleaned));
            renamed.context("rename", &dir.join(&name))?;
        }
    }
    for name in names.iter().filter(|name| name.ends_with(CLEANED)) {
        remove(files, dir, name)?;
    }
    let finished = finish_swaps(files, dir, &swaps)?;
    Ok(Tidied {
        logs: logs(files, dir)?,
        swaps: finished,
    })
}

fn finish_swaps(
    files: &FileCache,
    dir: &Path,
    swaps: &[(Offset, SegmentFile, String)],
) -> Result<Swaps, StoreError> {
    let bases: Vec<Offset> = swaps
        .iter()
        .filter(|(_, kind, _)| *kind == SegmentFile::Log)
        .map(|(base, ..)| *base)
        .collect();
    let (Some(least), Some(greatest)) = (bases.iter().min(), bases.iter().max()) else {
        // Index files alone: their log has its name already, or never came. Logs decide.
        swaps
            .iter()
            .try_for_each(|(_, _, name)| finish_swap(files, dir, name))?;
        return Ok(Swaps::None);
    };
    // It tells of the files that go. Gone with the same sync, it cannot be found beside those that come.
    remove(files, dir, MANIFEST_FILE_NAME)?;
    files.fs().sync_dir(dir, SITE_SWAPS).context("sync", dir)?;
    let covered_to = swap_end(files, dir, *greatest)?;
    for name in names(files, dir)? {
        // The first one is replaced whatever it covers: it may begin with damage.
        let covered = |base: Offset| base == *least || (base > *least && base < covered_to);
        let replaced = SegmentFile::parse(&name)
            .is_some_and(|(base, kind)| covered(base) && (base, kind) != (*least, SegmentFile::Snapshot));
        if replaced {
            remove(files, dir, &name)?;
        }
    }
    // While the names say that a swap is unfinished: beside a final name, an old file that came back would count.
    files.fs().sync_dir(dir, SITE_REPLACED).context("sync", dir)?;
    swaps
        .iter()
        .try_for_each(|(_, _, name)| finish_swap(files, dir, name))?;
    Ok(Swaps::Finished)
}

/// Returns the first offset after the batches of a finished replacement.
fn swap_end(files: &FileCache, dir: &Path, base: Offset) -> Result<Offset, StoreError> {
    let mut path = SegmentFile::Log.path(dir, base).into_os_string();
    path.push(SWAP);
    Ok(scan_file(files, Path::new(&path), base, |_| {})?.next)
}

/// Reads a log as far as it is sound.
fn scan_file(
    files: &FileCache,
    path: &Path,
    base: Offset,
    mut each: impl FnMut(&RecordBatch),
) -> Result<Scanned, StoreError> {
    let file = files.fs().open(path, OpenMode::Read).context("open", path)?;
    let len = u32::try_from(file.len_bytes().context("read", path)?).unwrap_or(u32::MAX);
    let config = super::config::LogConfig::default();
    let spec = ScanSpec {
        base,
        len,
        until: Offset::MAX,
        holes: Holes::Legal,
        index_interval_bytes: config.index_interval_bytes,
        max_decompressed_bytes: config.max_decompressed_bytes,
    };
    let scanned = scan(file.as_ref(), spec, |batch, _| {
        each(batch);
        ControlFlow::Continue(())
    });
    scanned.context("read", path)
}

fn finish_swap(files: &FileCache, dir: &Path, name: &str) -> Result<(), StoreError> {
    let from = dir.join(name);
    let to = dir.join(name.strip_suffix(SWAP).expect("swaps end in their suffix"));
    files.forget(&to);
    files.fs().rename(&from, &to).context("rename", &from)
}

/// Lists the logs; indexes and snapshots without a log of theirs are removed.
fn logs(files: &FileCache, dir: &Path) -> Result<Logs, StoreError> {
    let names = names(files, dir)?;
    let mut logs = Logs::new();
    for name in &names {
        if let Some((base, SegmentFile::Log)) = SegmentFile::parse(name) {
            let path = dir.join(name);
            logs.insert(base, files.fs().stat(&path).context("read", &path)?.len_bytes);
        }
    }
    for name in &names {
        match SegmentFile::parse(name) {
            Some((base, SegmentFile::OffsetIndex | SegmentFile::TimeIndex | SegmentFile::TxnIndex))
                if !logs.contains_key(&base) =>
            {
                remove(files, dir, name)?;
            }
            _ => {}
        }
    }
    remove_stray_snapshots(files, dir, &names, &logs)?;
    Ok(logs)
}

/// Removes the snapshots of states after `offset`.
pub(super) fn remove_snapshots_after(
    files: &FileCache,
    dir: &Path,
    offset: Offset,
) -> Result<(), StoreError> {
    for name in names(files, dir)? {
        if matches!(SegmentFile::parse(&name), Some((of, SegmentFile::Snapshot)) if of > offset) {
            remove(files, dir, &name)?;
        }
    }
    Ok(())
}

/// A snapshot belongs to a segment's base, or is the newest of all, that of a clean close.
fn remove_stray_snapshots(
    files: &FileCache,
    dir: &Path,
    names: &[String],
    logs: &Logs,
) -> Result<(), StoreError> {
    let snapshot = |name: &String| match SegmentFile::parse(name) {
        Some((offset, SegmentFile::Snapshot)) => Some(offset),
        _ => None,
    };
    let newest = names.iter().filter_map(snapshot).max();
    let last_base = logs.keys().next_back().copied();
    for name in names {
        let Some(offset) = snapshot(name) else { continue };
        let closing = Some(offset) == newest && last_base.is_none_or(|base| offset >= base);
        if !logs.contains_key(&offset) && !closing {
            remove(files, dir, name)?;
        }
    }
    Ok(())
}

/// Tells whether a directory has no segment in it.
pub(super) fn has_no_log(files: &FileCache, dir: &Path) -> Result<bool, StoreError> {
    let is_log = |name: &String| matches!(SegmentFile::parse(name), Some((_, SegmentFile::Log)));
    Ok(!names(files, dir)?.iter().any(is_log))
}

fn names(files: &FileCache, dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = files.fs().list(dir).context("list", dir)?;
    Ok(entries
        .into_iter()
        .filter(|entry| entry.kind == FileKind::File)
        .map(|entry| entry.name)
        .collect())
}

fn remove(files: &FileCache, dir: &Path, name: &str) -> Result<(), StoreError> {
    let path = dir.join(name);
    remove_if_there(files, &path).context("remove", &path)
}
