//! Tests of the dump over files in a temporary directory: what is shown, and which damage is named where.

use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;
use crate::record::{BatchBuilder, BatchOptions, Codec, Outcome, ProducerStamp, TransactionEnd};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// Three batches: plain, of an idempotent producer and compressed, an abort marker.
fn log() -> Vec<u8> {
    let mut plain = BatchBuilder::new(BatchOptions::default());
    plain
        .append(Some(Timestamp(1_357_035_300_000)), Some(b"k"), Some(b"v"), &[])
        .expect("small");
    plain
        .append(Some(Timestamp(1_357_035_300_500)), None, None, &[])
        .expect("small");
    let producer = ProducerStamp {
        id: ProducerId(7),
        epoch: ProducerEpoch(1),
        base_sequence: Some(Sequence(40)),
    };
    let options = BatchOptions {
        codec: Codec::Lz4,
        producer: Some(producer),
        ..BatchOptions::default()
    };
    let mut numbered = BatchBuilder::new(options);
    numbered
        .append(Some(Timestamp(1_357_035_301_000)), None, Some(b"w"), &[])
        .expect("small");
    let marker = TransactionEnd {
        outcome: Outcome::Abort,
        producer: ProducerId(7),
        producer_epoch: ProducerEpoch(1),
        coordinator_epoch: 0,
        at: Timestamp(1_357_035_302_000),
    };
    let plain = plain
        .build()
        .expect("it has records")
        .stamped(Offset(0), LeaderEpoch(1));
    let numbered = numbered
        .build()
        .expect("it has records")
        .stamped(Offset(2), LeaderEpoch(1));
    let marker = marker.to_batch().stamped(Offset(3), LeaderEpoch(2));
    [&plain.bytes()[..], numbered.bytes(), marker.bytes()].concat()
}

/// A file of a partition's directory; the directory lives as long as the first value.
fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let partition = directory.path().join("flights-3");
    std::fs::create_dir(&partition).expect("made");
    let path = partition.join("00000000000000000000.log");
    std::fs::write(&path, bytes).expect("written");
    (directory, path)
}

/// Dumps `bytes` without printing: the text and the number of damaged places.
fn dump(bytes: &[u8], records: bool, json: bool) -> (String, u64) {
    let (_directory, path) = file(bytes);
    let depth = if records { Depth::Records } else { Depth::Batches };
    let mut dump = Dump::new(&path, depth, json).expect("the file is there");
    while dump.step().expect("readable") == Step::Further {}
    (String::from_utf8(dump.text).expect("text"), dump.damaged)
}

fn check(bytes: &[u8], records: bool, damaged: u64, expected: &Expect) {
    let (text, found) = dump(bytes, records, false);
    expected.assert_eq(&text);
    assert_eq!(found, damaged);
}

#[test]
fn batches_are_shown_with_their_place_and_producer() {
    check(
        &log(),
        false,
        0,
        &expect![[r#"
        position 0: offsets 0 to 1, 2 records, 78 bytes, none, crc e5fcedf8 valid, greatest time 2013-01-01T10:15:00.500Z (CreateTime), leader epoch 1
        position 78: offsets 2 to 2, 1 records, 84 bytes, lz4, crc fff05587 valid, greatest time 2013-01-01T10:15:01.000Z (CreateTime), leader epoch 1, producer 7 epoch 1 sequences 40 to 40
        position 162: offsets 3 to 3, 1 records, 78 bytes, none, crc c13f0348 valid, greatest time 2013-01-01T10:15:02.000Z (CreateTime), leader epoch 2, producer 7 epoch 1, transactional, abort marker
    "#]],
    );
}

#[test]
fn records_are_shown_on_demand_and_markers_never() {
    check(
        &log(),
        true,
        0,
        &expect![[r#"
        position 0: offsets 0 to 1, 2 records, 78 bytes, none, crc e5fcedf8 valid, greatest time 2013-01-01T10:15:00.500Z (CreateTime), leader epoch 1
          3:0	2013-01-01T10:15:00.000Z	k	v
          3:1	2013-01-01T10:15:00.500Z	-	-
        position 78: offsets 2 to 2, 1 records, 84 bytes, lz4, crc fff05587 valid, greatest time 2013-01-01T10:15:01.000Z (CreateTime), leader epoch 1, producer 7 epoch 1 sequences 40 to 40
          3:2	2013-01-01T10:15:01.000Z	-	w
        position 162: offsets 3 to 3, 1 records, 78 bytes, none, crc c13f0348 valid, greatest time 2013-01-01T10:15:02.000Z (CreateTime), leader epoch 2, producer 7 epoch 1, transactional, abort marker
    "#]],
    );
}

#[test]
fn a_flipped_bit_is_named_and_the_batches_after_it_are_still_shown() {
    let mut bytes = log();
    bytes[70] ^= 1;
    let (text, damaged) = dump(&bytes, false, false);
    assert_eq!(damaged, 1);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("INVALID\n") || text.contains("INVALID,"), "{text}");
    assert!(text.contains("position 0: damaged: "), "{text}");
    assert!(text.contains("abort marker"), "{text}");
}

#[test]
fn a_file_that_ends_inside_a_batch_says_where() {
    let bytes = log();
    let (text, damaged) = dump(&bytes[..bytes.len() - 1], false, false);
    assert_eq!(damaged, 1);
    assert!(text.trim_end().ends_with("the file ends inside it"), "{text}");
    let (text, damaged) = dump(&bytes[..30], false, false);
    assert_eq!(
        (text.as_str(), damaged),
        (
            "position 0: damaged: 30 bytes at the end are less than the header of a batch\n",
            1
        )
    );
}

#[test]
fn a_length_beyond_the_file_is_not_believed() {
    let mut bytes = log();
    bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    let (text, damaged) = dump(&bytes, false, false);
    assert_eq!(damaged, 1);
    assert!(text.starts_with("position 0: damaged: "), "{text}");
}

#[test]
fn an_empty_file_has_nothing_to_show() {
    assert_eq!(dump(b"", true, true), (String::new(), 0));
}

#[test]
fn as_json_every_line_is_an_object_and_records_say_whose_they_are() {
    let (text, damaged) = dump(&log(), true, true);
    assert_eq!(damaged, 0);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        (&lines[0]["base_offset"], &lines[0]["crc_valid"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(
        (&lines[1]["topic"], &lines[1]["partition"], &lines[1]["key"]),
        (&json!("flights"), &json!(3), &json!("k"))
    );
    assert_eq!(
        (&lines[3]["codec"], &lines[3]["base_sequence"]),
        (&json!("lz4"), &json!(40))
    );
    assert_eq!(lines[5]["control"], "abort");
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let error = Dump::new(Path::new("x.txt"), Depth::Batches, false)
        .err()
        .expect("refused");
    assert!(matches!(error, CliError::Usage(_)), "{error}");
}

/// An object of the archive that is checked in, in a directory of its own.
#[cfg(feature = "tier")]
fn object(change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf) {
    let name = "00000000000000000000-0000000001-0000000000000001.segment";
    let segments = "tests/fixtures/v1/archive/topics/golden/07070707070707070707070707070707/0/segments";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(segments).join(name);
    let mut bytes = std::fs::read(path).expect("it is checked in");
    change(&mut bytes);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    (directory, path)
}

#[cfg(feature = "tier")]
#[test]
fn the_log_of_an_object_is_dumped_and_no_more_than_the_log() {
    let (_directory, path) = object(|_| ());
    let mut dump = Dump::new(&path, Depth::Batches, true).expect("it is sound");
    while dump.step().expect("readable") == Step::Further {}
    let text = String::from_utf8(dump.text).expect("text");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let records: u64 = lines
        .iter()
        .filter_map(|line| line["record_count"].as_u64())
        .sum();
    assert_eq!((dump.damaged, records), (0, 15));
    let (_directory, path) = object(|bytes| bytes.truncate(bytes.len() - 1));
    let error = Dump::new(&path, Depth::Batches, true).err().expect("it is cut");
    assert!(matches!(error, CliError::Failed(_)), "{error}");
}

#[cfg(feature = "tier")]
#[test]
fn a_changed_byte_behind_the_log_of_an_object_is_found_by_verify_alone() {
    let verify = |path: &Path| {
        run(SegmentCommand::Verify {
            file: path.to_owned(),
            json: false,
        })
    };
    let (_directory, path) = object(|_| ());
    verify(&path).expect("it is sound");
    // A byte of the offset index: the log has 876.
    let (_directory, path) = object(|bytes| bytes[877] ^= 1);
    let error = verify(&path).expect_err("it is damaged").to_string();
    assert!(
        error.contains(&*path.to_string_lossy()) && error.contains("page 0 of its section of kind 1"),
        "{error}"
    );
    let (directory, path) = file(&log());
    verify(&path).expect("it is sound");
    let mut bytes = log();
    bytes[70] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let error = verify(&path).expect_err("it is damaged").to_string();
    assert!(error.ends_with("1 place is damaged"), "{error}");
    drop(directory);
}
