//! Rebuilding: what stays of a batch, in as many batches as it takes for each to be one that readers take.
//!
//! ```text
//!   | a b c d e f g h |  ---->  | a . c d |  | e . g h |      each covers its offsets, together all of them
//! ```
//!
//! A delete horizon becomes the time that the records of a batch count from, and each of them may grow by some bytes: from
//! 64,000 tombstones of 15 bytes come 1.3 MB. A batch that would decompress to more than a reader takes, or be larger than a log
//! takes, is parted in halves until it is not.
//!
//! Invariants
//! - No batch that is built exceeds the limits.
//! - Parts cover the offsets of the whole without a hole between them, and their sequences are those of its records.
//! - The last batch of a producer is not parted: a restart must find the sequence that it began with.
//!
//! What is not here: which records stay (`survivors`).

use std::ops::Range;

use crate::record::{BatchHeader, BatchRebuild, Codec, DecompressLimit, Payload, RecordBatch};
use crate::types::{Offset, Timestamp};

/// What no batch may exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    /// Of what is compressed.
    pub(super) decompressed: DecompressLimit,
    pub(super) bytes: u32,
}

/// Whether several batches may come of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parts {
    Any,
    One,
}

/// A batch of which some records stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Original<'a> {
    pub(super) header: &'a BatchHeader,
    pub(super) payload: &'a Payload<'a>,
    /// Which of its records stay, in their order; at least one does.
    pub(super) stays: &'a [bool],
    pub(super) limits: BatchLimits,
}

impl Original<'_> {
    /// Builds what stays, with a delete horizon if one is given. `None` when there is no way within the limits.
    pub(super) fn rebuild(&self, horizon: Option<Timestamp>, parts: Parts) -> Option<Vec<RecordBatch>> {
        let all = self.header.base_offset..self.header.next_offset();
        if let Some(batch) = self.build(all.clone(), horizon) {
            return Some(vec![batch]);
        }
        if parts == Parts::One {
            return None;
        }
        let glances = self.payload.glances().flatten().zip(self.stays);
        let kept: Vec<Offset> = glances
            .filter(|(_, stays)| **stays)
            .map(|(record, _)| record.offset)
            .collect();
        let mut built = Vec::new();
        self.halves(all, &kept, horizon, &mut built)?;
        Some(built)
    }

    /// Builds the records of `offsets`, which are `kept`, in two halves, each in as many batches as it takes.
    fn halves(
        &self,
        offsets: Range<Offset>,
        kept: &[Offset],
        horizon: Option<Timestamp>,
        built: &mut Vec<RecordBatch>,
    ) -> Option<()> {
        let (left, right) = kept.split_at(kept.len() / 2);
        // Of one record there is no half.
        left.first()?;
        let middle = *right.first()?;
        for (offsets, kept) in [(offsets.start..middle, left), (middle..offsets.end, right)] {
            match self.build(offsets.clone(), horizon) {
                Some(batch) => built.push(batch),
                None => self.halves(offsets, kept, horizon, built)?,
            }
        }
        Some(())
    }

    fn build(&self, offsets: Range<Offset>, horizon: Option<Timestamp>) -> Option<RecordBatch> {
        let mut rebuild = BatchRebuild::part_of(self.header, offsets.clone(), horizon).ok()?;
        let limit = match self.header.codec {
            Codec::None => self.limits.bytes,
            _ => self.limits.decompressed.0,
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        for (record, stays) in self.payload.glances().flatten().zip(self.stays) {
            if *stays && offsets.contains(&record.offset) {
                rebuild.keep(&record).ok()?;
            }
            if rebuild.payload_len() > limit {
                return None;
            }
        }
        let batch = rebuild.build().ok()?;
        (batch.header().size_bytes <= self.limits.bytes).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, ProducerStamp};
    use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence};

    const NO_LIMIT: DecompressLimit = DecompressLimit(u32::MAX);
    const HORIZON: Option<Timestamp> = Some(Timestamp(1_700_000_000_000));

    fn tombstones(codec: Codec, count: u32) -> RecordBatch {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec,
            producer: Some(ProducerStamp {
                id: ProducerId(7),
                epoch: ProducerEpoch(0),
                base_sequence: Some(Sequence(100)),
            }),
            ..BatchOptions::default()
        });
        for key in 0..count {
            let added = builder.append(Some(Timestamp(1_000)), Some(&key.to_be_bytes()), None, &[]);
            added.expect("small");
        }
        let accepted = builder.build().expect("it has records");
        accepted.stamped(Offset(0), LeaderEpoch(0))
    }

    fn rebuilt(
        batch: &RecordBatch,
        stays: &[bool],
        limits: BatchLimits,
        parts: Parts,
    ) -> Option<Vec<RecordBatch>> {
        let payload = batch.open(NO_LIMIT).expect("sound");
        let original = Original {
            header: batch.header(),
            payload: &payload,
            stays,
            limits,
        };
        original.rebuild(HORIZON, parts)
    }

    fn check_parts(codec: Codec, limits: BatchLimits) {
        let whole = tombstones(codec, 100);
        let stays: Vec<bool> = (0..100).map(|at| at % 3 != 0).collect();
        let parts = rebuilt(&whole, &stays, limits, Parts::Any).expect("built");
        assert!(parts.len() > 1, "{codec:?}");
        let (mut next, mut found) = (whole.header().base_offset, Vec::new());
        for part in &parts {
            let header = part.header();
            assert_eq!(header.base_offset, next, "no hole between them");
            let sequence = header.producer.and_then(|producer| producer.base_sequence);
            let expected = Sequence(100 + i32::try_from(next.0).expect("small"));
            assert_eq!(sequence, Some(expected));
            assert_eq!(header.delete_horizon(), HORIZON);
            assert!(header.size_bytes <= limits.bytes);
            for record in part
                .open(limits.decompressed)
                .expect("within the limit")
                .glances()
            {
                let record = record.expect("sound");
                assert_eq!(record.timestamp, Some(Timestamp(1_000)));
                found.push(record.offset.0);
            }
            next = header.next_offset();
        }
        assert_eq!(next, whole.header().next_offset());
        let expected: Vec<i64> = (0..100).filter(|at| at % 3 != 0).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_would_exceed_a_limit_is_parted_and_says_the_same() {
        let bytes = u32::MAX;
        let decompressed = DecompressLimit(300);
        check_parts(Codec::Zstd, BatchLimits { decompressed, bytes });
        let decompressed = NO_LIMIT;
        check_parts(
            Codec::None,
            BatchLimits {
                decompressed,
                bytes: 400,
            },
        );
        check_parts(
            Codec::Zstd,
            BatchLimits {
                decompressed,
                bytes: 150,
            },
        );
    }

    #[test]
    fn what_may_not_be_parted_or_cannot_be_is_not_built() {
        let limits = |limit| BatchLimits {
            decompressed: DecompressLimit(limit),
            bytes: u32::MAX,
        };
        let whole = tombstones(Codec::Zstd, 100);
        assert_eq!(rebuilt(&whole, &[true; 100], limits(300), Parts::One), None);
        assert_eq!(
            rebuilt(&whole, &[true; 100], limits(10), Parts::Any),
            None,
            "one record is more"
        );
        let one = rebuilt(&whole, &[true; 100], limits(10_000), Parts::One).expect("built");
        assert_eq!(one.len(), 1);
    }
}
