//! Group commit: everything appended so far to many partitions becomes safe in one round of syncs.
//!
//! 1. Each partition says what is unsynced (logs, names) and up to which offset that goes.
//! 2. The topic's ids of new partitions and all logs are synced at once, then all directories that have new names, then the
//!    data directory if a partition is new.
//!    If it dies here: nothing was acknowledged; recovery verifies what it finds.
//! 3. Each partition publishes its offset, or refuses writes if a sync of its files failed.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::env::{File, FileCache, OpenMode, SyncSite};

use super::error::{IoContext, StoreError};
use super::partition::{Partition, SyncTicket, Synced};
use super::partition_dir::metadata_path;
use super::writer::Names;

const SITE_TOPIC_IDS: SyncSite = SyncSite("topic ids of new partitions");
const SITE_LOG: SyncSite = SyncSite("log");
const SITE_NAMES: SyncSite = SyncSite("partition directory");
const SITE_PARTITIONS: SyncSite = SyncSite("data directory with a new partition");
/// So many files are synced in one call.
const AT_ONCE: usize = 256;
/// So many small files are open for it at once, beside those that the cache of open files counts.
const UNCOUNTED_AT_ONCE: usize = 64;

/// One round. See the module; results in the order of `partitions`.
pub(super) fn sync(
    files: &FileCache,
    data_dir: &Path,
    partitions: &[Arc<Partition>],
) -> Vec<Result<Synced, StoreError>> {
    let tickets: Vec<Option<SyncTicket>> = partitions
        .iter()
        .map(|partition| partition.begin_sync())
        .collect();
    let mut results: Vec<Result<(), StoreError>> = partitions.iter().map(|_| Ok(())).collect();
    sync_metadata(files, partitions, &tickets, &mut results);
    sync_logs(files, partitions, &tickets, &mut results);
    sync_names(files, data_dir, partitions, &tickets, &mut results);
    let finish = |((partition, ticket), result): ((&Arc<Partition>, Option<SyncTicket>), _)| match ticket {
        Some(ticket) => partition.finish_sync(ticket, result),
        None => Ok(partition.synced()),
    };
    partitions.iter().zip(tickets).zip(results).map(finish).collect()
}

/// Syncs the files of the topic's ids of new partitions.
fn sync_metadata(
    files: &FileCache,
    partitions: &[Arc<Partition>],
    tickets: &[Option<SyncTicket>],
    results: &mut [Result<(), StoreError>],
) {
    let is_new = |ticket: &Option<SyncTicket>| {
        ticket
            .as_ref()
            .is_some_and(|ticket| ticket.work.names == Names::PartitionItself)
    };
    let new: Vec<usize> = (0..tickets.len())
        .filter(|index| is_new(&tickets[*index]))
        .collect();
    for some in new.chunks(UNCOUNTED_AT_ONCE) {
        let (mut open, mut of) = (Vec::with_capacity(some.len()), Vec::with_capacity(some.len()));
        for index in some {
            let path = metadata_path(&partitions[*index].dir);
            match files.fs().open(&path, OpenMode::ReadWrite).context("open", &path) {
                Ok(file) => {
                    open.push(file);
                    of.push((*index, path));
                }
                Err(error) => results[*index] = Err(error),
            }
        }
        for ((index, path), result) in of.into_iter().zip(files.fs().sync_many(&open, SITE_TOPIC_IDS)) {
            if let Err(error) = result.context("sync", &path) {
                results[index] = Err(error);
            }
        }
    }
}

fn sync_logs(
    files: &FileCache,
    partitions: &[Arc<Partition>],
    tickets: &[Option<SyncTicket>],
    results: &mut [Result<(), StoreError>],
) {
    let logs = tickets
        .iter()
        .enumerate()
        .filter_map(|(index, ticket)| Some((index, ticket.as_ref()?)));
    let logs: Vec<(usize, &Arc<Path>)> = logs
        .flat_map(|(index, ticket)| ticket.work.logs.iter().map(move |path| (index, path)))
        .collect();
    for some in logs.chunks(AT_ONCE) {
        let mut open: Vec<Arc<dyn File>> = Vec::with_capacity(some.len());
        let mut of: Vec<(usize, &Arc<Path>)> = Vec::with_capacity(some.len());
        for (index, path) in some {
            // Not to be created: the topic may have been deleted meanwhile, and made again.
            match files.open(path) {
                Ok(file) => {
                    open.push(file);
                    of.push((*index, path));
                }
                Err(error) if error.kind() == ErrorKind::NotFound && !has(&partitions[*index], path) => {}
                Err(error) => results[*index] = Err(error).context("open", path),
            }
        }
        for ((index, path), result) in of.into_iter().zip(files.fs().sync_many(&open, SITE_LOG)) {
            if let Err(error) = result.context("sync", path) {
                results[index] = Err(error);
            }
        }
    }
}

/// Tells whether a log is still one of the partition's: retention may have taken it since it was to be synced.
fn has(partition: &Partition, path: &Arc<Path>) -> bool {
    let segments = super::read::snapshot(&partition.segments);
    segments.iter().any(|segment| segment.log_path() == path)
}

fn sync_names(
    files: &FileCache,
    data_dir: &Path,
    partitions: &[Arc<Partition>],
    tickets: &[Option<SyncTicket>],
    results: &mut [Result<(), StoreError>],
) {
    let mut new_partition = BTreeSet::new();
    let (mut of, mut dirs): (Vec<usize>, Vec<Arc<Path>>) = Default::default();
    for (index, ticket) in tickets.iter().enumerate() {
        let names = ticket.as_ref().map_or(Names::Safe, |ticket| ticket.work.names);
        if names == Names::Safe {
            continue;
        }
        of.push(index);
        dirs.push(partitions[index].dir());
        if names == Names::PartitionItself {
            new_partition.insert(index);
        }
    }
    let synced = files.fs().sync_dirs(&dirs, SITE_NAMES);
    for ((index, dir), result) in of.into_iter().zip(&dirs).zip(synced) {
        if let Err(error) = result.context("sync", dir) {
            results[index] = Err(error);
        }
    }
    if new_partition.is_empty() {
        return;
    }
    if let Err(error) = files.fs().sync_dir(data_dir, SITE_PARTITIONS) {
        let text = error.to_string();
        for index in new_partition {
            let source = std::io::Error::new(error.kind(), text.clone());
            results[index] = Err(StoreError::Io {
                action: "sync",
                path: data_dir.to_path_buf(),
                source,
            });
        }
    }
}
