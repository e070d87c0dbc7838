//! What can go wrong on disk, with the path and the offset that only this layer knows.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::types::Offset;

use super::ProducerError;
use super::hold::Hold;

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

/// Adds what was tried on which path to an I/O error.
pub(super) trait IoContext<T> {
    /// `action` is a verb: "read", "sync".
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            action,
            path: path.to_path_buf(),
            source,
        })
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
    /// It is not on this disk: the archive alone has it.
    #[error("offset {offset} is only in the archive, the local log begins at {local_start}")]
    Cold {
        /// The offset asked for.
        offset: Offset,
        /// The first on local disk.
        local_start: Offset,
    },
    /// Bytes in the log are not what was written.
    #[error("{} is damaged at position {position}: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Byte position.
        position: u64,
        /// The offsets that are lost, where they are known: reading can go on behind them.
        lost: Option<Range<Offset>>,
        /// Which check failed.
        reason: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a log start was not raised.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// Readers may not have seen what lies before it.
    #[error("offset {to} lies beyond the high watermark {high_watermark}")]
    BeyondHighWatermark {
        /// The start asked for.
        to: Offset,
        /// The greatest there can be.
        high_watermark: Offset,
    },
    /// A record before it is, or may be, held.
    #[error("records before offset {to} are held: {hold}")]
    Held {
        /// The start asked for.
        to: Offset,
        /// What holds them.
        hold: Hold,
    },
}
