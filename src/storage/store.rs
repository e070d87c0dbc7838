//! The data directory: one process owns it, opens its partitions, syncs them together and closes them cleanly.
//!
//! ```text
//!   .lock                              held while open
//!   meta.properties                    cluster, node and directory ids
//!   siltstone.epoch                    the epochs claimed so far, see `epoch_file`
//!   recovery-point-offset-checkpoint   per partition: everything before is on disk
//!   log-start-offset-checkpoint        per partition: everything before is gone
//!   replication-offset-checkpoint      per partition: the high watermark, for a Kafka broker that takes over
//!   .kafka_cleanshutdown               there only between a clean close and the next open
//!   <topic>-<partition>/               one log each; none before the first append
//! ```
//!
//! Invariants
//! - The clean marker is removed, durably, before anything is opened, and written after everything else was synced.
//! - A recovery point is written after all that recovery will not look at again: logs, indexes, epochs.
//! - A log start is written before the deletion it permits.
//!
//! What is not here: which topics exist (the broker knows), and when to sync or checkpoint (its schedules decide).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;

use crate::env::{FileCache, FileKind, LockGuard, OpenMode, SyncSite};
use crate::types::{LeaderEpoch, Timestamp, TopicPartition};

use super::checkpoints::Checkpoints;
use super::error::{IoContext, StoreError};
use super::files::remove_if_there;
use super::identity::Identity;
use super::open::{PartitionSpec, open_all};
use super::partition::{Partition, Synced};
use super::recovery::Stop;
use super::{close, commit, epoch_file, partition_dir};

const LOCK: &str = ".lock";
const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
const SITE_DIR: SyncSite = SyncSite("data directory");
const SITE_MARKER: SyncSite = SyncSite("clean marker");

/// Suffix of a directory being deleted, after a dot and 32 hexadecimal digits.
const DELETE: &str = "-delete";
/// Suffix of a directory being filled, after a dot and 32 hexadecimal digits.
pub(super) const FUTURE: &str = "-future";
/// Suffix of a directory that belongs to no topic, after a dot and 32 hexadecimal digits.
const STRAY: &str = "-stray";

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
    pub(super) files: Arc<FileCache>,
    pub(super) dir: PathBuf,
    pub(super) threads: usize,
    pub(super) epoch: Arc<AtomicI32>,
    pub(super) stop: Stop,
    identity: Identity,
    /// Partition directories that are there.
    pub(super) found: Mutex<BTreeSet<TopicPartition>>,
    pub(super) partitions: Mutex<BTreeMap<TopicPartition, Arc<Partition>>>,
    /// The lock also keeps two checkpoints apart.
    pub(super) checkpoints: Mutex<Checkpoints>,
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
        let dir = config.dir;
        let fs = Arc::clone(files.fs());
        create_if_missing(&files, &dir)?;
        let lock = fs.lock(&dir.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { dir: dir.clone() },
            _ => StoreError::Io {
                action: "lock",
                path: dir.join(LOCK),
                source: error,
            },
        })?;
        let stop = take_clean_marker(&files, &dir)?;
        let identity = Identity::load_or_make(&files, &dir)?;
        let found = found_dirs(&files, &dir)?;
        let epoch = epoch_file::claim(&files, &dir, least_epoch(&files, &dir, &found))?;
        let checkpoints = Checkpoints::read(&files, &dir)?;
        fs.sync_dir(&dir, SITE_DIR).context("sync", &dir)?;
        Ok(Self {
            threads: match config.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            },
            files,
            dir,
            epoch: Arc::new(AtomicI32::new(epoch.0)),
            stop,
            identity,
            found: Mutex::new(found.into_iter().collect()),
            partitions: Mutex::default(),
            checkpoints: Mutex::new(checkpoints),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Returns the epoch of this start.
    pub fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// Makes the epoch at least `least`, durably; every append from then on carries it.
    pub(super) fn raise_epoch(&self, least: LeaderEpoch) -> Result<(), StoreError> {
        if least > self.epoch() {
            let claimed = epoch_file::claim(&self.files, &self.dir, least)?;
            self.epoch.fetch_max(claimed.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Returns the cluster's id.
    pub fn cluster_id(&self) -> &str {
        self.identity.cluster_id()
    }

    /// Returns the partition directories that are there and were not made by this store, by name.
    pub fn found(&self) -> Vec<TopicPartition> {
        self.found.lock().iter().cloned().collect()
    }

    /// Opens partitions in parallel, recovering those that need it; as many results as specs, in their order. A partition
    /// without a directory is empty, and touches no disk before its first append. A directory of another topic id is set
    /// aside first.
    pub fn open_partitions(
        &self,
        specs: Vec<PartitionSpec>,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        let opened = open_all(self, specs, now);
        let mut partitions = self.partitions.lock();
        for partition in opened.iter().flatten() {
            partitions.insert(partition.id.clone(), Arc::clone(partition));
        }
        opened
    }

    /// Removes a partition and its data; bytes that readers hold stay theirs. Also finishes what an earlier try began.
    ///
    /// # Errors
    /// What the disk says; nothing is lost by trying again.
    pub fn remove_partition(&self, id: &TopicPartition) -> Result<(), StoreError> {
        if let Some(partition) = self.partitions.lock().remove(id) {
            partition.writer.lock().refused = Some(format!("{id} is deleted"));
        }
        let dir = self.partition_dir(id);
        let gone = self.dir.join(marked_name(id, DELETE)?);
        self.files.forget_dir(&dir);
        match self.files.fs().rename(&dir, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(id),
            renamed => renamed.context("rename", &dir)?,
        }
        self.found.lock().remove(id);
        self.files
            .fs()
            .sync_dir(&self.dir, SITE_DIR)
            .context("sync", &self.dir)?;
        // The data first: on a full disk that makes the room to write.
        self.files.fs().remove_dir_all(&gone).context("remove", &gone)?;
        self.forget(id)
    }

    /// Takes the lines of a partition without a directory out of the checkpoints, durably.
    pub(super) fn forget(&self, id: &TopicPartition) -> Result<(), StoreError> {
        self.checkpoints.lock().forget(&self.files, id)
    }

    /// Gives a directory that belongs to no topic a name that says so, and returns its new path. Nothing in it is changed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set_aside(&self, id: &TopicPartition) -> Result<PathBuf, StoreError> {
        let dir = self.partition_dir(id);
        let aside = self.dir.join(marked_name(id, STRAY)?);
        self.files.forget_dir(&dir);
        self.files.fs().rename(&dir, &aside).context("rename", &dir)?;
        self.found.lock().remove(id);
        self.files
            .fs()
            .sync_dir(&self.dir, SITE_DIR)
            .context("sync", &self.dir)?;
        Ok(aside)
    }

    /// One round of group commit: makes everything appended so far to these partitions safe, many files at once. As many
    /// results as partitions, in their order. A partition whose sync failed refuses writes until it is repaired.
    pub fn sync(&self, partitions: &[Arc<Partition>]) -> Vec<Result<Synced, StoreError>> {
        commit::sync(&self.files, &self.dir, partitions)
    }

    /// Writes recovery points, log starts and high watermarks of all open partitions, after making safe what they let a start
    /// forget.
    ///
    /// # Errors
    /// What the disk says; the old checkpoints stand.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut checkpoints = self.checkpoints.lock();
        let open: Vec<Arc<Partition>> = self.partitions.lock().values().cloned().collect();
        let there = self.found.lock().clone();
        // Taken first: what is appended meanwhile is above them.
        let views: Vec<_> = open
            .iter()
            .map(|partition| (partition.id.clone(), partition.watermarks()))
            .collect();
        close::settle(&self.files, &open)?;
        checkpoints.write(&self.files, &views, &there)
    }

    /// Syncs and closes every partition, writes the checkpoints and the clean marker, and gives the directory back. Afterwards
    /// appends are refused.
    ///
    /// # Errors
    /// The first failure; the marker is then missing and the next start recovers.
    pub fn close(&self) -> Result<(), StoreError> {
        let open: Vec<Arc<Partition>> = self.partitions.lock().values().cloned().collect();
        close::close_all(self, &open)?;
        self.checkpoint()?;
        let path = self.dir.join(CLEAN_MARKER);
        let file = self
            .files
            .fs()
            .open(&path, OpenMode::ReadWrite)
            .context("create", &path)?;
        file.write_all_at(&[IoSlice::new(br#"{"version":0,"brokerEpoch":-1}"#)], 0)
            .context("write", &path)?;
        file.sync_data(SITE_MARKER).context("sync", &path)?;
        self.files
            .fs()
            .sync_dir(&self.dir, SITE_DIR)
            .context("sync", &self.dir)?;
        self.lock.lock().take();
        Ok(())
    }

    /// Returns the bytes free on the disk of the data directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.files
            .fs()
            .free_bytes(&self.dir)
            .context("measure", &self.dir)
    }

    /// Returns where a partition lies.
    pub(super) fn partition_dir(&self, id: &TopicPartition) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

fn create_if_missing(files: &FileCache, dir: &Path) -> Result<(), StoreError> {
    match files.fs().stat(dir) {
        Ok(stat) if stat.kind == FileKind::Dir => Ok(()),
        Ok(_) => Err(StoreError::Unusable {
            path: dir.to_path_buf(),
            reason: "it is not a directory; choose another data directory".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.fs().create_dir(dir).context("create", dir)?;
            let parent = dir
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            files.fs().sync_dir(parent, SITE_DIR).context("sync", parent)
        }
        Err(error) => Err(error).context("read", dir),
    }
}

/// Tells whether the last process closed the directory, and takes its word away before it can become a lie.
fn take_clean_marker(files: &FileCache, dir: &Path) -> Result<Stop, StoreError> {
    let path = dir.join(CLEAN_MARKER);
    match files.fs().remove_file(&path) {
        Ok(()) => {
            files.fs().sync_dir(dir, SITE_DIR).context("sync", dir)?;
            Ok(Stop::Clean)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stop::Unclean),
        Err(error) => Err(error).context("remove", &path),
    }
}

/// A directory without an epoch file, of a Kafka broker or from before a damage, has epochs in its partitions.
fn least_epoch(files: &FileCache, dir: &Path, found: &[TopicPartition]) -> LeaderEpoch {
    if epoch_file::exists(files, dir) {
        return LeaderEpoch(0);
    }
    let latest = |id: &TopicPartition| partition_dir::read_epochs(files, &dir.join(id.to_string())).latest();
    found
        .iter()
        .filter_map(latest)
        .max()
        .map_or(LeaderEpoch(0), |latest| LeaderEpoch(latest.0 + 1))
}

/// Lists partition directories, and removes those whose deletion or filling was cut off.
fn found_dirs(files: &FileCache, dir: &Path) -> Result<Vec<TopicPartition>, StoreError> {
    let mut found = Vec::new();
    for entry in files.fs().list(dir).context("list", dir)? {
        let path = dir.join(&entry.name);
        if entry.kind != FileKind::Dir {
            if entry.name.ends_with(super::paths::TMP) {
                remove_if_there(files, &path).context("remove", &path)?;
            }
        } else if entry.name.ends_with(DELETE) || entry.name.ends_with(FUTURE) {
            files.fs().remove_dir_all(&path).context("remove", &path)?;
        } else if let Some(id) = TopicPartition::parse_dir_name(&entry.name) {
            found.push(id);
        }
    }
    Ok(found)
}

/// Returns `<topic>-<partition>.<32 hexadecimal digits><suffix>`, at most 255 bytes.
pub(super) fn marked_name(id: &TopicPartition, suffix: &str) -> Result<String, StoreError> {
    let unique = super::identity::random_hex()?;
    let mut name = id.to_string();
    name.truncate(255 - unique.len() - suffix.len() - 1);
    Ok(format!("{name}.{unique}{suffix}"))
}
