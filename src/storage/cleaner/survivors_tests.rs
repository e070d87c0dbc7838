//! What becomes of batches that cannot be built anew as they should.

use super::super::super::{LogConfig, OffsetMap};
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
