//! A store that meets trouble: failed syncs, full disks, damaged files, directories left half-way. Each test is named by what
//! must hold; those on recovery follow the checklist of Kafka's own tests, and say where this store differs on purpose.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::{
    House, NOW, closed, cut, damage, fault, forbid_scans, killed, names, numbered, offsets, open_one,
    open_store, path, plain, read_all, records, sized, small, spec, vouched,
};
use super::{
    AppendError, Durability, FirstBatch, LogConfig, MANIFEST_FILE_NAME, Origin, PartitionSpec, Read,
    ReadError, Store, StoreConfig, SyncDue, Written,
};
use crate::env::{CacheLimits, Call, CrashChoice, Failure, FileCache, Fs, OpenMode, RealFs, SimFs};
use crate::record::BatchOptions;
use crate::types::{Offset, PartitionId, Timestamp, TopicPartition};

fn set_free(fs: &SimFs, bytes: u64) {
    let size = 1 << 30;
    fs.set_capacity_bytes(size);
    let free = fs.free_bytes(&path("")).expect("measured");
    fs.set_capacity_bytes(size - free + bytes);
}

#[test]
fn a_stop_syncs_the_directory_of_each_partition_once() {
    let house = House::new();
    let other = open_one(&house.store, spec("u", 2, small())).expect("the partition opens");
    other.append(&plain("a"), Origin::Client, NOW).expect("appended");
    house.append(&plain("a"));
    for synced in house.store.sync(&[Arc::clone(&house.log), other]) {
        synced.expect("synced");
    }
    let syncs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&syncs);
    house.fs.watch_syncs(move |site| {
        if site.0 == "directories of replaced files" {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    house.close();
    assert_eq!(syncs.load(Ordering::Relaxed), 2);
}

#[test]
fn a_topic_made_again_under_an_old_name_starts_at_zero_and_keeps_what_it_acknowledges() {
    let house = House::new();
    for _ in 0..10 {
        house.acknowledge(&plain("old"));
    }
    house.log.raise_log_start(Offset(8)).expect("raised");
    house.store.checkpoint().expect("checkpointed");
    house
        .store
        .remove_partitions(std::slice::from_ref(house.log.id()))
        .expect("removed");
    let again = open_one(&house.store, spec("t", 2, small())).expect("made again");
    assert_eq!(again.watermarks().log_start, Offset(0));
    again
        .append(&plain("new"), Origin::Client, NOW)
        .expect("appended");
    house.store.sync(&[again]).remove(0).expect("synced");
    let store = open_store(&house.fs.crash(CrashChoice::LoseAll)).expect("opened");
    let again = open_one(&store, spec("t", 2, small())).expect("opened");
    assert_eq!(offsets(&again), [0]);
}

#[test]
fn a_partition_that_is_not_open_keeps_its_checkpointed_log_start() {
    let house = House::new();
    for _ in 0..10 {
        house.acknowledge(&plain("kept"));
    }
    house.log.raise_log_start(Offset(8)).expect("raised");
    let fs = house.close();
    let store = open_store(&fs).expect("opened");
    store.checkpoint().expect("checkpointed");
    let house = House::on(fs.crash(CrashChoice::LoseAll));
    assert_eq!(offsets(&house.log), [8, 9]);
}

#[test]
fn an_empty_directory_left_by_a_dead_start_takes_records_that_stay() {
    let fs = SimFs::new();
    open_store(&fs).expect("opened");
    fs.create_dir(&path("t-0")).expect("made");
    let house = House::on(fs);
    house.acknowledge(&plain("first"));
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(offsets(&house.log), [0]);
}

#[test]
fn a_retry_is_recognised_across_many_small_segments_and_a_crash() {
    let house = House::new();
    for sequence in 0..5 {
        house.acknowledge(&numbered(7, sequence, "once"));
        house.acknowledge(&sized(700));
    }
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    for sequence in 0..5 {
        let again = house
            .log
            .append(&numbered(7, sequence, "once"), Origin::Client, NOW)
            .expect("known");
        assert_ne!(again.written, Written::Now);
        assert_eq!(again.base_offset.0, i64::from(sequence) * 2);
    }
}

#[test]
fn a_log_recovered_and_closed_without_a_write_is_not_read_by_the_next_start() {
    let fs = closed(20);
    forbid_scans(&fs);
    assert_eq!(House::on(fs).log.watermarks().log_end, Offset(20));
}

#[test]
fn offsets_lost_to_a_failed_sync_are_not_given_again_after_a_crash() {
    let house = House::new();
    house.acknowledge(&plain("safe"));
    house.append(&plain("never on disk"));
    house
        .fs
        .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
    house.sync().expect_err("the sync fails");
    house.log.repair(NOW).expect("repaired");
    house.store.checkpoint().expect("checkpointed");
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(house.append(&plain("next")), 2);
}

#[test]
fn damage_below_the_recovery_point_cuts_nothing() {
    let (fs, first) = vouched(5);
    let before = fs.stat(&path(&first)).expect("there").len_bytes;
    damage(&fs, &first, 200, b"damage");
    let house = House::on(fs);
    assert_eq!(house.fs.stat(&path(&first)).expect("there").len_bytes, before);
    assert_eq!(house.append(&plain("next")), 5);
}

#[test]
fn the_greatest_timestamp_is_that_of_a_record_that_can_be_read() {
    let house = House::new();
    let times = [
        (NOW.0 + 9, None, "a"),
        (NOW.0 + 3, None, "b"),
        (NOW.0 + 7, None, "c"),
    ];
    house.acknowledge(&records(BatchOptions::default(), &times));
    house.log.raise_log_start(Offset(1)).expect("raised");
    let found = |bound| {
        house
            .log
            .find_max_timestamp(Offset(bound))
            .expect("looked for")
            .expect("found")
            .offset
    };
    assert_eq!((found(3), found(2)), (Offset(2), Offset(1)));
}

#[test]
fn a_failed_sync_refuses_writes_until_the_repair_and_loses_nothing_acknowledged() {
    let house = House::new();
    for _ in 0..9 {
        house.acknowledge(&plain("safe"));
    }
    house.append(&plain("unsafe"));
    house
        .fs
        .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
    house.sync().expect_err("the sync fails");
    let refused = house.log.append(&plain("refused"), Origin::Client, NOW);
    assert!(matches!(refused, Err(AppendError::Refused { .. })));
    assert!(house.store.close().is_err(), "only recovery may judge it");
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(offsets(&house.log).len(), 9);
}

#[test]
fn whoever_looks_at_a_log_under_repair_is_answered_at_once() {
    let house = House::new();
    house.acknowledge(&plain("safe"));
    house.append(&plain("lost"));
    house
        .fs
        .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
    house.sync().expect_err("the sync fails");
    let looks = Arc::new(AtomicUsize::new(0));
    let (log, seen) = (Arc::clone(&house.log), Arc::clone(&looks));
    house.fs.watch_syncs(move |site| {
        assert!(
            log.writer.try_lock().is_some() && log.segments.try_write().is_some(),
            "the repair syncs {site:?} under a lock"
        );
        assert!(log.refusal().is_some() && log.describe().refusal.is_some());
        assert_eq!(log.sync_due(NOW), SyncDue::No);
        let refused = log.append(&plain("too early"), Origin::Client, NOW);
        assert!(matches!(refused, Err(AppendError::Refused { .. })));
        let visible = Read {
            from: Offset(0),
            until: log.watermarks().high_watermark,
            times: None,
            max_bytes: 1 << 20,
            first: FirstBatch::Whole,
        };
        assert_eq!(log.read(&visible).expect("read").next_offset, Offset(1));
        seen.fetch_add(1, Ordering::Relaxed);
    });
    house.log.repair(NOW).expect("repaired");
    assert!(looks.load(Ordering::Relaxed) >= 3, "a copy and two directories");
    assert_eq!(house.append(&plain("after")), 2);
}

#[test]
fn a_deleted_log_is_not_repaired() {
    let house = House::new();
    house.acknowledge(&plain("old"));
    house.append(&plain("lost"));
    house
        .fs
        .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
    house.sync().expect_err("the sync fails");
    house
        .store
        .remove_partitions(std::slice::from_ref(house.log.id()))
        .expect("removed");
    let again = open_one(&house.store, spec("t", 2, small())).expect("made again");
    again
        .append(&plain("new"), Origin::Client, NOW)
        .expect("appended");
    let before = house.fs.mutations();
    house.log.repair(NOW).expect("nothing to do");
    assert_eq!(
        house.fs.mutations(),
        before,
        "the files of the new log are left alone"
    );
    assert_eq!(house.log.refusal().as_deref(), Some("t-0 is deleted"));
}

#[test]
fn a_repair_that_fails_can_be_tried_again() {
    let house = House::new();
    house.acknowledge(&plain("safe"));
    house.append(&plain("kept by the page cache"));
    house.fs.inject(fault(Call::SyncData, ".log", 1, Failure::Os(5)));
    house.sync().expect_err("the sync fails");
    house
        .fs
        .inject(fault(Call::SyncData, ".cleaned", 1, Failure::LosesDirtyPages));
    house.log.repair(NOW).expect_err("the copy's sync fails");
    house.log.repair(NOW).expect("repaired");
    assert_eq!(offsets(&house.log), [0, 1]);
    house.acknowledge(&plain("goes on"));
    let house = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(offsets(&house.log), [0, 1, 2]);
}

#[test]
fn a_full_disk_refuses_appends_and_rolls_and_takes_them_when_there_is_room() {
    for free in [0, 50, 700] {
        let house = House::new();
        for _ in 0..6 {
            house.acknowledge(&plain("before"));
        }
        set_free(&house.fs, free);
        let error = house
            .log
            .append(&sized(750), Origin::Client, NOW)
            .expect_err("no room");
        assert!(matches!(error, AppendError::Storage(error) if error.is_disk_full()));
        assert_eq!(offsets(&house.log).len(), 6, "reads go on");
        house.fs.set_capacity_bytes(u64::MAX);
        assert_eq!(house.acknowledge(&sized(750)), 6);
        let house = House::on(house.fs.crash(CrashChoice::LoseAll));
        assert_eq!(offsets(&house.log).len(), 7);
    }
}

#[test]
fn a_close_on_a_full_disk_is_told_from_a_clean_one_and_the_next_start_recovers_everything_without_a_free_byte()
 {
    let house = House::new();
    for _ in 0..20 {
        house.acknowledge(&plain("acknowledged"));
    }
    set_free(&house.fs, 0);
    let closing = house.store.close().expect("every batch is safe");
    assert!(closing.clean().expect_err("no room").is_disk_full());
    for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll, CrashChoice::Random(3)] {
        let fs = house.fs.crash(choice);
        set_free(&fs, 0);
        assert_eq!(offsets(&House::on(fs).log).len(), 20);
    }
}

#[test]
fn damaged_and_missing_indexes_are_rebuilt_when_they_are_used() {
    let fs = closed(40);
    for name in names(&fs, "t-0") {
        let name = format!("t-0/{name}");
        if name.ends_with(".index") {
            fs.remove_file(&path(&name)).expect("removed");
        } else if name.ends_with(".timeindex") {
            damage(&fs, &name, 0, &[0xff; 30]);
        }
    }
    let house = House::on(fs);
    assert_eq!(offsets(&house.log).len(), 40);
    let found = house
        .log
        .find_time(NOW, Offset(40))
        .expect("looked for")
        .expect("found");
    assert_eq!(found.offset, Offset(0));
    let later = Timestamp(NOW.0 + 1);
    assert_eq!(house.log.find_time(later, Offset(40)).expect("looked for"), None);
}

#[test]
fn garbage_in_indexes_without_a_clean_marker_is_replaced() {
    let fs = closed(40);
    fs.remove_file(&path(".kafka_cleanshutdown")).expect("removed");
    for name in names(&fs, "t-0").iter().filter(|name| name.ends_with("index")) {
        damage(&fs, &format!("t-0/{name}"), 0, b"garbage");
    }
    let fs = House::on(fs).close();
    assert_eq!(offsets(&House::on(fs).log).len(), 40);
}

#[test]
fn a_damaged_manifest_is_no_loss() {
    for (position, bytes) in [(0, &b"x"[..]), (40, &[0xff; 20]), (90, b"middle")] {
        let fs = closed(20);
        damage(&fs, &format!("t-0/{MANIFEST_FILE_NAME}"), position, bytes);
        assert_eq!(offsets(&House::on(fs).log).len(), 20);
    }
}

#[test]
fn a_damaged_recovery_point_checkpoint_makes_the_start_verify_everything() {
    let fs = killed(20);
    let house = House::on(fs);
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    damage(&fs, "recovery-point-offset-checkpoint", 0, b"damage");
    let first = "t-0/00000000000000000000.log";
    let len = fs.stat(&path(first)).expect("there").len_bytes;
    damage(&fs, first, len - 3, b"bad");
    assert!(offsets(&House::on(fs).log).len() < 20, "what is damaged is found");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    damage(&fs, "recovery-point-offset-checkpoint", 0, b"damage");
    assert_eq!(offsets(&House::on(fs).log).len(), 20);
}

#[test]
fn a_missing_epoch_file_of_the_log_is_restored_from_its_batches() {
    let fs = closed(3);
    let house = House::on(fs);
    house.acknowledge(&plain("of another epoch"));
    let epochs = [house.log.epoch_at(Offset(0)), house.log.epoch_at(Offset(3))];
    let fs = house.close();
    fs.remove_file(&path(".kafka_cleanshutdown")).expect("removed");
    fs.remove_file(&path("t-0/leader-epoch-checkpoint"))
        .expect("removed");
    let house = House::on(fs);
    assert_eq!(
        [house.log.epoch_at(Offset(0)), house.log.epoch_at(Offset(3))],
        epochs
    );
}

#[test]
fn a_missing_epoch_file_of_the_store_takes_its_epoch_from_the_partitions() {
    let fs = closed(3);
    let house = House::on(fs);
    let before = house.store.epoch();
    house.acknowledge(&plain("of this epoch"));
    let fs = house.close();
    fs.remove_file(&path("siltstone.epoch")).expect("removed");
    assert!(House::on(fs).store.epoch() > before);
}

#[test]
fn an_epoch_that_no_file_tells_is_taken_from_the_newest_batches_and_the_manifest() {
    let fs = closed(3);
    let house = House::on(fs);
    let before = house.store.epoch();
    house.acknowledge(&plain("of this epoch"));
    let lose = |fs: &SimFs| {
        fs.remove_file(&path("siltstone.epoch")).expect("removed");
        fs.remove_file(&path("t-0/leader-epoch-checkpoint"))
            .expect("removed");
    };
    let killed = house.fs.crash(CrashChoice::LoseAll);
    lose(&killed);
    assert!(House::on(killed).store.epoch() > before, "as the batches tell");
    let start_without_a_write = House::on(house.close());
    let before = start_without_a_write.store.epoch();
    start_without_a_write.acknowledge(&plain("of a later epoch"));
    let fs = start_without_a_write.close();
    lose(&fs);
    let log = "t-0/00000000000000000000.log";
    cut(&fs, log, 0);
    assert!(House::on(fs).store.epoch() > before, "as the manifest tells");
}

#[test]
fn a_damaged_log_start_checkpoint_does_not_bring_deleted_records_back() {
    for stop in [Stopped::Clean, Stopped::Killed] {
        let house = House::on(killed(20));
        house.log.raise_log_start(Offset(5)).expect("raised");
        let fs = house.close();
        let fs = match stop {
            Stopped::Clean => fs,
            Stopped::Killed => {
                let house = House::on(fs);
                house.acknowledge(&plain("opens the log again"));
                house.fs.crash(CrashChoice::KeepAll)
            }
        };
        damage(&fs, "log-start-offset-checkpoint", 0, b"damage");
        let house = House::on(fs);
        assert_eq!(house.log.watermarks().log_start, Offset(5), "{stop:?}");
        assert_eq!(offsets(&house.log)[0], 5);
    }
}

/// How a store ended.
#[derive(Clone, Copy, Debug)]
enum Stopped {
    Clean,
    Killed,
}

#[test]
fn half_a_batch_at_the_end_is_cut_and_later_segments_go() {
    let fs = killed(20);
    let logs: Vec<_> = names(&fs, "t-0")
        .into_iter()
        .filter(|name| name.ends_with(".log"))
        .collect();
    assert!(logs.len() > 2, "{logs:?}");
    let second = format!("t-0/{}", logs[1]);
    let len = fs.stat(&path(&second)).expect("there").len_bytes;
    cut(&fs, &second, len - 10);
    let left = offsets(&House::on(fs.clone()).log);
    let second_base: i64 = logs[1].trim_end_matches(".log").parse().expect("a base offset");
    let third_base: i64 = logs[2].trim_end_matches(".log").parse().expect("a base offset");
    assert!(*left.last().expect("some") < third_base - 1 && left.contains(&second_base));
    assert!(!names(&fs, "t-0").contains(&logs[2]));
}

#[test]
fn leftovers_of_replacements_and_indexes_without_a_log_are_removed() {
    let fs = killed(3);
    for name in [
        "00000000000000000007.index",
        "00000000000000000000.log.cleaned",
        "00000000000000000000.log.deleted",
        "00000000000000000000.timeindex.swap",
    ] {
        fs.open(&path("t-0").join(name), OpenMode::CreateNew)
            .expect("made");
    }
    let house = House::on(fs);
    assert_eq!(offsets(&house.log), [0, 1, 2]);
    let left = names(&house.fs, "t-0");
    assert!(
        !left.iter().any(|name| name.contains("07.index")
            || name.ends_with(".cleaned")
            || name.ends_with(".deleted")),
        "{left:?}"
    );
}

#[test]
fn a_log_start_beyond_the_log_end_begins_the_log_anew_there() {
    let fs = killed(3);
    let file = fs
        .open(&path("log-start-offset-checkpoint"), OpenMode::ReadWrite)
        .expect("made");
    file.write_all_at(&[IoSlice::new(b"0\n1\nt 0 9\n")], 0)
        .expect("written");
    let house = House::on(fs);
    assert_eq!(house.log.watermarks().log_start, Offset(9));
    assert_eq!(house.append(&plain("next")), 9);
}

#[test]
fn the_clean_marker_is_gone_once_a_store_is_open() {
    let house = House::on(closed(3));
    let fs = house.fs.crash(CrashChoice::LoseAll);
    assert!(!names(&fs, "").iter().any(|name| name == ".kafka_cleanshutdown"));
}

/// Kafka answers with an error; here the broker's metadata decides, and the directory is kept under a name that says so.
#[test]
fn a_directory_of_another_topic_id_is_set_aside_whole() {
    let fs = closed(3);
    let store = open_store(&fs).expect("opened");
    let log = open_one(&store, spec("t", 9, small())).expect("opened");
    assert_eq!(log.watermarks().log_end, Offset(0));
    assert!(
        names(&fs, "")
            .iter()
            .any(|name| name.starts_with("t-0.") && name.ends_with("-stray"))
    );
}

#[test]
fn segments_roll_by_the_span_of_their_timestamps_and_not_by_waiting() {
    let config = LogConfig {
        segment_ms: 1_000,
        durability: Durability::Written,
        ..small()
    };
    let house = House::with(SimFs::new(), config);
    let at = |ms: i64| records(BatchOptions::default(), &[(NOW.0 + ms, None, "v")]);
    let append = |ms: i64, now: i64| {
        house
            .log
            .append(&at(ms), Origin::Client, Timestamp(NOW.0 + now))
            .expect("appended")
    };
    append(0, 0);
    append(-500, 9_000);
    assert_eq!(house.log.describe().segments, 1);
    append(1_001, 9_000);
    assert_eq!(house.log.describe().segments, 2);
}

#[test]
fn a_read_inside_a_batch_returns_it_whole_and_behind_a_hole_the_next_one() {
    let house = House::new();
    house.acknowledge(&records(
        BatchOptions::default(),
        &[(1, None, "a"), (2, None, "b"), (3, None, "c")],
    ));
    house.append(&plain("lost"));
    house
        .fs
        .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
    house.sync().expect_err("the sync fails");
    house.log.repair(NOW).expect("repaired");
    assert_eq!(house.acknowledge(&plain("after")), 4);
    house.log.raise_log_start(Offset(2)).expect("raised");
    assert_eq!(offsets(&house.log), [0, 4]);
    assert_eq!(read_all(&Arc::clone(&house.log), 1).expect("read").len(), 2);
    house.log.raise_log_start(Offset(3)).expect("raised");
    assert_eq!(offsets(&house.log), [4]);
}

#[test]
fn a_read_that_the_disk_fails_is_an_error_and_the_next_one_works() {
    let house = House::on(closed(20));
    let visible = Read {
        from: Offset(3),
        until: Offset(20),
        times: None,
        max_bytes: 1,
        first: FirstBatch::Whole,
    };
    house.fs.inject(fault(Call::Read, "00.log", 1, Failure::Os(5)));
    let failed = house.log.read(&visible).expect_err("the disk fails");
    assert!(matches!(failed, ReadError::Storage(_)), "{failed}");
    assert_eq!(house.log.read(&visible).expect("read").next_offset, Offset(4));
}

#[test]
fn an_index_that_cannot_be_made_resident_is_made_again_from_the_log() {
    let config = LogConfig {
        segment_bytes: 1 << 20,
        index_interval_bytes: 1,
        ..small()
    };
    let house = House::with(SimFs::new(), config.clone());
    for _ in 0..700 {
        house.append(&plain("many, for an index that is mapped"));
    }
    let house = House::with(house.close(), config);
    let second = |at: i64| Read {
        from: Offset(at),
        until: Offset(700),
        times: None,
        max_bytes: 1,
        first: FirstBatch::Whole,
    };
    assert_eq!(
        house.log.read(&second(600)).expect("read").next_offset,
        Offset(601)
    );
    house
        .fs
        .inject(fault(Call::Read, "00.index", u32::MAX, Failure::Os(5)));
    assert_eq!(
        house.log.read(&second(650)).expect("read").next_offset,
        Offset(651)
    );
}

#[test]
fn a_log_cut_under_its_mapping_fails_the_read_and_not_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let fs: Arc<dyn Fs> = Arc::new(RealFs::new());
    let config = StoreConfig {
        dir: dir.path().join("data"),
        threads: 1,
    };
    let files = Arc::new(FileCache::new(Arc::clone(&fs), CacheLimits::default()));
    let store = Store::open(files, config).expect("opened");
    let log = open_one(&store, spec("t", 1, LogConfig::default())).expect("opened");
    log.append(&plain("mapped"), Origin::Client, NOW)
        .expect("appended");
    assert_eq!(offsets(&log), [0]);
    let first = log.dir().join("00000000000000000000.log");
    let file = fs.open(&first, OpenMode::ReadWrite).expect("there");
    file.set_len(0).expect("cut");
    let told = read_all(&log, 1 << 20).expect_err("the bytes are gone");
    assert!(
        told.ends_with("00.log is damaged at position 0: the file ends before what was in it"),
        "{told}"
    );
}

/// Both look for files: a checkpoint for those it makes safe, a removal for those it takes away.
#[test]
fn a_checkpoint_and_a_removal_wait_for_each_other() {
    let house = House::on(killed(20));
    let House { fs, store, log } = house;
    let store = Arc::new(store);
    let looks = Arc::new(AtomicUsize::new(0));
    let (seen, watched) = (Arc::clone(&looks), Arc::downgrade(&store));
    fs.watch_syncs(move |site| {
        let store = watched.upgrade().expect("it is open");
        assert!(
            store.dir.checkpoints.try_lock().is_none(),
            "{site:?} without the lock"
        );
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let id = log.id().clone();
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| store.checkpoint());
        let removal = scope.spawn(|| store.remove_partitions(std::slice::from_ref(&id)));
        checkpoint.join().expect("no panic").expect("checkpointed");
        let removed = removal.join().expect("no panic").expect("removed");
        store.remove_files(removed).expect("gone");
    });
    assert!(
        looks.load(Ordering::Relaxed) >= 2,
        "the removal, and what it forgets"
    );
    store.checkpoint().expect("checkpointed");
    assert!(!names(&fs, "").iter().any(|name| name.starts_with("t-0")));
    let file = fs.open(&path("recovery-point-offset-checkpoint"), OpenMode::Read);
    let len = file.expect("there").len_bytes().expect("read");
    assert_eq!(len, b"0\n0\n".len() as u64, "no line is left of it");
}

#[test]
fn ten_thousand_partitions_of_a_hundred_topics_are_there_after_a_restart() {
    let fs = SimFs::in_memory();
    let specs = || {
        let of_topic = |topic: i32| (0..100).map(move |number| (topic, number));
        let specs = (0..100).flat_map(of_topic).map(|(topic, number)| {
            let spec = spec(&format!("t{topic}"), 1, small());
            let id = TopicPartition::new(spec.id.topic.clone(), PartitionId(number));
            PartitionSpec { id, ..spec }
        });
        specs.collect::<Vec<_>>()
    };
    let open = |store: &Store| {
        let opened = store.open_partitions(specs(), NOW).into_iter();
        opened.collect::<Result<Vec<_>, _>>().expect("opened")
    };
    let store = open_store(&fs).expect("opened");
    for (number, log) in (0..).zip(open(&store)) {
        if number % 10 < 3 {
            for _ in 0..=number % 10 {
                log.append(&plain("kept"), Origin::Client, NOW).expect("appended");
            }
        }
    }
    store.close().expect("closed").clean().expect("clean");
    drop(store);

    forbid_scans(&fs);
    let store = open_store(&fs).expect("opened");
    let logs = open(&store);
    assert_eq!(
        store.found().len(),
        3_000,
        "a partition without a record has no directory"
    );
    for (number, log) in (0..).zip(&logs) {
        let expected = if number % 10 < 3 { number % 10 + 1 } else { 0 };
        assert_eq!(log.watermarks().log_end, Offset(expected), "{}", log.id());
    }
    assert!(store.dir.files.stats().open_files <= CacheLimits::default().open_files);
}

#[test]
fn a_directory_that_a_kill_left_unsynced_is_still_its_topics_after_a_power_cut() {
    let House { fs, store, log } = House::new();
    log.append(&plain("killed before its sync"), Origin::Client, NOW)
        .expect("appended");
    drop((store, log));
    let house = House::on(fs);
    house.acknowledge(&plain("acknowledged"));
    house.store.checkpoint().expect("checkpointed");
    for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll, CrashChoice::Random(1)] {
        let house = House::on(house.fs.crash(choice));
        assert_eq!(offsets(&house.log), [0, 1], "{choice:?}");
    }
}
