//! Retention beside a pass: what is deleted between two chunks is lost to the pass, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use super::super::{Hold, OffsetMap, Origin, Pace, Partition, Pass, PassReport, RollFor, Rounds, Store};
use super::gate::CompactError;
use super::testing::Scene;
use crate::record::{Accepted, BatchBuilder, BatchOptions};
use crate::types::{Offset, Timestamp};

const SEGMENTS: i64 = 12;

/// Every segment has a key of its own, one that all have, and a tombstone here and there.
fn filled() -> Scene {
    let mut scene = Scene::new();
    for index in 0..SEGMENTS {
        let tombstone = if index % 4 == 3 { "c=~" } else { "c=1" };
        scene.run(&format!("k{index}=1,a={index} b={index} {tombstone} roll"));
    }
    scene
}

fn one_more(log: &Arc<Partition>, store: &Store) {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let added = builder.append(Some(Timestamp(0)), Some(b"late"), Some(b"1"), &[]);
    added.expect("small");
    let batch: Accepted = builder.build().expect("it has a record");
    log.append(&batch, Origin::Client, Timestamp(0))
        .expect("appended");
    log.roll_for_compaction(Timestamp(0), RollFor::Command)
        .expect("rolled");
    let synced = store.sync(&[Arc::clone(log)]).remove(0);
    synced.expect("synced");
}

/// Cleans; before the chunks that `deletes` chooses so many segments are handed to retention. Each time something is appended
/// and rolled, too.
fn clean_beside(
    scene: &Scene,
    deletes: impl Fn(usize) -> usize,
) -> (Result<PassReport, CompactError>, usize) {
    let (log, store): (&Arc<Partition>, &Store) = (&scene.log, &scene.store);
    let mut calls = 0;
    let report = thread::scope(|scope| {
        let mut under_way: Option<thread::ScopedJoinHandle<'_, ()>> = None;
        let mut map = OffsetMap::with_keys(1_000);
        store.compact(
            log,
            &mut Pass {
                map: &mut map,
                seed: [1, 2],
                now: Timestamp(0),
                budget: &mut |_| {
                    if let Some(earlier) = under_way.take() {
                        earlier.join().expect("retention is done");
                    }
                    let views = log.segment_views();
                    let many = deletes(calls).min(views.len().saturating_sub(2));
                    calls += 1;
                    if many > 0 {
                        one_more(log, store);
                        log.raise_log_start(views[many].base).expect("nothing is held");
                        let deletion =
                            scope.spawn(|| drop(store.retain(std::slice::from_ref(log), Timestamp(0))));
                        while !log.wants_pass_to_end() && !deletion.is_finished() {
                            thread::yield_now();
                        }
                        under_way = Some(deletion);
                    }
                    Pace::Go
                },
            },
        )
    });
    (report, calls)
}

fn table(scene: &Scene) -> BTreeMap<String, (i64, Option<String>)> {
    let records = scene.records().expect("sound");
    records
        .into_iter()
        .map(|(offset, key, value)| (key, (offset, value)))
        .collect()
}

fn check(scene: &Scene, report: &PassReport, before: &BTreeMap<String, (i64, Option<String>)>) {
    assert_eq!(report.rounds, Rounds::Done);
    let log_start = scene.log.watermarks().log_start.0;
    let mut after = table(scene);
    after.remove("late");
    let mut left = before.clone();
    left.retain(|_, (offset, _)| *offset >= log_start);
    assert_eq!(after, left);
    let records = scene.records().expect("sound");
    let cleaned = records.iter().filter(|(offset, ..)| *offset < report.to.0);
    let mut keys: Vec<&str> = cleaned.map(|(_, key, _)| key.as_str()).collect();
    keys.sort_unstable();
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    let temporary = |name: &String| name.ends_with(".cleaned") || name.ends_with(".swap");
    assert!(!scene.files().iter().any(temporary), "{:?}", scene.files());
}

#[test]
fn a_pass_comes_to_its_end_though_segments_are_rolled_and_deleted_at_each_chunk() {
    for at_once in [1, 2] {
        let scene = filled();
        let before = table(&scene);
        let (report, calls) = clean_beside(&scene, |_| at_once);
        assert!(calls > 2, "{calls} chunks");
        check(&scene, &report.expect("not interrupted"), &before);
    }
}

#[test]
fn whichever_chunk_a_deletion_comes_at_the_pass_goes_on_with_the_segments_that_are_left() {
    let (_, chunks) = clean_beside(&filled(), |_| 0);
    for at in 0..chunks {
        for many in [1, 5] {
            let mut scene = filled();
            let before = table(&scene);
            let (report, _) = clean_beside(&scene, |call| if call == at { many } else { 0 });
            check(&scene, &report.expect("not interrupted"), &before);
            let picture = scene.records().expect("sound");
            scene.sync();
            scene.run("restart");
            assert_eq!(scene.records().expect("sound"), picture, "chunk {at}");
        }
    }
}

#[test]
fn a_pass_that_lingers_leaves_the_log_to_others_and_goes_on() {
    let scene = filled();
    let before = table(&scene);
    let log = Arc::clone(&scene.log);
    let (mut asked, mut map) = (0, OffsetMap::with_keys(1_000));
    let report = scene.store.compact(
        &log,
        &mut Pass {
            map: &mut map,
            seed: [1, 2],
            now: Timestamp(0),
            budget: &mut |_| {
                asked += 1;
                if asked % 2 == 1 {
                    return Pace::Linger;
                }
                // The turn is free: this would wait for ever otherwise.
                drop(log.maintenance.take_for_deletion());
                Pace::Go
            },
        },
    );
    check(&scene, &report.expect("not interrupted"), &before);
}

#[test]
fn a_pass_whose_settings_change_while_it_lingers_begins_anew() {
    let mut scene = filled();
    let before = scene.picture();
    let log = Arc::clone(&scene.log);
    let mut held = super::testing::compacted();
    held.holds = [Hold::Offsets(Offset(0)..Offset(5))].into_iter().collect();
    let mut settings = Some(held);
    let mut lingers = false;
    let report = scene.clean_within(&mut |_| {
        lingers = !lingers;
        if lingers {
            return Pace::Linger;
        }
        if let Some(settings) = settings.take() {
            log.configure(settings, Timestamp(0));
        }
        Pace::Go
    });
    assert!(matches!(report, Err(CompactError::Interrupted)), "{report:?}");
    assert_eq!(scene.picture(), before);
}

#[test]
fn of_segments_that_retention_took_nothing_is_remembered() {
    let mut scene = filled();
    scene.map = OffsetMap::with_keys(1_000);
    scene.run("clean");
    let known = |scene: &Scene| {
        let anew = scene.log.anew.lock();
        (anew.len(), anew.number(Offset(0)))
    };
    let views = scene.log.segment_views();
    let bases = views.iter().map(|view| view.base);
    assert!(known(&scene).0 >= 2, "{:?}", bases.collect::<Vec<_>>());
    let second = views[1].base;
    scene.log.raise_log_start(second).expect("nothing is held");
    let left = known(&scene).0 - 1;
    drop(scene.store.retain(&[Arc::clone(&scene.log)], Timestamp(0)));
    assert_eq!(known(&scene), (left, 0));
    assert_ne!(scene.log.anew.lock().number(second), 0);
}
