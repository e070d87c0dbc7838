//! A partition whose directory went away between two starts.

use std::sync::Arc;

use super::testing::{House, NOW, closed, names, offsets, open_store, path, plain, small, spec};
use super::{FirstBatch, Origin, Read, ReadError};
use crate::env::{CrashChoice, Fs as _, SimFs};
use crate::types::Offset;

/// Seven records, and then the directory lies where the operator put it.
fn moved_away() -> SimFs {
    let fs = closed(7);
    fs.rename(&path("t-0"), &path("elsewhere")).expect("moved");
    fs
}

fn bounds(house: &House) -> (i64, i64) {
    let view = house.log.watermarks();
    (view.log_start.0, view.log_end.0)
}

#[test]
fn a_partition_whose_directory_is_gone_gives_none_of_its_offsets_again() {
    let fs = moved_away();
    let house = House::on(fs);
    assert_eq!(bounds(&house), (7, 7));
    let read = Read {
        from: Offset(0),
        until: Offset(7),
        times: None,
        max_bytes: 1000,
        first: FirstBatch::Whole,
    };
    let lost = house.log.read(&read).expect_err("a reader is told");
    assert!(matches!(lost, ReadError::OutOfRange { .. }), "{lost}");

    // Neither after a stop, nor after a crash, with or without a minute's checkpoint.
    let house = House::on(house.close());
    house.store.checkpoint().expect("checkpointed");
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(bounds(&house), (7, 7));
    assert!(
        !names(&house.fs, "").contains(&"t-0".to_owned()),
        "nothing is made"
    );

    assert_eq!(house.acknowledge(&plain("new")), 7);
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!((bounds(&house), offsets(&house.log)), ((7, 8), vec![7]));
    let house = House::on(house.close());
    assert_eq!((bounds(&house), offsets(&house.log)), ((7, 8), vec![7]));
}

#[test]
fn a_directory_that_is_put_back_before_anything_is_written_has_its_records() {
    let house = House::on(moved_away());
    house.store.checkpoint().expect("checkpointed");
    let fs = house.close();
    fs.rename(&path("elsewhere"), &path("t-0")).expect("put back");
    let house = House::on(fs);
    assert_eq!(offsets(&house.log), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(house.acknowledge(&plain("next")), 7);
}

#[test]
fn a_directory_whose_logs_are_gone_counts_as_gone() {
    let fs = closed(7);
    fs.remove_dir_all(&path("t-0")).expect("removed");
    fs.create_dir(&path("t-0")).expect("made");
    let house = House::on(fs);
    assert_eq!(bounds(&house), (7, 7));
    assert_eq!(house.acknowledge(&plain("new")), 7);
}

#[test]
fn a_partition_that_is_made_under_the_name_of_one_that_is_gone_begins_at_zero() {
    let store = open_store(&moved_away()).expect("opened");
    let made = store.make_partitions(vec![spec("t", 2, small())], NOW);
    let log = made.into_iter().next().expect("one result").expect("made");
    assert_eq!(log.watermarks().log_end, Offset(0));
    let append = log.append(&plain("first"), Origin::Client, NOW);
    assert_eq!(append.expect("appended").base_offset, Offset(0));
    store.sync(&[Arc::clone(&log)]).remove(0).expect("synced");
}
