//! What can go wrong at the broker's surface, once for every door.
//!
//! A variant says what happened and on what; [`Error::kind`] says what a caller can do about it. The doors map kinds
//! (gRPC status) and variants (machine-readable reasons, Kafka codes) in one exhaustive match each.

use std::ops::Range;
use std::time::Duration;

use crate::types::{Offset, PartitionId, TopicName, TopicPartition};

/// The ten kinds of failure: two errors of one kind ask the same of the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// The request is wrong in itself; sending it again is pointless.
    InvalidArgument,
    /// An offset outside the log.
    OutOfRange,
    /// The state of the topic or the producer forbids it.
    FailedPrecondition,
    /// A limit is reached.
    ResourceExhausted,
    /// Not now; a retry may succeed.
    Unavailable,
    /// Nothing came in time; whether it happened is open.
    DeadlineExceeded,
    /// Stored bytes are damaged.
    DataLoss,
    /// A fault of the server.
    Internal,
}

/// A refused or failed request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No topic of this name.
    #[error("topic {topic} does not exist; create it first")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has {count} partitions, no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The number asked for.
        partition: PartitionId,
        /// How many it has; numbers are below.
        count: i32,
    },
    /// A topic of this name exists.
    #[error("topic {topic} already exists")]
    TopicExists {
        /// The name.
        topic: TopicName,
    },
    /// The store's own topics are not written or changed from outside.
    #[error("topic {topic} is internal: it can be read, not changed")]
    InternalTopic {
        /// The name.
        topic: TopicName,
    },
    /// The request contradicts itself or the rules; the text says how.
    #[error("{reason}")]
    InvalidRequest {
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A setting's name or value is wrong; the text names the allowed range.
    #[error("{reason}")]
    InvalidConfig {
        /// Of which topic; the server's own have none.
        topic: Option<TopicName>,
        /// The setting, as it was named.
        setting: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// An offset outside what can be read.
    #[error(
        "offset {offset} of {partition} is out of range: it holds {log_start} to {high_watermark} (exclusive)"
    )]
    OffsetOutOfRange {
        /// Of which partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The least that can be read.
        log_start: Offset,
        /// The first that cannot be read yet.
        high_watermark: Offset,
    },
    /// A batch whose bytes are not a sound record batch.
    #[error("batch for {partition} is corrupt: {reason}")]
    CorruptBatch {
        /// Where it was to go.
        partition: TopicPartition,
        /// Which check failed.
        reason: String,
    },
    /// Records that the topic does not admit.
    #[error("records for {partition} are refused: {reason}")]
    InvalidRecord {
        /// Where they were to go.
        partition: TopicPartition,
        /// Which records, and why.
        reason: String,
        /// Their indexes in the batch.
        indexes: Vec<u32>,
    },
    /// A record's timestamp lies outside what the topic admits.
    #[error("timestamps of records for {partition} are refused: {reason}")]
    InvalidTimestamp {
        /// Where they were to go.
        partition: TopicPartition,
        /// Which records, and why.
        reason: String,
        /// Their indexes in the batch.
        indexes: Vec<u32>,
    },
    /// A batch larger than the topic or the segment admits.
    #[error("batch of {size_bytes} bytes for {partition} exceeds {limit_name} = {limit_bytes}")]
    TooLarge {
        /// Where it was to go.
        partition: TopicPartition,
        /// Its size in bytes.
        size_bytes: u64,
        /// Which limit: `max.message.bytes`, `segment.bytes` or a bound on decompressed size.
        limit_name: &'static str,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// A sequence number that is neither the next nor a known retry.
    #[error(
        "producer {producer_id} sent sequence {got} to {partition}, expected {expected}: a batch before it is missing"
    )]
    OutOfOrderSequence {
        /// Where it was to go.
        partition: TopicPartition,
        /// Whose.
        producer_id: i64,
        /// The next sequence.
        expected: i32,
        /// The sequence sent.
        got: i32,
    },
    /// A newer incarnation of the producer has written.
    #[error("producer {producer_id} epoch {got} is fenced on {partition} by epoch {current}")]
    FencedProducer {
        /// Where it was to go.
        partition: TopicPartition,
        /// Whose.
        producer_id: i64,
        /// The newer epoch.
        current: i16,
        /// The epoch sent.
        got: i16,
    },
    /// Transactional and other batches of one producer mixed against the rules.
    #[error("transaction state of {partition} forbids it: {reason}")]
    InvalidTransactionState {
        /// Where it was to go.
        partition: TopicPartition,
        /// Which rule.
        reason: String,
    },
    /// No hold of that name.
    #[error("topic {topic} has no hold named {hold:?}")]
    UnknownHold {
        /// Of which topic.
        topic: TopicName,
        /// The name asked for.
        hold: String,
    },
    /// The policy of the topic forbids the operation.
    #[error("{reason}")]
    PolicyViolation {
        /// Of which topic, if of one.
        topic: Option<TopicName>,
        /// Which policy of which topic.
        reason: String,
    },
    /// The disk has less room than the server keeps in reserve.
    #[error(
        "disk of {path} is full: {free_bytes} bytes are free, storage.min_free_bytes is {min_free_bytes}; produce is refused until space returns"
    )]
    DiskFull {
        /// The data directory.
        path: String,
        /// What is free, in bytes.
        free_bytes: u64,
        /// What must stay free, in bytes.
        min_free_bytes: u64,
    },
    /// A limit of the server is reached; less load or a later try helps.
    #[error("{what} limit of {limit} is reached; retry with less at once")]
    Overloaded {
        /// Which queue or resource.
        what: &'static str,
        /// Its limit.
        limit: u64,
    },
    /// The partition does not take writes while it is being repaired after a failed sync or write.
    #[error("{partition} refuses writes: {reason}")]
    WritesRefused {
        /// Which partition.
        partition: TopicPartition,
        /// What happened and what comes next.
        reason: String,
    },
    /// The acknowledgement did not come in time; the records may or may not be there.
    #[error("no acknowledgement from {partition} within {waited:?}; a retry with the same sequence is safe")]
    AckTimeout {
        /// Which partition.
        partition: TopicPartition,
        /// How long was waited.
        waited: Duration,
    },
    /// The server is stopping.
    #[error("the server is shutting down; connect again later")]
    ShuttingDown,
    /// What is asked for left the local disk, and this server has no archive to read it from.
    #[error(
        "offset {offset} of {partition} is only in the archive, the local disk begins with {local_start}: start the server with its tier.url"
    )]
    ArchiveOnly {
        /// Of which partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The first on the local disk.
        local_start: Offset,
    },
    /// The archive did not answer, or not in time.
    #[error("the archive of {target} is not available: {reason}")]
    ArchiveUnavailable {
        /// A partition.
        target: String,
        /// What the store said, on which object.
        reason: String,
    },
    /// The archive cannot be used before a person has changed something.
    #[error("{reason}")]
    ArchiveRefused {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Stored bytes are damaged.
    #[error("{partition} is damaged: {reason}")]
    Damaged {
        /// Which partition.
        partition: TopicPartition,
        /// The offsets that cannot be read, where they are known: reading can go on behind them.
        lost: Option<Range<Offset>>,
        /// Which file, where, how.
        reason: String,
    },
    /// The disk failed.
    #[error("storage of {target} failed: {reason}")]
    Storage {
        /// A partition or the data directory.
        target: String,
        /// What the disk said, on which file.
        reason: String,
    },
}

impl Error {
    /// Returns what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownTopic { .. } | Self::UnknownPartition { .. } | Self::UnknownHold { .. } => {
                ErrorKind::NotFound
            }
            Self::TopicExists { .. } => ErrorKind::AlreadyExists,
            Self::InvalidRequest { .. }
            | Self::InvalidConfig { .. }
            | Self::CorruptBatch { .. }
            | Self::InvalidRecord { .. }
            | Self::InvalidTimestamp { .. }
            | Self::TooLarge { .. } => ErrorKind::InvalidArgument,
            Self::OffsetOutOfRange { .. } => ErrorKind::OutOfRange,
            Self::InternalTopic { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::FencedProducer { .. }
            | Self::InvalidTransactionState { .. }
            | Self::ArchiveOnly { .. }
            | Self::ArchiveRefused { .. }
            | Self::PolicyViolation { .. } => ErrorKind::FailedPrecondition,
            Self::Overloaded { .. } => ErrorKind::ResourceExhausted,
            Self::DiskFull { .. }
            | Self::WritesRefused { .. }
            | Self::ArchiveUnavailable { .. }
            | Self::ShuttingDown => ErrorKind::Unavailable,
            Self::AckTimeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::Storage { .. } => ErrorKind::Internal,
        }
    }

    /// Says of which topic the settings are, where that is not known yet.
    pub(super) fn of_topic(mut self, name: &TopicName) -> Self {
        if let Self::InvalidConfig { topic, .. } = &mut self {
            topic.get_or_insert_with(|| name.clone());
        }
        self
    }

    /// Returns the least wait before a retry, where one may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind() {
            ErrorKind::Unavailable => Some(Duration::from_millis(500)),
            ErrorKind::ResourceExhausted => Some(Duration::from_millis(100)),
            ErrorKind::DeadlineExceeded => Some(Duration::ZERO),
            _ => None,
        }
    }
}
