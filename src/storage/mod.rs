//! Partitions on disk. (Stand-in: one plain file per partition, no index, no recovery, no producer snapshots; the real layer
//! replaces it at the merge.)
#![allow(
    missing_docs,
    unused_variables,
    clippy::too_many_lines,
    clippy::collapsible_if,
    clippy::unnecessary_wraps
)]

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::env::{File, FileCache, FileKind, LockGuard, OpenMode, SyncSite};
use crate::record::{Accepted, Batches, DecompressLimit, RecordBatch};
use crate::types::*;

/// Which confirmation moves the high watermark (DESIGN invariant 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The append; the sync follows `flush.ms` and `flush.messages`.
    Written,
    /// A group-committed sync.
    Synced,
}

/// Settings of one log, under the meanings of Kafka's topic settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Greatest size of a segment's `.log`, in bytes.
    pub segment_bytes: u32,
    /// Greatest span of a segment, in milliseconds.
    pub segment_ms: i64,
    /// Up to so many milliseconds are taken off `segment_ms`, differently for each segment.
    pub segment_jitter_ms: i64,
    /// Greatest size of each index, in bytes.
    pub segment_index_bytes: u32,
    /// Bytes of log between two index entries.
    pub index_interval_bytes: u32,
    /// What moves the high watermark.
    pub durability: Durability,
    /// With [`Durability::Written`]: sync after so many records; `i64::MAX` is never.
    pub flush_messages: i64,
    /// With [`Durability::Written`]: sync so many milliseconds after the append; `i64::MAX` is never.
    pub flush_ms: i64,
    /// Forget a producer so many milliseconds after its last batch.
    pub producer_id_expiration_ms: i64,
    /// Greatest decompressed size of one batch when its records must be looked at, in bytes.
    pub max_decompressed_bytes: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            durability: Durability::Synced,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
            max_decompressed_bytes: 64 << 20,
        }
    }
}

/// An I/O failure or a directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process owns the data directory.
    #[error("data directory {} is in use by another process; stop that one or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Something in the way that a person must look at.
    #[error("cannot use {}: {reason}", path.display())]
    Unusable {
        /// What is in the way.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

impl StoreError {
    /// True when the disk had no room: the same call may succeed later.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            Self::Locked { .. } | Self::Unusable { .. } => false,
        }
    }
}

/// Why a batch was not appended. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Larger than a segment may grow.
    #[error("batch of {size_bytes} bytes exceeds segment.bytes = {segment_bytes}")]
    LargerThanSegment {
        /// The batch's size in bytes.
        size_bytes: u64,
        /// The limit in bytes.
        segment_bytes: u64,
    },
    /// The producer's epoch, sequence or transaction forbids it.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The log refuses writes since a write or sync failed; `Partition::repair` brings it back.
    #[error("{reason}")]
    Refused {
        /// What happened.
        reason: String,
    },
    /// The offsets are used up.
    #[error("the partition has no offset left")]
    Exhausted,
    /// The disk refused the write.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Outside the log.
    #[error("offset {offset} is outside the log from {log_start} to {log_end}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// The first that can be read.
        log_start: Offset,
        /// The next to be assigned.
        log_end: Offset,
    },
    /// Bytes in the log are not what was written.
    #[error("{} is damaged at position {position}: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Byte position.
        position: u64,
        /// Which check failed.
        reason: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoordinatorEpoch(pub i32);
/// Why a batch or marker may not be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProducerError {
    /// Of an incarnation that a newer one has replaced.
    #[error("producer {id} has epoch {current}, the batch is of epoch {got}")]
    InvalidEpoch {
        /// The producer.
        id: ProducerId,
        /// The newest epoch seen.
        current: ProducerEpoch,
        /// The epoch of the batch or marker.
        got: ProducerEpoch,
    },
    /// A gap, or a duplicate too old to be known.
    #[error("producer {id} must go on with sequence {expected}, the batch begins with {got}")]
    OutOfOrderSequence {
        /// The producer.
        id: ProducerId,
        /// The sequence that may come next.
        expected: Sequence,
        /// The sequence of the batch.
        got: Sequence,
    },
    /// A client's batch without a sequence.
    #[error("a batch of producer {id} has no sequence")]
    NoSequence {
        /// The producer.
        id: ProducerId,
    },
    /// A batch outside a transaction while the producer's is open.
    #[error("producer {id} has a transaction open since offset {first_offset}, the batch is not part of it")]
    InvalidTransactionState {
        /// The producer.
        id: ProducerId,
        /// Where the transaction began.
        first_offset: Offset,
    },
    /// A marker of a coordinator that a newer one has replaced.
    #[error(
        "producer {id} has seen coordinator epoch {}, the marker is of epoch {}",
        current.0,
        got.0
    )]
    CoordinatorFenced {
        /// The producer.
        id: ProducerId,
        /// The newest coordinator epoch seen.
        current: CoordinatorEpoch,
        /// The one of the marker.
        got: CoordinatorEpoch,
    },
    /// All producers that may be remembered have open transactions; it works again when some have ended.
    #[error("producer {id} cannot be added: {limit} producers have open transactions")]
    TooManyProducers {
        /// The producer.
        id: ProducerId,
        /// How many may be remembered.
        limit: NonZeroUsize,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    pub dir: PathBuf,
    pub threads: usize,
}

#[derive(Clone, Debug)]
pub struct PartitionSpec {
    pub id: TopicPartition,
    pub topic_id: TopicId,
    pub config: LogConfig,
}

#[derive(Debug)]
pub struct Store {
    files: Arc<FileCache>,
    dir: PathBuf,
    found: Vec<TopicPartition>,
    open: Mutex<HashMap<TopicPartition, Arc<Partition>>>,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { action, path, source }
}

impl Store {
    pub fn open(files: Arc<FileCache>, config: StoreConfig) -> Result<Store, StoreError> {
        let dir = config.dir;
        match files.fs().create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("create", &dir)(error));
            }
            _ => {}
        }
        let lock = files
            .fs()
            .lock(&dir.join(".lock"))
            .map_err(|_| StoreError::Locked { dir: dir.clone() })?;
        let names = files.fs().list(&dir).map_err(io_error("list", &dir))?;
        let dirs = names.iter().filter(|entry| entry.kind == FileKind::Dir);
        let found = dirs
            .filter_map(|entry| TopicPartition::parse_dir_name(&entry.name))
            .collect();
        Ok(Store {
            files,
            dir,
            found,
            open: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        })
    }
    pub fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(0)
    }
    pub fn found(&self) -> &[TopicPartition] {
        &self.found
    }
    pub fn open_partitions(
        &self,
        specs: Vec<PartitionSpec>,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        specs.into_iter().map(|spec| self.open_one(spec)).collect()
    }
    fn open_one(&self, spec: PartitionSpec) -> Result<Arc<Partition>, StoreError> {
        let path = self
            .dir
            .join(spec.id.to_string())
            .join("00000000000000000000.log");
        let mut log = Log::default();
        if let Ok(file) = self.files.fs().open(&path, OpenMode::ReadWrite) {
            let len = file.len_bytes().map_err(io_error("stat", &path))?;
            let mut bytes = vec![0; usize::try_from(len).expect("small")];
            file.read_exact_at(&mut bytes, 0)
                .map_err(io_error("read", &path))?;
            for batch in Batches::over(Bytes::from(bytes), 0) {
                let (_, batch) = batch.map_err(|damage| StoreError::Unusable {
                    path: path.clone(),
                    reason: damage.to_string(),
                })?;
                log.learn(batch);
            }
            log.high_watermark = log.end;
            log.synced = log.end;
            log.file = Some(file);
        }
        let partition = Arc::new(Partition {
            id: spec.id.clone(),
            topic_id: spec.topic_id,
            path,
            files: Arc::clone(&self.files),
            config: Mutex::new(spec.config),
            log: Mutex::new(log),
        });
        self.open.lock().insert(spec.id, Arc::clone(&partition));
        Ok(partition)
    }
    pub fn remove_partition(&self, id: &TopicPartition) -> Result<(), StoreError> {
        self.open.lock().remove(id);
        let dir = self.dir.join(id.to_string());
        match self.files.fs().remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &dir)(error)),
            _ => self
                .files
                .fs()
                .sync_dir(&self.dir, SyncSite("stand-in"))
                .map_err(io_error("sync", &dir)),
        }
    }
    pub fn set_aside(&self, id: &TopicPartition) -> Result<PathBuf, StoreError> {
        let (from, to) = (
            self.dir.join(id.to_string()),
            self.dir.join(format!("{id}.{}-stray", "0".repeat(32))),
        );
        self.files
            .fs()
            .rename(&from, &to)
            .map_err(io_error("rename", &from))?;
        Ok(to)
    }
    pub fn sync(&self, partitions: &[Arc<Partition>]) -> Vec<Result<Synced, StoreError>> {
        partitions.iter().map(|partition| partition.sync()).collect()
    }
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }
    pub fn close(&self) -> Result<(), StoreError> {
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        for result in self.sync(&open) {
            result?;
        }
        self.lock.lock().take();
        Ok(())
    }
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.files
            .fs()
            .free_bytes(&self.dir)
            .map_err(io_error("stat", &self.dir))
    }
    pub fn adopt(
        &self,
        from: &Path,
        spec: PartitionSpec,
        now: Timestamp,
    ) -> Result<(Arc<Partition>, AdoptReport), StoreError> {
        Err(StoreError::Unusable {
            path: from.to_path_buf(),
            reason: "the stand-in adopts nothing".to_owned(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Synced {
    pub recovery_point: Offset,
    pub high_watermark: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdoptReport {
    pub log_start: Offset,
    pub log_end: Offset,
    pub segments: u64,
    pub batches: u64,
    pub records: u64,
    pub size_bytes: u64,
    pub dropped_tail_bytes: u64,
}

#[derive(Debug)]
pub struct Partition {
    id: TopicPartition,
    topic_id: TopicId,
    path: PathBuf,
    files: Arc<FileCache>,
    config: Mutex<LogConfig>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    file: Option<Arc<dyn File>>,
    batches: Vec<RecordBatch>,
    len: u64,
    start: Offset,
    end: Offset,
    high_watermark: Offset,
    synced: Offset,
    refused: Option<String>,
    producers: HashMap<ProducerId, Vec<RecordBatch>>,
}

impl Log {
    fn learn(&mut self, batch: RecordBatch) {
        self.end = batch.header().next_offset();
        self.len += u64::from(batch.header().size_bytes);
        if let Some(producer) = batch.header().producer {
            self.producers.entry(producer.id).or_default().push(batch.clone());
        }
        self.batches.push(batch);
    }
}

impl Partition {
    pub fn id(&self) -> &TopicPartition {
        &self.id
    }
    pub fn configure(&self, config: LogConfig) {
        *self.config.lock() = config;
    }
    pub fn append(&self, batch: &Accepted, origin: Origin, now: Timestamp) -> Result<Append, AppendError> {
        let config = self.config.lock().clone();
        let mut log = self.log.lock();
        if let Some(reason) = &log.refused {
            return Err(AppendError::Refused {
                reason: reason.clone(),
            });
        }
        let append = |log: &Log, base, last, written| Append {
            base_offset: base,
            last_offset: last,
            written,
            log_start: log.start,
            high_watermark: log.high_watermark,
        };
        if let Some(producer) = batch.header().producer {
            let known = log.producers.get(&producer.id);
            let same = |old: &&RecordBatch| old.header().producer == Some(producer);
            if let Some(old) = known.and_then(|known| known.iter().find(same)) {
                let timestamp = old.header().max_timestamp;
                return Ok(append(
                    &log,
                    old.header().base_offset,
                    old.header().last_offset(),
                    Written::Before { timestamp },
                ));
            }
            let next = known
                .and_then(|known| known.last())
                .and_then(|last| last.header().last_sequence());
            if let (Some(last), Some(got)) = (next, producer.base_sequence) {
                if got != last.plus(1) {
                    return Err(ProducerError::OutOfOrderSequence {
                        id: producer.id,
                        got,
                        expected: last.plus(1),
                    }
                    .into());
                }
            }
        }
        let stamped = batch.stamped(log.end, LeaderEpoch(0));
        if log.file.is_none() {
            let dir = self.path.parent().expect("it has one");
            match self.files.fs().create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("create", dir)(error).into());
                }
                _ => {}
            }
            log.file = Some(
                self.files
                    .fs()
                    .open(&self.path, OpenMode::ReadWrite)
                    .map_err(io_error("open", &self.path))?,
            );
            let site = SyncSite("stand-in");
            let root = dir.parent().expect("it has one");
            for dir in [dir, root] {
                self.files
                    .fs()
                    .sync_dir(dir, site)
                    .map_err(io_error("sync", dir))?;
            }
            if let Some(above) = root.parent() {
                self.files
                    .fs()
                    .sync_dir(above, site)
                    .map_err(io_error("sync", above))?;
            }
        }
        let file = log.file.clone().expect("just opened");
        file.write_all_at(&[IoSlice::new(stamped.bytes())], log.len)
            .map_err(io_error("write", &self.path))?;
        let (base, last) = (stamped.header().base_offset, stamped.header().last_offset());
        log.learn(stamped);
        if config.durability == Durability::Written {
            log.high_watermark = log.end;
        }
        Ok(append(&log, base, last, Written::Now))
    }
    fn sync(&self) -> Result<Synced, StoreError> {
        let (file, end) = {
            let log = self.log.lock();
            (log.file.clone(), log.end)
        };
        let result = file
            .map_or(Ok(()), |file| file.sync_data(SyncSite("stand-in")))
            .map_err(io_error("sync", &self.path));
        let mut log = self.log.lock();
        if let Err(error) = &result {
            log.refused = Some(error.to_string());
        }
        result?;
        log.synced = end;
        log.high_watermark = log.high_watermark.max(end);
        Ok(Synced {
            recovery_point: log.synced,
            high_watermark: log.high_watermark,
        })
    }
    pub fn watermarks(&self) -> WatermarkView {
        let log = self.log.lock();
        WatermarkView {
            log_start: log.start,
            local_start: log.start,
            last_stable: log.high_watermark,
            high_watermark: log.high_watermark,
            log_end: log.end,
            recovery_point: log.synced,
        }
    }
    pub fn read(&self, read: &Read) -> Result<Slice, ReadError> {
        let log = self.log.lock();
        if read.from < log.start || read.from > log.end {
            return Err(ReadError::OutOfRange {
                offset: read.from,
                log_start: log.start,
                log_end: log.end,
            });
        }
        let mut bytes = Vec::new();
        let mut next_offset = read.from;
        for batch in &log.batches {
            let header = batch.header();
            if header.last_offset() < read.from || header.base_offset >= read.until {
                continue;
            }
            let wanted =
                |times: &Range<Timestamp>| header.max_timestamp.is_some_and(|max| max >= times.start);
            if read.times.as_ref().is_some_and(|times| !wanted(times)) {
                if !bytes.is_empty() {
                    break;
                }
                next_offset = header.next_offset();
                continue;
            }
            let whole = bytes.is_empty() && read.first == FirstBatch::Whole;
            if !whole && bytes.len() + batch.bytes().len() > read.max_bytes {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
            next_offset = header.next_offset();
        }
        Ok(Slice {
            bytes: bytes.into(),
            next_offset,
        })
    }
    pub fn aborted(&self, range: Range<Offset>) -> Result<Vec<AbortedTransaction>, ReadError> {
        Ok(Vec::new())
    }
    pub fn find_time(&self, at: Timestamp, bound: Offset) -> Result<Option<Found>, ReadError> {
        Ok(self.find(bound, |time| time >= at))
    }
    fn find(&self, bound: Offset, wanted: impl Fn(Timestamp) -> bool) -> Option<Found> {
        let log = self.log.lock();
        let records = log
            .batches
            .iter()
            .flat_map(|batch| batch.records(DecompressLimit(1 << 20)).expect("sound"));
        let mut records = records.map(|record| record.expect("sound"));
        let found = records.find(|record| {
            record.offset >= log.start && record.offset < bound && record.timestamp.is_some_and(&wanted)
        })?;
        let leader_epoch = Some(LeaderEpoch(0));
        found.timestamp.map(|timestamp| Found {
            offset: found.offset,
            timestamp,
            leader_epoch,
        })
    }
    pub fn find_max_timestamp(&self, bound: Offset) -> Result<Option<Found>, ReadError> {
        let greatest = self
            .log
            .lock()
            .batches
            .iter()
            .filter_map(|batch| batch.header().max_timestamp)
            .max();
        Ok(greatest.and_then(|greatest| self.find(bound, |time| time == greatest)))
    }
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        Some(LeaderEpoch(0))
    }
    pub fn raise_log_start(&self, to: Offset) -> Result<Offset, ReadError> {
        let mut log = self.log.lock();
        log.start = log.start.max(to);
        Ok(log.start)
    }
    pub fn describe(&self) -> PartitionStats {
        let watermarks = self.watermarks();
        let log = self.log.lock();
        PartitionStats {
            watermarks,
            segments: 1,
            size_bytes: log.len,
            least_timestamp: None,
            greatest_timestamp: log
                .batches
                .iter()
                .filter_map(|batch| batch.header().max_timestamp)
                .max(),
            refusal: log.refused.clone(),
        }
    }
    pub fn sync_due(&self, now: Timestamp) -> SyncDue {
        let log = self.log.lock();
        let config = self.config.lock();
        if log.end - log.synced >= config.flush_messages
            || (config.flush_ms < i64::MAX && log.end > log.synced)
        {
            SyncDue::Now
        } else {
            SyncDue::No
        }
    }
    pub fn repair(&self, now: Timestamp) -> Result<(), StoreError> {
        self.log.lock().refused = None;
        self.sync().map(|_| ())
    }
    pub fn refusal(&self) -> Option<String> {
        self.log.lock().refused.clone()
    }
    pub fn expire_producers(&self, now: Timestamp) {
        let _ = self.topic_id;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncDue {
    Now,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    Now,
    Before { timestamp: Option<Timestamp> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    Client,
    Coordinator,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub written: Written,
    pub log_start: Offset,
    pub high_watermark: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatermarkView {
    pub log_start: Offset,
    pub local_start: Offset,
    pub last_stable: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
    pub recovery_point: Offset,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    pub from: Offset,
    pub until: Offset,
    pub times: Option<Range<Timestamp>>,
    pub max_bytes: usize,
    pub first: FirstBatch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstBatch {
    Whole,
    IfItFits,
}

#[derive(Clone, Debug)]
pub struct Slice {
    pub bytes: Bytes,
    pub next_offset: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub leader_epoch: Option<LeaderEpoch>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionStats {
    pub watermarks: WatermarkView,
    pub segments: u64,
    pub size_bytes: u64,
    pub least_timestamp: Option<Timestamp>,
    pub greatest_timestamp: Option<Timestamp>,
    pub refusal: Option<String>,
}
