//! Tests of what a pass keeps in memory of the transactions of a log.

use std::cell::RefCell;

use super::super::super::OffsetMap;
use super::super::gate::{Gate, Step};
use super::super::grouping::Soundness;
use super::super::learn::{Learning, Reached};
use super::super::source::Source;
use super::super::testing::{Scene, compacted};
use super::super::unread::Unread;
use super::*;
use crate::record::DecompressLimit;
use crate::storage::segment::Segment;
use crate::storage::{LogConfig, Pace};

const ABORTED: i64 = 60;

/// Two producers, one aborted transaction after the other, and a record that counts.
fn many_aborted() -> Scene {
    let mut scene = Scene::with(LogConfig {
        segment_bytes: 1 << 20,
        ..compacted()
    });
    for _ in 0..ABORTED / 2 {
        scene.run("t7:a=1 t8:b=1 abort8 abort7");
    }
    scene.run("p7:z=1 p8:z=2 c=1 roll");
    scene
}

#[test]
fn of_a_segment_with_many_aborted_transactions_a_bounded_part_is_known_at_a_time() {
    let scene = many_aborted();
    let log = &scene.log;
    let segments = crate::storage::read::snapshot(&log.segments);
    let sources: Vec<Source> = segments
        .iter()
        .filter_map(|segment| match segment {
            Segment::Sealed(sealed) => Some(Source {
                bound: sealed.extent.next,
                soundness: Soundness::Sound,
                sealed: std::sync::Arc::clone(sealed),
            }),
            Segment::Active(_) => None,
        })
        .collect();
    let told = RefCell::new(Vec::new());
    let aborted = |_: &Source, offsets: &Range<Offset>| {
        let found = log.aborted(offsets).expect("read");
        told.borrow_mut().push((offsets.clone(), found.len()));
        Ok(found)
    };
    let (mut budget, mut lend) = (|_: Step| Pace::Go, |_: &mut dyn FnMut()| Ok(Offset::ZERO));
    let mut gate = Gate::new(&mut budget, &log.maintenance, &mut lend);
    let mut map = OffsetMap::with_keys(10);
    map.reset([1, 2], Offset(0), 1_000);
    let reached = Learning {
        files: &log.files,
        map: &mut map,
        from: Offset(0),
        limit: DecompressLimit(1 << 20),
        aborted: &aborted,
        unread: &mut Unread::default(),
    }
    .run(&sources, &mut gate);
    assert_eq!(reached.expect("learned"), Reached::End);
    assert_eq!(map.len(), 2, "of aborted transactions nothing was learned");
    let told = told.into_inner();
    let most = told.iter().map(|(_, count)| *count).max();
    // Those that begin among the offsets ahead, and one of each producer that is under way there.
    let bound = usize::try_from(AHEAD_OFFSETS / 2 + 2).expect("few");
    assert!(most.is_some_and(|most| most <= bound), "{told:?}");
    assert!(told.len() > 10, "{told:?}");
    let in_order = told.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start);
    assert!(in_order, "{told:?}");
}

#[test]
fn a_log_of_many_aborted_transactions_is_cleaned_part_by_part() {
    let mut scene = many_aborted();
    let report = scene.clean().expect("cleaned");
    let aborted = u64::try_from(ABORTED).expect("positive");
    assert_eq!(
        (report.records.aborted_dropped, report.records.superseded),
        (aborted, 1)
    );
    scene.run("d=1 roll clean +100 e=1 roll clean");
    let end = 2 * ABORTED;
    let expected = [
        (end, "{}"),
        (end + 1, "z=2"),
        (end + 2, "c=1"),
        (end + 3, "d=1"),
        (end + 4, "e=1"),
    ];
    let expected = expected
        .map(|(offset, what)| format!("{offset} {what}"))
        .join(" | ");
    assert_eq!(scene.picture(), format!("0: {expected}\n"));
}
