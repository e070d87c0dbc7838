//! What becomes of batches that cannot be built anew as they should.

use super::super::super::{Due, LogConfig, OffsetMap};
use super::super::testing::{Scene, compacted};
use super::*;
use crate::record::{BatchBuilder, BatchOptions, DecompressLimit};
use crate::types::LeaderEpoch;

const LIMIT: DecompressLimit = DecompressLimit(1_000);

/// A batch of records without timestamps, from `base` on, with a delete horizon.
fn batch(base: i64, records: &[(&str, Option<&str>)], horizon: Option<Timestamp>) -> RecordBatch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (key, value) in records {
        let value = value.map(str::as_bytes);
        builder
            .append(None, Some(key.as_bytes()), value, &[])
            .expect("small");
    }
    let accepted = builder.build().expect("it has records");
    let stored = accepted.stamped(Offset(base), LeaderEpoch(0));
    let Some(horizon) = horizon else { return stored };
    let mut rebuild = BatchRebuild::of(stored.header(), Some(horizon));
    for record in stored.open(LIMIT).expect("sound").glances() {
        rebuild.keep(&record.expect("sound")).expect("small");
    }
    rebuild.build().expect("small")
}

/// Judges `a=1 b=1`, of which the first is shadowed, and a tombstone of another key whose time is over.
fn judged(bytes: u32) -> (Fate, Fate, RecordCounts) {
    let mut map = OffsetMap::with_keys(10);
    map.reset([1, 2], Offset(0), 10);
    map.learn(b"a", Offset(9));
    let rules = Rules {
        map: &map,
        learned_to: Offset(10),
        holds: &[],
        met_again: Offset(0)..Offset(0),
        unlearned_from: None,
        now: Timestamp(500),
        delete_horizon: Timestamp(600),
        limits: BatchLimits {
            decompressed: LIMIT,
            bytes,
        },
    };
    let mut survivors = Survivors::new(rules, &[]);
    let values = batch(0, &[("a", Some("1")), ("b", Some("1"))], None);
    let tombstone = batch(2, &[("c", None)], Some(Timestamp(400)));
    let first = survivors.judge(&values, Place::Ordinary).expect("sound").fate;
    let second = survivors.judge(&tombstone, Place::Ordinary).expect("sound").fate;
    (first, second, survivors.met().counts)
}

#[test]
fn a_batch_that_cannot_be_built_anew_stays_whole_is_counted_so_and_keeps_the_tombstones_above_it() {
    let (first, second, counts) = judged(u32::MAX);
    assert!(matches!(first, Fate::Rebuilt(_)), "{first:?}");
    assert_eq!(second, Fate::Gone);
    assert_eq!(
        (counts.values_kept, counts.superseded, counts.tombstones_dropped),
        (1, 1, 1)
    );
    let (first, second, counts) = judged(10);
    assert_eq!((first, second), (Fate::AsItIs, Fate::AsItIs));
    assert_eq!(
        (counts.values_kept, counts.superseded, counts.tombstones_dropped),
        (2, 0, 0)
    );
    assert_eq!(counts.tombstones_kept, 1);
}

#[test]
fn tombstones_whose_horizon_makes_their_batch_too_large_stay_readable_and_go_in_time() {
    const LIMIT_BYTES: u32 = 1_300;
    let mut scene = Scene::with(LogConfig {
        max_decompressed_bytes: LIMIT_BYTES,
        segment_bytes: 1 << 20,
        ..compacted()
    });
    let tombstones: Vec<String> = (100..200).map(|key| format!("k{key}=~")).collect();
    scene.append(&format!("zstd:{}", tombstones.join(",")));
    // So much later that each record counts some bytes more from the horizon.
    scene.run("z=1 roll +100000000000 clean");
    let readable = |scene: &Scene| -> usize {
        let batches = scene.batches().into_iter().flatten();
        let records = batches.map(|batch| {
            let payload = batch
                .open(DecompressLimit(LIMIT_BYTES))
                .expect("within the limit");
            payload.glances().count()
        });
        records.sum()
    };
    assert_eq!(readable(&scene), 101);
    let of_tombstones = scene
        .batches()
        .into_iter()
        .flatten()
        .filter(|batch| batch.header().delete_horizon().is_some());
    assert!(of_tombstones.count() > 1, "it took more than one batch");
    scene.run("restart clean");
    assert_eq!(readable(&scene), 101);
    scene.run("+200 clean");
    assert_eq!(scene.picture(), "0: 100 z=1\n");
}

#[test]
fn the_last_batch_of_a_producer_is_not_parted_and_its_tombstones_go_once_it_is_not_the_last() {
    let mut scene = Scene::with(LogConfig {
        max_decompressed_bytes: 1_300,
        segment_bytes: 1 << 20,
        ..compacted()
    });
    let tombstones: Vec<String> = (100..200).map(|key| format!("k{key}=~")).collect();
    scene.append(&format!("z7:{}", tombstones.join(",")));
    scene.run("roll +100000000000 clean");
    let horizons = |scene: &Scene| -> Vec<bool> {
        let batches = scene.batches().into_iter().flatten();
        batches
            .map(|batch| batch.header().delete_horizon().is_some())
            .collect()
    };
    assert_eq!(horizons(&scene), [false]);
    scene.run("p7:z=1 roll clean");
    assert!(horizons(&scene).len() > 2);
    scene.run("+200 clean");
    assert_eq!(scene.picture(), "0: 100 z=1\n");
}

#[test]
fn what_was_met_twice_since_a_segment_of_a_group_is_damaged_is_counted_once() {
    let mut scene = Scene::new();
    scene.run("x=1 a=1 x=2 roll a=2 b=1 roll c=1 roll");
    // The second batch of the second segment.
    super::super::super::testing::damage(&scene.fs, "t-0/00000000000000000003.log", 70 + 65, b"X");
    let report = scene.clean().expect("the rest is cleaned");
    let counts = report.records;
    assert_eq!((counts.superseded, counts.values_kept), (2, 3), "{counts:?}");
    assert_eq!(report.damaged.len(), 1);
}

#[test]
fn the_marker_of_a_producer_without_records_stays_as_a_header_until_it_has_written() {
    let mut scene = Scene::new();
    scene.run("commit7 a=1 roll clean");
    assert_eq!(scene.picture(), "0: 0 commit@100 | 1 a=1\n");
    scene.run("+100 clean");
    assert_eq!(scene.picture(), "0: 0 {} | 1 a=1\n");
    scene.run("+100 clean");
    assert_eq!(scene.picture(), "0: 0 {} | 1 a=1\n", "it stays as it is");
    scene.run("p7:b=1 roll clean");
    assert_eq!(scene.picture(), "0: 1 a=1 | 2 b=1\n");
}

#[test]
fn a_marker_that_is_held_stays_as_it_is() {
    let mut scene = Scene::new();
    scene.hold(&[Hold::Offsets(Offset(0)..Offset(1))]);
    scene.run("commit7 a=1 p7:b=1 roll clean +1000 clean +1000 clean");
    assert_eq!(scene.picture(), "0: 0 commit | 1 a=1 | 2 b=1\n");
    scene.hold(&[]);
    scene.run("clean +100 clean");
    assert_eq!(scene.picture(), "0: 1 a=1 | 2 b=1\n");
}

#[test]
fn of_several_aborted_transactions_of_one_segment_each_ends_with_its_own_marker() {
    let mut scene = Scene::new();
    scene.run("t7:a=1 t8:b=1 abort7 t7:c=1 commit7 t8:d=1 abort8 t7:e=1 abort7 p7:y=1 p8:z=1 roll clean");
    assert_eq!(
        scene.picture(),
        "0: 2 abort | 3 c=1 | 4 commit | 6 abort | 8 abort | 9 y=1 | 10 z=1\n"
    );
    let aborted = scene.log.aborted(&(Offset(0)..Offset(11))).expect("read");
    let of: Vec<_> = aborted
        .iter()
        .map(|one| (one.first_offset.0, one.last_offset.0))
        .collect();
    assert_eq!(of, [(0, 2), (1, 6), (7, 8)]);
    scene.run("x=1 roll clean +100 clean");
    assert_eq!(scene.picture(), "0: 3 c=1 | 4 commit | 9 y=1 | 10 z=1 | 11 x=1\n");
}

#[test]
fn markers_whose_records_are_gone_go_in_their_time_though_nobody_writes() {
    for end in ["commit7", "abort7"] {
        let mut scene = Scene::new();
        scene.run(&format!("t7:a=1 {end} p7:z=1 a=2 roll clean"));
        let mut passes = 0;
        while let Some(at) = scene.log.compaction(Timestamp(scene.now)).horizon_at {
            scene.now = at.0;
            assert_eq!(scene.log.compaction(at).due, Due::Horizon, "{end}");
            scene.run("clean");
            passes += 1;
            assert!(passes < 10, "{end}: there is an end");
        }
        assert_eq!(scene.picture(), "0: 2 z=1 | 3 a=2\n", "{end}");
        assert_eq!(scene.now, 200, "{end}");
    }
}
