//! Passes over a failing disk and over damaged logs: nothing is lost, the state shows and clears, the rest is cleaned.

use std::io::IoSlice;

use expect_test::expect;

use super::super::testing::fault;
use super::super::{CompactError, OffsetMap, PassReport};
use super::testing::Scene;
use crate::env::{Call, Failure, Fs as _, OpenMode};
use crate::storage::{FirstBatch, LogConfig, Pace, Read, Step};
use crate::types::{Offset, Timestamp};

const SCRIPT: &str = "a=1 b=1 roll a=2 c=1 roll d=1 b=~ roll";

fn failure() -> Failure {
    Failure::Kind(std::io::ErrorKind::StorageFull)
}

/// A pass that fails at such a call changes nothing that can be read, says so, and succeeds when it is tried again.
fn check(call: Call, path: &str) {
    let mut scene = Scene::new();
    scene.run(SCRIPT);
    let before = scene.records().expect("read");
    scene.fs.inject(fault(call, path, 1, failure()));
    let failed = scene.clean();
    assert!(
        matches!(failed, Err(CompactError::Storage(_))),
        "{call:?} {path}: {failed:?}"
    );
    let view = scene.log.compaction(Timestamp(0));
    assert!(view.last_error.is_some(), "{call:?} {path}");
    assert_eq!(view.cleaner_point, Offset(0));
    let table = |records: &[(i64, String, Option<String>)]| {
        let mut table = std::collections::BTreeMap::new();
        for (_, key, value) in records {
            table.insert(key.clone(), value.clone());
        }
        table
    };
    let meanwhile = scene.records().expect("read");
    assert_eq!(table(&meanwhile), table(&before), "{call:?} {path}");
    scene.run("e=1");
    scene.clean().expect("cleaned");
    assert_eq!(scene.log.compaction(Timestamp(0)).last_error, None);
    scene.run("restart");
    let mut untouched = Scene::new();
    untouched.run(SCRIPT).run("clean e=1 restart");
    assert_eq!(scene.picture(), untouched.picture(), "{call:?} {path}");
    let odd = |name: &String| name.ends_with(".cleaned") || name.ends_with(".swap");
    assert!(!scene.files().iter().any(odd), "{:?}", scene.files());
}

#[test]
fn an_error_of_the_disk_leaves_the_log_whole_and_the_next_pass_succeeds() {
    check(Call::Read, ".log");
    check(Call::Open, ".log");
    check(Call::Open, ".cleaned");
    check(Call::Write, ".cleaned");
    check(Call::SyncData, ".cleaned");
    check(Call::Rename, ".cleaned");
    check(Call::SyncDir, "t-0");
    check(Call::Remove, "0.log");
    check(Call::Rename, ".swap");
    check(Call::Look, "t-0");
}

#[test]
fn a_swap_whose_last_step_failed_is_read_under_its_temporary_name_and_finished_by_a_start() {
    let mut scene = Scene::new();
    scene.run(SCRIPT);
    scene.fs.inject(fault(Call::Remove, "0.log", u32::MAX, failure()));
    assert!(scene.clean().is_err());
    let before = scene.records().expect("read");
    assert!(scene.clean().is_err(), "it cannot be finished yet");
    assert_eq!(scene.records().expect("read"), before);
    let refused = scene.store.close().expect_err("a clean stop would hide it");
    assert!(refused.to_string().contains("unfinished"), "{refused}");
    let fs = scene.fs.crash(crate::env::CrashChoice::KeepAll);
    let again = Scene::on(fs, super::testing::compacted(), 0);
    assert_eq!(again.records().expect("read"), before);
}

/// Overwrites bytes of a log's file.
fn scribble(scene: &Scene, log: &str, position: u64, bytes: &[u8]) {
    let path = scene.log.dir().join(log);
    let file = scene.fs.open(&path, OpenMode::ReadWrite).expect("opened");
    file.write_all_at(&[IoSlice::new(bytes)], position)
        .expect("written");
}

fn content(scene: &Scene, log: &str) -> Vec<u8> {
    let path = scene.log.dir().join(log);
    let file = scene.fs.open(&path, OpenMode::Read).expect("opened");
    let mut bytes = vec![0; usize::try_from(file.len_bytes().expect("known")).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

const FIRST: &str = "00000000000000000000.log";
const BATCH: u64 = 70;

/// The second batch of the first segment is damaged at `position`: everything else is cleaned, its bytes stay.
fn check_damage(position: u64, bytes: &[u8]) -> PassReport {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 c=1 a=2 roll a=3 d=1 roll d=2 roll");
    let batch = content(&scene, FIRST).len() / 4;
    assert_eq!(batch, usize::try_from(BATCH).expect("small"));
    scribble(&scene, FIRST, BATCH + position, bytes);
    let damaged = content(&scene, FIRST)[batch..2 * batch].to_vec();
    let report = scene.clean().expect("the rest is cleaned");
    let cleaned = content(&scene, FIRST);
    let expected_len = 2 * batch;
    assert_eq!(
        cleaned.len(),
        expected_len,
        "b is damaged and stays, c stays, both a go"
    );
    assert_eq!(&cleaned[..batch], damaged, "byte for byte");
    assert_eq!(scene.log.compaction(Timestamp(0)).cleaner_point, Offset(7));
    let again = scene.clean().expect("it does not park");
    assert_eq!(again.damaged.len(), 1);
    assert_eq!(again.written_bytes, 0);
    report
}

#[test]
fn a_damaged_batch_is_kept_byte_for_byte_and_reported_and_all_else_is_cleaned() {
    for (position, bytes, reason) in [
        (65, &b"X"[..], "crc"),
        (16, &[9], "magic"),
        (8, &[0x7f, 0xff], "left"),
        (0, &[0x7f], "offset"),
    ] {
        let report = check_damage(position, bytes);
        assert_eq!(report.damaged.len(), 1, "{report:?}");
        let place = &report.damaged[0];
        assert_eq!(
            (place.position, place.len_bytes, place.offset),
            (BATCH, BATCH, Offset(1))
        );
        assert!(place.path.ends_with("t-0/00000000000000000000.log"));
        assert!(place.reason.contains(reason), "{reason}: {}", place.reason);
    }
}

#[test]
fn damage_at_the_end_of_a_segment_is_told_to_readers_also_after_a_pass() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 c=1 roll a=2 roll d=1");
    scribble(&scene, FIRST, 2 * BATCH + 16, &[9]);
    let refused = |scene: &Scene| -> Vec<String> {
        let whole = |times: Option<std::ops::Range<Timestamp>>| Read {
            from: Offset(2),
            until: scene.log.watermarks().log_end,
            times,
            max_bytes: 300,
            first: FirstBatch::Whole,
        };
        let reads = [whole(None), whole(Some(Timestamp(0)..Timestamp(1)))];
        let told = reads.map(|read| scene.log.read(&read).expect_err("c is lost").to_string());
        told.to_vec()
    };
    let before = refused(&scene);
    assert_eq!(scene.clean().expect("cleaned").damaged.len(), 1);
    for step in ["", "close", "close", "restart"] {
        scene.run(step);
        for (told, before) in refused(&scene).iter().zip(&before) {
            assert!(
                told.contains("reading can go on at 3"),
                "{step}: {told} but before {before}"
            );
        }
    }
    // Only the damage is left of the first segment: retention does not count it to the one before.
    scene.run("b=2 roll clean");
    assert_eq!(
        content(&scene, FIRST).len(),
        usize::try_from(BATCH).expect("small")
    );
    assert!(refused(&scene)[0].contains("reading can go on at 3"));
    assert_eq!(scene.log.retention_plan(Timestamp(scene.now)).deletions, []);
}

fn unreadable(scene: &Scene, log: &str) {
    let failure = Failure::Kind(std::io::ErrorKind::Other);
    scene.fs.inject(fault(Call::Read, log, u32::MAX, failure));
}

#[test]
fn a_segment_that_the_disk_does_not_give_keeps_nothing_else_from_being_cleaned() {
    const SECOND: &str = "00000000000000000002.log";
    let mut scene = Scene::new();
    scene.run("a=1 b=1 roll a=2 c=1 roll b=2 c=2 a=~ roll c=3 d=1");
    let before = content(&scene, SECOND);
    unreadable(&scene, SECOND);
    for pass in 0..3 {
        let error = scene.clean().expect_err("it is told").to_string();
        assert!(
            error.contains(SECOND) && error.contains("position 0, offset 2"),
            "{error}"
        );
        let view = scene.log.compaction(Timestamp(scene.now));
        assert_eq!(
            view.cleaner_point,
            Offset(2),
            "pass {pass}: it is still to be learned"
        );
        let (_, report) = view.last_pass.expect("the rest was cleaned");
        assert_eq!((report.damaged.len(), report.damaged[0].offset), (1, Offset(2)));
        assert!(view.last_error.expect("it shows").reason.contains(SECOND));
        scene.run("+1000");
    }
    scene.fs.revive();
    assert_eq!(content(&scene, SECOND), before, "left as it is");
    expect![[r#"
        0: 1 {}
        2: 2 a=2 | 3 c=1
        4: 4 b=2 | 5 c=2 | 6 a=~@2100
        7: 7 c=3 | 8 d=1
    "#]]
    .assert_eq(&scene.picture());
    scene.run("clean");
    assert_eq!(scene.log.compaction(Timestamp(scene.now)).last_error, None);
    expect![[r#"
        0: 4 b=2 | 5 c=2 | 6 a=~@3100
        7: 7 c=3 | 8 d=1
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn rounds_get_on_past_a_segment_that_the_disk_never_gives() {
    let mut scene = Scene::new();
    scene.map = OffsetMap::with_keys(1);
    scene.run("a=1 b=1 roll a=2 roll b=2 c=1 roll c=2 roll");
    unreadable(&scene, "00000000000000000002.log");
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(scene.clean().is_err());
    }
    let view = scene.log.compaction(Timestamp(scene.now));
    assert!(refused > 0);
    assert_eq!((view.cleaner_point, view.last_error), (Offset(6), None));
    let (_, report) = view.last_pass.expect("there were some");
    assert_eq!(report.damaged.len(), 1, "it is told each time");
    scene.fs.revive();
    expect![[r#"
        0: 0 a=1
        2: 2 a=2
        3: 3 b=2 | 5 c=2
    "#]]
    .assert_eq(&scene.picture());
}

/// Makes the checksum of the batch at `position` hold for whatever is in it.
fn resign(scene: &Scene, log: &str, position: usize) {
    let bytes = content(scene, log);
    let batch = &bytes[position..position + usize::try_from(BATCH).expect("small")];
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]);
    let crc = u32::try_from(crc).expect("32 bits");
    scribble(
        scene,
        log,
        u64::try_from(position + 17).expect("small"),
        &crc.to_be_bytes(),
    );
}

#[test]
fn a_batch_with_a_sound_checksum_whose_records_cannot_be_read_stays_and_shadows_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 c=1 c=2 roll d=1 roll");
    // The record says that its key is longer than the record.
    scribble(&scene, FIRST, BATCH + 65, &[0x7e]);
    resign(&scene, FIRST, usize::try_from(BATCH).expect("small"));
    let before = content(&scene, FIRST);
    let report = scene.clean().expect("the rest is cleaned");
    assert_eq!(
        (report.damaged.len(), report.records.superseded),
        (1, 1),
        "{report:?}"
    );
    let batch = usize::try_from(BATCH).expect("small");
    let after = content(&scene, FIRST);
    assert_eq!(&after[..2 * batch], &before[..2 * batch], "both a are there");
    assert_eq!(after.len(), 4 * batch, "one c went, and d joined them");
}

#[test]
fn a_tombstone_stays_while_damage_lies_below_it() {
    let mut scene = Scene::new();
    scene.run("x=1 a=1 x=2 roll a=~ b=1 roll c=1 roll");
    scribble(&scene, FIRST, BATCH + 65, b"X");
    scene.run("clean +1000 clean +1000 clean");
    let kept = content(&scene, "00000000000000000003.log");
    let tombstones = scene.clean().expect("cleaned").records.tombstones_kept;
    assert_eq!(tombstones, 1, "{} bytes", kept.len());
}

#[test]
fn a_length_that_damage_made_up_takes_no_memory() {
    const LARGE: usize = 200_000;
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 8 << 20,
        ..super::testing::compacted()
    });
    for key in 0..20 {
        scene.run(&format!("k{key}={}", "x".repeat(LARGE)));
    }
    scene.run("k3=new roll");
    let second = u64::from(scene.batches()[0][0].header().size_bytes);
    // It says that it is of 3 MiB: as much is there.
    scribble(&scene, FIRST, second + 8, &(3_u32 << 20).to_be_bytes());
    let mut most = 0;
    let report = scene
        .clean_within(&mut |step| {
            if let Step::Bytes(bytes) = step {
                most = most.max(bytes);
            }
            Pace::Go
        })
        .expect("the rest is cleaned");
    assert_eq!(
        (report.damaged.len(), report.records.superseded),
        (1, 1),
        "{report:?}"
    );
    assert!(most <= 1 << 20, "{most} bytes at once");
}

#[test]
fn a_batch_larger_than_a_chunk_is_cleaned_as_any_other() {
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 16 << 20,
        ..super::testing::compacted()
    });
    let large = "x".repeat(3 << 20);
    scene.run(&format!("a={large} b={large} a={large},c=1 roll clean"));
    let kept: Vec<i64> = scene
        .records()
        .expect("read")
        .iter()
        .map(|record| record.0)
        .collect();
    assert_eq!(kept, [1, 2, 3]);
}

const WITH_ABORTED: &str = "a=1 t7:a=2 t7:b=1 roll c=1 abort7 p7:z=1 roll d=1 roll close";
const ABORTED: &str = "00000000000000000003.txnindex";

#[test]
fn a_damaged_or_missing_index_of_aborted_transactions_is_made_anew_from_the_log() {
    let mut sound = Scene::new();
    sound.run(WITH_ABORTED);
    let known = sound.log.aborted(&(Offset(0)..Offset(6))).expect("read");
    assert_eq!(known.len(), 1);
    sound.run("clean");
    let damages: [&dyn Fn(&Scene); 3] = [
        &|scene| scribble(scene, ABORTED, 0, &[9, 9]),
        &|scene| scribble(scene, ABORTED, 18, &[0x7f]),
        &|scene| {
            scene
                .fs
                .remove_file(&scene.log.dir().join(ABORTED))
                .expect("removed")
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        let mut scene = Scene::new();
        scene.run(WITH_ABORTED);
        damage(&scene);
        let found = scene.log.aborted(&(Offset(0)..Offset(6))).expect("made anew");
        assert_eq!(found, known, "damage {number}");
        let mut scene = Scene::new();
        scene.run(WITH_ABORTED);
        damage(&scene);
        scene.clean().expect("cleaned");
        assert_eq!(scene.picture(), sound.picture(), "damage {number}");
    }
}

#[test]
fn without_its_index_a_damaged_log_with_aborted_transactions_is_left_as_it_is() {
    let mut scene = Scene::new();
    scene.run(WITH_ABORTED);
    scribble(&scene, ABORTED, 0, &[9, 9]);
    // Its first batch: whether a marker lay there nobody can tell.
    let log = "00000000000000000003.log";
    scribble(&scene, log, 65, b"X");
    let before = (content(&scene, FIRST), content(&scene, log));
    let refused = scene.clean().expect_err("what was aborted is not known");
    assert!(refused.to_string().contains("crc"), "{refused}");
    assert_eq!((content(&scene, FIRST), content(&scene, log)), before);
}

/// Damages the marker at offset 1, cleans, and returns the records that stay behind it.
fn behind_a_damaged_marker(script: &str) -> Vec<(i64, String, Option<String>)> {
    let mut scene = Scene::new();
    scene.run(script);
    let position = u64::from(scene.batches()[0][0].header().size_bytes);
    scribble(&scene, FIRST, position + 40, &[0xff]);
    let report = scene.clean().expect("the rest is cleaned");
    assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
    let end = scene.log.watermarks().log_end;
    let (mut from, mut found) = (Offset(2), Vec::new());
    while from < end {
        let read = crate::storage::Read {
            from,
            until: end,
            times: None,
            max_bytes: 1,
            first: crate::storage::FirstBatch::Whole,
        };
        let slice = scene.log.read(&read).expect("sound from there on");
        let batches = crate::record::Batches::over(slice.bytes.clone(), 0);
        if batches.flatten().all(|(_, batch)| !batch.header().is_control()) {
            found.extend(super::testing::records_in(slice.bytes));
        }
        from = slice.next_offset;
    }
    found
}

fn kept(records: &[(i64, &str)]) -> Vec<(i64, String, Option<String>)> {
    let kept = records.iter();
    kept.map(|(offset, key)| (*offset, (*key).to_owned(), Some("1".to_owned())))
        .collect()
}

#[test]
fn behind_a_damaged_abort_marker_what_its_producer_committed_stays() {
    let found = behind_a_damaged_marker("t7:a=1 abort7 t7:b=1 t7:c=1 commit7 d=1 roll");
    assert_eq!(found, kept(&[(2, "b"), (3, "c"), (5, "d")]));
    let found = behind_a_damaged_marker("t7:a=1 abort7 t7:b=1 abort7 t7:c=1 commit7 p8:d=1 roll");
    assert_eq!(
        found,
        kept(&[(4, "c"), (6, "d")]),
        "the second one is aborted, too"
    );
}

#[test]
fn behind_a_damaged_commit_marker_an_aborted_transaction_goes_and_a_committed_one_stays() {
    let found = behind_a_damaged_marker("t7:a=1 commit7 t7:b=1 abort7 t7:c=1 commit7 d=1 roll");
    assert_eq!(found, kept(&[(4, "c"), (6, "d")]));
}

#[test]
fn retention_takes_a_replacement_that_is_not_finished_under_the_name_it_has() {
    let mut scene = Scene::new();
    scene.run(SCRIPT);
    scene.fs.inject(fault(Call::Remove, "0.log", 1, failure()));
    assert!(scene.clean().is_err());
    let of_first = |scene: &Scene| -> Vec<String> {
        let names = scene.files().into_iter();
        names
            .filter(|name| name.starts_with("00000000000000000000.log"))
            .collect()
    };
    let unfinished = "00000000000000000000.log.swap".to_owned();
    assert!(of_first(&scene).contains(&unfinished), "{:?}", of_first(&scene));
    scene.log.raise_log_start(Offset(6)).expect("raised");
    let retained = scene
        .store
        .retain(std::slice::from_ref(&scene.log), Timestamp(scene.now));
    assert!(
        retained.iter().all(|retained| retained.failure.is_none()),
        "{retained:?}"
    );
    assert!(of_first(&scene).is_empty(), "{:?}", of_first(&scene));
    scene.run("e=1 e=2 roll clean");
    assert!(of_first(&scene).is_empty(), "{:?}", of_first(&scene));
    expect_test::expect![[r#"
        6: 7 e=2
    "#]]
    .assert_eq(&scene.picture());
}

#[test]
fn a_new_segment_that_readers_have_open_stays_open_when_it_gets_its_final_name() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 roll a=2 roll");
    let log = std::sync::Arc::clone(&scene.log);
    scene.fs.watch_syncs(move |site| {
        if site.0 == "directory without cleaned logs' originals" {
            super::testing::records(&log).expect("read under its temporary name");
        }
    });
    scene.clean().expect("cleaned");
    scene.fs.inject(fault(Call::Open, FIRST, 1, failure()));
    assert_eq!(scene.records().expect("nothing is opened again").len(), 2);
}
