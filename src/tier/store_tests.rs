//! Tests of `super`: one suite that every kind of store must pass, and what becomes of calls that go wrong.

use std::sync::Arc;

use super::super::testing::{CountingStore, Counts, Fault, FaultyStore, Kind, bucket, memory};
use super::*;
use crate::tier::Retry;

/// What every store must do, on a bucket that nobody else writes to. `part` is the least length of a part.
async fn conforms(store: &TierStore, part: usize) {
    store.probe(7).await.expect("it creates only where it is told to");
    let ours = Bytes::from_static(b"ours");
    assert_eq!(store.get("a/b", 100).await.expect("asked"), None);
    assert_eq!(store.len_of("a/b").await.expect("asked"), None);
    assert_eq!(store.get_range("a/b", 0..1).await.expect("asked"), None);
    assert_eq!(
        store.publish("a/b", ours.clone()).await.expect("put"),
        Published::Ours
    );
    assert_eq!(
        store.publish("a/b", ours.clone()).await.expect("put again"),
        Published::Ours
    );
    let theirs = store.publish("a/b", Bytes::from_static(b"others")).await;
    assert_eq!(theirs.expect("asked"), Published::Theirs(ours.clone()));
    assert_eq!(store.get("a/b", 4).await.expect("read"), Some(ours));
    store.get("a/b", 3).await.expect_err("longer than allowed");
    assert_eq!(
        store.get_range("a/b", 1..3).await.expect("read").as_deref(),
        Some(&b"ur"[..])
    );
    store.get_range("a/b", 2..5).await.expect_err("it ends before");

    let mut put = store.begin("large").await.expect("begun");
    let parts = [vec![1; part], vec![2; part], vec![3; 10]];
    for bytes in &parts {
        put.put_part(bytes.clone().into()).await.expect("sent");
    }
    assert_eq!(
        store.len_of("large").await.expect("asked"),
        None,
        "before it is complete"
    );
    put.complete().await.expect("completed");
    let whole = store.get("large", 1 << 30).await.expect("read").expect("there");
    assert_eq!(whole, parts.concat());
    let mut aborted = store.begin("aborted").await.expect("begun");
    aborted.put_part(vec![1; part].into()).await.expect("sent");
    aborted.abort().await.expect("aborted");
    assert_eq!(store.len_of("aborted").await.expect("asked"), None);

    for number in 0..5 {
        let key = keys::numbered("ledger", number);
        store.publish(&key, Bytes::from(vec![1; 3])).await.expect("put");
    }
    let mut listing = store.list("ledger");
    let mut listed = Vec::new();
    while let Some(found) = listing.next().await.expect("listed") {
        assert_eq!(found.len_bytes, 3);
        listed.push(keys::number_of(&found.key).expect("a number"));
    }
    listed.sort_unstable();
    assert_eq!(listed, [0, 1, 2, 3, 4]);
    store.delete("a/b").await.expect("removed");
    store.delete("a/b").await.expect("removed already");
    assert_eq!(store.len_of("a/b").await.expect("asked"), None);
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&bucket(memory()), 1000).await;
}

#[tokio::test]
async fn a_folder_conforms_and_is_made_when_it_is_not_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}/some/archive", dir.path().display());
    conforms(
        &TierStore::open(&url, CallLimits::default()).expect("it opens"),
        1000,
    )
    .await;
    assert!(dir.path().join("some/archive/ledger").is_dir());
}

#[tokio::test]
async fn a_store_that_ignores_create_only_is_refused() {
    let faulty = FaultyStore::over(memory());
    faulty.always(Kind::Put, Fault::Overwrite);
    let refused = bucket(Arc::new(faulty))
        .probe(1)
        .await
        .expect_err("it overwrites");
    assert_eq!(
        refused.to_string(),
        "test://bucket overwrites objects that it was told only to create: two servers could not be kept apart on it"
    );
    assert_eq!(refused.retry(), Retry::Never);
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answer_is_lost_is_a_success_once_our_bytes_are_found() {
    for fault in [Fault::LoseAnswer, Fault::HangAfter, Fault::Duplicate] {
        let faulty = FaultyStore::over(memory());
        faulty.next(Kind::Put, "k", fault);
        let store = bucket(Arc::new(faulty.clone()));
        let put = store.publish("k", Bytes::from_static(b"ours")).await;
        assert_eq!(put.expect("found"), Published::Ours, "{fault:?}");
        assert_eq!(faulty.struck(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_deadline_and_names_the_object() {
    let faulty = FaultyStore::over(memory());
    faulty.next(Kind::Put, "k", Fault::Hang);
    faulty.next(Kind::Get, "other", Fault::Hang);
    let store = bucket(Arc::new(faulty));
    let failed = store
        .publish("k", Bytes::from_static(b"ours"))
        .await
        .expect_err("it hangs");
    assert_eq!(
        failed.to_string(),
        "creation of test://bucket/k failed: no answer in time, it is tried again later: nothing came within 2 s"
    );
    assert_eq!(failed.retry(), Retry::Later);
    let failed = store.len_of("other").await.expect_err("it hangs");
    assert_eq!(failed.trouble(), Some(Trouble::TimedOut));
}

#[tokio::test]
async fn what_is_cut_short_is_an_error_not_an_answer() {
    let faulty = FaultyStore::over(memory());
    let store = bucket(Arc::new(faulty.clone()));
    store
        .publish("k", Bytes::from_static(b"eight bytes"))
        .await
        .expect("put");
    faulty.next(Kind::Get, "k", Fault::Truncate);
    store.get("k", 100).await.expect_err("half came");
    faulty.next(Kind::Get, "k", Fault::Truncate);
    store.get_range("k", 0..8).await.expect_err("half came");
    faulty.next(Kind::Put, "cut", Fault::Truncate);
    faulty.next(Kind::Put, "cut", Fault::LoseAnswer);
    store
        .publish("cut", Bytes::from_static(b"eight bytes"))
        .await
        .expect("the store says so");
    let found = store.publish("cut", Bytes::from_static(b"eight bytes")).await;
    assert!(matches!(found, Ok(Published::Theirs(_))), "{found:?}");
}

#[tokio::test]
async fn publishing_takes_one_request_when_all_is_well() {
    let counting = CountingStore::over(memory());
    let store = bucket(Arc::new(counting.clone()));
    store
        .publish("k", Bytes::from_static(b"ours"))
        .await
        .expect("put");
    let expected = Counts {
        puts: 1,
        put_bytes: 4,
        ..Counts::default()
    };
    assert_eq!(counting.take(), expected);
}

#[test]
fn a_bucket_that_is_not_there_is_told_by_listings_too_and_in_one_line() {
    let answered = |status: &str| object_store::Error::Generic {
        store: "S3",
        source: format!("Server returned non-2xx status code: {status}: <?xml?>\n<Error>\n</Error>").into(),
    };
    assert_eq!(trouble_of(&answered("404 Not Found")), Trouble::NotFound);
    assert_eq!(trouble_of(&answered("403 Forbidden")), Trouble::Denied);
    assert_eq!(
        trouble_of(&answered("503 Service Unavailable")),
        Trouble::Unavailable
    );
    let told = in_one_line(answered("404 Not Found")).to_string();
    assert!(
        told.ends_with("404 Not Found: <?xml?> <Error> </Error>"),
        "{told}"
    );
}
