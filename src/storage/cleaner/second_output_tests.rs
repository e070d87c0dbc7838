//! A group that does not fit into one segment goes on in a second one.
//!
//! Segments are at most 2 GiB, so the limit is made small here; all else is what a pass does.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::segment::{Sealed, Segment};
use super::super::testing::fault;
use super::copy::{Copied, Copying, Found};
use super::gate::{CompactError, Gate, Pace, Step};
use super::grouping::Soundness;
use super::learn::Learning;
use super::output::OutputLimits;
use super::rebuild::BatchLimits;
use super::source::Source;
use super::survivors::{Rules, Survivors};
use super::swap;
use super::testing::{Scene, compacted};
use super::unread::Unread;
use crate::env::{Call, CrashChoice, Failure, SimFs};
use crate::record::DecompressLimit;
use crate::storage::AbortedTransaction;
use crate::types::{Offset, Timestamp};

/// The first three segments are one group, of whose eleven batches nine stay.
const SCRIPT: &str = "a=1 b=1 c=1 d=1 roll a=2 e=1 f=1 g=1 roll h=1 b=2 i=1 roll j=1 roll";
const LIMIT: DecompressLimit = DecompressLimit(8 << 20);
/// Bytes of one batch of the script.
const BATCH: u32 = 70;

fn sealed(scene: &Scene) -> Vec<Arc<Sealed>> {
    let segments = super::super::read::snapshot(&scene.log.segments);
    let sealed = segments.into_iter().filter_map(|segment| match segment {
        Segment::Sealed(sealed) => Some(sealed),
        Segment::Active(_) => None,
    });
    sealed.collect()
}

fn never_aborted(_: &Source, _: &std::ops::Range<Offset>) -> Result<Vec<AbortedTransaction>, CompactError> {
    Ok(Vec::new())
}

/// Cleans all sealed segments but the last into outputs of at most `max_bytes`, and swaps those in; returns how many.
fn clean_into(scene: &mut Scene, max_bytes: u32) -> Result<usize, CompactError> {
    let sources: Vec<Source> = sealed(scene)
        .windows(2)
        .map(|pair| Source {
            sealed: Arc::clone(&pair[0]),
            bound: pair[1].extent.base,
            soundness: Soundness::Sound,
        })
        .collect();
    let until = sources.last().expect("there are segments").bound;
    let log = Arc::clone(&scene.log);
    let mut budget = |_: Step| Pace::Go;
    let mut lend = |_: &mut dyn FnMut()| Ok(Offset::ZERO);
    let mut gate = Gate::new(&mut budget, &log.maintenance, &mut lend);
    scene.map.reset([1, 2], Offset(0), 100);
    Learning {
        files: &log.files,
        map: &mut scene.map,
        from: Offset(0),
        limit: LIMIT,
        aborted: &never_aborted,
        unread: &mut Unread::default(),
    }
    .run(&sources, &mut gate)?;
    let rules = Rules {
        map: &scene.map,
        learned_to: until,
        holds: &[],
        met_again: Offset(0)..Offset(0),
        unlearned_from: None,
        now: Timestamp(0),
        delete_horizon: Timestamp(100),
        limits: BatchLimits {
            decompressed: LIMIT,
            bytes: u32::MAX,
        },
    };
    let copying = Copying {
        fs: log.files.fs(),
        dir: &log.dir(),
        limits: OutputLimits {
            index_interval_bytes: 200,
            max_bytes,
            now: Timestamp(0),
        },
        aborted: &never_aborted,
    };
    let mut survivors = Survivors::new(rules, &[]);
    match copying.run(&sources, &mut survivors, &mut Found::default(), &mut gate)? {
        Copied::Changed(outputs) => {
            let count = outputs.len();
            swap::swap(&log, &sources, outputs)?;
            Ok(count)
        }
        other => panic!("{other:?}"),
    }
}

fn table(scene: &Scene) -> BTreeMap<String, Option<String>> {
    let records = scene.records().expect("read");
    records.into_iter().map(|(_, key, value)| (key, value)).collect()
}

fn bases(scene: &Scene) -> Vec<i64> {
    sealed(scene).iter().map(|sealed| sealed.extent.base.0).collect()
}

fn check(max_bytes: u32, expected: &[i64]) {
    let mut scene = Scene::new();
    scene.run(SCRIPT);
    let before = table(&scene);
    let count = clean_into(&mut scene, max_bytes).expect("cleaned");
    assert_eq!(count, expected.len());
    let survivors = scene.records().expect("read");
    let offsets: Vec<i64> = survivors.iter().map(|(offset, ..)| *offset).collect();
    assert_eq!(offsets, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    for how in ["", "restart", "close"] {
        scene.run(how);
        assert_eq!(scene.records().expect("read"), survivors, "{how}");
        assert_eq!(table(&scene), before, "{how}");
        let found = bases(&scene);
        assert_eq!(&found[..count], expected, "{how}");
        assert!(scene.files().iter().all(|name| !name.ends_with(".swap")), "{how}");
    }
}

#[test]
fn what_does_not_fit_into_one_segment_goes_on_in_others_and_a_start_finds_them_all() {
    check(u32::MAX, &[0]);
    check(5 * BATCH, &[0, 7]);
    check(2 * BATCH, &[0, 4, 6, 8, 10]);
    check(BATCH - 1, &[0, 3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_death_at_any_call_of_a_swap_of_two_segments_for_three_loses_nothing() {
    for death in 0.. {
        let fs = SimFs::new();
        let mut scene = Scene::on(fs.clone(), compacted(), 0);
        scene.run(SCRIPT);
        scene.store.checkpoint().expect("written");
        let expected = table(&scene);
        fs.fail_after(death);
        let lived = clean_into(&mut scene, 5 * BATCH).is_ok();
        let seeds = (0..4).map(CrashChoice::Random);
        for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll]
            .into_iter()
            .chain(seeds)
        {
            let again = Scene::try_on(fs.crash(choice), compacted(), 0);
            let again = again.unwrap_or_else(|error| panic!("death {death}, {choice:?}: {error}"));
            assert_eq!(table(&again), expected, "death {death}, {choice:?}");
            let found = bases(&again);
            let whole = found.starts_with(&[0, 4, 8]) || found.starts_with(&[0, 7, 11]);
            assert!(whole, "death {death}, {choice:?}: {found:?}");
        }
        if lived {
            assert!(death > 5, "a swap of two makes more calls than {death}");
            return;
        }
    }
}

/// A swap of which a step fails, and what is found when the machine dies at any later call.
fn check_given_up(call: Call, path: &str, times: u32) {
    for death in 0.. {
        let fs = SimFs::new();
        let mut scene = Scene::on(fs.clone(), compacted(), 0);
        scene.run(SCRIPT);
        scene.store.checkpoint().expect("written");
        let expected = table(&scene);
        fs.inject(fault(call, path, times, Failure::Kind(std::io::ErrorKind::Other)));
        fs.fail_after(death);
        let first = clean_into(&mut scene, 5 * BATCH);
        assert!(first.is_err(), "{call:?} {path}, death {death}: {first:?}");
        // Not every fault may have come yet.
        let lived = (0..3).any(|_| scene.clean().is_ok());
        let seeds = (0..3).map(CrashChoice::Random);
        for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll]
            .into_iter()
            .chain(seeds)
        {
            let told = format!("{call:?} {path}, death {death}, {choice:?}");
            let again = Scene::try_on(fs.crash(choice), compacted(), 0);
            let again = again.unwrap_or_else(|error| panic!("{told}: {error}"));
            let found = again.records().unwrap_or_else(|error| panic!("{told}: {error}"));
            let found: BTreeMap<_, _> = found.into_iter().map(|(_, key, value)| (key, value)).collect();
            assert_eq!(found, expected, "{told}: {:?}", bases(&again));
        }
        if lived {
            assert!(death > 5, "a swap of two makes more calls than {death}");
            return;
        }
    }
}

#[test]
fn a_death_while_a_swap_of_two_segments_that_failed_is_given_up_loses_nothing() {
    // The second output takes its `.swap` name, and the first cannot.
    check_given_up(Call::Rename, "00000000000000000000.log.cleaned", 1);
    check_given_up(Call::SyncDir, "t-0", 1);
    check_given_up(Call::SyncDir, "t-0", 2);
}
