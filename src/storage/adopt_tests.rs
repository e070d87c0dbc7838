//! Adopted logs: what is shared with the original is never written, and what goes on does so where the original stopped.

use std::path::PathBuf;

use super::testing::{
    FOREIGN, House, NOW, adopt, damage, ended, foreign, foreign_files, names, numbered, offsets, open_one,
    open_store, open_store_in, path, plain, small, spec, transactional,
};
use super::{LogConfig, Origin};
use crate::env::{CrashChoice, FileStat, Fs as _, OpenMode, SimFs};
use crate::record::Outcome;
use crate::types::Offset;

/// Adopts [`foreign`] as `t-0`.
fn adopted() -> House {
    let fs = foreign();
    let store = open_store(&fs).expect("opened");
    let from = PathBuf::from(FOREIGN).join("f-0");
    let (log, report) = adopt(&store, &from, spec("t", 1, small())).expect("adopted");
    assert!(report.segments > 2 && report.batches == 30, "{report:?}");
    House { fs, store, log }
}

#[test]
fn an_adopted_log_that_must_be_cut_is_cut_as_a_copy() {
    let house = adopted();
    let fs = house.fs.crash(CrashChoice::KeepAll);
    // As if no checkpoint had vouched for it yet.
    fs.remove_file(&path("recovery-point-offset-checkpoint"))
        .expect("removed");
    let first = "t-0/00000000000000000000.log";
    let FileStat { len_bytes, links, .. } = fs.stat(&path(first)).expect("there");
    assert_eq!(links, 2, "it is a second name of the original");
    damage(&fs, first, len_bytes - 3, b"bad");
    let original = foreign_files(&fs);
    let left = offsets(&House::on(fs.clone()).log);
    assert!(!left.is_empty() && left.len() < 30, "{left:?}");
    assert_eq!(foreign_files(&fs), original);
    assert_eq!(fs.stat(&path(first)).expect("there").links, 1);
}

#[test]
fn an_adopted_log_is_not_appended_to_when_it_is_the_last_one_left() {
    let house = adopted();
    let fs = house.fs.crash(CrashChoice::KeepAll);
    fs.remove_file(&path("recovery-point-offset-checkpoint"))
        .expect("removed");
    for name in names(&fs, "t-0")
        .into_iter()
        .filter(|name| name.ends_with(".log"))
    {
        if name != "00000000000000000000.log" {
            fs.remove_file(&path("t-0").join(name)).expect("removed");
        }
    }
    let original = foreign_files(&fs);
    let house = House::with(fs.clone(), LogConfig::default());
    let next = house.log.watermarks().log_end.0;
    assert_eq!(house.acknowledge(&plain("of our own")), next);
    assert_eq!(foreign_files(&fs), original);
}

#[test]
fn the_last_stable_offset_of_an_adopted_log_stays_at_its_open_transaction() {
    let fs = SimFs::new();
    let store = open_store_in(&fs, FOREIGN).expect("opened");
    let log = open_one(&store, spec("f", 9, small())).expect("opened");
    let append = |batch| log.append(&batch, Origin::Client, NOW).expect("appended");
    append(plain("before"));
    append(transactional(7, 0, "undecided"));
    for _ in 0..12 {
        append(plain("behind it"));
    }
    store.close().expect("closed").clean().expect("clean");

    let store = open_store(&fs).expect("opened");
    let from = PathBuf::from(FOREIGN).join("f-0");
    let (log, _) = adopt(&store, &from, spec("t", 1, small())).expect("adopted");
    let house = House { fs, store, log };
    let stable = |house: &House| house.log.watermarks().last_stable;
    assert_eq!(stable(&house), Offset(1));
    assert_eq!(house.acknowledge(&plain("of our own")), 14);
    assert_eq!(stable(&house), Offset(1), "a record behind it decides nothing");

    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(stable(&house), Offset(1), "after a crash");
    let house = House::on(house.close());
    assert_eq!(stable(&house), Offset(1), "after a stop");
    house
        .log
        .append(&ended(7, Outcome::Abort), Origin::Coordinator, NOW)
        .expect("its marker");
    house.sync().expect("synced");
    assert_eq!(stable(&house), Offset(16));
    let aborted = house
        .log
        .reader()
        .aborted(&(Offset(0)..Offset(16)))
        .expect("read");
    assert_eq!((aborted.len(), aborted[0].first_offset), (1, Offset(1)));
}

#[test]
fn producer_ids_that_leave_too_few_for_others_are_refused() {
    for (id, good) in [(i64::MAX / 2, true), (i64::MAX / 2 + 1, false), (i64::MAX, false)] {
        let fs = SimFs::new();
        let store = open_store_in(&fs, FOREIGN).expect("opened");
        let log = open_one(&store, spec("f", 9, small())).expect("opened");
        log.append(&numbered(id, 0, "far"), Origin::Client, NOW)
            .expect("appended");
        store.close().expect("closed").clean().expect("clean");
        let store = open_store(&fs).expect("opened");
        let from = PathBuf::from(FOREIGN).join("f-0");
        match adopt(&store, &from, spec("t", 1, small())) {
            Ok(_) => assert!(good, "{id}"),
            Err(error) => assert!(
                !good && error.to_string().contains(&format!("producer id {id}")),
                "{id}: {error}"
            ),
        }
    }
}

#[test]
fn an_empty_log_between_others_is_left_out() {
    let fs = SimFs::new();
    let store = open_store_in(&fs, FOREIGN).expect("opened");
    let log = open_one(&store, spec("f", 9, small())).expect("opened");
    for _ in 0..30 {
        log.append(&plain("a record"), Origin::Client, NOW)
            .expect("appended");
    }
    store.close().expect("closed").clean().expect("clean");
    let from = PathBuf::from(FOREIGN).join("f-0");
    let listed = fs.list(&from).expect("listed").into_iter();
    let logs: Vec<String> = listed
        .map(|entry| entry.name)
        .filter(|name| name.ends_with(".log"))
        .collect();
    let base = |name: &str| -> i64 { name.trim_end_matches(".log").parse().expect("an offset") };
    let (second, third) = (base(&logs[1]), base(&logs[2]));
    // Compaction has taken all of the second one.
    let file = fs.open(&from.join(&logs[1]), OpenMode::ReadWrite);
    file.expect("there").set_len(0).expect("emptied");
    let store = open_store(&fs).expect("opened");
    let (log, report) = adopt(&store, &from, spec("t", 1, small())).expect("adopted");
    let left: Vec<i64> = (0..second).chain(third..30).collect();
    assert_eq!(offsets(&log), left);
    assert_eq!(i64::try_from(report.missing_offsets), Ok(third - second));
    let fs = fs.crash(CrashChoice::KeepAll);
    fs.remove_file(&path("t-0/siltstone.manifest")).expect("removed");
    assert_eq!(offsets(&House::on(fs).log), left, "nothing is told to be missing");
}
