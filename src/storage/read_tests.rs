//! What a read bounded in time leaves alone: it is to be seen in the calls to the files, not only in what comes back.

use std::ops::Range;

use super::testing::{House, NOW, names, records};
use super::{FirstBatch, Read};
use crate::env::{Call, Failure, Fault, SimFs};
use crate::record::{BatchOptions, Batches};
use crate::types::{Offset, Timestamp};

/// Seven batches of this kind fill a segment.
const BATCHES: i64 = 7;
/// One segment each: the times of its batches, in milliseconds after [`NOW`].
const SEGMENTS: [i64; 5] = [100, 5000, 200, 50, 6000];

/// A closed log of a segment for each of [`SEGMENTS`], whose batches lie a millisecond apart, and where segments begin.
fn log() -> (SimFs, Vec<i64>) {
    let house = House::new();
    for start in SEGMENTS {
        for number in 0..BATCHES {
            let time = NOW.0 + start + number;
            house.acknowledge(&records(
                BatchOptions::default(),
                &[(time, None, "x".repeat(50).as_str())],
            ));
        }
    }
    let fs = house.close();
    let listed = names(&fs, "t-0").into_iter();
    let logs = listed.filter_map(|name| name.strip_suffix(".log")?.parse().ok());
    let mut bases: Vec<i64> = logs.collect();
    bases.sort_unstable();
    (fs, bases)
}

/// Reads a range of times to the end; returns the base offsets of the batches that came.
fn read_times(house: &House, times: &Range<i64>) -> Result<Vec<i64>, String> {
    let until = house.log.watermarks().log_end;
    let (mut from, mut found) = (Offset(0), Vec::new());
    while from < until {
        let read = Read {
            from,
            until,
            times: Some(Timestamp(NOW.0 + times.start)..Timestamp(NOW.0 + times.end)),
            max_bytes: 1 << 20,
            first: FirstBatch::Whole,
        };
        let slice = house.log.read(&read).map_err(|error| error.to_string())?;
        for batch in Batches::over(slice.bytes, 0) {
            found.push(
                batch
                    .map_err(|damage| damage.to_string())?
                    .1
                    .header()
                    .base_offset
                    .0,
            );
        }
        from = slice.next_offset;
    }
    Ok(found)
}

/// From now on whatever lies in the segments that begin at `bases` can neither be opened, mapped nor made resident.
fn forbid(fs: &SimFs, bases: &[i64]) {
    for base in bases {
        for call in [Call::Open, Call::Read] {
            fs.inject(Fault {
                call,
                path_contains: format!("{base:020}."),
                times: u32::MAX,
                failure: Failure::Os(5),
            });
        }
    }
}

/// `wanted`: which of the segments may be touched.
fn check(times: Range<i64>, wanted: &[usize], expected: &[i64]) {
    let (fs, bases) = log();
    assert_eq!(bases, [0, 7, 14, 21, 28], "a segment for each");
    let ruled_out = (0..bases.len()).filter(|index| !wanted.contains(index));
    let ruled_out: Vec<i64> = ruled_out.map(|index| bases[index]).collect();
    let house = House::on(fs.clone());
    forbid(&fs, &ruled_out);
    assert_eq!(
        read_times(&house, &times).as_deref(),
        Ok(expected),
        "{times:?}, without touching {ruled_out:?}"
    );
    if let Some(needed) = wanted.first() {
        let house = House::on(log().0);
        forbid(&house.fs, &bases[*needed..=*needed]);
        read_times(&house, &times).expect_err("a touch of what was forbidden shows");
    }
}

#[test]
fn a_read_bounded_by_time_touches_no_file_of_a_segment_that_its_times_rule_out() {
    // Of a segment that is read, the batches before the range are ruled out by their headers.
    check(203..300, &[2], &[17, 18, 19, 20]);
    check(100..103, &[0], &[0, 1, 2, 3, 4, 5, 6]);
    check(5006..5007, &[1], &[13]);
    check(5006..7000, &[1, 4], &[13, 28, 29, 30, 31, 32, 33, 34]);
    check(60..100, &[], &[]);
    check(7000..8000, &[], &[]);
}
