//! Why a benchmark gave no figure.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::client;
use crate::server::{StartError, StopError};
use crate::storage::{AppendError, CompactError, ReadError, StoreError};
use crate::types::{Offset, PartitionId, Timestamp};

/// Why a benchmark gave no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The connection, or the server's answer to an administrative call.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A call of the load ended with this status.
    #[error("the server ended the load: {0}")]
    Status(Box<tonic::Status>),
    /// The server did not acknowledge a batch.
    #[error("the server refused a batch of the load: {message}")]
    Refused {
        /// What it said.
        message: String,
    },
    /// What was read is not what was written.
    #[error(
        "{what}: {found} batches with checksum chain {found_chain:08x}, {expected} with {expected_chain:08x} were written"
    )]
    Lost {
        /// What was read.
        what: String,
        /// Batches written.
        expected: u64,
        /// Batches read.
        found: u64,
        /// Chain over what was written.
        expected_chain: u32,
        /// Chain over what was read.
        found_chain: u32,
    },
    /// A lookup by time gave another record than the one written with that time.
    #[error("lookup of time {at} in {segments} segments found offset {found:?}, not {expected}")]
    WrongLookup {
        /// The time asked for, in milliseconds.
        at: i64,
        /// Segments of the log.
        segments: u32,
        /// What it should have found.
        expected: i64,
        /// What it found.
        found: Option<i64>,
    },
    /// The own server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The own server did not stop cleanly.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A broker in this process.
    #[error(transparent)]
    Embedded(#[from] crate::embedded::Error),
    /// The broker that fills a directory.
    #[error(transparent)]
    Broker(#[from] crate::broker::Error),
    /// A store that is measured without a server.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An append to it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A lookup in it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A pass over it.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// What is left after a pass is not what should be.
    #[error("the compacted log is wrong: {what}")]
    Compaction {
        /// What differs.
        what: String,
    },
    /// The object store.
    #[cfg(feature = "tier")]
    #[error(transparent)]
    Tier(#[from] crate::tier::TierError),
    /// What went to the archive did not come back from it, or could not go there.
    #[cfg(feature = "tier")]
    #[error("the archive: {what}")]
    Archive {
        /// What is wrong.
        what: String,
    },
    /// The process under measurement did not do what it should.
    #[error("{command}: {reason}")]
    Process {
        /// What was run.
        command: String,
        /// What is wrong.
        reason: String,
    },
    /// A workload that is no workload.
    #[error(transparent)]
    Workload(#[from] super::WorkloadError),
    /// A record that is no record.
    #[error(transparent)]
    Record(#[from] super::RecordError),
    /// What a reader got is not what was written.
    #[error("{reader} of topic {topic}: {fault}")]
    Verification {
        /// Which reader.
        reader: String,
        /// What it read.
        topic: String,
        /// What is wrong.
        fault: super::Fault,
    },
    /// A read between two times gave a record of another.
    #[error(
        "topic {topic}, partition {partition}: a read from {from} to {to} gave a record of {}",
        found.map_or("no time".to_owned(), |time| time.to_string())
    )]
    OutsideTimes {
        /// What was read.
        topic: String,
        /// Where.
        partition: PartitionId,
        /// The record's time.
        found: Option<Timestamp>,
        /// The least that was asked for.
        from: Timestamp,
        /// The first that was not.
        to: Timestamp,
    },
    /// A partition has more or fewer offsets than records were written to it.
    #[error(
        "topic {topic}, partition {partition}: the log ends at offset {found}, {expected} records were acknowledged"
    )]
    WrongEnd {
        /// Which topic.
        topic: String,
        /// Which partition.
        partition: PartitionId,
        /// Its end.
        found: Offset,
        /// Records written.
        expected: u64,
    },
    /// A reader comes no further.
    #[error("{reader} of topic {topic} got nothing for {} s and stands at {at:?}; is the server alive?", waited.as_secs())]
    Stalled {
        /// Which reader.
        reader: String,
        /// What it reads.
        topic: String,
        /// How long.
        waited: Duration,
        /// Partitions and the next offset of each.
        at: String,
    },
    /// It was told to end.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl From<tonic::Status> for BenchError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Adds what was tried, and on what, to an error of the operating system.
pub(super) trait IoContext<T> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BenchError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Io {
            action,
            path: path.into(),
            source,
        })
    }
}
