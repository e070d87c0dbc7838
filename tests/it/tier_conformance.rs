//! What every object store must do for an archive: the same cases on memory, a folder, and whatever store an address names.
//!
//! ```text
//! SILTSTONE_TEST_TIER_URL=s3://bucket/prefix cargo test --test it tier_conformance -- --ignored
//! ```
//!
//! Credentials and endpoint come from the environment, as for a server; `tests/compat/run tier` does that with a local S3 server. Each run works
//! below a prefix of its own, and leaves it behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use siltstone::env::{Fs, RealFs};
use siltstone::storage::{
    FirstBatch, MANIFEST_FILE_NAME, Manifest as LocalManifest, PartitionMetadata, Read, SegmentFlags,
};
use siltstone::tier::{
    Appended, ArchivedTopic, Author, CATALOG, CacheLimits, CallLimits, Catalog, CatalogEdit, ChunkCache,
    Claimant, Claims, ColdLog, Depth, Ledger, Manifest, PartitionKey, Published, SealedSegment, SectionKind,
    SectionSource, Ticket, TierError, TierStore, Told, Uploaded, Uploader, VerifyOptions, WriterId, verify,
};
use siltstone::types::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicName};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// The least part that S3 takes, but for the last.
const PART: usize = 5 << 20;
/// What the archive of these tests comes to, on every store.
const ROOT: &str = "0b277659b72257b310ce657a9bf957e03c62b507d3bc7d8580540b77ad41300c";

fn open(url: &str) -> TierStore {
    TierStore::open(url, CallLimits::default()).expect("it opens")
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&open("memory://")).await;
}

#[tokio::test]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    conforms(&open(&format!("file://{}", folder.path().display()))).await;
}

#[tokio::test]
#[ignore = "needs a store, named by SILTSTONE_TEST_TIER_URL"]
async fn the_store_that_the_environment_names_conforms() {
    let url = std::env::var("SILTSTONE_TEST_TIER_URL").expect("SILTSTONE_TEST_TIER_URL names a store");
    let mut run = [0; 8];
    getrandom::fill(&mut run).expect("random bytes");
    let url = format!("{}/{:016x}", url.trim_end_matches('/'), u64::from_be_bytes(run));
    conforms(&open(&url)).await;
}

async fn conforms(store: &TierStore) {
    store.probe(1).await.expect("it creates only where it is told to");
    creates_only_if_absent(store).await;
    gives_exactly_what_is_asked_for(store).await;
    shows_large_objects_whole_or_not_at_all(store).await;
    lists_what_is_there(store).await;
    keeps_two_writers_apart(store).await;
    gives_back_what_was_uploaded(store).await;
}

async fn creates_only_if_absent(store: &TierStore) {
    let (ours, theirs) = (Bytes::from_static(b"ours"), Bytes::from_static(b"theirs"));
    let publish = async |bytes: &Bytes| store.publish("create/one", bytes.clone()).await.expect("put");
    assert_eq!(publish(&ours).await, Published::Ours);
    assert_eq!(
        publish(&ours).await,
        Published::Ours,
        "a lost answer is told by the bytes"
    );
    assert_eq!(publish(&theirs).await, Published::Theirs(ours.clone()));
    let racers: Vec<Bytes> = (0..8)
        .map(|racer| Bytes::from(format!("racer {racer}")))
        .collect();
    let runs = racers
        .iter()
        .map(|bytes| store.publish("create/race", bytes.clone()));
    let outcomes = futures_util::future::join_all(runs).await;
    let won = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Ok(Published::Ours)))
        .count();
    assert_eq!(won, 1, "{outcomes:?}");
    store.delete("create/one").await.expect("removed");
    store.delete("create/one").await.expect("removed already");
    assert_eq!(store.len_of("create/one").await.expect("looked up"), None);
    assert_eq!(publish(&theirs).await, Published::Ours);
}

async fn gives_exactly_what_is_asked_for(store: &TierStore) {
    let bytes: Bytes = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
    let key = "a/b/c/00000000000000004711-0000000002-000000000000beef.segment";
    store.publish(key, bytes.clone()).await.expect("put");
    assert_eq!(store.len_of(key).await.expect("looked up"), Some(400_000));
    assert_eq!(
        store.get(key, 400_000).await.expect("fetched"),
        Some(bytes.clone())
    );
    assert!(matches!(
        store.get(key, 399_999).await,
        Err(TierError::Damaged { .. })
    ));
    for (start, end) in [(0, 1), (7, 4096), (399_999, 400_000), (0, 400_000), (5, 5)] {
        let part = store
            .get_range(key, start..end)
            .await
            .expect("fetched")
            .expect("there");
        let (from, to) = (
            usize::try_from(start).expect("small"),
            usize::try_from(end).expect("small"),
        );
        assert!(part == bytes[from..to], "{start}..{end}");
    }
    store
        .get_range(key, 399_999..400_001)
        .await
        .expect_err("it ends before that");
    assert_eq!(store.get_range("a/b/none", 0..1).await.expect("looked up"), None);
    assert_eq!(store.get("a/b/none", 10).await.expect("looked up"), None);
}

async fn shows_large_objects_whole_or_not_at_all(store: &TierStore) {
    let parts: Vec<Bytes> = (0..3u8).map(|part| Bytes::from(vec![part; PART])).collect();
    let rest = Bytes::from_static(b"and the rest");
    let mut put = store.begin("large/whole").await.expect("begun");
    let sent = parts.iter().chain([&rest]).map(|part| put.put_part(part.clone()));
    for part in futures_util::future::join_all(sent.collect::<Vec<_>>()).await {
        part.expect("sent");
    }
    assert_eq!(store.len_of("large/whole").await.expect("looked up"), None);
    put.complete().await.expect("made");
    let len = 3 * PART as u64 + 12;
    assert_eq!(store.len_of("large/whole").await.expect("looked up"), Some(len));
    let (second, end) = (PART as u64, len - 12);
    let edge = store
        .get_range("large/whole", second - 1..second + 1)
        .await
        .expect("fetched");
    assert_eq!(edge.as_deref(), Some(&[0, 1][..]));
    assert_eq!(
        store.get_range("large/whole", end..len).await.expect("fetched"),
        Some(rest)
    );
    let mut put = store.begin("large/part").await.expect("begun");
    put.put_part(parts[0].clone()).await.expect("sent");
    put.abort().await.expect("let go");
    assert_eq!(store.len_of("large/part").await.expect("looked up"), None);
}

async fn lists_what_is_there(store: &TierStore) {
    let keys: Vec<String> = (0..5).map(|number| format!("list/deep/{number:020}")).collect();
    for key in &keys {
        store
            .publish(key, Bytes::from_static(b"12345"))
            .await
            .expect("put");
    }
    store
        .publish("listed/not", Bytes::from_static(b"1"))
        .await
        .expect("put");
    let mut listings = [
        (store.list("list"), &keys[..]),
        (store.list_behind("list/deep", &keys[2]), &keys[3..]),
        (store.list("none"), &[]),
    ];
    for (listing, expected) in &mut listings {
        let mut found = Vec::new();
        while let Some(object) = listing.next().await.expect("listed") {
            assert_eq!(object.len_bytes, 5);
            assert!(object.modified > NOW, "{:?}", object.modified);
            found.push(object.key);
        }
        found.sort();
        assert_eq!(found, *expected);
    }
}

fn author(epoch: i32) -> Author {
    let writer = WriterId([u8::try_from(epoch).expect("small"); 16]);
    Author {
        epoch: LeaderEpoch(epoch),
        writer,
    }
}

async fn keeps_two_writers_apart(store: &TierStore) {
    let open = async || {
        Ledger::open(store.clone(), "ledger".to_owned(), Catalog::default())
            .await
            .expect("read")
    };
    let mut old = open().await;
    let mut new = open().await;
    for number in 0..70 {
        if number == 35 {
            new.refresh().await.expect("read");
        }
        let appended = old
            .append(author(1), NOW, |_| Some(vec![]))
            .await
            .expect("appended");
        assert_eq!(appended, Appended::At(number));
    }
    // Half of what there is was read when the rest came.
    let appended = new
        .append(author(2), NOW, |_| Some(vec![]))
        .await
        .expect("appended");
    assert_eq!(appended, Appended::At(70), "it goes on behind what it finds");
    let fenced = old
        .append(author(1), NOW, |_| Some(vec![]))
        .await
        .expect_err("fenced");
    assert!(matches!(fenced, TierError::Fenced { .. }), "{fenced}");
    assert_eq!(open().await.head().expect("there").number, 70);
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/clean/golden-0")
}

/// The sealed segments of a partition that is checked in.
fn sealed() -> (PartitionKey, Vec<SealedSegment>) {
    let read = |name: &str| std::fs::read(golden().join(name)).expect("it is checked in");
    let metadata = PartitionMetadata::decode(&read(PartitionMetadata::FILE_NAME)).expect("sound");
    let key = PartitionKey {
        topic: TopicName::new("golden").expect("a name"),
        topic_id: metadata.topic_id,
        partition: PartitionId(0),
    };
    let manifest = LocalManifest::decode(&read(MANIFEST_FILE_NAME))
        .expect("sound")
        .manifest;
    let segments = manifest.segments().values();
    let sealed = segments.filter(|summary| summary.flags.contains(SegmentFlags::SEALED));
    let hand_over = |summary: &siltstone::storage::SegmentSummary| {
        let path = |suffix: &str| golden().join(format!("{:020}.{suffix}", summary.base_offset.0));
        SealedSegment {
            summary: summary.clone(),
            log: SectionSource::File(path("log")),
            sections: vec![
                (SectionKind::OFFSET_INDEX, SectionSource::File(path("index"))),
                (SectionKind::TIME_INDEX, SectionSource::File(path("timeindex"))),
            ],
        }
    };
    (key, sealed.map(hand_over).collect())
}

fn log_of(segment: &SealedSegment) -> Vec<u8> {
    let SectionSource::File(log) = &segment.log else {
        panic!("handed over as files");
    };
    std::fs::read(log).expect("it is checked in")
}

async fn gives_back_what_was_uploaded(store: &TierStore) {
    let (key, segments) = sealed();
    assert!(!segments.is_empty());
    let claimant = Claimant {
        cluster_id: "c".to_owned(),
        host: "h".to_owned(),
        least_epoch: LeaderEpoch(1),
        writer: WriterId([1; 16]),
    };
    let mut claims = Claims::read(store.clone()).await.expect("read");
    let author = claims.claim(&claimant, NOW).await.expect("claimed");
    let topic = ArchivedTopic {
        id: key.topic_id,
        name: key.topic.clone(),
        partitions: 1,
        settings: [("retention.ms".to_owned(), "-1".to_owned())].into(),
    };
    let mut catalog = Ledger::open(store.clone(), CATALOG.to_owned(), Catalog::default())
        .await
        .expect("read");
    let put = |_: &Catalog| Some(vec![CatalogEdit::Put(topic.clone())]);
    catalog.append(author, NOW, put).await.expect("named");
    let fs = Arc::new(RealFs::default()) as Arc<dyn Fs>;
    let mut manifest = Ledger::open(store.clone(), key.manifest(), Manifest::empty(&key))
        .await
        .expect("read");
    let mut expected = Vec::new();
    for (attempt, segment) in (1..).zip(&segments) {
        let ticket = Ticket {
            author,
            attempt,
            now: NOW,
        };
        let uploader = Uploader::new(Arc::clone(&fs), store.clone());
        let uploaded = uploader.upload(&key, &mut manifest, segment, ticket).await;
        assert!(matches!(uploaded, Ok(Uploaded::Now(_))), "{uploaded:?}");
        let again = uploader.upload(&key, &mut manifest, segment, ticket).await;
        assert!(matches!(again, Ok(Uploaded::Already)), "{again:?}");
        expected.extend(log_of(segment));
    }
    let state = Arc::new(manifest.state().clone());
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let cold = ColdLog::new(store.clone(), key, Arc::clone(&state), cache);
    let mut read = Read {
        from: Offset::ZERO,
        until: state.end(),
        times: None,
        max_bytes: 300,
        first: FirstBatch::Whole,
    };
    let mut found = Vec::new();
    while read.from < read.until {
        let slice = cold.read(&read).await.expect("read");
        found.extend_from_slice(&slice.bytes);
        read.from = slice.next_offset;
    }
    assert!(found == expected, "what is read is what lay on disk");
    let options = VerifyOptions {
        depth: Depth::Bytes,
        now: NOW,
        in_flight_ms: 0,
    };
    let told = |told: Told<'_>| {
        // The other cases have left objects that no archive has.
        if let Told::Finding(finding) = told {
            assert_eq!(finding.kind.name(), "name", "{finding:?}");
        }
    };
    let report = verify(store, options, &told).await.expect("verified");
    assert_eq!(report.root.map(|root| root.to_string()).as_deref(), Some(ROOT));
}
