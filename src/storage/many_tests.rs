//! Many partitions at once: what they share, and what each of them costs in syncs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::testing::{DATA, House, NOW, offsets, open_one, open_store, path, plain, small, spec};
use super::{Origin, Partition, PartitionSpec, Store, StoreConfig};
use crate::env::{CacheLimits, CrashChoice, FileCache, Fs as _, SimFs, SyncSite};
use crate::types::{PartitionId, TopicPartition};

const COUNT: i32 = 300;

/// Syncs by site.
#[derive(Clone, Default)]
struct Syncs(Arc<Mutex<BTreeMap<&'static str, i32>>>);

impl Syncs {
    fn of(fs: &SimFs) -> Self {
        let syncs = Self::default();
        let seen = syncs.clone();
        fs.watch_syncs(move |site: SyncSite| *seen.0.lock().entry(site.0).or_default() += 1);
        syncs
    }

    /// Those since the last look.
    fn take(&self) -> BTreeMap<&'static str, i32> {
        std::mem::take(&mut self.0.lock())
    }
}

fn open_many(store: &Store) -> Vec<Arc<Partition>> {
    open_some(store, COUNT)
}

fn open_some(store: &Store, count: i32) -> Vec<Arc<Partition>> {
    let template = spec("t", 1, small());
    let numbered = |number| PartitionSpec {
        id: TopicPartition::new(template.id.topic.clone(), PartitionId(number)),
        ..template.clone()
    };
    let opened = store.open_partitions((0..count).map(numbered).collect(), NOW);
    opened.into_iter().map(|log| log.expect("opened")).collect()
}

fn append(log: &Partition) {
    log.append(&plain("first"), Origin::Client, NOW)
        .expect("appended");
}

fn written(fs: &SimFs) -> (Store, Vec<Arc<Partition>>) {
    let store = open_store(fs).expect("opened");
    let logs = open_many(&store);
    logs.iter().for_each(|log| append(log));
    for synced in store.sync(&logs) {
        synced.expect("synced");
    }
    (store, logs)
}

#[test]
fn new_partitions_are_opened_without_a_sync_and_their_first_round_shares_the_data_directory() {
    let fs = SimFs::new();
    let store = open_store(&fs).expect("opened");
    let syncs = Syncs::of(&fs);
    let before = fs.mutations();
    let logs = open_many(&store);
    assert_eq!(fs.mutations(), before, "nothing is made before the first append");
    for log in &logs {
        log.open(NOW).expect("opened");
    }
    assert_eq!(syncs.take(), BTreeMap::new());
    logs.iter().for_each(|log| append(log));
    for synced in store.sync(&logs) {
        synced.expect("synced");
    }
    let expected = [
        ("data directory with a new partition", 1),
        ("log", COUNT),
        ("partition directory", COUNT),
        ("topic ids of new partitions", COUNT),
    ];
    assert_eq!(syncs.take(), BTreeMap::from(expected));
}

#[test]
fn many_partitions_are_removed_with_one_sync_of_their_names() {
    let fs = SimFs::new();
    let (store, logs) = written(&fs);
    let ids: Vec<_> = logs.iter().map(|log| log.id().clone()).collect();
    let syncs = Syncs::of(&fs);
    let removed = store.remove_partitions(&ids).expect("removed");
    assert_eq!(removed.len(), logs.len());
    assert_eq!(
        syncs.take().get("data directory with a renamed partition"),
        Some(&1)
    );
    let crashed = fs.crash(CrashChoice::LoseAll);
    let store = open_store(&crashed).expect("opened");
    assert_eq!(store.found(), [], "their names are gone before their files");
    let listed = crashed.list(&path("")).expect("listed");
    assert!(
        listed.iter().all(|entry| !entry.name.ends_with("-delete")),
        "what was left of them went at the start"
    );
}

/// A wait that only a defect makes long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Threads that sync recovered logs: each waits for a second one.
#[derive(Default)]
struct Meeting {
    state: Mutex<MeetingState>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum MeetingState {
    #[default]
    Nobody,
    One,
    Met,
    GivenUp,
}

impl Meeting {
    fn attend(&self) {
        let mut state = self.state.lock();
        match *state {
            MeetingState::Nobody => *state = MeetingState::One,
            MeetingState::One => {
                *state = MeetingState::Met;
                self.changed.notify_all();
            }
            MeetingState::Met | MeetingState::GivenUp => return,
        }
        while *state == MeetingState::One {
            if self.changed.wait_for(&mut state, PATIENCE).timed_out() {
                *state = MeetingState::GivenUp;
            }
        }
    }
}

#[test]
fn partitions_are_recovered_beside_each_other() {
    let fs = SimFs::new();
    drop(written(&fs));
    let files = FileCache::new(Arc::new(fs.clone()), CacheLimits::default());
    let config = StoreConfig {
        dir: DATA.into(),
        threads: 2,
    };
    let store = Store::open(Arc::new(files), config).expect("opened");
    let meeting = Arc::new(Meeting::default());
    let met = Arc::clone(&meeting);
    fs.watch_syncs(move |site| {
        if site.0 == "recovered logs" {
            met.attend();
        }
    });
    for log in open_many(&store) {
        assert_eq!(offsets(&log), [0]);
    }
    assert_eq!(*meeting.state.lock(), MeetingState::Met, "one after the other");
}

#[test]
fn a_stop_syncs_three_small_files_and_one_directory_of_a_partition() {
    let fs = SimFs::new();
    let (store, _logs) = written(&fs);
    let syncs = Syncs::of(&fs);
    store.close().expect("closed").clean().expect("clean");
    let taken = syncs.take();
    // The time index, the epochs, the manifest.
    assert_eq!(taken.get("replaced files"), Some(&(3 * COUNT)));
    assert_eq!(taken.get("directories of replaced files"), Some(&COUNT));
    assert_eq!(taken.get("log"), None, "nothing was unsynced");
    let store = open_store(&fs.crash(CrashChoice::LoseAll)).expect("opened");
    for log in open_many(&store) {
        assert_eq!(offsets(&log), [0]);
    }
}

#[test]
fn a_stop_makes_all_new_files_before_it_replaces_an_old_one() {
    let fs = SimFs::new();
    let store = open_store(&fs).expect("opened");
    let logs = open_some(&store, 100);
    logs.iter().for_each(|log| append(log));
    for synced in store.sync(&logs) {
        synced.expect("synced");
    }
    let (disk, seen) = (fs.clone(), Arc::new(Mutex::new((0, 0))));
    let told = Arc::clone(&seen);
    fs.watch_syncs(move |site| {
        if site.0 == "replaced files" {
            let there = |number: &i32| {
                let epochs = format!("t-{number}/leader-epoch-checkpoint");
                disk.stat(&path(&epochs)).is_ok()
            };
            let mut told = told.lock();
            *told = (told.0 + 1, told.1.max((0..100).filter(there).count()));
        }
    });
    store.close().expect("closed").clean().expect("clean");
    assert_eq!(
        *seen.lock(),
        (300, 0),
        "syncs, and files that had their names then"
    );
}

#[test]
fn a_log_that_died_before_its_first_sync_is_kept_without_the_file_of_its_topic() {
    let house = House::new();
    house.append(&plain("written"));
    let fs = house.fs.crash(CrashChoice::KeepAll);
    for lost in ["partition.metadata", "siltstone.manifest"] {
        fs.remove_file(&path("t-0").join(lost)).expect("it was there");
    }
    let store = open_store(&fs).expect("opened");
    let log = open_one(&store, spec("t", 1, small())).expect("opened");
    assert_eq!(offsets(&log), [0], "its directory is not another topic's");
}

#[test]
fn a_first_sync_that_failed_writes_the_file_of_the_topic_again() {
    let house = House::new();
    house.append(&plain("doubtful"));
    house.fs.inject(super::testing::fault(
        crate::env::Call::SyncData,
        "partition.metadata",
        1,
        crate::env::Failure::LosesDirtyPages,
    ));
    house.sync().expect_err("the sync fails");
    house.log.repair(NOW).expect("repaired");
    house.acknowledge(&plain("safe"));
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::LoseAll);
    fs.remove_file(&path("t-0").join("siltstone.manifest"))
        .expect("it was there");
    let log = House::on(fs).log;
    assert_eq!(offsets(&log).len(), 2, "it is its topic's");
}
