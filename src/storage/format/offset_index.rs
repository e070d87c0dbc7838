//! Offset index: where in a segment to start looking for an offset.
//!
//! A sparse list of fixed-width entries beside a segment's `.log`. It answers one question, "at which position may I
//! start reading so as not to miss this offset?", and the caller scans batches from there.
//!
//! ```text
//!       entry 0               entry 1
//! +----------+----------+----------+----------+----
//! | relative | position | relative | position | ...      big-endian u32 each, as Kafka writes them
//! |  offset  |          |  offset  |          |
//! +----------+----------+----------+----------+----
//! relative offset = last offset of the batch at `position` - base offset of the segment, at most 2,147,483,647
//! ```
//!
//! Invariants
//! - Relative offsets grow strictly from entry to entry, and so do positions.
//! - An entry is written after the batch it names: the index may lag behind the log, it never runs ahead of it.
//! - No checksum: whatever is in doubt is thrown away and rebuilt from the log, which has its own.
//! - A lookup is a starting point, never an answer. Over damaged bytes it is some entry of them; the caller notices when
//!   no batch header stands at the entry's position, or one whose base offset lies beyond the entry's offset.
//!
//! Reading works on any bytes, a mapped file and a range fetched from an object store alike; this module does no I/O,
//! knows no file and holds no lock. What it does not do: find the exact batch, or know about timestamps
//! (`time_index`).

use std::ops::Range;

use crate::types::Offset;

const RELATIVE_OFFSET: Range<usize> = 0..4;
const POSITION: Range<usize> = 4..8;
const _: () = assert!(POSITION.end == OffsetEntry::LEN && RELATIVE_OFFSET.end == POSITION.start);

/// An offset less its segment's base offset; a segment is rolled before this could overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelativeOffset(pub u32);

impl RelativeOffset {
    /// The greatest that Kafka's signed field can hold.
    pub const MAX: Self = Self(i32::MAX.unsigned_abs());

    /// Returns `offset` relative to `base`; `None` when it lies before, or too far behind to be told.
    pub fn new(offset: Offset, base: Offset) -> Option<Self> {
        let distance = offset.0.checked_sub(base.0)?;
        u32::try_from(distance)
            .ok()
            .map(Self)
            .filter(|relative| *relative <= Self::MAX)
    }

    /// Returns the offset itself, in the segment that begins at `base`; stays at the greatest.
    pub fn from_base(self, base: Offset) -> Offset {
        Offset(base.0.saturating_add(i64::from(self.0)))
    }
}

/// A byte position in a segment's `.log`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u32);

/// One entry: the batch at `position` ends with `last_offset`.
///
/// Kafka before 4.0 wrote the last offset of a whole append there, which may span several batches: only "a batch starts
/// here, and nothing before it lies beyond `last_offset`" is common to all writers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetEntry {
    /// Last offset of the batch, relative to the segment's base offset.
    pub last_offset: RelativeOffset,
    /// Where the batch starts.
    pub position: Position,
}

impl OffsetEntry {
    /// Bytes of one entry on disk.
    pub const LEN: usize = 8;

    /// Returns how many entries an index of at most `limit_bytes` holds; with so many it is full and its segment rolls.
    pub fn capacity(limit_bytes: u32) -> u32 {
        limit_bytes / 8
    }

    /// Returns the entry as it stands on disk.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[RELATIVE_OFFSET].copy_from_slice(&self.last_offset.0.to_be_bytes());
        bytes[POSITION].copy_from_slice(&self.position.0.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Self {
            last_offset: RelativeOffset(u32::from_be_bytes([a, b, c, d])),
            position: Position(u32::from_be_bytes([e, f, g, h])),
        }
    }
}

/// A read-only view of index bytes.
#[derive(Clone, Copy, Debug)]
pub struct OffsetIndex<'a> {
    entries: &'a [[u8; OffsetEntry::LEN]],
}

impl<'a> OffsetIndex<'a> {
    /// Checks `bytes` against a log of `log_len` bytes, in one pass: for loading and recovery.
    ///
    /// # Errors
    /// [`OffsetIndexDamage`] says which entry breaks which invariant; the caller rebuilds the index from the log.
    pub fn open(bytes: &'a [u8], log_len: u32) -> Result<Self, OffsetIndexDamage> {
        let (entries, rest) = bytes.as_chunks::<{ OffsetEntry::LEN }>();
        if !rest.is_empty() {
            return Err(OffsetIndexDamage::Torn { len: bytes.len() });
        }
        let index = Self { entries };
        for entry in 1..entries.len() {
            let (before, here) = (index.entry(entry - 1), index.entry(entry));
            if here.last_offset <= before.last_offset || here.position <= before.position {
                return Err(OffsetIndexDamage::NotGrowing { entry });
            }
        }
        match index.last() {
            Some(last) if last.last_offset > RelativeOffset::MAX => Err(OffsetIndexDamage::TooFar {
                last_offset: last.last_offset,
            }),
            Some(last) if last.position.0 >= log_len => Err(OffsetIndexDamage::AheadOfLog {
                position: last.position,
                log_len,
            }),
            _ => Ok(index),
        }
    }

    /// Takes bytes that were checked before, without a pass over them: for lookups in a sealed, perhaps cold segment.
    /// A torn last entry is left out. Over damaged bytes lookups stay safe and mean nothing.
    pub fn trusted(bytes: &'a [u8]) -> Self {
        let (entries, _torn) = bytes.as_chunks();
        Self { entries }
    }

    /// Returns the entry of the greatest offset that is not after `target`; `None` when all lie after it, and the caller
    /// starts at the beginning of the log.
    pub fn floor(&self, target: RelativeOffset) -> Option<OffsetEntry> {
        let not_after = self.count_not_after(target);
        not_after.checked_sub(1).map(|entry| self.entry(entry))
    }

    /// Returns how many entries have an offset that is not after `target`.
    pub fn count_not_after(&self, target: RelativeOffset) -> usize {
        self.entries
            .partition_point(|bytes| OffsetEntry::from_bytes(bytes).last_offset <= target)
    }

    /// Returns a position at or before the batch that holds `target`: the start of the log when no entry lies before it.
    pub fn position_before(&self, target: RelativeOffset) -> Position {
        self.floor(target).map_or(Position(0), |entry| entry.position)
    }

    /// Returns a position at or behind the end of the batch that holds `target`; `None` when the index does not reach so far.
    pub fn position_behind(&self, target: RelativeOffset) -> Option<Position> {
        let before = self.len_before(target) / OffsetEntry::LEN;
        self.entries
            .get(before + 1)
            .map(|bytes| OffsetEntry::from_bytes(bytes).position)
    }

    /// Returns the first entry at or after `position`: all offsets of the bytes before `position` are at most its own.
    /// `None` when the index ends before.
    pub fn first_at_or_after(&self, position: Position) -> Option<OffsetEntry> {
        let before = self
            .entries
            .partition_point(|bytes| OffsetEntry::from_bytes(bytes).position < position);
        self.entries.get(before).map(OffsetEntry::from_bytes)
    }

    /// Returns the length in bytes of the part whose offsets lie before `target`: what a truncation to `target` keeps.
    pub fn len_before(&self, target: RelativeOffset) -> usize {
        let before = self
            .entries
            .partition_point(|bytes| OffsetEntry::from_bytes(bytes).last_offset < target);
        before * OffsetEntry::LEN
    }

    /// Returns the newest entry.
    pub fn last(&self) -> Option<OffsetEntry> {
        self.entries.last().map(OffsetEntry::from_bytes)
    }

    /// Returns how many entries there are.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, entry: usize) -> OffsetEntry {
        OffsetEntry::from_bytes(&self.entries[entry])
    }
}

/// Whether the batch about to be appended gets an entry in both indexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexEntry {
    /// It gets one.
    Due,
    /// Too few bytes lie between it and the last that got one.
    NotYet,
}

/// Decides which batches of a segment are indexed: one whenever more than an interval of bytes was appended since the
/// last that was, itself included. So the first batch of a segment never is, and a rebuild over the same log chooses the
/// same batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexCadence {
    interval_bytes: u32,
    since_entry_bytes: u64,
}

impl IndexCadence {
    /// Starts at an empty segment. `interval_bytes` is the topic's `index.interval.bytes`.
    pub fn new(interval_bytes: u32) -> Self {
        Self {
            interval_bytes,
            since_entry_bytes: 0,
        }
    }

    /// Goes on at the end, at `end_bytes`, of a segment whose index is `index`, as if it had never stopped.
    pub fn resume(interval_bytes: u32, index: &OffsetIndex<'_>, end_bytes: u32) -> Self {
        let last_entry = index.last().map_or(0, |entry| entry.position.0);
        Self {
            interval_bytes,
            since_entry_bytes: u64::from(end_bytes.saturating_sub(last_entry)),
        }
    }

    /// Takes note of a batch of `batch_len` bytes about to be appended, and answers for it.
    pub fn append(&mut self, batch_len: u32) -> IndexEntry {
        let answer = if self.since_entry_bytes > u64::from(self.interval_bytes) {
            self.since_entry_bytes = 0;
            IndexEntry::Due
        } else {
            IndexEntry::NotYet
        };
        self.since_entry_bytes = self.since_entry_bytes.saturating_add(u64::from(batch_len));
        answer
    }
}

/// Why index bytes cannot be trusted. The layer above adds the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OffsetIndexDamage {
    /// The bytes end inside an entry.
    #[error("offset index of {len} bytes ends inside an entry of {}", OffsetEntry::LEN)]
    Torn {
        /// Length of the index in bytes.
        len: usize,
    },
    /// An entry is not greater than the one before it.
    #[error("offset index entry {entry} is not greater than the one before it")]
    NotGrowing {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// The newest entry has an offset that no segment can hold.
    #[error("offset index has relative offset {}, more than {}", last_offset.0, RelativeOffset::MAX.0)]
    TooFar {
        /// What it has.
        last_offset: RelativeOffset,
    },
    /// The newest entry points past the end of the log.
    #[error("offset index points at position {} of a log of {log_len} bytes", position.0)]
    AheadOfLog {
        /// Where it points.
        position: Position,
        /// Length of the log in bytes.
        log_len: u32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG_LEN: u32 = 1000;

    fn index(entries: &[(u32, u32)]) -> Vec<u8> {
        entries
            .iter()
            .flat_map(|&(offset, position)| {
                OffsetEntry {
                    last_offset: RelativeOffset(offset),
                    position: Position(position),
                }
                .to_bytes()
            })
            .collect()
    }

    fn pair(entry: OffsetEntry) -> (u32, u32) {
        (entry.last_offset.0, entry.position.0)
    }

    /// Entries that grow strictly in both parts.
    fn growing() -> impl Strategy<Value = Vec<(u32, u32)>> {
        prop::collection::vec((1..1000_u32, 1..1000_u32), 0..60).prop_map(|steps| {
            let mut at = (0, 0);
            steps
                .iter()
                .map(|step| {
                    at = (at.0 + step.0, at.1 + step.1);
                    at
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_scan_of_the_entries(entries in growing(), asked in 0..70_000_u32) {
            let bytes = index(&entries);
            let index = OffsetIndex::open(&bytes, u32::MAX).expect("a sound index opens");
            let floor = entries.iter().rev().find(|entry| entry.0 <= asked).copied();
            prop_assert_eq!(index.floor(RelativeOffset(asked)).map(pair), floor);
            prop_assert_eq!(index.position_before(RelativeOffset(asked)).0, floor.map_or(0, |entry| entry.1));
            let behind = entries.iter().filter(|entry| entry.0 >= asked).nth(1);
            prop_assert_eq!(index.position_behind(RelativeOffset(asked)).map(|position| position.0), behind.map(|entry| entry.1));
            prop_assert_eq!(
                index.first_at_or_after(Position(asked)).map(pair),
                entries.iter().find(|entry| entry.1 >= asked).copied()
            );
            prop_assert_eq!(
                index.len_before(RelativeOffset(asked)),
                8 * entries.iter().filter(|entry| entry.0 < asked).count()
            );
            prop_assert_eq!(index.last().map(pair), entries.last().copied());
            prop_assert_eq!(index.entry_count(), entries.len());
            let torn = [bytes.as_slice(), b"torn"].concat();
            prop_assert_eq!(
                OffsetIndex::trusted(&torn).floor(RelativeOffset(asked)).map(pair),
                floor
            );
        }

        #[test]
        fn any_bytes_are_refused_or_looked_up_in_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            asked in any::<u32>(),
        ) {
            let _ = OffsetIndex::open(&bytes, asked);
            let index = OffsetIndex::trusted(&bytes);
            index.floor(RelativeOffset(asked));
            index.first_at_or_after(Position(asked));
            prop_assert!(index.len_before(RelativeOffset(asked)) <= bytes.len());
        }

        #[test]
        fn entries_lie_further_apart_than_the_interval(lens in prop::collection::vec(1..300_u32, 1..80)) {
            let mut cadence = IndexCadence::new(256);
            let mut since = 0;
            for len in lens {
                let expected = if since > 256 { IndexEntry::Due } else { IndexEntry::NotYet };
                prop_assert_eq!(cadence.append(len), expected);
                since = if expected == IndexEntry::Due { len } else { since + len };
            }
        }
    }

    #[test]
    fn an_entry_is_written_as_kafka_writes_it() {
        assert_eq!(
            index(&[(9, 4097), (0x0102_0304, 0x0506_0708)]),
            b"\x00\x00\x00\x09\x00\x00\x10\x01\x01\x02\x03\x04\x05\x06\x07\x08"
        );
    }

    #[test]
    fn a_lookup_before_the_first_entry_starts_at_the_beginning() {
        let position = |entries: &[(u32, u32)], asked| {
            let bytes = index(entries);
            let index = OffsetIndex::open(&bytes, LOG_LEN).expect("a sound index opens");
            index.position_before(RelativeOffset(asked)).0
        };
        assert_eq!(position(&[], 7), 0);
        assert_eq!(position(&[(9, 100)], 8), 0);
        assert_eq!(position(&[(9, 100)], 9), 100);
        assert_eq!(position(&[(9, 100), (19, 300)], u32::MAX), 300);
    }

    #[test]
    fn the_first_batch_is_not_indexed_and_the_interval_is_exceeded_not_met() {
        let mut cadence = IndexCadence::new(100);
        let answers: Vec<_> = [100, 1, 100, 1, 500, 5]
            .into_iter()
            .map(|len| cadence.append(len) == IndexEntry::Due)
            .collect();
        assert_eq!(answers, [false, false, true, false, true, true]);
    }

    #[test]
    fn offsets_beyond_31_bits_have_no_relative_form() {
        let base = Offset(100);
        assert_eq!(RelativeOffset::new(Offset(99), base), None);
        assert_eq!(RelativeOffset::new(Offset(100), base), Some(RelativeOffset(0)));
        let greatest = Offset(100 + 2_147_483_647);
        assert_eq!(RelativeOffset::new(greatest, base), Some(RelativeOffset::MAX));
        assert_eq!(RelativeOffset::MAX.from_base(base), greatest);
        assert_eq!(RelativeOffset::new(greatest.next(), base), None);
        assert_eq!(RelativeOffset::new(Offset::MAX, Offset(-1)), None);
    }

    #[test]
    fn damage_is_named_not_served() {
        let damage = |bytes: &[u8]| {
            OffsetIndex::open(bytes, LOG_LEN)
                .err()
                .map(|damage| damage.to_string())
        };
        assert_eq!(
            damage(&index(&[(9, 100)])[..5]).as_deref(),
            Some("offset index of 5 bytes ends inside an entry of 8")
        );
        assert_eq!(
            damage(&index(&[(9, 100), (9, 200)])).as_deref(),
            Some("offset index entry 1 is not greater than the one before it")
        );
        assert_eq!(
            damage(&[0; 16]).as_deref(),
            Some("offset index entry 1 is not greater than the one before it")
        );
        assert_eq!(
            damage(&index(&[(9, 100), (0x8000_0000, 200)])).as_deref(),
            Some("offset index has relative offset 2147483648, more than 2147483647")
        );
        assert_eq!(
            damage(&index(&[(9, 1000)])).as_deref(),
            Some("offset index points at position 1000 of a log of 1000 bytes")
        );
    }

    #[test]
    fn an_index_is_full_with_as_many_whole_entries_as_its_limit_holds() {
        assert_eq!(OffsetEntry::capacity(10_485_760), 1_310_720);
        assert_eq!(OffsetEntry::capacity(23), 2);
    }
}
