//! Tests of which records of a chunk count: aborted transactions, markers, bounds, damage.

use proptest::prelude::*;

use super::*;
use crate::record::{BatchBuilder, BatchOptions, Outcome, ProducerStamp, TransactionEnd, Transactional};
use crate::types::{LeaderEpoch, ProducerEpoch, Sequence};

fn stamp(producer: i64) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId(producer),
        epoch: ProducerEpoch(0),
        base_sequence: Some(Sequence(0)),
    }
}

/// A log from a picture: `1` a transactional record of producer 1, `.` a plain record, `C1` and `A1` its markers.
fn log(picture: &str) -> Bytes {
    let mut bytes = Vec::new();
    for (offset, item) in (0..).zip(picture.split_whitespace()) {
        let marker = |outcome, producer: &str| TransactionEnd {
            outcome,
            producer: ProducerId(producer.parse().expect("a number")),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: 0,
            at: Timestamp(offset),
        };
        let batch = match (item.strip_prefix('C'), item.strip_prefix('A')) {
            (Some(producer), _) => marker(Outcome::Commit, producer).to_batch(),
            (_, Some(producer)) => marker(Outcome::Abort, producer).to_batch(),
            _ => {
                let producer = item.parse().ok();
                let transactional = if producer.is_some() {
                    Transactional::Yes
                } else {
                    Transactional::No
                };
                let options = BatchOptions {
                    producer: producer.map(stamp),
                    transactional,
                    ..BatchOptions::default()
                };
                let mut builder = BatchBuilder::new(options);
                builder
                    .append(Some(Timestamp(offset)), None, Some(b"v"), &[])
                    .expect("small");
                builder.build().expect("it has a record")
            }
        };
        bytes.extend_from_slice(batch.stamped(Offset(offset), LeaderEpoch(0)).bytes());
    }
    bytes.into()
}

fn everything() -> Wanted {
    Wanted {
        offsets: Offset::ZERO..Offset::MAX,
        times: Timestamp::MIN..Timestamp::MAX,
    }
}

fn offsets(chunk: &Chunk) -> Vec<i64> {
    let topic = TopicName::new("t").expect("a name");
    chunk
        .records(&topic)
        .map(|record| record.expect("a sound log").offset.0)
        .collect()
}

/// `aborted`: producer and first offset; `expected`: the offsets that count.
fn check(picture: &str, aborted: &[(i64, i64)], expected: &[i64]) {
    let chunk = Chunk::new(PartitionId(0), log(picture), everything(), aborted.to_vec());
    assert_eq!(offsets(&chunk), expected, "{picture}");
}

#[test]
fn markers_are_never_records() {
    check(". 1 C1 .", &[], &[0, 1, 3]);
}

#[test]
fn records_of_an_aborted_transaction_are_dropped_up_to_its_marker_and_no_others() {
    check("1 . 2 1 A1 1 C1 2 C2", &[(1, 0)], &[1, 2, 5, 7]);
    check("1 C1 1 A1 1 C1", &[(1, 2)], &[0, 4]);
    check("1 A1 1 A1 .", &[(1, 0), (1, 2)], &[4]);
    check("1 2 A2 A1 1 C1", &[(2, 1), (1, 0)], &[4]);
}

#[test]
fn a_transaction_that_began_before_the_chunk_is_dropped_from_its_start() {
    let whole = log("1 1 A1 .");
    let first_len = Batches::over(whole.clone(), 0)
        .next()
        .expect("a batch")
        .expect("sound")
        .1
        .bytes()
        .len();
    let chunk = Chunk::new(
        PartitionId(0),
        whole.slice(first_len..),
        everything(),
        vec![(1, 0)],
    );
    assert_eq!(offsets(&chunk), [3]);
}

#[test]
fn without_times_in_the_bounds_records_without_a_time_count_and_with_them_they_do_not() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(None, None, Some(b"v"), &[]).expect("small");
    let bytes = builder.build().expect("it has a record").bytes().clone();
    let with = |times: Range<Timestamp>| {
        let wanted = Wanted {
            times,
            ..everything()
        };
        offsets(&Chunk::new(PartitionId(0), bytes.clone(), wanted, vec![])).len()
    };
    assert_eq!(with(Timestamp::MIN..Timestamp::MAX), 1);
    assert_eq!(with(Timestamp(0)..Timestamp::MAX), 0);
    assert_eq!(with(Timestamp::MIN..Timestamp(9)), 0);
}

#[test]
fn a_chunk_that_ends_inside_a_batch_is_damaged() {
    let bytes = log(". .");
    let chunk = Chunk::new(
        PartitionId(0),
        bytes.slice(..bytes.len() - 1),
        everything(),
        vec![],
    );
    let topic = TopicName::new("t").expect("a name");
    let records: Vec<_> = chunk.records(&topic).collect();
    assert!(
        matches!(&records[..], [Ok(_), Err(Error::DamagedBatch { .. })]),
        "{records:?}"
    );
}

#[test]
fn no_flipped_bit_of_a_batch_that_begins_before_what_is_asked_for_leaves_it_out_without_a_word() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for number in 0..10 {
        builder
            .append(Some(Timestamp(number)), None, Some(b"v"), &[])
            .expect("small");
    }
    let bytes = builder.build().expect("it has records").bytes().to_vec();
    for (at, bit) in (16..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        let wanted = Wanted {
            offsets: Offset(5)..Offset(10),
            ..everything()
        };
        let chunk = Chunk::new(PartitionId(0), flipped.into(), wanted, vec![]);
        let topic = TopicName::new("t").expect("a name");
        let error = chunk.records(&topic).find_map(Result::err);
        let told = error.and_then(|error| error.damaged());
        assert_eq!(
            told,
            Some((PartitionId(0), Some(Offset(5)..Offset(10)))),
            "byte {at}, bit {bit}"
        );
    }
}

/// Flips a bit of a log of three batches of one record each, and returns what is shown and what is told to be lost.
fn with_flipped(bytes: &[u8], at: usize, bit: u8) -> (Vec<i64>, Option<Option<Range<Offset>>>) {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    let wanted = Wanted {
        offsets: Offset(0)..Offset(3),
        ..everything()
    };
    let chunk = Chunk::new(PartitionId(0), bytes.into(), wanted, vec![]);
    let (mut shown, mut lost) = (Vec::new(), None);
    for record in chunk.records(&TopicName::new("t").expect("a name")) {
        match record {
            Ok(record) => shown.push(record.offset.0),
            Err(error) => lost = error.damaged().map(|(_, lost)| lost),
        }
    }
    (shown, lost)
}

#[test]
fn no_flipped_bit_of_a_batch_leads_past_its_record_without_a_word_that_says_where_it_was() {
    let bytes = log(". . .");
    let len = bytes.len() / 3;
    assert_eq!(bytes.len(), 3 * len, "batches of one size");
    for (at, bit) in (16..len).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        for batch in 0..3_i64 {
            let place = usize::try_from(batch).expect("small") * len + at;
            let (shown, lost) = with_flipped(&bytes, place, bit);
            assert_eq!(shown, (0..batch).collect::<Vec<_>>(), "byte {at}, bit {bit}");
            let expected = Offset(batch)..Offset(batch + 1);
            assert_eq!(lost, Some(Some(expected)), "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_records_or_one_error(bytes: Vec<u8>, flips in prop::collection::vec((0..200_usize, 1..=255_u8), 0..3)) {
        let topic = TopicName::new("t").expect("a name");
        let mut damaged = log(". 1 A1 .").to_vec();
        for (at, flip) in flips {
            damaged[at] ^= flip;
        }
        for bytes in [bytes, damaged] {
            let chunk = Chunk::new(PartitionId(0), bytes.into(), everything(), vec![(1, 1)]);
            let mut errors = 0;
            for record in chunk.records(&topic) {
                errors += usize::from(record.is_err());
            }
            prop_assert!(errors <= 1);
        }
    }
}
