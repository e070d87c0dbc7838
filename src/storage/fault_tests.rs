//! A store that meets trouble: failed syncs, full disks, damaged files, directories left half-way. Each test is named by what
//! must hold; those on recovery follow the checklist of Kafka's own tests, and say where this store differs on purpose.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::{
    DATA, FOREIGN, House, NOW, fault, forbid_scans, foreign, foreign_files, numbered, offsets, open_one,
    open_store, plain, read_all, records, sized, small, spec,
};
use super::{
    AppendError, Durability, FirstBatch, LogConfig, MANIFEST_FILE_NAME, Origin, Partition, Read, SyncDue,
    Written,
};
use crate::env::{Call, CrashChoice, Failure, FileStat, Fs as _, OpenMode, SimFs};
use crate::record::BatchOptions;
use crate::types::{Offset, Timestamp};

fn path(name: &str) -> PathBuf {
    PathBuf::from(DATA).join(name)
}

/// Overwrites a file from `position` on.
fn damage(fs: &SimFs, name: &str, position: u64, bytes: &[u8]) {
    let file = fs.open(&path(name), OpenMode::ReadWrite).expect("it is there");
    file.write_all_at(&[IoSlice::new(bytes)], position)
        .expect("written");
}

fn cut(fs: &SimFs, name: &str, len: u64) {
    let file = fs.open(&path(name), OpenMode::ReadWrite).expect("it is there");
    file.set_len(len).expect("cut");
}

fn names(fs: &SimFs, dir: &str) -> Vec<String> {
    let listed = fs.list(&path(dir)).expect("listed");
    listed.into_iter().map(|entry| entry.name).collect()
}

/// A log of `count` acknowledged one-record batches, left without a close.
fn killed(count: usize) -> SimFs {
    let house = House::new();
    for _ in 0..count {
        house.acknowledge(&plain("acknowledged before the end"));
    }
    house.fs.clone()
}

/// A log of `count` batches, closed.
fn closed(count: usize) -> SimFs {
    House::on(killed(count)).close()
}

fn set_free(fs: &SimFs, bytes: u64) {
    let size = 1 << 30;
    fs.set_capacity_bytes(size);
    let free = fs.free_bytes(&path("")).expect("measured");
    fs.set_capacity_bytes(size - free + bytes);
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

/// A crashed log of `count` batches below the recovery point, and its first file.
fn vouched(count: usize) -> (SimFs, String) {
    let house = House::on(killed(count));
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    let logs = names(&fs, "t-0")
        .into_iter()
        .filter(|name| name.ends_with(".log"));
    (fs, format!("t-0/{}", logs.min().expect("it has one")))
}

/// What a read of one offset comes to: the offset of the batch it finds, or what it is told.
fn read_at(log: &Partition, from: i64) -> Result<i64, String> {
    let read = Read {
        from: Offset(from),
        until: log.watermarks().log_end,
        times: None,
        max_bytes: 1,
        first: FirstBatch::Whole,
    };
    let slice = log.read(&read).map_err(|error| error.to_string())?;
    Ok(slice.next_offset.0 - 1)
}

/// Offsets that can be read, of those below `end`; the others answer that they are damaged.
fn readable(log: &Partition, end: i64) -> Vec<i64> {
    let found = |offset: i64| match read_at(log, offset) {
        Ok(found) => {
            assert_eq!(found, offset, "a reader is led past what it asked for");
            true
        }
        Err(told) => {
            assert!(told.contains("is damaged at position"), "{told}");
            false
        }
    };
    (0..end).filter(|offset| found(*offset)).collect()
}

/// Bytes of one batch of [`killed`].
const BATCH_BYTES: u64 = 95;

#[test]
fn a_read_that_comes_to_damage_is_told_and_those_before_and_behind_go_on() {
    let (fs, first) = vouched(20);
    assert_eq!(fs.stat(&path(&first)).expect("there").len_bytes % BATCH_BYTES, 0);
    // Within the records of the batch at offset 2.
    damage(&fs, &first, 2 * BATCH_BYTES + 70, b"bad");
    // A manifest that vouched for the segment would hide it until somebody reads it.
    fs.remove_file(&path("t-0").join(MANIFEST_FILE_NAME))
        .expect("removed");
    let mut house = House::on(fs);
    for _ in 0..2 {
        let left: Vec<i64> = (0..20).filter(|offset| *offset != 2).collect();
        assert_eq!(readable(&house.log, 20), left);
        let told = read_at(&house.log, 2).expect_err("damaged");
        assert!(
            told.contains("00.log is damaged at position 190: ")
                && told.ends_with("offsets 2 to 2 are lost, reading can go on at 3"),
            "{told}"
        );
        house
            .log
            .find_time(Timestamp(NOW.0 + 1), Offset(20))
            .expect_err("it may lie in what is lost");
        // The second time after a clean stop.
        house = House::on(house.close());
    }
}

#[test]
fn damage_without_an_end_reaches_to_the_next_batch_that_is_known() {
    let (fs, first) = vouched(20);
    damage(&fs, &first, BATCH_BYTES, &[0xff; 60]);
    fs.remove_file(&path("t-0").join(MANIFEST_FILE_NAME))
        .expect("removed");
    let index = first.replace(".log", ".index");
    let with_index = House::on(fs.crash(CrashChoice::KeepAll));
    let left = readable(&with_index.log, 20);
    assert!(left.contains(&0) && left.contains(&8), "{left:?}");
    assert!(!left.contains(&1) && left.len() > 14, "{left:?}");

    fs.remove_file(&path(&index)).expect("removed");
    let segment: Vec<i64> = readable(&House::on(fs).log, 20);
    let second: i64 = segment[1];
    let expected: Vec<i64> = [0].into_iter().chain(second..20).collect();
    assert_eq!(segment, expected, "the next segment is read");
    assert!(second > 8, "the first holds nine batches");
}

#[test]
fn damage_that_a_reader_finds_is_told_at_its_place_alone() {
    let fs = closed(20);
    let first = "t-0/00000000000000000000.log";
    damage(&fs, first, 2 * BATCH_BYTES, &[0xff; 60]);
    let house = House::on(fs);
    assert_eq!(read_at(&house.log, 0), Ok(0));
    let left = readable(&house.log, 20);
    assert!(!left.contains(&2) && left.len() > 14, "{left:?}");
    let opened = House::on(house.close());
    assert_eq!(readable(&opened.log, 20), left, "and the next start finds it");
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
fn a_close_on_a_full_disk_fails_and_the_next_start_recovers_everything_without_a_free_byte() {
    let house = House::new();
    for _ in 0..20 {
        house.acknowledge(&plain("acknowledged"));
    }
    set_free(&house.fs, 0);
    assert!(house.store.close().expect_err("no room").is_disk_full());
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

/// Adopts [`foreign`] as `t-0`.
fn adopted() -> House {
    let fs = foreign();
    let store = open_store(&fs).expect("opened");
    let from = PathBuf::from(FOREIGN).join("f-0");
    let (log, report) = store.adopt(&from, spec("t", 1, small()), NOW).expect("adopted");
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
