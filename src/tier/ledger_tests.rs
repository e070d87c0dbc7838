//! Tests of `super`, on claims and manifests: races, lost answers, late words, and finding the newest.

use std::sync::Arc;

use super::super::testing::{
    CountingStore, Fault, FaultyStore, Kind, NOW, author, bucket, covered, manifest_of, memory, partition,
};
use super::*;
use crate::storage::SegmentSummary;
use crate::tier::{Manifest, ManifestEdit, ObjectId, Retry, TieredSegment};
use crate::types::Offset;

/// A segment of one offset, `number`.
fn segment(number: i64) -> TieredSegment {
    TieredSegment {
        id: ObjectId {
            base: Offset(number),
            epoch: LeaderEpoch(1),
            attempt: 9,
        },
        object_bytes: 100,
        footer_len: 10,
        footer_crc: 1,
        summary: SegmentSummary {
            next_offset: Offset(number + 1),
            ..SegmentSummary::empty(Offset(number))
        },
    }
}

/// Adds a segment of one offset behind all others.
async fn add(ledger: &mut Ledger<Manifest>, author: Author) -> Result<Appended, TierError> {
    let change = |state: &Manifest| Some(vec![ManifestEdit::Added(segment(state.end().0))]);
    ledger.append(author, NOW, change).await
}

#[tokio::test]
async fn what_was_appended_is_read_across_snapshots() {
    let store = bucket(memory());
    let mut ledger = manifest_of(&store).await;
    for number in 0..150 {
        assert_eq!(
            add(&mut ledger, author(1, 1)).await.expect("added"),
            Appended::At(number)
        );
        if [0, 1, 63, 64, 65, 128, 149].contains(&number) {
            let read = manifest_of(&store).await;
            assert_eq!(read.state(), ledger.state(), "after {number}");
            assert_eq!(read.head().map(|head| head.number), Some(number));
        }
    }
    assert_eq!(ledger.head().expect("it has entries").snapshot(), 128);
}

#[tokio::test]
async fn of_two_owners_the_one_of_the_smaller_epoch_is_fenced() {
    let store = bucket(memory());
    let mut old = manifest_of(&store).await;
    add(&mut old, author(1, 1)).await.expect("added");
    let mut new = manifest_of(&store).await;
    add(&mut old, author(1, 1))
        .await
        .expect("a late word, before the new one has said anything");
    assert_eq!(
        new.append(author(2, 2), NOW, |_| Some(Vec::new()))
            .await
            .expect("fence"),
        Appended::At(2)
    );
    assert_eq!(covered(new.state()), [0..1, 1..2], "the late word was taken in");
    let fenced = add(&mut old, author(1, 1)).await.expect_err("it was replaced");
    assert!(
        matches!(
            fenced,
            TierError::Fenced {
                ours: LeaderEpoch(1),
                theirs: LeaderEpoch(2),
                ..
            }
        ),
        "{fenced}"
    );
    assert!(
        fenced
            .to_string()
            .contains("/0/manifest/00000000000000000002 was written by"),
        "{fenced}"
    );
    assert_eq!(fenced.retry(), Retry::Never);
    add(&mut new, author(2, 2)).await.expect("the new one goes on");
    let again = add(&mut old, author(1, 1)).await;
    assert!(matches!(again, Err(TierError::Fenced { .. })), "{again:?}");
}

#[tokio::test]
async fn a_twin_of_the_same_epoch_is_fenced_too() {
    let store = bucket(memory());
    let mut one = manifest_of(&store).await;
    let mut twin = manifest_of(&store).await;
    add(&mut one, author(1, 1)).await.expect("added");
    let fenced = add(&mut twin, author(1, 2))
        .await
        .expect_err("the number is taken");
    assert!(matches!(fenced, TierError::Fenced { .. }), "{fenced}");
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_was_lost_counts_once() {
    for fault in [Fault::LoseAnswer, Fault::HangAfter, Fault::Duplicate] {
        let faulty = FaultyStore::over(memory());
        let store = bucket(Arc::new(faulty.clone()));
        let mut ledger = manifest_of(&store).await;
        add(&mut ledger, author(1, 1)).await.expect("added");
        faulty.next(Kind::Put, "manifest", fault);
        assert_eq!(
            add(&mut ledger, author(1, 1)).await.expect("found"),
            Appended::At(1),
            "{fault:?}"
        );
        assert_eq!(
            covered(manifest_of(&store).await.state()),
            [0..1, 1..2],
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_lands_after_it_was_given_up_is_found_by_the_next() {
    let faulty = FaultyStore::over(memory());
    let store = bucket(Arc::new(faulty.clone()));
    let mut ledger = manifest_of(&store).await;
    add(&mut ledger, author(1, 1)).await.expect("added");
    faulty.next(Kind::Put, "manifest", Fault::HangAfter);
    faulty.next(Kind::Get, "manifest", Fault::Refuse);
    add(&mut ledger, author(1, 1))
        .await
        .expect_err("nothing could be learned");
    let want = |state: &Manifest| {
        let is_there = state.end() >= Offset(2);
        (!is_there).then(|| vec![ManifestEdit::Added(segment(1))])
    };
    let again = ledger.append(author(1, 1), NOW.saturating_add_ms(5), want).await;
    assert_eq!(again.expect("it is there"), Appended::Nothing);
    assert_eq!(covered(ledger.state()), [0..1, 1..2]);
}

#[tokio::test]
async fn a_change_that_does_not_fit_is_not_written() {
    let store = bucket(memory());
    let mut ledger = manifest_of(&store).await;
    add(&mut ledger, author(1, 1)).await.expect("added");
    let twice = |_: &Manifest| Some(vec![ManifestEdit::Added(segment(0))]);
    let refused = ledger
        .append(author(1, 1), NOW, twice)
        .await
        .expect_err("it is there");
    assert!(matches!(refused, TierError::Contradiction { .. }), "{refused}");
    assert_eq!(newest(&store, ledger.path()).await.expect("found"), Some(0));
}

#[tokio::test]
async fn the_newest_is_found_wherever_it_is_with_few_look_ups() {
    let counting = CountingStore::over(memory());
    let store = bucket(Arc::new(counting.clone()));
    let mut there = 0;
    for newest_number in [0, 1, 2, 63, 64, 1000, 4095, 4096, 4097, 9000, 12_288] {
        for number in there..=newest_number {
            store
                .publish(&numbered("l", number), Bytes::from_static(b"x"))
                .await
                .expect("put");
        }
        there = newest_number + 1;
        counting.take();
        assert_eq!(newest(&store, "l").await.expect("found"), Some(newest_number));
        let counts = counting.take();
        assert!(counts.heads <= 32, "{counts:?} for {newest_number}");
        assert_eq!((counts.gets, counts.lists), (0, 0));
    }
    assert_eq!(newest(&store, "nothing").await.expect("asked"), None);
}

#[tokio::test]
async fn the_newest_is_found_when_all_but_the_anchors_below_were_removed() {
    let store = bucket(memory());
    for number in [0, 4096, 8192].into_iter().chain(8193..8300) {
        store
            .publish(&numbered("l", number), Bytes::from_static(b"x"))
            .await
            .expect("put");
    }
    assert_eq!(newest(&store, "l").await.expect("found"), Some(8299));
}

#[tokio::test]
async fn a_damaged_or_missing_entry_is_named() {
    for removed in [0, 2, 4] {
        let faulty = FaultyStore::over(memory());
        let store = bucket(Arc::new(faulty.clone()));
        let mut ledger = manifest_of(&store).await;
        for _ in 0..5 {
            add(&mut ledger, author(1, 1)).await.expect("added");
        }
        let key = numbered(ledger.path(), removed);
        let sound = store.get(&key, 1000).await.expect("read").expect("there");
        let mut damaged = sound.to_vec();
        damaged[70] ^= 1;
        store.delete(&key).await.expect("removed");
        let open = || {
            let empty = Manifest::empty(&partition());
            Ledger::open(store.clone(), ledger.path().to_owned(), empty)
        };
        match open().await {
            Ok(read) => assert_eq!(
                (removed, covered(read.state()).len()),
                (4, 4),
                "the end looks like an older end"
            ),
            Err(error) => assert_eq!(
                error.to_string(),
                format!(
                    "test://bucket/{key} is damaged: it is not there, and entry {} is",
                    removed + 1
                )
            ),
        }
        faulty.next(Kind::List, "manifest", Fault::ListNothing);
        let lagging = open().await.expect("a listing that lags tells nothing");
        assert_eq!(lagging.head().map_or(0, |head| head.number + 1), removed);
        store.publish(&key, damaged.into()).await.expect("put");
        let error = open().await.expect_err("an entry is damaged").to_string();
        assert!(
            error.starts_with(&format!("test://bucket/{key} is damaged: it has crc")),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_writers_on_a_store_that_fails_at_random_leave_one_chain() {
    for seed in 0..40 {
        let inner = memory();
        let faulty = FaultyStore::seeded(Arc::clone(&inner), seed, 200);
        let store = bucket(Arc::new(faulty.clone()));
        let calm = bucket(inner);
        let empty = Manifest::empty(&partition());
        let path = partition().manifest();
        let mut old = Ledger::unread(store.clone(), path.clone(), empty.clone());
        let mut new = Ledger::unread(store, path, empty);
        let mut acknowledged = Vec::new();
        for round in 0..60 {
            let (ledger, who) = if round < 20 || round % 2 == 0 {
                (&mut old, author(1, 1))
            } else {
                (&mut new, author(2, 2))
            };
            let mut added = None;
            let change = |state: &Manifest| {
                added = Some(state.end());
                Some(vec![ManifestEdit::Added(segment(state.end().0))])
            };
            if let Ok(Appended::At(number)) = ledger.append(who, NOW, change).await {
                acknowledged.push((number, added.expect("asked"), who));
            }
        }
        assert!(faulty.struck() > 0, "seed {seed}: nothing went wrong");
        let read = match Ledger::open(calm, partition().manifest(), Manifest::empty(&partition())).await {
            Ok(read) => read,
            // A store that keeps half of an object: found, and told.
            Err(TierError::Damaged { .. }) => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for (number, offset, who) in &acknowledged {
            assert!(
                read.state().segments().contains_key(offset),
                "seed {seed}: {number} of {who:?} is lost"
            );
        }
        let numbers: std::collections::BTreeSet<u64> =
            acknowledged.iter().map(|(number, ..)| *number).collect();
        assert_eq!(
            numbers.len(),
            acknowledged.len(),
            "seed {seed}: a number was given twice"
        );
        let first_new = acknowledged
            .iter()
            .filter(|(.., who)| who.writer == author(2, 2).writer)
            .map(|(number, ..)| *number)
            .min();
        let last_old = acknowledged
            .iter()
            .filter(|(.., who)| who.writer == author(1, 1).writer)
            .map(|(number, ..)| *number)
            .max();
        if let (Some(first_new), Some(last_old)) = (first_new, last_old) {
            assert!(
                last_old < first_new,
                "seed {seed}: the old owner wrote behind the new one's fence"
            );
        }
    }
}
