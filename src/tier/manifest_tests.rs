//! Tests of `super`: edits move the state as the header says, and survive their bytes.

use proptest::prelude::*;

use super::*;
use crate::tier::testing::{covered, partition};

fn segment(base: i64, next: i64, attempt: u64) -> TieredSegment {
    TieredSegment {
        id: ObjectId {
            base: Offset(base),
            epoch: LeaderEpoch(1),
            attempt,
        },
        object_bytes: 1000,
        footer_len: 100,
        footer_crc: 7,
        summary: SegmentSummary {
            next_offset: Offset(next),
            log_bytes: 50,
            ..SegmentSummary::empty(Offset(base))
        },
    }
}

fn id(base: i64, attempt: u64) -> ObjectId {
    segment(base, base + 1, attempt).id
}

/// Applies an edit by way of its bytes, and looks whether the state survives its own.
fn apply(manifest: &mut Manifest, edit: ManifestEdit) -> Result<(), Contradiction> {
    let body = manifest.encode_edits(std::slice::from_ref(&edit));
    let edits = manifest.decode_edits(&body).expect("just written");
    assert!(matches!(edits.as_slice(), [read] if *read == edit), "{edits:?}");
    let before = manifest.clone();
    let applied = manifest.apply(edit, Timestamp(77));
    if applied.is_err() {
        assert_eq!(*manifest, before, "an edit that does not fit changes nothing");
    }
    let read = manifest.decode_snapshot(&manifest.encode_snapshot());
    assert_eq!(read.as_ref(), Some(&*manifest));
    applied
}

fn three() -> Manifest {
    let mut manifest = Manifest::empty(&partition());
    for (base, next) in [(0, 10), (10, 20), (25, 30)] {
        apply(&mut manifest, ManifestEdit::Added(segment(base, next, 1))).expect("behind the others");
    }
    manifest
}

#[test]
fn segments_are_added_behind_the_others_and_found_by_offset() {
    let mut manifest = three();
    apply(&mut manifest, ManifestEdit::Added(segment(29, 40, 1))).expect_err("it overlaps");
    apply(&mut manifest, ManifestEdit::Added(segment(5, 6, 1))).expect_err("it lies before");
    assert_eq!(covered(&manifest), [0..10, 10..20, 25..30]);
    assert_eq!(manifest.end(), Offset(30));
    let at = |offset| {
        manifest
            .segment_at(Offset(offset))
            .map(|segment| segment.id.base.0)
    };
    assert_eq!(
        [at(0), at(9), at(10), at(22), at(29)],
        [Some(0), Some(0), Some(10), Some(25), Some(25)]
    );
    assert_eq!(at(30), None);
}

#[test]
fn what_is_replaced_or_dropped_waits_until_it_is_swept() {
    let mut manifest = three();
    let replaced = ManifestEdit::Replaced {
        removed: vec![id(0, 1), id(10, 1)],
        added: vec![segment(0, 18, 2)],
    };
    apply(&mut manifest, replaced).expect("neighbours");
    assert_eq!(covered(&manifest), [0..18, 25..30]);
    apply(&mut manifest, ManifestEdit::Dropped(vec![id(0, 2)])).expect("there");
    apply(&mut manifest, ManifestEdit::LogStart(Offset(25))).expect("it rises");
    apply(&mut manifest, ManifestEdit::LogStart(Offset(24))).expect_err("it falls");
    let waiting: Vec<ObjectId> = manifest.waiting().map(|waiting| waiting.id).collect();
    assert_eq!(waiting, [id(0, 1), id(0, 2), id(10, 1)]);
    assert!(manifest.waiting().all(|waiting| waiting.since == Timestamp(77)));
    apply(&mut manifest, ManifestEdit::Swept(vec![id(0, 1), id(0, 2)])).expect("they wait");
    apply(&mut manifest, ManifestEdit::Swept(vec![id(0, 1)])).expect_err("swept already");
    assert_eq!(manifest.waiting().count(), 1);
    let left: Vec<i64> = covered(&manifest).iter().map(|range| range.start).collect();
    assert_eq!(left, [25]);
}

#[test]
fn a_replacement_must_fit_into_what_it_replaces() {
    let misfits = [
        (vec![id(0, 1), id(25, 1)], vec![]),
        (vec![id(10, 1), id(0, 1)], vec![]),
        (vec![id(10, 9)], vec![]),
        (vec![], vec![segment(0, 5, 2)]),
        (vec![id(10, 1)], vec![segment(10, 21, 2)]),
        (vec![id(10, 1)], vec![segment(9, 15, 2)]),
        (vec![id(10, 1)], vec![segment(10, 15, 2), segment(14, 16, 2)]),
        (vec![id(10, 1)], vec![segment(10, 20, 1)]),
    ];
    for (removed, added) in misfits {
        let mut manifest = three();
        let edit = ManifestEdit::Replaced { removed, added };
        apply(&mut manifest, edit.clone()).expect_err(&format!("{edit:?}"));
    }
    let further = |base, waiting: &[ObjectId]| ManifestEdit::Replaced {
        removed: waiting.to_vec(),
        added: vec![segment(base, 44, 2)],
    };
    let mut manifest = three();
    apply(&mut manifest, further(10, &[id(10, 1), id(25, 1)])).expect("nothing is behind them");
    assert_eq!(covered(&manifest), [0..10, 10..44]);
    let mut manifest = three();
    let all_gone = ManifestEdit::Replaced {
        removed: vec![id(10, 1)],
        added: vec![],
    };
    apply(&mut manifest, all_gone).expect("the cleaner left nothing");
    assert_eq!(covered(&manifest), [0..10, 25..30]);
    apply(&mut manifest, ManifestEdit::Dropped(vec![id(0, 1), id(0, 1)])).expect_err("named twice");
}

#[test]
fn the_body_of_another_partition_is_not_read() {
    let body = three().encode_snapshot();
    let other = PartitionKey {
        partition: crate::types::PartitionId(1),
        ..partition()
    };
    let manifest = Manifest::empty(&other);
    assert_eq!(manifest.decode_snapshot(&body), None);
    let edits = three().encode_edits(&[ManifestEdit::LogStart(Offset(1))]);
    assert_eq!(manifest.decode_edits(&edits), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), random in proptest::collection::vec(any::<u8>(), 0..100)) {
        let manifest = three();
        let edits = manifest.encode_edits(&[
            ManifestEdit::Added(segment(30, 40, 1)),
            ManifestEdit::Replaced { removed: vec![id(0, 1)], added: vec![segment(0, 5, 2)] },
        ]);
        for mut body in [manifest.encode_snapshot(), edits] {
            let _ = manifest.decode_snapshot(&body[..cut.index(body.len())]);
            let _ = manifest.decode_edits(&body[..cut.index(body.len())]);
            let at = at.index(body.len());
            body[at] = byte;
            let _ = manifest.decode_snapshot(&body);
            let _ = manifest.decode_edits(&body);
            let random = [&body[..20], &random].concat();
            let _ = manifest.decode_snapshot(&random);
            let _ = manifest.decode_edits(&random);
        }
    }
}
