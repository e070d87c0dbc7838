//! The data directory: one process owns it, opens its partitions, syncs them together and closes them cleanly.
//!
//! ```text
//!   .lock                              held while open
//!   meta.properties                    cluster, node and directory ids
//!   siltstone.epoch                    the epochs claimed so far, see `epoch_file`
//!   local-start-offset-checkpoint      per partition of which a part is only in the archive: where the local part begins
//!   recovery-point-offset-checkpoint   per partition: everything before is on disk
//!   log-start-offset-checkpoint        per partition: everything before is gone
//!   replication-offset-checkpoint      per partition: the high watermark, for a Kafka broker that takes over
//!   cleaner-offset-checkpoint          per compacted partition: everything before is clean
//!   once-clean-offset-checkpoint       per compacted partition of which a hold keeps something: everything before was clean but for that
//!   compacted-offset-checkpoint        per partition that was ever compacted: a record before may have been replaced
//!   .kafka_cleanshutdown               there only between a clean close and the next open
//!   <topic>-<partition>/               one log each; none before the first append
//! ```
//!
//! Invariants
//! - The clean marker is removed, durably, before anything is opened, and written after everything else was synced.
//! - A recovery point is written after all that recovery will not look at again: logs, indexes, epochs.
//! - A log start is written before the deletion it permits, and how far a log is compacted before the pass that does it.
//!
//! What is not here: which topics exist (the broker knows), and when to sync or checkpoint (its schedules decide).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::env::{FileCache, LockGuard, OpenMode, SyncSite};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicPartition};

use super::checkpoints::Checkpoints;
use super::cleaner_state::Settled;
use super::data_dir::{DataDir, Removed, create_if_missing, refused};
use super::error::{IoContext, StoreError};
use super::identity::Identity;
use super::open::{PartitionSpec, Past, open_all};
use super::partition::{Partition, Synced};
use super::recovery::Stop;
use super::retain::Retained;
use super::{CompactError, Pass, PassReport, close, commit, retain};

pub(super) const LOCK: &str = ".lock";
pub(super) const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
const SITE_MARKER: SyncSite = SyncSite("clean marker");
const SITE_MARKER_DIR: SyncSite = SyncSite("data directory with the clean marker");

/// How to open a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    /// Where it is; created if missing, its parent must exist.
    pub dir: PathBuf,
    /// Threads that open and close partitions; 0 means one per core.
    pub threads: usize,
}

/// A data directory, owned by this process while open.
#[derive(Debug)]
pub struct Store {
    pub(super) dir: DataDir,
    identity: Identity,
    pub(super) partitions: Mutex<BTreeMap<TopicPartition, Arc<Partition>>>,
    /// Held until the store is closed.
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl Store {
    /// Takes possession of a data directory: locks it, claims the next epoch, reads how the last process left it. Opens no
    /// partition.
    ///
    /// # Errors
    /// [`StoreError::Locked`], or what on the disk is in the way.
    pub fn open(files: Arc<FileCache>, config: StoreConfig) -> Result<Self, StoreError> {
        let path = config.dir;
        create_if_missing(&files, &path)?;
        let lock = files
            .fs()
            .lock(&path.join(LOCK))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => StoreError::Locked { dir: path.clone() },
                _ => refused("lock", &path, error),
            })?;
        let stop = take_clean_marker(&files, &path)?;
        let identity = Identity::load_or_make(&files, &path)?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        Ok(Self {
            dir: DataDir::open(files, path, threads, stop)?,
            identity,
            partitions: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Returns the epoch of this start.
    pub fn epoch(&self) -> LeaderEpoch {
        self.dir.epoch()
    }

    /// Makes the epoch of this start at least `least`, durably.
    ///
    /// # Errors
    /// What the disk says; an epoch that is greater already is none.
    pub fn raise_epoch(&self, least: LeaderEpoch) -> Result<(), StoreError> {
        self.dir.raise_epoch(least)
    }

    /// Returns the cluster's id.
    pub fn cluster_id(&self) -> &str {
        self.identity.cluster_id()
    }

    /// Returns the partition directories that are there and were not made by this store, by name.
    pub fn found(&self) -> Vec<TopicPartition> {
        self.dir.found.lock().iter().cloned().collect()
    }

    /// Opens partitions in parallel, recovering those that need it; as many results as specs, in their order. A partition
    /// without a directory is empty, and touches no disk before its first append; if the checkpoints know better, its first
    /// record gets the offset at which it ended, and an error is logged. A directory of another topic id is set aside first.
    pub fn open_partitions(
        &self,
        specs: Vec<PartitionSpec>,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        self.open_all(specs, Past::Known, now)
    }

    /// As [`open_partitions`](Self::open_partitions), of partitions that are made now: whatever the checkpoints say of their
    /// names is of others that are gone, and forgotten first.
    pub fn make_partitions(
        &self,
        specs: Vec<PartitionSpec>,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        self.open_all(specs, Past::None, now)
    }

    fn open_all(
        &self,
        specs: Vec<PartitionSpec>,
        past: Past,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        let opened = open_all(&self.dir, specs, past, now);
        let mut partitions = self.partitions.lock();
        for partition in opened.iter().flatten() {
            partitions.insert(partition.id.clone(), Arc::clone(partition));
        }
        opened
    }

    /// Removes partitions; bytes that readers hold stay theirs. On return they are gone for good, and their names may be given
    /// again; their files take room until [`Store::remove_files`], or the next start. Also finishes what an earlier try began.
    ///
    /// # Errors
    /// What the disk says; nothing is lost by trying again.
    pub fn remove_partitions(&self, ids: &[TopicPartition]) -> Result<Removed, StoreError> {
        for id in ids {
            let open = self.partitions.lock().remove(id);
            if let Some(partition) = open {
                drop(partition.maintenance.end());
                partition.end(&format!("{id} is deleted"));
            }
        }
        self.dir.take_names(ids)
    }

    /// Removes the files of partitions that are gone. Blocks for as long as that takes.
    ///
    /// # Errors
    /// What the disk says first; the next start tries again.
    pub fn remove_files(&self, removed: Removed) -> Result<(), StoreError> {
        self.dir.remove_files(removed)
    }

    /// Gives a directory that belongs to no topic a name that says so, and returns its new path. Nothing in it is changed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_aside(&self, id: &TopicPartition) -> Result<PathBuf, StoreError> {
        self.dir.set_aside(id)
    }

    /// One round of group commit: makes everything appended so far to these partitions safe, many files at once. As many
    /// results as partitions, in their order. A partition whose sync failed refuses writes until it is repaired.
    pub fn sync(&self, partitions: &[Arc<Partition>]) -> Vec<Result<Synced, StoreError>> {
        commit::sync(&self.dir.files, &self.dir.path, partitions)
    }

    /// Writes recovery points, log starts and high watermarks of all open partitions, after making safe what they let a start
    /// forget.
    ///
    /// # Errors
    /// What the disk says; the old checkpoints stand.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut checkpoints = self.dir.checkpoints.lock();
        let (open, there) = self.open_and_there();
        // Taken first: what is appended meanwhile is above them.
        let view = |partition: &Arc<Partition>| (partition.id.clone(), partition.watermarks());
        let views: Vec<_> = open.iter().map(view).collect();
        close::settle(&self.dir.files, &open)?;
        checkpoints.write(&self.dir.files, &views, &there)?;
        self.write_cleaner_marks(&mut checkpoints, &open, &there)
    }

    /// Returns the partitions of which a checkpoint is written, and those whose lines stay as they are. Of a partition whose
    /// directory is gone they stay until something is written to it: somebody may put the directory back.
    fn open_and_there(&self) -> (Vec<Arc<Partition>>, BTreeSet<TopicPartition>) {
        let open: Vec<Arc<Partition>> = self.partitions.lock().values().cloned().collect();
        let (gone, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|partition| partition.is_gone());
        let mut there = self.dir.found.lock().clone();
        there.extend(gone.iter().map(|partition| partition.id.clone()));
        (open, there)
    }

    /// Writes how far the logs are clean: for after a pass, so that a start does not clean again. [`checkpoint`](Self::checkpoint)
    /// does so, too.
    ///
    /// # Errors
    /// What the disk says; the old checkpoint stands, and costs no more than another pass.
    pub fn checkpoint_cleaner_points(&self) -> Result<(), StoreError> {
        let mut checkpoints = self.dir.checkpoints.lock();
        let (open, there) = self.open_and_there();
        self.write_cleaner_marks(&mut checkpoints, &open, &there)
    }

    fn write_cleaner_marks(
        &self,
        checkpoints: &mut Checkpoints,
        open: &[Arc<Partition>],
        there: &BTreeSet<TopicPartition>,
    ) -> Result<(), StoreError> {
        checkpoints.write_compacted(&self.dir.files, &compacted_below(open), there)?;
        checkpoints.write_cleaner_points(&self.dir.files, &cleaner_points(open), there)
    }

    /// Cleans: one round over everything before the first uncleanable offset, as far as the map goes. How far that may be is
    /// written down first. Blocks for as long as it takes to read all of that and to write what changes; appends and reads go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`CompactError`]; nothing is lost by trying again. One that the disk caused is part of [`Partition::compaction`] until a
    /// pass comes to its end.
    pub fn compact(&self, partition: &Partition, pass: &mut Pass<'_>) -> Result<PassReport, CompactError> {
        let announced = partition.announce_pass(pass.now)?;
        // Not under the turn of the pass: a deletion waits for that one with this lock held.
        let written = {
            let mut checkpoints = self.dir.checkpoints.lock();
            let (open, there) = self.open_and_there();
            checkpoints.write_compacted(&self.dir.files, &compacted_below(&open), &there)
        };
        partition.compact(pass, announced.to, written)
    }

    /// One look of retention at these partitions: whatever their plans say goes, and what an earlier look could not remove is
    /// tried again. Tells of the partitions where there was something to do. Needs no free disk space.
    pub fn retain(&self, partitions: &[Arc<Partition>], now: Timestamp) -> Vec<Retained> {
        retain::retain(&self.dir, partitions, now)
    }

    /// Syncs and closes every partition, writes the checkpoints and the clean marker, and gives the directory back. Afterwards
    /// appends are refused. What was appended is safe on return, also where the disk had no room for the rest.
    ///
    /// # Errors
    /// The first failure; the marker is then missing and the next start recovers.
    pub fn close(&self) -> Result<Closing, StoreError> {
        let open: Vec<Arc<Partition>> = self.partitions.lock().values().cloned().collect();
        close::sync_all(&self.dir, &open)?;
        let closing = match self.write_down(&open) {
            Ok(()) => Closing::Clean,
            // A start makes all of it from the logs, and needs no room for that.
            Err(error) if error.is_disk_full() => Closing::NoRoom(error),
            Err(error) => return Err(error),
        };
        self.lock.lock().take();
        Ok(closing)
    }

    /// Writes what lets the next start believe the directory instead of reading it.
    fn write_down(&self, open: &[Arc<Partition>]) -> Result<(), StoreError> {
        close::close_all(&self.dir, open)?;
        self.checkpoint()?;
        let path = self.dir.path.join(CLEAN_MARKER);
        let written = self.write_marker(&path);
        if written.is_err() {
            // The next start looks at its name alone.
            let _ = self.dir.files.fs().remove_file(&path);
        }
        written
    }

    fn write_marker(&self, path: &Path) -> Result<(), StoreError> {
        let fs = self.dir.files.fs();
        let file = fs.open(path, OpenMode::ReadWrite).context("create", path)?;
        file.write_all_at(&[IoSlice::new(br#"{"version":0,"brokerEpoch":-1}"#)], 0)
            .context("write", path)?;
        file.sync_data(SITE_MARKER).context("sync", path)?;
        fs.sync_dir(&self.dir.path, SITE_MARKER_DIR)
            .context("sync", &self.dir.path)
    }

    /// Returns the bytes free on the disk of the data directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.dir
            .files
            .fs()
            .free_bytes(&self.dir.path)
            .context("measure", &self.dir.path)
    }
}

/// How a directory was closed.
#[derive(Debug)]
pub enum Closing {
    /// The next start believes it.
    Clean,
    /// Every batch is safe, but this found no room; the next start recovers, which takes longer.
    NoRoom(StoreError),
}

impl Closing {
    /// Returns what found no room as a failure: for a caller to whom only a clean close is one.
    ///
    /// # Errors
    /// That.
    pub fn clean(self) -> Result<(), StoreError> {
        match self {
            Self::Clean => Ok(()),
            Self::NoRoom(error) => Err(error),
        }
    }
}

/// Below which offset each log may be compacted, whatever its policy is now.
fn compacted_below(open: &[Arc<Partition>]) -> Vec<(TopicPartition, Offset)> {
    let told = |partition: &Arc<Partition>| (partition.id.clone(), partition.cleaner.to_write_down());
    open.iter().map(told).collect()
}

/// How far each compacted log is clean.
fn cleaner_points(open: &[Arc<Partition>]) -> Vec<(TopicPartition, Settled)> {
    let compacted = open
        .iter()
        .filter(|partition| partition.config.read().cleanup.compacts());
    let point = |partition: &Arc<Partition>| {
        let holds = Arc::clone(&partition.config.read().holds);
        let held_from = holds.iter().filter_map(|hold| partition.held_from(hold)).min();
        (partition.id.clone(), partition.cleaner.settled(held_from))
    };
    compacted.map(point).collect()
}

/// Tells whether the last process closed the directory, and takes its word away before it can become a lie: [`DataDir::open`]
/// syncs the directory, and nothing that a start looks at changes before.
fn take_clean_marker(files: &FileCache, dir: &Path) -> Result<Stop, StoreError> {
    let path = dir.join(CLEAN_MARKER);
    match files.fs().remove_file(&path) {
        Ok(()) => Ok(Stop::Clean),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stop::Unclean),
        Err(error) => Err(error).context("remove", &path),
    }
}
