//! The indexes of one segment, as they grow with its batches: offset index, time index, aborted transactions.
//!
//! One writer for all three ways a segment comes to be: appended to, rebuilt by recovery, copied by the cleaner. The bytes
//! are the files' bytes, so a lookup reads a growing index, a mapped file and a range of an object alike.
//!
//! Invariants
//! - Fed with the same batches, it has the same places: a rebuild equals what was written live, however often the server
//!   started meanwhile.
//! - Entries follow Kafka's cadence; [`IndexSet::seal`] adds the last time entry, once.
//!
//! What is not here: files.

use crate::record::BatchHeader;
use crate::types::{Offset, Timestamp};

use super::{
    AbortedTransaction, IndexCadence, IndexEntry, OffsetEntry, OffsetIndex, Position, RelativeOffset,
    TimeEntry, TimeIndex, TimeIndexTail,
};

/// Indexes of a segment in memory.
#[derive(Clone, Debug)]
pub(super) struct IndexSet {
    base: Offset,
    cadence: IndexCadence,
    tail: TimeIndexTail,
    offsets: Vec<u8>,
    times: Vec<u8>,
    aborted: Vec<AbortedTransaction>,
}

impl IndexSet {
    pub(super) fn new(base: Offset, interval_bytes: u32) -> Self {
        Self {
            base,
            cadence: IndexCadence::new(interval_bytes),
            tail: TimeIndexTail::default(),
            offsets: Vec::new(),
            times: Vec::new(),
            aborted: Vec::new(),
        }
    }

    /// Goes on with what the files of a segment of `end_bytes` hold. The last time entry may be the one that sealing added; it
    /// stays true.
    pub(super) fn resume(base: Offset, interval_bytes: u32, end_bytes: u32, files: IndexFiles) -> Self {
        let tail = TimeIndexTail::resume(&TimeIndex::trusted(&files.times));
        let offsets = OffsetIndex::trusted(&files.offsets);
        Self {
            base,
            cadence: IndexCadence::resume(interval_bytes, &offsets, end_bytes),
            tail,
            offsets: files.offsets,
            times: files.times,
            aborted: files.aborted,
        }
    }

    pub(super) fn base(&self) -> Offset {
        self.base
    }

    /// Takes note of a batch that lies at `position`, after all before it.
    pub(super) fn add(&mut self, header: &BatchHeader, position: u32) {
        let last = RelativeOffset::new(header.last_offset(), self.base)
            .expect("a segment rolls before offsets overflow");
        // An emptied batch keeps the time of records that are gone: nobody could find them by it.
        let greatest = header.max_timestamp.filter(|_| header.record_count > 0);
        self.tail.observe(greatest, last);
        if self.cadence.append(header.size_bytes) == IndexEntry::Due {
            let entry = OffsetEntry {
                last_offset: last,
                position: Position(position),
            };
            self.offsets.extend_from_slice(&entry.to_bytes());
            self.push_time();
        }
    }

    pub(super) fn add_aborted(&mut self, aborted: AbortedTransaction) {
        self.aborted.push(aborted);
    }

    /// Adds the entry that says what the greatest timestamp of the whole segment is.
    pub(super) fn seal(&mut self) {
        self.push_time();
    }

    /// True when a further entry would exceed `limit_bytes` in either index.
    pub(super) fn is_full(&self, limit_bytes: u32) -> bool {
        let entries = |bytes: &Vec<u8>, len: usize| u32::try_from(bytes.len() / len).unwrap_or(u32::MAX);
        entries(&self.offsets, OffsetEntry::LEN) >= OffsetEntry::capacity(limit_bytes)
            || entries(&self.times, TimeEntry::LEN) >= TimeEntry::capacity(limit_bytes)
    }

    pub(super) fn offsets(&self) -> OffsetIndex<'_> {
        OffsetIndex::trusted(&self.offsets)
    }

    pub(super) fn times(&self) -> TimeIndex<'_> {
        TimeIndex::trusted(&self.times)
    }

    pub(super) fn aborted(&self) -> &[AbortedTransaction] {
        &self.aborted
    }

    pub(super) fn offset_bytes(&self) -> &[u8] {
        &self.offsets
    }

    pub(super) fn time_bytes(&self) -> &[u8] {
        &self.times
    }

    fn push_time(&mut self) {
        if let Some(entry) = self.tail.try_push() {
            self.times.extend_from_slice(&entry.to_bytes());
        }
    }
}

/// What the index files of a segment hold.
#[derive(Debug, Default)]
pub(super) struct IndexFiles {
    pub(super) offsets: Vec<u8>,
    pub(super) times: Vec<u8>,
    pub(super) aborted: Vec<AbortedTransaction>,
}

/// Least and greatest timestamp seen, and how many records: what a segment's summary says of its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ContentSpan {
    pub(super) records: u64,
    pub(super) least: Option<Timestamp>,
    pub(super) greatest: Option<Timestamp>,
}

impl ContentSpan {
    pub(super) fn add(&mut self, records: u32, times: Option<(Timestamp, Timestamp)>) {
        self.records += u64::from(records);
        if let Some((least, greatest)) = times {
            self.least = Some(self.least.map_or(least, |known| known.min(least)));
            self.greatest = Some(self.greatest.map_or(greatest, |known| known.max(greatest)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchRebuild;
    use crate::storage::testing::plain;

    #[test]
    fn a_set_that_was_stopped_and_resumed_has_the_same_places() {
        let header = *plain("a value").header();
        let size = header.size_bytes;
        let places = |stops: &[i64]| {
            let mut set = IndexSet::new(Offset::ZERO, 3 * size);
            for batch in 0..40 {
                let position = u32::try_from(batch).expect("small") * size;
                if stops.contains(&batch) {
                    let files = IndexFiles {
                        offsets: set.offset_bytes().to_vec(),
                        times: set.time_bytes().to_vec(),
                        aborted: Vec::new(),
                    };
                    set = IndexSet::resume(Offset::ZERO, 3 * size, position, files);
                }
                let mut header = header;
                header.base_offset = Offset(batch);
                set.add(&header, position);
            }
            set.offset_bytes().to_vec()
        };
        let unbroken = places(&[]);
        assert_eq!(unbroken.len() / OffsetEntry::LEN, 9);
        for stop in 0..40 {
            assert_eq!(places(&[stop, 20, 22]), unbroken, "stopped before batch {stop}");
        }
    }

    #[test]
    fn an_emptied_batch_has_a_place_in_the_indexes_and_no_time() {
        let full = *plain("gone").header();
        let emptied = BatchRebuild::of(&full, None).build().expect("a header alone");
        assert_eq!(emptied.header().max_timestamp, full.max_timestamp);
        let indexed = |headers: &[&BatchHeader]| {
            let mut set = IndexSet::new(Offset::ZERO, 0);
            for (offset, header) in (0..).zip(headers) {
                let mut header = **header;
                header.base_offset = Offset(offset);
                set.add(&header, u32::try_from(offset).expect("small") * 100);
            }
            set.seal();
            (
                set.offset_bytes().len() / OffsetEntry::LEN,
                set.time_bytes().len() / TimeEntry::LEN,
            )
        };
        let (places, times) = indexed(&[&full, &full]);
        assert!(times > 0);
        assert_eq!(indexed(&[emptied.header(), emptied.header()]), (places, 0));
    }
}
