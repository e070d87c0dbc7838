//! Checks of a segment's log and indexes, as their bytes come by: what a verification in depth looks at.
//!
//! | what | must hold |
//! |---|---|
//! | batches | back to back from byte 0 to the end of the log, each with its CRC |
//! | offsets | ascend from batch to batch, within those of the segment |
//! | summary | number of records; no time outside the least and the greatest |
//! | offset index | every entry names a batch: the one at its position ends with its offset |
//! | time index | entries ascend; nothing up to an entry's offset is later than the entry |
//!
//! Invariants
//! - Pure: bytes in, the first thing that is wrong out. Memory: one batch, at most [`MAX_BATCH_BYTES`].
//! - What is right by the format is right here: an index may lack entries, batches may lack offsets.
//!
//! What is not here: fetching ([`super::verify_object`]), and what is in the records.

use bytes::{Buf as _, BytesMut};

use crate::record::{BatchHeader, HEADER_LEN, MAX_BATCH_BYTES, RecordBatch};
use crate::storage::{OffsetEntry, SegmentSummary, TimeEntry};
use crate::types::{Offset, Timestamp};

/// A batch, as the indexes know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SeenBatch {
    /// Where it begins in the log.
    pub(super) position: u64,
    /// Its last offset.
    pub(super) last: Offset,
    /// The greatest time in it that a search by time may look for.
    pub(super) greatest: Option<Timestamp>,
}

/// The batches of a log, in order.
pub(super) struct LogCheck {
    summary: SegmentSummary,
    /// Bytes of a batch that has not come whole yet.
    rest: BytesMut,
    /// Where `rest` begins.
    position: u64,
    next_offset: Offset,
    records: u64,
}

impl LogCheck {
    pub(super) fn of(summary: &SegmentSummary) -> Self {
        Self {
            rest: BytesMut::new(),
            position: 0,
            next_offset: summary.base_offset,
            records: 0,
            summary: summary.clone(),
        }
    }

    /// Takes the next bytes of the log, and adds the batches that they complete to `seen`.
    pub(super) fn push(&mut self, bytes: &[u8], seen: &mut Vec<SeenBatch>) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        while let Some(header) = self.next_header()? {
            let len = usize::try_from(header.size_bytes).expect("a batch fits memory's addresses");
            if self.rest.len() < len {
                self.rest.reserve(len - self.rest.len());
                break;
            }
            let batch = self.rest.split_to(len).freeze();
            self.check(&header, batch)?;
            seen.push(SeenBatch {
                position: self.position,
                last: header.last_offset(),
                greatest: header.max_timestamp.filter(|_| !header.is_control()),
            });
            self.position += u64::from(header.size_bytes);
            self.next_offset = header.next_offset();
            self.records += u64::from(header.record_count);
        }
        Ok(())
    }

    fn next_header(&self) -> Result<Option<BatchHeader>, String> {
        let Some(header) = self.rest.chunk().get(..HEADER_LEN) else {
            return Ok(None);
        };
        let header = BatchHeader::parse(header).map_err(|damage| self.at(&damage.to_string()))?;
        let left = self.summary.log_bytes.saturating_sub(self.position);
        if u64::from(header.size_bytes) > left || header.size_bytes > MAX_BATCH_BYTES {
            return Err(self.at(&format!(
                "a batch of {} bytes, {left} are left",
                header.size_bytes
            )));
        }
        Ok(Some(header))
    }

    fn check(&self, header: &BatchHeader, bytes: bytes::Bytes) -> Result<(), String> {
        let batch = RecordBatch::parse(bytes).map_err(|damage| self.at(&damage.to_string()))?;
        batch
            .verify_crc()
            .map_err(|damage| self.at(&damage.to_string()))?;
        if header.base_offset < self.next_offset || header.last_offset() >= self.summary.next_offset {
            return Err(self.at(&format!(
                "a batch of offsets {} to {}, expected within {} to {}",
                header.base_offset,
                header.last_offset(),
                self.next_offset,
                self.summary.next_offset.0 - 1
            )));
        }
        let (least, greatest) = (self.summary.least_timestamp, self.summary.greatest_timestamp);
        let first = header
            .base_timestamp
            .filter(|_| header.delete_horizon().is_none());
        let too_early = first.is_some_and(|first| least.is_none_or(|least| first < least));
        let too_late = header
            .max_timestamp
            .is_some_and(|last| greatest.is_none_or(|greatest| last > greatest));
        if !header.is_control() && (too_early || too_late) {
            return Err(self.at("a batch of a time that the summary does not have"));
        }
        Ok(())
    }

    fn at(&self, what: &str) -> String {
        format!("at position {}: {what}", self.position)
    }

    /// Makes sure that the log ended where it should.
    pub(super) fn finish(&self) -> Result<(), String> {
        if !self.rest.is_empty() || self.position != self.summary.log_bytes {
            return Err(self.at(&format!(
                "the log ends inside a batch, after {} bytes of it",
                self.rest.len()
            )));
        }
        if self.records != self.summary.records {
            return Err(format!(
                "its batches have {} records, its summary says {}",
                self.records, self.summary.records
            ));
        }
        Ok(())
    }
}

/// Says what is wrong with an entry of the offset index that is not behind `batch`, the first that does not lie before it.
pub(super) fn check_offset_entry(
    entry: OffsetEntry,
    base: Offset,
    batch: Option<&SeenBatch>,
) -> Result<(), String> {
    let last = entry.last_offset.from_base(base);
    let position = u64::from(entry.position.0);
    match batch {
        Some(batch) if batch.position == position && batch.last == last => Ok(()),
        _ => Err(format!(
            "its offset index has a batch that ends with offset {last} at position {position}, its log has none"
        )),
    }
}

/// The time index beside the log.
pub(super) struct TimeCheck {
    base: Offset,
    end: Offset,
    /// The greatest time of the batches that were passed.
    greatest: Option<Timestamp>,
    before: Option<TimeEntry>,
}

impl TimeCheck {
    pub(super) fn of(summary: &SegmentSummary) -> Self {
        Self {
            base: summary.base_offset,
            end: summary.next_offset,
            greatest: None,
            before: None,
        }
    }

    /// True when `entry` is to be checked before `batch` is passed.
    pub(super) fn is_before(&self, entry: TimeEntry, batch: &SeenBatch) -> bool {
        entry.last_offset.from_base(self.base) < batch.last
    }

    pub(super) fn pass(&mut self, batch: &SeenBatch) {
        self.greatest = self.greatest.max(batch.greatest);
    }

    /// Checks the next entry against the batches that were passed.
    pub(super) fn check(&mut self, entry: TimeEntry) -> Result<(), String> {
        let offset = entry.last_offset.from_base(self.base);
        let ascends = self.before.is_none_or(|before| {
            before.timestamp < entry.timestamp && before.last_offset < entry.last_offset
        });
        if !ascends || offset >= self.end {
            return Err(format!(
                "its time index has an entry of offset {offset} where none can be"
            ));
        }
        self.before = Some(entry);
        match self.greatest {
            Some(greatest) if greatest > entry.timestamp => Err(format!(
                "its time index says that nothing up to offset {offset} is later than {}, and a batch of {greatest} is there",
                entry.timestamp
            )),
            _ => Ok(()),
        }
    }
}
