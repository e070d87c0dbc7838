//! Control batches: markers that end a transaction, and kinds of Kafka's own that a reader skips.
//!
//! ```text
//!  key    version i16 (0) | kind i16: 0 abort, 1 commit, others
//!  value  version i16 (0) | coordinator epoch i32               of abort and commit
//! ```
//!
//! A transaction marker is a batch of one record and 78 bytes, never compressed, without a sequence. Greater versions and
//! longer values are read as if they were these.

use super::accept::Accepted;
use super::builder::{BatchBuilder, BatchOptions, Transactional};
use super::codec::DecompressLimit;
use super::damage::Damage;
use super::header::{Flags, ProducerStamp};
use super::record::Record;
use crate::types::{ProducerEpoch, ProducerId, Timestamp};

const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const VERSION: [u8; 2] = 0i16.to_be_bytes();

/// What a control batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlMarker {
    /// The producer's transaction is committed.
    Commit {
        /// The coordinator's epoch when it decided so.
        coordinator_epoch: i32,
    },
    /// The producer's transaction is aborted.
    Abort {
        /// The coordinator's epoch when it decided so.
        coordinator_epoch: i32,
    },
    /// A kind that says nothing about transactions.
    Other(i16),
}

impl ControlMarker {
    /// Bound on a compressed control batch, which nobody is known to write.
    pub(super) const LIMIT: DecompressLimit = DecompressLimit(1 << 16);

    pub(super) fn parse(record: &Record) -> Result<Self, Damage> {
        let key = record.key.as_deref().and_then(|key| key.first_chunk());
        let Some(&[_, _, high, low]) = key else {
            return Err(Damage::Marker);
        };
        let coordinator_epoch = || match record.value.as_deref().and_then(|value| value.first_chunk()) {
            Some(&[_, _, a, b, c, d]) => Ok(i32::from_be_bytes([a, b, c, d])),
            None => Err(Damage::Marker),
        };
        Ok(match i16::from_be_bytes([high, low]) {
            ABORT => Self::Abort {
                coordinator_epoch: coordinator_epoch()?,
            },
            COMMIT => Self::Commit {
                coordinator_epoch: coordinator_epoch()?,
            },
            other => Self::Other(other),
        })
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Its records count.
    Commit,
    /// Its records are as if never written.
    Abort,
}

/// The end of one producer's transaction in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// Whose transaction.
    pub producer: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
    /// When it decided.
    pub at: Timestamp,
}

impl TransactionEnd {
    /// Returns the marker as a batch ready to be appended; never compressed, whatever the topic's codec.
    pub fn to_batch(self) -> Accepted {
        let kind = match self.outcome {
            Outcome::Commit => COMMIT,
            Outcome::Abort => ABORT,
        };
        let key = [VERSION, kind.to_be_bytes()].concat();
        let value = [&VERSION[..], &self.coordinator_epoch.to_be_bytes()].concat();
        let mut builder = BatchBuilder::with_flags(
            BatchOptions {
                producer: Some(ProducerStamp {
                    id: self.producer,
                    epoch: self.producer_epoch,
                    base_sequence: None,
                }),
                transactional: Transactional::Yes,
                ..BatchOptions::default()
            },
            Flags::CONTROL,
        );
        builder
            .append(Some(self.at), Some(&key), Some(&value), &[])
            .and_then(|()| builder.build())
            .expect("one small record fits")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{Codec, HEADER_LEN, RecordBatch};

    fn end(outcome: Outcome) -> TransactionEnd {
        TransactionEnd {
            outcome,
            producer: ProducerId(9),
            producer_epoch: ProducerEpoch(2),
            coordinator_epoch: 7,
            at: Timestamp(1000),
        }
    }

    #[test]
    fn a_marker_is_seventy_eight_bytes_uncompressed_and_without_sequence() {
        let accepted = end(Outcome::Commit).to_batch();
        let header = accepted.header();
        assert_eq!(header.size_bytes, 78);
        assert_eq!(header.codec, Codec::None);
        assert!(header.is_control() && header.is_transactional());
        assert_eq!(header.record_count, 1);
        assert_eq!(header.max_timestamp, Some(Timestamp(1000)));
        let producer = header.producer.expect("it names its producer");
        assert_eq!((producer.id, producer.epoch), (ProducerId(9), ProducerEpoch(2)));
        assert_eq!(producer.base_sequence, None);
        assert_eq!(
            accepted.bytes()[HEADER_LEN..],
            [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 7, 0]
        );
    }

    #[test]
    fn a_marker_reads_back_as_it_was_made() {
        let read = |outcome| {
            let batch = RecordBatch::parse(end(outcome).to_batch().bytes().clone()).unwrap();
            batch.verify_crc().unwrap();
            batch.control_marker().unwrap()
        };
        assert_eq!(
            read(Outcome::Commit),
            Some(ControlMarker::Commit { coordinator_epoch: 7 })
        );
        assert_eq!(
            read(Outcome::Abort),
            Some(ControlMarker::Abort { coordinator_epoch: 7 })
        );
    }

    fn parse(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Result<ControlMarker, Damage> {
        ControlMarker::parse(&Record {
            offset: crate::types::Offset::ZERO,
            timestamp: None,
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        })
    }

    #[test]
    fn greater_versions_longer_values_and_unknown_kinds_are_read() {
        assert_eq!(
            parse(Some(&[0, 5, 0, 1, 9]), Some(&[0, 5, 0, 0, 0, 3, 8, 8])),
            Ok(ControlMarker::Commit { coordinator_epoch: 3 })
        );
        assert_eq!(parse(Some(&[0, 0, 0, 2]), None), Ok(ControlMarker::Other(2)));
    }

    #[test]
    fn a_marker_too_short_is_damage() {
        assert_eq!(parse(None, None), Err(Damage::Marker));
        assert_eq!(parse(Some(&[0, 0, 0]), None), Err(Damage::Marker));
        assert_eq!(
            parse(Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0])),
            Err(Damage::Marker)
        );
    }
}
