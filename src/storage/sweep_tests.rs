//! The crash sweep: one long life of a store, ended at every call that changes the disk, and what must be found afterwards.
//!
//! ```text
//!   life -- dies at call k, or is looked at after each step -- crash (lose, keep, tear) -- next life: verify, go on
//!    |                                                                                        |
//!    '--- writes down in a ledger what was promised, and what was tried   -------------------'
//! ```
//!
//! Promised: batches below the high watermark of a synced log, log starts of a finished checkpoint, that a removed partition
//! is gone, an epoch greater than those before, the cluster's id, a directory that was adopted, that no log of ours is taken
//! for another's and set aside. Tried: everything else that may be found; nothing but it may be. An adoption is found whole or
//! not at all, and its original as it was.
//! With any one sync of the code switched off the sweep fails.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::IoSlice;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use self::ledger::{Ledger, Promise};
use super::testing::{
    DATA, FOREIGN, NOW, Stored, adopt, body_of, fault, forbid_scans, foreign, foreign_files, names, numbered,
    open_one, open_store, open_store_in, path, plain, read_all, sized, small, spec,
};
use super::{LogConfig, Origin, Partition, Retention, Store};
use crate::env::{Call, CrashChoice, Failure, Fault, Fs as _, OpenMode, SimFs};
use crate::record::Accepted;
use crate::types::Offset;

/// Why a life ended before its end.
#[derive(Debug)]
enum Stop {
    /// As ordered.
    Died,
    /// A promise was broken.
    Violated(String),
}

/// Whether the disk is looked at after each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    No,
    Steps { seeds: u64 },
}

/// A running store, what is known of it, and the script's hands.
struct World {
    fs: SimFs,
    store: Option<Store>,
    open: BTreeMap<&'static str, Arc<Partition>>,
    ledger: Ledger,
    probe: Probe,
    steps: u64,
}

impl World {
    fn new(fs: SimFs, ledger: Ledger) -> Self {
        Self {
            fs,
            store: None,
            open: BTreeMap::new(),
            ledger,
            probe: Probe::No,
            steps: 0,
        }
    }

    fn stop(&self, what: &str, why: impl Display) -> Stop {
        if self.fs.free_bytes(Path::new("/")).is_err() {
            return Stop::Died;
        }
        Stop::Violated(format!("step {}: {what}: {why}", self.steps))
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("the script opened it")
    }

    fn log(&self, name: &str) -> Arc<Partition> {
        Arc::clone(&self.open[name])
    }

    /// Opens the store and every log of the ledger, and verifies them.
    fn start(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        let store = open_store(&self.fs).map_err(|error| self.stop("open", error))?;
        if self.ledger.epoch.is_some_and(|before| store.epoch() <= before) {
            return Err(self.stop("open", format!("epoch {} again", store.epoch())));
        }
        self.ledger.epoch = Some(store.epoch());
        let cluster = store.cluster_id().to_owned();
        if self
            .ledger
            .cluster
            .as_ref()
            .is_some_and(|before| *before != cluster)
        {
            return Err(self.stop("open", "another cluster id"));
        }
        self.ledger.cluster = Some(cluster);
        let found = store.found();
        for name in &self.ledger.gone {
            if found.iter().any(|id| id.topic.as_str() == *name) {
                return Err(self.stop(name, "removed, and there again"));
            }
        }
        self.store = Some(store);
        let logs: Vec<&'static str> = self.ledger.logs.keys().copied().collect();
        logs.into_iter().try_for_each(|name| self.open_log(name))?;
        let aside = names(&self.fs, "").into_iter();
        if let Some(aside) = aside.filter(|name| name.ends_with("-stray")).min() {
            return Err(self.stop("open", format!("{aside}: nobody else made a directory here")));
        }
        self.boundary()
    }

    fn open_log(&mut self, name: &'static str) -> Result<(), Stop> {
        let spec = self.ledger.log(name).spec.clone();
        let log = open_one(self.store(), spec).map_err(|error| self.stop(name, error))?;
        let verified = self.ledger.log(name).verify(&log);
        verified.map_err(|why| self.stop(name, why))?;
        self.open.insert(name, log);
        Ok(())
    }

    /// The process is gone without a word; the machine goes on.
    fn kill(&mut self) {
        self.open.clear();
        self.store = None;
    }

    fn create(&mut self, name: &'static str, id: u8) -> Result<(), Stop> {
        self.ledger.gone.retain(|gone| *gone != name);
        self.ledger
            .logs
            .insert(name, Promise::new(spec(name, id, small())));
        self.open_log(name)
    }

    /// Brings the foreign directory in.
    fn adopt(&mut self, name: &'static str, id: u8) -> Result<(), Stop> {
        self.steps += 1;
        let mut promise = Promise::new(spec(name, id, small()));
        promise.adopted = FOREIGN_BATCHES.clone();
        promise.tried = FOREIGN_BATCHES.iter().map(|batch| batch.body.clone()).collect();
        let spec = promise.spec.clone();
        self.ledger.logs.insert(name, promise);
        let from = Path::new(FOREIGN).join("f-0");
        let (log, _) = adopt(self.store(), &from, spec).map_err(|error| self.stop(name, error))?;
        let promise = self.ledger.log(name);
        let bring_in = FOREIGN_BATCHES.iter().map(|batch| (batch.base, batch.clone()));
        promise.confirmed = bring_in.collect();
        let verified = promise.verify(&log);
        verified.map_err(|why| self.stop(name, why))?;
        self.ledger.epoch = Some(self.store().epoch());
        self.open.insert(name, log);
        if foreign_files(&self.fs) != foreign_files(&DISK) {
            return Err(self.stop(name, "the original of an adoption was altered"));
        }
        self.boundary()
    }

    /// The file that says whose directory it is gets damaged.
    fn damage_metadata(&mut self, name: &'static str) -> Result<(), Stop> {
        let path = path(&format!("{name}-0/partition.metadata"));
        let file = self.fs.open(&path, OpenMode::ReadWrite);
        let damaged = file.and_then(|file| file.write_all_at(&[IoSlice::new(b"????")], 0));
        damaged.map_err(|error| self.stop(name, error))
    }

    fn append(&mut self, name: &'static str, batch: &Accepted) -> Result<(), Stop> {
        self.steps += 1;
        let log = self.log(name);
        let promise = self.ledger.log(name);
        let body = body_of(batch.bytes());
        promise.tried.insert(body.clone());
        let header = batch.header();
        if header.producer.is_some() && !header.is_transactional() {
            promise.numbered.push(batch.clone());
        }
        let origin = if header.is_control() {
            Origin::Coordinator
        } else {
            Origin::Client
        };
        let append = log
            .append(batch, origin, NOW)
            .map_err(|error| self.stop(name, error))?;
        let stored = Stored {
            base: append.base_offset,
            next: append.last_offset.next(),
            epoch: self.store().epoch(),
            body,
        };
        let noted = self.ledger.log(name).note(&stored);
        noted.map_err(|why| self.stop(name, why))?;
        self.ledger.log(name).appended.push(stored);
        self.boundary()
    }

    /// Appends `count` plain batches whose values are new.
    fn fill(&mut self, name: &'static str, count: usize) -> Result<(), Stop> {
        for _ in 0..count {
            let value = format!(
                "{name}: value of step {}, {}",
                self.steps,
                self.ledger.log(name).tried.len()
            );
            self.append(name, &plain(&value))?;
        }
        Ok(())
    }

    fn number(&mut self, name: &'static str, count: usize) -> Result<(), Stop> {
        for _ in 0..count {
            let sequence = self.ledger.log(name).numbered.len();
            let batch = numbered(7, i32::try_from(sequence).expect("few"), "numbered");
            self.append(name, &batch)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Stop> {
        let all: Vec<_> = self.open.values().cloned().collect();
        for result in self.store().sync(&all) {
            result.map_err(|error| self.stop("sync", error))?;
        }
        self.confirm()
    }

    fn confirm(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        for (name, log) in &self.open {
            self.ledger
                .logs
                .get_mut(name)
                .expect("open")
                .confirm(log.watermarks().high_watermark);
        }
        self.boundary()
    }

    fn checkpoint(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        let done = self.store().checkpoint();
        done.map_err(|error| self.stop("checkpoint", error))?;
        for (name, log) in &self.open {
            self.ledger.logs.get_mut(name).expect("open").kept_start = log.watermarks().log_start;
        }
        self.boundary()
    }

    fn raise(&mut self, name: &'static str, to: i64) -> Result<(), Stop> {
        self.ledger.log(name).asked_start = Offset(to);
        let raised = self.open[name].raise_log_start(Offset(to));
        raised.map_err(|error| self.stop(name, error)).map(drop)
    }

    /// A look of retention that leaves at least `bytes`.
    fn retain(&mut self, name: &'static str, bytes: u64) -> Result<(), Stop> {
        self.look(name, bytes)?;
        self.confirm()
    }

    fn look(&mut self, name: &'static str, bytes: u64) -> Result<(), Stop> {
        self.steps += 1;
        let log = self.log(name);
        log.configure(
            LogConfig {
                retention: Retention {
                    ms: None,
                    bytes: Some(bytes),
                },
                ..small()
            },
            NOW,
        );
        let plan = log.retention_plan(NOW);
        if plan.deletions.is_empty() {
            return Err(self.stop(name, "the script has retention delete something"));
        }
        let promise = self.ledger.log(name);
        promise.asked_start = promise.asked_start.max(plan.log_start);
        for retained in self.store().retain(std::slice::from_ref(&log), NOW) {
            if let Some(error) = retained.failure {
                return Err(self.stop(name, error));
            }
        }
        log.configure(small(), NOW);
        self.ledger.log(name).kept_start = log.watermarks().log_start;
        Ok(())
    }

    /// As [`World::retain`], on a disk without a free byte.
    fn retain_on_full_disk(&mut self, name: &'static str, bytes: u64) -> Result<(), Stop> {
        let size = 1 << 30;
        self.fs.set_capacity_bytes(size);
        let free = self.fs.free_bytes(Path::new("/")).unwrap_or(size);
        self.fs.set_capacity_bytes(size - free);
        let looked = self.look(name, bytes);
        self.fs.set_capacity_bytes(u64::MAX);
        looked?;
        self.confirm()
    }

    fn remove(&mut self, name: &'static str) -> Result<(), Stop> {
        self.steps += 1;
        let promise = self.ledger.logs.remove(name).expect("the script created it");
        self.open.remove(name);
        let removed = self
            .store()
            .remove_partitions(std::slice::from_ref(&promise.spec.id));
        removed.map_err(|error| self.stop(name, error))?;
        self.ledger.gone.push(name);
        self.boundary()
    }

    /// The next sync of a log fails; the log is repaired.
    fn fail_sync(&mut self, name: &'static str, failure: Failure) -> Result<(), Stop> {
        let failing = fault(Call::SyncData, &format!("{DATA}/{name}-0"), 1, failure);
        self.fail(name, failing)
    }

    /// The next sync of the names of a new log fails, that of its own name too; the log is repaired.
    fn fail_sync_of_names(&mut self, name: &'static str) -> Result<(), Stop> {
        self.fail(name, fault(Call::SyncDir, DATA, 2, Failure::Os(5)))
    }

    fn fail(&mut self, name: &'static str, failing: Fault) -> Result<(), Stop> {
        let log = self.log(name);
        self.fs.inject(failing);
        let synced = self.store().sync(&[Arc::clone(&log)]).remove(0);
        if synced.is_ok() {
            return Err(self.stop(name, "a failed sync passes as success"));
        }
        let view = log.watermarks();
        self.ledger.log(name).lost.push(view.recovery_point..view.log_end);
        log.repair(NOW).map_err(|error| self.stop(name, error))?;
        let left = read_all(&log, 300).map_err(|why| self.stop(name, why))?;
        let promise = self.ledger.log(name);
        promise.appended.retain(|stored| left.contains(stored));
        self.confirm()
    }

    /// An append finds the disk full half-way; then there is room again.
    fn fill_disk(&mut self, name: &'static str) -> Result<(), Stop> {
        let size = 1 << 30;
        self.fs.set_capacity_bytes(size);
        let free = self.fs.free_bytes(Path::new("/")).unwrap_or(size);
        self.fs.set_capacity_bytes(size - free + 70);
        let appended = self.log(name).append(&sized(300), Origin::Client, NOW);
        self.fs.set_capacity_bytes(u64::MAX);
        if appended.is_ok() {
            return Err(self.stop(name, "appended to a full disk"));
        }
        self.boundary()
    }

    fn close(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        self.store().close().map_err(|error| self.stop("close", error))?;
        for (name, log) in &self.open {
            let promise = self.ledger.logs.get_mut(name).expect("open");
            let view = log.watermarks();
            promise.confirm(view.high_watermark);
            promise.kept_start = view.log_start;
        }
        self.kill();
        self.boundary()?;
        // What was closed opens without a look into a log, also after the power went.
        for choice in choices(self.probe, self.steps) {
            let fs = self.fs.crash(choice);
            forbid_scans(&fs);
            let marker = fs.stat(&Path::new(DATA).join(".kafka_cleanshutdown"));
            if marker.map(|stat| stat.len_bytes).unwrap_or(0) == 0 {
                return Err(self.stop("clean open", "a marker that Kafka cannot read"));
            }
            let store = open_store(&fs).map_err(|error| self.stop("clean open", error))?;
            for promise in self.ledger.logs.values() {
                let opened = open_one(&store, promise.spec.clone());
                opened.map_err(|error| self.stop("clean open", error))?;
            }
        }
        Ok(())
    }

    /// What a crash at this very moment would leave must keep every promise.
    fn boundary(&self) -> Result<(), Stop> {
        for choice in choices(self.probe, self.steps) {
            let after = next_lives(self.fs.crash(choice), &self.ledger, self.steps);
            after.map_err(|why| self.stop("crash", format!("{choice:?}: {why}")))?;
        }
        Ok(())
    }
}

fn choices(probe: Probe, at: u64) -> Vec<CrashChoice> {
    let Probe::Steps { seeds } = probe else {
        return Vec::new();
    };
    let random = (0..seeds).map(|seed| CrashChoice::Random(at * 101 + seed));
    [CrashChoice::LoseAll, CrashChoice::KeepAll]
        .into_iter()
        .chain(random)
        .collect()
}

/// A directory to adopt, and nothing else.
static DISK: LazyLock<SimFs> = LazyLock::new(foreign);

static FOREIGN_BATCHES: LazyLock<Vec<Stored>> = LazyLock::new(|| {
    let store = open_store_in(&disk(), FOREIGN).expect("the store opens");
    let log = open_one(&store, spec("f", 9, small())).expect("the partition opens");
    read_all(&log, 300).expect("the log is read")
});

/// A copy of it, as made by somebody who synced the names and not the bytes.
fn disk() -> SimFs {
    let fs = DISK.crash(CrashChoice::KeepAll);
    let original = foreign_files(&fs);
    let open = |fs: &SimFs, file: &str| {
        let path = Path::new(FOREIGN).join("f-0").join(file);
        fs.open(&path, OpenMode::ReadWrite).expect("it is there")
    };
    for (file, _) in &original {
        open(&fs, file).set_len(0).expect("cut");
    }
    let fs = fs.crash(CrashChoice::KeepAll);
    for (file, bytes) in &original {
        let written = open(&fs, file).write_all_at(&[IoSlice::new(bytes)], 0);
        written.expect("written");
    }
    fs
}

/// The life that is swept: whatever a store does, on a handful of logs.
fn live(world: &mut World) -> Result<(), Stop> {
    world.start()?;
    world.create("d", 5)?;
    world.fill("d", 1)?;
    world.sync()?;
    world.remove("d")?;
    world.create("a", 1)?;
    world.create("b", 2)?;
    world.fill("a", 3)?;
    world.number("a", 3)?;
    world.sync()?;
    world.fill("b", 9)?;
    world.sync()?;
    world.raise("b", 5)?;
    world.checkpoint()?;
    world.number("a", 7)?;
    world.sync()?;
    world.fill("a", 9)?;
    world.kill();
    world.start()?;
    world.fill("a", 2)?;
    world.number("a", 1)?;
    world.adopt("c", 4)?;
    world.fill("c", 1)?;
    world.raise("a", 4)?;
    world.checkpoint()?;
    world.fill_disk("a")?;
    world.create("e", 6)?;
    world.fill("e", 2)?;
    world.fail_sync_of_names("e")?;
    world.close()?;
    world.start()?;
    world.kill();
    world.damage_metadata("c")?;
    world.start()?;
    live_on(world)
}

fn live_on(world: &mut World) -> Result<(), Stop> {
    world.append("a", &sized(700))?;
    world.sync()?;
    world.fill("a", 2)?;
    world.fail_sync("a", Failure::Os(5))?;
    world.fill("a", 1)?;
    world.sync()?;
    world.fill("a", 3)?;
    world.fail_sync("a", Failure::LosesDirtyPages)?;
    world.checkpoint()?;
    world.fill("a", 1)?;
    world.remove("b")?;
    world.create("b", 3)?;
    world.fill("b", 2)?;
    world.sync()?;
    world.number("a", 2)?;
    world.kill();
    world.start()?;
    world.fill("a", 1)?;
    world.sync()?;
    world.retain("a", 1500)?;
    world.fill("a", 9)?;
    world.sync()?;
    world.retain_on_full_disk("a", 1)?;
    world.number("a", 1)?;
    world.sync()?;
    world.retain("a", 0)?;
    world.fill("a", 2)?;
    world.number("a", 1)?;
    world.sync()?;
    world.append("a", &sized(700))?;
    world.retain("a", 1)?;
    transactions::transact(world)?;
    world.checkpoint()?;
    world.kill();
    world.start()?;
    transactions::decide(world)?;
    world.close()?;
    world.start()?;
    world.retain("a", 0)?;
    world.close()
}

/// Opens what a crash left, goes on writing, crashes again and opens that, then closes.
fn next_lives(fs: SimFs, ledger: &Ledger, seed: u64) -> Result<(), String> {
    let mut world = World::new(fs, ledger.clone());
    let original = foreign_files(&world.fs);
    let lived = second_life(&mut world).and_then(|()| {
        if foreign_files(&world.fs) != original {
            return Err(world.stop("open", "the original of an adoption was altered"));
        }
        let choice = if seed.is_multiple_of(2) {
            CrashChoice::LoseAll
        } else {
            CrashChoice::Random(seed)
        };
        let mut third = World::new(world.fs.crash(choice), world.ledger.clone());
        third.start()
    });
    match lived {
        Ok(()) => Ok(()),
        Err(Stop::Died) => Err("nobody ordered this death".to_owned()),
        Err(Stop::Violated(why)) => Err(why),
    }
}

fn second_life(world: &mut World) -> Result<(), Stop> {
    world.start()?;
    // A start needs no room; what is written from here on does.
    world.fs.set_capacity_bytes(u64::MAX);
    for (name, log) in &world.open {
        world.ledger.logs[name]
            .retry(log)
            .map_err(|why| world.stop(name, why))?;
    }
    let names: Vec<&'static str> = world.open.keys().copied().collect();
    for name in &names {
        world.fill(name, 1)?;
    }
    world.sync()?;
    for name in names {
        world.fill(name, 5)?;
    }
    Ok(())
}

/// Lives until the `death`-th change of the disk; returns the world as it was left.
fn live_until(death: u64) -> World {
    let fs = disk();
    fs.fail_after(death);
    let mut world = World::new(fs, Ledger::default());
    match live(&mut world) {
        Ok(()) => panic!("it did not die at {death}"),
        Err(Stop::Died) => {}
        Err(Stop::Violated(why)) => panic!("before its death at {death}: {why}"),
    }
    world
}

fn check_after(world: &World, choice: CrashChoice, death: u64) {
    if let Err(why) = next_lives(world.fs.crash(choice), &world.ledger, death) {
        panic!("died at call {death}, {choice:?}: {why}");
    }
}

fn calls_of_a_life() -> u64 {
    let mut world = World::new(disk(), Ledger::default());
    let before = world.fs.mutations();
    if let Err(stop) = live(&mut world) {
        panic!("{stop:?}");
    }
    assert_eq!(foreign_files(&world.fs), foreign_files(&DISK));
    world.fs.mutations() - before
}

#[test]
fn a_death_at_any_call_breaks_no_promise() {
    for death in 0..calls_of_a_life() {
        let world = live_until(death);
        for choice in [
            CrashChoice::LoseAll,
            CrashChoice::KeepAll,
            CrashChoice::Random(death),
            CrashChoice::Random(death + 10_007),
        ] {
            check_after(&world, choice, death);
        }
    }
}

#[test]
fn a_second_death_during_recovery_breaks_no_promise() {
    for death in (0..calls_of_a_life()).step_by(5) {
        let world = live_until(death);
        let found = world.fs.crash(CrashChoice::Random(death));
        for again in [0, 1, 3, 6, 10, 15] {
            // A fresh copy of the same disk: a crash of one on which nothing happened changes nothing.
            let fs = found.crash(CrashChoice::KeepAll);
            fs.fail_after(again);
            let mut second = World::new(fs, world.ledger.clone());
            match second.start() {
                Ok(()) | Err(Stop::Died) => {}
                Err(Stop::Violated(why)) => panic!("died at {death} and {again}: {why}"),
            }
            check_after(&second, CrashChoice::Random(death + again), death);
        }
    }
}

/// Random crashes after each step: with fewer, most broken promises show.
const SEEDS: u64 = 12;

#[test]
fn a_crash_after_any_step_breaks_no_promise() {
    let mut world = World::new(disk(), Ledger::default());
    world.probe = Probe::Steps { seeds: SEEDS };
    if let Err(stop) = live(&mut world) {
        panic!("{stop:?}");
    }
}

#[path = "sweep_kill_tests.rs"]
mod kills;
#[path = "sweep_ledger_tests.rs"]
mod ledger;
#[path = "sweep_sites_tests.rs"]
mod sites;
#[path = "sweep_transactions_tests.rs"]
mod transactions;
