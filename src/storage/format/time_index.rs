//! Time index: from which batch on a segment may hold records as late as a time.
//!
//! ```text
//!            entry 0                       entry 1
//! +-----------------+----------+-----------------+----------+----
//! |    timestamp    | relative |    timestamp    | relative | ...      big-endian i64 (ms) and u32, as Kafka writes them
//! |                 |  offset  |                 |  offset  |
//! +-----------------+----------+-----------------+----------+----
//! timestamp       = the greatest of all records up to and including the batch that ends at the offset
//! relative offset = last offset of the *earliest* batch that holds that timestamp - base offset of the segment
//! ```
//!
//! Invariants
//! - Timestamps grow strictly from entry to entry, offsets never fall. So out-of-order records make no entry, and a
//!   lookup is right about them all the same: nothing up to an entry is later than the entry says.
//! - Records without a timestamp (-1 in Kafka's formats) make no entry; a segment of only such has an empty index.
//! - An entry is tried whenever the offset index gets one, and once more when the segment is sealed: a sealed segment's
//!   last entry holds its greatest timestamp.
//! - No checksum: whatever is in doubt is thrown away and rebuilt from the log.
//! - A lookup over damaged bytes is safe and means nothing; the caller scans from where it points.
//!
//! Reading works on any bytes, local or fetched. What it does not do: find the record, or turn an offset into a position
//! (`offset_index`).

use std::ops::Range;

use super::offset_index::RelativeOffset;
use crate::types::Timestamp;

const TIMESTAMP: Range<usize> = 0..8;
const RELATIVE_OFFSET: Range<usize> = 8..12;
const _: () = assert!(RELATIVE_OFFSET.end == TimeEntry::LEN && TIMESTAMP.end == RELATIVE_OFFSET.start);

/// One entry: nothing up to `last_offset` is later than `timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeEntry {
    /// The greatest timestamp so far.
    pub timestamp: Timestamp,
    /// Last offset of the earliest batch that holds it, relative to the segment's base offset.
    pub last_offset: RelativeOffset,
}

impl TimeEntry {
    /// Bytes of one entry on disk.
    pub const LEN: usize = 12;

    /// Returns with how many entries an index of at most `limit_bytes` is full and its segment rolls; one more, that of
    /// the seal, still fits.
    pub fn capacity(limit_bytes: u32) -> u32 {
        (limit_bytes / 12).saturating_sub(1)
    }

    /// Returns the entry as it stands on disk.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[TIMESTAMP].copy_from_slice(&self.timestamp.0.to_be_bytes());
        bytes[RELATIVE_OFFSET].copy_from_slice(&self.last_offset.0.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        Self {
            timestamp: Timestamp(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
            last_offset: RelativeOffset(u32::from_be_bytes([i, j, k, l])),
        }
    }
}

/// A read-only view of index bytes.
#[derive(Clone, Copy, Debug)]
pub struct TimeIndex<'a> {
    entries: &'a [[u8; TimeEntry::LEN]],
}

impl<'a> TimeIndex<'a> {
    /// Checks `bytes` against a log whose last offset is `log_last`, `None` when it is empty, in one pass: for loading
    /// and recovery.
    ///
    /// # Errors
    /// [`TimeIndexDamage`] says which entry breaks which invariant; the caller rebuilds the index from the log.
    pub fn open(bytes: &'a [u8], log_last: Option<RelativeOffset>) -> Result<Self, TimeIndexDamage> {
        let (entries, rest) = bytes.as_chunks::<{ TimeEntry::LEN }>();
        if !rest.is_empty() {
            return Err(TimeIndexDamage::Torn { len: bytes.len() });
        }
        let index = Self { entries };
        for entry in 1..entries.len() {
            let (before, here) = (index.entry(entry - 1), index.entry(entry));
            if here.timestamp <= before.timestamp || here.last_offset < before.last_offset {
                return Err(TimeIndexDamage::NotGrowing { entry });
            }
        }
        match (index.last(), log_last) {
            (None, _) => Ok(index),
            (Some(last), Some(log_last)) if last.last_offset <= log_last => Ok(index),
            (Some(last), _) => Err(TimeIndexDamage::AheadOfLog {
                last_offset: last.last_offset,
            }),
        }
    }

    /// Takes bytes that were checked before, without a pass over them: for lookups in a sealed, perhaps cold segment.
    /// A torn last entry is left out.
    pub fn trusted(bytes: &'a [u8]) -> Self {
        let (entries, _torn) = bytes.as_chunks();
        Self { entries }
    }

    /// Returns the entry with the greatest timestamp that is not after `timestamp`: the first record at or after
    /// `timestamp` lies in the batch that ends at the entry's offset, or later. `None` when all entries are later, and
    /// the caller starts at the beginning of the segment.
    pub fn floor(&self, timestamp: Timestamp) -> Option<TimeEntry> {
        let not_after = self.count_not_after(timestamp);
        not_after.checked_sub(1).map(|entry| self.entry(entry))
    }

    /// Returns how many entries have a timestamp that is not after `timestamp`.
    pub fn count_not_after(&self, timestamp: Timestamp) -> usize {
        self.entries
            .partition_point(|bytes| TimeEntry::from_bytes(bytes).timestamp <= timestamp)
    }

    /// Returns the length in bytes of the part whose offsets lie before `target`: what a truncation to `target` keeps.
    pub fn len_before(&self, target: RelativeOffset) -> usize {
        let before = self
            .entries
            .partition_point(|bytes| TimeEntry::from_bytes(bytes).last_offset < target);
        before * TimeEntry::LEN
    }

    /// Returns the newest entry; in a sealed segment it holds the greatest timestamp.
    pub fn last(&self) -> Option<TimeEntry> {
        self.entries.last().map(TimeEntry::from_bytes)
    }

    /// Returns how many entries there are.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, entry: usize) -> TimeEntry {
        TimeEntry::from_bytes(&self.entries[entry])
    }
}

/// What an appender keeps of the time index it writes: the greatest timestamp so far, and how much of that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeIndexTail {
    greatest: Option<TimeEntry>,
    written: Option<Timestamp>,
}

impl TimeIndexTail {
    /// Goes on after the last entry of an index, which is also the greatest timestamp known until batches behind it are
    /// [observed](Self::observe).
    pub fn resume(index: &TimeIndex<'_>) -> Self {
        let last = index.last();
        Self {
            greatest: last,
            written: last.map(|entry| entry.timestamp),
        }
    }

    /// Takes note of a batch: its greatest timestamp, if its records have any, and its last offset. Comes before the
    /// [`try_push`](Self::try_push) of the same batch.
    pub fn observe(&mut self, timestamp: Option<Timestamp>, last_offset: RelativeOffset) {
        let Some(timestamp) = timestamp.filter(|timestamp| timestamp.0 >= 0) else {
            return;
        };
        if self
            .greatest
            .is_none_or(|greatest| timestamp > greatest.timestamp)
        {
            self.greatest = Some(TimeEntry {
                timestamp,
                last_offset,
            });
        }
    }

    /// Returns the entry to write now and counts it as written; `None` when nothing is later than the last one written.
    pub fn try_push(&mut self) -> Option<TimeEntry> {
        let entry = self.greatest?;
        if self.written.is_some_and(|written| entry.timestamp <= written) {
            return None;
        }
        self.written = Some(entry.timestamp);
        Some(entry)
    }

    /// Returns the greatest timestamp so far and the batch that brought it.
    pub fn greatest(&self) -> Option<TimeEntry> {
        self.greatest
    }
}

/// Why index bytes cannot be trusted. The layer above adds the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimeIndexDamage {
    /// The bytes end inside an entry.
    #[error("time index of {len} bytes ends inside an entry of {}", TimeEntry::LEN)]
    Torn {
        /// Length of the index in bytes.
        len: usize,
    },
    /// An entry is not greater than the one before it.
    #[error("time index entry {entry} is not greater than the one before it")]
    NotGrowing {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// The newest entry names an offset behind the last of the log.
    #[error("time index names relative offset {} behind the end of the log", last_offset.0)]
    AheadOfLog {
        /// What it names.
        last_offset: RelativeOffset,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(timestamp: i64, last_offset: u32) -> TimeEntry {
        TimeEntry {
            timestamp: Timestamp(timestamp),
            last_offset: RelativeOffset(last_offset),
        }
    }

    /// The index of batches (greatest timestamp, is an offset-index entry due), each of one record.
    fn write(batches: &[(i64, bool)]) -> Vec<u8> {
        let mut tail = TimeIndexTail::default();
        let mut bytes = Vec::new();
        for (offset, &(timestamp, due)) in (0..).zip(batches) {
            let timestamp = (timestamp != -1).then_some(Timestamp(timestamp));
            tail.observe(timestamp, RelativeOffset(offset));
            if due {
                bytes.extend(tail.try_push().iter().flat_map(|entry| entry.to_bytes()));
            }
        }
        bytes.extend(tail.try_push().iter().flat_map(|entry| entry.to_bytes()));
        bytes
    }

    proptest! {
        #[test]
        fn no_record_before_the_floor_is_as_late_as_asked(
            batches in prop::collection::vec((-1..40_i64, any::<bool>()), 0..60),
            asked in 0..42_i64,
        ) {
            let bytes = write(&batches);
            let log_last = u32::try_from(batches.len()).expect("few").checked_sub(1).map(RelativeOffset);
            let index = TimeIndex::open(&bytes, log_last).expect("what the tail writes is sound");
            let first = batches.iter().position(|batch| batch.0 >= asked);
            if let (Some(first), Some(floor)) = (first, index.floor(Timestamp(asked))) {
                prop_assert!(floor.last_offset.0 as usize <= first, "{floor:?} skips {first}");
                prop_assert!(floor.timestamp.0 <= asked);
            }
            let greatest = batches.iter().map(|batch| batch.0).max().filter(|&greatest| greatest >= 0);
            prop_assert_eq!(index.last().map(|last| last.timestamp.0), greatest);
            let earliest = greatest.and_then(|greatest| batches.iter().position(|batch| batch.0 == greatest));
            prop_assert_eq!(index.last().map(|last| last.last_offset.0 as usize), earliest);
        }

        #[test]
        fn a_lookup_agrees_with_a_scan_of_the_entries(
            batches in prop::collection::vec((-1..400_i64, any::<bool>()), 0..60),
            asked in 0..420_i64,
        ) {
            let bytes = write(&batches);
            let index = TimeIndex::trusted(&bytes);
            let entries: Vec<_> = (0..index.entry_count()).map(|at| index.entry(at)).collect();
            prop_assert_eq!(
                index.floor(Timestamp(asked)),
                entries.iter().rev().find(|entry| entry.timestamp.0 <= asked).copied()
            );
            let target = RelativeOffset(u32::try_from(asked).expect("positive"));
            prop_assert_eq!(
                index.len_before(target),
                12 * entries.iter().filter(|entry| entry.last_offset < target).count()
            );
        }

        #[test]
        fn any_bytes_are_refused_or_looked_up_in_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            asked in any::<i64>(),
            target in any::<u32>(),
        ) {
            let _ = TimeIndex::open(&bytes, Some(RelativeOffset(target)));
            let index = TimeIndex::trusted(&bytes);
            index.floor(Timestamp(asked));
            prop_assert!(index.len_before(RelativeOffset(target)) <= bytes.len());
            TimeIndexTail::resume(&index).try_push();
        }
    }

    #[test]
    fn an_entry_is_written_as_kafka_writes_it() {
        assert_eq!(
            entry(1_357_000_000_000, 9).to_bytes(),
            *b"\x00\x00\x01\x3b\xf3\x80\xc2\x00\x00\x00\x00\x09"
        );
    }

    #[test]
    fn equal_and_earlier_timestamps_make_no_entry() {
        let bytes = write(&[(10, true), (8, true), (10, true), (12, true)]);
        let index = TimeIndex::open(&bytes, Some(RelativeOffset(3))).expect("sound");
        assert_eq!(index.entry_count(), 2);
        assert_eq!(index.floor(Timestamp(11)), Some(entry(10, 0)));
        assert_eq!(index.last(), Some(entry(12, 3)));
    }

    #[test]
    fn records_without_timestamps_leave_the_index_empty() {
        assert!(write(&[(-1, true), (-1, true)]).is_empty());
    }

    #[test]
    fn a_resumed_tail_does_not_repeat_what_is_written() {
        let bytes = write(&[(10, true)]);
        let mut tail = TimeIndexTail::resume(&TimeIndex::trusted(&bytes));
        assert_eq!(tail.greatest(), Some(entry(10, 0)));
        assert_eq!(tail.try_push(), None);
        tail.observe(Some(Timestamp(11)), RelativeOffset(1));
        assert_eq!(tail.try_push(), Some(entry(11, 1)));
    }

    #[test]
    fn damage_is_named_not_served() {
        let damage = |entries: &[TimeEntry], cut: usize, log_last: Option<u32>| {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
            TimeIndex::open(&bytes[..bytes.len() - cut], log_last.map(RelativeOffset))
                .err()
                .map(|damage| damage.to_string())
        };
        let sound = [entry(10, 5), entry(11, 9)];
        assert_eq!(damage(&sound, 0, Some(9)), None);
        assert_eq!(
            damage(&sound, 1, Some(9)).as_deref(),
            Some("time index of 23 bytes ends inside an entry of 12")
        );
        for falling in [entry(10, 6), entry(11, 4)] {
            assert_eq!(
                damage(&[entry(10, 5), falling], 0, Some(9)).as_deref(),
                Some("time index entry 1 is not greater than the one before it")
            );
        }
        for log_last in [Some(8), None] {
            assert_eq!(
                damage(&sound, 0, log_last).as_deref(),
                Some("time index names relative offset 9 behind the end of the log")
            );
        }
    }

    #[test]
    fn one_slot_is_kept_for_the_entry_of_the_seal() {
        assert_eq!(TimeEntry::capacity(36), 2);
        assert_eq!(TimeEntry::capacity(11), 0);
    }
}
