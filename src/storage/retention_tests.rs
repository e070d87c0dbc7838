//! Tests of what retention plans: the checklist, one rule a test, and the plan against a slower way to say the same.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::storage::{CleanupPolicy, Retention};

const NOW: Timestamp = Timestamp(1_000_000);
const MB: u64 = 1 << 20;

/// Segments of ten offsets; the last is the active one.
fn log(segments: &[(u64, Option<i64>, i64)]) -> LogFacts {
    let facts = |(index, &(size_bytes, greatest, appended)): (usize, &(u64, Option<i64>, i64))| {
        let base = i64::try_from(index).expect("few") * 10;
        SegmentFacts {
            base: Offset(base),
            end: Offset(base + 10),
            size_bytes,
            least: greatest.map(Timestamp),
            greatest: greatest.map(Timestamp),
            appended: Some((Timestamp(appended), Timestamp(appended))),
        }
    };
    let end = Offset(i64::try_from(segments.len()).expect("few") * 10);
    LogFacts {
        segments: segments.iter().enumerate().map(facts).collect(),
        marks: marks(end),
    }
}

fn marks(end: Offset) -> WatermarkView {
    WatermarkView {
        log_start: Offset(0),
        local_start: Offset(0),
        last_stable: end,
        high_watermark: end,
        log_end: end,
        recovery_point: end,
    }
}

fn config(cleanup: CleanupPolicy, ms: Option<i64>, bytes: Option<u64>) -> LogConfig {
    LogConfig {
        cleanup,
        retention: Retention { ms, bytes },
        ..LogConfig::default()
    }
}

fn by_time(ms: i64) -> LogConfig {
    config(CleanupPolicy::Delete, Some(ms), None)
}

fn by_size(bytes: u64) -> LogConfig {
    config(CleanupPolicy::Delete, None, Some(bytes))
}

/// The bases of what goes, and the log start after.
fn gone(plan: &RetentionPlan) -> (Vec<i64>, i64) {
    let bases = plan.deletions.iter().map(|deletion| deletion.base.0).collect();
    (bases, plan.log_start.0)
}

#[test]
fn of_forty_mb_in_segments_of_ten_a_limit_of_twenty_five_takes_one() {
    let log = log(&[(10 * MB, None, 0); 4]);
    let plan = plan(&log, &by_size(25 * MB), NOW);
    assert_eq!(gone(&plan), (vec![0], 10));
    assert_eq!(plan.deletions[0].reason, DeletionReason::Size);
    assert_eq!(
        (plan.stay, plan.kept_bytes),
        (Stay::NotDue { age_ms: None }, 30 * MB)
    );
}

#[test]
fn size_never_leaves_less_than_its_limit_and_exactly_the_limit_may_stay() {
    let log = log(&[(10, None, 0); 4]);
    assert_eq!(gone(&plan(&log, &by_size(30), NOW)), (vec![0], 10));
    assert_eq!(gone(&plan(&log, &by_size(31), NOW)), (vec![], 0));
    assert_eq!(gone(&plan(&log, &by_size(0), NOW)).0.len(), 4);
}

#[test]
fn when_all_has_expired_all_goes_the_active_segment_too() {
    let log = log(&[(10, Some(5), 5), (10, Some(6), 6)]);
    let plan = plan(&log, &by_time(1000), NOW);
    assert_eq!(gone(&plan), (vec![0, 10], 20));
    assert_eq!(plan.stay, Stay::NothingLeft);
}

#[test]
fn a_segment_goes_when_it_is_older_than_the_limit_not_when_it_is_as_old() {
    let log = log(&[(10, Some(NOW.0 - 1000), NOW.0 - 1000), (10, None, NOW.0)]);
    let at_limit = plan(&log, &by_time(1000), NOW);
    assert_eq!(gone(&at_limit), (vec![], 0));
    assert_eq!(at_limit.stay, Stay::NotDue { age_ms: Some(1000) });
    assert_eq!(gone(&plan(&log, &by_time(999), NOW)), (vec![0], 10));
}

#[test]
fn a_stamp_in_the_future_does_not_pin_its_segment_nor_those_behind_it() {
    // Kafka keeps all three: it takes the stamp's word.
    let log = log(&[(10, Some(i64::MAX), 5), (10, Some(6), 6), (10, None, NOW.0)]);
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![0, 10], 20));
}

#[test]
fn a_stamp_from_long_ago_does_not_make_its_segment_vanish() {
    let log = log(&[(10, Some(0), NOW.0 - 10), (10, None, NOW.0)]);
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![], 0));
}

#[test]
fn without_timestamps_the_last_append_decides_and_without_that_the_stamp() {
    let mut log = log(&[(10, None, 5), (10, Some(6), 6), (10, None, NOW.0)]);
    log.segments[0].appended = Some((Timestamp(5), Timestamp(NOW.0)));
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![], 0));
    log.segments[0].appended = Some((Timestamp(5), Timestamp(5)));
    log.segments[1].appended = None;
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![0, 10], 20));
    log.segments[0].appended = None;
    assert_eq!(log.segments[0].age_ms(NOW), None);
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![], 0));
}

#[test]
fn the_first_segment_that_stays_keeps_all_behind_it() {
    let log = log(&[(10, None, 5), (10, None, NOW.0), (10, None, 5)]);
    assert_eq!(gone(&plan(&log, &by_time(1000), NOW)), (vec![0], 10));
}

#[test]
fn without_delete_in_the_policy_only_what_lies_before_the_log_start_goes() {
    for cleanup in [CleanupPolicy::Compact, CleanupPolicy::Keep] {
        let mut log = log(&[(10, None, 5), (10, None, 5), (10, None, 5)]);
        let config = config(cleanup, Some(1), Some(0));
        assert_eq!(gone(&plan(&log, &config, NOW)), (vec![], 0));
        log.marks.log_start = Offset(15);
        let plan = plan(&log, &config, NOW);
        assert_eq!(gone(&plan), (vec![0], 15));
        assert_eq!(plan.deletions[0].reason, DeletionReason::Start);
    }
    let both = config(CleanupPolicy::CompactAndDelete, Some(1), None);
    assert_eq!(gone(&plan(&log(&[(10, None, 5)]), &both, NOW)), (vec![0], 10));
}

#[test]
fn what_is_not_safe_stays() {
    let mut log = log(&[(10, None, 5), (10, None, 5), (10, None, 5)]);
    log.marks.recovery_point = Offset(19);
    let synced = plan(&log, &by_time(1), NOW);
    assert_eq!(
        (gone(&synced), synced.stay),
        ((vec![0], 10), Stay::NotSafe { from: Offset(19) })
    );
    let written = LogConfig {
        durability: Durability::Written,
        ..by_time(1)
    };
    assert_eq!(gone(&plan(&log, &written, NOW)), (vec![0, 10, 20], 30));
    log.marks.high_watermark = Offset(10);
    assert_eq!(gone(&plan(&log, &written, NOW)), (vec![0], 10));
}

#[test]
fn a_hold_ends_the_plan_before_the_segment_it_reaches_into() {
    let log = log(&[(10, Some(5), 5), (10, Some(6), 6), (10, Some(7), 7)]);
    let held = |hold: Hold| {
        let config = LogConfig {
            holds: Arc::new([hold]),
            ..by_time(1)
        };
        gone(&plan(&log, &config, NOW)).0
    };
    assert_eq!(held(Hold::Offsets(Offset(19)..Offset(20))), [0]);
    assert_eq!(held(Hold::Offsets(Offset(20)..Offset(99))), [0, 10]);
    assert_eq!(held(Hold::Offsets(Offset(30)..Offset(99))), [0, 10, 20]);
    assert_eq!(held(Hold::Times(Timestamp(6)..Timestamp(7))), [0]);
    assert_eq!(held(Hold::Times(Timestamp(0)..Timestamp(5))), [0, 10, 20]);
    assert!(held(Hold::Times(Timestamp(0)..Timestamp(6))).is_empty());
}

#[test]
fn a_hold_that_ends_where_the_log_begins_holds_nothing_of_it() {
    let mut log = log(&[(10, Some(5), 5), (10, Some(6), 6)]);
    log.segments.remove(0);
    let config = LogConfig {
        holds: Arc::new([Hold::Offsets(Offset(0)..Offset(10))]),
        ..by_time(1)
    };
    assert_eq!(gone(&plan(&log, &config, NOW)).0, [10]);
}

#[test]
fn an_empty_active_segment_stays() {
    let plan = plan(&log(&[(10, None, 5), (0, None, 5)]), &by_time(1), NOW);
    assert_eq!((gone(&plan), plan.stay), ((vec![0], 10), Stay::NothingLeft));
}

/// Kafka's way: three passes, one after the other, each over what the last one left.
fn three_passes(log: &LogFacts, config: &LogConfig) -> usize {
    let segments = &log.segments;
    let may_go = |index: usize| {
        let segment = &segments[index];
        let safe = log.marks.high_watermark.min(log.marks.recovery_point);
        segment.size_bytes > 0
            && segment.end <= safe
            && !config.holds.iter().any(|hold| segment.may_be_in(hold))
    };
    let pass = |mut gone: usize, due: &dyn Fn(usize, usize) -> bool| {
        while gone < segments.len() && may_go(gone) && due(gone, gone) {
            gone += 1;
        }
        gone
    };
    let size = |from: usize| {
        segments[from..]
            .iter()
            .map(|segment| segment.size_bytes)
            .sum::<u64>()
    };
    let gone = pass(0, &|index, _| segments[index].end <= log.marks.log_start);
    let gone = pass(gone, &|index, from| {
        let limit = config.retention.bytes.unwrap_or(u64::MAX);
        size(from) - segments[index].size_bytes >= limit
    });
    pass(gone, &|index, _| {
        let age = segments[index].age_ms(NOW).unwrap_or(0);
        config.retention.ms.is_some_and(|ms| age > ms)
    })
}

proptest! {
    #[test]
    fn one_pass_takes_what_three_would(
        segments in prop::collection::vec((1..100_u64, prop::option::of(0..3_000_000_i64), 0..1_000_000_i64), 1..12),
        ms in prop::option::of(0..1_200_000_i64),
        bytes in prop::option::of(0..800_u64),
        (start, safe, hold) in (0..130_i64, 0..130_i64, prop::option::of(0..130_i64)),
    ) {
        let mut log = log(&segments);
        let end = log.marks.log_end.0;
        log.marks.recovery_point = Offset(safe.min(end));
        log.marks.log_start = Offset(start.min(safe).min(end));
        let config = LogConfig {
            holds: hold.map(|from| Hold::Offsets(Offset(from)..Offset(from + 1))).into_iter().collect(),
            ..config(CleanupPolicy::Delete, ms, bytes)
        };
        let plan = plan(&log, &config, NOW);
        prop_assert_eq!(plan.deletions.len(), three_passes(&log, &config));
        let left: u64 = log.segments[plan.deletions.len()..].iter().map(|segment| segment.size_bytes).sum();
        prop_assert_eq!(plan.kept_bytes, left);
    }
}
