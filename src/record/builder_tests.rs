//! The builder against the golden bytes, and the cleaner's rebuild against what it must keep.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::testing::{
    GOLDEN, LIMIT, NOW, Plain, any_codec, any_records, any_sound_records, build, easy_rules, hex, read,
    stored, with_crc,
};
use crate::record::{Outcome, Record, TransactionEnd, accept};
use crate::types::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence};

const HORIZON: Timestamp = Timestamp(NOW.0 + 86_400_000);

fn producer() -> ProducerStamp {
    ProducerStamp {
        id: ProducerId(7),
        epoch: ProducerEpoch(3),
        base_sequence: Some(Sequence(5)),
    }
}

fn rebuild(batch: &RecordBatch, horizon: Option<Timestamp>, keep: impl Fn(&Record) -> bool) -> RecordBatch {
    let mut rebuild = BatchRebuild::of(batch.header(), horizon);
    let payload = batch.open(LIMIT).unwrap();
    for (record, glance) in read(batch).iter().zip(payload.glances()) {
        if keep(record) {
            rebuild.keep(&glance.unwrap()).unwrap();
        }
    }
    let rebuilt = rebuild.build().unwrap();
    assert_eq!(RecordBatch::parse(rebuilt.bytes().clone()).unwrap(), rebuilt);
    rebuilt.verify_crc().unwrap();
    rebuilt
}

#[test]
fn the_golden_batch_is_built_byte_for_byte() {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: Some(producer()),
        ..BatchOptions::default()
    });
    let header = Header {
        key: "h".into(),
        value: Some("x".into()),
    };
    builder
        .append(Some(Timestamp(1000)), Some(b"k"), Some(b"v"), &[header])
        .unwrap();
    builder.append(Some(Timestamp(1010)), None, None, &[]).unwrap();
    assert_eq!(builder.record_count(), 2);
    assert_eq!(builder.size_bytes(), 81);
    assert_eq!(builder.build().unwrap().bytes()[..], hex(GOLDEN));
}

#[test]
fn a_batch_has_a_record() {
    let builder = BatchBuilder::new(BatchOptions::default());
    assert_eq!(builder.build().unwrap_err(), BuildError::Empty);
}

#[test]
fn stamping_writes_sixteen_bytes_and_no_more() {
    let accepted = build(BatchOptions::default(), &[Plain::new(1, "a", "b")]);
    let batch = stored(&accepted, 77);
    assert_eq!(batch.header().base_offset, Offset(77));
    assert_eq!(batch.header().leader_epoch, Some(LeaderEpoch(3)));
    assert_eq!(batch.bytes()[16..], accepted.bytes()[16..]);
    assert_eq!(batch.bytes()[8..12], accepted.bytes()[8..12]);
}

#[test]
fn a_rebuild_keeps_place_producer_and_flags() {
    let options = BatchOptions {
        codec: Codec::Lz4,
        producer: Some(producer()),
        transactional: Transactional::Yes,
        ..BatchOptions::default()
    };
    let records = [
        Plain::new(100, "a", "1"),
        Plain::new(300, "b", "2"),
        Plain::new(200, "c", "3"),
    ];
    let batch = stored(&build(options, &records), 50);
    let rebuilt = rebuild(&batch, None, |record| record.offset == Offset(52));
    let (was, is) = (batch.header(), rebuilt.header());
    assert_eq!((is.base_offset, is.last_offset()), (Offset(50), Offset(52)));
    assert_eq!(
        (is.leader_epoch, is.codec, is.producer),
        (was.leader_epoch, Codec::Lz4, was.producer)
    );
    assert!(is.is_transactional());
    assert_eq!(is.last_sequence(), was.last_sequence());
    assert_eq!(is.record_count, 1);
    assert_eq!(
        is.base_timestamp,
        Some(Timestamp(200)),
        "of the first kept record"
    );
    assert_eq!(is.max_timestamp, Some(Timestamp(200)), "of the kept records");
    assert_eq!(read(&rebuilt), [records[2].at(52)]);
}

#[test]
fn a_delete_horizon_is_set_once_and_stays() {
    let mut records = vec![Plain::new(100, "a", "1"), Plain::new(300, "b", "2")];
    records[1].value = None;
    let batch = stored(&build(BatchOptions::default(), &records), 0);
    let stamped = rebuild(&batch, Some(HORIZON), |_| true);
    assert_eq!(stamped.header().delete_horizon(), Some(HORIZON));
    assert_eq!(stamped.header().base_timestamp, Some(HORIZON));
    assert_eq!(stamped.header().max_timestamp, Some(Timestamp(300)));
    assert_eq!(read(&stamped), read(&batch), "times read as before");

    let again = rebuild(&stamped, None, |record| record.offset == Offset(1));
    assert_eq!(again.header().delete_horizon(), Some(HORIZON));
    assert_eq!(read(&again), [records[1].at(1)]);
}

#[test]
fn a_horizon_flag_without_a_time_is_dropped() {
    let records = [Plain::new(NOW.0, "a", "1"), Plain::new(NOW.0 + 5, "b", "2")];
    let mut bytes = build(BatchOptions::default(), &records).bytes().to_vec();
    bytes[22] |= 0x40;
    bytes[27..35].copy_from_slice(&(-1i64).to_be_bytes());
    let batch = RecordBatch::parse(with_crc(bytes)).unwrap();
    assert_eq!(batch.header().delete_horizon(), None);
    let rebuilt = rebuild(&batch, None, |record| record.offset == Offset(1));
    assert_eq!(rebuilt.header().delete_horizon(), None);
    assert_eq!(read(&rebuilt), read(&batch)[1..]);
}

#[test]
fn a_marker_takes_a_horizon_too() {
    let end = TransactionEnd {
        outcome: Outcome::Abort,
        producer: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 4,
        at: NOW,
    };
    let marker = stored(&end.to_batch(), 9);
    let stamped = rebuild(&marker, Some(HORIZON), |_| true);
    assert_eq!(stamped.header().delete_horizon(), Some(HORIZON));
    assert_eq!(stamped.control_marker(), marker.control_marker());
    assert!(stamped.header().is_control());
}

#[test]
fn log_append_time_keeps_its_greatest_timestamp_through_a_rebuild() {
    let options = BatchOptions {
        stamping: Stamping::LogAppendTime(NOW),
        ..BatchOptions::default()
    };
    let batch = stored(
        &build(options, &[Plain::new(1, "a", "1"), Plain::new(2, "b", "2")]),
        0,
    );
    let rebuilt = rebuild(&batch, None, |record| record.offset == Offset(1));
    assert_eq!(rebuilt.header().max_timestamp, Some(NOW));
    assert_eq!(read(&rebuilt)[0].timestamp, Some(NOW));
    let emptied = rebuild(&batch, None, |_| false);
    assert_eq!(emptied.header().max_timestamp, Some(NOW));
    assert_eq!(emptied.timestamps(LIMIT), Ok(None), "no record has one");
}

#[test]
fn an_emptied_batch_is_a_header_that_keeps_its_place() {
    let options = BatchOptions {
        codec: Codec::Zstd,
        producer: Some(producer()),
        transactional: Transactional::Yes,
        ..BatchOptions::default()
    };
    let batch = stored(&build(options, &vec![Plain::new(500, "a", "1"); 4]), 20);
    let stamped = rebuild(&batch, Some(HORIZON), |_| true);
    let emptied = rebuild(&stamped, None, |_| false);
    let header = emptied.header();
    assert_eq!(emptied.bytes().len(), HEADER_LEN);
    assert_eq!((header.record_count, header.codec), (0, Codec::None));
    assert_eq!(
        (header.base_offset, header.next_offset()),
        (Offset(20), Offset(24))
    );
    assert_eq!((header.base_timestamp, header.delete_horizon()), (None, None));
    assert_eq!(header.max_timestamp, Some(Timestamp(500)));
    assert_eq!(header.producer, batch.header().producer);
    assert!(header.is_transactional());
    assert_eq!(read(&emptied), []);
    assert_eq!(emptied.timestamps(LIMIT), Ok(None));
}

#[test]
fn a_rebuild_takes_only_its_own_records_in_order() {
    let batch = stored(
        &build(BatchOptions::default(), &vec![Plain::new(1, "a", "1"); 3]),
        10,
    );
    let mut rebuild = BatchRebuild::of(batch.header(), None);
    let mut keep = |offset| {
        let other = stored(
            &build(BatchOptions::default(), &[Plain::new(1, "a", "1")]),
            offset,
        );
        let payload = other.open(LIMIT).unwrap();
        let glance = payload.glances().next().unwrap().unwrap();
        rebuild.keep(&glance)
    };
    let foreign = |offset| {
        Err(BuildError::Foreign {
            offset: Offset(offset),
        })
    };
    assert_eq!(keep(9), foreign(9));
    assert_eq!(keep(11), Ok(()));
    assert_eq!(keep(11), foreign(11));
    assert_eq!(keep(10), foreign(10));
    assert_eq!(keep(13), foreign(13));
    assert_eq!(keep(12), Ok(()));
}

proptest! {
    #[test]
    fn the_length_of_a_record_is_known_before_it_is_added(records in any_records()) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in &records {
            let before = builder.size_bytes();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let least = BatchBuilder::record_len(key, value, &record.headers);
            builder.append(record.timestamp, key, value, &record.headers).unwrap();
            let added = builder.size_bytes() - before;
            prop_assert!((least..least + 30).contains(&added), "{} for {}", added, least);
        }
    }

    #[test]
    fn a_rebuild_keeps_exactly_what_it_is_given(
        codec in any_codec(),
        records in any_records(),
        mask: u64,
        horizon in proptest::option::of(Just(HORIZON)),
        base in 0..1_000_000_000_000i64,
    ) {
        let batch = stored(&build(BatchOptions { codec, ..BatchOptions::default() }, &records), base);
        let kept = |record: &Record| mask >> (record.offset.0 - base) & 1 == 1;
        let rebuilt = rebuild(&batch, horizon, kept);
        let expected: Vec<Record> = read(&batch).into_iter().filter(kept).collect();
        prop_assert_eq!(rebuilt.header().next_offset(), batch.header().next_offset());
        prop_assert_eq!(read(&rebuilt), expected);
    }

    #[test]
    fn what_is_built_passes_the_door_unchanged(codec in any_codec(), records in any_sound_records()) {
        let built = build(BatchOptions { codec, ..BatchOptions::default() }, &records);
        let bytes: Bytes = built.bytes().clone();
        let accepted = accept(bytes.clone(), &easy_rules()).unwrap();
        prop_assert_eq!(accepted.bytes().as_ptr(), bytes.as_ptr(), "not even copied");
        prop_assert_eq!(accepted, built);
    }
}
