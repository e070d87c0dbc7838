//! Transaction index: the aborted transactions whose end lies in a segment.
//!
//! ```text
//! +---------+----------+--------------+-------------+--------------------+
//! | version | producer | first offset | last offset | last stable offset | ...     34 bytes each, big-endian
//! |   i16   |   i64    |     i64      |     i64     |        i64         |         as Kafka writes them
//! +---------+----------+--------------+-------------+--------------------+
//! first offset       = first data offset of the transaction, perhaps in an earlier segment
//! last offset        = offset of its abort marker, in this segment
//! last stable offset = of the partition, right after that marker
//! ```
//!
//! Invariants
//! - Entries stand in the order of their markers: last offsets grow strictly, and none lies before the segment.
//! - Committed transactions and aborted ones without data on this partition have no entry.
//! - The file exists only once there is an entry; an empty one is legal.
//!
//! Reading works on any bytes, local or fetched. What it does not do: follow a search into the next segment (the caller
//! goes on while the answer says [`Search::Continues`]).

use std::ops::Range;

use crate::types::{Offset, ProducerId};

/// The only version there is.
const VERSION: i16 = 0;
const VERSION_FIELD: Range<usize> = 0..2;
const PRODUCER_ID: Range<usize> = 2..10;
const FIRST_OFFSET: Range<usize> = 10..18;
const LAST_OFFSET: Range<usize> = 18..26;
const LAST_STABLE_OFFSET: Range<usize> = 26..34;
const _: () = assert!(
    VERSION_FIELD.end == PRODUCER_ID.start
        && PRODUCER_ID.end == FIRST_OFFSET.start
        && FIRST_OFFSET.end == LAST_OFFSET.start
        && LAST_OFFSET.end == LAST_STABLE_OFFSET.start
        && LAST_STABLE_OFFSET.end == AbortedTransaction::LEN
);

/// One entry: the records of `producer_id` from `first_offset` to the marker at `last_offset` do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    /// Whose transaction.
    pub producer_id: ProducerId,
    /// Its first data offset on this partition.
    pub first_offset: Offset,
    /// The offset of its abort marker.
    pub last_offset: Offset,
    /// The last stable offset right after the marker.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    /// Bytes of one entry on disk.
    pub const LEN: usize = 34;

    /// Returns the entry as it stands on disk.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[VERSION_FIELD].copy_from_slice(&VERSION.to_be_bytes());
        bytes[PRODUCER_ID].copy_from_slice(&self.producer_id.0.to_be_bytes());
        bytes[FIRST_OFFSET].copy_from_slice(&self.first_offset.0.to_be_bytes());
        bytes[LAST_OFFSET].copy_from_slice(&self.last_offset.0.to_be_bytes());
        bytes[LAST_STABLE_OFFSET].copy_from_slice(&self.last_stable_offset.0.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            producer_id: ProducerId(i64_at(bytes, PRODUCER_ID)),
            first_offset: Offset(i64_at(bytes, FIRST_OFFSET)),
            last_offset: Offset(i64_at(bytes, LAST_OFFSET)),
            last_stable_offset: Offset(i64_at(bytes, LAST_STABLE_OFFSET)),
        }
    }
}

fn i64_at(bytes: &[u8; AbortedTransaction::LEN], field: Range<usize>) -> i64 {
    i64::from_be_bytes(bytes[field].try_into().expect("the field is 8 bytes"))
}

/// Whether later segments may hold more of what was searched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// They cannot: a transaction seen left everything in the range decided.
    Complete,
    /// They may.
    Continues,
}

/// What a search found in one segment's index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlap {
    /// Transactions with offsets in the range, in the order of their markers.
    pub transactions: Vec<AbortedTransaction>,
    /// Whether to go on in the next segment.
    pub search: Search,
}

impl Overlap {
    /// As [`TxnIndex::overlapping`], of entries that are in memory.
    pub fn in_memory(entries: &[AbortedTransaction], offsets: &Range<Offset>) -> Self {
        let ended_before = entries.partition_point(|entry| entry.last_offset < offsets.start);
        Self::among(entries[ended_before..].iter().copied(), offsets.end)
    }

    fn among(ending: impl Iterator<Item = AbortedTransaction>, end: Offset) -> Self {
        let mut transactions = Vec::new();
        for transaction in ending {
            if transaction.first_offset < end {
                transactions.push(transaction);
            }
            if transaction.last_stable_offset >= end {
                return Self {
                    transactions,
                    search: Search::Complete,
                };
            }
        }
        Self {
            transactions,
            search: Search::Continues,
        }
    }
}

/// A read-only view of index bytes.
#[derive(Clone, Copy, Debug)]
pub struct TxnIndex<'a> {
    entries: &'a [[u8; AbortedTransaction::LEN]],
}

impl<'a> TxnIndex<'a> {
    /// Checks `bytes` as the index of the segment that begins at `base_offset`, in one pass.
    ///
    /// # Errors
    /// [`TxnIndexDamage`] says which entry breaks which invariant; the caller recovers the segment.
    pub fn open(bytes: &'a [u8], base_offset: Offset) -> Result<Self, TxnIndexDamage> {
        let (entries, rest) = bytes.as_chunks::<{ AbortedTransaction::LEN }>();
        if !rest.is_empty() {
            return Err(TxnIndexDamage::Torn { len: bytes.len() });
        }
        let mut before = None;
        for (entry, bytes) in entries.iter().enumerate() {
            let version = i16::from_be_bytes([bytes[0], bytes[1]]);
            if version != VERSION {
                return Err(TxnIndexDamage::Version { entry, version });
            }
            let here = AbortedTransaction::from_bytes(bytes);
            if here.last_offset < base_offset {
                return Err(TxnIndexDamage::BeforeSegment {
                    entry,
                    last_offset: here.last_offset,
                    base_offset,
                });
            }
            if here.first_offset > here.last_offset || before.is_some_and(|before| here.last_offset <= before)
            {
                return Err(TxnIndexDamage::NotGrowing { entry });
            }
            before = Some(here.last_offset);
        }
        Ok(Self { entries })
    }

    /// Takes bytes that were checked before, without a pass over them. A torn last entry is left out.
    pub fn trusted(bytes: &'a [u8]) -> Self {
        let (entries, _torn) = bytes.as_chunks();
        Self { entries }
    }

    /// Returns all entries, in the order of their markers.
    pub fn iter(&self) -> impl Iterator<Item = AbortedTransaction> + use<'a> {
        self.entries.iter().map(AbortedTransaction::from_bytes)
    }

    /// Returns the transactions that a reader of `offsets` must know. The search ends at the first entry whose last
    /// stable offset reaches the end of the range: what was aborted later began behind it.
    pub fn overlapping(&self, offsets: Range<Offset>) -> Overlap {
        let ended_before = self.entries_before(offsets.start);
        let ending = self.entries[ended_before..].iter();
        Overlap::among(ending.map(AbortedTransaction::from_bytes), offsets.end)
    }

    /// Returns the length in bytes of the part whose markers lie before `target`: what a truncation to `target` keeps.
    pub fn len_before(&self, target: Offset) -> usize {
        self.entries_before(target) * AbortedTransaction::LEN
    }

    fn entries_before(&self, target: Offset) -> usize {
        self.entries
            .partition_point(|bytes| AbortedTransaction::from_bytes(bytes).last_offset < target)
    }
}

/// Why index bytes cannot be trusted. The layer above adds the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TxnIndexDamage {
    /// The bytes end inside an entry.
    #[error(
        "transaction index of {len} bytes ends inside an entry of {}",
        AbortedTransaction::LEN
    )]
    Torn {
        /// Length of the index in bytes.
        len: usize,
    },
    /// A version we do not know.
    #[error("transaction index entry {entry} has version {version}, expected {VERSION}")]
    Version {
        /// Number of the entry, from 0.
        entry: usize,
        /// What it has.
        version: i16,
    },
    /// A marker that cannot lie in this segment.
    #[error(
        "transaction index entry {entry} ends at offset {last_offset}, before its segment at {base_offset}"
    )]
    BeforeSegment {
        /// Number of the entry, from 0.
        entry: usize,
        /// Where it ends.
        last_offset: Offset,
        /// Where the segment begins.
        base_offset: Offset,
    },
    /// An entry that ends before it begins, or not after the entry before it.
    #[error("transaction index entry {entry} does not end after its start and after the entry before it")]
    NotGrowing {
        /// Number of the entry, from 0.
        entry: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn aborted(producer: i64, first: i64, last: i64, stable: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    fn index(entries: &[AbortedTransaction]) -> Vec<u8> {
        entries.iter().flat_map(|entry| entry.to_bytes()).collect()
    }

    /// Transactions as a log makes them: at each marker, the earliest transaction still open bounds the stable offset.
    fn histories() -> impl Strategy<Value = Vec<AbortedTransaction>> {
        prop::collection::vec(0..4_i64, 0..60).prop_map(|writes| {
            let mut open: Vec<Option<i64>> = vec![None; 4];
            let mut all = Vec::new();
            for (offset, producer) in (0..).zip(writes) {
                let slot = usize::try_from(producer).expect("small");
                let Some(first) = open[slot].take() else {
                    open[slot] = Some(offset);
                    continue;
                };
                let stable = open.iter().flatten().min().copied().unwrap_or(offset + 1);
                all.push(aborted(producer, first, offset, stable));
            }
            all
        })
    }

    proptest! {
        #[test]
        fn a_search_finds_every_transaction_of_the_range_even_when_it_stops_early(
            history in histories(),
            start in 0..60_i64,
            len in 1..30_i64,
        ) {
            let bytes = index(&history);
            let index = TxnIndex::open(&bytes, Offset::ZERO).expect("sound");
            let overlap = index.overlapping(Offset(start)..Offset(start + len));
            let expected: Vec<_> = history
                .iter()
                .filter(|entry| entry.last_offset.0 >= start && entry.first_offset.0 < start + len)
                .copied()
                .collect();
            prop_assert_eq!(overlap.transactions, expected);
            prop_assert_eq!(
                index.len_before(Offset(start)),
                34 * history.iter().filter(|entry| entry.last_offset.0 < start).count()
            );
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), history);
        }

        #[test]
        fn any_bytes_are_refused_or_searched_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            start in any::<i64>(),
            end in any::<i64>(),
        ) {
            let _ = TxnIndex::open(&bytes, Offset(start));
            let index = TxnIndex::trusted(&bytes);
            prop_assert!(index.overlapping(Offset(start)..Offset(end)).transactions.len() <= bytes.len() / 34);
            index.len_before(Offset(start));
        }
    }

    #[test]
    fn an_entry_is_written_as_kafka_writes_it() {
        assert_eq!(
            aborted(7, 0x0102, 0x0304, 0x0305).to_bytes(),
            *b"\x00\x00\
               \x00\x00\x00\x00\x00\x00\x00\x07\
               \x00\x00\x00\x00\x00\x00\x01\x02\
               \x00\x00\x00\x00\x00\x00\x03\x04\
               \x00\x00\x00\x00\x00\x00\x03\x05"
        );
    }

    #[test]
    fn a_search_says_when_later_segments_cannot_hold_more() {
        let bytes = index(&[
            aborted(1, 0, 10, 5),
            aborted(2, 5, 20, 21),
            aborted(3, 30, 40, 41),
        ]);
        let index = TxnIndex::open(&bytes, Offset::ZERO).expect("sound");
        let search = |range: Range<i64>| {
            let overlap = index.overlapping(Offset(range.start)..Offset(range.end));
            let producers: Vec<_> = overlap
                .transactions
                .iter()
                .map(|found| found.producer_id.0)
                .collect();
            (producers, overlap.search)
        };
        assert_eq!(search(0..4), (vec![1], Search::Complete));
        assert_eq!(search(0..12), (vec![1, 2], Search::Complete));
        assert_eq!(search(11..31), (vec![2, 3], Search::Complete));
        assert_eq!(search(35..41), (vec![3], Search::Complete));
        assert_eq!(search(35..42), (vec![3], Search::Continues));
        assert_eq!(search(41..50), (vec![], Search::Continues));
    }

    #[test]
    fn damage_is_named_not_served() {
        let damage = |bytes: &[u8]| {
            TxnIndex::open(bytes, Offset(8))
                .err()
                .map(|damage| damage.to_string())
        };
        assert_eq!(damage(b""), None);
        let sound = index(&[aborted(1, 5, 9, 10)]);
        assert_eq!(
            damage(&sound[..33]).as_deref(),
            Some("transaction index of 33 bytes ends inside an entry of 34")
        );
        let mut newer = sound;
        newer[1] = 1;
        assert_eq!(
            damage(&newer).as_deref(),
            Some("transaction index entry 0 has version 1, expected 0")
        );
        assert_eq!(
            damage(&index(&[aborted(1, 5, 7, 10)])).as_deref(),
            Some("transaction index entry 0 ends at offset 7, before its segment at 8")
        );
        assert_eq!(
            damage(&index(&[aborted(1, 5, 9, 10), aborted(2, 6, 9, 10)])).as_deref(),
            Some("transaction index entry 1 does not end after its start and after the entry before it")
        );
        assert_eq!(
            damage(&index(&[aborted(1, 10, 9, 10)])).as_deref(),
            Some("transaction index entry 0 does not end after its start and after the entry before it")
        );
    }
}
