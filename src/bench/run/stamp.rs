//! What the value of each record begins with, by which a reader knows that it has all of them, once and in order.
//!
//! ```text
//!  0 run u32 | 4 producer u32 | 8 sequence u64 | 16 intended u64 | 24 checksum u32 | 28 chain u32 | 32 filling ...
//! ```
//!
//! `run` tells records of other runs apart. `sequence` counts the records of a producer in a partition from 0. `intended` is when the
//! record should have been sent, in nanoseconds since the load began; all ones: before. `checksum` is over the key, the filling and
//! the fields before it. `chain` folds it into the chain of the record before, of the same producer in the same partition.
//! All big endian.
//!
//! What is not here: who compares (`check`).

use std::time::Duration;

/// Bytes of a stamp: no value is smaller.
pub(in crate::bench) const STAMP_LEN: u8 = 32;
const LEN: usize = STAMP_LEN as usize;
/// What the checksum covers of a stamp.
const BEFORE_CHECKSUM: usize = 24;
/// `intended` of a record of the backlog.
const BEFORE_THE_LOAD: u64 = u64::MAX;

/// Where a producer stands in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lane {
    /// The next sequence; as many records were before.
    pub(super) next: u64,
    /// The chain over them.
    pub(super) chain: u32,
}

impl Lane {
    /// Goes on by a record with this checksum.
    pub(super) fn advance(&mut self, checksum: u32) {
        // A rotation makes the order count, the odd factor spreads.
        self.chain = (self.chain.rotate_left(5) ^ checksum).wrapping_mul(0x9e37_79b1);
        self.next += 1;
    }
}

/// What a stamp says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) run: u32,
    pub(super) producer: u32,
    pub(super) sequence: u64,
    /// Since the load began; absent for what was written before.
    pub(super) intended: Option<Duration>,
    /// As it was computed from what was read.
    pub(super) checksum: u32,
    /// As it was written.
    pub(super) chain: u32,
}

/// Why a value is no record of a benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadStamp {
    Short,
    Changed,
}

/// Begins `value`, whose filling is there, with a stamp; `lane` goes on.
pub(super) fn write(value: &mut [u8], key: Option<&[u8]>, stamp: &Stamp, lane: &mut Lane) {
    let intended = stamp.intended.map_or(BEFORE_THE_LOAD, nanoseconds);
    value[0..4].copy_from_slice(&stamp.run.to_be_bytes());
    value[4..8].copy_from_slice(&stamp.producer.to_be_bytes());
    value[8..16].copy_from_slice(&lane.next.to_be_bytes());
    value[16..24].copy_from_slice(&intended.to_be_bytes());
    let checksum = checksum(value, key);
    lane.advance(checksum);
    value[24..28].copy_from_slice(&checksum.to_be_bytes());
    value[28..32].copy_from_slice(&lane.chain.to_be_bytes());
}

/// Reads the stamp of a value.
pub(super) fn read(value: &[u8], key: Option<&[u8]>) -> Result<Stamp, BadStamp> {
    if value.len() < LEN {
        return Err(BadStamp::Short);
    }
    let u32_at = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    let checksum = checksum(value, key);
    if checksum != u32_at(24) {
        return Err(BadStamp::Changed);
    }
    Ok(Stamp {
        run: u32_at(0),
        producer: u32_at(4),
        sequence: u64_at(8),
        intended: Some(u64_at(16))
            .filter(|nanoseconds| *nanoseconds != BEFORE_THE_LOAD)
            .map(Duration::from_nanos),
        checksum,
        chain: u32_at(28),
    })
}

fn checksum(value: &[u8], key: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&value[..BEFORE_CHECKSUM]);
    hasher.update(&value[LEN..]);
    hasher.update(key.unwrap_or_default());
    hasher.finalize()
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}
