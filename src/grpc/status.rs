//! What a caller is told when something fails: a gRPC status with machine-readable details, or the same inside a response.
//!
//! | broker | here |
//! |---|---|
//! | [`ErrorKind`] | the status code: what the caller can do about it |
//! | the variant of [`Error`] | the reason: upper snake case, never renamed once released |
//! | its fields | the metadata: `topic`, `partition`, offsets, limits |
//! | [`Error::retry_after`] | `google.rpc.RetryInfo` |
//!
//! Invariants
//! - Both matches are exhaustive: a new kind or variant does not compile until it is given its word here.
//! - Texts are bounded ([`MAX_TEXT_LEN`]), whatever a request named: a status travels in HTTP/2 headers, which have limits.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::broker::{Error, ErrorKind};
use crate::proto::v1;
use crate::types::TopicPartition;

/// The domain of every reason, as `google.rpc.ErrorInfo` wants one.
pub const ERROR_DOMAIN: &str = "siltstone";
/// Longest message or metadata value that is sent, in bytes; the rest is cut.
const MAX_TEXT_LEN: usize = 1024;

/// A failure as the wire tells it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Self {
            code: code(error.kind()),
            reason: reason(error),
            message: shortened(error.to_string()),
            metadata: metadata(error),
            retry_after: error.retry_after(),
        }
    }
}

impl Fault {
    /// Tells it as the status of a call.
    fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason, ERROR_DOMAIN, self.metadata);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }

    /// Tells it inside a response or on a stream.
    fn into_message(self) -> v1::Error {
        v1::Error {
            code: i32::from(self.code),
            message: self.message,
            reason: self.reason.to_owned(),
            metadata: self.metadata,
            retry_after_ms: self
                .retry_after
                .map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// Turns a broker's error into the status of a call.
pub(super) fn status(error: &Error) -> Status {
    Fault::from(error).into_status()
}

/// Turns a broker's error into the message that a response or a stream carries.
pub(super) fn message(error: &Error) -> v1::Error {
    Fault::from(error).into_message()
}

/// Says that a request is wrong in itself; `reason` tells what would be right.
pub(super) fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidRequest {
        reason: reason.into(),
    }
}

/// Turns the transport's word for a request into the client's: what cannot be decoded is the request's fault. Everything of our
/// own has details, so an internal error without any is the decoder's.
pub(super) fn of_request(status: Status) -> Status {
    match is_decoders(&status) {
        true => self::status(&undecodable(&status)),
        false => status,
    }
}

/// True for the decoder's word about a request that it cannot read.
pub(super) fn is_decoders(status: &Status) -> bool {
    status.code() == Code::Internal && status.details().is_empty()
}

/// Says so in our words.
pub(super) fn undecodable(status: &Status) -> Error {
    invalid(format!("the request cannot be decoded: {}", status.message()))
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

fn reason(error: &Error) -> &'static str {
    match error {
        Error::UnknownTopic { .. } => "UNKNOWN_TOPIC",
        Error::UnknownPartition { .. } => "UNKNOWN_PARTITION",
        Error::TopicExists { .. } => "TOPIC_EXISTS",
        Error::InternalTopic { .. } => "INTERNAL_TOPIC",
        Error::InvalidRequest { .. } => "INVALID_REQUEST",
        Error::InvalidConfig { .. } => "INVALID_CONFIG",
        Error::OffsetOutOfRange { .. } => "OFFSET_OUT_OF_RANGE",
        Error::CorruptBatch { .. } => "CORRUPT_BATCH",
        Error::InvalidRecord { .. } => "INVALID_RECORD",
        Error::InvalidTimestamp { .. } => "INVALID_TIMESTAMP",
        Error::TooLarge { .. } => "TOO_LARGE",
        Error::OutOfOrderSequence { .. } => "OUT_OF_ORDER_SEQUENCE",
        Error::FencedProducer { .. } => "FENCED_PRODUCER",
        Error::InvalidTransactionState { .. } => "INVALID_TRANSACTION_STATE",
        Error::UnknownHold { .. } => "UNKNOWN_HOLD",
        Error::PolicyViolation { .. } => "POLICY_VIOLATION",
        Error::DiskFull { .. } => "DISK_FULL",
        Error::Overloaded { .. } => "OVERLOADED",
        Error::WritesRefused { .. } => "WRITES_REFUSED",
        Error::AckTimeout { .. } => "ACK_TIMEOUT",
        Error::ShuttingDown => "SHUTTING_DOWN",
        Error::ArchiveOnly { .. } => "ARCHIVE_ONLY",
        Error::ArchiveUnavailable { .. } => "ARCHIVE_UNAVAILABLE",
        Error::ArchiveRefused { .. } => "ARCHIVE_REFUSED",
        Error::Damaged { .. } => "DAMAGED",
        Error::Storage { .. } => "STORAGE_FAILED",
    }
}

fn metadata(error: &Error) -> HashMap<String, String> {
    place(error)
        .into_iter()
        .chain(details(error))
        .map(|(name, value)| (name.to_owned(), shortened(value)))
        .collect()
}

/// Which topic and partition it is about.
fn place(error: &Error) -> Vec<(&'static str, String)> {
    match error {
        Error::UnknownTopic { topic } => vec![("topic", topic.clone())],
        Error::UnknownHold { topic, hold } => vec![("topic", topic.to_string()), ("hold", hold.clone())],
        Error::TopicExists { topic } | Error::InternalTopic { topic } => vec![("topic", topic.to_string())],
        Error::InvalidConfig { topic, .. } | Error::PolicyViolation { topic, .. } => {
            topic.iter().map(|topic| ("topic", topic.to_string())).collect()
        }
        Error::UnknownPartition { topic, partition, .. } => {
            vec![("topic", topic.to_string()), ("partition", partition.to_string())]
        }
        Error::OffsetOutOfRange { partition, .. }
        | Error::CorruptBatch { partition, .. }
        | Error::InvalidRecord { partition, .. }
        | Error::InvalidTimestamp { partition, .. }
        | Error::TooLarge { partition, .. }
        | Error::OutOfOrderSequence { partition, .. }
        | Error::FencedProducer { partition, .. }
        | Error::InvalidTransactionState { partition, .. }
        | Error::WritesRefused { partition, .. }
        | Error::AckTimeout { partition, .. }
        | Error::ArchiveOnly { partition, .. }
        | Error::Damaged { partition, .. } => {
            let TopicPartition { topic, partition } = partition;
            vec![("topic", topic.to_string()), ("partition", partition.to_string())]
        }
        Error::InvalidRequest { .. }
        | Error::DiskFull { .. }
        | Error::Overloaded { .. }
        | Error::ShuttingDown
        | Error::ArchiveUnavailable { .. }
        | Error::ArchiveRefused { .. }
        | Error::Storage { .. } => Vec::new(),
    }
}

/// Its offsets, numbers and limits.
fn details(error: &Error) -> Vec<(&'static str, String)> {
    let named: &[(&'static str, &dyn Display)] = match error {
        Error::UnknownPartition { count, .. } => &[("partition_count", count)],
        Error::InvalidConfig { setting, .. } => &[("setting", setting)],
        Error::OffsetOutOfRange {
            offset: asked,
            log_start: from,
            high_watermark: to,
            ..
        } => &[
            ("offset", asked),
            ("log_start_offset", from),
            ("high_watermark", to),
        ],
        Error::InvalidRecord { indexes, .. } | Error::InvalidTimestamp { indexes, .. } => {
            return vec![("record_indexes", listed(indexes))];
        }
        Error::TooLarge {
            size_bytes: size,
            limit_name: name,
            limit_bytes: limit,
            ..
        } => &[("size_bytes", size), ("limit_name", name), ("limit_bytes", limit)],
        Error::OutOfOrderSequence { .. } | Error::FencedProducer { .. } => return of_producer(error),
        Error::AckTimeout { waited, .. } => return vec![("waited_ms", waited.as_millis().to_string())],
        Error::DiskFull {
            free_bytes: free,
            min_free_bytes: least,
            ..
        } => &[("free_bytes", free), ("min_free_bytes", least)],
        Error::Overloaded { what, limit } => &[("resource", what), ("limit", limit)],
        Error::Storage { target, .. } | Error::ArchiveUnavailable { target, .. } => &[("target", target)],
        Error::ArchiveOnly {
            offset: asked,
            local_start: local,
            ..
        } => &[("offset", asked), ("local_start_offset", local)],
        Error::Damaged {
            lost: Some(Range { start, end }),
            ..
        } => &[("offset", start), ("next_offset", end)],
        Error::UnknownTopic { .. }
        | Error::UnknownHold { .. }
        | Error::TopicExists { .. }
        | Error::InternalTopic { .. }
        | Error::InvalidRequest { .. }
        | Error::CorruptBatch { .. }
        | Error::InvalidTransactionState { .. }
        | Error::PolicyViolation { .. }
        | Error::WritesRefused { .. }
        | Error::ShuttingDown
        | Error::ArchiveRefused { .. }
        | Error::Damaged { lost: None, .. } => &[],
    };
    named
        .iter()
        .map(|(name, value)| (*name, value.to_string()))
        .collect()
}

/// Which producer, and what it should have sent.
fn of_producer(error: &Error) -> Vec<(&'static str, String)> {
    match error {
        Error::OutOfOrderSequence {
            producer_id,
            expected,
            got,
            ..
        } => vec![
            ("producer_id", producer_id.to_string()),
            ("expected_sequence", expected.to_string()),
            ("sequence", got.to_string()),
        ],
        Error::FencedProducer {
            producer_id,
            current,
            got,
            ..
        } => vec![
            ("producer_id", producer_id.to_string()),
            ("current_epoch", current.to_string()),
            ("epoch", got.to_string()),
        ],
        _ => Vec::new(),
    }
}

/// Numbers of records, comma between them, as many as a text may hold.
fn listed(indexes: &[u32]) -> String {
    let mut text = String::new();
    for index in indexes {
        if text.len() > MAX_TEXT_LEN / 2 {
            text.push_str(",...");
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&index.to_string());
    }
    text
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_LEN {
        text.truncate(text.floor_char_boundary(MAX_TEXT_LEN - 3));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Offset, PartitionId, TopicName};

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicName::new("flights").unwrap(), PartitionId(3))
    }

    #[test]
    fn a_status_says_what_failed_on_what_and_where_the_log_lies() {
        let status = status(&Error::OffsetOutOfRange {
            partition: partition(),
            offset: Offset(7),
            log_start: Offset(10),
            high_watermark: Offset(20),
        });
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(
            status.message(),
            "offset 7 of flights-3 is out of range: it holds 10 to 20 (exclusive)"
        );
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("OFFSET_OUT_OF_RANGE", "siltstone")
        );
        for (name, value) in [
            ("topic", "flights"),
            ("partition", "3"),
            ("offset", "7"),
            ("log_start_offset", "10"),
            ("high_watermark", "20"),
        ] {
            assert_eq!(info.metadata.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            status.get_details_retry_info().is_none(),
            "a retry would fail in the same way"
        );
    }

    #[test]
    fn a_retry_is_hinted_at_where_it_helps_in_status_and_message_alike() {
        let error = Error::DiskFull {
            path: "/data".into(),
            free_bytes: 5,
            min_free_bytes: 10,
        };
        let retry = status(&error).get_details_retry_info().unwrap().retry_delay;
        assert_eq!(retry, Some(Duration::from_millis(500)));
        let message = message(&error);
        assert_eq!(message.retry_after_ms, Some(500));
        assert_eq!(message.code, i32::from(Code::Unavailable));
        assert_eq!(message.reason, "DISK_FULL");
        assert_eq!(message.metadata.get("free_bytes").map(String::as_str), Some("5"));
    }

    /// Errors after which the same request may succeed, and others.
    fn with_and_without_a_hint() -> (Vec<Error>, Vec<Error>) {
        let text = || "why".to_owned();
        let flights = || TopicName::new("flights").unwrap();
        let with = vec![
            Error::DiskFull {
                path: text(),
                free_bytes: 5,
                min_free_bytes: 10,
            },
            Error::Overloaded {
                what: "requests",
                limit: 1,
            },
            Error::WritesRefused {
                partition: partition(),
                reason: text(),
            },
            Error::AckTimeout {
                partition: partition(),
                waited: Duration::from_secs(30),
            },
            Error::ShuttingDown,
            Error::ArchiveUnavailable {
                target: text(),
                reason: text(),
            },
        ];
        let without = vec![
            Error::UnknownTopic { topic: text() },
            Error::TopicExists { topic: flights() },
            Error::InternalTopic { topic: flights() },
            Error::InvalidRequest { reason: text() },
            Error::CorruptBatch {
                partition: partition(),
                reason: text(),
            },
            Error::OutOfOrderSequence {
                partition: partition(),
                producer_id: 1,
                expected: 2,
                got: 3,
            },
            Error::Damaged {
                partition: partition(),
                lost: None,
                reason: text(),
            },
            Error::Storage {
                target: text(),
                reason: text(),
            },
        ];
        (with, without)
    }

    #[test]
    fn every_kind_of_failure_has_a_hint_where_a_retry_helps_and_no_other() {
        let (with, without) = with_and_without_a_hint();
        for (errors, expected) in [(with, true), (without, false)] {
            for error in errors {
                let hint = status(&error)
                    .get_details_retry_info()
                    .and_then(|info| info.retry_delay);
                assert_eq!(hint.is_some(), expected, "{error}");
                let told = message(&error).retry_after_ms;
                assert_eq!(told.is_some(), expected, "{error}");
                assert_eq!(told, hint.map(|wait| i64::try_from(wait.as_millis()).unwrap()));
            }
        }
    }

    #[test]
    fn a_text_of_a_hostile_request_is_cut_to_what_headers_can_hold() {
        let status = status(&Error::UnknownTopic {
            topic: "ä".repeat(1_000_000),
        });
        assert!(status.message().len() <= MAX_TEXT_LEN);
        let details = status.get_details_error_info().unwrap();
        assert!(details.metadata["topic"].len() <= MAX_TEXT_LEN);
        let refused = message(&Error::InvalidRecord {
            partition: partition(),
            reason: "no key".into(),
            indexes: (0..1_000_000).collect(),
        });
        assert!(refused.metadata["record_indexes"].len() <= MAX_TEXT_LEN);
        assert!(refused.metadata["record_indexes"].starts_with("0,1,2,"));
    }
}
