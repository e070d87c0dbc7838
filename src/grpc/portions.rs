//! A stretch of the log as plain messages, in portions that fit a response.
//!
//! Batches are decoded one at a time, as the budget asks for them: a stretch of well compressed batches costs the memory of
//! one decompressed batch and one response, not of all of it. What is left of the batch in between can be forgotten: it is
//! decoded again then. Records that are wanted do not keep the others of their batch in memory.
//!
//! What it does not do: I/O. It computes, for long when batches are compressed; [`decoding`] says when to leave the network threads.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::broker::{Aborted, Chunk, Error};
use crate::proto::v1;
use crate::record::{BatchHeader, Codec};
use crate::types::Offset;

use super::{Work, convert};

/// Stretches longer than this, in bytes, are decoded off the network threads: about 20 microseconds of work.
const LONG: usize = 64 << 10;

/// What is left of a stretch.
#[derive(Debug)]
pub(super) struct Portions {
    rest: Chunk,
    /// The batch whose records are not all taken, from its first that is not.
    begun: Option<Chunk>,
    /// Those of its records that are not taken; empty also when they were forgotten.
    decoded: VecDeque<v1::StoredRecord>,
    /// What its records take in memory.
    decoded_bytes: usize,
    /// What the next portion is: damage that the records before it went ahead of.
    failed: Option<Error>,
}

/// Records that fit.
#[derive(Debug)]
pub(super) struct Portion {
    /// In order of offsets.
    pub(super) records: Vec<v1::StoredRecord>,
    /// What they take as fields of a message, in bytes.
    pub(super) size_bytes: usize,
    /// Where the next portion, or the next read, goes on.
    pub(super) next_offset: Offset,
    /// Whether that was all.
    pub(super) rest: Rest,
}

/// Batches that fit.
#[derive(Debug)]
pub(super) struct BatchPortion {
    /// Back to back.
    pub(super) batches: Bytes,
    /// The aborted transactions that concern them.
    pub(super) aborted: Vec<Aborted>,
    /// Where the next portion, or the next read, goes on.
    pub(super) next_offset: Offset,
    /// Whether that was all.
    pub(super) rest: Rest,
}

/// Whether there is another portion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// There is.
    More,
    /// There is none.
    Done,
}

/// Says whether decoding `len` bytes of batches may keep a network thread.
pub(super) fn decoding(len: usize) -> Work {
    match len {
        ..=LONG => Work::Short,
        _ => Work::Long,
    }
}

impl Portions {
    pub(super) fn of(chunk: Chunk) -> Self {
        Self {
            rest: chunk,
            begun: None,
            decoded: VecDeque::new(),
            decoded_bytes: 0,
            failed: None,
        }
    }

    /// Bytes of batches not decoded yet.
    pub(super) fn undecoded_bytes(&self) -> usize {
        let forgotten = match &self.begun {
            Some(begun) if self.decoded.is_empty() => begun.batches.len(),
            _ => 0,
        };
        forgotten + self.rest.batches.len()
    }

    /// Bytes of memory that decoded records take which no portion took.
    pub(super) fn decoded_bytes(&self) -> usize {
        match self.decoded.is_empty() {
            true => 0,
            false => self.decoded_bytes,
        }
    }

    /// Forgets those records, which frees their memory; the next portion begins by decoding them again.
    pub(super) fn forget_decoded(&mut self) {
        if let (Some(begun), Some(first)) = (&mut self.begun, self.decoded.front()) {
            begun.from = Offset(first.offset);
            self.decoded = VecDeque::new();
        }
    }

    /// Takes what fits `budget` bytes as whole batches; the first always fits.
    pub(super) fn take_batches(&mut self, budget: usize) -> BatchPortion {
        let (whole, aborted) = (self.rest.batches.clone(), self.rest.aborted.clone());
        let (mut len, mut next_offset) = (0, self.rest.next_offset);
        while let Ok(header) = BatchHeader::parse(&self.rest.batches) {
            let fits = usize::try_from(header.size_bytes).is_ok_and(|size| len + size <= budget);
            if len > 0 && !fits {
                break;
            }
            next_offset = header.next_offset();
            len += split_batch(&mut self.rest).batches.len();
        }
        if self.rest.batches.is_empty() || len == 0 {
            // What does not say where it ends goes as it is, for the reader to find out.
            self.rest.batches.clear();
            (len, next_offset) = (whole.len(), self.rest.next_offset);
        }
        BatchPortion {
            batches: whole.slice(..len),
            aborted,
            next_offset,
            rest: match self.rest.batches.is_empty() {
                true => Rest::Done,
                false => Rest::More,
            },
        }
    }

    /// Takes what fits `budget` bytes as fields of a message; the first record always fits. Records before damage are a
    /// portion, and the damage is the next.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are not sound.
    pub(super) fn take(&mut self, budget: usize) -> Result<Portion, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut records = Vec::<v1::StoredRecord>::new();
        let mut used = 0;
        loop {
            if !self.decoded.is_empty() {
                if fill(&mut self.decoded, &mut records, &mut used, budget) == Rest::More {
                    let next_offset = match (records.last(), self.decoded.front()) {
                        (Some(last), _) => Offset(last.offset).next(),
                        (None, Some(first)) => Offset(first.offset),
                        (None, None) => self.rest.next_offset,
                    };
                    return Ok(Portion {
                        records,
                        size_bytes: used,
                        next_offset,
                        rest: Rest::More,
                    });
                }
                self.begun = None;
            }
            let (next_offset, rest) = match (self.decode_next(), records.last()) {
                (Ok(Rest::More), _) => continue,
                (Ok(Rest::Done), _) => (self.rest.next_offset, Rest::Done),
                (Err(error), None) => return Err(error),
                (Err(error), Some(last)) => {
                    self.failed = Some(error);
                    (Offset(last.offset).next(), Rest::More)
                }
            };
            return Ok(Portion {
                records,
                size_bytes: used,
                next_offset,
                rest,
            });
        }
    }

    /// As [`take`](Self::take), for an answer that outlives what is left: it does not keep the rest of its last batch in memory.
    ///
    /// # Errors
    /// As there.
    pub(super) fn take_only(mut self, budget: usize) -> Result<Portion, Error> {
        let mut portion = self.take(budget)?;
        if portion.rest == Rest::More && self.begun.as_ref().is_some_and(is_compressed) {
            own(&mut portion.records);
        }
        Ok(portion)
    }

    /// Decodes the batch that was begun and forgotten, or the next one with a record that is wanted.
    fn decode_next(&mut self) -> Result<Rest, Error> {
        loop {
            let next = match self.begun.take() {
                Some(forgotten) => forgotten,
                None if self.rest.batches.is_empty() => return Ok(Rest::Done),
                None => split_batch(&mut self.rest),
            };
            // By way of a vector: that one is made where the other lay.
            let mut decoded: Vec<_> = next.records()?.into_iter().map(convert::stored_record).collect();
            if !decoded.is_empty() {
                if is_compressed(&next) && is_part(&next, decoded.len()) {
                    own(&mut decoded);
                }
                self.decoded = decoded.into();
                self.decoded_bytes = memory_of(&next, &self.decoded);
                self.begun = Some(next);
                return Ok(Rest::More);
            }
        }
    }
}

fn is_compressed(batch: &Chunk) -> bool {
    BatchHeader::parse(&batch.batches).is_ok_and(|header| header.codec != Codec::None)
}

/// Tells whether a batch has more records than so many.
fn is_part(batch: &Chunk, records: usize) -> bool {
    let count = BatchHeader::parse(&batch.batches).map(|header| header.record_count);
    count.is_ok_and(|count| usize::try_from(count).is_ok_and(|count| count > records))
}

/// Gives records memory of their own: each slice of a decompressed batch keeps all of the batch.
fn own(records: &mut [v1::StoredRecord]) {
    let fields = |record: &v1::StoredRecord| {
        let headers = record.headers.iter().filter_map(|header| header.value.as_ref());
        let fields = [&record.key, &record.value].into_iter().flatten().chain(headers);
        fields.map(Bytes::len).sum::<usize>()
    };
    let mut all = BytesMut::with_capacity(records.iter().map(fields).sum());
    for record in records {
        let headers = record
            .headers
            .iter_mut()
            .filter_map(|header| header.value.as_mut());
        let fields = [&mut record.key, &mut record.value].into_iter().flatten();
        for field in fields.chain(headers) {
            all.extend_from_slice(field);
            *field = all.split().freeze();
        }
    }
}

/// What records take in memory beside their keys and values.
pub(super) fn beside_content<'a>(records: impl Iterator<Item = &'a v1::StoredRecord>) -> usize {
    let header = |header: &v1::Header| size_of::<v1::Header>() + header.key.len();
    let record = |record: &v1::StoredRecord| {
        size_of::<v1::StoredRecord>() + record.headers.iter().map(header).sum::<usize>()
    };
    records.map(record).sum()
}

/// What the records of a batch take in memory; keys and values of one that is not compressed are those of its mapping.
fn memory_of(batch: &Chunk, records: &VecDeque<v1::StoredRecord>) -> usize {
    let beside = beside_content(records.iter());
    match is_compressed(batch) {
        false => beside,
        true => beside + records.iter().map(Message::encoded_len).sum::<usize>(),
    }
}

/// Moves records while they fit; says whether some are left. All of a batch are handed on as they lie.
fn fill(
    from: &mut VecDeque<v1::StoredRecord>,
    to: &mut Vec<v1::StoredRecord>,
    used: &mut usize,
    budget: usize,
) -> Rest {
    let mut fitting = 0;
    for record in from.iter() {
        // Of the smallest ones the message in memory is the larger.
        let len = field_len(record).max(beside_content(std::iter::once(record)));
        if to.len() + fitting > 0 && *used + len > budget {
            break;
        }
        *used += len;
        fitting += 1;
    }
    let rest = match fitting == from.len() {
        true => Rest::Done,
        false => Rest::More,
    };
    if rest == Rest::Done && to.is_empty() {
        *to = std::mem::take(from).into();
    } else {
        to.extend(from.drain(..fitting));
    }
    rest
}

/// Length of a message as a field numbered below 16 of another.
pub(super) fn field_len(message: &impl Message) -> usize {
    let len = message.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}

/// Takes the first batch off a stretch; everything when the bytes do not say where it ends, and then decoding tells what is
/// wrong with them. A marker ends its transaction: what its producer wrote after it is committed or named anew.
fn split_batch(rest: &mut Chunk) -> Chunk {
    let mut one = rest.clone();
    let header = BatchHeader::parse(&rest.batches).ok();
    let len = header
        .and_then(|header| usize::try_from(header.size_bytes).ok())
        .filter(|len| *len <= rest.batches.len())
        .unwrap_or(rest.batches.len());
    one.batches = rest.batches.split_to(len);
    if let Ok(following) = BatchHeader::parse(&rest.batches) {
        one.behind = following.base_offset;
    }
    if let Some(header) = header
        && header.is_control()
        && let Some(producer) = header.producer
        && let Some(ended) = rest.aborted.iter().position(|aborted| {
            aborted.producer_id == producer.id && aborted.first_offset <= header.base_offset
        })
    {
        rest.aborted.remove(ended);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions, Outcome, RecordBatch, TransactionEnd};
    use crate::types::{
        LeaderEpoch, PartitionId, ProducerEpoch, ProducerId, Timestamp, TopicName, TopicPartition,
    };
    use proptest::prelude::*;

    fn record(offset: i64, value_len: usize) -> v1::StoredRecord {
        v1::StoredRecord {
            offset,
            timestamp_ms: Some(1_357_000_000_000),
            value: Some(vec![7; value_len].into()),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn no_portion_exceeds_its_budget_unless_one_record_does_and_none_is_lost(
            lens in prop::collection::vec(0..500_usize, 0..60),
            budget in 0..2000_usize,
        ) {
            let all: Vec<_> = (0..).zip(&lens).map(|(offset, len)| record(offset, *len)).collect();
            let mut from: VecDeque<_> = all.clone().into();
            let mut seen = Vec::new();
            loop {
                let (mut portion, mut used) = (Vec::new(), 0);
                let rest = fill(&mut from, &mut portion, &mut used, budget);
                let response = v1::ReadResponse { records: portion.clone(), ..Default::default() };
                prop_assert!(response.encoded_len().max(beside_content(response.records.iter())) <= used);
                prop_assert!(used <= budget || portion.len() == 1);
                seen.extend(portion);
                if rest == Rest::Done {
                    break;
                }
            }
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn arbitrary_bytes_are_taken_apart_to_the_last_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = chunk(bytes.clone(), &[]);
            let mut seen = Vec::new();
            while !rest.batches.is_empty() {
                seen.extend_from_slice(&split_batch(&mut rest).batches);
            }
            prop_assert_eq!(seen, bytes);
        }
    }

    fn chunk(batches: Vec<u8>, aborted: &[Aborted]) -> Chunk {
        Chunk {
            partition: TopicPartition::new(TopicName::new("flights").unwrap(), PartitionId(0)),
            max_decompressed_bytes: 1 << 20,
            batches: batches.into(),
            from: Offset::ZERO,
            until: Offset::MAX,
            times: None,
            aborted: aborted.to_vec(),
            next_offset: Offset(100),
            behind: Offset(100),
            high_watermark: Offset(100),
            last_stable: Offset(100),
            log_start: Offset::ZERO,
            compacted_below: Offset::ZERO,
            tombstones_gone_below: Offset::ZERO,
        }
    }

    fn data(at: i64) -> RecordBatch {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder
            .append(Some(Timestamp(1)), None, Some(b"value"), &[])
            .unwrap();
        builder.build().unwrap().stamped(Offset(at), LeaderEpoch(0))
    }

    fn abort_marker(at: i64, producer: i64) -> RecordBatch {
        let end = TransactionEnd {
            outcome: Outcome::Abort,
            producer: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: 0,
            at: Timestamp(1),
        };
        end.to_batch().stamped(Offset(at), LeaderEpoch(0))
    }

    #[test]
    fn batches_come_one_by_one_and_a_marker_ends_the_transaction_of_its_producer_alone() {
        let aborted = |producer, first| Aborted {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
        };
        let named = [aborted(1, 0), aborted(2, 0), aborted(1, 7)];
        let batches = [data(0), abort_marker(5, 1), data(6), data(7)];
        let bytes = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        let mut rest = chunk(bytes, &named);
        for (batch, before) in [
            (&batches[0], &named[..]),
            (&batches[1], &named),
            (&batches[2], &named[1..]),
            (&batches[3], &named[1..]),
        ] {
            let one = split_batch(&mut rest);
            assert_eq!(&one.batches, batch.bytes());
            assert_eq!(
                one.aborted,
                before,
                "what counts for the batch at {}",
                batch.header().base_offset
            );
        }
        assert!(rest.batches.is_empty());
    }

    #[test]
    fn what_was_forgotten_comes_again_from_the_first_record_that_was_not_taken() {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: Codec::Zstd,
            ..BatchOptions::default()
        });
        for _ in 0..50 {
            builder
                .append(Some(Timestamp(1)), None, Some(&[7; 100]), &[])
                .unwrap();
        }
        let batch = builder.build().unwrap().stamped(Offset(0), LeaderEpoch(0));
        let mut portions = Portions::of(chunk([&batch.bytes()[..], &data(50).bytes()[..]].concat(), &[]));
        let (mut seen, mut forgotten) = (Vec::new(), 0);
        loop {
            let portion = portions.take(1000).unwrap();
            seen.extend(portion.records.iter().map(|record| record.offset));
            if portion.rest == Rest::Done {
                break;
            }
            assert!(portions.decoded_bytes() > 0, "more of the batch is in memory");
            portions.forget_decoded();
            assert_eq!(portions.decoded_bytes(), 0);
            forgotten += 1;
        }
        assert!(forgotten > 3);
        assert_eq!(seen, (0..51).collect::<Vec<_>>());
    }

    fn compressed(records: u8) -> Chunk {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: Codec::Zstd,
            ..BatchOptions::default()
        });
        for number in 0..records {
            let value = [number; 50_000];
            let header = [crate::record::Header {
                key: Bytes::from_static(b"h"),
                value: Some(Bytes::from_static(b"header")),
            }];
            builder
                .append(Some(Timestamp(1)), Some(b"key"), Some(&value), &header)
                .unwrap();
        }
        let batch = builder.build().unwrap().stamped(Offset(0), LeaderEpoch(0));
        chunk(batch.bytes().to_vec(), &[])
    }

    /// How many bytes of memory a value keeps that nothing else keeps any more.
    fn kept_by(record: v1::StoredRecord) -> usize {
        let value = record.value.unwrap();
        drop((record.key, record.headers));
        value.try_into_mut().expect("nobody else has it").capacity()
    }

    #[test]
    fn the_few_records_that_are_wanted_do_not_keep_the_rest_of_their_batch() {
        let mut chunk = compressed(10);
        chunk.until = Offset(2);
        let whole = chunk.records().unwrap();
        let mut portions = Portions::of(chunk);
        let mut first = portions.take(1).unwrap();
        assert!(portions.decoded_bytes() > 100_000);
        let mut second = portions.take(1).unwrap();
        let records = [first.records.remove(0), second.records.remove(0)];
        for (record, expected) in records.iter().zip(whole) {
            assert_eq!(*record, convert::stored_record(expected));
        }
        let [first, second] = records;
        drop((second, portions));
        let kept = kept_by(first);
        assert!(kept < 101_000, "{kept} bytes for records of 100,000");
    }

    #[test]
    fn an_answer_that_ends_in_a_batch_does_not_keep_what_it_leaves_of_it() {
        let all = compressed(10);
        let first = all.records().unwrap().swap_remove(0);
        let mut only = Portions::of(all).take_only(1).unwrap();
        assert_eq!((only.records.len(), only.rest), (1, Rest::More));
        let only = only.records.remove(0);
        assert_eq!(only, convert::stored_record(first));
        let kept = kept_by(only);
        assert!(kept < 51_000, "{kept} bytes for a record of 50,000");
    }

    #[test]
    fn batches_in_portions_are_all_of_them_each_with_the_transactions_that_are_still_open() {
        let named = [(1, 0), (2, 0), (1, 7)].map(|(producer, first)| Aborted {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
        });
        let batches = [data(0), abort_marker(5, 1), data(6), data(7)];
        let bytes: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        let two = batches[0].bytes().len() + batches[1].bytes().len();
        let mut portions = Portions::of(chunk(bytes.clone(), &named));
        let first = portions.take_batches(two);
        assert_eq!((&first.batches[..], first.rest), (&bytes[..two], Rest::More));
        assert_eq!((first.next_offset, &first.aborted[..]), (Offset(6), &named[..]));
        let second = portions.take_batches(0);
        assert_eq!(second.batches, batches[2].bytes(), "one always fits");
        assert_eq!(
            (second.next_offset, &second.aborted[..]),
            (Offset(7), &named[1..])
        );
        let last = portions.take_batches(usize::MAX);
        assert_eq!((&last.batches, last.rest), (batches[3].bytes(), Rest::Done));
        assert_eq!(last.next_offset, Offset(100));
        let torn = Portions::of(chunk(vec![1; 30], &[])).take_batches(1000);
        assert_eq!((torn.batches.len(), torn.rest), (30, Rest::Done));
    }

    #[test]
    fn records_before_damage_come_first_and_the_damage_says_where_it_ends() {
        let batches: Vec<_> = (0..5).map(data).collect();
        let mut bytes: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
        let fourth = 3 * batches[0].bytes().len();
        bytes[fourth + batches[3].bytes().len() - 1] ^= 1;
        let mut portions = Portions::of(chunk(bytes, &[]));
        let sound = portions.take(1 << 20).unwrap();
        let offsets: Vec<_> = sound.records.iter().map(|record| record.offset).collect();
        assert_eq!((offsets, sound.rest), (vec![0, 1, 2], Rest::More));
        assert_eq!(sound.next_offset, Offset(3), "who comes again meets the damage");
        match portions.take(1 << 20) {
            Err(Error::Damaged { lost, reason, .. }) => {
                assert_eq!(lost, Some(Offset(3)..Offset(4)), "{reason}");
                assert!(reason.ends_with("; reading can go on at offset 4"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}
