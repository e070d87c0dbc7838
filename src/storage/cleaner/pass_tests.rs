//! Passes over small logs: the checklist of `kafka-semantics.md` 11.6, and our own rules where they differ.

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::super::{
    Bound, CleanupPolicy, CompactError, Compaction, Due, Hold, LogConfig, NotDue, OffsetMap, Pace, Rounds,
};
use super::testing::{Scene, compacted, end_of_cleanable};
use crate::record::Codec;
use crate::types::{Offset, Timestamp};

fn check(script: &str, picture: Expect) {
    picture.assert_eq(&Scene::new().run(script).picture());
}

fn with(compaction: Compaction) -> Scene {
    Scene::with(LogConfig {
        compaction,
        ..compacted()
    })
}

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset() {
    check(
        "a=1 b=1 a=2 roll clean",
        expect![[r#"
        0: 1 b=1 | 2 a=2
    "#]],
    );
    check(
        "a=1,b=1,c=1 a=2,c=2 roll clean",
        expect![[r#"
        0: 1 b=1 | 3 a=2 4 c=2
    "#]],
    );
}

#[test]
fn the_active_segment_is_never_cleaned() {
    check(
        "a=1 roll a=2 a=3 clean",
        expect![[r#"
        0: 0 a=1
        1: 1 a=2 | 2 a=3
    "#]],
    );
}

#[test]
fn a_record_in_the_clean_part_goes_when_a_dirty_one_shadows_it() {
    check(
        "a=1 b=1 roll clean a=2 roll clean",
        expect![[r#"
        0: 1 b=1 | 2 a=2
    "#]],
    );
}

#[test]
fn a_log_is_chosen_above_its_ratio_and_not_at_it() {
    let mut scene = with(Compaction {
        min_dirty_ratio: 0.5,
        ..Compaction::default()
    });
    let due = |scene: &Scene| scene.log.compaction(Timestamp(scene.now)).due;
    assert_eq!(due(&scene), Due::No(NotDue::Clean));
    scene.run("a=1 b=1 roll clean c=1 d=1");
    assert_eq!(due(&scene), Due::No(NotDue::NotCleanable));
    scene.run("roll");
    assert_eq!(scene.log.compaction(Timestamp(0)).ratio, 0.5);
    assert_eq!(due(&scene), Due::No(NotDue::BelowRatio));
    scene.run("e=1 roll");
    assert_eq!(due(&scene), Due::Ratio);
}

#[test]
fn a_segment_that_holds_an_open_transaction_and_all_after_it_stay() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll a=3 t7:b=1 a=4 roll a=5 a=6 roll");
    let view = scene.log.compaction(Timestamp(0));
    assert_eq!(view.bound, Some(Bound::OpenTransaction(Offset(3))));
    scene.run("clean");
    expect![[r#"
        0: 1 a=2
        2: 2 a=3 | 3 b=1 | 4 a=4
        5: 5 a=5 | 6 a=6
    "#]]
    .assert_eq(&scene.picture());
    scene.run("commit7 roll clean");
    expect![[r#"
        0: 3 b=1 | 6 a=6 | 7 commit
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_segment_younger_than_min_lag_and_all_after_it_stay_counted_from_the_append() {
    let mut scene = with(Compaction {
        min_lag_ms: 50,
        ..Compaction::default()
    });
    scene.run("a=1 a=2 roll +40 a=3 roll +20 a=4 roll clean");
    expect![[r#"
        0: 1 a=2
        2: 2 a=3
        3: 3 a=4
    "#]]
    .assert_eq(&scene.picture());
    let view = scene.log.compaction(Timestamp(scene.now));
    assert_eq!(view.bound, Some(Bound::MinLag(Timestamp(90))));
    scene.run("+100 clean");
    expect![[r#"
        0: 3 a=4
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn the_promise_makes_a_pass_due_in_time_whatever_the_ratio() {
    let mut scene = with(Compaction {
        min_dirty_ratio: 1.0,
        max_lag_ms: 1000,
        ..Compaction::default()
    });
    scene.run("+10 a=1 a=2 roll");
    let view = scene.log.compaction(Timestamp(509));
    assert_eq!(
        (view.due, view.deadline),
        (Due::No(NotDue::BelowRatio), Some(Timestamp(1010)))
    );
    assert_eq!(scene.log.compaction(Timestamp(510)).due, Due::Promise);
    scene.run("clean");
    assert_eq!(scene.log.compaction(Timestamp(2000)).due, Due::No(NotDue::Clean));
}

#[test]
fn the_promise_seals_the_active_segment_of_an_idle_log() {
    use super::{RollFor, Rolled};
    let scene = &mut with(Compaction {
        max_lag_ms: 1000,
        ..Compaction::default()
    });
    scene.run("a=1 a=2");
    let roll = |at| {
        scene
            .log
            .roll_for_compaction(Timestamp(at), RollFor::Promise)
            .expect("it can be rolled")
    };
    assert_eq!(roll(499), Rolled::No);
    assert_eq!(roll(500), Rolled::Yes);
    assert_eq!(roll(501), Rolled::No, "nothing is left to seal");
    scene.sync();
    assert_eq!(scene.log.compaction(Timestamp(501)).due, Due::Promise);
}

#[test]
fn more_keys_than_the_map_holds_take_rounds_that_end_where_the_map_was_full() {
    let mut scene = Scene::new();
    scene.map = OffsetMap::with_keys(2);
    scene.run("a=1 b=1 a=2 c=1 b=2 d=1 a=3 roll");
    let report = scene.clean().expect("cleaned");
    assert_eq!((report.to, report.learned_keys), (Offset(3), 2));
    assert_eq!(
        report.rounds,
        Rounds::More {
            estimate: 2,
            map_keys: 2
        }
    );
    expect![[r#"
        0: 1 b=1 | 2 a=2 | 3 c=1 | 4 b=2 | 5 d=1 | 6 a=3
    "#]]
    .assert_eq(&scene.picture());
    let mut rounds = 1;
    while scene.clean().expect("cleaned").rounds != Rounds::Done {
        rounds += 1;
        assert!(rounds < 8, "every round gets on");
    }
    expect![[r#"
        0: 3 c=1 | 4 b=2 | 5 d=1 | 6 a=3
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_map_of_one_key_gets_through_a_segment_and_through_a_batch() {
    let mut scene = Scene::new();
    scene.map = OffsetMap::with_keys(1);
    scene.run("a=1,b=1,a=2,c=1,b=2,b=3 roll");
    while scene.clean().expect("cleaned").rounds != Rounds::Done {}
    expect![[r#"
        0: 2 a=2 3 c=1 5 b=3
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_tombstone_gets_a_horizon_first_and_goes_only_past_it() {
    check(
        "a=1 a=~ b=1 roll clean",
        expect![[r#"
        0: 1 a=~@100 | 2 b=1
    "#]],
    );
    check(
        "a=1 a=~ b=1 roll clean +99 c=1 roll clean",
        expect![[r#"
        0: 1 a=~@100 | 2 b=1
        3: 3 c=1
    "#]],
    );
    check(
        "a=1 a=~ b=1 roll clean +100 c=1 roll clean",
        expect![[r#"
        0: 2 b=1 | 3 c=1
    "#]],
    );
}

#[test]
fn a_pass_over_a_clean_log_drops_tombstones_past_their_horizon() {
    check(
        "a=1 a=~ b=1 roll clean +100 clean",
        expect![[r#"
        0: 2 b=1
    "#]],
    );
}

#[test]
fn a_horizon_is_fixed_when_it_is_set() {
    let mut scene = Scene::new();
    scene.run("a=1,b=1 a=~,b=2 roll clean");
    scene.log.configure(
        LogConfig {
            compaction: Compaction {
                delete_retention_ms: 1_000_000,
                ..Compaction::default()
            },
            ..compacted()
        },
        Timestamp(scene.now),
    );
    scene.run("+50 b=3 roll clean");
    expect![[r#"
        0: 2 a=~@100 | 4 b=3
    "#]]
    .assert_eq(&scene.picture());
    scene.run("+50 clean");
    expect![[r#"
        0: 4 b=3
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_batch_gets_its_horizon_when_the_last_of_its_tombstones_was_learned() {
    let mut scene = Scene::new();
    scene.map = OffsetMap::with_keys(1);
    scene.run("b=1 roll a=~,b=~ roll clean +100 clean");
    expect![[r#"
        0: 0 b=1
        1: 1 a=~ 2 b=~
    "#]]
    .assert_eq(&scene.picture());
    scene.run("clean");
    expect![[r#"
        0: 1 a=~@200 2 b=~@200
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_shadowed_tombstone_goes_at_once() {
    check(
        "a=~ a=1 roll clean",
        expect![[r#"
        0: 1 a=1
    "#]],
    );
}

#[test]
fn records_without_a_key_go_and_are_counted() {
    let mut scene = Scene::new();
    scene.run("_=1 a=1 _=2,b=1 roll");
    assert_eq!(scene.clean().expect("cleaned").records.keyless_dropped, 2);
    expect![[r#"
        0: 1 a=1 | 3 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn the_last_batch_of_a_producer_stays_as_a_header_and_its_next_sequence_is_accepted_after_a_restart() {
    let mut scene = Scene::new();
    scene.run("p7:a=1 p7:a=2 a=3 roll clean");
    expect![[r#"
        0: 1 {} | 2 a=3
    "#]]
    .assert_eq(&scene.picture());
    assert_eq!(scene.batches()[0][0].header().size_bytes, 61);
    scene.run("restart p7:b=1");
    expect![[r#"
        0: 1 {} | 2 a=3
        3: 3 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn the_header_goes_once_its_producer_has_written_again() {
    check(
        "p7:a=1 a=2 roll clean p7:b=1 roll clean",
        expect![[r#"
        0: 1 a=2 | 2 b=1
    "#]],
    );
}

#[test]
fn a_duplicate_is_still_detected_after_its_batch_was_emptied() {
    let mut scene = Scene::new();
    scene.run("p7:a=1 a=2 roll clean restart");
    let again = {
        let mut other = Scene::new();
        other.run("p7:a=1");
        other.batches()[0][0].clone()
    };
    let accepted = super::super::testing::numbered(7, 0, "1");
    let end = scene.log.watermarks().log_end;
    let append = scene
        .log
        .append(&accepted, super::super::Origin::Client, Timestamp(0))
        .expect("acknowledged");
    assert_eq!(append.base_offset, again.header().base_offset);
    assert_eq!(scene.log.watermarks().log_end, end);
}

#[test]
fn an_aborted_transaction_goes_in_three_passes_and_its_index_entry_with_the_marker() {
    let mut scene = Scene::new();
    scene.run("t7:a=1 t7:b=1 abort7 p7:z=1 a=0 roll clean");
    expect![[r#"
        0: 2 abort | 3 z=1 | 4 a=0
    "#]]
    .assert_eq(&scene.picture());
    let aborted = |scene: &Scene| scene.log.aborted(&(Offset(0)..Offset(3))).expect("read").len();
    assert_eq!(aborted(&scene), 1);
    scene.run("c=1 roll clean");
    expect![[r#"
        0: 2 abort@100 | 3 z=1 | 4 a=0 | 5 c=1
    "#]]
    .assert_eq(&scene.picture());
    assert_eq!(aborted(&scene), 0);
    scene.run("+100 d=1 roll clean");
    expect![[r#"
        0: 3 z=1 | 4 a=0 | 5 c=1 | 6 d=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn aborted_records_shadow_nothing() {
    check(
        "a=1 t7:a=2 abort7 roll clean",
        expect![[r#"
        0: 0 a=1 | 1 {} | 2 abort
    "#]],
    );
}

#[test]
fn a_commit_marker_stays_until_its_data_is_gone_and_then_to_its_horizon() {
    check(
        "t7:a=1 commit7 p7:z=1 roll clean",
        expect![[r#"
        0: 0 a=1 | 1 commit | 2 z=1
    "#]],
    );
    check(
        "t7:a=1 commit7 p7:z=1 a=2 roll clean",
        expect![[r#"
        0: 1 commit | 2 z=1 | 3 a=2
    "#]],
    );
    check(
        "t7:a=1 commit7 p7:z=1 a=2 roll clean b=1 roll clean",
        expect![[r#"
            0: 1 commit@100 | 2 z=1 | 3 a=2 | 4 b=1
        "#]],
    );
    check(
        "t7:a=1 commit7 p7:z=1 a=2 roll clean b=1 roll clean +100 c=1 roll clean",
        expect![[r#"
            0: 2 z=1 | 3 a=2 | 4 b=1 | 5 c=1
        "#]],
    );
}

#[test]
fn a_commit_marker_stays_while_an_emptied_batch_of_its_transaction_does() {
    check(
        "t7:a=1 commit7 a=2 roll clean +200 clean +200 clean",
        expect![[r#"
            0: 0 {} | 1 commit | 2 a=2
        "#]],
    );
}

#[test]
fn a_key_with_the_bytes_of_a_markers_key_is_a_key() {
    let mut scene = Scene::new();
    let key = "\0\0\0\u{1}";
    scene.run(&format!("{key}=1 t7:a=1 commit7 roll clean"));
    let kept = scene.records().expect("read");
    assert_eq!(kept.iter().filter(|(_, other, _)| other == key).count(), 1);
}

#[test]
fn small_segments_become_one_up_to_the_size_of_a_segment() {
    check(
        "a=1 roll b=1 roll c=1 roll a=2 roll d=1 roll clean",
        expect![[r#"
            0: 1 b=1 | 2 c=1 | 3 a=2 | 4 d=1
        "#]],
    );
}

#[test]
fn segments_in_which_nothing_changes_are_not_written() {
    let mut scene = Scene::new();
    scene.run("a=1 roll b=1 roll c=1 roll");
    let report = scene.clean().expect("cleaned");
    assert_eq!((report.written_bytes, report.replaced_segments), (0, 0));
    assert_eq!(report.records.values_kept, 3);
    assert_eq!(report.to, Offset(3));
    expect![[r#"
        0: 0 a=1
        1: 1 b=1
        2: 2 c=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn the_log_end_stays_when_everything_below_it_is_shadowed() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll a=~ roll clean +100 clean");
    assert_eq!(scene.log.watermarks().log_end, Offset(3));
    expect![[r#"
        0: 2 {}
    "#]]
    .assert_eq(&scene.picture());
    scene.run("restart");
    assert_eq!(scene.log.watermarks().log_end, Offset(3));
    scene.run("b=1");
    expect![[r#"
        0: 2 {}
        3: 3 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_batch_that_changes_keeps_its_codec_and_one_that_does_not_keeps_its_bytes() {
    let mut scene = Scene::new();
    scene.run("zstd:a=1,b=1 zstd:c=1,d=1 a=2 roll");
    let before = scene.batches()[0].clone();
    scene.run("clean");
    expect![[r#"
        0: zstd:1 b=1 | zstd:2 c=1 3 d=1 | 4 a=2
    "#]]
    .assert_eq(&scene.picture());
    let after = scene.batches()[0].clone();
    assert_eq!(after[0].header().codec, Codec::Zstd);
    assert_eq!(after[0].header().leader_epoch, before[0].header().leader_epoch);
    assert_eq!(after[1].bytes(), before[1].bytes());
}

#[test]
fn the_cleaner_point_is_found_again_and_one_outside_the_log_counts_for_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll clean");
    let point = |scene: &Scene| scene.log.compaction(Timestamp(0)).cleaner_point;
    assert_eq!(point(&scene), Offset(2));
    scene.store.checkpoint_cleaner_points().expect("written");
    scene.run("restart");
    assert_eq!(point(&scene), Offset(2));
    scene.log.raise_log_start(Offset(2)).expect("raised");
    scene.run("b=1 roll");
    scene.log.raise_log_start(Offset(3)).expect("raised");
    assert_eq!(point(&scene), Offset(3));
}

#[test]
fn a_segment_in_which_the_log_begins_is_as_safe_as_any_other() {
    let mut scene = with(Compaction {
        min_lag_ms: 20,
        ..compacted().compaction
    });
    scene.run("a=1,a=2,b=1 a=3 roll");
    let before = scene.picture();
    scene.log.raise_log_start(Offset(1)).expect("raised");
    scene.run("+19 clean");
    assert_eq!(scene.picture(), before, "it is too young");
    let view = scene.log.compaction(Timestamp(scene.now));
    assert_eq!((view.dirty_bytes, view.due), (0, Due::No(NotDue::NotCleanable)));
    assert!(view.uncleanable_bytes > 0);
    scene.run("+1 clean");
    expect![[r#"
        0: 2 b=1 | 3 a=3
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn held_records_stay_whatever_shadows_them_and_go_when_the_hold_does() {
    let config = LogConfig {
        holds: Arc::new([Hold::Offsets(Offset(1)..Offset(3))]),
        ..compacted()
    };
    let mut scene = Scene::with(config);
    scene.run("a=1 a=2 a=3 a=4 roll");
    assert_eq!(scene.clean().expect("cleaned").records.held, 2);
    expect![[r#"
        0: 1 a=2 | 2 a=3 | 3 a=4
    "#]]
    .assert_eq(&scene.picture());
    scene.log.configure(compacted(), Timestamp(scene.now));
    scene.run("clean");
    expect![[r#"
        0: 3 a=4
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_tombstone_stays_while_a_held_record_lies_below_it() {
    let config = LogConfig {
        holds: Arc::new([Hold::Times(Timestamp(0)..Timestamp(1))]),
        ..compacted()
    };
    let mut scene = Scene::with(config);
    scene.run("a=1 +5 a=~ b=1 roll clean +200 clean");
    expect![[r#"
        0: 0 a=1 | 1 a=~@105 | 2 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn when_a_hold_ends_the_time_of_the_tombstones_above_it_begins_anew() {
    let config = LogConfig {
        holds: Arc::new([Hold::Times(Timestamp(0)..Timestamp(1))]),
        ..compacted()
    };
    let mut scene = Scene::with(config);
    scene.run("a=1 +5 a=~ b=1 roll clean +200");
    scene.log.configure(compacted(), Timestamp(scene.now));
    scene.run("clean");
    expect![[r#"
        0: 1 a=~@305 | 2 b=1
    "#]]
    .assert_eq(&scene.picture());
    scene.run("+100 clean");
    expect![[r#"
        0: 2 b=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_log_that_is_held_as_far_as_it_can_be_cleaned_says_so() {
    let config = LogConfig {
        holds: Arc::new([Hold::Offsets(Offset(0)..Offset(100))]),
        ..compacted()
    };
    let mut scene = Scene::with(config);
    scene.run("a=1 a=2 roll");
    assert_eq!(scene.log.compaction(Timestamp(0)).due, Due::No(NotDue::Held));
}

#[test]
fn a_log_that_does_not_compact_is_not_cleaned() {
    let config = LogConfig {
        cleanup: CleanupPolicy::Delete,
        ..compacted()
    };
    let mut scene = Scene::with(config);
    scene.run("a=1 a=2 roll");
    assert_eq!(scene.log.compaction(Timestamp(0)).due, Due::No(NotDue::Policy));
    assert!(matches!(scene.clean(), Err(CompactError::Policy)));
}

#[test]
fn what_is_not_known_to_be_on_disk_is_not_cleaned() {
    use super::RollFor;
    let scene = &mut Scene::new();
    scene.run("a=1 a=2");
    let rolled = scene.log.roll_for_compaction(Timestamp(0), RollFor::Command);
    rolled.expect("rolled");
    assert_eq!(end_of_cleanable(scene), Offset(0));
    let view = scene.log.compaction(Timestamp(0));
    assert_eq!(view.bound, Some(Bound::NotSafe(Offset(0))));
    scene.sync();
    assert_eq!(end_of_cleanable(scene), Offset(2));
}

#[test]
fn a_pass_ends_when_its_budget_says_so_and_leaves_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll");
    let before = scene.picture();
    let mut chunks = 0;
    let stopped = scene.clean_within(&mut |_| {
        chunks += 1;
        if chunks < 3 { Pace::Go } else { Pace::Stop }
    });
    assert!(matches!(stopped, Err(CompactError::Stopped)), "{stopped:?}");
    assert_eq!(scene.picture(), before);
    assert_eq!(
        scene
            .files()
            .iter()
            .filter(|name| name.ends_with(".cleaned"))
            .count(),
        0
    );
    assert_eq!(scene.log.compaction(Timestamp(0)).last_error, None);
}

#[test]
fn after_the_removal_of_its_partition_no_pass_begins() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll");
    scene
        .store
        .remove_partitions(&[scene.log.id().clone()])
        .expect("removed");
    assert!(matches!(scene.clean(), Err(CompactError::Closed)));
}

#[test]
fn a_clean_stop_and_start_find_what_a_pass_left() {
    check(
        "a=1 b=1 roll a=2 c=1 roll clean close d=1",
        expect![[r#"
        0: 1 b=1 | 2 a=2 | 3 c=1
        4: 4 d=1
    "#]],
    );
}

#[test]
fn a_report_tells_what_was_read_written_and_saved() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 a=2 roll");
    let size: u64 = scene.log.describe().size_bytes;
    let report = scene.clean().expect("cleaned");
    let after = scene.log.describe().size_bytes;
    assert_eq!(report.saved_bytes, size - after);
    assert_eq!(report.written_bytes, after);
    assert_eq!(report.read_bytes, 2 * size);
    assert_eq!((report.records.values_kept, report.records.superseded), (2, 1));
    let view = scene.log.compaction(Timestamp(0));
    assert_eq!(view.last_pass, Some((Timestamp(0), report)));
}

#[test]
fn a_batch_larger_than_a_chunk_is_cleaned() {
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 8 << 20,
        ..compacted()
    });
    let large = "x".repeat(3 << 19);
    scene.run(&format!(
        "a={large} b={large},c=1 a=1 zstd:d={large},c=2 roll clean"
    ));
    let kept = scene.records().expect("read");
    let kept: Vec<(i64, &str, usize)> = kept
        .iter()
        .map(|(offset, key, value)| (*offset, key.as_str(), value.as_ref().map_or(0, String::len)))
        .collect();
    assert_eq!(
        kept,
        [(1, "b", 3 << 19), (3, "a", 1), (4, "d", 3 << 19), (5, "c", 1)]
    );
}

#[test]
fn whoever_needs_the_segments_interrupts_a_pass_and_it_leaves_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 roll");
    let before = scene.picture();
    let log = Arc::clone(&scene.log);
    std::thread::scope(|scope| {
        let mut other = None;
        let interrupted = scene.clean_within(&mut |_| {
            let log = &log;
            other.get_or_insert_with(|| scope.spawn(move || drop(log.maintenance.take())));
            while !log.maintenance.is_wanted() {
                std::thread::yield_now();
            }
            Pace::Go
        });
        assert!(
            matches!(interrupted, Err(CompactError::Interrupted)),
            "{interrupted:?}"
        );
    });
    assert_eq!(scene.picture(), before);
    scene.run("clean");
    expect![[r#"
        0: 1 a=2
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn neighbouring_holds_that_together_hold_all_that_is_dirty_are_seen() {
    let held = |holds: &[(i64, i64)]| {
        let holds = holds.iter();
        let config = LogConfig {
            holds: holds
                .map(|(start, end)| Hold::Offsets(Offset(*start)..Offset(*end)))
                .collect(),
            ..compacted()
        };
        let mut scene = Scene::with(config);
        scene.run("a=1 a=2 a=3 roll");
        scene.log.compaction(Timestamp(0)).due == Due::No(NotDue::Held)
    };
    assert!(held(&[(1, 3), (0, 1)]));
    assert!(held(&[(0, 2), (1, 9)]));
    assert!(!held(&[(0, 1), (2, 3)]), "one offset is left out");
    assert!(!held(&[(0, 2)]));
}
