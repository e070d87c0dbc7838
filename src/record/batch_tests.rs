//! Batches against hand-written bytes, and walks over many.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::testing::{
    GOLDEN, GOLDEN_MARKER, LIMIT, NOW, Plain, any_codec, any_records, build, hex, read, small, stored,
    with_crc, with_payload,
};
use crate::record::{BatchOptions, Header, ProducerStamp, Stamping};
use crate::types::{ProducerEpoch, ProducerId, Sequence};

fn golden() -> RecordBatch {
    RecordBatch::parse(hex(GOLDEN).into()).unwrap()
}

#[test]
fn a_golden_batch_reads_field_by_field() {
    let batch = golden();
    let header = batch.header();
    assert_eq!(header.base_offset, Offset(0));
    assert_eq!(header.size_bytes, 81);
    assert_eq!(header.leader_epoch, None);
    assert_eq!(header.crc, 0x3055_2965);
    assert_eq!(header.codec, Codec::None);
    assert_eq!(header.timestamp_type, TimestampType::CreateTime);
    assert!(!header.is_control() && !header.is_transactional());
    assert_eq!(header.delete_horizon(), None);
    assert_eq!(header.last_offset_delta, 1);
    assert_eq!(header.base_timestamp, Some(Timestamp(1000)));
    assert_eq!(header.max_timestamp, Some(Timestamp(1010)));
    assert_eq!(
        header.producer,
        Some(ProducerStamp {
            id: ProducerId(7),
            epoch: ProducerEpoch(3),
            base_sequence: Some(Sequence(5)),
        })
    );
    assert_eq!(header.last_sequence(), Some(Sequence(6)));
    assert_eq!(header.record_count, 2);
    assert_eq!(
        (header.last_offset(), header.next_offset()),
        (Offset(1), Offset(2))
    );
    batch.verify_crc().unwrap();
}

#[test]
fn the_records_of_a_golden_batch_read_field_by_field() {
    let records = read(&golden());
    let mut first = Plain::new(1000, "k", "v");
    first.headers = vec![Header {
        key: "h".into(),
        value: Some("x".into()),
    }];
    let second = Plain {
        timestamp: Some(Timestamp(1010)),
        key: None,
        value: None,
        headers: Vec::new(),
    };
    assert_eq!(records, [first.at(0), second.at(1)]);
    assert_eq!(records[0].headers[0].key_text(), Ok("h"));
    assert_eq!(
        golden().timestamps(LIMIT),
        Ok(Some((Timestamp(1000), Timestamp(1010))))
    );
}

#[test]
fn a_golden_marker_reads() {
    let batch = RecordBatch::parse(hex(GOLDEN_MARKER).into()).unwrap();
    batch.verify_crc().unwrap();
    assert!(batch.header().is_control() && batch.header().is_transactional());
    assert_eq!(
        batch.control_marker(),
        Ok(Some(ControlMarker::Commit { coordinator_epoch: 7 }))
    );
    assert_eq!(golden().control_marker(), Ok(None));
}

#[test]
fn uncompressed_records_share_the_bytes_of_their_batch() {
    let batch = golden();
    let value = read(&batch)[0].value.clone().unwrap();
    assert!(batch.bytes().as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn base_offset_and_leader_epoch_lie_outside_the_checksum() {
    let mut bytes = hex(GOLDEN);
    bytes[..8].copy_from_slice(&40i64.to_be_bytes());
    bytes[12..16].copy_from_slice(&9i32.to_be_bytes());
    let batch = RecordBatch::parse(bytes.into()).unwrap();
    batch.verify_crc().unwrap();
    assert_eq!(batch.header().leader_epoch, Some(LeaderEpoch(9)));
    let offsets: Vec<Offset> = read(&batch).iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [Offset(40), Offset(41)]);
}

#[test]
fn under_log_append_time_every_record_reads_the_greatest_timestamp() {
    let options = BatchOptions {
        stamping: Stamping::LogAppendTime(NOW),
        ..BatchOptions::default()
    };
    let batch = stored(
        &build(options, &[Plain::new(5, "a", "1"), Plain::new(9, "b", "2")]),
        0,
    );
    assert!(read(&batch).iter().all(|record| record.timestamp == Some(NOW)));
    assert_eq!(batch.timestamps(LIMIT), Ok(Some((NOW, NOW))));
}

#[test]
fn the_last_sequence_wraps_to_zero() {
    let mut header = *golden().header();
    let sequence_from = |first| {
        Some(ProducerStamp {
            base_sequence: Some(Sequence(first)),
            ..golden().header().producer.unwrap()
        })
    };
    header.producer = sequence_from(i32::MAX);
    assert_eq!(header.last_sequence(), Some(Sequence(0)));
    header.producer = sequence_from(i32::MAX - 1);
    assert_eq!(header.last_sequence(), Some(Sequence(i32::MAX)));
}

fn parse_with(at: usize, field: &[u8]) -> String {
    let mut bytes = hex(GOLDEN);
    bytes[at..at + field.len()].copy_from_slice(field);
    RecordBatch::parse(bytes.into()).unwrap_err().to_string()
}

#[test]
fn an_unsound_header_is_named_not_read() {
    assert_eq!(
        BatchHeader::parse(&hex(GOLDEN)[..60]).unwrap_err().to_string(),
        "record batch of 60 bytes ends inside its header"
    );
    assert_eq!(
        parse_with(8, &48i32.to_be_bytes()),
        "record batch has a length field of 48, allowed are 49 to 2147483635"
    );
    assert_eq!(
        parse_with(8, &i32::MAX.to_be_bytes()),
        "record batch has a length field of 2147483647, allowed are 49 to 2147483635"
    );
    assert_eq!(
        parse_with(8, &70i32.to_be_bytes()),
        "record batch of 82 bytes is cut off after 81"
    );
    assert_eq!(
        parse_with(8, &68i32.to_be_bytes()),
        "record batch of 80 bytes lies in 81, with more after it"
    );
    assert_eq!(parse_with(16, &[1]), "record batch has magic 1, only 2 is read");
    assert_eq!(
        parse_with(22, &[0x05]),
        "record batch has codec 5, known are 0 to 4"
    );
    assert_eq!(
        parse_with(0, &(-1i64).to_be_bytes()),
        "record batch has base offset -1 and last offset delta 1"
    );
    assert_eq!(
        parse_with(0, &i64::MAX.to_be_bytes()),
        "record batch has base offset 9223372036854775807 and last offset delta 1"
    );
    assert_eq!(
        parse_with(57, &(-2i32).to_be_bytes()),
        "record batch has a record count of -2"
    );
}

#[test]
fn unused_attribute_bits_are_ignored() {
    let mut bytes = hex(GOLDEN);
    bytes[21..23].copy_from_slice(&0xFF80u16.to_be_bytes());
    let batch = RecordBatch::parse(bytes.into()).unwrap();
    assert_eq!(batch.header().codec, Codec::None);
    assert!(!batch.header().is_control());
}

/// What reading a batch of `count` records with this payload finds; the batch's last offset delta is `count` - 1.
fn read_payload(count: i32, payload: &str) -> String {
    let bytes = with_payload(&small(1), Codec::None, count, &hex(payload));
    let batch = RecordBatch::parse(bytes).unwrap();
    let error = batch.records(LIMIT).unwrap().find_map(Result::err).unwrap();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn a_malformed_record_is_named_not_read() {
    let malformed = "record 0 of the batch is malformed: its ";
    for (payload, expected) in [
        ("80", "length is not a number"),
        ("0e 00 00 00 01 01 00", "length is 7, 6 bytes are left"),
        ("01 00 00 00 01 01 00", "length is -1, 6 bytes are left"),
        ("00", "attributes is not a number"),
        ("02 00", "timestamp delta is not a number"),
        ("04 00 00", "offset delta is not a number"),
        ("0c 00 00 00 04 01 00", "value length is not a number"),
        ("0c 00 00 00 08 01 00", "key length is 4, 2 bytes are left"),
        ("0c 00 00 00 03 01 00", "key length is -2, 2 bytes are left"),
        ("0c 00 00 00 01 04 00", "value length is 2, 1 bytes are left"),
        ("0a 00 00 00 01 01", "header count is not a number"),
        ("0c 00 00 00 01 01 01", "header count is -1, 0 bytes are left"),
        ("0e 00 00 00 01 01 02 00", "header count is 1, 1 bytes are left"),
        (
            "10 00 00 00 01 01 02 01 00",
            "header key length is -1, 1 bytes are left",
        ),
        ("0c 00 00 02 01 01 00", "offset delta is 1, allowed are 0 to 0"),
        ("0c 00 00 01 01 01 00", "offset delta is -1, allowed are 0 to 0"),
    ] {
        assert_eq!(
            read_payload(1, payload),
            format!("{malformed}{expected}"),
            "{payload}"
        );
    }
    assert_eq!(
        read_payload(1, "0e 00 00 00 01 01 00 00"),
        "record 0 of the batch is malformed: it has 1 bytes after its last field"
    );
}

#[test]
fn the_payload_must_hold_exactly_the_records_counted() {
    let record = "0c 00 00 00 01 01 00";
    assert_eq!(read_payload(2, record), "record batch ends after 1 of 2 records");
    assert_eq!(
        read_payload(1, &format!("{record} 0c 00")),
        "record batch has 2 bytes after its last record"
    );
    assert_eq!(
        read_payload(2, &format!("{record} {record}")),
        "record 1 of the batch is malformed: its offset delta is 0, allowed are 1 to 1"
    );
}

#[test]
fn no_record_comes_after_the_greatest_offset_delta() {
    let greatest = "14 00 00 fe ff ff ff 0f 01 01 00";
    let mut bytes = with_payload(&small(1), Codec::None, 2, &hex(&format!("{greatest} {greatest}"))).to_vec();
    bytes[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    let batch = RecordBatch::parse(with_crc(bytes)).unwrap();
    let mut records = batch.records(LIMIT).unwrap();
    assert_eq!(
        records.next().unwrap().unwrap().offset,
        Offset(i64::from(i32::MAX))
    );
    assert!(matches!(
        records.next(),
        Some(Err(Damage::Record {
            index: 1,
            source: RecordFault::OffsetDelta { .. }
        }))
    ));
}

#[test]
fn nothing_is_read_after_damage() {
    let bytes = with_payload(&small(1), Codec::None, 2, &hex("0c 00 00 00 01 01 00 80"));
    let mut records = RecordBatch::parse(bytes).unwrap().records(LIMIT).unwrap();
    assert!(records.next().unwrap().is_ok());
    assert!(records.next().unwrap().is_err());
    assert!(records.next().is_none());
}

#[test]
fn a_walk_stops_cleanly_at_a_partial_tail_wherever_it_is_cut() {
    let (first, second) = (small(1), small(2));
    let whole = [&first[..], &second].concat();
    for cut in first.len()..whole.len() {
        let mut batches = Batches::over(Bytes::copy_from_slice(&whole[..cut]), 100);
        let (position, batch) = batches.next().unwrap().unwrap();
        assert_eq!((position, batch.bytes().len()), (100, first.len()));
        assert!(batches.next().is_none(), "cut at {cut}");
        assert_eq!(batches.trailing_len(), cut - first.len());
        assert_eq!(batches.end_position(), 100 + u64::from(batch.header().size_bytes));
    }
    let positions: Vec<u32> = Batches::over(whole.into(), 0)
        .map(|batch| batch.unwrap().0)
        .collect();
    assert_eq!(positions, [0, u32::try_from(first.len()).unwrap()]);
}

#[test]
fn a_walk_ends_for_good_at_damage_and_says_where() {
    let first = small(1);
    for damage in [vec![0; 100], vec![0xFF; 100]] {
        let mut batches = Batches::over([&first[..], &damage].concat().into(), 7);
        assert!(batches.next().unwrap().is_ok());
        assert!(batches.next().unwrap().is_err());
        assert!(batches.next().is_none());
        assert_eq!(batches.end_position(), 7 + u64::try_from(first.len()).unwrap());
        assert_eq!(batches.trailing_len(), 100);
    }
}

#[test]
fn a_batch_beyond_32_bit_positions_is_damage() {
    let first = small(1);
    let mut batches = Batches::over([&first[..], &first].concat().into(), u32::MAX - 10);
    assert!(batches.next().unwrap().is_ok());
    assert!(matches!(batches.next(), Some(Err(Damage::Position { .. }))));
}

/// Reads everything there is to read of `bytes`, whatever it is.
fn exercise(bytes: &Bytes) {
    let _ = BatchHeader::parse(bytes);
    for (_, batch) in Batches::over(bytes.clone(), 0).flatten() {
        let _ = batch.verify_crc();
        let _ = batch.control_marker();
        let _ = batch.timestamps(LIMIT);
        if let Ok(records) = batch.records(LIMIT) {
            records.for_each(drop);
        }
    }
}

proptest! {
    #[test]
    fn what_was_built_reads_back(codec in any_codec(), records in any_records(), base in 0..i64::MAX - 100) {
        let options = BatchOptions { codec, ..BatchOptions::default() };
        let batch = stored(&build(options, &records), base);
        let expected: Vec<_> = (base..).zip(&records).map(|(offset, plain)| plain.at(offset)).collect();
        prop_assert_eq!(read(&batch), expected);
        let times = records.iter().filter_map(|record| record.timestamp);
        prop_assert_eq!(batch.timestamps(LIMIT).unwrap(), times.clone().min().zip(times.max()));
    }

    #[test]
    fn batches_back_to_back_read_as_the_batches_they_are(counts in vec(1..5usize, 0..6), tail in 0..12usize) {
        let batches: Vec<Bytes> = counts.iter().map(|&count| small(count).into()).collect();
        let bytes = [batches.concat(), vec![0; tail]].concat();
        let mut walk = Batches::over(bytes.into(), 0);
        let walked: Vec<Bytes> = walk.by_ref().map(|batch| batch.unwrap().1.bytes().clone()).collect();
        prop_assert_eq!(walked, batches);
        prop_assert_eq!(walk.trailing_len(), tail);
    }

    #[test]
    fn a_header_encodes_to_what_it_was_parsed_from(
        mut bytes in vec(any::<u8>(), HEADER_LEN),
        attributes in 0..0x80u8,
    ) {
        bytes[0] &= 0x3F;
        (bytes[8], bytes[11]) = (0, 100);
        bytes[16..17].copy_from_slice(&[2]);
        bytes[21..23].copy_from_slice(&[0, attributes]);
        for at in [23, 57] {
            bytes[at] &= 0x7F;
        }
        if let Ok(header) = BatchHeader::parse(&bytes) {
            prop_assert_eq!(BatchHeader::parse(&header.to_bytes()).unwrap(), header);
            if header.leader_epoch.is_some() && header.last_sequence().is_some() {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..]);
            }
        } else {
            prop_assert!(attributes & 0b111 > 4);
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        exercise(&bytes.into());
    }

    #[test]
    fn a_batch_with_arbitrary_bytes_in_it_is_read_or_refused(
        codec in any_codec(),
        records in any_records(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = build(BatchOptions { codec, ..BatchOptions::default() }, &records).bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(&with_crc(bytes));
    }

    #[test]
    fn an_arbitrary_payload_is_read_or_refused(codec in any_codec(), count in 1..9i32, payload in vec(any::<u8>(), 0..200)) {
        exercise(&with_payload(&small(1), codec, count, &payload));
    }
}
