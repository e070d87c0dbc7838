//! A store that is refused something: room for a copy, its data directory, a log that is gone. And rolls that come sooner by a
//! jitter.

use std::path::Path;
use std::sync::Arc;

use super::LogConfig;
use super::testing::{House, NOW, closed, fault, names, offsets, open_store, plain, records, small};
use crate::env::{Call, Failure, Fs as _, SimFs};
use crate::record::BatchOptions;

#[test]
fn a_repair_that_finds_no_room_takes_none() {
    for call in [Call::Write, Call::SyncData, Call::Rename] {
        let house = House::new();
        house.acknowledge(&plain("safe"));
        house.append(&plain("kept by the page cache"));
        house.fs.inject(fault(Call::SyncData, ".log", 1, Failure::Os(5)));
        house.sync().expect_err("the sync fails");
        let full = Failure::Kind(std::io::ErrorKind::StorageFull);
        house.fs.inject(fault(call, ".cleaned", 1, full));
        house.log.repair(NOW).expect_err("no room");
        let left = names(&house.fs, "t-0");
        assert!(
            !left.iter().any(|name| name.ends_with(".cleaned")),
            "{call:?}: {left:?}"
        );
        house.log.repair(NOW).expect("repaired");
        assert_eq!(offsets(&house.log), [0, 1]);
    }
}

#[test]
fn a_data_directory_that_may_not_be_used_is_told_with_what_to_do() {
    let denied = Failure::Kind(std::io::ErrorKind::PermissionDenied);
    let fs = closed(3);
    fs.inject(fault(Call::Open, ".lock", 1, denied));
    let said = open_store(&fs).expect_err("it may not be locked").to_string();
    assert!(
        said.contains("/data") && said.contains("choose another data directory"),
        "{said}"
    );
    // Its ids are made right before it is listed.
    let fs = SimFs::new();
    let listing = fs.clone();
    fs.watch_syncs(move |site| {
        if site.0 == "meta.properties" {
            listing.inject(fault(Call::Look, "/data", 1, denied));
        }
    });
    let said = open_store(&fs).expect_err("it may not be listed").to_string();
    assert!(
        said.contains("/data") && said.contains("choose another data directory"),
        "{said}"
    );
}

#[test]
fn a_sync_of_a_log_that_is_gone_makes_no_file() {
    let house = House::new();
    house.append(&plain("gone before its sync"));
    let first: Arc<Path> = house.log.dir().join("00000000000000000000.log").into();
    let (fs, files, gone) = (house.fs.clone(), Arc::clone(&house.log.files), Arc::clone(&first));
    house.fs.watch_syncs(move |site| {
        if site.0 == "topic ids of new partitions" {
            fs.remove_file(&gone).expect("removed");
            drop(files.forget(&gone));
        }
    });
    house.sync().expect_err("there is nothing to sync");
    assert!(house.fs.stat(&first).is_err(), "an empty log in its place");
}

#[test]
fn a_roll_by_time_comes_sooner_by_a_jitter_that_stays_the_same_for_its_segment() {
    let config = LogConfig {
        segment_ms: 1_000,
        segment_jitter_ms: 400,
        ..small()
    };
    // The greatest span of records that the segment of this base takes.
    let span = |base: i64| {
        let holds = |ms: i64| {
            let house = House::with(SimFs::new(), config.clone());
            for _ in 0..base {
                house.append(&plain("before"));
            }
            if base > 0 {
                let late = NOW.0 + 1_001;
                house.append(&records(BatchOptions::default(), &[(late, None, "rolls")]));
            }
            let begun = house.log.describe().segments;
            let first = if base > 0 { NOW.0 + 1_001 } else { NOW.0 };
            if base == 0 {
                house.append(&plain("first"));
            }
            house.append(&records(BatchOptions::default(), &[(first + ms, None, "last")]));
            house.log.describe().segments == begun.max(1)
        };
        let spans: Vec<i64> = (0..=1_001).collect();
        spans[spans.partition_point(|ms| holds(*ms)) - 1]
    };
    let spans: Vec<i64> = (0..4).map(span).collect();
    assert!(spans.iter().all(|span| (601..=1_000).contains(span)), "{spans:?}");
    assert!(spans.iter().any(|span| *span != spans[0]), "{spans:?}");
    assert_eq!(spans, (0..4).map(span).collect::<Vec<_>>());
}
