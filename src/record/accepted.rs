//! A batch on its way from the door to the log: sound, and not yet given its offset.
//!
//! ```text
//!  | first 16 bytes: base offset, length, leader epoch | the rest: stored as it is |
//!    stamped_prefix(offset, epoch)                       after_prefix()
//! ```
//!
//! Invariant: it was checked to its last record by [`accept`](super::accept()), or built here. Nobody else makes one.

use bytes::Bytes;

use super::batch::RecordBatch;
use super::header::{BatchHeader, PREFIX_LEN};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// A batch that passed the door: sound to the last record, ready to be given its offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    batch: RecordBatch,
    after_prefix: Bytes,
    span: Option<(Timestamp, Timestamp)>,
}

impl Accepted {
    /// Takes a batch that was built here, whose records need no check; `span` is the least and greatest of their times.
    pub(super) fn built(batch: RecordBatch, span: Option<(Timestamp, Timestamp)>) -> Self {
        let after_prefix = batch.bytes().slice(PREFIX_LEN..);
        Self {
            batch,
            after_prefix,
            span,
        }
    }

    /// Returns the header, base offset 0.
    pub fn header(&self) -> &BatchHeader {
        self.batch.header()
    }

    /// Returns the whole batch as a client would send it: base offset 0, no leader epoch unless it came with one.
    pub fn bytes(&self) -> &Bytes {
        self.batch.bytes()
    }

    /// Returns the number of records, which is also the number of offsets it will take.
    pub fn record_count(&self) -> u32 {
        self.header().record_count
    }

    /// Returns the size of the whole batch in bytes.
    pub fn size_bytes(&self) -> u32 {
        self.header().size_bytes
    }

    /// Returns the least timestamp of its records, as they will read.
    pub fn least_timestamp(&self) -> Option<Timestamp> {
        self.span.map(|(least, _)| least)
    }

    /// Returns the greatest timestamp of its records, as they will read.
    pub fn greatest_timestamp(&self) -> Option<Timestamp> {
        self.span.map(|(_, greatest)| greatest)
    }

    /// Returns the first 16 bytes of the batch when it is stored at `base_offset`.
    pub fn stamped_prefix(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> [u8; PREFIX_LEN] {
        BatchHeader {
            base_offset,
            leader_epoch: Some(leader_epoch),
            ..*self.header()
        }
        .prefix()
    }

    /// Returns all bytes but the first 16, which storing leaves as they are.
    pub fn after_prefix(&self) -> &Bytes {
        &self.after_prefix
    }

    /// Returns the batch as it reads when stored at `base_offset`. Copies it: the append itself writes
    /// [`stamped_prefix`](Self::stamped_prefix) and [`after_prefix`](Self::after_prefix).
    pub fn stamped(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> RecordBatch {
        self.batch.stamped(base_offset, leader_epoch)
    }
}
