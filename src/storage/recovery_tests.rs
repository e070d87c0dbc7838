//! Recovery and indexes against the checklist of Kafka's own tests: what a start makes of what a crash left. Where a test of
//! `fault_tests` or of an index's own file covers a point, it is not repeated here.

use std::io::IoSlice;

use super::testing::{
    House, NOW, closed, cut, damage, ended, killed, names, offsets, open_one, open_store, path, plain,
    records, small, spec, transactional, vouched,
};
use super::{
    AbortedTransaction, LogConfig, MANIFEST_FILE_NAME, OffsetEntry, OffsetIndex, Origin, Position,
    RelativeOffset, TimeIndex,
};
use crate::env::{CrashChoice, Fs as _, OpenMode, SimFs};
use crate::record::{BatchOptions, Batches, Outcome};
use crate::types::{LeaderEpoch, Offset, Timestamp};

const FIRST: &str = "t-0/00000000000000000000.log";

fn content(fs: &SimFs, name: &str) -> Vec<u8> {
    let file = fs.open(&path(name), OpenMode::Read).expect("it is there");
    let len = usize::try_from(file.len_bytes().expect("read")).expect("small");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn create(fs: &SimFs, name: &str, bytes: &[u8]) {
    let file = fs.open(&path(name), OpenMode::CreateNew).expect("made");
    file.write_all_at(&[IoSlice::new(bytes)], 0).expect("written");
}

fn remove(fs: &SimFs, name: &str) {
    fs.remove_file(&path(name)).expect("removed");
}

#[test]
fn a_start_after_a_kill_does_not_make_a_partition_younger() {
    let fs = killed(3);
    let file = path("t-0/partition.metadata");
    let since = fs.stat(&file).expect("there").modified;
    fs.set_now(NOW.saturating_add_ms(1_000_000));
    let house = House::on(fs.clone());
    assert_eq!(fs.stat(&file).expect("there").modified, since);
    drop(house);
    let fs = fs.crash(CrashChoice::LoseAll);
    assert_eq!(offsets(&House::on(fs).log), [0, 1, 2], "what was read is safe");
}

#[test]
fn every_batch_behind_the_first_can_have_an_index_entry_of_its_own() {
    let config = LogConfig {
        index_interval_bytes: 1,
        ..small()
    };
    let house = House::with(SimFs::new(), config);
    let mut positions = vec![0];
    for value in ["a", "bb", "ccc"] {
        let batch = plain(value);
        house.append(&batch);
        positions.push(positions.last().expect("one") + batch.size_bytes());
    }
    let index = content(&house.close(), "t-0/00000000000000000000.index");
    let entry = |offset: u32| {
        let last_offset = RelativeOffset::new(Offset(offset.into()), Offset(0)).expect("near");
        let position = Position(positions[offset as usize]);
        OffsetEntry {
            last_offset,
            position,
        }
        .to_bytes()
    };
    assert_eq!(index, [entry(1), entry(2)].concat());
}

#[test]
fn a_cut_tail_takes_its_timestamp_along() {
    let fs = killed(3);
    let house = House::on(fs);
    let late = Timestamp(NOW.0 + 5_000);
    house.acknowledge(&records(BatchOptions::default(), &[(late.0, None, "late")]));
    assert_eq!(house.log.describe().greatest_timestamp, Some(late));
    let len = house.fs.stat(&path(FIRST)).expect("there").len_bytes;
    cut(&house.fs, FIRST, len - 1);
    let house = House::on(house.fs.crash(CrashChoice::KeepAll));
    assert_eq!(house.log.describe().greatest_timestamp, Some(NOW));
    assert_eq!(house.log.find_time(late, Offset(3)).expect("looked for"), None);
    let greatest = house.log.find_max_timestamp(Offset(3)).expect("looked for");
    assert_eq!(greatest.expect("found").offset, Offset(0));
}

#[test]
fn zeros_behind_the_last_batch_are_cut() {
    let fs = killed(3);
    let len = fs.stat(&path(FIRST)).expect("there").len_bytes;
    cut(&fs, FIRST, len + 4_096);
    let house = House::on(fs);
    assert_eq!(offsets(&house.log), [0, 1, 2]);
    assert_eq!(house.fs.stat(&path(FIRST)).expect("there").len_bytes, len);
    assert_eq!(house.acknowledge(&plain("goes on")), 3);
}

/// A compaction may leave a segment that reaches nearly as far as its index can tell.
#[test]
fn an_offset_too_far_from_its_segments_base_begins_a_new_segment() {
    let fs = closed(1);
    let far = Offset(i64::from(i32::MAX) - 5);
    let len = fs.stat(&path(FIRST)).expect("there").len_bytes;
    let stamped = plain("far from the first").stamped(far, LeaderEpoch(0));
    damage(&fs, FIRST, len, stamped.bytes());
    remove(&fs, ".kafka_cleanshutdown");
    let house = House::on(fs);
    let five: Vec<_> = (0..5).map(|_| (NOW.0, None, "near enough")).collect();
    assert_eq!(house.append(&records(BatchOptions::default(), &five)), far.0 + 1);
    assert_eq!(
        house.log.describe().segments,
        1,
        "up to the last offset that fits"
    );
    assert_eq!(house.append(&plain("one too far")), far.0 + 6);
    assert_eq!(house.log.describe().segments, 2);
    house.sync().expect("synced");
    let expected = [0, far.0, far.0 + 1, far.0 + 6];
    assert_eq!(offsets(&house.log), expected);
    assert!(names(&house.fs, "t-0").contains(&"00000000002147483648.log".to_owned()));
    assert_eq!(
        offsets(&House::on(house.fs.crash(CrashChoice::KeepAll)).log),
        expected
    );
}

/// What a replacement of the first two segments leaves in the directory when it is cut off.
#[derive(Clone, Copy, Debug)]
enum CutOff {
    Writing,
    Naming,
    Swapping,
    SwappingWithOneGone,
    NamingForGood,
    Deleting,
}

/// Two logs, and the one that is to replace them.
struct Replacement {
    old: [(String, Vec<u8>); 2],
    new: Vec<u8>,
    batch_bytes: usize,
}

impl Replacement {
    /// Keeps the first batch of the first log and the last of the second.
    fn of(fs: &SimFs) -> Self {
        let mut logs = names(fs, "t-0").into_iter().filter(|name| name.ends_with(".log"));
        let old = [0, 1].map(|_| {
            let name = format!("t-0/{}", logs.next().expect("it has three"));
            let bytes = content(fs, &name);
            (name, bytes)
        });
        let batch_bytes = old[0].1.len() / 9;
        let kept = [&old[0].1[..batch_bytes], &old[1].1[8 * batch_bytes..]];
        Self {
            new: kept.concat(),
            old,
            batch_bytes,
        }
    }

    fn remove_old(&self, fs: &SimFs) {
        for (name, _) in &self.old {
            remove(fs, name);
            for kind in [".index", ".timeindex"] {
                let _ = fs.remove_file(&path(&name.replace(".log", kind)));
            }
        }
    }

    /// Leaves the directory as it is in this state.
    fn leave(&self, fs: &SimFs, state: CutOff) {
        let cleaned = format!("{FIRST}.cleaned");
        let swap = format!("{FIRST}.swap");
        match state {
            CutOff::Writing => create(fs, &cleaned, &self.new[..self.batch_bytes + 7]),
            CutOff::Naming => {
                create(fs, &swap, &self.new);
                create(fs, &FIRST.replace(".log", ".index.cleaned"), b"");
            }
            CutOff::Swapping => create(fs, &swap, &self.new),
            CutOff::SwappingWithOneGone => {
                create(fs, &swap, &self.new);
                remove(fs, FIRST);
            }
            CutOff::NamingForGood => {
                self.remove_old(fs);
                create(fs, FIRST, &self.new);
                create(fs, &FIRST.replace(".log", ".timeindex.swap"), b"");
            }
            CutOff::Deleting => {
                self.remove_old(fs);
                create(fs, FIRST, &self.new);
                for (name, bytes) in &self.old {
                    create(fs, &format!("{name}.deleted"), bytes);
                }
            }
        }
    }
}

#[test]
fn a_replacement_that_was_cut_off_shows_the_old_data_or_the_new() {
    let (fs, _) = vouched(20);
    let replacement = Replacement::of(&fs);
    let old: Vec<i64> = (0..20).collect();
    let new = [0, 17, 18, 19];
    let cases = [
        (CutOff::Writing, &old[..]),
        (CutOff::Naming, &old[..]),
        (CutOff::Swapping, &new[..]),
        (CutOff::SwappingWithOneGone, &new[..]),
        (CutOff::NamingForGood, &new[..]),
        (CutOff::Deleting, &new[..]),
    ];
    for (state, expected) in cases {
        let fs = fs.crash(CrashChoice::KeepAll);
        replacement.leave(&fs, state);
        let house = House::on(fs);
        assert_eq!(offsets(&house.log), expected, "{state:?}");
        let in_transit = |name: &String| {
            [".cleaned", ".swap", ".deleted"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let left = names(&house.fs, "t-0");
        assert!(!left.iter().any(in_transit), "{state:?}: {left:?}");
        let again = House::on(house.fs.crash(CrashChoice::KeepAll));
        assert_eq!(offsets(&again.log), expected, "{state:?}, the next start");
    }
}

/// Transactions of three producers, one of which spans all segments; aborted and committed in turn.
fn with_transactions() -> House {
    let house = House::new();
    let mark = |producer, outcome| {
        let marker = ended(producer, outcome);
        house
            .log
            .append(&marker, Origin::Coordinator, NOW)
            .expect("marked");
    };
    house.append(&transactional(9, 0, "spans all"));
    for round in 0..6 {
        for producer in [1, 2] {
            house.append(&transactional(producer, round, "short"));
            house.append(&plain("between"));
        }
        mark(1, Outcome::Abort);
        mark(
            2,
            if round % 2 == 0 {
                Outcome::Commit
            } else {
                Outcome::Abort
            },
        );
    }
    mark(9, Outcome::Abort);
    house
}

#[test]
fn a_manifest_without_the_transaction_index_it_tells_of_is_not_believed() {
    let house = with_transactions();
    let end = house.log.watermarks().log_end;
    let aborted = house.log.reader().aborted(&(Offset(0)..end)).expect("read");
    let fs = house.close();
    let is_of_transactions = |name: &String| name.ends_with(".txnindex");
    let last = names(&fs, "t-0").into_iter().rfind(is_of_transactions);
    remove(&fs, &format!("t-0/{}", last.expect("there are aborted ones")));
    remove(&fs, ".kafka_cleanshutdown");
    let house = House::on(fs);
    assert_eq!(
        house.log.reader().aborted(&(Offset(0)..end)).expect("read"),
        aborted
    );
}

#[test]
fn transaction_indexes_of_transactions_across_segments_are_rebuilt_alike() {
    let house = with_transactions();
    let end = house.log.watermarks().log_end;
    let aborted = house.log.reader().aborted(&(Offset(0)..end)).expect("read");
    assert_eq!(aborted.len(), 6 + 3 + 1);
    let fs = house.close();
    let indexes = |fs: &SimFs| -> Vec<(String, Vec<u8>)> {
        let of_kind = names(fs, "t-0")
            .into_iter()
            .filter(|name| name.ends_with("index"));
        of_kind
            .map(|name| (name.clone(), content(fs, &format!("t-0/{name}"))))
            .collect()
    };
    let before = indexes(&fs);
    let transactions = before.iter().filter(|(name, _)| name.ends_with(".txnindex"));
    assert!(transactions.clone().count() > 2, "in several segments");
    for (name, bytes) in transactions {
        assert_eq!(bytes.len() % AbortedTransaction::LEN, 0, "{name}");
        let ends = bytes
            .chunks(AbortedTransaction::LEN)
            .map(|entry| entry[18..26].to_vec());
        assert!(ends.is_sorted(), "{name} is in the order of the markers");
    }
    for (name, _) in &before {
        remove(&fs, &format!("t-0/{name}"));
    }
    remove(&fs, &format!("t-0/{MANIFEST_FILE_NAME}"));
    remove(&fs, ".kafka_cleanshutdown");
    let house = House::on(fs);
    assert_eq!(
        house.log.reader().aborted(&(Offset(0)..end)).expect("read"),
        aborted
    );
    house.store.checkpoint().expect("checkpointed");
    assert_eq!(indexes(&house.fs), before);
}

#[test]
fn a_log_start_that_a_stop_wrote_down_outlives_manifests_that_are_written_anew() {
    let house = House::on(killed(20));
    house.log.raise_log_start(Offset(5)).expect("below the end");
    let mut fs = house.close();
    for crash in ["after the stop", "again", "and again"] {
        // A manifest is written anew at the first append after a crash.
        let house = House::on(fs);
        house.acknowledge(&plain(crash));
        assert_eq!(house.log.watermarks().log_start, Offset(5), "{crash}");
        fs = house.fs.crash(CrashChoice::KeepAll);
        // All else that tells of it is lost.
        if fs.stat(&path("log-start-offset-checkpoint")).is_ok() {
            remove(&fs, "log-start-offset-checkpoint");
        }
    }
    let house = House::on(fs);
    assert_eq!(house.log.watermarks().log_start, Offset(5));
}

fn logs(fs: &SimFs) -> Vec<String> {
    let listed = names(fs, "t-0").into_iter();
    let logs = listed.filter(|name| name.ends_with(".log"));
    logs.map(|name| format!("t-0/{name}")).collect()
}

fn base_of(log: &str) -> i64 {
    let name = log.trim_start_matches("t-0/").trim_end_matches(".log");
    name.parse().expect("a base offset")
}

#[test]
fn damage_above_the_recovery_point_ends_the_log_there_and_the_next_record_follows_it() {
    let fs = killed(30);
    let segments = logs(&fs);
    assert_eq!(segments.len(), 4);
    // In the second batch of the second segment.
    damage(&fs, &segments[1], 95 + 70, b"bad");
    let end = base_of(&segments[1]) + 1;
    let house = House::on(fs);
    assert_eq!(offsets(&house.log), (0..end).collect::<Vec<_>>());
    assert_eq!(house.log.watermarks().log_end, Offset(end));
    assert_eq!(logs(&house.fs), segments[..2], "the later ones are gone");
    assert_eq!(house.acknowledge(&plain("next")), end);
    let expected: Vec<i64> = (0..=end).collect();
    assert_eq!(offsets(&House::on(house.close()).log), expected);
}

#[test]
fn a_time_index_with_one_slot_left_rolls_and_the_greatest_time_still_has_its_entry() {
    let config = LogConfig {
        index_interval_bytes: 1,
        // Three entries of a time index, of which the last is the seal's.
        segment_index_bytes: 36,
        ..small()
    };
    let house = House::with(SimFs::new(), config);
    for offset in 0..12 {
        house.append(&records(BatchOptions::default(), &[(NOW.0 + offset, None, "v")]));
    }
    let fs = house.close();
    let segments = logs(&fs);
    assert!(segments.len() > 3, "{segments:?}");
    let ends = segments.iter().skip(1).map(|log| base_of(log)).chain([12]);
    for (log, end) in segments.iter().zip(ends) {
        let bytes = content(&fs, &log.replace(".log", ".timeindex"));
        assert!(bytes.len() <= 36, "{log}: {} bytes", bytes.len());
        let index = TimeIndex::open(&bytes, RelativeOffset::new(Offset(end - 1), Offset(base_of(log))));
        let last = index.expect("sound").last().expect("an entry");
        assert_eq!(last.timestamp, Timestamp(NOW.0 + end - 1), "{log}");
    }
}

#[test]
fn a_closed_log_ends_with_its_last_batch_and_its_indexes_with_their_last_entry() {
    let fs = closed(20);
    for log in logs(&fs) {
        let bytes = content(&fs, &log);
        let batches = Batches::over(bytes.clone().into(), 0);
        let sizes = batches.map(|batch| batch.expect("sound").1.header().size_bytes);
        assert_eq!(sizes.sum::<u32>() as usize, bytes.len(), "{log}");
        let len = u32::try_from(bytes.len()).expect("small");
        let offsets = content(&fs, &log.replace(".log", ".index"));
        assert!(offsets.len().is_multiple_of(OffsetEntry::LEN), "{log}");
        // An entry of zeros, or one that does not grow, is none of these.
        OffsetIndex::open(&offsets, len).expect("sound");
        let times = content(&fs, &log.replace(".log", ".timeindex"));
        assert_eq!(times.len(), 12, "{log}: all records have one time");
        TimeIndex::open(&times, Some(RelativeOffset::MAX)).expect("sound");
    }
}

#[test]
fn indexes_that_are_missing_or_garbage_are_files_again_as_they_were() {
    for clean in [true, false] {
        for garbage in [None, Some([0x5a; 9])] {
            let fs = closed(20);
            if !clean {
                remove(&fs, ".kafka_cleanshutdown");
                remove(&fs, &format!("t-0/{MANIFEST_FILE_NAME}"));
            }
            let kinds = [".index", ".timeindex"];
            let names = || {
                logs(&fs)
                    .into_iter()
                    .flat_map(|log| kinds.map(|kind| log.replace(".log", kind)))
            };
            let before: Vec<_> = names().map(|name| content(&fs, &name)).collect();
            for name in names() {
                match garbage {
                    Some(bytes) => damage(&fs, &name, 0, &bytes),
                    None => remove(&fs, &name),
                }
            }
            let house = House::on(fs.clone());
            assert_eq!(offsets(&house.log).len(), 20);
            // A reader by time looks at the other index.
            house.log.find_time(NOW, Offset(20)).expect("sound");
            for offset in [3, 12, 19] {
                let read = super::Read {
                    from: Offset(offset),
                    until: Offset(20),
                    times: Some(NOW..Timestamp(NOW.0 + 1)),
                    max_bytes: 1,
                    first: super::FirstBatch::Whole,
                };
                house.log.read(&read).expect("sound");
            }
            house.acknowledge(&plain("the manifest is written anew"));
            house.store.checkpoint().expect("written");
            let sealed = before.len() - 2;
            let after: Vec<_> = names().take(sealed).map(|name| content(&fs, &name)).collect();
            for (after, before) in after.chunks(2).zip(before.chunks(2)) {
                // What a reader rebuilds is as sparse as the default says; a start knows the topic's own interval.
                let offsets = if clean { Vec::new() } else { before[0].clone() };
                assert_eq!(after, [offsets, before[1].clone()], "clean {clean}, {garbage:?}");
            }
        }
    }
}

#[test]
fn epochs_that_the_file_does_not_tell_yet_are_taken_from_the_batches() {
    let fs = closed(3);
    let behind = content(&fs, "t-0/leader-epoch-checkpoint");
    let house = House::on(fs);
    house.acknowledge(&plain("of another epoch"));
    let epochs = [house.log.epoch_at(Offset(2)), house.log.epoch_at(Offset(3))];
    assert!(epochs[0] < epochs[1]);
    let fs = house.close();
    remove(&fs, ".kafka_cleanshutdown");
    remove(&fs, &format!("t-0/{MANIFEST_FILE_NAME}"));
    remove(&fs, "t-0/leader-epoch-checkpoint");
    create(&fs, "t-0/leader-epoch-checkpoint", &behind);
    let house = House::on(fs);
    assert_eq!(
        [house.log.epoch_at(Offset(2)), house.log.epoch_at(Offset(3))],
        epochs
    );
}

#[test]
fn of_a_replacement_by_two_files_a_crash_in_the_start_leaves_no_half() {
    let (fs, _) = vouched(20);
    let second = logs(&fs).swap_remove(1);
    // The later of two has its next name; the earlier one never got it.
    create(&fs, &format!("{FIRST}.cleaned"), b"");
    create(&fs, &format!("{second}.swap"), &content(&fs, &second)[..95]);
    for again in 0..12 {
        for seed in 0..12 {
            let found = fs.crash(CrashChoice::KeepAll);
            found.fail_after(again);
            if let Ok(store) = open_store(&found) {
                let _ = open_one(&store, spec("t", 1, small()));
            }
            let house = House::on(found.crash(CrashChoice::Random(seed)));
            let left = offsets(&house.log);
            assert_eq!(left, (0..20).collect::<Vec<_>>(), "death at {again}, seed {seed}");
        }
    }
}

#[test]
fn indexes_of_one_segment_that_are_lost_together_are_made_anew_by_the_first_read() {
    let closed = with_transactions();
    let end = closed.log.watermarks().log_end;
    let all = offsets(&closed.log);
    let fs = closed.close();
    let is_of_transactions = |name: &String| name.ends_with(".txnindex");
    let of_transactions: Vec<_> = names(&fs, "t-0").into_iter().filter(is_of_transactions).collect();
    assert!(of_transactions.len() > 2);
    for lost in &of_transactions {
        let fs = fs.crash(CrashChoice::KeepAll);
        remove(&fs, &format!("t-0/{lost}"));
        remove(&fs, &format!("t-0/{}", lost.replace(".txnindex", ".index")));
        let read = super::Read {
            from: Offset(0),
            until: end,
            times: None,
            max_bytes: 1,
            first: super::FirstBatch::Whole,
        };
        let base = Offset(base_of(&format!("t-0/{}", lost.replace(".txnindex", ".log"))));
        let within = super::Read {
            from: base.next(),
            ..read.clone()
        };
        House::on(fs.crash(CrashChoice::KeepAll))
            .log
            .read_committed(&within)
            .expect("it is made anew");
        House::on(fs.crash(CrashChoice::KeepAll))
            .log
            .find_time(NOW, end)
            .expect("it is made anew");
        assert_eq!(offsets(&House::on(fs).log), all, "{lost}");
    }
}

#[test]
fn threads_that_recover_share_the_files_that_are_held_open() {
    use super::recovery::held_by_each;
    assert_eq!([1, 2, 64, 1_024].map(held_by_each), [64, 32, 1, 1]);
}
