//! Damage below the recovery point: whoever comes to it is told, and nobody else is kept from reading.

use super::testing::{
    House, NOW, closed, cut, damage, fault, killed, names, offsets, path, plain, small, vouched,
};
use super::{FirstBatch, LogConfig, MANIFEST_FILE_NAME, Partition, Read};
use crate::env::{Call, CrashChoice, Failure, Fs as _, OpenMode, SimFs};
use crate::types::{Offset, Timestamp};

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

/// The base offset is not under the checksum of its batch.
#[test]
fn a_batch_that_claims_offsets_outside_its_segment_is_damage_and_those_behind_it_can_be_read() {
    let first = "t-0/00000000000000000000.log";
    let (near, far, last) = (258, 1 << 40, i64::MAX);
    for claimed in [near, far, last] {
        let fs = closed(20);
        damage(&fs, first, 2 * BATCH_BYTES, &i64::to_be_bytes(claimed));
        let house = House::on(fs);
        let left: Vec<i64> = (0..20).filter(|offset| *offset != 2).collect();
        assert_eq!(readable(&house.log, 20), left, "claimed {claimed}");
        let told = read_at(&house.log, 2).expect_err("damaged");
        assert!(
            told.ends_with("offsets 2 to 2 are lost, reading can go on at 3"),
            "{told}"
        );
    }
}

/// How many offsets it has is under the checksum, but a read that hands a batch on does not look at that.
#[test]
fn a_batch_that_claims_the_offsets_of_those_behind_it_is_damage_and_they_can_be_read() {
    let first = "t-0/00000000000000000000.log";
    for (claimed, whole) in [(3, 1), (3, 1 << 20), (5, 1), (5, 300)] {
        let fs = closed(20);
        damage(&fs, first, 2 * BATCH_BYTES + 23, &i32::to_be_bytes(claimed));
        let house = House::on(fs);
        let read = Read {
            from: Offset(0),
            until: Offset(20),
            times: None,
            max_bytes: whole,
            first: FirstBatch::Whole,
        };
        let slice = house.log.read(&read).expect("what lies before it is sound");
        assert!(slice.next_offset <= Offset(2), "{claimed} {whole}: {slice:?}");
        let left: Vec<i64> = (0..20).filter(|offset| *offset != 2).collect();
        assert_eq!(readable(&house.log, 20), left, "{claimed} {whole}");
    }
}

#[test]
fn a_batch_that_claims_an_offset_before_the_one_ahead_of_it_is_damage() {
    let fs = closed(20);
    let first = "t-0/00000000000000000000.log";
    damage(&fs, first, 2 * BATCH_BYTES, &i64::to_be_bytes(0));
    let house = House::on(fs);
    let left: Vec<i64> = (0..20).filter(|offset| *offset != 2).collect();
    assert_eq!(readable(&house.log, 20), left);
}

#[test]
fn of_a_log_with_ever_more_damage_no_more_than_a_thousand_gaps_are_kept() {
    let config = LogConfig {
        segment_bytes: 1 << 20,
        ..small()
    };
    let house = House::with(SimFs::new(), config.clone());
    let batch = plain("one of many");
    for _ in 0..2_100 {
        house.append(&batch);
    }
    house.sync().expect("synced");
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    for odd in (1..2_100).step_by(2) {
        let end = u64::from(batch.size_bytes()) * (odd + 1);
        damage(&fs, "t-0/00000000000000000000.log", end - 3, b"bad");
    }
    let house = House::with(fs, config);
    let sealed = house.log.segments.read().sealed().to_vec();
    assert_eq!(sealed[0].gaps().len(), 1_000);
    assert_eq!(read_at(&house.log, 1_998), Ok(1_998));
    read_at(&house.log, 1_999).expect_err("damaged");
    let told = read_at(&house.log, 2_098).expect_err("sound, and in the last gap");
    assert!(told.ends_with("reading can go on at 2100"), "{told}");
}

/// Nine batches of one record.
const FIRST: &str = "t-0/00000000000000000000.log";

#[test]
fn a_batch_that_was_moved_to_other_offsets_of_its_segment_is_damage_wherever_a_read_begins() {
    for (batch, claimed) in [(0, 1), (2, 3), (2, 8), (5, 6), (7, 8), (8, 9)] {
        let (crashed, _) = vouched(20);
        crashed
            .remove_file(&path("t-0").join(MANIFEST_FILE_NAME))
            .expect("removed");
        // Known by the manifest to have no hole, or judged by its neighbours alone.
        for fs in [closed(20), crashed] {
            let position = u64::try_from(batch).expect("small") * BATCH_BYTES;
            damage(&fs, FIRST, position, &i64::to_be_bytes(claimed));
            let moved = format!("{batch} to {claimed}");
            for from in [batch, claimed, 0] {
                let house = House::on(fs.crash(CrashChoice::KeepAll));
                match read_at(&house.log, from) {
                    Ok(found) => assert!(found == from && from != batch, "{moved}: {found} at {from}"),
                    Err(told) => {
                        assert_eq!(from, batch, "{moved}: {told}");
                        let end = format!(
                            "offsets {batch} to {batch} are lost, reading can go on at {}",
                            batch + 1
                        );
                        assert!(told.ends_with(&end), "{moved}: {told}");
                    }
                }
                let left: Vec<i64> = (0..20).filter(|offset| *offset != batch).collect();
                assert_eq!(readable(&house.log, 20), left, "{moved}");
            }
        }
    }
}

#[test]
fn a_moved_batch_that_no_checkpoint_vouches_for_is_cut_and_not_the_one_behind_it() {
    let fs = killed(20);
    damage(&fs, FIRST, 2 * BATCH_BYTES, &i64::to_be_bytes(4));
    assert_eq!(offsets(&House::on(fs).log), [0, 1]);
}

#[test]
fn an_index_that_is_wrong_about_a_batch_keeps_nobody_from_reading() {
    let fs = closed(20);
    let index = FIRST.replace(".log", ".index");
    let file = fs.open(&path(&index), OpenMode::Read).expect("it is there");
    let mut entry = [0; 8];
    for number in 0..2 {
        file.read_exact_at(&mut entry, number * 8).expect("two entries");
        // Still between those of its neighbours.
        damage(&fs, &index, number * 8 + 3, &[entry[3] + 1]);
    }
    let house = House::on(fs);
    assert_eq!(readable(&house.log, 20), (0..20).collect::<Vec<_>>());
}

/// What is left of a log, in bytes: nothing, three whole batches, three and a part of the next.
const CUT_TO: [u64; 3] = [0, 3 * BATCH_BYTES, 3 * BATCH_BYTES + 70];

/// The log has lost what lay from offset `from` to below `until`, and tells so, at every start.
fn assert_lost(fs: &SimFs, from: i64, until: i64, case: &str) {
    let mut fs = fs.crash(CrashChoice::KeepAll);
    for again in 0..3 {
        let house = House::on(fs);
        let case = format!("{case}, start {again}");
        let end = house.log.watermarks().log_end.0;
        let left: Vec<i64> = (0..end)
            .filter(|offset| !(from..until).contains(offset))
            .collect();
        assert_eq!(readable(&house.log, end), left, "{case}");
        let told = read_at(&house.log, from).expect_err("lost");
        let expected = format!(
            "offsets {from} to {} are lost, reading can go on at {until}",
            until - 1
        );
        assert!(told.ends_with(&expected), "{case}: {told}");
        assert_eq!(house.acknowledge(&plain("goes on")), end, "{case}");
        assert_eq!(readable(&house.log, end + 1).last(), Some(&end), "{case}");
        house.store.checkpoint().expect("checkpointed");
        fs = match again {
            0 => house.fs.crash(CrashChoice::KeepAll),
            _ => house.close(),
        };
    }
}

#[test]
fn bytes_that_are_missing_below_the_recovery_point_are_told_and_the_file_is_kept() {
    for manifest in ["told", "lost"] {
        for len in CUT_TO {
            let from = i64::try_from(len / BATCH_BYTES).expect("small");
            let (fs, first) = vouched(5);
            cut(&fs, &first, len);
            if manifest == "lost" {
                fs.remove_file(&path("t-0").join(MANIFEST_FILE_NAME))
                    .expect("removed");
            }
            assert_lost(
                &fs,
                from,
                5,
                &format!("the last log has {len} bytes, manifest {manifest}"),
            );
            assert_eq!(fs.stat(&path(&first)).expect("kept").len_bytes, len);
        }
    }
}

#[test]
fn bytes_that_are_missing_of_a_sealed_log_that_the_manifest_tells_of_are_told() {
    for len in CUT_TO {
        let from = i64::try_from(len / BATCH_BYTES).expect("small");
        let (fs, first) = vouched(20);
        cut(&fs, &first, len);
        assert_lost(&fs, from, 9, &format!("the first of three logs has {len} bytes"));
        assert_eq!(fs.stat(&path(&first)).expect("kept").len_bytes, len);
    }
}

#[test]
fn an_empty_log_below_the_recovery_point_is_told_also_without_a_manifest() {
    let (fs, first) = vouched(20);
    cut(&fs, &first, 0);
    fs.remove_file(&path("t-0").join(MANIFEST_FILE_NAME))
        .expect("removed");
    assert_lost(&fs, 0, 9, "no manifest");
}

#[test]
fn bytes_that_are_missing_before_the_log_start_are_no_loss() {
    let house = House::on(killed(20));
    house.log.raise_log_start(Offset(12)).expect("raised");
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    cut(&fs, FIRST, 0);
    let house = House::on(fs);
    assert_eq!(offsets(&house.log), (12..20).collect::<Vec<_>>());
    assert!(!names(&house.fs, "t-0").contains(&"00000000000000000000.log".to_owned()));
}

#[test]
fn a_hole_that_a_repair_left_at_the_end_of_a_log_is_no_loss() {
    for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll, CrashChoice::Random(5)] {
        let house = House::new();
        house.acknowledge(&plain("safe"));
        house.append(&plain("never on disk"));
        house
            .fs
            .inject(fault(Call::SyncData, ".log", 1, Failure::LosesDirtyPages));
        house.sync().expect_err("the sync fails");
        house.log.repair(NOW).expect("repaired");
        house.store.checkpoint().expect("checkpointed");
        let house = House::on(house.fs.crash(choice));
        assert_eq!(offsets(&house.log), [0], "{choice:?}");
        assert_eq!(house.log.watermarks().log_end, Offset(2), "{choice:?}");
        assert_eq!(house.acknowledge(&plain("next")), 2, "{choice:?}");
    }
}

#[test]
fn bytes_that_are_missing_after_a_clean_stop_are_told_to_who_comes_to_them() {
    for len in CUT_TO {
        let from = i64::try_from(len / BATCH_BYTES).expect("small");
        let fs = closed(20);
        cut(&fs, FIRST, len);
        let house = House::on(fs);
        if from > 0 {
            let all = Read {
                from: Offset(0),
                until: Offset(20),
                times: None,
                max_bytes: 1 << 20,
                first: FirstBatch::Whole,
            };
            let sound = house.log.read(&all).expect("what is there is read");
            assert_eq!(sound.next_offset, Offset(from), "{len} bytes");
        }
        let left: Vec<i64> = (0..from).chain(9..20).collect();
        assert_eq!(readable(&house.log, 20), left, "{len} bytes");
        assert_eq!(house.acknowledge(&plain("goes on")), 20, "{len} bytes");
        assert_lost(&house.close(), from, 9, &format!("closed with {len} bytes"));
    }
}
