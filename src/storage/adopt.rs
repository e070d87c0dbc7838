//! Bringing in a partition directory that a Kafka broker, or another Siltstone, wrote.
//!
//! 1. Every log of the foreign directory is read and verified to the last record, what is compressed too, into a directory beside the others whose
//!    name ends in `-future`: sealed segments as second names of the same files, or copies where the system allows none; the
//!    last one as a copy up to its last sound batch, if what follows is a torn tail ([`super::torn`]). If it dies here: the
//!    next start removes the directory.
//! 2. Indexes, producer state and epochs are made anew from the batches; all is synced.
//! 3. The epoch of this server is raised above the foreign ones, and by the caller the next producer id: a producer of ours with
//!    the id of a foreign one would find its first batches taken for written.
//! 4. The directory gets its name. If it dies here: it is found under either name; as in 1, or a partition like any other,
//!    which a start verifies until a checkpoint vouches for it.
//! 5. The checkpoint is written. It lies beside the directory, so its sync of their parent keeps the name of both. If this or
//!    4 fails, the directory is removed: what was not brought in is not there.
//!
//! Nothing in the foreign directory is ever written: files that are shared are sealed here, and sealed files are only read.
//! Of it only the logs are read: what its indexes, snapshots and epochs say makes no difference.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use crate::env::{File, FileCache, FileKind, OpenMode, SyncSite};
use crate::record::{Damage, DecompressLimit, RecordBatch};
use crate::types::{LeaderEpoch, Offset, ProducerId, Timestamp, TopicId, TopicPartition};

use super::data_dir::{DataDir, FUTURE, marked_name};
use super::error::{IoContext, StoreError};
use super::files::{Replacements, remove_if_there};
use super::journal::{Complete, JournalOf, closed_manifest};
use super::load::replay_batch;
use super::open::{PartitionSpec, open_closed};
use super::partition::Partition;
use super::paths::SegmentFile;
use super::recovery::sealed_of;
use super::scan::{ScanSpec, Scanned, scan};
use super::segment::{Sealed, add_pending_indexes, log_path};
use super::spacing::Holes;
use super::store::Store;
use super::torn::{Beside, LastLog};
use super::{AppendTimes, Closed, LeaderEpochs, Producers, encode_snapshot, partition_dir};

const SITE_SHARED: SyncSite = SyncSite("adopted log, shared with its original");
const SITE_COPY: SyncSite = SyncSite("adopted log, copied");
/// Greatest leader epoch that is brought in: each start of the server needs one of its own after it.
const EPOCH_MAX: LeaderEpoch = LeaderEpoch(i32::MAX / 2);
/// Greatest producer id that is brought in: this server's own come after it.
const PRODUCER_ID_MAX: ProducerId = ProducerId(i64::MAX / 2);
const COPY_CHUNK: usize = 1 << 20;
/// What is told with damage: nothing of it is brought in, so something has to be done.
pub(super) const ADVICE: &str =
    "`siltstone segment dump` shows it; adopt another replica, or a copy that a Kafka broker has recovered";

/// What was brought in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AdoptReport {
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// How many segments.
    pub segments: u64,
    /// How many batches.
    pub batches: u64,
    /// How many records.
    pub records: u64,
    /// Bytes of the batches.
    pub size_bytes: u64,
    /// Bytes at the end of the last log that were no whole, sound batch, and were left out.
    pub dropped_tail_bytes: u64,
    /// Offsets from the log start on that no batch spans: compaction took them, or a segment is missing.
    pub missing_offsets: u64,
}

/// A foreign directory that was verified, and filled into one of this store that nobody looks for yet. Dropped without
/// [`Store::bring_in`], it is removed.
#[derive(Debug)]
pub struct Verified {
    files: Arc<FileCache>,
    /// Where it lies; `None` once it has its name.
    future: Option<PathBuf>,
    id: TopicPartition,
    topic_id: TopicId,
    filled: Filled,
}

/// What was found while it was filled.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    report: AdoptReport,
    latest: Option<LeaderEpoch>,
    greatest_producer: Option<ProducerId>,
}

impl Verified {
    /// Returns the greatest producer id in its batches: whoever is given that or a lesser one could be taken for its producer.
    pub fn greatest_producer(&self) -> Option<ProducerId> {
        self.filled.greatest_producer
    }

    /// Returns the id of the topic that it was filled for.
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        if let Some(future) = &self.future {
            // What failed is what to tell; a leftover is removed by the next start.
            let _ = self.files.fs().remove_dir_all(future);
        }
    }
}

impl Store {
    /// Verifies a foreign partition directory and fills it into one of this store, for the partition of `spec`. The original is
    /// not altered, and nothing that is served is touched. Blocks for as long as it takes to read all of it; asks at every
    /// batch whether to go on.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] names the file and what is wrong with it, or says that it was not to go on.
    pub fn verify_foreign(
        &self,
        from: &Path,
        spec: &PartitionSpec,
        now: Timestamp,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Verified, StoreError> {
        let future = self.dir.path.join(marked_name(&spec.id, FUTURE)?);
        let mut verified = Verified {
            files: Arc::clone(&self.dir.files),
            future: Some(future.clone()),
            id: spec.id.clone(),
            topic_id: spec.topic_id,
            filled: Filled::default(),
        };
        let adoption = Adoption {
            dir: &self.dir,
            from,
            to: &future,
            spec,
            now,
            go_on,
        };
        verified.filled = adoption.fill()?;
        Ok(verified)
    }

    /// Brings a verified directory in as the partition of `spec`, which must not hold anything.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] says what is in the way here; else what the disk says. Nothing is then brought in.
    pub fn bring_in(
        &self,
        mut verified: Verified,
        spec: PartitionSpec,
        now: Timestamp,
    ) -> Result<(Arc<Partition>, AdoptReport), StoreError> {
        assert!(
            verified.id == spec.id && verified.topic_id == spec.topic_id,
            "a directory goes where it was filled for"
        );
        let target = self.dir.partition(&spec.id);
        let taken = self
            .partitions
            .lock()
            .get(&spec.id)
            .is_some_and(|open| open.watermarks().log_end > Offset::ZERO);
        if taken || self.dir.files.fs().stat(&target).is_ok() {
            let reason = format!(
                "{} holds data already; adopt into a partition that was never written",
                spec.id
            );
            return Err(StoreError::Unusable { path: target, reason });
        }
        self.dir.forget(std::slice::from_ref(&spec.id))?;
        if let Some(latest) = verified.filled.latest {
            self.dir.raise_epoch(LeaderEpoch(latest.0 + 1))?;
        }
        let id = spec.id.clone();
        let future = verified
            .future
            .clone()
            .expect("it is taken away at the end alone");
        let partition = self.install(&future, &target, spec, now).inspect_err(|_| {
            // Whatever has its name already must not be taken for the partition that is made in its place.
            let removed = self.remove_partitions(std::slice::from_ref(&id));
            let _ = removed.and_then(|removed| self.remove_files(removed));
        })?;
        verified.future = None;
        Ok((partition, verified.filled.report))
    }

    fn install(
        &self,
        future: &Path,
        target: &Path,
        spec: PartitionSpec,
        now: Timestamp,
    ) -> Result<Arc<Partition>, StoreError> {
        let fs = self.dir.files.fs();
        fs.rename(future, target).context("rename", future)?;
        self.dir.files.forget_dir(future);
        // Before a checkpoint tells of it: a line without its directory would be taken for a log that was lost.
        self.dir.sync_names()?;
        let partition = open_closed(&self.dir, spec, now)?;
        self.partitions
            .lock()
            .insert(partition.id.clone(), Arc::clone(&partition));
        // Until the checkpoint vouches for it, a start would verify it again, and cut what it does not believe.
        self.checkpoint()?;
        Ok(partition)
    }
}

struct Adoption<'a> {
    dir: &'a DataDir,
    from: &'a Path,
    to: &'a Path,
    spec: &'a PartitionSpec,
    now: Timestamp,
    go_on: &'a (dyn Fn() -> bool + Sync),
}

/// What has been read of the foreign directory.
#[derive(Default)]
struct Progress {
    report: AdoptReport,
    epochs: LeaderEpochs,
    producers: Producers,
    greatest_producer: Option<ProducerId>,
    replacements: Replacements,
    segments: Vec<Arc<Sealed>>,
}

impl Adoption<'_> {
    fn fill(&self) -> Result<Filled, StoreError> {
        let logs = self.logs()?;
        let beside = Beside::read(&self.dir.files, self.from)?;
        let fs = self.dir.files.fs();
        fs.create_dir(self.to).context("create", self.to)?;
        partition_dir::write_metadata(&self.dir.files, self.to, self.spec.topic_id)?;
        let mut progress = Progress::beginning(logs[0].0, beside.log_start);
        let last = logs.len() - 1;
        for (index, (base, path)) in logs.iter().enumerate() {
            let place = if index == last {
                Place::Last(&beside)
            } else {
                Place::Before
            };
            self.segment(*base, path, place, &mut progress)?;
        }
        let Progress {
            mut report,
            epochs,
            mut producers,
            greatest_producer,
            mut replacements,
            segments,
        } = progress;
        report.log_start = report.log_start.min(report.log_end);
        producers.release_completed(report.log_end);
        let (path, bytes) = partition_dir::epochs_file(self.to, &epochs);
        replacements.add(path, bytes);
        replacements.add(
            SegmentFile::Snapshot.path(self.to, report.log_end),
            encode_snapshot(&producers.snapshot()),
        );
        let log = JournalOf {
            files: &self.dir.files,
            dir: self.to,
            id: &self.spec.id,
            topic_id: self.spec.topic_id,
        };
        let closed = Closed {
            log_start: report.log_start,
            log_end: report.log_end,
            epoch: epochs.latest().unwrap_or(LeaderEpoch(0)),
            first_unstable: producers.first_unstable(report.log_end),
        };
        let (path, bytes) = closed_manifest(&log, &segments, closed, Complete::Yes);
        replacements.add(path, bytes);
        // Syncs the directory, too, and with it the names of the logs.
        replacements.commit(&self.dir.files)?;
        let latest = epochs.latest();
        if let Some(latest) = latest.filter(|latest| *latest > EPOCH_MAX) {
            let reason = format!("its leader epoch {latest} leaves too few for the starts of this server");
            return Err(self.unusable(reason));
        }
        if let Some(id) = greatest_producer.filter(|id| *id > PRODUCER_ID_MAX) {
            let id = id.0;
            let reason = format!("its producer id {id} leaves too few for the producers of this server");
            return Err(self.unusable(reason));
        }
        Ok(Filled {
            report,
            latest,
            greatest_producer,
        })
    }

    fn unusable(&self, reason: String) -> StoreError {
        StoreError::Unusable {
            path: self.from.to_path_buf(),
            reason,
        }
    }

    /// Lists the foreign logs, ascending.
    fn logs(&self) -> Result<Vec<(Offset, PathBuf)>, StoreError> {
        let unusable = |reason: &str| self.unusable(reason.to_owned());
        let entries = readable(self.dir.files.fs().list(self.from), "list", self.from)?;
        let mut logs = Vec::new();
        for entry in &entries {
            let segment_file = SegmentFile::parse(&entry.name);
            if entry.kind != FileKind::File {
                if let Some((_, SegmentFile::Log)) = segment_file {
                    let path = self.from.join(&entry.name);
                    let reason = "it is no file; put the log itself in its place".to_owned();
                    return Err(StoreError::Unusable { path, reason });
                }
                continue;
            }
            let in_transit = [super::paths::SWAP, super::paths::CLEANED];
            if in_transit.iter().any(|suffix| entry.name.ends_with(suffix)) {
                return Err(unusable(
                    "a compaction was cut off in it; let its broker start once and stop cleanly, then adopt it",
                ));
            }
            if let Some((base, SegmentFile::Log)) = segment_file {
                logs.push((base, self.from.join(&entry.name)));
            }
        }
        if logs.is_empty() {
            return Err(unusable(
                "there is no .log file in it; name the directory of one partition",
            ));
        }
        Ok(logs)
    }

    fn segment(
        &self,
        base: Offset,
        path: &Path,
        place: Place<'_>,
        progress: &mut Progress,
    ) -> Result<(), StoreError> {
        let files = &self.dir.files;
        let file = readable(files.fs().open(path, OpenMode::Read), "open", path)?;
        let len = file.len_bytes().context("read", path)?;
        if len == 0 && matches!(place, Place::Before) {
            // Compaction has taken all of it. Here an empty log below the recovery point is one that lost its bytes.
            return Ok(());
        }
        let scanned = self.verify(file.as_ref(), base, path, progress)?;
        if let Some(damage) = self
            .damage(file.as_ref(), base, &scanned, place)
            .context("read", path)?
        {
            return Err(StoreError::Unusable {
                path: path.to_path_buf(),
                reason: format!("{damage}; {ADVICE}"),
            });
        }
        self.still_wanted()?;
        let report = &mut progress.report;
        report.segments += 1;
        report.batches += scanned.batches;
        report.records += scanned.content.records;
        report.size_bytes += u64::from(scanned.end);
        report.dropped_tail_bytes += len - u64::from(scanned.end);
        report.log_end = scanned.next;
        let to = log_path(self.to, base);
        match place {
            Place::Before => self.share(path, file.as_ref(), &to, len)?,
            Place::Last(_) => self.copy(file.as_ref(), &to, u64::from(scanned.end))?,
        }
        let modified = files.fs().stat(path).context("read", path)?.modified;
        let append_times = AppendTimes::between(base, scanned.next, None, modified);
        let sealed = sealed_of(to, scanned, append_times);
        add_pending_indexes(&sealed, &mut progress.replacements);
        progress.segments.push(Arc::new(sealed));
        progress.replacements.commit_if_many(files)
    }

    /// Says what keeps a log from being brought in.
    fn damage(
        &self,
        file: &dyn File,
        base: Offset,
        scanned: &Scanned,
        place: Place<'_>,
    ) -> io::Result<Option<String>> {
        match place {
            Place::Before => Ok(scanned.stop.as_ref().map(|stop| {
                let end = scanned.end;
                format!("position {end}: {stop}; only the last log may end in a torn tail")
            })),
            Place::Last(beside) => {
                let last = LastLog {
                    file,
                    len: u32::try_from(file.len_bytes()?).expect("it was scanned"),
                    base,
                    scanned,
                };
                beside.damage_of(&last, self.go_on)
            }
        }
    }

    fn still_wanted(&self) -> Result<(), StoreError> {
        if (self.go_on)() {
            return Ok(());
        }
        Err(self.unusable("its verification was given up".to_owned()))
    }

    fn verify(
        &self,
        file: &dyn File,
        base: Offset,
        path: &Path,
        progress: &mut Progress,
    ) -> Result<Scanned, StoreError> {
        let config = &self.spec.config;
        let len = file.len_bytes().context("read", path)?;
        if base < progress.report.log_end {
            let reason = format!(
                "it begins before offset {}, where the log before it ends",
                progress.report.log_end
            );
            return Err(StoreError::Unusable {
                path: path.to_path_buf(),
                reason,
            });
        }
        let spec = ScanSpec {
            base,
            len: u32::try_from(len).map_err(|_| StoreError::Unusable {
                path: path.to_path_buf(),
                reason: format!("{len} bytes are too many for a segment"),
            })?,
            until: Offset::MAX,
            holes: Holes::Legal,
            index_interval_bytes: config.index_interval_bytes,
            max_decompressed_bytes: config.max_decompressed_bytes,
        };
        progress.report.skip_to(base);
        let Progress {
            report,
            epochs,
            producers,
            greatest_producer,
            ..
        } = progress;
        let limit = DecompressLimit(config.max_decompressed_bytes);
        let mut unreadable = None;
        let mut scanned = scan(file, spec, |batch, indexes| {
            if let Err(damage) = read_records(batch, limit) {
                unreadable = Some(damage);
                return ControlFlow::Break("unreadable".to_owned());
            }
            let producer = batch.header().producer.map(|stamp| stamp.id);
            *greatest_producer = (*greatest_producer).max(producer);
            report.skip_to(batch.header().base_offset);
            report.log_end = batch.header().next_offset();
            if let Some(epoch) = batch.header().leader_epoch {
                let _ = epochs.assign(epoch, batch.header().base_offset);
            }
            if let Some(aborted) = replay_batch(producers, batch, self.now) {
                indexes.add_aborted(aborted);
            }
            if (self.go_on)() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break("given up".to_owned())
            }
        })
        .context("read", path)?;
        self.still_wanted()?;
        if let Some(damage) = unreadable {
            let (end, source) = (scanned.end, because(&damage));
            return Err(StoreError::Unusable {
                path: path.to_path_buf(),
                reason: format!("position {end}: {damage}{source}; {ADVICE}"),
            });
        }
        scanned.indexes.seal();
        Ok(scanned)
    }

    /// Gives a sealed log a second name here. It is copied where the system allows none: on another disk, or of a file that
    /// belongs to somebody else. So is one that we may not write: a start opens what it verifies to be able to cut it.
    fn share(&self, path: &Path, original: &dyn File, to: &Path, len: u64) -> Result<(), StoreError> {
        let files = &self.dir.files;
        let linked = files.fs().link(path, to);
        match linked.and_then(|()| files.fs().open(to, OpenMode::ReadWrite)) {
            Ok(file) => file.sync_data(SITE_SHARED).context("sync", to),
            Err(error) if calls_for_a_copy(error.kind()) => {
                remove_if_there(files, to).context("remove", to)?;
                self.copy(original, to, len)
            }
            Err(error) => Err(error).context("link", to),
        }
    }

    fn copy(&self, from: &dyn File, to: &Path, len: u64) -> Result<(), StoreError> {
        let file = self
            .dir
            .files
            .fs()
            .open(to, OpenMode::CreateNew)
            .context("create", to)?;
        let mut chunk = BytesMut::zeroed(COPY_CHUNK);
        let mut position = 0;
        while position < len {
            let part = usize::try_from(len - position).map_or(COPY_CHUNK, |left| left.min(COPY_CHUNK));
            from.read_exact_at(&mut chunk[..part], position)
                .context("read", self.from)?;
            file.write_all_at(&[IoSlice::new(&chunk[..part])], position)
                .context("write", to)?;
            position += u64::try_from(part).expect("a chunk fits");
        }
        file.sync_data(SITE_COPY).context("sync", to)
    }
}

impl Progress {
    /// Nothing is read yet of logs that begin at `base`.
    fn beginning(base: Offset, log_start: Option<Offset>) -> Self {
        let mut progress = Self::default();
        progress.report.log_start = log_start.map_or(base, |start| start.max(base));
        progress.report.log_end = base;
        progress
    }
}

impl AdoptReport {
    /// Goes on at `offset`, which no batch before it reaches.
    fn skip_to(&mut self, offset: Offset) {
        let missing = offset.0 - self.log_end.max(self.log_start).0;
        self.missing_offsets += u64::try_from(missing).unwrap_or(0);
        self.log_end = offset;
    }
}

/// Tells what to do about a file or directory of somebody else that cannot be read.
fn readable<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<T, StoreError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(StoreError::Unusable {
            path: path.to_path_buf(),
            reason: format!(
                "{error}; let the user that the server runs as read it, or adopt a copy that it may read"
            ),
        }),
        result => result.context(action, path),
    }
}

/// Reads a batch to its last record. Its checksum says that the bytes are what somebody wrote, and no more.
fn read_records(batch: &RecordBatch, limit: DecompressLimit) -> Result<(), Damage> {
    let payload = batch.open(limit)?;
    payload.glances().try_for_each(|record| record.map(drop))
}

/// Returns what the text of `error` leaves to its source.
fn because(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or(String::new(), |source| format!(": {source}"))
}

/// Tells whether a link failed for a reason that keeps nobody from copying.
fn calls_for_a_copy(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::Unsupported
    )
}

/// Where a log stands in its directory.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Before,
    /// The last one, and what tells of it.
    Last(&'a Beside),
}
