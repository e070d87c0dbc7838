//! Tests of retention on a disk: what is gone, what a restart finds, what a failing or full disk leaves.

use std::io::ErrorKind;
use std::path::Path;

use super::*;
use crate::env::{Call, CrashChoice, Failure, Fs as _, SimFs, SyncSite};
use crate::storage::testing::{DATA, House, NOW, fault, numbered, offsets, path, plain, sized, small};
use crate::storage::{
    CleanupPolicy, DeletionReason, Durability, FirstBatch, Origin, Read, Retention, Written,
};

const HOUR_MS: i64 = 3_600_000;

fn later() -> Timestamp {
    NOW.saturating_add_ms(HOUR_MS)
}

fn limited(ms: Option<i64>, bytes: Option<u64>) -> LogConfig {
    LogConfig {
        retention: Retention { ms, bytes },
        ..small()
    }
}

/// A log of `count` batches, seven a segment, all of them safe.
fn filled(config: LogConfig, count: usize) -> House {
    let house = House::with(SimFs::new(), config);
    for index in 0..count {
        house.append(&plain(&format!("value {index:020}")));
    }
    house.sync().expect("synced");
    house
}

fn look(house: &House, now: Timestamp) -> Vec<Retained> {
    house.store.retain(&[Arc::clone(&house.log)], now)
}

fn look_cleanly(house: &House, now: Timestamp) -> usize {
    let mut looked = look(house, now);
    assert!(
        looked.iter().all(|retained| retained.failure.is_none()),
        "{looked:?}"
    );
    looked.pop().map_or(0, |retained| retained.deleted.len())
}

fn names(fs: &SimFs) -> Vec<String> {
    let listed = fs.list(&Path::new(DATA).join("t-0")).expect("listed");
    listed.into_iter().map(|entry| entry.name).collect()
}

fn logs(fs: &SimFs) -> usize {
    names(fs).iter().filter(|name| name.ends_with(".log")).count()
}

#[test]
fn what_the_preview_says_is_what_goes_with_its_files() {
    let house = filled(limited(None, Some(1000)), 30);
    house.store.checkpoint().expect("the indexes are files now");
    let plan = house.log.retention_plan(NOW);
    assert!(plan.deletions.len() >= 2, "{plan:?}");
    let files_before = names(&house.fs).len();

    let looked = look(&house, NOW);
    assert_eq!(looked[0].deleted, plan.deletions);
    let stats = house.log.describe();
    assert_eq!(
        (stats.watermarks.log_start, stats.size_bytes),
        (plan.log_start, plan.kept_bytes)
    );
    assert_eq!(offsets(&house.log), (plan.log_start.0..30).collect::<Vec<_>>());
    for deletion in &plan.deletions {
        let stem = format!("{:020}", deletion.base.0);
        assert!(
            names(&house.fs).iter().all(|name| !name.starts_with(&stem)),
            "{stem}"
        );
    }
    assert!(names(&house.fs).len() <= files_before - 3 * plan.deletions.len());
    assert!(look(&house, NOW).is_empty(), "a second look finds nothing");
}

#[test]
fn an_expired_log_is_emptied_and_goes_on_at_its_end_before_and_after_a_restart() {
    for durability in [Durability::Synced, Durability::Written] {
        let config = LogConfig {
            durability,
            ..limited(Some(1000), None)
        };
        let house = House::with(SimFs::new(), config.clone());
        (0..10).for_each(|_| {
            house.append(&plain("v"));
        });
        if durability == Durability::Synced {
            house.sync().expect("synced");
        }
        assert!(look_cleanly(&house, later()) > 0);
        let view = house.log.watermarks();
        assert_eq!((view.log_start, view.log_end), (Offset(10), Offset(10)));
        assert_eq!((logs(&house.fs), house.log.describe().size_bytes), (1, 0));

        let fs = house.fs.crash(CrashChoice::LoseAll);
        let after = House::with(fs, config.clone());
        assert_eq!(after.log.watermarks().log_start, Offset(10));
        assert_eq!(after.append(&plain("next")), 10);
        drop(after);
        let clean = House::with(house.close(), config);
        assert_eq!(clean.log.watermarks().log_start, Offset(10));
        assert_eq!(clean.append(&plain("next")), 10);
    }
}

/// Checklist 55: Kafka goes by the file's last change where records have no timestamps; here it stands for append times that
/// nobody wrote down, whatever the records say.
#[test]
fn a_segment_whose_append_times_are_lost_is_as_old_as_the_last_change_of_its_file() {
    let changed_at = NOW.saturating_add_ms(500);
    let house = House::with(SimFs::new(), limited(Some(1000), None));
    house.fs.set_now(changed_at);
    (0..10).for_each(|_| {
        house.append(&plain("v"));
    });
    house.sync().expect("synced");
    let after = House::with(house.fs.crash(CrashChoice::KeepAll), limited(Some(1000), None));
    assert_eq!(look_cleanly(&after, changed_at.saturating_add_ms(1000)), 0);
    assert!(look_cleanly(&after, changed_at.saturating_add_ms(1001)) > 0);
    assert_eq!(after.log.watermarks().log_start, Offset(10));
}

#[test]
fn a_log_that_nobody_wrote_to_since_the_start_is_retained_too() {
    let fs = filled(limited(None, None), 30).close();
    let house = House::with(fs, limited(Some(1000), None));
    assert!(look_cleanly(&house, later()) > 3);
    let again = House::with(house.close(), small());
    assert_eq!(again.log.watermarks().log_start, Offset(30));
    assert_eq!(again.append(&plain("next")), 30);
}

#[test]
fn deleted_records_go_with_their_whole_segments_whatever_the_policy() {
    let config = LogConfig {
        cleanup: CleanupPolicy::Compact,
        ..small()
    };
    let house = filled(config, 30);
    let second = house.log.describe().segments;
    house.log.raise_log_start(Offset(10)).expect("raised");
    let looked = look(&house, NOW);
    assert!(
        looked[0]
            .deleted
            .iter()
            .all(|gone| gone.reason == DeletionReason::Start)
    );
    assert_eq!(looked[0].deleted.len(), 1, "of {second} segments");
    assert_eq!(
        house.log.watermarks().log_start,
        Offset(10),
        "it lies inside the second"
    );
    assert_eq!(offsets(&house.log)[0], 10);
}

#[test]
fn a_reader_that_holds_a_deleted_segment_finishes() {
    let house = filled(limited(None, None), 30);
    let read = Read {
        from: Offset(0),
        until: Offset(30),
        times: None,
        max_bytes: 1 << 20,
        first: FirstBatch::Whole,
    };
    let slice = house.log.read(&read).expect("read");
    let before = slice.bytes.to_vec();
    house.log.configure(limited(None, Some(0)), NOW);
    assert!(look_cleanly(&house, NOW) > 0);
    assert_eq!(slice.bytes, before);
    assert!(matches!(house.log.read(&read), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn what_a_producer_wrote_last_is_known_when_its_batches_are_gone() {
    let config = limited(Some(1000), None);
    let house = House::with(SimFs::new(), config.clone());
    for sequence in 0..9 {
        house.append(&numbered(7, sequence, "value"));
    }
    house.sync().expect("synced");
    assert!(look_cleanly(&house, later()) > 0);
    for fs in [
        house.fs.crash(CrashChoice::LoseAll),
        house.fs.crash(CrashChoice::KeepAll),
    ] {
        let after = House::with(fs, config.clone());
        let again = after
            .log
            .append(&numbered(7, 8, "value"), Origin::Client, NOW)
            .expect("known");
        assert!(matches!(again.written, Written::Before { .. }) && again.base_offset == Offset(8));
        assert_eq!(after.append(&numbered(7, 9, "next")), 9);
    }
}

#[test]
fn a_lost_snapshot_is_made_again_before_the_batches_it_tells_of_go() {
    let house = filled(limited(None, None), 0);
    for sequence in 0..8 {
        house.append(&numbered(7, sequence, &"x".repeat(80)));
    }
    for _ in 0..9 {
        house.append(&sized(80));
    }
    house.sync().expect("synced");
    for name in names(&house.fs).iter().filter(|name| name.ends_with(".snapshot")) {
        house
            .fs
            .remove_file(&Path::new(DATA).join("t-0").join(name))
            .expect("removed");
    }
    house.log.configure(limited(None, Some(700)), NOW);
    assert!(look_cleanly(&house, NOW) > 0);
    assert!(house.log.watermarks().log_start >= Offset(8));
    let after = House::on(house.fs.crash(CrashChoice::LoseAll));
    let again = after
        .log
        .append(&numbered(7, 7, &"x".repeat(80)), Origin::Client, NOW)
        .expect("known");
    assert!(matches!(again.written, Written::Before { .. }));
}

#[test]
fn epochs_of_what_is_gone_are_forgotten() {
    let fs = filled(limited(None, None), 10).close();
    let house = House::with(fs, limited(None, Some(0)));
    house.acknowledge(&plain("of the second start"));
    assert!(house.log.writer.lock().epochs.entries().len() > 1);
    assert!(look_cleanly(&house, NOW) > 0);
    let entries = house.log.writer.lock().epochs.entries().to_vec();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].start, Offset(11));
}

#[test]
fn a_checkpoint_that_cannot_be_written_deletes_nothing_and_the_next_look_does() {
    let house = filled(limited(None, Some(1500)), 30);
    let before = (house.log.watermarks(), logs(&house.fs));
    for (call, path) in [
        (Call::Open, "log-start"),
        (Call::SyncData, "log-start"),
        (Call::Rename, "log-start"),
    ] {
        house
            .fs
            .inject(fault(call, path, 1, Failure::Kind(ErrorKind::Other)));
        let looked = look(&house, NOW);
        let told = looked[0].failure.as_ref().expect("it is told").to_string();
        assert!(told.contains("log-start-offset-checkpoint"), "{told}");
        assert_eq!((house.log.watermarks(), logs(&house.fs)), before);
    }
    assert!(look_cleanly(&house, NOW) > 0);
}

#[test]
fn a_file_that_cannot_be_removed_is_told_by_name_and_removed_by_the_next_look() {
    let house = filled(limited(None, Some(1500)), 30);
    let total = logs(&house.fs);
    house.fs.inject(fault(
        Call::Remove,
        "00000.log",
        1,
        Failure::Kind(ErrorKind::PermissionDenied),
    ));
    let looked = look(&house, NOW);
    let told = looked[0].failure.as_ref().expect("it is told").to_string();
    assert!(
        told.starts_with("cannot remove /data/t-0/00000000000000000000.log"),
        "{told}"
    );
    let deleted = looked[0].deleted.len();
    assert_eq!(logs(&house.fs), total - deleted + 1);
    assert_eq!(
        offsets(&house.log)[0],
        house.log.watermarks().log_start.0,
        "readers see it gone"
    );
    assert_eq!(look_cleanly(&house, NOW), 0);
    assert_eq!(logs(&house.fs), total - deleted);
}

#[test]
fn what_a_crash_left_behind_the_checkpoint_is_removed_by_the_first_look() {
    let house = filled(limited(None, Some(1000)), 30);
    house.fs.inject(fault(
        Call::Remove,
        ".log",
        u32::MAX,
        Failure::Kind(ErrorKind::PermissionDenied),
    ));
    assert!(look(&house, NOW)[0].failure.is_some());
    let start = house.log.watermarks().log_start;
    let after = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(after.log.watermarks().log_start, start);
    let left = logs(&after.fs);
    let deleted = look_cleanly(&after, NOW);
    assert!(deleted >= 2);
    assert_eq!(logs(&after.fs), left - deleted);
}

#[test]
fn a_disk_without_a_free_byte_does_not_stop_it_and_a_crash_finds_no_gap() {
    let house = filled(limited(None, Some(1500)), 30);
    let size = 1 << 30;
    house.fs.set_capacity_bytes(size);
    let free = house.fs.free_bytes(Path::new("/")).expect("known");
    house.fs.set_capacity_bytes(size - free);
    let plan = house.log.retention_plan(NOW);
    let mutations = house.fs.mutations();
    let looked = look(&house, NOW);
    assert!(looked[0].failure.is_none(), "{looked:?}");
    assert_eq!(looked[0].deleted, plan.deletions);
    assert!(house.fs.mutations() > mutations);
    let after = House::on(house.fs.crash(CrashChoice::LoseAll));
    assert_eq!(offsets(&after.log), (plan.log_start.0..30).collect::<Vec<_>>());
}

/// Whether a crash finds a gap after two looks that made room and had none for the checkpoint all the same.
fn gap_after_two_full_looks(disabled: Option<SyncSite>) -> bool {
    let house = filled(limited(None, Some(100)), 30);
    if let Some(site) = disabled {
        house.fs.disable_sync(site);
    }
    let full = Failure::Kind(ErrorKind::StorageFull);
    house
        .fs
        .inject(fault(Call::Open, "log-start-offset-checkpoint", 4, full));
    for _ in 0..2 {
        let looked = look(&house, NOW);
        assert_eq!(looked[0].deleted.len(), 1, "{looked:?}");
        assert!(looked[0].failure.as_ref().is_some_and(StoreError::is_disk_full));
    }
    (0..40).any(|seed| {
        let after = House::on(house.fs.crash(CrashChoice::Random(seed)));
        let start = after.log.watermarks().log_start.0;
        offsets(&after.log) != (start..30).collect::<Vec<_>>()
    })
}

#[test]
fn segments_that_go_without_a_checkpoint_go_one_by_one_so_that_a_crash_finds_no_gap() {
    assert!(!gap_after_two_full_looks(None));
    assert!(
        gap_after_two_full_looks(Some(SITE_DIR)),
        "this is what the sync is for"
    );
}

#[test]
fn what_was_deleted_by_call_makes_room_on_a_full_disk_too() {
    let house = filled(limited(None, None), 30);
    house.log.raise_log_start(Offset(29)).expect("nothing is held");
    let full = Failure::Kind(ErrorKind::StorageFull);
    house
        .fs
        .inject(fault(Call::Open, "log-start-offset-checkpoint", u32::MAX, full));
    for left in (1..logs(&house.fs)).rev() {
        let looked = look(&house, NOW);
        assert_eq!(looked[0].deleted.len(), 1, "{looked:?}");
        assert_eq!(logs(&house.fs), left);
    }
}

#[test]
fn producers_outlive_what_was_deleted_by_call_and_a_power_cut() {
    let house = House::with(SimFs::new(), limited(None, None));
    house.append(&numbered(7, 0, "once"));
    house.sync().expect("synced");
    let end = house.log.watermarks().log_end;
    house.log.raise_log_start(end).expect("nothing is held");
    assert_eq!(look_cleanly(&house, NOW), 1);
    house
        .fs
        .sync_dir(&path("t-0"), SyncSite("test"))
        .expect("that the files are gone is safe");
    let crashed = house.fs.crash(CrashChoice::LoseAll);
    assert!(crashed.stat(&path("t-0/00000000000000000000.log")).is_err());
    let after = House::on(crashed);
    let again = after.log.append(&numbered(7, 0, "once"), Origin::Client, NOW);
    let written = again.expect("a retry").written;
    assert!(matches!(written, Written::Before { .. }), "{written:?}");
}

#[test]
fn a_log_that_refuses_writes_is_left_alone_until_it_is_repaired() {
    let house = filled(limited(Some(1000), None), 10);
    house.append(&plain("unsynced"));
    house.fs.inject(fault(Call::SyncData, "t-0", 1, Failure::Os(5)));
    house.sync().expect_err("the sync fails");
    assert!(look(&house, later()).is_empty());
    house.log.repair(NOW).expect("repaired");
    assert!(look_cleanly(&house, later()) > 0);
}

#[test]
fn a_start_is_not_raised_past_what_is_held() {
    let house = filled(limited(None, None), 30);
    let hold = |hold: Hold| {
        house.log.configure(
            LogConfig {
                holds: Arc::new([hold]),
                ..small()
            },
            NOW,
        );
        house.log.raise_log_start(Offset(9))
    };
    let held = |raised: Result<Offset, crate::storage::StartError>| {
        matches!(raised, Err(crate::storage::StartError::Held { .. }))
    };
    assert!(held(hold(Hold::Offsets(Offset(8)..Offset(9)))));
    assert!(held(hold(Hold::Times(NOW..NOW.saturating_add_ms(1)))));
    assert_eq!(
        hold(Hold::Times(NOW.saturating_add_ms(1)..Timestamp::MAX)),
        Ok(Offset(9))
    );
    assert_eq!(hold(Hold::Offsets(Offset(9)..Offset(12))), Ok(Offset(9)));
    assert_eq!(
        hold(Hold::Offsets(Offset(0)..Offset(5))),
        Ok(Offset(9)),
        "it is gone already"
    );
}

#[test]
fn a_file_that_could_not_be_removed_before_a_clean_stop_is_removed_after_it() {
    let house = filled(limited(None, Some(1000)), 30);
    house.fs.inject(fault(
        Call::Remove,
        "t-0/00000000000000000000.log",
        u32::MAX,
        Failure::Kind(ErrorKind::PermissionDenied),
    ));
    let looked = look(&house, NOW);
    assert!(looked[0].failure.is_some(), "{looked:?}");
    let (start, left) = (house.log.watermarks().log_start, offsets(&house.log));
    assert_eq!(left[0], start.0);
    let first = |fs: &SimFs| names(fs).contains(&"00000000000000000000.log".to_owned());
    let fs = house.close();
    assert!(first(&fs), "nobody could remove it");

    // The fault is gone with the power.
    let house = House::with(fs.crash(CrashChoice::KeepAll), limited(None, Some(1000)));
    assert_eq!(house.log.watermarks().log_start, start);
    assert_eq!(offsets(&house.log), left, "it is no part of the log");
    look_cleanly(&house, NOW);
    assert!(!first(&house.fs), "the first look removes it");
    assert_eq!(offsets(&house.log), left);

    let fs = house.close().crash(CrashChoice::KeepAll);
    crate::storage::testing::forbid_scans(&fs);
    let house = House::with(fs, limited(None, Some(1000)));
    assert_eq!(
        house.log.watermarks().log_start,
        start,
        "opened by the manifest alone"
    );
}
