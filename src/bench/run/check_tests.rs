//! What a checker says of a loss, a repeat, a change of order and a change of bytes.

use std::time::Duration;

use bytes::Bytes;
use expect_test::{Expect, expect};

use super::*;
use crate::bench::run::stamp::Stamp;
use crate::types::Timestamp;

const RUN: u32 = 7;
const P0: PartitionId = PartitionId(0);

/// Records of one producer in one partition, their keys `k0`, `k1`, `k0`, ...
fn records(producer: u32, count: u64) -> Vec<Record> {
    let mut lane = Lane::default();
    let record = |sequence: u64| {
        let mut value = vec![b'x'; 40 + usize::try_from(sequence).unwrap()];
        let key = key(sequence % 2);
        let stamp = Stamp {
            run: RUN,
            producer,
            sequence: lane.next,
            intended: Some(Duration::from_millis(sequence)),
            checksum: 0,
            chain: 0,
        };
        stamp::write(&mut value, Some(&key), &stamp, &mut lane);
        Record {
            offset: Offset(i64::try_from(sequence).unwrap()),
            timestamp: Some(Timestamp(0)),
            key: Some(Bytes::copy_from_slice(&key)),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    };
    (0..count).map(record).collect()
}

fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [b'0'; KEY_LEN];
    key[KEY_LEN - 1] += u8::try_from(number).unwrap();
    key
}

fn written(count: u64) -> Lanes {
    let mut lane = Lane::default();
    for record in records(0, count) {
        let stamp = stamp::read(record.value.as_deref().unwrap(), record.key.as_deref()).unwrap();
        lane.advance(stamp.checksum);
    }
    let mut lanes = Lanes::new(1, 1);
    lanes.set(0, &[lane]);
    lanes
}

/// Feeds a reader that expects six records; returns what it says.
fn read(keeps: Keeps, begins: Begins<'_>, records: &[Record]) -> Result<(), Fault> {
    let mut checker = Checker::new(RUN, keeps, &Lanes::new(1, 1), begins);
    for record in records {
        checker.add(P0, record)?;
    }
    checker.is(&written(6))
}

fn check(records: &[Record], expected: &Expect) {
    let start = Lanes::new(1, 1);
    let said = read(Keeps::All, Begins::At(&start), records).unwrap_err();
    expected.assert_eq(&said.to_string());
}

#[test]
fn a_reader_that_got_everything_in_order_has_nothing_to_say() {
    let start = Lanes::new(1, 1);
    read(Keeps::All, Begins::At(&start), &records(0, 6)).unwrap();
    // One that began later goes on where producers stood, or anywhere.
    read(Keeps::All, Begins::At(&written(4)), &records(0, 6)[4..]).unwrap();
    read(Keeps::All, Begins::Anywhere, &records(0, 6)[3..]).unwrap();
}

#[test]
fn a_loss_is_told_with_partition_offset_and_sequence() {
    let mut lossy = records(0, 6);
    lossy.remove(2);
    check(
        &lossy,
        &expect!["partition 0, offset 3: record 3 of producer 0 comes where 2 is due: lost, or out of order"],
    );
    check(
        &records(0, 6)[1..],
        &expect!["partition 0, offset 1: record 1 of producer 0 comes where 0 is due: lost, or out of order"],
    );
    check(
        &records(0, 5),
        &expect!["partition 0: 5 records of producer 0 came, 6 were written"],
    );
    check(
        &[],
        &expect!["partition 0: 0 records of producer 0 came, 6 were written"],
    );
    let said = read(Keeps::All, Begins::At(&written(3)), &records(0, 6)[4..]).unwrap_err();
    assert!(
        matches!(
            said,
            Fault::Missing {
                expected: 3,
                found: 4,
                ..
            }
        ),
        "{said}"
    );
}

#[test]
fn a_repeat_and_a_change_of_order_are_told() {
    let mut twice = records(0, 6);
    twice.insert(3, twice[2].clone());
    check(
        &twice,
        &expect!["partition 0, offset 2: record 2 of producer 0 comes after 2: twice, or out of order"],
    );
    let mut swapped = records(0, 6);
    swapped.swap(2, 3);
    check(
        &swapped,
        &expect!["partition 0, offset 3: record 3 of producer 0 comes where 2 is due: lost, or out of order"],
    );
    let late = [&records(0, 6)[..2], &records(0, 1), &records(0, 6)[2..]].concat();
    check(
        &late,
        &expect!["partition 0, offset 0: record 0 of producer 0 comes after 1: twice, or out of order"],
    );
    // Also where records may be missing.
    for wrong in [twice, swapped, late] {
        let start = Lanes::new(1, 1);
        let said = read(Keeps::Newest, Begins::At(&start), &wrong).unwrap_err();
        assert!(matches!(said, Fault::Again { .. }), "{said}");
    }
}

#[test]
fn a_changed_byte_a_changed_key_and_another_record_in_its_place_are_told() {
    let told = expect!["partition 0, offset 2: the record was changed"];
    for at in [0, 5, 9, 20, 25, 33] {
        let mut changed = records(0, 6);
        let mut value = changed[2].value.as_deref().unwrap().to_vec();
        value[at] ^= 1;
        changed[2].value = Some(value.into());
        check(&changed, &told);
    }
    let mut other_key = records(0, 6);
    other_key[2].key = other_key[1].key.clone();
    check(
        &other_key,
        &expect!["partition 0, offset 2: the record was changed"],
    );
    // Sound in itself, with the right sequence, and not what was written.
    let mut forged = records(0, 6);
    let mut value = forged[2].value.as_deref().unwrap().to_vec();
    value[40] ^= 1;
    let stamp = stamp::read(forged[2].value.as_deref().unwrap(), forged[2].key.as_deref()).unwrap();
    let mut lane = Lane {
        next: stamp.sequence,
        chain: 0,
    };
    stamp::write(&mut value, forged[2].key.as_deref(), &stamp, &mut lane);
    forged[2].value = Some(value.into());
    check(
        &forged,
        &expect![
            "partition 0, offset 2: the chain of producer 0 breaks at its record 2: something before it was changed"
        ],
    );
}

#[test]
fn what_is_no_record_of_this_run_is_told() {
    let with = |change: fn(&mut Record)| {
        let mut records = records(0, 6);
        change(&mut records[1]);
        records
    };
    check(
        &with(|record| record.value = None),
        &expect!["partition 0, offset 1: it has no value"],
    );
    check(
        &with(|record| record.value = Some(Bytes::from_static(b"hello"))),
        &expect!["partition 0, offset 1: it is too short for a record of a benchmark"],
    );
    check(
        &records(1, 1),
        &expect!["partition 0, offset 0: it names a producer that this run does not have"],
    );
    let mut checker = Checker::new(RUN + 1, Keeps::All, &Lanes::new(1, 1), Begins::Anywhere);
    let said = checker.add(P0, &records(0, 1)[0]).unwrap_err();
    assert!(
        said.to_string().ends_with("it is a record of another run"),
        "{said}"
    );
}

#[test]
fn of_a_compacted_log_the_newest_of_each_key_must_be_where_it_was_acknowledged() {
    let newest = Newest::default();
    for record in records(0, 6) {
        newest.acknowledged(
            P0,
            record.key.as_deref().unwrap().try_into().unwrap(),
            record.offset,
        );
    }
    assert_eq!(newest.keys(), 2);
    let said = |kept: &[usize]| {
        let all = records(0, 6);
        let mut checker = Checker::new(
            RUN,
            Keeps::Newest,
            &Lanes::new(1, 1),
            Begins::At(&Lanes::new(1, 1)),
        );
        for at in kept {
            checker.add(P0, &all[*at]).unwrap();
        }
        checker.has_newest(&newest)
    };
    said(&[0, 4, 5]).unwrap();
    said(&[4, 5]).unwrap();
    assert!(matches!(
        said(&[1, 2, 3, 4]),
        Err(Fault::Stale {
            expected: Offset(5),
            found: Some(Offset(3)),
            ..
        })
    ));
    assert!(matches!(
        said(&[5]),
        Err(Fault::Stale {
            expected: Offset(4),
            found: None,
            ..
        })
    ));
}

#[test]
fn the_chain_over_everything_tells_runs_apart() {
    assert_eq!(written(6).chain(), written(6).chain());
    assert_ne!(written(6).chain(), written(5).chain());
    assert_eq!(written(6).records().collect::<Vec<_>>(), [6]);
}
