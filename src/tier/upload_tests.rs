//! Tests of `super`: bytes arrive unchanged, and whatever dies on the way, the next try ends well.

use std::sync::Arc;

use super::super::testing::{
    CountingStore, Fault, FaultyStore, Kind, Local, NOW, author, bucket, covered, manifest_of, memory,
    partition, ticket,
};
use super::*;
use crate::record::{Accepted, BatchBuilder, BatchOptions};
use crate::storage::LogConfig;
use crate::tier::read_footer;

/// A batch of one record of `len` bytes.
fn batch(time: i64, len: usize) -> Accepted {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value: Vec<u8> = (0..len).map(|at| at.to_be_bytes()[7]).collect();
    builder
        .append(Some(Timestamp(time)), Some(b"key"), Some(&value), &[])
        .expect("small");
    builder.build().expect("it has a record")
}

/// Three sealed segments of a few hundred bytes.
fn small() -> Local {
    let config = LogConfig {
        segment_bytes: 900,
        index_interval_bytes: 200,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..28).map(|number| batch(NOW.0 + number, 20)).collect();
    let local = Local::of(&batches, config);
    assert!(local.sealed().len() >= 3, "{:?}", local.sealed().len());
    local
}

/// A sealed segment of several parts.
fn large() -> Local {
    let config = LogConfig {
        segment_bytes: 20 << 20,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..25).map(|number| batch(NOW.0 + number, 900_000)).collect();
    let local = Local::of(&batches, config);
    assert!(local.sealed()[0].summary.log_bytes > 2 * PART_BYTES as u64);
    local
}

async fn keys(store: &TierStore) -> Vec<String> {
    let mut listing = store.list("topics");
    let mut keys = Vec::new();
    while let Some(found) = listing.next().await.expect("listed") {
        keys.push(found.key);
    }
    keys.retain(|key| key.contains("/segments/"));
    keys.sort();
    keys
}

/// What is in the bucket is what is on the disk, byte for byte, and nothing lies there that the manifest does not name.
async fn check_all(local: &Local, store: &TierStore) {
    let manifest = manifest_of(store).await;
    let sealed = local.sealed();
    assert_eq!(manifest.state().segments().len(), sealed.len());
    for (tiered, segment) in manifest.state().segments().values().zip(&sealed) {
        let key = partition().segment(tiered.id);
        let object = store.get(&key, 1 << 30).await.expect("read").expect("there");
        assert_eq!(u64::try_from(object.len()).expect("small"), tiered.object_bytes);
        let stem = format!("{:020}", tiered.id.base.0);
        let log = local.file(&format!("{stem}.log"));
        assert!(object.starts_with(&log), "the log of {stem} is unchanged");
        let footer = read_footer(store, &partition(), tiered).await.expect("sound");
        assert_eq!(footer.summary, segment.summary);
        for (kind, suffix) in [
            (SectionKind::OFFSET_INDEX, "index"),
            (SectionKind::TIME_INDEX, "timeindex"),
        ] {
            let section = footer.section(kind).expect("there");
            let start = usize::try_from(section.position).expect("small");
            let len = usize::try_from(section.len_bytes).expect("small");
            assert_eq!(
                object[start..start + len],
                local.file(&format!("{stem}.{suffix}"))
            );
        }
        for chunk in 0..footer.chunk_crcs.len() {
            let range = footer.chunk(chunk).expect("there");
            let at = |position: u64| usize::try_from(position).expect("small");
            footer
                .check_chunk(chunk, &object[at(range.start)..at(range.end)])
                .expect("sound");
        }
    }
}

#[tokio::test]
async fn segments_arrive_byte_for_byte_and_a_second_upload_does_nothing() {
    let local = small();
    let counting = CountingStore::over(memory());
    let store = bucket(Arc::new(counting.clone()));
    let mut manifest = local.upload_all(&store).await;
    check_all(&local, &store).await;
    counting.take();
    for segment in local.sealed() {
        let again = local
            .uploader(&store)
            .upload(&partition(), &mut manifest, &segment, ticket(99))
            .await;
        assert_eq!(again.expect("asked"), Uploaded::Already);
    }
    assert_eq!(counting.take(), super::super::testing::Counts::default());
}

#[tokio::test]
async fn a_large_segment_goes_in_parts_and_arrives_byte_for_byte() {
    let local = large();
    let store = bucket(memory());
    local.upload_all(&store).await;
    check_all(&local, &store).await;
}

/// Uploads until it works, with a new attempt each time and the manifest read anew, as a server that restarts would.
async fn upload_until_done(local: &Local, faulty: &TierStore) -> u64 {
    let mut attempt = 0;
    for segment in local.sealed() {
        loop {
            attempt += 1;
            assert!(attempt < 1000, "it never ends");
            let partition = partition();
            let empty = Manifest::empty(&partition);
            let Ok(mut manifest) = Ledger::open(faulty.clone(), partition.manifest(), empty).await else {
                continue;
            };
            let uploaded = local
                .uploader(faulty)
                .upload(&partition, &mut manifest, &segment, ticket(attempt))
                .await;
            if uploaded.is_ok() {
                break;
            }
        }
    }
    attempt
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_at_any_call_ends_well_when_it_is_tried_again() {
    let faults = [
        Fault::Refuse,
        Fault::LoseAnswer,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Duplicate,
    ];
    let kinds = [Kind::Put, Kind::Get, Kind::Delete];
    let local = small();
    for fault in faults {
        for kind in kinds {
            for place in ["/segments/", "/manifest/"] {
                for skip in 0..6 {
                    let inner = memory();
                    let faulty = FaultyStore::over(Arc::clone(&inner));
                    faulty.after(kind, place, skip, fault);
                    upload_until_done(&local, &bucket(Arc::new(faulty.clone()))).await;
                    faulty.heal();
                    check_all(&local, &bucket(inner)).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_upload_that_fails_at_any_part_ends_well_when_it_is_tried_again() {
    let local = large();
    for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::HangAfter] {
        for (kind, skip) in [
            (Kind::Part, 0),
            (Kind::Part, 2),
            (Kind::Complete, 0),
            (Kind::Get, 1),
        ] {
            let inner = memory();
            let faulty = FaultyStore::over(Arc::clone(&inner));
            faulty.after(kind, "/segments/", skip, fault);
            upload_until_done(&local, &bucket(Arc::new(faulty.clone()))).await;
            assert_eq!(faulty.struck(), 1, "{fault:?} at {kind:?} {skip}");
            check_all(&local, &bucket(inner)).await;
        }
    }
}

#[tokio::test]
async fn an_object_that_was_cut_short_on_its_way_is_found_and_removed() {
    for (local, kind) in [(small(), Kind::Put), (large(), Kind::Part)] {
        let faulty = FaultyStore::over(memory());
        let store = bucket(Arc::new(faulty.clone()));
        faulty.next(kind, "/segments/", Fault::Truncate);
        let mut manifest = manifest_of(&store).await;
        let segment = &local.sealed()[0];
        let failed = local
            .uploader(&store)
            .upload(&partition(), &mut manifest, segment, ticket(1))
            .await;
        let failed = failed.expect_err("the store kept half").to_string();
        assert!(failed.contains("bytes arrived of the"), "{failed}");
        assert_eq!(keys(&store).await, [""; 0]);
        assert!(manifest.state().segments().is_empty());
        local
            .uploader(&store)
            .upload(&partition(), &mut manifest, segment, ticket(2))
            .await
            .expect("the store is well again");
    }
}

#[tokio::test]
async fn segments_that_go_together_take_one_entry_of_the_manifest_and_arrive_byte_for_byte() {
    let local = small();
    let counting = CountingStore::over(memory());
    let store = bucket(Arc::new(counting.clone()));
    let mut manifest = manifest_of(&store).await;
    counting.take();
    let sealed = local.sealed();
    let uploaded = local
        .uploader(&store)
        .upload_all(&partition(), &mut manifest, &sealed, ticket(1))
        .await
        .expect("uploaded");
    assert!(uploaded.len() == sealed.len() && !uploaded.contains(&Uploaded::Already));
    let counts = counting.take();
    assert_eq!(
        counts.puts,
        sealed.len() as u64 + 1,
        "one entry for all: {counts:?}"
    );
    check_all(&local, &store).await;
    let again = local
        .uploader(&store)
        .upload_all(&partition(), &mut manifest, &sealed, ticket(2))
        .await
        .expect("asked");
    assert!(again.iter().all(|uploaded| *uploaded == Uploaded::Already));
    assert_eq!(counting.take().puts, 0);
}

#[tokio::test(start_paused = true)]
async fn of_segments_that_go_together_those_before_a_failure_are_named_and_the_next_try_takes_the_rest() {
    let local = small();
    let sealed = local.sealed();
    let mut in_part = 0;
    for fault in [
        Fault::Refuse,
        Fault::LoseAnswer,
        Fault::HangAfter,
        Fault::Truncate,
        Fault::Late,
    ] {
        for kind in [Kind::Put, Kind::Get] {
            for skip in 0..9 {
                let inner = memory();
                let faulty = FaultyStore::over(Arc::clone(&inner));
                let store = bucket(Arc::new(faulty.clone()));
                let mut manifest = manifest_of(&store).await;
                faulty.after(kind, "/segments/", skip, fault);
                let uploader = local.uploader(&store);
                let first = uploader
                    .upload_all(&partition(), &mut manifest, &sealed, ticket(1))
                    .await;
                let named = covered(manifest_of(&bucket(Arc::clone(&inner))).await.state());
                let expected = sealed
                    .iter()
                    .map(|segment| segment.summary.base_offset.0..segment.summary.next_offset.0);
                assert!(expected.take(named.len()).eq(named.iter().cloned()), "{named:?}");
                assert_eq!(
                    first.is_ok(),
                    named.len() == sealed.len(),
                    "{fault:?} {kind:?} {skip}"
                );
                in_part += u32::from((1..sealed.len()).contains(&named.len()));
                uploader
                    .upload_all(&partition(), &mut manifest, &sealed, ticket(2))
                    .await
                    .expect("the store is well again");
                check_all(&local, &bucket(inner)).await;
            }
        }
    }
    assert!(in_part > 5, "{in_part} times a part was there");
}

#[tokio::test]
async fn a_segment_that_rotted_on_the_local_disk_makes_no_object() {
    for local in [small(), large()] {
        let store = bucket(memory());
        let mut manifest = manifest_of(&store).await;
        let sealed = local.sealed();
        let name = format!("{:020}.log", sealed[0].summary.base_offset.0);
        let sound = local.file(&name);
        let mut rotten = sound.clone();
        let at = rotten.len() - 10;
        rotten[at] ^= 1;
        local.overwrite(&name, &rotten);
        let uploader = local.uploader(&store);
        let refused = uploader
            .upload_all(&partition(), &mut manifest, &sealed, ticket(1))
            .await
            .expect_err("it is damaged");
        assert!(matches!(refused, TierError::SegmentDamaged { .. }), "{refused}");
        assert!(refused.to_string().contains("record batch has crc"), "{refused}");
        assert_eq!(keys(&store).await, [""; 0], "nor what lies behind it");
        assert!(manifest.state().segments().is_empty());
        local.overwrite(&name, &sound);
        uploader
            .upload_all(&partition(), &mut manifest, &sealed, ticket(2))
            .await
            .expect("it is sound");
        check_all(&local, &store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_random_ends_up_with_every_segment_once() {
    let local = small();
    let mut struck = 0;
    for seed in 0..30 {
        let inner = memory();
        let faulty = FaultyStore::over(Arc::clone(&inner));
        // A manifest entry of which half was kept stops everybody, and a person must look: not what is asked here.
        faulty.fail_at_random(seed, 150);
        let store = bucket(Arc::new(faulty.clone()));
        let done = upload_until_done(&local, &store);
        let done = tokio::time::timeout(std::time::Duration::from_secs(100_000), done);
        done.await.expect("it ends");
        struck += faulty.struck();
        check_all(&local, &bucket(inner)).await;
    }
    assert!(struck > 100, "{struck} faults");
}

/// Uploads everything as a server of `epoch` and claims the manifest first, as a start does.
async fn take_over(local: &Local, store: &TierStore, epoch: i32) {
    let author = author(epoch, u8::try_from(epoch).expect("small"));
    let mut manifest = manifest_of(store).await;
    manifest
        .append(author, NOW, |_| Some(Vec::new()))
        .await
        .expect("a fence");
    for (attempt, segment) in (1..).zip(local.sealed()) {
        let ticket = Ticket {
            author,
            ..ticket(attempt)
        };
        let uploader = local.uploader(store);
        uploader
            .upload(&partition(), &mut manifest, &segment, ticket)
            .await
            .expect("uploaded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_any_call_leaves_what_the_next_one_completes() {
    let local = small();
    let mut died = 0;
    for kind in [Kind::Put, Kind::Get] {
        for fault in [Fault::Hang, Fault::HangAfter] {
            for skip in 0..12 {
                let inner = memory();
                let faulty = FaultyStore::over(Arc::clone(&inner));
                faulty.after(kind, "topics/", skip, fault);
                let store = bucket(Arc::new(faulty));
                // It dies before the call's deadline of a second: nothing after that call happens.
                let life = take_over(&local, &store, 1);
                died += u32::from(
                    tokio::time::timeout(std::time::Duration::from_millis(500), life)
                        .await
                        .is_err(),
                );
                let healthy = bucket(inner);
                take_over(&local, &healthy, 2).await;
                check_all(&local, &healthy).await;
            }
        }
    }
    assert!(died >= 24, "it died {died} times");
}

#[tokio::test]
async fn what_a_fenced_server_uploads_is_named_by_nobody() {
    let local = small();
    let store = bucket(memory());
    let mut old = manifest_of(&store).await;
    let mut new = manifest_of(&store).await;
    new.append(author(2, 2), NOW, |_| Some(Vec::new()))
        .await
        .expect("a fence");
    let late = local
        .uploader(&store)
        .upload(&partition(), &mut old, &local.sealed()[0], ticket(1))
        .await;
    assert!(matches!(late, Err(TierError::Fenced { .. })), "{late:?}");
    assert_eq!(keys(&store).await.len(), 1, "the object is there");
    assert!(
        manifest_of(&store).await.state().segments().is_empty(),
        "and is no segment"
    );
}

#[tokio::test]
async fn what_the_cleaner_wrote_anew_takes_the_place_of_what_was_there() {
    let local = small();
    let store = bucket(memory());
    let mut manifest = local.upload_all(&store).await;
    let sealed = local.sealed();
    let removed = vec![manifest.state().segments()[&sealed[0].summary.base_offset].id];
    let replacement = Replacement {
        removed: removed.clone(),
        added: vec![sealed[0].clone()],
    };
    let uploader = local.uploader(&store);
    let added = uploader
        .replace(&partition(), &mut manifest, &replacement, ticket(50))
        .await
        .expect("replaced");
    assert_eq!(added[0].id.attempt, 50);
    let waiting: Vec<ObjectId> = manifest.state().waiting().map(|waiting| waiting.id).collect();
    assert_eq!(waiting, removed);
    check_all(&local, &store).await;
    let again = uploader
        .replace(&partition(), &mut manifest, &replacement, ticket(51))
        .await;
    assert!(matches!(again, Err(TierError::Contradiction { .. })), "{again:?}");
}

#[tokio::test]
async fn a_segment_out_of_order_or_without_its_file_uploads_nothing() {
    let local = small();
    let store = bucket(memory());
    let mut manifest = manifest_of(&store).await;
    let sealed = local.sealed();
    let uploader = local.uploader(&store);
    uploader
        .upload(&partition(), &mut manifest, &sealed[1], ticket(1))
        .await
        .expect("the first may be any");
    let before = uploader
        .upload(&partition(), &mut manifest, &sealed[0], ticket(2))
        .await;
    assert!(
        matches!(before, Err(TierError::Contradiction { .. })),
        "{before:?}"
    );
    let gone = SealedSegment {
        log: SectionSource::File("/data/t-0/gone.log".into()),
        ..sealed[2].clone()
    };
    let gone = uploader
        .upload(&partition(), &mut manifest, &gone, ticket(3))
        .await
        .expect_err("no file");
    assert!(gone.to_string().contains("gone.log"), "{gone}");
    assert_eq!(keys(&store).await.len(), 1);
    assert_eq!(covered(manifest.state()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn uploads_keep_to_their_pace_together() {
    let (local, store) = (small(), bucket(memory()));
    let uploader = local.uploader(&store).at_pace(Pace::of(1000));
    let mut manifest = manifest_of(&store).await;
    let begin = tokio::time::Instant::now();
    let mut sent = Vec::new();
    for (attempt, segment) in (1..).zip(local.sealed()) {
        // Whoever has a clone has the same pace.
        let clone = uploader.clone();
        clone
            .upload(&partition(), &mut manifest, &segment, ticket(attempt))
            .await
            .expect("uploaded");
        sent.push(segment.summary.log_bytes);
    }
    // What is sent last is not waited for.
    let waited: u64 = sent.iter().rev().skip(1).sum();
    let took = u64::try_from(begin.elapsed().as_millis()).expect("short");
    assert!(
        took >= waited,
        "{took} ms for {waited} bytes at 1,000 in a second"
    );
}
