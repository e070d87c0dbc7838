//! The end of a transaction as a batch: one marker, made by a coordinator.
//!
//! It is one record and 78 bytes, never compressed, without a sequence. What the marker says is told in `control`.

use super::accepted::Accepted;
use super::builder::{BatchBuilder, BatchOptions, Transactional};
use super::control;
use super::header::{Flags, ProducerStamp};
use crate::types::{ProducerEpoch, ProducerId, Timestamp};

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
            Outcome::Commit => control::COMMIT,
            Outcome::Abort => control::ABORT,
        };
        let (key, value) = control::marker(kind, self.coordinator_epoch);
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
    use super::*;
    use crate::record::{Codec, ControlMarker, HEADER_LEN, RecordBatch};

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
}
