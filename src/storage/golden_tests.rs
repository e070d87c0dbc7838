//! A data directory of format version 1, checked in: every build must open it and find what was put there.
//!
//! `tests/fixtures/v1/clean` was closed, `tests/fixtures/v1/killed` was not. Both were made once by [`make`], which is kept
//! to say what is in them, and are never edited: a build that cannot read them cannot read its users' data either.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::expect;

use super::testing::{forbid_scans, numbered, offsets, plain, read_all, records, small, spec};
use super::{Origin, Partition, Store, StoreConfig, Written};
use crate::env::{CacheLimits, FileCache, FileKind, Fs, OpenMode, RealFs, SimFs};
use crate::record::{Accepted, BatchOptions, Codec};
use crate::types::{LeaderEpoch, Offset, Timestamp};
use std::io::IoSlice;

const DIR: &str = "/data";
const ID_CLEAN: &str = "Id-dNIxM7a4BODH-QabP6w";
const ID_KILLED: &str = "-87L0X84mpJMwwbHsGXchw";
/// When the fixtures were made.
const THEN: Timestamp = Timestamp(1_700_000_000_000);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/v1")
        .join(name)
}

fn open(fs: Arc<dyn Fs>, dir: &Path) -> (Store, Arc<Partition>) {
    let files = Arc::new(FileCache::new(fs, CacheLimits::default()));
    let config = StoreConfig {
        dir: dir.to_owned(),
        threads: 1,
    };
    let store = Store::open(files, config).expect("the store opens");
    let log = store
        .open_partitions(vec![spec("golden", 7, small())], THEN)
        .remove(0)
        .expect("the log opens");
    (store, log)
}

/// What the fixtures hold.
fn make(fs: Arc<dyn Fs>, dir: &Path) -> (Store, Arc<Partition>) {
    let (store, log) = open(fs, dir);
    let append = |batch: &Accepted| log.append(batch, Origin::Client, THEN).expect("appended");
    for time in [5, 3, 9, 7] {
        append(&records(
            BatchOptions::default(),
            &[(THEN.0 + time, Some("key"), "value")],
        ));
    }
    for codec in Codec::ALL {
        let options = BatchOptions {
            codec,
            ..BatchOptions::default()
        };
        append(&records(
            options,
            &[(THEN.0, None, "first"), (THEN.0 + 1, None, "second")],
        ));
    }
    for sequence in 0..6 {
        append(&numbered(7, sequence, "numbered"));
    }
    store.sync(&[Arc::clone(&log)]).remove(0).expect("synced");
    log.raise_log_start(Offset(2)).expect("raised");
    store.checkpoint().expect("checkpointed");
    append(&plain("after the checkpoint"));
    store.sync(&[Arc::clone(&log)]).remove(0).expect("synced");
    (store, log)
}

#[test]
fn what_the_fixtures_hold_is_what_their_recipe_makes() {
    let (_store, made) = make(Arc::new(SimFs::new()), Path::new(DIR));
    let (_other, found) = open(Arc::new(load("clean")), Path::new(DIR));
    assert_eq!(offsets(&made), offsets(&found));
}

/// Loads a fixture into memory, so that opening it does not change the checkout.
fn load(name: &str) -> SimFs {
    let (real, fs) = (RealFs::default(), SimFs::new());
    let copy = |from: &Path, to: &Path| {
        let source = real.open(from, OpenMode::Read).expect("it is there");
        let mut bytes = vec![0; usize::try_from(source.len_bytes().expect("measured")).expect("small")];
        source.read_exact_at(&mut bytes, 0).expect("read");
        let target = fs.open(to, OpenMode::CreateNew).expect("made");
        target.write_all_at(&[IoSlice::new(&bytes)], 0).expect("written");
    };
    fs.create_dir(Path::new(DIR)).expect("made");
    for entry in real.list(&fixture(name)).expect("listed") {
        let (from, to) = (fixture(name).join(&entry.name), Path::new(DIR).join(&entry.name));
        if entry.kind != FileKind::Dir {
            copy(&from, &to);
            continue;
        }
        fs.create_dir(&to).expect("made");
        for inner in real.list(&from).expect("listed") {
            copy(&from.join(&inner.name), &to.join(&inner.name));
        }
    }
    fs
}

fn check(store: &Store, log: &Partition, id: &str) {
    assert_eq!(store.cluster_id(), id);
    assert_eq!(store.epoch(), LeaderEpoch(1));
    let view = log.watermarks();
    assert_eq!((view.log_start, view.log_end), (Offset(2), Offset(21)));
    expect![["[2, 3, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20]"]]
        .assert_eq(&format!("{:?}", offsets(log)));
    let mut crc = crc32fast::Hasher::new();
    for batch in read_all(log, 1 << 20).expect("every batch is sound") {
        crc.update(&batch.body);
    }
    expect!["c669a5e4"].assert_eq(&format!("{:08x}", crc.finalize()));
    let found = log
        .find_time(Timestamp(THEN.0 + 6), Offset(21))
        .expect("looked for")
        .expect("found");
    assert_eq!(found.offset, Offset(2));
    for sequence in 1..6 {
        let retry = log
            .append(&numbered(7, sequence, "numbered"), Origin::Client, THEN)
            .expect("known");
        assert_ne!(retry.written, Written::Now, "sequence {sequence}");
    }
    let next = log
        .append(&numbered(7, 6, "numbered"), Origin::Client, THEN)
        .expect("appended");
    assert_eq!(next.base_offset, Offset(21));
    assert_eq!(log.epoch_at(Offset(20)), Some(LeaderEpoch(0)));
}

#[test]
fn a_closed_directory_of_version_1_opens_without_a_look_into_a_log() {
    let fs = load("clean");
    forbid_scans(&fs);
    let (store, log) = open(Arc::new(fs), Path::new(DIR));
    assert_eq!(log.watermarks().log_end, Offset(21));
    drop((store, log));
    let (store, log) = open(Arc::new(load("clean")), Path::new(DIR));
    check(&store, &log, ID_CLEAN);
}

#[test]
fn a_killed_directory_of_version_1_is_recovered() {
    let (store, log) = open(Arc::new(load("killed")), Path::new(DIR));
    check(&store, &log, ID_KILLED);
}
