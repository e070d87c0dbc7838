//! What is sent: distinct batches, over and over; and the check that what is read is exactly that.
//!
//! The store never changes a batch beyond its first 16 bytes, which lie outside the CRC. So the batches' own CRCs, in
//! order, identify what was written; folding them into one number finds a loss, a repeat and a change of order.
//!
//! Invariants
//! - The batches of a load differ from each other, and so do the records of a batch.
//! - A fold is cheap: it reads batch headers alone, so that checking does not slow down what is measured. Whether bytes
//!   are what their CRC says is checked on request, apart from the measurement.

use bytes::Bytes;

use super::BenchError;
use crate::record::{BatchBuilder, BatchOptions, Batches};
use crate::types::Timestamp;

/// Distinct batches; a load sends them round robin.
const DISTINCT: u64 = 64;
/// The first timestamp of all loads, 2026-01-01, so that two runs send the same bytes.
const FIRST_TIMESTAMP_MS: i64 = 1_767_225_600_000;

/// Of what size records and batches are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) record_bytes: usize,
    pub(super) batch_bytes: usize,
}

/// Batches to be sent round robin.
#[derive(Clone, Debug)]
pub(super) struct Load {
    batches: Vec<Bytes>,
    records_per_batch: u64,
}

impl Load {
    /// Builds the batches; each has at least one record and is as large as `shape` allows.
    pub(super) fn new(shape: Shape) -> Self {
        let mut values = Values::default();
        let mut time_ms = FIRST_TIMESTAMP_MS;
        let mut records_per_batch = 1;
        let batches = (0..DISTINCT)
            .map(|_| {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                loop {
                    let value = values.next(shape.record_bytes);
                    time_ms += 1;
                    builder
                        .append(Some(Timestamp(time_ms)), None, Some(&value), &[])
                        .expect("a batch of a load is far below what the format holds");
                    if builder.size_bytes() + shape.record_bytes + RECORD_OVERHEAD > shape.batch_bytes {
                        break;
                    }
                }
                records_per_batch = u64::from(builder.record_count());
                builder.build().expect("it has a record").bytes().clone()
            })
            .collect();
        Self {
            batches,
            records_per_batch,
        }
    }

    /// Returns the batch that is sent as number `n`.
    pub(super) fn batch(&self, n: u64) -> &Bytes {
        let place = usize::try_from(n % DISTINCT).expect("a small number");
        &self.batches[place]
    }

    /// Returns how many records `count` batches have.
    pub(super) fn records(&self, count: u64) -> u64 {
        count * self.records_per_batch
    }

    /// Returns how many bytes the first `count` batches have.
    pub(super) fn bytes(&self, count: u64) -> u64 {
        (0..count).map(|n| self.batch(n).len()).map(to_u64).sum()
    }

    /// Returns how many batches make about `bytes`.
    pub(super) fn batches_in(&self, bytes: u64) -> u64 {
        (bytes / to_u64(self.batches[0].len())).max(1)
    }

    /// Returns what a reader of the first `count` batches must arrive at.
    pub(super) fn expected(&self, count: u64) -> Fold {
        let mut fold = Fold::new(Crc::Trusted);
        for n in 0..count {
            fold.add(self.batch(n)).expect("own batches are sound");
        }
        fold
    }
}

/// Bytes of a record beside its value, at most, as far as loads go.
const RECORD_OVERHEAD: usize = 16;

pub(super) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a usize has at most 64 bits")
}

/// Whether the bytes are compared with their CRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Crc {
    Verified,
    Trusted,
}

/// What has been read so far.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    crc: Crc,
    batches: u64,
    chain: u32,
}

impl Fold {
    pub(super) fn new(crc: Crc) -> Self {
        Self {
            crc,
            batches: 0,
            chain: 0,
        }
    }

    /// Adds whole batches lying back to back.
    pub(super) fn add(&mut self, bytes: &Bytes) -> Result<(), BenchError> {
        let damaged = |damage: String| BenchError::Refused {
            message: format!("a batch read back is damaged: {damage}"),
        };
        let mut batches = Batches::over(bytes.clone(), 0);
        for batch in &mut batches {
            let (_, batch) = batch.map_err(|damage| damaged(damage.to_string()))?;
            if self.crc == Crc::Verified {
                batch.verify_crc().map_err(|damage| damaged(damage.to_string()))?;
            }
            self.batches += 1;
            // A rotation makes the order count, the odd factor spreads.
            self.chain = (self.chain.rotate_left(5) ^ batch.header().crc).wrapping_mul(0x9e37_79b1);
        }
        match batches.trailing_len() {
            0 => Ok(()),
            trailing => Err(damaged(format!("{trailing} bytes are part of a batch"))),
        }
    }

    /// Checks that all came, once and in order.
    pub(super) fn must_be(&self, expected: &Self, what: &str) -> Result<(), BenchError> {
        if (self.batches, self.chain) == (expected.batches, expected.chain) {
            return Ok(());
        }
        Err(BenchError::Lost {
            what: what.to_owned(),
            expected: expected.batches,
            found: self.batches,
            expected_chain: expected.chain,
            found_chain: self.chain,
        })
    }
}

/// Bytes that do not compress, the same in every run (xorshift).
pub(super) struct Values(u64);

impl Default for Values {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Values {
    /// Begins with `seed`, which is not 0.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next value, of `len` bytes.
    pub(super) fn next(&mut self, len: usize) -> Vec<u8> {
        let mut value = Vec::with_capacity(len + 8);
        while value.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            value.extend_from_slice(&self.0.to_be_bytes());
        }
        value.truncate(len);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        record_bytes: 100,
        batch_bytes: 1000,
    };

    fn fold(load: &Load, order: &[u64]) -> Fold {
        let mut fold = Fold::new(Crc::Verified);
        for &n in order {
            fold.add(load.batch(n)).unwrap();
        }
        fold
    }

    #[test]
    fn a_loss_a_repeat_and_a_change_of_order_are_found() {
        let load = Load::new(SHAPE);
        let expected = load.expected(4);
        fold(&load, &[0, 1, 2, 3]).must_be(&expected, "all").unwrap();
        for wrong in [
            &[0, 1, 2][..],
            &[0, 1, 2, 3, 3],
            &[0, 2, 1, 3],
            &[0, 1, 1, 3],
            &[1, 2, 3, 4],
        ] {
            let error = fold(&load, wrong).must_be(&expected, "some").unwrap_err();
            assert!(matches!(error, BenchError::Lost { .. }), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn damaged_and_partial_batches_are_found() {
        let load = Load::new(SHAPE);
        let mut flipped = load.batch(0).to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(Fold::new(Crc::Verified).add(&flipped.into()).is_err());
        let part = load.batch(0).slice(..load.batch(0).len() - 1);
        assert!(Fold::new(Crc::Trusted).add(&part).is_err());
    }

    #[test]
    fn batches_are_as_large_as_they_may_be() {
        let load = Load::new(SHAPE);
        let len = load.batch(0).len();
        assert!(
            len <= SHAPE.batch_bytes && len > SHAPE.batch_bytes - SHAPE.record_bytes - RECORD_OVERHEAD - 16
        );
        assert_eq!(load.bytes(3), load.records(3) / load.records(1) * to_u64(len));
        assert_eq!(load.batches_in(load.bytes(10)), 10);
    }
}
