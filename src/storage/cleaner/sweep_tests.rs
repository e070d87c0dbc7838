//! The crash sweep of passes: a life of appends and passes, ended at every call that changes the disk, and what must be found.
//!
//! Promised: the table that the synced records say, for a reader from the log start. With any sync of a pass switched off a
//! promise is broken.

use std::collections::BTreeMap;

use super::super::{Hold, LogConfig};
use super::testing::{Scene, compacted};
use crate::env::{CrashChoice, SimFs, SyncSite};
use crate::types::Offset;

/// The syncs of a pass.
pub(in crate::storage) const SWEPT: [&str; 5] = [
    "cleaned log",
    "directory of finished cleaned logs",
    "directory without cleaned logs' originals",
    "directory of cleaned logs that a start swaps",
    "directory without what a start's swaps replace",
];
/// Steps of a life; what they append is synced when they are done.
const LIFE: [&str; 14] = [
    "a=1 b=1 p7:c=1",
    "roll",
    "a=2 d=1 b=~",
    "roll",
    "e=1 a=3",
    "roll",
    "clean",
    "+200 f=1 c=~",
    "roll",
    "clean",
    "+200 a=4",
    "roll",
    "clean",
    "clean",
];
const SEEDS: u64 = 6;

type Table = BTreeMap<String, String>;

/// What a life has promised.
#[derive(Clone, Default, Debug)]
struct Promise {
    synced: Table,
    /// What the table may be instead, while an append is not yet synced.
    tried: Vec<Table>,
}

impl Promise {
    fn append(&mut self, step: &str) {
        let record = step.split(':').next_back().expect("a record");
        let (key, value) = record.split_once('=').expect("key=value");
        let mut table = self.tried.last().unwrap_or(&self.synced).clone();
        if value == "~" {
            table.remove(key);
        } else {
            table.insert(key.to_owned(), value.to_owned());
        }
        self.tried.push(table);
    }

    fn confirm(&mut self) {
        if let Some(last) = self.tried.pop() {
            self.synced = last;
        }
        self.tried.clear();
    }

    fn allows(&self, found: &Table) -> bool {
        *found == self.synced || self.tried.contains(found)
    }
}

fn table(scene: &Scene) -> Result<Table, String> {
    let mut table = Table::new();
    for (_, key, value) in scene.records()? {
        match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
    }
    Ok(table)
}

/// Lives until the disk dies. `Ok` tells that it lived to the end.
fn live(fs: &SimFs, promise: &mut Promise, each: &mut dyn FnMut(&Promise)) -> Result<(), String> {
    let mut scene = Scene::try_on(fs.clone(), compacted(), 0)?;
    for steps in LIFE {
        for step in steps.split_whitespace() {
            match step {
                "roll" => drop(
                    scene
                        .log
                        .roll_for_compaction(crate::types::Timestamp(scene.now), super::RollFor::Command),
                ),
                "clean" => drop(scene.clean().map_err(|error| error.to_string())?),
                step => match step.strip_prefix('+') {
                    Some(ms) => scene.now += ms.parse::<i64>().expect("milliseconds"),
                    None => {
                        promise.append(step);
                        scene.try_append(step)?;
                    }
                },
            }
        }
        let synced = scene.store.sync(&[std::sync::Arc::clone(&scene.log)]).remove(0);
        synced.map_err(|error| error.to_string())?;
        promise.confirm();
        scene.store.checkpoint().map_err(|error| error.to_string())?;
        each(promise);
    }
    Ok(())
}

/// What a crash leaves keeps the promise, also after one more pass and one more start.
fn verify(crashed: SimFs, promise: &Promise) -> Result<(), String> {
    let mut scene = Scene::try_on(crashed, compacted(), 1000)?;
    let found = table(&scene)?;
    if !promise.allows(&found) {
        return Err(format!("found {found:?}, promised {promise:?}"));
    }
    let bounds = |scene: &Scene| -> Vec<_> {
        let segments = super::super::read::snapshot(&scene.log.segments);
        segments.iter().map(|segment| segment.bounds()).collect()
    };
    if bounds(&scene).windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(format!("segments overlap: {:?}", bounds(&scene)));
    }
    scene.run("z=1");
    scene.roll();
    scene.clean().map_err(|error| error.to_string())?;
    let again = table(&scene)?;
    let mut expected = found;
    expected.insert("z".to_owned(), "1".to_owned());
    if again != expected {
        return Err(format!("found {again:?} after a pass, expected {expected:?}"));
    }
    scene.run("close");
    let reopened = table(&scene)?;
    if reopened != expected {
        return Err(format!("found {reopened:?} after a start, expected {expected:?}"));
    }
    Ok(())
}

fn choices() -> impl Iterator<Item = CrashChoice> {
    let seeds = (0..SEEDS).map(CrashChoice::Random);
    [CrashChoice::LoseAll, CrashChoice::KeepAll]
        .into_iter()
        .chain(seeds)
}

/// Dies at every call, or at every `stride`th.
fn sweep(disabled: Option<SyncSite>, stride: usize) -> Result<(), String> {
    let disk = || {
        let fs = SimFs::new();
        disabled.inspect(|site| fs.disable_sync(*site));
        fs
    };
    let whole = disk();
    live(&whole, &mut Promise::default(), &mut |_| {})?;
    for death in (0..whole.mutations()).step_by(stride) {
        let fs = disk();
        fs.fail_after(death);
        let mut promise = Promise::default();
        let lived = live(&fs, &mut promise, &mut |_| {});
        if lived.is_ok() {
            return Err(format!("call {death} was not reached"));
        }
        for choice in choices() {
            verify(fs.crash(choice), &promise).map_err(|why| format!("death {death}, {choice:?}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_death_at_any_call_of_a_pass_breaks_no_promise() {
    sweep(None, 1).expect("no promise is broken");
}

/// How a life ends before the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    /// What was not synced may be lost.
    PowerCut,
    /// The machine goes on, with all that was written.
    Kill,
}

/// Returns the disk that the next start finds.
fn disk_after(call: u64, death: Death, disk: SimFs, promise: &mut Promise) -> SimFs {
    disk.fail_after(call);
    live(&disk, promise, &mut |_| {}).expect_err("it dies");
    match death {
        Death::PowerCut => disk.crash(CrashChoice::Random(call)),
        Death::Kill => {
            disk.revive();
            disk
        }
    }
}

/// What is lost by chance must be lost in the one way that shows that a sync is missing.
const SEEDS_OF_ABSENCE: u64 = 6;

/// Dies at every call, then again, of a power cut, in the start that follows.
fn sweep_starts(disabled: Option<SyncSite>) -> Result<(), String> {
    let disk = || {
        let fs = SimFs::new();
        disabled.inspect(|site| fs.disable_sync(*site));
        fs
    };
    let whole = disk();
    live(&whole, &mut Promise::default(), &mut |_| {})?;
    for call in 0..whole.mutations() {
        for death in [Death::PowerCut, Death::Kill] {
            // The calls of a start that finds a pass cut off.
            for again in [3, 4, 5, 6, 7, 8, 9, 10, 11] {
                let mut promise = Promise::default();
                let fs = disk_after(call, death, disk(), &mut promise);
                fs.fail_after(again);
                drop(Scene::try_on(fs.clone(), compacted(), 1000));
                for seed in 0..if disabled.is_some() { SEEDS_OF_ABSENCE } else { 1 } {
                    let choice = CrashChoice::Random(call + again + 1009 * seed);
                    verify(fs.crash(choice), &promise)
                        .map_err(|why| format!("{death:?} at {call}, again at {again}, {choice:?}: {why}"))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_power_cut_in_the_start_after_a_death_of_a_pass_breaks_no_promise() {
    sweep_starts(None).expect("no promise is broken");
}

#[test]
fn without_any_one_sync_of_a_pass_a_promise_is_broken() {
    for site in SWEPT {
        assert!(
            sweep(Some(SyncSite(site)), 1)
                .and_then(|()| sweep_starts(Some(SyncSite(site))))
                .is_err(),
            "{site}: its absence does not show"
        );
    }
}

/// How far a life with a hold came.
#[derive(Clone, Copy, Default, Debug)]
struct HeldLife {
    synced: bool,
    /// The end of the hold is written down, where topics are kept.
    ended: bool,
}

impl HeldLife {
    /// How the next start opens the log.
    fn config(self) -> LogConfig {
        let held = Hold::Offsets(Offset(0)..Offset(1));
        LogConfig {
            holds: Some(held).filter(|_| !self.ended).into_iter().collect(),
            ..compacted()
        }
    }

    /// A held record, a tombstone above it whose horizon is long over, the end of the hold, and the pass that follows.
    fn live(&mut self, fs: &SimFs) -> Result<(), String> {
        let mut scene = Scene::try_on(fs.clone(), self.config(), 0)?;
        for step in ["a=1", "b=1", "a=~"] {
            scene.try_append(step)?;
        }
        let rolled = scene
            .log
            .roll_for_compaction(crate::types::Timestamp(0), super::RollFor::Command);
        rolled.map_err(|error| error.to_string())?;
        let synced = scene.store.sync(&[std::sync::Arc::clone(&scene.log)]).remove(0);
        synced.map_err(|error| error.to_string())?;
        self.synced = true;
        scene.clean().map_err(|error| error.to_string())?;
        scene.store.checkpoint().map_err(|error| error.to_string())?;
        scene.now = HOLD_ENDS_AT;
        self.ended = true;
        scene
            .log
            .configure(self.config(), crate::types::Timestamp(scene.now));
        scene.clean().map_err(|error| error.to_string())?;
        let written = scene.store.checkpoint_cleaner_points();
        written.map_err(|error| error.to_string())
    }

    /// A reader that stood behind the held record finds the tombstone until its time, anew from the end of the hold, is over.
    fn verify(self, crashed: SimFs) -> Result<(), String> {
        let mut scene = Scene::try_on(crashed, self.config(), HOLD_ENDS_AT)?;
        for later_ms in [0, 50, 40] {
            scene.now += later_ms;
            scene.clean().map_err(|error| error.to_string())?;
            let found = scene.records()?;
            if self.synced && !found.contains(&(2, "a".to_owned(), None)) {
                return Err(format!("at {} there is {found:?}", scene.now));
            }
        }
        Ok(())
    }
}

const HOLD_ENDS_AT: i64 = 200;

#[test]
fn a_death_at_any_call_around_the_end_of_a_hold_takes_no_tombstone_before_its_time() {
    let whole = SimFs::new();
    HeldLife::default().live(&whole).expect("it lives");
    for death in 0..whole.mutations() {
        let fs = SimFs::new();
        fs.fail_after(death);
        let mut life = HeldLife::default();
        assert!(life.live(&fs).is_err(), "call {death} was not reached");
        for choice in choices() {
            let verified = life.verify(fs.crash(choice));
            verified.unwrap_or_else(|why| panic!("death {death}, {choice:?}, {life:?}: {why}"));
        }
    }
}
