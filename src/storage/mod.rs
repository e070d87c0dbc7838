//! Partitions on disk: synchronous, without clock, runtime or network. (Signatures; the bodies are being written.)
#![allow(missing_docs, unused_variables, clippy::todo, dead_code)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::FileCache;
use crate::record::Accepted;
use crate::types::*;

/// Settings of one log, already validated; Kafka's topic settings that concern storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    pub segment_bytes: u32,
    /// Milliseconds between a segment's first record and its roll, jitter not yet subtracted.
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub durability: Durability,
    /// With `Written`: sync at the latest after so many records / milliseconds. i64::MAX means never.
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub producer_id_expiration_ms: i64,
    /// Bound on the decompressed size of one batch when records must be looked at (lookup by time, recovery).
    pub max_decompressed_bytes: u32,
}
// impl Default for LogConfig: Kafka's defaults, durability Synced.

/// Which confirmation moves the high watermark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    Written,
    Synced,
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub dir: PathBuf,
    /// 0: one per core.
    pub recovery_threads: usize,
}

#[derive(Clone, Debug)]
pub struct PartitionSpec {
    pub id: TopicPartition,
    pub topic_id: TopicId,
    pub config: LogConfig,
}

/// A data directory, owned by this process while open.
#[derive(Debug)]
pub struct Store {}
impl Store {
    /// Takes the lock, reads or makes meta.properties, claims the next epoch, reads checkpoints and the clean marker (removing it). Opens no partition.
    pub fn open(files: Arc<FileCache>, config: StoreConfig, now: Timestamp) -> Result<Store, StoreError> {
        todo!()
    }
    pub fn epoch(&self) -> LeaderEpoch {
        todo!()
    }
    pub fn cluster_id(&self) -> &str {
        todo!()
    }
    /// Partition directories found at open, by name.
    pub fn found(&self) -> &[TopicPartition] {
        todo!()
    }
    /// Opens partitions in parallel, recovering those that need it; results in the order of `specs`. A partition without a directory opens empty and
    /// touches no disk before its first append. A directory of another topic id is set aside as `-stray` first.
    pub fn open_partitions(
        &self,
        specs: Vec<PartitionSpec>,
        now: Timestamp,
    ) -> Vec<Result<Arc<Partition>, StoreError>> {
        todo!()
    }
    /// Removes a partition and its data; readers that hold bytes keep them. Also works for a directory left by an earlier try.
    pub fn remove_partition(&self, id: &TopicPartition) -> Result<(), StoreError> {
        todo!()
    }
    /// Renames a directory that belongs to no topic to `<name>.<32hex>-stray`.
    pub fn set_aside(&self, id: &TopicPartition) -> Result<PathBuf, StoreError> {
        todo!()
    }
    /// One round of group commit: syncs everything appended so far to these partitions, many files at once. Results in their order.
    pub fn sync(&self, partitions: &[Arc<Partition>]) -> Vec<Result<Synced, StoreError>> {
        todo!()
    }
    /// Writes the checkpoint files (recovery points, log starts, high watermarks) of all open partitions; makes durable first what they permit to forget.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Syncs and closes every partition, writes checkpoints and the clean marker, gives the lock back. Nothing may be appended any more.
    pub fn close(&self, now: Timestamp) -> Result<(), StoreError> {
        todo!()
    }
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        todo!()
    }
    /// Verifies a foreign partition directory and brings it in as `spec.id`, which must hold nothing yet and not be open. The original is not altered.
    pub fn adopt(
        &self,
        from: &Path,
        spec: PartitionSpec,
        now: Timestamp,
    ) -> Result<(Arc<Partition>, AdoptReport), StoreError> {
        todo!()
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

/// One partition's log. All methods may be called from any thread.
#[derive(Debug)]
pub struct Partition {}
impl Partition {
    pub fn id(&self) -> &TopicPartition {
        todo!()
    }
    pub fn topic_id(&self) -> TopicId {
        todo!()
    }
    pub fn configure(&self, config: LogConfig) {
        todo!()
    }
    /// Appends one batch; does not sync. Blocking only for a write into the page cache.
    pub fn append(&self, batch: &Accepted, origin: Origin, now: Timestamp) -> Result<Append, AppendError> {
        todo!()
    }
    pub fn watermarks(&self) -> WatermarkView {
        todo!()
    }
    /// Reads whole batches; may touch a disk: call it off the network threads.
    pub fn read(&self, read: &Read) -> Result<Slice, ReadError> {
        todo!()
    }
    /// Aborted transactions that overlap the range, by first offset. May touch a disk.
    pub fn aborted(&self, range: Range<Offset>) -> Result<Vec<AbortedTransaction>, ReadError> {
        todo!()
    }
    /// First record below `bound` with this timestamp or a later one. May touch a disk.
    pub fn find_time(&self, at: Timestamp, bound: Offset) -> Result<Option<Found>, ReadError> {
        todo!()
    }
    /// First record below `bound` that has the greatest timestamp. May touch a disk.
    pub fn find_max_timestamp(&self, bound: Offset) -> Result<Option<Found>, ReadError> {
        todo!()
    }
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        todo!()
    }
    /// Raises the log start (in memory; durable after the next `Store::checkpoint`); a lower one changes nothing. Returns the log start.
    pub fn raise_log_start(&self, to: Offset) -> Result<Offset, ReadError> {
        todo!()
    }
    pub fn describe(&self) -> PartitionStats {
        todo!()
    }
    /// True when something appended is not synced yet and, by `flush.ms` / `flush.messages` (Written) or always (Synced), should be now.
    pub fn sync_due(&self, now: Timestamp) -> bool {
        todo!()
    }
    /// After a failed sync or write: re-reads, rebuilds and resumes (DESIGN invariant 6). Blocking.
    pub fn repair(&self, now: Timestamp) -> Result<(), StoreError> {
        todo!()
    }
    pub fn refusal(&self) -> Option<String> {
        todo!()
    }
    /// Forgets idle producers.
    pub fn expire_producers(&self, now: Timestamp) {
        todo!()
    }
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
    /// Of a duplicate: true and the offsets (and timestamp) of the first time.
    pub duplicate_of: Option<Timestamp>, // Some(timestamp of the original batch) when nothing was written
    pub is_duplicate: bool,
    pub log_start: Offset,
    /// The high watermark after the append: with `Durability::Written` past the batch.
    pub high_watermark: Offset,
    pub rolled: bool,
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
    /// Exclusive; batches that end at or beyond it are not returned unless they begin before (pass a watermark: always a batch boundary).
    pub until: Offset,
    /// Skip segments and batches that hold no record in this range (what the indexes and headers tell).
    pub times: Option<Range<Timestamp>>,
    pub max_bytes: usize,
    /// Return the first batch even if it alone is larger than max_bytes.
    pub first: FirstBatch,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstBatch {
    Whole,
    IfItFits,
}

/// Whole batches lying back to back, from one segment.
#[derive(Clone, Debug)]
pub struct Slice {
    pub bytes: Bytes,
    /// Where the next read goes on; progress is made also when nothing matched (bytes empty, next_offset > from, maybe = until).
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

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("batch of {size_bytes} bytes exceeds segment.bytes = {segment_bytes}")]
    LargerThanSegment { size_bytes: u64, segment_bytes: u64 },
    #[error("producer {id} epoch {got} is fenced by epoch {current}")]
    FencedProducer {
        id: ProducerId,
        got: ProducerEpoch,
        current: ProducerEpoch,
    },
    #[error("producer {id} sent sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        id: ProducerId,
        got: Sequence,
        expected: Sequence,
    },
    #[error("transaction state forbids it: {reason}")]
    InvalidTransactionState { reason: &'static str },
    /// Being repaired after a failed write or sync; call `repair`.
    #[error("writes are refused: {reason}")]
    Refused { reason: String },
    /// The write itself failed (disk full, I/O error); nothing was appended.
    #[error("{0}")]
    Storage(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is out of range: {log_start} to {log_end}")]
    OutOfRange {
        offset: Offset,
        log_start: Offset,
        log_end: Offset,
    },
    #[error("{file} is damaged at position {position}: {reason}")]
    Damaged {
        file: String,
        position: u64,
        reason: String,
    },
    #[error("{0}")]
    Storage(#[from] StoreError),
}

/// An I/O failure or an unusable directory: what failed, on which path, and the disk's own words.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("data directory {dir} is in use by another process; stop it or choose another --data-dir")]
    Locked { dir: PathBuf },
    #[error("{path}: {reason}")]
    Unusable { path: PathBuf, reason: String },
}
