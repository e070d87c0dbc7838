//! What goes to the archive, in which order, and what leaves the local disk once it is there.

use std::sync::Arc;

use super::super::testing::{DATA, House, NOW, cut, names, numbered, plain, read_all, small};
use super::super::{
    CleanupPolicy, FirstBatch, LogConfig, Read, ReadError, Retention, SegmentFacts, Store, decode_epochs,
    decode_snapshot,
};
use super::*;
use crate::env::{CrashChoice, Fs as _, SimFs};

fn archived(local: Retention) -> LogConfig {
    LogConfig {
        archived: Some(local),
        ..small()
    }
}

fn all_leaves() -> LogConfig {
    archived(Retention {
        ms: None,
        bytes: Some(0),
    })
}

/// Hands everything over that may go, and tells the log that the archive has it, as an uploader does.
fn upload(log: &Partition, known: &mut Vec<SegmentFacts>) -> Vec<HandedOver> {
    let mut gone = Vec::new();
    loop {
        let end = known.last().map(|last| last.end);
        match log.next_to_archive(end, NOW).expect("read") {
            NextToArchive::Segment(next) => {
                known.push(SegmentFacts::of(&next.summary));
                log.set_archived(known.clone().into());
                gone.push(*next);
            }
            NextToArchive::Nothing => return gone,
            NextToArchive::Stuck { from, reason } => panic!("stuck at {from}: {reason}"),
        }
    }
}

fn look(store: &Store, log: &Arc<Partition>) -> usize {
    let mut left = 0;
    for retained in store.retain(&[Arc::clone(log)], NOW) {
        assert!(retained.failure.is_none(), "{:?}", retained.failure);
        left += retained.left.len();
    }
    left
}

fn logs(fs: &SimFs) -> usize {
    names(fs, "t-0")
        .iter()
        .filter(|name| name.ends_with(".log"))
        .count()
}

fn filled(config: LogConfig) -> House {
    let house = House::with(SimFs::new(), config);
    for _ in 0..20 {
        house.acknowledge(&plain("a value that is in the archive"));
    }
    house
}

#[test]
fn sealed_and_synced_segments_go_in_order_with_all_that_belongs_to_them() {
    let house = House::with(SimFs::new(), all_leaves());
    for sequence in 0..40 {
        house.append(&numbered(7, sequence, "of a producer"));
    }
    assert!(
        upload(&house.log, &mut Vec::new()).is_empty(),
        "nothing is synced yet"
    );
    house.sync().expect("synced");
    let gone = upload(&house.log, &mut Vec::new());
    assert!(gone.len() > 1);
    let mut next = Offset(0);
    for segment in &gone {
        assert_eq!(segment.summary.base_offset, next);
        next = segment.summary.next_offset;
        let len = u64::try_from(segment.offset_index.len()).expect("small");
        assert_eq!(u64::from(segment.summary.offset_index_bytes), len);
        let producers = decode_snapshot(&segment.producers).expect("sound");
        let last = producers[0].last_batch.expect("it wrote");
        assert_eq!(last.last_offset, Offset(next.0 - 1));
        assert_eq!(decode_epochs(&segment.epochs).expect("sound").len(), 1);
        assert_eq!(segment.log.len_bytes().expect("open"), segment.summary.log_bytes);
    }
    let active = house.log.watermarks().log_end;
    assert!(next < active, "the active segment stays");
    assert!(house.log.roll_if_appended_before(NOW, NOW).expect("rolled"));
    assert!(
        !house
            .log
            .roll_if_appended_before(NOW, NOW)
            .expect("nothing is left to roll")
    );
}

#[test]
fn what_is_archived_leaves_the_disk_and_stays_in_the_log() {
    let house = filled(all_leaves());
    let end = house.log.watermarks().log_end;
    assert_eq!(look(&house.store, &house.log), 0, "nothing is in the archive yet");
    let mut known = Vec::new();
    let gone = upload(&house.log, &mut known);
    assert_eq!(look(&house.store, &house.log), gone.len());
    let check = |log: &Partition| {
        let marks = log.watermarks();
        assert_eq!((marks.log_start, marks.log_end), (Offset(0), end));
        assert_eq!(Some(marks.local_start), known.last().map(|last| last.end));
        let read = |from: Offset| Read {
            from,
            until: end,
            times: None,
            max_bytes: 1 << 20,
            first: FirstBatch::Whole,
        };
        assert!(matches!(log.read(&read(Offset(3))), Err(ReadError::Cold { .. })));
        assert!(matches!(log.find_time(NOW, end), Err(ReadError::Cold { .. })));
        assert!(log.find_max_timestamp(end).is_err());
        assert!(
            !log.read(&read(marks.local_start))
                .expect("local")
                .bytes
                .is_empty()
        );
        let found = log.find_time_from(NOW, marks.local_start, end).expect("local");
        assert_eq!(found.map(|found| found.offset), Some(marks.local_start));
        assert!(
            log.epoch_at(Offset(0)).is_some(),
            "epochs of what is cold stay known"
        );
    };
    check(&house.log);
    let crashed = House::with(house.fs.crash(CrashChoice::KeepAll), all_leaves());
    check(&crashed.log);
    // Without the archive the log still begins where it began, and nobody is led past what is elsewhere.
    let without = House::with(house.close(), small());
    check(&without.log);
    let again = House::with(without.close(), all_leaves());
    check(&again.log);
}

#[test]
fn a_log_that_is_in_the_archive_alone_needs_no_directory() {
    let house = filled(all_leaves());
    house.log.roll_if_appended_before(NOW, NOW).expect("rolled");
    house.sync().expect("synced");
    upload(&house.log, &mut Vec::new());
    look(&house.store, &house.log);
    let end = house.log.watermarks().log_end;
    let fs = house.close();
    fs.remove_dir_all(&std::path::Path::new(DATA).join("t-0"))
        .expect("removed");
    let house = House::with(fs, all_leaves());
    let marks = house.log.watermarks();
    assert_eq!(
        (marks.log_start, marks.local_start, marks.log_end),
        (Offset(0), end, end)
    );
    house.acknowledge(&plain("what comes then"));
    let house = House::with(house.fs.crash(CrashChoice::KeepAll), all_leaves());
    let marks = house.log.watermarks();
    assert_eq!((marks.log_start, marks.local_start), (Offset(0), end));
    assert_eq!(marks.log_end, Offset(end.0 + 1));
}

#[test]
fn retention_of_the_whole_takes_the_oldest_from_the_archive_first() {
    let config = LogConfig {
        retention: Retention {
            ms: None,
            bytes: Some(700),
        },
        ..archived(Retention {
            ms: None,
            bytes: Some(0),
        })
    };
    let house = filled(LogConfig {
        retention: Retention::default(),
        ..config.clone()
    });
    let mut known = Vec::new();
    upload(&house.log, &mut known);
    look(&house.store, &house.log);
    assert_eq!(house.log.watermarks().log_start, Offset(0));
    let local_start = house.log.watermarks().local_start;
    house.log.configure(config, NOW);
    let plan = house.log.retention_plan(NOW);
    assert_eq!(plan.deletions.first().map(|first| first.base), Some(Offset(0)));
    look(&house.store, &house.log);
    let marks = house.log.watermarks();
    assert_eq!(marks.log_start, plan.log_start);
    assert!(marks.log_start > Offset(0) && marks.log_start < local_start);
    assert_eq!(marks.local_start, local_start);
    let again = House::with(house.fs.crash(CrashChoice::KeepAll), all_leaves());
    assert_eq!(again.log.watermarks().log_start, marks.log_start);
}

#[test]
fn a_start_begins_a_new_segment_behind_what_may_be_archived() {
    let house = House::with(SimFs::new(), all_leaves());
    house.acknowledge(&plain("before the stop"));
    let house = House::with(house.close(), all_leaves());
    house.acknowledge(&plain("after the stop"));
    assert_eq!(logs(&house.fs), 2);
    let house = House::with(house.close(), small());
    house.acknowledge(&plain("no longer archived"));
    assert_eq!(logs(&house.fs), 2);
    assert_eq!(read_all(&house.log, 1 << 20).expect("sound").len(), 3);
}

#[test]
fn damage_is_not_archived_and_nothing_behind_it_is() {
    let house = filled(small());
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    let first = "t-0/00000000000000000000.log";
    cut(&fs, first, 50);
    let house = House::with(fs, all_leaves());
    match house.log.next_to_archive(None, NOW).expect("read") {
        NextToArchive::Stuck { from, reason } => {
            assert_eq!(from, Offset(0));
            assert!(reason.contains("00000000000000000000.log is damaged"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_growing_segment_that_the_archive_has_in_part_is_told() {
    let house = filled(small());
    let first = match house.log.next_to_archive(None, NOW).expect("read") {
        NextToArchive::Segment(first) => first.summary,
        other => panic!("{other:?}"),
    };
    let inside = Offset(first.next_offset.0 - 1);
    match house.log.next_to_archive(Some(inside), NOW).expect("read") {
        NextToArchive::Stuck { from, reason } => {
            assert_eq!(from, inside);
            assert!(reason.contains("reaches over offset"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lag_counts_what_lies_behind_the_archive() {
    let house = filled(all_leaves());
    let all = house.log.archive_lag(Offset(0));
    assert_eq!(all.since, Some(NOW));
    let mut known = Vec::new();
    let gone: u64 = upload(&house.log, &mut known)
        .iter()
        .map(|gone| gone.summary.log_bytes)
        .sum();
    let end = known.last().expect("some").end;
    let left = house.log.archive_lag(end);
    assert_eq!((left.bytes, left.segments), (all.bytes - gone, 1));
    let none = house.log.archive_lag(house.log.watermarks().log_end);
    assert_eq!((none.bytes, none.segments, none.since), (0, 0, None));
}

#[test]
fn what_the_cleaner_wrote_to_the_same_size_goes_anew() {
    let house = filled(LogConfig {
        cleanup: CleanupPolicy::Compact,
        ..small()
    });
    let gone = upload(&house.log, &mut Vec::new());
    let extent = |gone: &HandedOver| ArchivedExtent::of(&gone.summary, gone.rewrite);
    let mut extents: Vec<_> = gone.iter().map(extent).collect();
    assert!(!house.log.differs_from_archive(&extents));
    let base = gone[1].summary.base_offset;
    house.log.anew.lock().note([base].into_iter());
    assert!(house.log.differs_from_archive(&extents));
    match house.log.rewritten(&extents, NOW).expect("read") {
        NextRewritten::Segments(Rewritten { removed, added }) => {
            assert_eq!((removed, added.len()), (vec![base], 1));
            extents[1] = extent(&added[0]);
        }
        other => panic!("{other:?}"),
    }
    assert!(!house.log.differs_from_archive(&extents), "it is there now");
}

#[test]
fn differences_begin_and_end_where_both_have_a_segment() {
    let extents = |list: &[(i64, i64, u64)]| -> Vec<ArchivedExtent> {
        let extent = |&(base, next, log_bytes): &(i64, i64, u64)| ArchivedExtent {
            base: Offset(base),
            next: Offset(next),
            log_bytes,
            records: 1,
            times: (None, None),
            rewrite: 0,
        };
        list.iter().map(extent).collect()
    };
    let check =
        |old: &[(i64, i64, u64)], new: &[(i64, i64, u64)]| first_difference(&extents(old), &extents(new));
    let four = [(0, 10, 5), (10, 20, 5), (20, 30, 5), (30, 40, 5)];
    assert_eq!(check(&four, &four), None);
    assert_eq!(
        check(&four, &[(0, 10, 5), (10, 18, 3), (20, 30, 5), (30, 40, 5)]),
        Some((1..2, 1..2))
    );
    assert_eq!(check(&four, &[(0, 25, 7), (30, 40, 5)]), Some((0..3, 0..1)));
    assert_eq!(
        check(&four, &[(10, 20, 5), (20, 30, 5), (30, 40, 5)]),
        Some((0..1, 0..0))
    );
    assert_eq!(check(&four, &[(0, 10, 5), (10, 35, 9)]), Some((1..4, 1..2)));
    assert_eq!(
        check(&four, &[(0, 10, 5), (10, 50, 9)]),
        Some((1..4, 1..2)),
        "the cleaner put more together than the archive has"
    );
    assert_eq!(check(&four, &[]), Some((0..4, 0..0)));
}
