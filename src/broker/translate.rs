//! From the errors of the layers below to [`Error`]: one exhaustive match each, adding the partition that they do not know.

use crate::record::{Damage, Rejection};
use crate::storage::{AppendError, ProducerError, ReadError, StoreError};
use crate::telemetry::Refusal;
use crate::types::{Offset, TopicPartition};

use super::{Error, ErrorKind};

/// A batch that did not pass the door.
pub(super) fn rejection(partition: &TopicPartition, rejection: Rejection) -> Error {
    let partition = partition.clone();
    match rejection {
        Rejection::TooLarge {
            size_bytes,
            max_bytes,
        } => Error::TooLarge {
            partition,
            size_bytes: size_bytes.into(),
            limit_name: "max.message.bytes",
            limit_bytes: max_bytes.into(),
        },
        Rejection::DecompressesTooLarge { max_bytes } => Error::InvalidRecord {
            partition,
            reason: format!(
                "the batch decompresses to more than {max_bytes} bytes, the server's limit; send smaller batches"
            ),
            indexes: Vec::new(),
        },
        Rejection::Corrupt(damage) => Error::CorruptBatch {
            partition,
            reason: damage.to_string(),
        },
        unsupported @ Rejection::UnsupportedCodec { .. } => Error::InvalidRecord {
            partition,
            reason: unsupported.to_string(),
            indexes: Vec::new(),
        },
        Rejection::InvalidBatch(fault) => {
            let source = std::error::Error::source(&fault).map(|source| format!(": {source}"));
            let reason = format!("{fault}{}", source.unwrap_or_default());
            Error::InvalidRecord {
                partition,
                reason,
                indexes: Vec::new(),
            }
        }
        Rejection::InvalidRecords { errors } => {
            let indexes = errors.first().iter().map(|error| error.index).collect();
            let reason = errors.to_string();
            if errors.any_timestamp() {
                Error::InvalidTimestamp {
                    partition,
                    reason,
                    indexes,
                }
            } else {
                Error::InvalidRecord {
                    partition,
                    reason,
                    indexes,
                }
            }
        }
    }
}

/// A batch that the log did not take. A full disk is the caller's to see first: only it knows the disk's state.
pub(super) fn append(partition: &TopicPartition, error: AppendError) -> Error {
    let partition = partition.clone();
    match error {
        AppendError::LargerThanSegment {
            size_bytes,
            segment_bytes,
        } => Error::TooLarge {
            partition,
            size_bytes,
            limit_name: "segment.bytes",
            limit_bytes: segment_bytes,
        },
        AppendError::Producer(error) => producer(partition, error),
        AppendError::Refused { reason } => Error::WritesRefused { partition, reason },
        AppendError::Exhausted => Error::PolicyViolation {
            topic: Some(partition.topic.clone()),
            reason: format!("{partition} has no offset left; write to another partition"),
        },
        AppendError::Storage(error) => store(&partition, &error),
    }
}

/// A batch that its producer's state does not admit.
fn producer(partition: TopicPartition, error: ProducerError) -> Error {
    match error {
        ProducerError::InvalidEpoch { id, current, got } => Error::FencedProducer {
            partition,
            producer_id: id.0,
            current: current.0,
            got: got.0,
        },
        ProducerError::OutOfOrderSequence { id, expected, got } => Error::OutOfOrderSequence {
            partition,
            producer_id: id.0,
            expected: expected.0,
            got: got.0,
        },
        missing @ ProducerError::NoSequence { .. } => Error::InvalidRecord {
            partition,
            reason: missing.to_string(),
            indexes: Vec::new(),
        },
        state @ (ProducerError::InvalidTransactionState { .. } | ProducerError::CoordinatorFenced { .. }) => {
            Error::InvalidTransactionState {
                partition,
                reason: state.to_string(),
            }
        }
        many @ ProducerError::TooManyProducers { .. } => Error::WritesRefused {
            partition,
            reason: many.to_string(),
        },
    }
}

/// A read that gave nothing; `high_watermark` is what readers see, where storage speaks of the log end.
pub(super) fn read(partition: &TopicPartition, error: ReadError, high_watermark: Offset) -> Error {
    let partition = partition.clone();
    match error {
        ReadError::OutOfRange {
            offset, log_start, ..
        } => Error::OffsetOutOfRange {
            partition,
            offset,
            log_start,
            high_watermark,
        },
        ReadError::Cold { offset, local_start } => Error::ArchiveOnly {
            partition,
            offset,
            local_start,
        },
        ReadError::Damaged { ref lost, .. } => Error::Damaged {
            partition,
            lost: lost.clone(),
            reason: error.to_string(),
        },
        ReadError::Storage(error) => store(&partition, &error),
    }
}

/// A disk that failed; `target` is a partition or the data directory. What a person can do is said where it is known.
pub(super) fn store(target: &dyn std::fmt::Display, error: &StoreError) -> Error {
    let to_do = match error {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "; let the user that the server runs as read and write it"
        }
        StoreError::Io { .. } | StoreError::Locked { .. } | StoreError::Unusable { .. } => "",
    };
    Error::Storage {
        target: target.to_string(),
        reason: format!("{error}{to_do}"),
    }
}

/// Bytes in the log that are not a sound batch.
pub(super) fn damage(partition: &TopicPartition, at: Offset, damage: &Damage) -> Error {
    Error::Damaged {
        partition: partition.clone(),
        lost: None,
        reason: format!("the batch at offset {at}: {damage}"),
    }
}

/// Under which reason a refusal is counted.
pub(super) fn refusal(error: &Error) -> Refusal {
    match error {
        Error::CorruptBatch { .. } => Refusal::CorruptBatch,
        Error::TooLarge { .. } => Refusal::TooLarge,
        Error::DiskFull { .. } => Refusal::DiskFull,
        Error::WritesRefused { .. } => Refusal::WritesRefused,
        Error::ShuttingDown => Refusal::ShuttingDown,
        other => match other.kind() {
            ErrorKind::NotFound => Refusal::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::InvalidArgument => Refusal::InvalidArgument,
            ErrorKind::OutOfRange => Refusal::OutOfRange,
            ErrorKind::FailedPrecondition => Refusal::Precondition,
            ErrorKind::ResourceExhausted => Refusal::Overloaded,
            ErrorKind::DeadlineExceeded => Refusal::AckTimeout,
            ErrorKind::Unavailable | ErrorKind::DataLoss | ErrorKind::Internal => Refusal::Storage,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_is_told_with_what_to_do() {
        let told = |kind: std::io::ErrorKind| {
            let error = StoreError::Io {
                action: "open",
                path: "d/meta.properties".into(),
                source: kind.into(),
            };
            store(&"d", &error).to_string()
        };
        assert_eq!(
            told(std::io::ErrorKind::PermissionDenied),
            "storage of d failed: cannot open d/meta.properties: permission denied; \
             let the user that the server runs as read and write it"
        );
        assert!(told(std::io::ErrorKind::NotFound).ends_with(": entity not found"));
    }
}
