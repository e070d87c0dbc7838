//! Making a data directory of what an archive has.
//!
//! 1. The directory is locked, and the mark of a restore that has begun is written, durably, into an empty one. If it dies here, or anywhere before 5: no server
//!    starts on the directory, and the next try removes what is there and begins anew.
//! 2. Each partition gets its directory, as a clean stop leaves one: ids, leader epochs, producers, a closed manifest, and the segments
//!    that come to the local disk. What does not come lies before the local start.
//! 3. The directory gets its ids, its epoch, the checkpoints and the marker of a clean stop.
//! 4. The caller opens it, puts right what the topics' metadata does not say, and closes it.
//! 5. The mark says that the directory is whole, and how far the archive came then.
//!
//! ```text
//! siltstone.restore   JSON: version 1, state begun | whole | mounted, from, catalog_crc, ends: {"<topic>-<partition>": offset, ...}
//! ```
//!
//! The mark stays until a server has taken the archive over: an archive that went on meanwhile, under its old server, does not fit the
//! directory any more, and by the mark that is seen.
//!
//! What is not here: what comes, and from where (`broker`, `tier`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::env::{File, FileCache, FileKind, LockGuard, OpenMode, SyncSite};
use crate::types::{LeaderEpoch, Offset, TopicId, TopicPartition};

use super::checkpoints::{COMPACTED, HIGH_WATERMARKS, LOCAL_STARTS, LOG_STARTS, RECOVERY_POINTS};
use super::data_dir::{RESTORE_MARK as MARK, create_if_missing, refused};
use super::error::{IoContext, StoreError};
use super::files::{Replacements, read_whole, remove_if_there};
use super::identity::{self, Identity};
use super::paths::{SegmentFile, TMP};
use super::store::{CLEAN_MARKER, LOCK};
use super::{
    Closed, MANIFEST_FILE_NAME, Manifest, ManifestRecord, PartitionMetadata, SegmentSummary, decode_epochs,
    decode_snapshot, encode_offsets, encode_snapshot, epoch_file, partition_dir, write_atomic,
};

const VERSION: u32 = 1;
/// Where parts of objects of the archive are kept, in a data directory: a start empties it.
pub const CACHE_FOLDER: &str = "tier-cache";
/// What a new file system has in it.
const FOUND: &str = "lost+found";
const SITE_MARK: SyncSite = SyncSite("mark of a restore");
const SITE_MARK_DIR: SyncSite = SyncSite("data directory with the mark of a restore");
const SITE_UNMARKED: SyncSite = SyncSite("data directory without the mark of a restore");
const SITE_FILES: SyncSite = SyncSite("restored segment");

/// How far a restore has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Begun,
    Whole,
    Mounted,
}

/// What a directory says of the restore that made it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreMark {
    version: u32,
    state: State,
    /// The archive's address.
    pub from: String,
    /// A checksum over the topics that it had.
    #[serde(default)]
    pub catalog_crc: u32,
    /// By directory name of the partition.
    #[serde(default)]
    ends: BTreeMap<String, i64>,
}

impl RestoreMark {
    /// Describes a whole directory; `ends` are the offsets at which the archive ended.
    pub fn whole(from: &str, catalog_crc: u32, ends: &[(TopicPartition, Offset)]) -> Self {
        let ends = ends.iter().map(|(id, end)| (id.to_string(), end.0));
        Self {
            version: VERSION,
            state: State::Whole,
            from: from.to_owned(),
            catalog_crc,
            ends: ends.collect(),
        }
    }

    /// Describes a directory that only stands for another server's archive: it is made anew at each start, and nothing is ever written to it.
    pub fn mounted(from: &str) -> Self {
        Self {
            state: State::Mounted,
            ..Self::whole(from, 0, &[])
        }
    }

    /// Tells whether the directory only stands for another server's archive.
    pub fn is_mounted(&self) -> bool {
        self.state == State::Mounted
    }

    /// Returns where the archive of a partition ended; zero for one that it did not have.
    pub fn end(&self, id: &TopicPartition) -> Offset {
        self.ends
            .get(&id.to_string())
            .map_or(Offset::ZERO, |end| Offset(*end))
    }

    /// Reads the mark of a directory; `None` when no restore made it, or a server has taken the archive over since.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a directory that is not whole, and what the disk says.
    pub fn read(files: &FileCache, dir: &Path) -> Result<Option<Self>, StoreError> {
        let mark = Self::read_any(files, dir)?;
        match mark {
            Some(mark) if mark.state == State::Begun => Err(StoreError::Unusable {
                path: dir.to_path_buf(),
                reason: format!(
                    "restoring it from {} was cut off, or is under way; restore it again with the same command, or remove it",
                    mark.from
                ),
            }),
            mark => Ok(mark),
        }
    }

    fn read_any(files: &FileCache, dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(MARK);
        let Some(bytes) = read_whole(files, &path)? else {
            return Ok(None);
        };
        let unusable = |reason: String| StoreError::Unusable {
            path: path.clone(),
            reason: format!("{reason}; remove the directory and restore it again"),
        };
        let mark: Self = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        match mark.version {
            VERSION => Ok(Some(mark)),
            other => Err(unusable(format!("it has version {other}, known is {VERSION}"))),
        }
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// What the disk says; what was there before stands then, or this.
    pub fn write(&self, files: &FileCache, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MARK);
        let bytes = serde_json::to_vec(self).expect("text and numbers are JSON");
        write_atomic(files.fs().as_ref(), &path, &bytes, SITE_MARK, SITE_MARK_DIR).context("write", &path)
    }

    /// Removes the mark of a directory, durably.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(files: &FileCache, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MARK);
        remove_if_there(files, &path).context("remove", &path)?;
        files.fs().sync_dir(dir, SITE_UNMARKED).context("sync", dir)
    }
}

/// What is to become of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreInto {
    /// Nothing is in it, or what a restore left that was cut off, or what only stands for an archive.
    Free,
    /// It holds data.
    Taken,
}

/// A data directory that is being made of an archive; nobody else can open it.
#[derive(Debug)]
pub struct Restoring {
    files: Arc<FileCache>,
    path: PathBuf,
    lines: Mutex<BTreeMap<TopicPartition, Line>>,
    _lock: Box<dyn LockGuard>,
}

/// A directory that is locked for a restore, and still as it was.
#[derive(Debug)]
pub struct Reserved {
    files: Arc<FileCache>,
    path: PathBuf,
    lock: Box<dyn LockGuard>,
}

/// What the checkpoints say of a partition.
#[derive(Clone, Copy, Debug)]
struct Line {
    log_start: Offset,
    /// Zero where all is local.
    local_start: Offset,
    log_end: Offset,
    compacted_below: Offset,
}

/// A partition as the archive has it.
#[derive(Clone, Debug)]
pub struct RestoredPartition {
    /// Topic and number.
    pub id: TopicPartition,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// The newest epoch that any of its records may have.
    pub epoch: LeaderEpoch,
    /// What is known of producers at its end, as a `.snapshot` has it; empty for nothing.
    pub producers: Bytes,
    /// Its leader epochs, as a `leader-epoch-checkpoint` has them; empty for none.
    pub epochs: Bytes,
    /// All its segments, by offset.
    pub segments: Vec<SegmentSummary>,
    /// Whether their files are in the directory.
    pub place: RestoredPlace,
}

/// Where the segments of a restored partition are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoredPlace {
    /// In the archive alone.
    Archive,
    /// Here, all of them.
    Local,
}

impl Restoring {
    /// Tells whether a directory is free for a restore. Changes nothing.
    ///
    /// # Errors
    /// What the disk says; [`StoreError::Unusable`] for what is no directory, or has things in it that are not ours.
    pub fn look(files: &FileCache, path: &Path) -> Result<RestoreInto, StoreError> {
        let entries = match files.fs().list(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RestoreInto::Free),
            Err(error) => return Err(refused("list", path, error)),
        };
        if RestoreMark::read_any(files, path)?.is_none_or(|mark| mark.state == State::Whole) {
            if Identity::is_made(files, path) {
                return Ok(RestoreInto::Taken);
            }
            let is_begin = |name: &str| name == LOCK || name == FOUND || name.strip_suffix(TMP) == Some(MARK);
            let mut others = entries.iter().filter(|entry| !is_begin(&entry.name));
            return match others.next() {
                None => Ok(RestoreInto::Free),
                Some(entry) => Err(not_empty(path, &entry.name)),
            };
        }
        let strange = entries
            .iter()
            .find(|entry| !is_made_here(&entry.name, entry.kind));
        match strange {
            None => Ok(RestoreInto::Free),
            Some(entry) => Err(not_empty(path, &entry.name)),
        }
    }

    /// Makes sure that a directory is free for a restore. Changes nothing.
    ///
    /// # Errors
    /// As [`look`](Self::look), and [`StoreError::Unusable`] for one that is taken.
    pub fn check(files: &FileCache, path: &Path) -> Result<(), StoreError> {
        match Self::look(files, path)? {
            RestoreInto::Free => Ok(()),
            RestoreInto::Taken => Err(StoreError::Unusable {
                path: path.to_path_buf(),
                reason:
                    "it is a data directory already; start a server on it, or restore into another directory"
                        .to_owned(),
            }),
        }
    }

    /// Locks an empty directory, made if it is missing, or one of which a restore was cut off. What is in it stays until
    /// [`Reserved::begin`].
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for one with anything in it; [`StoreError::Locked`]; what the disk says.
    pub fn reserve(files: Arc<FileCache>, path: PathBuf) -> Result<Reserved, StoreError> {
        Self::check(&files, &path)?;
        create_if_missing(&files, &path)?;
        let lock = files
            .fs()
            .lock(&path.join(LOCK))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::WouldBlock => StoreError::Locked { dir: path.clone() },
                _ => refused("lock", &path, error),
            })?;
        // Somebody may have been faster than the lock.
        Self::check(&files, &path)?;
        Ok(Reserved { files, path, lock })
    }

    /// Makes the directory of a partition whose segments come here.
    ///
    /// # Errors
    /// What the disk says.
    pub fn make_dir(&self, id: &TopicPartition) -> Result<(), StoreError> {
        let dir = self.path.join(id.to_string());
        match self.files.fs().create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            made => made.context("create", &dir),
        }
    }

    /// Makes a file of a segment, to be filled and given to [`sync`](Self::sync).
    ///
    /// # Errors
    /// What the disk says.
    pub fn make_file(
        &self,
        id: &TopicPartition,
        base: Offset,
        kind: SegmentFile,
    ) -> Result<NewFile, StoreError> {
        let path = kind.path(&self.path.join(id.to_string()), base);
        let file = self
            .files
            .fs()
            .open(&path, OpenMode::CreateNew)
            .context("create", &path)?;
        Ok(NewFile { path, file })
    }

    /// Makes the content of files safe; their names are safe when their partition is put.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self, made: &[NewFile]) -> Result<(), StoreError> {
        let files: Vec<_> = made.iter().map(|new| Arc::clone(&new.file)).collect();
        let synced = self.files.fs().sync_many(&files, SITE_FILES);
        made.iter()
            .zip(synced)
            .try_for_each(|(new, synced)| synced.context("sync", &new.path))
    }

    /// Puts partitions, durably; the files of those that are local are there and synced.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when what the archive has does not fit together; what the disk says.
    pub fn put(&self, partitions: &[RestoredPartition]) -> Result<(), StoreError> {
        let mut replacements = Replacements::default();
        for partition in partitions {
            self.make_dir(&partition.id)?;
            self.add(partition, &mut replacements)?;
        }
        replacements.commit(&self.files)?;
        let mut lines = self.lines.lock();
        for partition in partitions {
            lines.insert(partition.id.clone(), partition.line());
        }
        Ok(())
    }

    fn add(&self, partition: &RestoredPartition, into: &mut Replacements) -> Result<(), StoreError> {
        let dir = self.path.join(partition.id.to_string());
        let unfit = |reason: String| StoreError::Unusable {
            path: dir.clone(),
            reason: format!("what the archive has of it does not fit together: {reason}"),
        };
        decode_epochs(&partition.epochs).map_err(|damage| unfit(damage.to_string()))?;
        let producers = match partition.producers.is_empty() {
            true => encode_snapshot(&[]),
            false => partition.producers.to_vec(),
        };
        decode_snapshot(&producers).map_err(|damage| unfit(damage.to_string()))?;
        let mut manifest = Manifest::new(partition.topic_id, partition.id.partition);
        let local = partition
            .segments
            .iter()
            .filter(|_| partition.place == RestoredPlace::Local);
        let records = local.cloned().map(ManifestRecord::Segment);
        let closed = ManifestRecord::Closed(Closed {
            log_start: partition.log_start,
            log_end: partition.log_end,
            epoch: partition.epoch,
            first_unstable: None,
        });
        for record in records.chain([closed]) {
            manifest
                .apply(record)
                .map_err(|contradiction| unfit(contradiction.to_string()))?;
        }
        let metadata = PartitionMetadata {
            topic_id: partition.topic_id,
        };
        into.add(partition_dir::metadata_path(&dir), metadata.encode());
        into.add(dir.join(partition_dir::EPOCHS), partition.epochs.to_vec());
        into.add(SegmentFile::Snapshot.path(&dir, partition.log_end), producers);
        into.add(dir.join(MANIFEST_FILE_NAME), manifest.encode_whole());
        Ok(())
    }

    /// Gives the directory its ids, its epoch, checkpoints and the marker of a clean stop, and lets go of it. It stays marked as begun.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a cluster id that is none; what the disk says.
    pub fn finish(self, cluster_id: &str, epoch: LeaderEpoch) -> Result<(), StoreError> {
        let lines = std::mem::take(&mut *self.lines.lock());
        let checkpoint = |offset: fn(&Line) -> Offset| {
            let told = lines.iter().map(|(id, line)| (id.clone(), offset(line)));
            encode_offsets(&told.filter(|(_, offset)| *offset > Offset::ZERO).collect())
        };
        let mut replacements = Replacements::default();
        for (name, bytes) in [
            (LOG_STARTS, checkpoint(|line| line.log_start)),
            (LOCAL_STARTS, checkpoint(|line| line.local_start)),
            (RECOVERY_POINTS, checkpoint(|line| line.log_end)),
            (HIGH_WATERMARKS, checkpoint(|line| line.log_end)),
            (COMPACTED, checkpoint(|line| line.compacted_below)),
            (CLEAN_MARKER, br#"{"version":0,"brokerEpoch":-1}"#.to_vec()),
        ] {
            replacements.add(self.path.join(name), bytes);
        }
        let (path, bytes) = identity::of_cluster(&self.path, cluster_id)?;
        replacements.add(path, bytes);
        replacements.commit(&self.files)?;
        epoch_file::claim(&self.files, &self.path, epoch).map(drop)
    }
}

impl Reserved {
    /// Marks the directory as being restored from `from`, and removes what an earlier try left.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(self, from: &str) -> Result<Restoring, StoreError> {
        let Self { files, path, lock } = self;
        let mark = RestoreMark {
            state: State::Begun,
            ..RestoreMark::whole(from, 0, &[])
        };
        mark.write(&files, &path)?;
        for entry in files.fs().list(&path).context("list", &path)? {
            let left = path.join(&entry.name);
            if entry.name == FOUND {
                continue;
            }
            if entry.kind == FileKind::Dir {
                files.forget_dir(&left);
                files.fs().remove_dir_all(&left).context("remove", &left)?;
            } else if entry.name != LOCK && entry.name != MARK {
                remove_if_there(&files, &left).context("remove", &left)?;
            }
        }
        Ok(Restoring {
            files,
            path,
            lines: Mutex::default(),
            _lock: lock,
        })
    }
}

/// A file that is being filled.
#[derive(Clone, Debug)]
pub struct NewFile {
    path: PathBuf,
    file: Arc<dyn File>,
}

impl NewFile {
    /// Writes bytes at a position.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), StoreError> {
        let written = self.file.write_all_at(&[std::io::IoSlice::new(bytes)], position);
        written.context("write", &self.path)
    }
}

impl RestoredPartition {
    fn line(&self) -> Line {
        Line {
            log_start: self.log_start,
            local_start: match self.place {
                RestoredPlace::Archive => self.log_end,
                RestoredPlace::Local => Offset::ZERO,
            },
            log_end: self.log_end,
            compacted_below: missing_below(&self.segments),
        }
    }
}

/// Returns the offset below which offsets are missing in segments of an archive: the cleaner took them, or nobody can tell.
pub fn missing_below<'a>(segments: impl IntoIterator<Item = &'a SegmentSummary>) -> Offset {
    let (mut below, mut next) = (Offset::ZERO, None);
    for segment in segments {
        let offsets = segment.next_offset.0.saturating_sub(segment.base_offset.0);
        let is_whole = i64::try_from(segment.records) == Ok(offsets);
        if !is_whole || next.is_some_and(|next| next != segment.base_offset) {
            below = segment.next_offset;
        }
        next = Some(segment.next_offset);
    }
    below
}

fn not_empty(path: &Path, found: &str) -> StoreError {
    StoreError::Unusable {
        path: path.to_path_buf(),
        reason: format!("{found} is in it, and a restore takes an empty directory; choose another one"),
    }
}

/// Tells whether a restore may have made what is in a directory that bears its mark.
fn is_made_here(name: &str, kind: FileKind) -> bool {
    if kind == FileKind::Dir {
        return name == CACHE_FOLDER || name == FOUND || TopicPartition::parse_dir_name(name).is_some();
    }
    let name = name.strip_suffix(TMP).unwrap_or(name);
    let ours = [LOCK, MARK, CLEAN_MARKER, identity::NAME, epoch_file::NAME];
    ours.contains(&name) || name.ends_with("-offset-checkpoint")
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
#[cfg(test)]
pub(super) use tests::SWEPT;
