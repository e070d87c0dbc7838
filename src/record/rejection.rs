//! Why the door refuses a batch: one reason for the batch, or one for each of its records.
//!
//! ```text
//!  TooLarge, DecompressesTooLarge   it exceeds a limit
//!  Corrupt                          it was damaged on the way: frame or checksum
//!  UnsupportedCodec                 nobody can read it
//!  InvalidBatch                     it arrived as it was sent, but breaks a rule as a whole
//!  InvalidRecords                   it breaks a rule in some records, which are listed
//! ```
//!
//! The error codes of a wire protocol are derived from these by whoever speaks it. What may be wrong with stored bytes is
//! [`Damage`], and some of that is a client's fault here.

use std::fmt;

use super::codec::CodecError;
use super::damage::Damage;
use crate::types::Timestamp;

/// How many record errors of one batch are kept.
const RECORD_ERRORS_MAX: usize = 100;
/// How many of them its text quotes.
const RECORD_ERRORS_QUOTED: usize = 3;

/// Why a batch is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// It exceeds the topic's limit, as it came or after its payload was built again.
    #[error("record batch of {size_bytes} bytes exceeds the limit of {max_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: u32,
        /// The limit.
        max_bytes: u32,
    },
    /// Its records decompress to more than is held in memory.
    #[error("record batch decompresses to more than the limit of {max_bytes} bytes")]
    DecompressesTooLarge {
        /// The limit.
        max_bytes: u32,
    },
    /// It was damaged on the way: what was sent is not what arrived.
    #[error("record batch is corrupt")]
    Corrupt(#[source] Damage),
    /// It is compressed in a way nobody knows.
    #[error("record batch has codec {bits}, known are 0 to 4")]
    UnsupportedCodec {
        /// The codec bits of its attributes.
        bits: u16,
    },
    /// It arrived as it was sent, but should not have been sent so.
    #[error("record batch is invalid: {0}")]
    InvalidBatch(#[from] BatchFault),
    /// Some of its records are not what the topic takes.
    #[error("{errors}")]
    InvalidRecords {
        /// Which, and why.
        errors: RecordErrors,
    },
}

impl Rejection {
    /// What a header that does not parse means, once frame and checksum hold.
    pub(super) fn of_header(damage: Damage) -> Self {
        match damage {
            Damage::Codec { bits } => Self::UnsupportedCodec { bits },
            Damage::Magic {
                magic: magic @ (0 | 1),
            } => BatchFault::OldFormat { magic }.into(),
            Damage::Offsets {
                last_offset_delta, ..
            } => BatchFault::LastOffsetDelta { last_offset_delta }.into(),
            Damage::RecordCount { count } => BatchFault::RecordCount { count }.into(),
            other => Self::Corrupt(other),
        }
    }

    /// What a payload that cannot be read means: the checksum holds, so it was sent like that.
    pub(super) fn of_payload(damage: Damage) -> Self {
        match damage {
            Damage::Payload {
                source: CodecError::TooLarge { limit_bytes, .. },
            } => Self::DecompressesTooLarge {
                max_bytes: limit_bytes,
            },
            other => BatchFault::Payload(other).into(),
        }
    }
}

/// What is wrong with a batch as a whole.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchFault {
    /// There is no whole batch.
    #[error("there is no whole batch in {len} bytes")]
    Missing {
        /// Bytes received.
        len: usize,
    },
    /// There is more than one.
    #[error("there is more than one batch")]
    Several,
    /// It is in a format from before version 2.
    #[error("its magic is {magic}, only 2 is taken")]
    OldFormat {
        /// Its format version.
        magic: i8,
    },
    /// The client did not leave the offsets to the server.
    #[error("its base offset is {base_offset}, a client sends 0")]
    BaseOffset {
        /// The field as it stands.
        base_offset: i64,
    },
    /// The last offset lies before the first.
    #[error("its last offset delta is {last_offset_delta}")]
    LastOffsetDelta {
        /// The field as it stands.
        last_offset_delta: i32,
    },
    /// A negative number of records.
    #[error("its record count is {count}")]
    RecordCount {
        /// The field as it stands.
        count: i32,
    },
    /// The number of records is not the number of offsets.
    #[error("it has {record_count} records and last offset delta {last_offset_delta}")]
    Count {
        /// Records by the header.
        record_count: u32,
        /// The field as it stands.
        last_offset_delta: i32,
    },
    /// Only the server writes markers.
    #[error("it is a control batch")]
    Control,
    /// Only the cleaner sets a delete horizon.
    #[error("it has a delete horizon")]
    DeleteHorizon,
    /// A producer id without the sequence and epoch that belong to it.
    #[error("it has a producer id without epoch and sequence")]
    ProducerWithoutSequence,
    /// A transaction of nobody.
    #[error("it is transactional without a producer id")]
    TransactionWithoutProducer,
    /// Its records cannot be read to the end.
    #[error("its records cannot be read")]
    Payload(#[source] Damage),
}

/// Why one record is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordReason {
    /// A compacted topic keeps the newest value of each key, so there must be one.
    #[error("has no key, and the topic is compacted")]
    MissingKey,
    /// Its time is none that a record can have: before 1970 and not the -1 of a record without time, or more than an `i64`
    /// holds, which readers would take for some other time.
    #[error("has base timestamp {base} and timestamp delta {delta}, whose sum is not from -1 to 2^63-1")]
    NoTime {
        /// The batch's base timestamp as it stands.
        base: i64,
        /// The record's delta.
        delta: i64,
    },
    /// Its time lies too far back.
    #[error("has timestamp {timestamp}, the earliest allowed now is {earliest}")]
    TooOld {
        /// Its time.
        timestamp: Timestamp,
        /// The limit.
        earliest: Timestamp,
    },
    /// Its time lies too far ahead.
    #[error("has timestamp {timestamp}, the latest allowed now is {latest}")]
    TooNew {
        /// Its time.
        timestamp: Timestamp,
        /// The limit.
        latest: Timestamp,
    },
    /// Only the server gives append times.
    #[error("comes in a batch that claims the server's append time")]
    ClaimsLogAppendTime,
}

impl RecordReason {
    /// True for what concerns the record's time, which outweighs any other reason in the batch's error code.
    pub fn is_timestamp(self) -> bool {
        match self {
            Self::MissingKey => false,
            Self::NoTime { .. } | Self::TooOld { .. } | Self::TooNew { .. } | Self::ClaimsLogAppendTime => {
                true
            }
        }
    }
}

/// One refused record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordError {
    /// Its number in the batch, from 0.
    pub index: u32,
    /// Why.
    pub reason: RecordReason,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} {}", self.index, self.reason)
    }
}

/// The refused records of a batch: the first 100 of them, and how many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordErrors {
    first: Vec<RecordError>,
    count: u32,
    timestamp_count: u32,
}

impl RecordErrors {
    pub(super) fn add(&mut self, error: RecordError) {
        self.count += 1;
        self.timestamp_count += u32::from(error.reason.is_timestamp());
        if self.first.len() < RECORD_ERRORS_MAX {
            self.first.push(error);
        }
    }

    /// Returns the first 100, in the order of the records.
    pub fn first(&self) -> &[RecordError] {
        &self.first
    }

    /// Returns the same errors under other numbers: those that the records have where the batch was built from.
    pub fn renumbered(mut self, number: impl Fn(u32) -> u32) -> Self {
        for error in &mut self.first {
            error.index = number(error.index);
        }
        self
    }

    /// Returns how many records were refused.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True when one of them, kept here or not, is refused for its time.
    pub fn any_timestamp(&self) -> bool {
        self.timestamp_count > 0
    }
}

impl fmt::Display for RecordErrors {
    /// Quotes the first three.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.first.iter().take(RECORD_ERRORS_QUOTED).enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        let quoted = u32::try_from(self.first.len().min(RECORD_ERRORS_QUOTED)).expect("three fit");
        match self.count - quoted {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
