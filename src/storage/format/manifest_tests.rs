//! Tests of the partition manifest: any journal against a map, damage anywhere, and the bytes of version 1.

use proptest::prelude::*;

use super::*;
use crate::storage::{Extensions, FirstAppend, SegmentFlags};
use crate::types::Timestamp;

const TOPIC: TopicId = TopicId(*b"0123456789abcdef");

fn summary(base_offset: i64, records: i64, appends: i64) -> SegmentSummary {
    let mut summary = SegmentSummary::empty(Offset(base_offset));
    summary.next_offset = Offset(base_offset + records);
    summary.records = records.unsigned_abs();
    for append in 0..appends {
        summary
            .append_times
            .push(Offset(base_offset + append), Timestamp(append));
    }
    summary
}

fn summaries() -> impl Strategy<Value = SegmentSummary> {
    (
        (0..6_i64, 0..100_i64, 0..50_i64),
        any::<(u64, u32, u32, u32)>(),
        any::<(Option<u32>, Option<i64>, Option<i64>)>(),
        prop::collection::btree_map(any::<u16>(), prop::collection::vec(any::<u8>(), 0..20), 0..4),
    )
        .prop_map(|(counts, sizes, options, extensions)| {
            let mut summary = summary(counts.0 * 100, counts.1, counts.2);
            summary.log_bytes = sizes.0;
            summary.offset_index_bytes = sizes.1;
            summary.time_index_bytes = sizes.2;
            let bound = SegmentFlags::FIRST_APPEND_NOT_BEFORE;
            summary.flags = SegmentFlags(sizes.3 & !bound.0);
            if SegmentFlags(sizes.3).contains(bound) {
                summary.append_times = summary.append_times.with_first(FirstAppend::NotBefore);
            }
            summary.txn_index_bytes = options.0;
            summary.least_timestamp = options.1.map(Timestamp);
            summary.greatest_timestamp = options.2.map(Timestamp);
            for (tag, bytes) in extensions {
                summary.extensions.set(tag, &bytes).expect("short");
            }
            summary
        })
}

fn records() -> impl Strategy<Value = Vec<ManifestRecord>> {
    let record = prop_oneof![
        3 => summaries().prop_map(ManifestRecord::Segment),
        1 => (0..6_i64).prop_map(|base| ManifestRecord::Removed(Offset(base * 100))),
    ];
    prop::collection::vec(record, 0..20)
}

fn journal(records: &[ManifestRecord]) -> Vec<u8> {
    let mut bytes = Manifest::new(TOPIC, PartitionId(3)).encode_whole();
    for record in records {
        bytes.extend(record.encode_append());
    }
    bytes
}

fn folded(records: &[ManifestRecord]) -> BTreeMap<Offset, SegmentSummary> {
    let mut model = BTreeMap::new();
    for record in records {
        match record {
            ManifestRecord::Segment(summary) => {
                model.insert(summary.base_offset, summary.clone());
            }
            ManifestRecord::Removed(base) => {
                model.remove(base);
            }
            ManifestRecord::Closed(_) => {}
        }
    }
    model
}

proptest! {
    #[test]
    fn a_journal_comes_to_the_newest_summary_of_each_segment(records in records()) {
        let decoded = Manifest::decode(&journal(&records)).expect("sound");
        prop_assert_eq!(decoded.tail, None);
        prop_assert_eq!(decoded.valid_len, journal(&records).len());
        prop_assert_eq!(decoded.manifest.segments(), &folded(&records));

        let mut closing = decoded.manifest;
        let log_end = closing.segments().last_key_value().map_or(Offset(9), |(_, newest)| newest.next_offset);
        let closed = Closed { log_start: Offset(0), log_end, epoch: LeaderEpoch(7), first_unstable: None };
        closing.apply(ManifestRecord::Closed(closed)).expect("agrees with the segments");
        let again = Manifest::decode(&closing.encode_whole()).expect("sound");
        prop_assert_eq!(again.manifest.closed(), Some(closed));
        prop_assert_eq!(again.tail, None);
        prop_assert_eq!(again.manifest, closing);
    }

    #[test]
    fn a_cut_or_a_changed_bit_keeps_the_records_before_it_and_is_told(
        records in records(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let header_len = journal(&[]).len();
        let whole = journal(&records);
        prop_assume!(whole.len() > header_len);
        let at = header_len + at.index(whole.len() - header_len);
        let mut ends = vec![header_len];
        for record in &records {
            ends.push(ends[ends.len() - 1] + record.encode_append().len());
        }
        let sound = ends.iter().filter(|end| **end <= at).count() - 1;

        let cut = Manifest::decode(&whole[..at]).expect("the header is sound");
        prop_assert_eq!(cut.manifest.segments(), &folded(&records[..sound]));
        prop_assert_eq!(cut.tail.is_some(), ends[sound] != at);

        let mut changed = whole;
        changed[at] ^= 1 << bit;
        let changed = Manifest::decode(&changed).expect("the header is sound");
        prop_assert_eq!(changed.manifest.segments(), &folded(&records[..sound]));
        prop_assert_eq!(changed.valid_len, ends[sound]);
        prop_assert_eq!(changed.tail.map(|tail| tail.position), Some(ends[sound]));
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Manifest::decode(&bytes);
        let behind_a_header = [journal(&[]), bytes].concat();
        let decoded = Manifest::decode(&behind_a_header).expect("the header is sound");
        prop_assert!(decoded.valid_len <= behind_a_header.len());
    }

    #[test]
    fn any_payload_is_refused_or_read_without_a_panic(
        kind in 0..5_u8,
        payload in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = journal(&[]);
        frame(&mut bytes, |into| {
            into.push(kind);
            into.extend_from_slice(&payload);
        });
        let _ = Manifest::decode(&bytes);
    }

    #[test]
    fn a_changed_summary_is_refused_or_written_again_alike(
        summary in summaries(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut payload = Vec::new();
        summary.encode(&mut payload);
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Some(other) = SegmentSummary::decode(Fields(&payload)) {
            let mut again = Vec::new();
            other.encode(&mut again);
            prop_assert_eq!(SegmentSummary::decode(Fields(&again)), Some(other));
        }
    }
}

#[test]
fn a_summary_at_every_limit_fits_a_record() {
    let mut greatest = summary(0, 100, 16);
    let room = Extensions::MAX_LEN - 4;
    greatest
        .extensions
        .set(1, &vec![0xee; room])
        .expect("exactly full");
    let record = ManifestRecord::Segment(greatest);
    assert_eq!(record.encode_append().len(), FRAME_LEN + MAX_PAYLOAD_LEN);
    let decoded = Manifest::decode(&journal(std::slice::from_ref(&record))).expect("sound");
    assert_eq!(decoded.manifest.segments(), &folded(&[record]));
}

#[test]
fn a_close_counts_only_as_the_last_word() {
    let closed = Closed {
        log_start: Offset(0),
        log_end: Offset(5),
        epoch: LeaderEpoch(2),
        first_unstable: None,
    };
    let segment = ManifestRecord::Segment(summary(0, 5, 1));
    let close = ManifestRecord::Closed(closed);
    let read = |records: &[ManifestRecord]| Manifest::decode(&journal(records)).expect("sound");
    assert_eq!(
        read(&[segment.clone(), close.clone()]).manifest.closed(),
        Some(closed)
    );
    for next in [segment.clone(), ManifestRecord::Removed(Offset(0))] {
        assert_eq!(
            read(&[segment.clone(), close.clone(), next]).manifest.closed(),
            None
        );
    }
    let mut torn = journal(&[segment.clone(), close.clone(), segment]);
    torn.pop();
    assert_eq!(Manifest::decode(&torn).expect("sound").manifest.closed(), None);

    let contradicting = read(&[ManifestRecord::Segment(summary(0, 6, 1)), close]);
    assert_eq!(contradicting.manifest.closed(), None);
    assert_eq!(
        contradicting.tail.map(|tail| tail.reason.to_string()).as_deref(),
        Some("the closing record ends the log at offset 5, its segments do not")
    );
}

#[test]
fn damage_is_named_not_served() {
    let header = |change: fn(&mut Vec<u8>)| {
        let mut bytes = journal(&[]);
        change(&mut bytes);
        Manifest::decode(&bytes).err().map(|damage| damage.to_string())
    };
    assert_eq!(
        header(|bytes| bytes.truncate(35)).as_deref(),
        Some("manifest of 35 bytes is shorter than its header of 36")
    );
    assert_eq!(
        header(|bytes| bytes[0] = b's').as_deref(),
        Some("manifest does not begin with its magic")
    );
    assert_eq!(
        header(|bytes| bytes[9] = 2).as_deref(),
        Some("manifest has format version 2, expected 1")
    );
    assert!(header(|bytes| bytes[31] = 9).is_some_and(|text| text.starts_with("manifest header has crc 0x")));

    let tail = |bytes: &[u8]| {
        let decoded =
            Manifest::decode(&[journal(&[]).as_slice(), bytes].concat()).expect("the header is sound");
        decoded.tail.map(|tail| tail.to_string())
    };
    assert_eq!(
        tail(&[0; 20]).as_deref(),
        Some("manifest record at position 36 does not count: its length is 0, not 1 to 4440")
    );
    assert_eq!(
        tail(&[0xff; 8]).as_deref(),
        Some("manifest record at position 36 does not count: its length is 4294967295, not 1 to 4440")
    );
    assert_eq!(
        tail(&ManifestRecord::Removed(Offset(1)).encode_append()[..12]).as_deref(),
        Some("manifest record at position 36 does not count: the file ends 12 bytes behind its start")
    );
    let mut unknown = Vec::new();
    frame(&mut unknown, |into| into.push(9));
    assert_eq!(
        tail(&unknown).as_deref(),
        Some("manifest record at position 36 does not count: it is no sound record of kind 9")
    );
}

fn golden_manifest() -> Manifest {
    let mut manifest = Manifest::new(TOPIC, PartitionId(3));
    let mut segment = summary(256, 5, 2);
    segment.log_bytes = 4096;
    segment.offset_index_bytes = 8;
    segment.time_index_bytes = 24;
    segment.txn_index_bytes = Some(34);
    segment.least_timestamp = Some(Timestamp(1_357_000_000_000));
    segment.greatest_timestamp = Some(Timestamp(-1));
    segment.flags = SegmentFlags::SEALED;
    segment.extensions.set(0x0102, b"key").expect("room");
    manifest
        .apply(ManifestRecord::Segment(segment))
        .expect("no contradiction");
    let closed = Closed {
        log_start: Offset(256),
        log_end: Offset(261),
        epoch: LeaderEpoch(7),
        first_unstable: Some(Offset(259)),
    };
    manifest.apply(ManifestRecord::Closed(closed)).expect("agrees");
    manifest
}

/// Version 1, put together by hand from the picture; checksums by another implementation. Never edited.
const GOLDEN: &str = "\
    53494c544d414e000001000030313233343536373839616263646566000000032a340a54\
    0000007f0f54e51801070201000000010000000000000100000000000000010500000000\
    000010000000000000000005000000080000001800000022000000000000000000000001\
    00000000000000000000013bf380c200ffffffffffffffff000000000000010000000000\
    0000000000000000000001010000000000000001010200036b65790000001d2976275d03\
    00000000000001000000000000000105000000070000000000000103";

#[test]
fn the_bytes_of_version_1_stay_as_they_are() {
    let bytes = golden_manifest().encode_whole();
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hexadecimal, GOLDEN);
    assert_eq!(
        Manifest::decode(&bytes).expect("sound").manifest,
        golden_manifest()
    );
    assert_eq!(
        ManifestRecord::Removed(Offset(256)).encode_append(),
        *b"\x00\x00\x00\x09\xc4\x8c\x74\x8f\x02\x00\x00\x00\x00\x00\x00\x01\x00"
    );
}
