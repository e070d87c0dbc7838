//! Producer snapshot: the producers of a partition as they stood before the offset in the file's name.
//!
//! ```text
//! +---------+-----+-------+---------+---------+----        big-endian, as Kafka writes them
//! | version | crc | count | entry 0 | entry 1 | ...        version i16 = 1; count i32
//! |    2    |  4  |   4   |   46    |   46    |            crc: CRC-32C of everything behind it
//! +---------+-----+-------+---------+---------+----
//!
//! entry   0 producer id i64           26 timestamp i64, -1 none
//!         8 epoch i16                 34 coordinator epoch i32, -1 none
//!        10 last sequence i32, -1 none        38 first offset of the open transaction i64, -1 none
//!        14 last offset i64, -1 none
//!        22 last offset delta i32, of the last batch
//! ```
//!
//! Invariants
//! - One batch per producer, its last; the reader finds the others in the tail of the log.
//! - No producer stands in it twice, and no two open transactions begin at one offset.
//! - A snapshot is whole or refused: the caller then takes an older one, or scans the log.
//!
//! What it does not do: I/O, or say what the state means (`producers`).

use std::collections::HashSet;
use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};

use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// The incarnation of a transaction coordinator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoordinatorEpoch(pub i32);

/// The only version there is.
const VERSION: i16 = 1;
/// Bytes of version, checksum and count.
const HEADER_LEN: usize = 10;
/// Bytes of one producer.
const ENTRY_LEN: usize = 46;
const CRC: Range<usize> = 2..6;
const CHECKED_FROM: usize = CRC.end;

const PRODUCER_ID: Range<usize> = 0..8;
const EPOCH: Range<usize> = 8..10;
const LAST_SEQUENCE: Range<usize> = 10..14;
const LAST_OFFSET: Range<usize> = 14..22;
const LAST_OFFSET_DELTA: Range<usize> = 22..26;
const TIMESTAMP: Range<usize> = 26..34;
const COORDINATOR_EPOCH: Range<usize> = 34..38;
const OPEN_SINCE: Range<usize> = 38..46;
const _: () = assert!(
    PRODUCER_ID.end == EPOCH.start
        && EPOCH.end == LAST_SEQUENCE.start
        && LAST_SEQUENCE.end == LAST_OFFSET.start
        && LAST_OFFSET.end == LAST_OFFSET_DELTA.start
        && LAST_OFFSET_DELTA.end == TIMESTAMP.start
        && TIMESTAMP.end == COORDINATOR_EPOCH.start
        && COORDINATOR_EPOCH.end == OPEN_SINCE.start
        && OPEN_SINCE.end == ENTRY_LEN
);

/// The last batch of a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastBatch {
    /// Sequence of its last record; a coordinator's batch has none.
    pub last_sequence: Option<Sequence>,
    /// Its last offset.
    pub last_offset: Offset,
    /// Its last offset less its base offset, not negative.
    pub last_offset_delta: i32,
}

/// One producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerEntry {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
    /// Its last batch; none when only markers were seen in this epoch.
    pub last_batch: Option<LastBatch>,
    /// The timestamp of its last batch or marker.
    pub timestamp: Option<Timestamp>,
    /// The newest incarnation of a coordinator that ended a transaction of it.
    pub coordinator_epoch: Option<CoordinatorEpoch>,
    /// First offset of its open transaction.
    pub open_since: Option<Offset>,
}

/// Returns the bytes of a snapshot.
///
/// # Panics
/// With more than 2,147,483,647 entries.
pub fn encode_snapshot(entries: &[ProducerEntry]) -> Vec<u8> {
    let count = i32::try_from(entries.len()).expect("producers are limited far below 2^31");
    let mut bytes = Vec::with_capacity(HEADER_LEN + entries.len() * ENTRY_LEN);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        let last = entry.last_batch;
        let sequence = last
            .and_then(|last| last.last_sequence)
            .map_or(-1, |sequence| sequence.0);
        bytes.extend_from_slice(&entry.id.0.to_be_bytes());
        bytes.extend_from_slice(&entry.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&last.map_or(-1, |last| last.last_offset.0).to_be_bytes());
        bytes.extend_from_slice(&last.map_or(0, |last| last.last_offset_delta).to_be_bytes());
        bytes.extend_from_slice(&entry.timestamp.map_or(-1, |timestamp| timestamp.0).to_be_bytes());
        bytes.extend_from_slice(&entry.coordinator_epoch.map_or(-1, |epoch| epoch.0).to_be_bytes());
        bytes.extend_from_slice(&entry.open_since.map_or(-1, |first| first.0).to_be_bytes());
    }
    let crc = crc_of(&bytes);
    bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Reads the bytes of a snapshot.
///
/// # Errors
/// [`SnapshotDamage`] says what is wrong; nothing of such a snapshot is used.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Vec<ProducerEntry>, SnapshotDamage> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Err(SnapshotDamage::Short { len: bytes.len() });
    };
    let [v0, v1, c0, c1, c2, c3, n0, n1, n2, n3] = *header;
    let version = i16::from_be_bytes([v0, v1]);
    if version != VERSION {
        return Err(SnapshotDamage::Version { version });
    }
    let (expected, found) = (u32::from_be_bytes([c0, c1, c2, c3]), crc_of(bytes));
    if expected != found {
        return Err(SnapshotDamage::Checksum { expected, found });
    }
    let count = i32::from_be_bytes([n0, n1, n2, n3]);
    let (entries, rest) = body.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() || usize::try_from(count) != Ok(entries.len()) {
        return Err(SnapshotDamage::Count {
            count,
            len: bytes.len(),
        });
    }
    let mut producers = HashSet::with_capacity(entries.len());
    let mut transactions = HashSet::new();
    let mut decoded = Vec::with_capacity(entries.len());
    for (entry, bytes) in entries.iter().enumerate() {
        let producer = decode_entry(bytes).ok_or(SnapshotDamage::Entry { entry })?;
        let is_new = producers.insert(producer.id)
            && producer.open_since.is_none_or(|first| transactions.insert(first));
        if !is_new {
            return Err(SnapshotDamage::Repeated { entry });
        }
        decoded.push(producer);
    }
    Ok(decoded)
}

fn crc_of(bytes: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes[CHECKED_FROM..]);
    u32::try_from(crc).expect("a CRC-32C has 32 bits")
}

/// `None` when a number is out of its range.
fn decode_entry(bytes: &[u8; ENTRY_LEN]) -> Option<ProducerEntry> {
    let epoch = i16::from_be_bytes(bytes[EPOCH].try_into().expect("2 bytes"));
    let id = i64_at(bytes, PRODUCER_ID);
    let last_offset_delta = i32_at(bytes, LAST_OFFSET_DELTA);
    let last_batch = match or_none(i64_at(bytes, LAST_OFFSET))? {
        None => None,
        Some(last_offset) if i64::from(last_offset_delta) <= last_offset && last_offset_delta >= 0 => {
            Some(LastBatch {
                last_sequence: or_none(i32_at(bytes, LAST_SEQUENCE))?.map(Sequence),
                last_offset: Offset(last_offset),
                last_offset_delta,
            })
        }
        Some(_) => return None,
    };
    (id >= 0 && epoch >= 0).then_some(ProducerEntry {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        last_batch,
        timestamp: Some(i64_at(bytes, TIMESTAMP))
            .filter(|&ms| ms != -1)
            .map(Timestamp),
        coordinator_epoch: or_none(i32_at(bytes, COORDINATOR_EPOCH))?.map(CoordinatorEpoch),
        open_since: or_none(i64_at(bytes, OPEN_SINCE))?.map(Offset),
    })
}

/// Translates Kafka's -1 for "none"; the outer `None` refuses other negative numbers.
fn or_none<T: PartialOrd + From<i8>>(number: T) -> Option<Option<T>> {
    if number == T::from(-1) {
        return Some(None);
    }
    (number >= T::from(0)).then_some(Some(number))
}

fn i32_at(bytes: &[u8; ENTRY_LEN], field: Range<usize>) -> i32 {
    i32::from_be_bytes(bytes[field].try_into().expect("the field is 4 bytes"))
}

fn i64_at(bytes: &[u8; ENTRY_LEN], field: Range<usize>) -> i64 {
    i64::from_be_bytes(bytes[field].try_into().expect("the field is 8 bytes"))
}

/// Why bytes are not a snapshot. The layer above adds the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotDamage {
    /// Shorter than its header.
    #[error("producer snapshot of {len} bytes is shorter than its header of {HEADER_LEN}")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// A version we do not know.
    #[error("producer snapshot has version {version}, expected {VERSION}")]
    Version {
        /// What it has.
        version: i16,
    },
    /// The bytes are not those that were written.
    #[error("producer snapshot has crc {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What its header says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The count does not fit the length.
    #[error("producer snapshot of {len} bytes cannot hold {count} entries of {ENTRY_LEN}")]
    Count {
        /// What the header says.
        count: i32,
        /// Its length in bytes.
        len: usize,
    },
    /// A producer told twice, or two transactions that begin at one offset.
    #[error("producer snapshot entry {entry} repeats the producer or the transaction of an earlier one")]
    Repeated {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// A number out of its range.
    #[error("producer snapshot entry {entry} has a number out of range")]
    Entry {
        /// Number of the entry, from 0.
        entry: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<ProducerEntry>> {
        let batch = (prop::option::of(0..=i32::MAX), 0..=i64::MAX, 0..=i32::MAX).prop_map(
            |(sequence, offset, delta)| LastBatch {
                last_sequence: sequence.map(Sequence),
                last_offset: Offset(offset.max(i64::from(delta))),
                last_offset_delta: delta,
            },
        );
        let entry = (
            (0..=i64::MAX, 0..=i16::MAX),
            prop::option::of(batch),
            prop::option::of(0..=i64::MAX),
            prop::option::of(0..=i32::MAX),
            prop::option::of(0..=i64::MAX),
        )
            .prop_map(
                |((id, epoch), last_batch, timestamp, coordinator, open)| ProducerEntry {
                    id: ProducerId(id),
                    epoch: ProducerEpoch(epoch),
                    last_batch,
                    timestamp: timestamp.map(Timestamp),
                    coordinator_epoch: coordinator.map(CoordinatorEpoch),
                    open_since: open.map(Offset),
                },
            );
        prop::collection::vec(entry, 0..8).prop_map(|mut entries| {
            entries.sort_unstable_by_key(|entry| entry.id);
            entries.dedup_by_key(|entry| entry.id);
            for (at, entry) in (0..).zip(&mut entries) {
                entry.open_since = entry.open_since.map(|first| Offset(first.0 / 16 * 16 + at));
            }
            entries
        })
    }

    proptest! {
        #[test]
        fn every_snapshot_comes_back(entries in entries()) {
            prop_assert_eq!(decode_snapshot(&encode_snapshot(&entries)), Ok(entries));
        }

        #[test]
        fn a_changed_bit_or_a_cut_is_noticed(entries in entries(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = encode_snapshot(&entries);
            let at = at.index(bytes.len());
            prop_assert!(decode_snapshot(&bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_snapshot(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_read_within_their_size(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode_snapshot(&bytes).is_err() || bytes.len() >= HEADER_LEN);
            if bytes.len() < HEADER_LEN {
                return Ok(());
            }
            // With a good frame the entries themselves are put to the test.
            bytes.truncate(HEADER_LEN + (bytes.len() - HEADER_LEN) / ENTRY_LEN * ENTRY_LEN);
            let count = i32::try_from((bytes.len() - HEADER_LEN) / ENTRY_LEN).expect("few");
            bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
            bytes[6..10].copy_from_slice(&count.to_be_bytes());
            let crc = crc_of(&bytes);
            bytes[CRC].copy_from_slice(&crc.to_be_bytes());
            let decoded = decode_snapshot(&bytes);
            let framed = matches!(decoded, Ok(_) | Err(SnapshotDamage::Entry { .. } | SnapshotDamage::Repeated { .. }));
            prop_assert!(framed, "{decoded:?}");
        }
    }

    /// A snapshot of two producers, put together by hand from Kafka's layout; its checksum by another implementation.
    const GOLDEN: [u8; 102] = *b"\
        \x00\x01\x5e\xe1\x99\x41\x00\x00\x00\x02\
        \x00\x00\x00\x00\x00\x00\x03\xe8\x00\x05\x00\x00\x00\x29\x00\x00\x00\x00\x00\x00\x01\x02\x00\
        \x00\x00\x09\x00\x00\x01\x3b\xf3\x80\xc2\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\xf9\
        \x00\x00\x00\x00\x00\x00\x03\xe9\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\
        \x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";

    fn golden_entries() -> [ProducerEntry; 2] {
        [
            ProducerEntry {
                id: ProducerId(1000),
                epoch: ProducerEpoch(5),
                last_batch: Some(LastBatch {
                    last_sequence: Some(Sequence(41)),
                    last_offset: Offset(0x0102),
                    last_offset_delta: 9,
                }),
                timestamp: Some(Timestamp(1_357_000_000_000)),
                coordinator_epoch: Some(CoordinatorEpoch(3)),
                open_since: Some(Offset(0xf9)),
            },
            ProducerEntry {
                id: ProducerId(1001),
                epoch: ProducerEpoch(0),
                last_batch: None,
                timestamp: None,
                coordinator_epoch: None,
                open_since: None,
            },
        ]
    }

    #[test]
    fn a_snapshot_is_written_as_kafka_writes_it() {
        assert_eq!(encode_snapshot(&golden_entries()), GOLDEN);
        assert_eq!(decode_snapshot(&GOLDEN), Ok(golden_entries().to_vec()));
    }

    #[test]
    fn damage_is_named_not_served() {
        let damage = |bytes: &[u8]| decode_snapshot(bytes).err().map(|damage| damage.to_string());
        assert_eq!(
            damage(b"").as_deref(),
            Some("producer snapshot of 0 bytes is shorter than its header of 10")
        );
        let mut newer = GOLDEN;
        newer[1] = 2;
        assert_eq!(
            damage(&newer).as_deref(),
            Some("producer snapshot has version 2, expected 1")
        );
        let reframed = |change: fn(&mut [u8; 102])| {
            let mut bytes = GOLDEN;
            change(&mut bytes);
            let crc = crc_of(&bytes);
            bytes[CRC].copy_from_slice(&crc.to_be_bytes());
            damage(&bytes)
        };
        assert_eq!(
            reframed(|bytes| bytes[9] = 3).as_deref(),
            Some("producer snapshot of 102 bytes cannot hold 3 entries of 46")
        );
        let negative_epoch = reframed(|bytes| bytes[10 + 46 + 8] = 0xff);
        assert_eq!(
            negative_epoch.as_deref(),
            Some("producer snapshot entry 1 has a number out of range")
        );
        let repeated = reframed(|bytes| bytes.copy_within(10..18, 10 + 46));
        assert_eq!(
            repeated.as_deref(),
            Some("producer snapshot entry 1 repeats the producer or the transaction of an earlier one")
        );
        let before_the_log = reframed(|bytes| bytes[10 + 22] = 1);
        assert_eq!(
            before_the_log.as_deref(),
            Some("producer snapshot entry 0 has a number out of range")
        );
    }
}
