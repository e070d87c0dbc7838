//! What a start does before it believes that an archive is its own: the directory is locked first, the archive is looked at before it is claimed,
//! and each of its ledgers is read once.

use super::archive::{SMALL, all_values, archiving, house, start_with, until, value, values};
use super::restore::{archive, archived_end, contents, restore, restoring, topic};
use super::*;
use crate::tier::TierStore;
use crate::tier::testing::{FaultyStore, Kind, bucket as faulty_bucket, memory};

/// The same archive on a store that tells what it was asked.
async fn told(store: &TierStore) -> (FaultyStore, TierStore) {
    let faulty = FaultyStore::over(memory());
    let copy = faulty_bucket(Arc::new(faulty.clone()));
    for (key, bytes) in contents(store).await {
        copy.publish(&key, bytes).await.expect("put");
    }
    faulty.take_calls();
    (faulty, copy)
}

#[tokio::test(start_paused = true)]
async fn a_start_that_restores_claims_nothing_while_another_has_the_directory() {
    let (store, ..) = archive().await;
    let before = contents(&store).await;
    let fs = SimFs::new();
    fs.create_dir(Path::new("/data")).expect("made");
    let other = fs.lock(Path::new("/data/.lock")).expect("it is free");
    let refused = start_with(fs.clone(), restoring(&store, Restore::Cold)).await;
    let refused = refused.map(drop).expect_err("another has it").to_string();
    assert!(refused.contains("another process"), "{refused}");
    assert_eq!(contents(&store).await, before, "the archive was not touched");
    drop(other);
    let house = start_with(fs, restoring(&store, Restore::Cold)).await;
    let house = house.expect("it is free again");
    assert_eq!(all_values(&house, &topic("flights")).await, values(0..63));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_restore_what_is_there_claims_nothing() {
    let (store, ..) = archive().await;
    let damaged = faulty_bucket(memory());
    for (key, bytes) in contents(&store).await {
        let mut bytes = bytes.to_vec();
        if key.contains("flights") && key.contains("/manifest/") {
            *bytes.last_mut().expect("no manifest is empty") ^= 1;
        }
        damaged.publish(&key, bytes.into()).await.expect("put");
    }
    let before = contents(&damaged).await;
    let refused = start_with(SimFs::new(), restoring(&damaged, Restore::Cold)).await;
    let refused = refused
        .map(drop)
        .expect_err("its manifests are damaged")
        .to_string();
    assert!(refused.contains("manifest"), "{refused}");
    assert_eq!(contents(&damaged).await, before, "it was not claimed");
}

#[tokio::test(start_paused = true)]
async fn a_restored_directory_is_refused_beside_another_archive_than_its_own() {
    let (store, ..) = archive().await;
    let fs = SimFs::new();
    restore(&store, &fs, Restore::Cold, Execution::Apply)
        .await
        .expect("restored");
    let other = faulty_bucket(memory());
    let refused = start_with(fs.clone(), archiving(&other)).await.map(drop);
    let refused = refused.expect_err("its data is elsewhere").to_string();
    assert!(
        refused.contains("was restored from memory:") && refused.contains("test://bucket"),
        "{refused}"
    );
    assert_eq!(contents(&other).await, BTreeMap::new(), "it was not claimed");
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    assert_eq!(all_values(&house, &topic("flights")).await, values(0..63));
}

#[tokio::test(start_paused = true)]
async fn a_restore_and_the_start_behind_it_read_each_ledger_once() {
    let (store, ..) = archive().await;
    let (faulty, copy) = told(&store).await;
    let fs = SimFs::new();
    // A look for the first entry, and the entry itself.
    let reads_of_first_entries = || {
        let mut reads: BTreeMap<String, usize> = BTreeMap::new();
        for (kind, key) in faulty.take_calls() {
            if kind == Kind::Get && key.ends_with("/manifest/00000000000000000000") {
                *reads.entry(key).or_default() += 1;
            }
        }
        reads
    };
    restore(&copy, &fs, Restore::Cold, Execution::Apply)
        .await
        .expect("restored");
    let reads = reads_of_first_entries();
    assert!(
        reads.keys().any(|key| key.contains("__siltstone_topics")),
        "{reads:?}"
    );
    assert!(reads.values().all(|times| *times <= 2), "{reads:?}");
    let house = start_with(fs, archiving(&copy)).await.expect("it starts");
    let reads = reads_of_first_entries();
    assert!(reads.keys().any(|key| key.contains("flights")), "{reads:?}");
    assert!(reads.values().all(|times| *times <= 2), "{reads:?}");
    house.broker.shutdown().await.expect("a good disk");
}

/// Counts what a server asks of an archive of so many segments until it has restored itself and given its first record.
async fn calls_until_the_first_record(segments: i64) -> (usize, u64) {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let old = house(&store).await;
    let flights = old.create("flights", 1, &SMALL).await;
    {
        let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
        tokio::task::spawn_blocking(move || is_over.recv());
        for number in 0..segments {
            let large = format!("{} {}", value(number), "y".repeat(9_000));
            let record = timed(&large, NOW.0 + number);
            old.append(&flights, 0, vec![record]).await.expect("appended");
        }
    }
    old.clock.advance_ms(60_000);
    until("all is archived", || {
        archived_end(&old, &flights) == Some(Offset(segments))
    })
    .await;
    old.broker.shutdown().await.expect("a good disk");
    faulty.take_calls();
    let new = start_with(SimFs::new(), restoring(&store, Restore::Cold)).await;
    let new = new.expect("it starts");
    let chunk = new.fetch(&flights, 0, 0).await.expect("readable");
    assert!(texts(&chunk)[0].starts_with(&value(0)));
    let calls = faulty.take_calls().len();
    let found = new.broker.core.topics.find(&flights).expect("there");
    let status = new.broker.core.archive_status(&found.partitions[0]);
    (calls, status.expect("it is archived").segments)
}

#[tokio::test(start_paused = true)]
async fn the_first_record_after_a_restore_costs_no_more_requests_for_more_segments() {
    let (few, segments) = calls_until_the_first_record(20).await;
    assert!(segments >= 20);
    let (many, segments) = calls_until_the_first_record(600).await;
    assert!(segments >= 600);
    // Up to a snapshot's distance of entries may stand behind the last snapshot of a manifest, and each ledger is read three times: before
    // and after the archive is claimed, and by the server.
    assert!(
        many <= few + 3 * 64 + 20,
        "{many} requests for {segments} segments, {few} for 20"
    );
}
