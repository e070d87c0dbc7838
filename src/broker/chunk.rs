//! From a chunk of batches to the records that were asked for.
//!
//! A chunk holds whole batches, so it holds more than was asked for: records before the first offset or beyond the last,
//! outside the time range, control records, records of aborted transactions. What remains is what a reader wants.

use std::collections::HashSet;

use crate::record::{BatchHeader, Batches, ControlMarker, Damage, DecompressLimit, Record, RecordBatch};
use crate::storage::FirstBatch;
use crate::types::{Offset, ProducerId};

use super::Error;
use super::requests::{Aborted, Chunk};

/// No record takes fewer bytes in a batch: seven fields of one byte.
const RECORD_LEN_LEAST: usize = 7;
/// What naming one aborted transaction takes in an answer, at most, in bytes.
const ABORTED_BYTES: usize = 24;

impl Chunk {
    /// Returns what the chunk takes in an answer, in bytes: its batches and the aborted transactions named beside them.
    pub(super) fn size_bytes(&self) -> usize {
        self.batches.len() + self.aborted.len() * ABORTED_BYTES
    }

    /// Leaves off batches at the end until what is left takes `max_bytes`, aborted transactions included. The first batch
    /// stays when it is to come whole, with the transactions that were open at it.
    pub(super) fn cut_to(&mut self, max_bytes: usize, first: FirstBatch) {
        if self.size_bytes() <= max_bytes {
            return;
        }
        let (mut len, mut next_offset) = (0, self.from);
        while let Ok(header) = BatchHeader::parse(&self.batches[len..]) {
            let end = usize::try_from(header.size_bytes).map_or(usize::MAX, |size| len.saturating_add(size));
            let named = self.begun_before(header.next_offset());
            let fits = end.saturating_add(named * ABORTED_BYTES) <= max_bytes;
            let must_stay = len == 0 && first == FirstBatch::Whole;
            if end > self.batches.len() || !(fits || must_stay) {
                break;
            }
            (len, next_offset) = (end, header.next_offset());
        }
        if len < self.batches.len() {
            self.behind = self.base_behind(len);
            self.batches.truncate(len);
            self.next_offset = next_offset;
            self.aborted.truncate(self.begun_before(next_offset));
        }
    }

    /// How many of the aborted transactions, which lie by first offset, begin before `offset`.
    fn begun_before(&self, offset: Offset) -> usize {
        self.aborted
            .partition_point(|aborted| aborted.first_offset < offset)
    }

    /// Decodes the records that were asked for: within offsets and times, without control records and aborted ones. Checks
    /// each batch's CRC.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are not sound.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let limit = DecompressLimit(self.max_decompressed_bytes);
        let mut records = Vec::new();
        let mut transactions = Transactions::new(&self.aborted);
        let mut end = 0;
        for batch in Batches::over(self.batches.clone(), 0) {
            let (_, batch) = batch.map_err(|damage| Error::Damaged {
                partition: self.partition.clone(),
                lost: None,
                reason: format!("the batch at offset {}: {damage}", self.from),
            })?;
            end += batch.bytes().len();
            let damaged = |damage| self.damaged(batch.header(), end, &damage);
            batch.verify_crc().map_err(damaged)?;
            match transactions.next(&batch).map_err(damaged)? {
                Fate::Dropped => {}
                Fate::Kept => self.collect(&batch, limit, &mut records).map_err(damaged)?,
            }
        }
        Ok(records)
    }

    fn collect(
        &self,
        batch: &RecordBatch,
        limit: DecompressLimit,
        records: &mut Vec<Record>,
    ) -> Result<(), Damage> {
        // What the header says is believed no further than the bytes could hold uncompressed.
        let count = usize::try_from(batch.header().record_count).unwrap_or(usize::MAX);
        records.reserve(count.min(batch.bytes().len() / RECORD_LEN_LEAST));
        for record in batch.records(limit)? {
            let record = record?;
            if self.wants(&record) {
                records.push(record);
            }
        }
        Ok(())
    }

    /// True for a record within the offsets and times asked for. A record without a timestamp lies in no range of times.
    fn wants(&self, record: &Record) -> bool {
        let in_time = match (&self.times, record.timestamp) {
            (None, _) => true,
            (Some(times), Some(timestamp)) => times.contains(&timestamp),
            (Some(_), None) => false,
        };
        in_time && record.offset >= self.from && record.offset < self.until
    }

    /// Returns where the log goes on behind the first `len` bytes of the batches.
    fn base_behind(&self, len: usize) -> Offset {
        BatchHeader::parse(&self.batches[len..]).map_or(self.behind, |next| next.base_offset)
    }

    /// A batch whose place is known and whose records are not. It ends at `end` of the batches; how many offsets it spans, what
    /// lies behind it says and not its own header, which may be damaged, too.
    fn damaged(&self, batch: &BatchHeader, end: usize, damage: &Damage) -> Error {
        let (at, behind) = (batch.base_offset, self.base_behind(end));
        let reason = format!("the batch at offset {at}: {damage}");
        let (lost, reason) = match at < behind {
            true => (
                Some(at..behind),
                format!("{reason}; reading can go on at offset {behind}"),
            ),
            false => (None, reason),
        };
        Error::Damaged {
            partition: self.partition.clone(),
            lost,
            reason,
        }
    }
}

/// What becomes of a batch.
enum Fate {
    Kept,
    Dropped,
}

/// Which producers are inside an aborted transaction, walking the log forward.
struct Transactions<'a> {
    /// Yet to begin; by first offset.
    coming: &'a [Aborted],
    aborting: HashSet<ProducerId>,
}

impl<'a> Transactions<'a> {
    fn new(aborted: &'a [Aborted]) -> Self {
        Self {
            coming: aborted,
            aborting: HashSet::new(),
        }
    }

    fn next(&mut self, batch: &RecordBatch) -> Result<Fate, Damage> {
        let header = batch.header();
        while let Some((first, rest)) = self.coming.split_first() {
            if first.first_offset > header.last_offset() {
                break;
            }
            self.aborting.insert(first.producer_id);
            self.coming = rest;
        }
        let producer = header.producer.map(|producer| producer.id);
        if header.is_control() {
            let marker = batch.control_marker()?;
            if let (Some(producer), Some(ControlMarker::Abort { .. })) = (producer, marker) {
                self.aborting.remove(&producer);
            }
            return Ok(Fate::Dropped);
        }
        let aborted = header.is_transactional() && producer.is_some_and(|id| self.aborting.contains(&id));
        Ok(if aborted { Fate::Dropped } else { Fate::Kept })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{
        Accepted, BatchBuilder, BatchOptions, Codec, Outcome, ProducerStamp, Stamping, TransactionEnd,
        Transactional,
    };
    use crate::types::{
        LeaderEpoch, PartitionId, ProducerEpoch, Sequence, Timestamp, TopicName, TopicPartition,
    };

    fn batch(producer: i64, values: &[&str]) -> Accepted {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: Codec::None,
            level: None,
            stamping: Stamping::CreateTime,
            producer: Some(ProducerStamp {
                id: ProducerId(producer),
                epoch: ProducerEpoch(0),
                base_sequence: Some(Sequence(0)),
            }),
            transactional: Transactional::Yes,
        });
        for value in values {
            builder
                .append(Some(Timestamp(7)), None, Some(value.as_bytes()), &[])
                .expect("small");
        }
        builder.build().expect("not empty")
    }

    fn marker(producer: i64, outcome: Outcome) -> Accepted {
        TransactionEnd {
            producer: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: 0,
            outcome,
            at: Timestamp(7),
        }
        .to_batch()
    }

    fn chunk(batches: &[Accepted], aborted: &[(i64, i64)]) -> Chunk {
        let mut bytes = Vec::new();
        let mut next = Offset::ZERO;
        for batch in batches {
            let stamped = batch.stamped(next, LeaderEpoch(0));
            bytes.extend_from_slice(stamped.bytes());
            next = stamped.header().next_offset();
        }
        let topic = TopicName::new("t").expect("valid");
        let named = |(producer, first): &(i64, i64)| Aborted {
            producer_id: ProducerId(*producer),
            first_offset: Offset(*first),
        };
        Chunk {
            partition: TopicPartition::new(topic, PartitionId(0)),
            batches: Bytes::from(bytes),
            from: Offset::ZERO,
            until: next,
            times: None,
            aborted: aborted.iter().map(named).collect(),
            next_offset: next,
            behind: next,
            high_watermark: next,
            last_stable: next,
            log_start: Offset::ZERO,
            compacted_below: Offset::ZERO,
            tombstones_gone_below: Offset::ZERO,
            max_decompressed_bytes: 1 << 20,
        }
    }

    fn offsets(chunk: &Chunk) -> Vec<i64> {
        chunk
            .records()
            .expect("sound")
            .iter()
            .map(|record| record.offset.0)
            .collect()
    }

    #[test]
    fn records_of_aborted_transactions_and_markers_are_dropped_and_no_others() {
        let batches = [
            batch(1, &["0", "1"]),
            batch(2, &["2"]),
            marker(1, Outcome::Abort),
            batch(1, &["4"]),
            marker(2, Outcome::Commit),
            marker(1, Outcome::Commit),
        ];
        assert_eq!(offsets(&chunk(&batches, &[(1, 0)])), [2, 4]);
        assert_eq!(offsets(&chunk(&batches, &[])), [0, 1, 2, 4]);
    }

    #[test]
    fn whole_batches_are_cut_to_what_was_asked_for() {
        let mut cut = chunk(&[batch(1, &["0", "1", "2", "3"])], &[]);
        (cut.from, cut.until) = (Offset(1), Offset(3));
        assert_eq!(offsets(&cut), [1, 2]);
        cut.times = Some(Timestamp(8)..Timestamp(9));
        assert!(offsets(&cut).is_empty());
    }

    #[test]
    fn aborted_transactions_count_against_the_size_of_an_answer_and_batches_wait_for_the_next() {
        let batches: Vec<_> = (0..100).map(|producer| batch(producer, &["v"])).collect();
        let aborted: Vec<_> = (0..100).map(|at| (at, at)).collect();
        let whole = chunk(&batches, &aborted);
        let one = whole.batches.len() / 100 + ABORTED_BYTES;
        assert_eq!(whole.size_bytes(), 100 * one);
        for (room, kept) in [(100 * one, 100), (100 * one - 1, 99), (7 * one, 7), (1, 1)] {
            let mut cut = whole.clone();
            cut.cut_to(room, FirstBatch::Whole);
            assert_eq!(cut.size_bytes(), kept * one, "in {room} bytes");
            assert_eq!(cut.aborted.len(), kept);
            assert_eq!(cut.next_offset.0, i64::try_from(kept).expect("small"));
            assert_eq!(cut.batches, whole.batches[..cut.batches.len()]);
        }
        let mut nothing = whole.clone();
        nothing.cut_to(one - 1, FirstBatch::IfItFits);
        assert_eq!((nothing.size_bytes(), nothing.next_offset), (0, Offset::ZERO));
    }

    #[test]
    fn a_first_batch_comes_with_every_transaction_open_at_it_whatever_the_size() {
        let open_before: Vec<_> = (0..50).map(|producer| (producer, 0)).collect();
        let mut cut = chunk(&[batch(1, &["0"]), batch(1, &["1"])], &open_before);
        cut.cut_to(10, FirstBatch::Whole);
        assert_eq!((cut.aborted.len(), cut.next_offset), (50, Offset(1)));
    }

    #[test]
    fn a_flipped_bit_is_reported_with_its_place_and_nothing_is_returned() {
        let mut damaged = chunk(&[batch(1, &["0"]), batch(1, &["1"])], &[]);
        let mut bytes = damaged.batches.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        damaged.batches = bytes.into();
        let error = damaged.records().expect_err("damaged").to_string();
        assert!(
            error.starts_with("t-0 is damaged: the batch at offset 1: "),
            "{error}"
        );
    }

    #[test]
    fn how_far_damage_reaches_is_told_by_what_lies_behind_it() {
        // The delta of the last offset lies within what the checksum no longer vouches for.
        let claims_100_offsets = |chunk: &mut Chunk, at: usize| {
            let mut bytes = chunk.batches.to_vec();
            bytes[at + 23..at + 27].copy_from_slice(&99_i32.to_be_bytes());
            chunk.batches = bytes.into();
        };
        let lost = |chunk: &Chunk| match chunk.records() {
            Err(Error::Damaged { lost, .. }) => lost,
            other => panic!("{other:?}"),
        };
        let three = [batch(1, &["0", "1"]), batch(1, &["2"]), batch(1, &["3"])];
        let sound = chunk(&three, &[]);
        let starts = [
            0,
            three[0].bytes().len(),
            sound.batches.len() - three[2].bytes().len(),
        ];
        for (at, expected) in starts.into_iter().zip([0..2, 2..3, 3..4]) {
            let mut damaged = sound.clone();
            claims_100_offsets(&mut damaged, at);
            let expected = Offset(expected.start)..Offset(expected.end);
            assert_eq!(lost(&damaged), Some(expected.clone()), "of a stretch");
            let whole_len = damaged.batches.len();
            damaged.cut_to(whole_len - 1, FirstBatch::Whole);
            if expected.end < Offset(4) {
                assert_eq!(lost(&damaged), Some(expected), "of one that was cut");
            }
        }
        let mut last = sound;
        claims_100_offsets(&mut last, starts[2]);
        last.behind = Offset(3);
        assert_eq!(lost(&last), None, "nothing is known to lie behind it");
    }
}
