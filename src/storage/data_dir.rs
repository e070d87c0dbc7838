//! The data directory as a place: its path, its partition directories, and how the last process left it.
//!
//! Everything that opens, closes or brings in a partition works on this; [`super::Store`] owns it.
//!
//! Invariants
//! - What the checkpoints say of a partition is forgotten together with the partition: a topic made anew under an old name
//!   inherits nothing.
//! - A directory changes its name durably before the next step relies on it.
//! - A start syncs the directory once, when it has done all that it does there, and before anybody is told of it: that the
//!   marker of the clean stop is gone, new ids, a new file of epochs, and the names that a process made which was killed
//!   before it synced them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;

use crate::env::{FileCache, FileKind, SyncSite};
use crate::types::{LeaderEpoch, TopicPartition};

use super::checkpoints::Checkpoints;
use super::error::{IoContext, StoreError};
use super::files::remove_if_there;
use super::identity::{self, Identity};
use super::journal::Journal;
use super::recovery::Stop;
use super::{epoch_file, partition_dir};

/// Suffix of a directory being deleted, after a dot and 32 hexadecimal digits.
const DELETE: &str = "-delete";
/// Suffix of a directory being filled, after a dot and 32 hexadecimal digits.
pub(super) const FUTURE: &str = "-future";
/// Suffix of a directory that belongs to no topic, after a dot and 32 hexadecimal digits.
const STRAY: &str = "-stray";

/// What a restore says of itself; see [`super::restore`].
pub(super) const RESTORE_MARK: &str = "siltstone.restore";

const SITE_CREATED: SyncSite = SyncSite("parent of a new data directory");
const SITE_FOUND: SyncSite = SyncSite("data directory at the start");
const SITE_RENAMED: SyncSite = SyncSite("data directory with a renamed partition");

/// A data directory.
#[derive(Debug)]
pub(super) struct DataDir {
    pub(super) files: Arc<FileCache>,
    pub(super) path: PathBuf,
    /// Threads that open and close partitions.
    pub(super) threads: usize,
    pub(super) epoch: Arc<AtomicI32>,
    pub(super) stop: Stop,
    /// Partition directories that were there at the start, and still are.
    pub(super) found: Mutex<BTreeSet<TopicPartition>>,
    /// The lock also keeps two checkpoints apart, and is held while they are written.
    pub(super) checkpoints: Mutex<Checkpoints>,
}

impl DataDir {
    /// Looks at a directory whose lock is held, removes what was on its way out or in, and claims an epoch.
    pub(super) fn open(
        files: Arc<FileCache>,
        path: PathBuf,
        threads: usize,
        stop: Stop,
    ) -> Result<Self, StoreError> {
        let found = found_dirs(&files, &path)?;
        let epoch = epoch_file::claim(&files, &path, least_epoch(&files, &path, &found)?)?;
        let checkpoints = Checkpoints::read(&files, &path)?;
        // The one sync of the start; see the module.
        files.fs().sync_dir(&path, SITE_FOUND).context("sync", &path)?;
        Ok(Self {
            files,
            path,
            threads,
            epoch: Arc::new(AtomicI32::new(epoch.0)),
            stop,
            found: Mutex::new(found.into_iter().collect()),
            checkpoints: Mutex::new(checkpoints),
        })
    }

    /// Returns the epoch of this start.
    pub(super) fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// Makes the epoch at least `least`, durably; every append from then on carries it.
    pub(super) fn raise_epoch(&self, least: LeaderEpoch) -> Result<(), StoreError> {
        if least > self.epoch() {
            let claimed = epoch_file::claim(&self.files, &self.path, least)?;
            self.epoch.fetch_max(claimed.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Returns where a partition lies.
    pub(super) fn partition(&self, id: &TopicPartition) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// Tells whether a partition's directory was there at the start and still is.
    pub(super) fn has(&self, id: &TopicPartition) -> bool {
        self.found.lock().contains(id)
    }

    /// Takes the lines of partitions without a directory out of the checkpoints, durably.
    pub(super) fn forget(&self, ids: &[TopicPartition]) -> Result<(), StoreError> {
        self.checkpoints.lock().forget(&self.files, ids)
    }

    /// Takes the names of partitions away, durably, with one sync for all of them, and what the checkpoints say of them; a
    /// missing directory is no failure. Returns where their files lie now, for [`DataDir::remove_files`]; what a failure or
    /// a death leaves of those, the next start removes. No checkpoint is written meanwhile: it would look for files that
    /// are going.
    pub(super) fn take_names(&self, ids: &[TopicPartition]) -> Result<Removed, StoreError> {
        let mut checkpoints = self.checkpoints.lock();
        let dirs: Vec<PathBuf> = ids.iter().map(|id| self.partition(id)).collect();
        self.files.forget_dirs(dirs.iter().map(PathBuf::as_path));
        let mut removed = Removed(Vec::new());
        for (id, dir) in ids.iter().zip(&dirs) {
            let gone = self.path.join(marked_name(id, DELETE)?);
            if self.rename(dir, &gone)? == Renamed::Done {
                removed.0.push(gone);
            }
            self.found.lock().remove(id);
        }
        if !removed.0.is_empty() {
            // A reader may have opened a file again between the two.
            self.files.forget_dirs(dirs.iter().map(PathBuf::as_path));
            self.sync_names()?;
        }
        match checkpoints.forget(&self.files, ids) {
            Err(error) if error.is_disk_full() && !removed.0.is_empty() => {
                // The data first: that makes the room to write.
                self.remove_files(std::mem::take(&mut removed))?;
                checkpoints.forget(&self.files, ids)?;
            }
            forgotten => forgotten?,
        }
        Ok(removed)
    }

    /// Removes the files of partitions whose names are gone. Goes on past a failure and returns the first.
    pub(super) fn remove_files(&self, removed: Removed) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for gone in removed.0 {
            let result = match self.files.fs().remove_dir_all(&gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result.context("remove", &gone),
            };
            outcome = outcome.and(result);
        }
        outcome
    }

    /// Gives a directory that belongs to no topic a name that says so, and returns its new path.
    pub(super) fn set_aside(&self, id: &TopicPartition) -> Result<PathBuf, StoreError> {
        let aside = self.path.join(marked_name(id, STRAY)?);
        let dir = self.partition(id);
        self.files.forget_dir(&dir);
        if self.rename(&dir, &aside)? == Renamed::Done {
            self.files.forget_dir(&dir);
            self.sync_names()?;
        }
        self.found.lock().remove(id);
        Ok(aside)
    }

    /// Gives a partition's directory another name; the caller syncs that, and has the cache forget the old one before and after.
    fn rename(&self, dir: &Path, to: &Path) -> Result<Renamed, StoreError> {
        match self.files.fs().rename(dir, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Renamed::NothingThere),
            renamed => renamed.context("rename", dir).map(|()| Renamed::Done),
        }
    }

    /// Makes the names of partitions safe.
    pub(super) fn sync_names(&self) -> Result<(), StoreError> {
        let synced = self.files.fs().sync_dir(&self.path, SITE_RENAMED);
        synced.context("sync", &self.path)
    }
}

/// Files of partitions that are removed and whose names are gone: nobody looks for them, and they only take room.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Removed(Vec<PathBuf>);

impl Removed {
    /// Tells whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many directories there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes at most `count` directories out.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Self {
        Self(self.0.split_off(self.0.len().saturating_sub(count)))
    }

    /// Adds those of `other`.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Renamed {
    Done,
    NothingThere,
}

/// Makes the directory if there is none. Its name is safe before it has ids: one without may be of a process that was killed
/// before it could see to that.
pub(super) fn create_if_missing(files: &FileCache, dir: &Path) -> Result<(), StoreError> {
    match files.fs().stat(dir) {
        Ok(stat) if stat.kind == FileKind::Dir && Identity::is_made(files, dir) => Ok(()),
        Ok(stat) if stat.kind == FileKind::Dir => match sync_parent(files, dir) {
            // Then it is somebody else's work, and was done as root.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        },
        Ok(_) => Err(StoreError::Unusable {
            path: dir.to_path_buf(),
            reason: "it is not a directory; choose another data directory".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files
                .fs()
                .create_dir(dir)
                .map_err(|error| refused("create", dir, error))?;
            sync_parent(files, dir)
        }
        Err(error) => Err(refused("look at", dir, error)),
    }
}

fn sync_parent(files: &FileCache, dir: &Path) -> Result<(), StoreError> {
    let parent = dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    files.fs().sync_dir(parent, SITE_CREATED).context("sync", parent)
}

/// Says what to do about a directory that the system does not let us have; a failing or full disk is told as it is.
pub(super) fn refused(action: &'static str, dir: &Path, source: io::Error) -> StoreError {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let path = dir.to_path_buf();
    match source.kind() {
        NotFound | NotADirectory | PermissionDenied | ReadOnlyFilesystem => StoreError::Unusable {
            path,
            reason: format!(
                "cannot {action} it: {source}; let the user that the server runs as read and write it, or choose another data \
                 directory, in a directory that exists and can be written"
            ),
        },
        _ => StoreError::Io { action, path, source },
    }
}

/// A directory without an epoch file, of a Kafka broker or from before a damage, has epochs in its partitions: in their epoch
/// files, which may lag behind, in their manifests and in their newest batches. The greatest counts, or one might be claimed
/// again.
fn least_epoch(files: &FileCache, dir: &Path, found: &[TopicPartition]) -> Result<LeaderEpoch, StoreError> {
    if epoch_file::exists(files, dir) {
        return Ok(LeaderEpoch(0));
    }
    let mut latest = None;
    for id in found {
        let partition = dir.join(id.to_string());
        let closed = Journal::read(files, &partition, id).last_closed;
        latest = latest
            .max(partition_dir::read_epochs(files, &partition).latest())
            .max(closed.map(|closed| closed.epoch))
            .max(partition_dir::epoch_of_newest_log(files, &partition)?);
    }
    Ok(latest.map_or(LeaderEpoch(0), |latest| LeaderEpoch(latest.0.saturating_add(1))))
}

/// Lists partition directories, and removes those whose deletion or filling was cut off.
fn found_dirs(files: &FileCache, dir: &Path) -> Result<Vec<TopicPartition>, StoreError> {
    let mut found = Vec::new();
    for entry in files
        .fs()
        .list(dir)
        .map_err(|error| refused("list", dir, error))?
    {
        let path = dir.join(&entry.name);
        if entry.kind != FileKind::Dir {
            if is_ours_in_transit(&entry.name) {
                remove_if_there(files, &path).context("remove", &path)?;
            }
        } else if is_marked(&entry.name, DELETE) || is_marked(&entry.name, FUTURE) {
            files.fs().remove_dir_all(&path).context("remove", &path)?;
        } else if let Some(id) = TopicPartition::parse_dir_name(&entry.name) {
            found.push(id);
        }
    }
    Ok(found)
}

/// Tells whether a name is what [`marked_name`] makes with this suffix: nobody else's directory is touched.
fn is_marked(name: &str, suffix: &str) -> bool {
    let Some((id, unique)) = name.strip_suffix(suffix).and_then(|rest| rest.rsplit_once('.')) else {
        return false;
    };
    let is_unique = unique.len() == 32 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
    // A long name was cut, perhaps with its number.
    is_unique && (TopicPartition::parse_dir_name(id).is_some() || name.len() == NAME_MAX)
}

/// Tells whether a file is one of our small files that was being replaced.
fn is_ours_in_transit(name: &str) -> bool {
    name.strip_suffix(super::paths::TMP).is_some_and(|name| {
        let whole = [identity::NAME, epoch_file::NAME, RESTORE_MARK];
        name.ends_with("-offset-checkpoint") || whole.contains(&name)
    })
}

/// Greatest length of a file name in bytes.
const NAME_MAX: usize = 255;

/// Returns `<topic>-<partition>.<32 hexadecimal digits><suffix>`, at most 255 bytes.
pub(super) fn marked_name(id: &TopicPartition, suffix: &str) -> Result<String, StoreError> {
    let unique = super::identity::random_hex()?;
    let mut name = id.to_string();
    name.truncate(NAME_MAX - unique.len() - suffix.len() - 1);
    Ok(format!("{name}.{unique}{suffix}"))
}
