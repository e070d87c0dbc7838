//! Every sync is needed: with any one switched off a promise is broken. None of the sources is forgotten by the sweeps, and each
//! has a name of its own: what is switched off is one call.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{CrashChoice, Ledger, Probe, SEEDS, Stop, World, disk, live, next_lives};
use crate::env::SyncSite;

/// Where syncs are not of the data directory: the file systems themselves, what measures a disk, and a folder that stands in for
/// an object store, which has a sweep of its own.
const NO_DATA: [&str; 3] = ["env", "bench", "tier"];

/// Calls `each` with name and text of every source under `dir`, tests aside.
fn sources(dir: &Path, each: &mut dyn FnMut(&str, &str)) {
    for entry in std::fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("listed").path();
        let name = path.to_string_lossy();
        let is_named = |names: &[&str]| {
            names
                .iter()
                .any(|name| path.file_name().is_some_and(|is| is == *name))
        };
        if path.is_dir() {
            if !is_named(&NO_DATA) && !is_named(&["tests"]) {
                sources(&path, each);
            }
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && !is_named(&["tests.rs"]) {
            each(&name, &std::fs::read_to_string(&path).expect("read"));
        }
    }
}

fn all_sources(each: &mut dyn FnMut(&str, &str)) {
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), each);
}

fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|symbol: char| !symbol.is_alphanumeric() && symbol != '_')
        .filter(move |found| *found == word)
}

#[test]
fn the_sweeps_come_to_every_sync_of_the_sources() {
    let mut world = World::new(disk(), Ledger::default());
    if let Err(stop) = live(&mut world) {
        panic!("{stop:?}");
    }
    let sites = world.fs.sync_sites();
    let mut swept: BTreeSet<String> = sites.iter().map(|site| site.0.to_owned()).collect();
    swept.extend(crate::storage::cleaner::SWEPT.map(str::to_owned));
    swept.extend(crate::storage::restore::SWEPT.map(str::to_owned));
    let mut written = BTreeSet::new();
    all_sources(&mut |_, text| {
        let literals = text.split("SyncSite(\"").skip(1);
        written.extend(literals.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    });
    assert_eq!(written, swept);
}

#[test]
fn every_sync_of_the_sources_has_a_name_that_no_other_call_has() {
    let mut names = BTreeSet::new();
    all_sources(&mut |file, text| {
        for line in text.lines().filter(|line| line.contains("SyncSite(")) {
            let constant = line
                .split_once("const ")
                .and_then(|(_, rest)| rest.split_once(": SyncSite = SyncSite(\""));
            let (constant, rest) = constant.unwrap_or_else(|| panic!("{file}: not a constant: {line}"));
            assert!(names.insert(rest.to_owned()), "{file}: twice: {line}");
            assert_eq!(
                words(text, constant).count(),
                2,
                "{file}: {constant} is defined and used once"
            );
        }
        for bare in [".sync_all(", ".sync_data()", "fsync("] {
            assert!(!text.contains(bare), "{file}: {bare} is a sync without a name");
        }
    });
    assert!(names.len() > 20, "{names:?}");
}

/// Runs the life with one sync switched off; the broken promise, if one shows.
fn violation_without(site: SyncSite, seeds: u64) -> Option<String> {
    let fs = disk();
    fs.disable_sync(site);
    let mut world = World::new(fs, Ledger::default());
    world.probe = Probe::Steps { seeds };
    match live(&mut world) {
        Ok(()) => None,
        Err(Stop::Died) => panic!("nobody ordered this death"),
        Err(Stop::Violated(why)) => Some(why),
    }
}

/// How many changes of the disk behind a sync are looked at, and with how many crashes each.
const BEHIND: u64 = 12;
const CRASHES: u64 = 40;

/// Runs the life with one sync switched off until soon after each time that it is due, and cuts the power there; the broken
/// promise, if one shows.
fn violation_behind(site: SyncSite) -> Option<String> {
    let deaths = calls_of(site)
        .into_iter()
        .flat_map(|call| call + 1..=call + BEHIND);
    deaths.collect::<BTreeSet<_>>().into_iter().find_map(|death| {
        let fs = disk();
        fs.disable_sync(site);
        fs.fail_after(death);
        let mut world = World::new(fs, Ledger::default());
        if let Err(Stop::Violated(why)) = live(&mut world) {
            return Some(why);
        }
        (0..CRASHES).find_map(|seed| {
            let after = next_lives(world.fs.crash(CrashChoice::Random(seed)), &world.ledger, seed);
            after
                .err()
                .map(|why| format!("died at {death}, seed {seed}: {why}"))
        })
    })
}

/// Which changes of the disk in a life are syncs of a site.
fn calls_of(site: SyncSite) -> Vec<u64> {
    let mut world = World::new(disk(), Ledger::default());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (noted, fs, before) = (Arc::clone(&calls), world.fs.clone(), world.fs.mutations());
    world.fs.watch_syncs(move |now| {
        if now == site {
            noted.lock().push(fs.mutations() - before);
        }
    });
    if let Err(stop) = live(&mut world) {
        panic!("with all syncs: {stop:?}");
    }
    // The disk and its watch hold each other.
    world.fs.watch_syncs(|_| {});
    let calls = std::mem::take(&mut *calls.lock());
    assert!(!calls.is_empty(), "{site:?}");
    calls
}

#[test]
fn without_any_one_sync_a_promise_is_broken() {
    let mut world = World::new(disk(), Ledger::default());
    if let Err(stop) = live(&mut world) {
        panic!("with all syncs: {stop:?}");
    }
    let mut wrong = Vec::new();
    for site in world.fs.sync_sites() {
        let violation = [2, SEEDS]
            .into_iter()
            .find_map(|seeds| violation_without(site, seeds))
            .or_else(|| violation_behind(site))
            .or_else(|| super::kills::violation_without(site))
            .or_else(|| super::kills::violation_in_the_next_start_without(site));
        if violation.is_none() {
            wrong.push(site.0);
        }
    }
    assert!(wrong.is_empty(), "their absence does not show: {wrong:?}");
}
