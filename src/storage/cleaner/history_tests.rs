//! What is remembered of a compacted log beyond a pass, a stop and a crash: which tombstones have a time that is over, and what
//! readers are told of.

use std::io::ErrorKind;
use std::sync::Arc;

use expect_test::expect;

use super::super::cleaner_state::{CleanerMarks, CleanerState};
use super::super::testing::{DATA, fault};
use super::super::{
    CleanupPolicy, CompactedBelow, Compaction, DeletionReason, Due, Hold, LogConfig, NotDue, OffsetMap, Pace,
    Retention,
};
use super::testing::{Scene, compacted, records};
use crate::env::{Call, Failure, Fs as _};
use crate::types::{Offset, Timestamp};

fn first_record() -> [Hold; 1] {
    [Hold::Offsets(Offset(0)..Offset(1))]
}

/// A log whose first record is held, below a tombstone whose horizon is long over, and is clean as far as a start can know.
fn held() -> Scene {
    let mut scene = Scene::new();
    scene.hold(&first_record());
    scene.run("a=1 a=~ b=1 roll clean");
    scene.store.checkpoint().expect("written");
    scene.run("+200");
    scene
}

fn told(scene: &Scene) -> (i64, i64) {
    let CompactedBelow { records, tombstones } = scene.log.compacted_below();
    (records.0, tombstones.0)
}

fn check_that_the_time_begins_anew(scene: &mut Scene) {
    scene.run("clean");
    expect![[r#"
        0: 1 a=~@300 | 2 b=1
    "#]]
    .assert_eq(&scene.picture());
    scene.run("+100 clean");
    expect![[r#"
        0: 2 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_hold_that_ended_before_a_crash_lets_the_tombstones_above_it_begin_anew() {
    let mut scene = held();
    scene.hold(&[]);
    scene.run("restart");
    check_that_the_time_begins_anew(&mut scene);
}

#[test]
fn a_hold_whose_end_only_the_next_start_learns_of_lets_the_tombstones_above_it_begin_anew() {
    let mut scene = held();
    scene.write_down(&[]);
    scene.run("restart");
    check_that_the_time_begins_anew(&mut scene);
    let mut scene = held();
    scene.write_down(&[]);
    scene.run("close");
    check_that_the_time_begins_anew(&mut scene);
}

#[test]
fn a_clean_stop_without_holds_forgets_no_horizon() {
    let mut scene = Scene::new();
    scene.run("a=1 a=~ b=1 roll clean close +100 clean");
    expect![[r#"
        0: 2 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_batch_that_only_partly_counts_as_clean_begins_its_time_anew_as_a_whole() {
    let mut scene = Scene::new();
    scene.hold(&first_record());
    scene.run("a=1 a=~,c=~ b=1 roll clean +200");
    scene.map = OffsetMap::with_keys(1);
    scene.hold(&[]);
    // The map is full in the middle of the batch, and that is how far the next start knows.
    let report = scene.clean().expect("cleaned");
    assert_eq!((report.to, report.records.superseded), (Offset(2), 1));
    scene.store.checkpoint().expect("written");
    scene.run("restart clean clean");
    expect![[r#"
        0: 1 a=~@300 2 c=~@300 | 3 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn after_a_crash_readers_are_told_of_all_that_a_pass_may_have_replaced() {
    let mut scene = Scene::new();
    scene.run("a=1 a=~ b=1 roll clean c=1 roll +100 clean d=1");
    assert_eq!(told(&scene), (4, 4));
    // No checkpoint tells of the passes.
    scene.run("restart");
    assert_eq!(told(&scene), (4, 4));
    let mut idle = Scene::new();
    idle.run("a=1 a=2 roll clean restart");
    assert_eq!(told(&idle), (2, 2), "its active segment was empty");
}

#[test]
fn after_a_crash_readers_are_told_of_no_more_than_passes_have_come_to() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll clean b=1 roll c=1 restart");
    assert_eq!(told(&scene), (2, 2));
    // Where the checkpoint is lost nothing tells.
    let path = std::path::Path::new(DATA).join("compacted-offset-checkpoint");
    scene.fs.remove_file(&path).expect("it is there");
    scene.run("restart");
    assert_eq!(told(&scene), (3, 3));
}

#[test]
fn what_was_compacted_is_told_also_when_the_policy_is_another() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll clean");
    scene.configure(|config| config.cleanup = CleanupPolicy::Delete);
    scene.run("restart");
    assert_eq!(told(&scene), (2, 2));
    scene.store.checkpoint().expect("written");
    scene.run("close");
    assert_eq!(told(&scene), (2, 2));
}

#[test]
fn a_pass_that_cannot_write_down_how_far_it_may_come_replaces_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll");
    let before = scene.picture();
    let path = "compacted-offset-checkpoint";
    scene
        .fs
        .inject(fault(Call::Write, path, 1, Failure::Kind(ErrorKind::Other)));
    let error = scene.clean().expect_err("it is told");
    assert!(
        error.to_string().contains("compacted-offset-checkpoint"),
        "{error}"
    );
    assert_eq!(scene.picture(), before);
    let seen = scene.log.compaction(Timestamp(0)).last_error;
    assert!(
        seen.expect("it shows")
            .reason
            .contains("compacted-offset-checkpoint")
    );
    scene.run("clean");
    assert_eq!(scene.log.compaction(Timestamp(0)).last_error, None);
}

#[test]
fn when_a_hold_ends_readers_are_told_as_before_though_the_log_is_dirty_again() {
    let mut scene = held();
    assert_eq!(told(&scene), (3, 0));
    scene.hold(&[]);
    assert_eq!(scene.log.cleaner_point(), Offset(0));
    assert_eq!(told(&scene), (3, 0));
    scene.run("close");
    assert_eq!(scene.log.cleaner_point(), Offset(0));
    assert_eq!(told(&scene), (3, 3));
}

#[test]
fn readers_are_told_before_the_first_segment_of_a_pass_is_replaced() {
    // Too small for both segments to become one.
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 150,
        ..compacted()
    });
    scene.run("a=1 a=~ roll clean +100 b=1 b=2 roll");
    assert_eq!(told(&scene), (2, 0));
    let log = Arc::clone(&scene.log);
    let before = records(&log).expect("read");
    let mut changed = 0;
    let mut budget = |_| {
        if records(&log).expect("read") != before {
            changed += 1;
            let below = log.compacted_below();
            assert_eq!((below.records, below.tombstones), (Offset(4), Offset(4)));
        }
        Pace::Go
    };
    scene.clean_within(&mut budget).expect("cleaned");
    assert_eq!(told(&scene), (4, 4));
    assert_eq!(
        scene.log.compaction(Timestamp(scene.now)).cleaner_point,
        Offset(4)
    );
    assert!(
        changed > 0,
        "the second segment is read after the first was replaced"
    );
}

/// Checklist 78.
#[test]
fn a_cleaner_point_beyond_the_log_or_before_its_start_counts_for_nothing() {
    let begun = |point: i64, compacted_below: i64| {
        let marks = CleanerMarks {
            point: Some(Offset(point)),
            once_clean: None,
            compacted_below: Offset(compacted_below),
        };
        let state = CleanerState::new(marks, &(Offset(10)..Offset(20)));
        let start = Offset(10);
        (state.point(start).0, state.compacted_below(start).0)
    };
    assert_eq!(begun(9, 0), (10, 10));
    assert_eq!(begun(10, 0), (10, 10));
    assert_eq!(begun(15, 0), (15, 15));
    assert_eq!(begun(20, 0), (20, 20));
    assert_eq!(begun(21, 0), (10, 10));
    assert_eq!(begun(15, 17), (15, 17));
    assert_eq!(begun(15, 21), (15, 20));
}

/// Checklist 80.
#[test]
fn under_compact_and_delete_old_segments_go_by_time_and_newer_ones_are_compacted() {
    let mut scene = Scene::with(LogConfig {
        cleanup: CleanupPolicy::CompactAndDelete,
        retention: Retention {
            ms: Some(1000),
            bytes: None,
        },
        // Room for two batches: what is cleaned does not become one segment.
        segment_bytes: 150,
        ..compacted()
    });
    scene.run("a=1 b=1 roll +900 c=1 a=2 roll c=2 d=1 roll clean");
    expect![[r#"
        0: 1 b=1
        2: 3 a=2
        4: 4 c=2 | 5 d=1
    "#]]
    .assert_eq(&scene.picture());
    let retain = |scene: &Scene| {
        let looked = scene
            .store
            .retain(&[Arc::clone(&scene.log)], Timestamp(scene.now));
        let gone: Vec<_> = looked.into_iter().flat_map(|one| one.deleted).collect();
        gone.iter()
            .map(|gone| (gone.base.0, gone.reason))
            .collect::<Vec<_>>()
    };
    scene.run("+100");
    assert_eq!(retain(&scene), [], "it is as old as the limit");
    scene.run("+1");
    assert_eq!(retain(&scene), [(0, DeletionReason::Time)]);
    scene.run("d=2 roll clean close");
    expect![[r#"
        2: 3 a=2
        4: 4 c=2
        6: 6 d=2
    "#]]
    .assert_eq(&scene.picture());
    assert_eq!(scene.log.watermarks().log_start, Offset(2));
    scene.run("+2000");
    assert_eq!(retain(&scene).len(), 3);
    assert_eq!(scene.records().expect("read"), []);
}

#[test]
fn a_hold_by_time_that_keeps_nothing_lets_the_times_of_tombstones_run_across_restarts() {
    let mut scene = Scene::new();
    scene.hold(&[Hold::Times(Timestamp(5_000)..Timestamp(6_000))]);
    scene.run("a=1 a=~ b=1 roll clean");
    for _ in 0..3 {
        scene.store.checkpoint().expect("written");
        scene.run("+40 restart clean");
    }
    expect![[r#"
        0: 2 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_hold_by_time_that_ends_lets_begin_anew_what_lies_above_the_record_it_kept() {
    let mut scene = Scene::new();
    scene.hold(&[Hold::Times(Timestamp(5)..Timestamp(6))]);
    scene.run("z=1 roll +5 a=1 a=~ b=1 roll clean +200");
    scene.store.checkpoint().expect("written");
    scene.write_down(&[]);
    scene.run("restart");
    scene.run("clean");
    expect![[r#"
        0: 0 z=1 | 2 a=~@305 | 3 b=1
    "#]]
    .assert_eq(&scene.picture());
}

/// A log whose first segment's times are written down, and whose second took appends from 200 to 900 when the process died.
fn died_at_900(with_manifest: bool) -> Scene {
    let mut scene = Scene::with(LogConfig {
        compaction: Compaction {
            max_lag_ms: 1_000,
            min_lag_ms: 50,
            ..compacted().compaction
        },
        ..compacted()
    });
    let at = |scene: &mut Scene, now: i64, script: &str| {
        scene.now = now;
        scene.fs.set_now(Timestamp(now));
        scene.run(script);
    };
    at(&mut scene, 50, "a=0");
    at(&mut scene, 100, "b=0 roll");
    scene.store.checkpoint().expect("written");
    at(&mut scene, 200, "c=1");
    at(&mut scene, 210, "c=2");
    at(&mut scene, 900, "d=1");
    if !with_manifest {
        use crate::env::Fs as _;
        let path = scene.log.dir().join(crate::storage::MANIFEST_FILE_NAME);
        scene.fs.remove_file(&path).expect("removed");
    }
    scene.run("restart");
    scene
}

#[test]
fn after_a_crash_the_lag_promise_counts_from_no_later_than_the_first_append_and_min_lag_from_the_last() {
    for with_manifest in [true, false] {
        let mut scene = died_at_900(with_manifest);
        let promised = |scene: &Scene| {
            let at = if with_manifest {
                Timestamp(100)
            } else {
                Timestamp(50)
            };
            let views = scene.log.segment_views();
            let second = views
                .iter()
                .find(|view| view.base == Offset(2))
                .expect("it is there");
            assert_eq!(
                (second.first_append, second.last_append),
                (None, Some(Timestamp(900)))
            );
            let known = super::super::read::snapshot(&scene.log.segments);
            let times = known.iter().map(|segment| segment.extent().append_times.clone());
            let second = times.filter(|times| times.last().is_some_and(|last| last.offset > Offset(2)));
            let bounds: Vec<_> = second
                .map(|times| times.first().map(|first| first.time))
                .collect();
            assert_eq!(bounds, [Some(at)]);
        };
        promised(&scene);
        scene.run("roll");
        let view = scene.log.compaction(Timestamp(900));
        assert_eq!(view.bound, Some(super::super::Bound::MinLag(Timestamp(950))));
        let since = view.dirty_since.expect("known");
        assert!(since <= Timestamp(200), "{since:?}");
        assert!(view.deadline.is_some_and(|deadline| deadline <= Timestamp(1_200)));
        scene.run("close");
        promised(&scene);
    }
}

#[test]
fn the_promise_for_what_a_hold_kept_counts_from_the_end_of_the_hold_or_from_the_start() {
    let mut scene = Scene::with(LogConfig {
        compaction: Compaction {
            max_lag_ms: 1000,
            ..compacted().compaction
        },
        ..compacted()
    });
    let promise = |scene: &Scene| {
        let view = scene.log.compaction(Timestamp(scene.now));
        (view.due, view.deadline.map(|at| at.0))
    };
    scene.hold(&first_record());
    scene.run("a=1 a=2 roll clean +5000");
    assert_eq!(promise(&scene), (Due::No(NotDue::Clean), None));
    scene.store.checkpoint().expect("written");
    for stop in ["restart", "close"] {
        scene.run(stop);
        let started_at = scene.now;
        scene.run("+10");
        assert_eq!(promise(&scene), (Due::Promise, Some(started_at + 1000)), "{stop}");
    }
    scene.run("clean +5000");
    assert_eq!(promise(&scene), (Due::No(NotDue::Clean), None));
    scene.hold(&[]);
    let ended_at = scene.now;
    scene.run("+10 b=1 +700");
    assert_eq!(promise(&scene), (Due::Promise, Some(ended_at + 1000)));
    scene.run("roll clean +1000 c=1");
    let appended_at = scene.now;
    assert_eq!(promise(&scene).1, Some(appended_at + 1000), "as any other");
}

#[test]
fn what_no_pass_has_come_to_keeps_its_promise_over_a_start_and_the_end_of_a_hold() {
    let mut scene = Scene::with(LogConfig {
        compaction: Compaction {
            max_lag_ms: 1000,
            ..compacted().compaction
        },
        ..compacted()
    });
    scene.hold(&first_record());
    scene.run("a=1 a=2 roll clean +100 b=1 b=2 roll +800");
    scene.store.checkpoint().expect("written");
    scene.run("restart");
    let deadline = |scene: &Scene| scene.log.compaction(Timestamp(scene.now)).deadline;
    assert_eq!(deadline(&scene), Some(Timestamp(1100)));
    scene.hold(&[]);
    assert_eq!(deadline(&scene), Some(Timestamp(1100)));
}

/// A log that promises to be clean after 1000 ms, whose first record is held below a newer one since 5000 ms.
fn promised_and_held() -> Scene {
    let mut scene = Scene::with(LogConfig {
        compaction: Compaction {
            max_lag_ms: 1000,
            ..compacted().compaction
        },
        ..compacted()
    });
    scene.hold(&first_record());
    scene.run("a=1 a=2 roll clean +5000");
    scene.store.checkpoint().expect("written");
    scene
}

fn deadline(scene: &Scene) -> Option<i64> {
    let view = scene.log.compaction(Timestamp(scene.now));
    view.deadline.map(|at| at.0)
}

#[test]
fn what_a_pass_was_killed_before_it_came_to_keeps_the_promise_of_its_append_though_something_is_held() {
    let mut scene = promised_and_held();
    scene.run("b=1 b=2 roll");
    let appended_at = scene.now;
    scene.store.checkpoint().expect("written");
    // How far it may come is written down, and it comes to nothing.
    let stopped = scene.clean_within(&mut |_| Pace::Stop);
    stopped.expect_err("its budget says so");
    scene.run("+300 restart +10");
    assert_eq!(told(&scene).0, 4);
    assert_eq!(deadline(&scene), Some(appended_at + 1000));
}

#[test]
fn a_hold_that_ended_before_a_start_has_broken_no_promise() {
    for stop in ["restart", "close"] {
        let mut scene = promised_and_held();
        scene.hold(&[]);
        let ended_at = scene.now;
        scene.run("+10");
        assert_eq!(deadline(&scene), Some(ended_at + 1000), "{stop}");
        scene.store.checkpoint().expect("written");
        scene.run(stop);
        let started_at = scene.now;
        scene.run("+10");
        assert_eq!(deadline(&scene), Some(started_at + 1000), "{stop}");
        // The next start after that, too, as long as no pass came to it; and after the pass there is nothing to promise.
        scene.run(stop);
        assert_eq!(deadline(&scene), Some(scene.now + 1000), "{stop}");
        scene.run("clean");
        scene.store.checkpoint().expect("written");
        scene.run(stop).run("+10 c=1");
        assert_eq!(deadline(&scene), Some(scene.now + 1000), "{stop}");
    }
}

#[test]
fn a_hold_whose_end_only_the_next_start_learns_of_has_broken_no_promise() {
    for stop in ["restart", "close"] {
        let mut scene = promised_and_held();
        scene.write_down(&[]);
        scene.run(stop).run("+10");
        assert_eq!(deadline(&scene), Some(scene.now - 10 + 1000), "{stop}");
    }
}
