//! Tests of `cursor`.

use super::*;
use crate::types::TopicName;

fn marks(log_start: i64, last_stable: i64, high_watermark: i64, log_end: i64) -> WatermarkView {
    WatermarkView {
        log_start: Offset(log_start),
        local_start: Offset(log_start),
        last_stable: Offset(last_stable),
        high_watermark: Offset(high_watermark),
        log_end: Offset(log_end),
        recovery_point: Offset(high_watermark),
    }
}

fn spec(start: ReadStart, end: ReadEnd) -> ReadSpec {
    ReadSpec {
        topic: TopicName::new("t").expect("valid"),
        partitions: Vec::new(),
        start,
        end,
        resume: Vec::new(),
        isolation: Isolation::ReadUncommitted,
        chunk_bytes: 1000,
    }
}

const LOG: (i64, i64, i64, i64) = (10, 80, 90, 100);

fn begin(spec: &ReadSpec) -> (Cursor, Begin) {
    Cursor::begin(
        &Starts::of(spec),
        PartitionId(0),
        &marks(LOG.0, LOG.1, LOG.2, LOG.3),
    )
}

#[test]
fn every_start_begins_where_it_says() {
    let at = |start| begin(&spec(start, ReadEnd::Now)).1;
    assert_eq!(at(ReadStart::Earliest), Begin::At(Offset(10)));
    assert_eq!(at(ReadStart::Latest), Begin::At(Offset(90)));
    assert_eq!(at(ReadStart::Offset(Offset(10))), Begin::At(Offset(10)));
    assert_eq!(at(ReadStart::Offset(Offset(100))), Begin::At(Offset(100)));
    assert_eq!(at(ReadStart::Offset(Offset(9))), Begin::OutOfRange(Offset(9)));
    assert_eq!(at(ReadStart::Offset(Offset(101))), Begin::OutOfRange(Offset(101)));
    assert_eq!(at(ReadStart::Time(Timestamp(7))), Begin::LookUp(Timestamp(7)));
}

#[test]
fn every_end_ends_where_it_says() {
    let end = |end| begin(&spec(ReadStart::Earliest, end)).0.end;
    assert_eq!(end(ReadEnd::Now), Some(Offset(90)));
    assert_eq!(end(ReadEnd::Time(Timestamp(5))), Some(Offset(90)));
    assert_eq!(end(ReadEnd::Offset(Offset(50))), Some(Offset(50)));
    assert_eq!(end(ReadEnd::Offset(Offset(500))), Some(Offset(90)));
    assert_eq!(end(ReadEnd::Follow), None);
    let mut committed = spec(ReadStart::Earliest, ReadEnd::Now);
    committed.isolation = Isolation::ReadCommitted;
    assert_eq!(begin(&committed).0.end, Some(Offset(80)));
}

#[test]
fn a_resume_position_overrides_the_start_and_not_the_lower_time_bound() {
    let mut resumed = spec(ReadStart::Time(Timestamp(7)), ReadEnd::Time(Timestamp(9)));
    resumed.resume = vec![(PartitionId(0), Offset(42))];
    let (cursor, begin) = begin(&resumed);
    assert_eq!(begin, Begin::At(Offset(42)));
    assert_eq!(cursor.times, Some(Timestamp(7)..Timestamp(9)));
}

#[test]
fn a_partition_named_with_a_start_of_its_own_has_it() {
    let mut mixed = spec(ReadStart::Time(Timestamp(7)), ReadEnd::Follow);
    mixed.partitions = vec![
        (PartitionId(0), Some(ReadStart::Offset(Offset(20)))),
        (PartitionId(1), None),
    ];
    let (cursor, start) = begin(&mixed);
    assert_eq!((cursor.times, start), (None, Begin::At(Offset(20))));
}

#[test]
fn a_cursor_reads_to_its_end_and_then_is_done() {
    let mut cursor = begin(&spec(ReadStart::Earliest, ReadEnd::Offset(Offset(50)))).0;
    cursor.position = Offset(10);
    let log = marks(10, 90, 90, 100);
    let plan = |cursor: &Cursor| cursor.plan(&log, Isolation::ReadUncommitted);
    assert_eq!(plan(&cursor), Plan::Read(Offset(10)..Offset(50)));
    cursor.advance(Offset(57));
    assert_eq!(
        cursor.position,
        Offset(50),
        "a resume token must not skip what was not asked for"
    );
    assert_eq!(plan(&cursor), Plan::Done);
}

#[test]
fn a_follower_waits_at_the_watermark_and_reads_when_it_moves() {
    let mut cursor = begin(&spec(ReadStart::Latest, ReadEnd::Follow)).0;
    cursor.position = Offset(90);
    assert_eq!(
        cursor.plan(&marks(10, 90, 90, 100), Isolation::ReadUncommitted),
        Plan::Wait
    );
    let moved = marks(10, 92, 95, 100);
    assert_eq!(
        cursor.plan(&moved, Isolation::ReadUncommitted),
        Plan::Read(Offset(90)..Offset(95))
    );
    assert_eq!(
        cursor.plan(&moved, Isolation::ReadCommitted),
        Plan::Read(Offset(90)..Offset(92))
    );
}

#[test]
fn records_that_are_gone_end_a_read_by_offset_and_not_one_of_what_is_there() {
    let raised = marks(60, 90, 90, 100);
    let plan = |start| {
        let mut cursor = begin(&spec(start, ReadEnd::Now)).0;
        cursor.position = Offset(20);
        cursor.plan(&raised, Isolation::ReadUncommitted)
    };
    assert_eq!(plan(ReadStart::Offset(Offset(20))), Plan::Gone);
    for start in [
        ReadStart::Earliest,
        ReadStart::Time(Timestamp(0)),
        ReadStart::Latest,
    ] {
        assert_eq!(plan(start), Plan::Read(Offset(60)..Offset(90)), "{start:?}");
    }
}

#[test]
fn a_log_deleted_up_to_the_end_of_a_read_completes_it() {
    let mut cursor = begin(&spec(ReadStart::Earliest, ReadEnd::Offset(Offset(50)))).0;
    cursor.position = Offset(10);
    assert_eq!(
        cursor.plan(&marks(70, 90, 90, 100), Isolation::ReadUncommitted),
        Plan::Done
    );
}

proptest::proptest! {
    /// Whatever the log does, a read gets on or says why not, and reads nothing twice and nothing beyond its bounds.
    #[test]
    fn a_read_of_a_changing_log_reads_forward_within_its_bounds(
        start in 0_i64..50,
        changes in proptest::collection::vec((0_i64..20, 0_i64..20, 1_i64..15), 1..40),
        follow: bool,
    ) {
        let mut log = marks(0, 50, 50, 50);
        let end = if follow { ReadEnd::Follow } else { ReadEnd::Now };
        let mut cursor = Cursor::begin(&Starts::of(&spec(ReadStart::Earliest, end)), PartitionId(0), &log).0;
        cursor.position = Offset(start);
        let mut read_to = Offset(start);
        for (grown, deleted, step) in changes {
            log.high_watermark = log.high_watermark + grown;
            log.last_stable = log.high_watermark;
            log.log_end = log.high_watermark;
            log.log_start = (log.log_start + deleted).min(log.high_watermark);
            match cursor.plan(&log, Isolation::ReadUncommitted) {
                Plan::Read(range) => {
                    proptest::prop_assert!(range.start >= read_to && range.start >= log.log_start);
                    proptest::prop_assert!(range.end <= log.high_watermark);
                    proptest::prop_assert!(follow || range.end <= Offset(50));
                    cursor.advance((range.start + step).min(range.end));
                    proptest::prop_assert!(cursor.position > read_to || range.start > read_to);
                    read_to = cursor.position;
                }
                Plan::Wait => proptest::prop_assert!(follow && cursor.position.max(log.log_start) >= log.high_watermark),
                Plan::Done => proptest::prop_assert!(!follow && (cursor.position >= Offset(50) || log.log_start >= Offset(50))),
                Plan::Gone => proptest::prop_assert!(false, "an earliest read goes on"),
            }
        }
    }
}

/// Searched for each partition, this request would take 10^10 steps.
#[test]
fn a_read_that_names_a_hundred_thousand_partitions_is_sorted_once_and_each_begins_where_it_says() {
    const PARTITIONS: i32 = 100_000;
    let log = marks(0, 1_000_000, 1_000_000, 1_000_000);
    let mut named = spec(ReadStart::Latest, ReadEnd::Now);
    named.partitions = (0..PARTITIONS)
        .rev()
        .map(|number| {
            let own = ReadStart::Offset(Offset(i64::from(number)));
            (PartitionId(number), (number % 3 != 0).then_some(own))
        })
        .collect();
    named.resume = (0..PARTITIONS)
        .filter(|number| number % 2 == 0)
        .map(|number| (PartitionId(number), Offset(500_000 + i64::from(number))))
        .collect();
    let starts = Starts::of(&named);
    for number in 0..PARTITIONS {
        let expected = match (number % 2, number % 3) {
            (0, _) => 500_000 + i64::from(number),
            (_, 0) => 1_000_000,
            _ => i64::from(number),
        };
        let (_, begin) = Cursor::begin(&starts, PartitionId(number), &log);
        assert_eq!(begin, Begin::At(Offset(expected)), "partition {number}");
    }
}
