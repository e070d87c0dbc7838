//! Segments that a pass leaves as they are: those that the disk does not give, and those that end before the log did.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::OffsetMap;
use super::super::testing::fault;
use super::testing::{Scene, compacted};
use crate::env::{Call, CrashChoice, Failure, Fs as _, OpenMode};
use crate::storage::LogConfig;
use crate::types::{Offset, Timestamp};

const FIRST: &str = "00000000000000000000.log";
const SECOND: &str = "00000000000000000002.log";
/// Bytes of one batch of the scripts.
const BATCH: u64 = 70;

fn point(scene: &Scene) -> Offset {
    scene.log.compaction(Timestamp(scene.now)).cleaner_point
}

fn table(scene: &Scene) -> BTreeMap<String, Option<String>> {
    let records = scene.records().expect("read");
    records.into_iter().map(|(_, key, value)| (key, value)).collect()
}

/// A log whose second segment, with the tombstone of `k`, was passed by rounds that could not read it.
fn passed_unread() -> Scene {
    let mut scene = Scene::new();
    scene.map = OffsetMap::with_keys(1);
    scene.run("k=1 a=1 roll k=~ a=2 roll b=1 roll c=1 roll d=1");
    let failure = Failure::Kind(std::io::ErrorKind::Other);
    scene.fs.inject(fault(Call::Read, SECOND, u32::MAX, failure));
    for _ in 0..20 {
        let _refused = scene.clean();
    }
    assert_eq!(point(&scene), Offset(6), "the rounds got on");
    scene.map = OffsetMap::with_keys(1000);
    scene
}

/// The segment can be read again: its tombstone stays until what it shadows is gone, and its time begins then.
fn check_that_nothing_comes_back(scene: &mut Scene) {
    for pass in 0..5 {
        scene.run("clean");
        let k = table(scene).get("k").cloned().flatten();
        assert_eq!(k, None, "pass {pass}: a deleted key came back");
        scene.run("+60");
    }
    let records = scene.records().expect("read");
    let of: Vec<i64> = records.iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(
        of,
        [3, 4, 5, 6],
        "what the segment shadows is gone, and its tombstone"
    );
}

#[test]
fn a_segment_that_rounds_passed_unread_is_learned_when_it_can_be_read_and_its_tombstones_stay_until_then() {
    let mut scene = passed_unread();
    scene.fs.revive();
    scene.run("+1000");
    check_that_nothing_comes_back(&mut scene);
}

#[test]
fn a_segment_that_rounds_passed_unread_is_dirty_for_the_next_start() {
    for stop in ["restart", "close"] {
        let mut scene = passed_unread();
        scene.store.checkpoint().expect("written");
        scene.fs.revive();
        scene.run(stop).run("+1000");
        assert_eq!(point(&scene), Offset(2), "{stop}");
        check_that_nothing_comes_back(&mut scene);
    }
}

#[test]
fn tombstones_above_a_segment_that_rounds_passed_unread_stay_as_long_as_the_disk_does_not_give_it() {
    let mut scene = passed_unread();
    scene.run("b=~ c=2 roll clean +1000 clean +1000 clean +1000");
    scene.clean().expect("it does not park");
    scene.fs.revive();
    let records = scene.records().expect("read");
    assert!(
        records
            .iter()
            .any(|(_, key, value)| key == "b" && value.is_none()),
        "{records:?}"
    );
}

#[test]
fn a_tombstone_above_a_segment_that_was_never_learned_does_not_go_in_the_pass_that_first_reads_it() {
    let mut scene = passed_unread();
    scene.run("a=~ c=2 roll clean +1000 clean +1000");
    scene.fs.revive();
    for pass in 0..5 {
        scene.run("clean");
        let a = table(&scene).get("a").cloned().flatten();
        assert_eq!(a, None, "pass {pass}: a deleted key came back");
        scene.run("+60");
    }
    let records = scene.records().expect("read");
    assert!(records.iter().all(|(_, key, _)| key != "a"), "{records:?}");
}

fn lost(scene: &Scene) -> Option<Range<Offset>> {
    let read = crate::storage::Read {
        from: Offset(2),
        until: scene.log.watermarks().log_end,
        times: None,
        max_bytes: 300,
        first: crate::storage::FirstBatch::Whole,
    };
    match scene.log.read(&read) {
        Err(crate::storage::ReadError::Damaged { lost, .. }) => lost,
        _ => None,
    }
}

fn len(scene: &Scene, log: &str) -> u64 {
    let path = scene.log.dir().join(log);
    let file = scene.fs.open(&path, OpenMode::Read).expect("opened");
    file.len_bytes().expect("known")
}

#[test]
fn a_log_that_ends_early_is_left_as_it_is_so_that_readers_and_starts_are_told_of_its_loss() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 c=1 roll a=2 b=~ roll d=1 roll");
    scene.store.checkpoint().expect("written");
    let cut = scene.fs.crash(CrashChoice::KeepAll);
    let path = scene.log.dir().join(FIRST);
    let file = cut.open(&path, OpenMode::ReadWrite).expect("opened");
    file.set_len(2 * BATCH).expect("cut");
    scene.reopen(cut);
    assert_eq!(lost(&scene), Some(Offset(2)..Offset(3)));
    for pass in 0..4 {
        let report = scene.clean().expect("the rest is cleaned");
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        let place = &report.damaged[0];
        assert_eq!(
            (place.position, place.len_bytes, place.offset),
            (2 * BATCH, BATCH, Offset(2))
        );
        assert_eq!(report.to, Offset(6), "it keeps nothing from being clean");
        assert_eq!(
            report.records.tombstones_kept, 1,
            "pass {pass}: c may have been b"
        );
        assert_eq!(len(&scene, FIRST), 2 * BATCH, "its bytes stay");
        assert_eq!(lost(&scene), Some(Offset(2)..Offset(3)), "pass {pass}");
        scene.run("+1000");
    }
    for stop in ["restart", "close"] {
        scene.run(stop);
        assert_eq!(lost(&scene), Some(Offset(2)..Offset(3)), "{stop}");
    }
}

fn cut(scene: &Scene, log: &str, len: u64) {
    let path = scene.log.dir().join(log);
    let file = scene.fs.open(&path, OpenMode::ReadWrite).expect("opened");
    file.set_len(len).expect("cut");
}

#[test]
fn a_log_that_is_shortened_while_it_is_open_is_left_as_it_is_and_keeps_nothing_from_being_cleaned() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 c=1 roll a=2 b=~ roll d=1 d=2 roll");
    cut(&scene, FIRST, 2 * BATCH);
    // No reader has come to it.
    for pass in 0..3 {
        let report = scene.clean().expect("the rest is cleaned");
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        let place = &report.damaged[0];
        assert_eq!(
            (place.position, place.len_bytes, place.offset),
            (2 * BATCH, BATCH, Offset(2))
        );
        assert_eq!(point(&scene), Offset(7), "pass {pass}");
        assert_eq!(scene.log.compaction(Timestamp(scene.now)).last_error, None);
        assert_eq!(
            report.records.tombstones_kept, 1,
            "pass {pass}: c may have been b"
        );
        let shadowed_behind_it = u64::from(pass == 0);
        assert_eq!(report.records.superseded, shadowed_behind_it, "pass {pass}");
        assert_eq!(len(&scene, FIRST), 2 * BATCH, "its bytes stay");
        assert_eq!(lost(&scene), Some(Offset(2)..Offset(3)), "pass {pass}");
        scene.run("+1000");
    }
}

#[test]
fn what_is_left_of_a_log_that_was_shortened_is_learned() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 roll a=2 c=1 roll d=1 roll");
    cut(&scene, SECOND, BATCH);
    let report = scene.clean().expect("cleaned");
    assert_eq!((report.records.superseded, report.learned_keys), (1, 3));
    assert_eq!(point(&scene), Offset(5));
    assert_eq!(len(&scene, FIRST), BATCH, "the first a is gone");
}

#[test]
fn a_log_that_is_shortened_between_two_chunks_of_a_pass_is_left_as_it_is() {
    for chunk in 0..6 {
        let mut scene = Scene::new();
        scene.run("a=1 b=1 c=1 roll a=2 roll d=1 d=2 roll");
        let path = scene.log.dir().join(FIRST);
        let fs = scene.fs.clone();
        let mut chunks = 0;
        let passed = scene.clean_within(&mut |_| {
            if chunks == chunk {
                let file = fs.open(&path, OpenMode::ReadWrite).expect("opened");
                file.set_len(2 * BATCH).expect("cut");
            }
            chunks += 1;
            crate::storage::Pace::Go
        });
        passed.expect("it comes to its end");
        assert_eq!(point(&scene), Offset(6), "chunk {chunk}");
        if chunk < 2 {
            let again = scene.clean().expect("cleaned");
            assert_eq!(again.damaged.len(), 1, "chunk {chunk}");
            assert_eq!(len(&scene, FIRST), 2 * BATCH, "chunk {chunk}");
        }
    }
}

#[test]
fn the_first_pass_after_a_start_comes_to_a_last_segment_that_is_full() {
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 3 * u32::try_from(BATCH).expect("small"),
        ..compacted()
    });
    scene.run("a=1 b=1 a=2 restart");
    let report = scene.clean().expect("cleaned");
    assert_eq!((report.to, report.records.superseded), (Offset(3), 1));
}
