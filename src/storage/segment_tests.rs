//! Searches in indexes that are larger than what is made resident at once.

use std::convert::Infallible;

use super::super::testing::{House, NOW, open_one, open_store, spec};
use super::super::{LogConfig, Origin};
use super::*;
use crate::env::SimFs;
use crate::record::{BatchBuilder, BatchOptions};

/// Enough entries for two parts of the offset index, and three of the time index.
const BATCHES: i64 = 12_000;

#[test]
fn a_search_asks_once_per_halving_and_ends_at_the_part_that_holds_the_answer() {
    for (parts, most) in [(1, 0), (2, 1), (3, 2), (32, 5), (48, 6)] {
        let len = parts * INDEX_PART - 12;
        for answer in 0..parts {
            let mut asked = 0;
            let part = last_part(len, |start| {
                asked += 1;
                assert!(start > 0 && start < len && start.is_multiple_of(INDEX_PART));
                Ok::<_, Infallible>(start <= answer * INDEX_PART)
            });
            let Ok(part) = part;
            let end = len.min((answer + 1) * INDEX_PART);
            assert_eq!(part, answer * INDEX_PART..end);
            assert!(asked <= most, "{asked} questions in {parts} parts");
        }
    }
}

#[test]
fn every_part_of_a_large_index_leads_to_its_records_by_offset_and_by_time() {
    let config = LogConfig {
        index_interval_bytes: 0,
        ..LogConfig::default()
    };
    let time = |offset: i64| Timestamp(NOW.0 + 10 * offset);
    let house = House::with(SimFs::new(), config.clone());
    for offset in 0..BATCHES {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder
            .append(Some(time(offset)), None, None, &[])
            .expect("it fits");
        let batch = builder.build().expect("it has a record");
        house.log.append(&batch, Origin::Client, NOW).expect("appended");
    }
    house.store.close().expect("closed").clean().expect("clean");

    let store = open_store(&house.fs).expect("opens");
    let log = open_one(&store, spec("t", 1, config)).expect("opens");
    let Some(segment @ Segment::Sealed(sealed)) = &log.segments.read().at(0) else {
        panic!("one sealed segment");
    };
    let lens = sealed.index_lens();
    let part = u32::try_from(INDEX_PART).expect("it fits");
    assert!(lens.offsets > part && lens.times > 2 * part);
    let (_, _, end) = segment.bounds();
    for offset in (0..BATCHES).step_by(61).chain([BATCHES - 1]) {
        let by_offset = segment.start_before(&log.files, Offset(offset)).expect("sound");
        let by_time = segment.start_before_time(&log.files, time(offset), Offset::ZERO);
        for start in [by_offset, by_time.expect("sound")] {
            let mut walk = segment.walk(&log.files, start, end, EVERY_OFFSET);
            let (_, header) = walk.next_header().expect("sound").expect("a batch");
            assert!((offset - 1..=offset).contains(&header.base_offset.0), "{offset}");
        }
    }
}
