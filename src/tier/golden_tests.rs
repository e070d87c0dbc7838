//! An archive of format version 1, checked in: every build must read it, and write the same bytes.
//!
//! `tests/fixtures/v1/archive` was made once by [`make`] of the data directory beside it, and is never edited: a build that cannot read it cannot
//! read its users' archives either. `tests/compat/archive.py` reads it with the script of `examples/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::testing::{NOW, author, covered, ticket};
use super::*;
use crate::env::{Fs, OpenMode, RealFs};
use crate::record::{Batches, DecompressLimit};
use crate::storage::{self, FirstBatch, MANIFEST_FILE_NAME, Read};
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/v1")
        .join(name)
}

fn file(path: &Path) -> Vec<u8> {
    let file = RealFs::new().open(path, OpenMode::Read).expect("it is there");
    let mut bytes = vec![0; usize::try_from(file.len_bytes().expect("read")).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn golden() -> PartitionKey {
    PartitionKey {
        topic: TopicName::new("golden").expect("a name"),
        topic_id: TopicId([7; 16]),
        partition: PartitionId(0),
    }
}

/// Uploads both segments of `clean/golden-0`, though the second was not sealed, and lets the log begin at 2.
async fn make(store: &TierStore) {
    let mut claims = Claims::read(store.clone()).await.expect("read");
    let claimant = Claimant {
        cluster_id: "golden-cluster".to_owned(),
        host: "golden-host".to_owned(),
        least_epoch: LeaderEpoch(1),
        writer: author(1, 1).writer,
    };
    let owner = claims.claim(&claimant, NOW).await.expect("claimed");
    assert_eq!(owner, author(1, 1));
    let mut catalog = Ledger::unread(store.clone(), CATALOG.to_owned(), Catalog::default());
    for (number, name) in [(7, "golden"), (9, "empty")] {
        let topic = ArchivedTopic {
            id: TopicId([number; 16]),
            name: TopicName::new(name).expect("a name"),
            partitions: 1,
            settings: BTreeMap::from([("cleanup.policy".to_owned(), "delete".to_owned())]),
        };
        let put = |_: &Catalog| Some(vec![CatalogEdit::Put(topic.clone())]);
        catalog.append(owner, NOW, put).await.expect("put");
    }
    let dir = fixture("clean/golden-0");
    let local = storage::Manifest::decode(&file(&dir.join(MANIFEST_FILE_NAME)))
        .expect("sound")
        .manifest;
    let mut manifest = Ledger::unread(store.clone(), golden().manifest(), Manifest::empty(&golden()));
    let uploader = Uploader::new(Arc::new(RealFs::new()), store.clone());
    for (attempt, summary) in (1..).zip(local.segments().values()) {
        let path = |base: Offset, suffix: &str| dir.join(format!("{:020}.{suffix}", base.0));
        let (base, next) = (summary.base_offset, summary.next_offset);
        let section = |kind, path| (kind, SectionSource::File(path));
        let segment = SealedSegment {
            summary: summary.clone(),
            log: SectionSource::File(path(base, "log")),
            sections: vec![
                section(SectionKind::OFFSET_INDEX, path(base, "index")),
                section(SectionKind::TIME_INDEX, path(base, "timeindex")),
                section(SectionKind::PRODUCERS, path(next, "snapshot")),
                section(SectionKind::EPOCHS, dir.join("leader-epoch-checkpoint")),
            ],
        };
        uploader
            .upload(&golden(), &mut manifest, &segment, ticket(attempt))
            .await
            .expect("uploaded");
    }
    let log_start = |_: &Manifest| Some(vec![ManifestEdit::LogStart(Offset(2))]);
    manifest.append(owner, NOW, log_start).await.expect("raised");
}

/// Every object of an archive, by key.
async fn objects(store: &TierStore) -> BTreeMap<String, Vec<u8>> {
    let mut listing = store.list("");
    let mut found = BTreeMap::new();
    while let Some(listed) = listing.next().await.expect("listed") {
        let bytes = store
            .get(&listed.key, 1 << 20)
            .await
            .expect("read")
            .expect("there");
        found.insert(listed.key, bytes.to_vec());
    }
    found
}

fn archive() -> TierStore {
    let url = format!("file://{}", fixture("archive").display());
    TierStore::open(&url, CallLimits::default()).expect("it opens")
}

#[tokio::test]
async fn this_build_writes_the_archive_that_is_checked_in() {
    let store = TierStore::open("memory://", CallLimits::default()).expect("it opens");
    make(&store).await;
    let (made, known) = (objects(&store).await, objects(&archive()).await);
    let keys = |objects: &BTreeMap<String, Vec<u8>>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&made), keys(&known));
    for (key, bytes) in made {
        assert!(bytes == known[&key], "{key} has other bytes");
    }
}

#[tokio::test]
async fn the_archive_that_is_checked_in_is_read_to_its_last_record() {
    let store = archive();
    let claims = Claims::read(store.clone()).await.expect("read");
    assert_eq!(
        claims.owner().map(|owner| owner.cluster_id.as_str()),
        Some("golden-cluster")
    );
    let catalog = Ledger::open(store.clone(), CATALOG.to_owned(), Catalog::default())
        .await
        .expect("read");
    let names: Vec<&str> = catalog
        .state()
        .topics()
        .values()
        .map(|topic| topic.name.as_str())
        .collect();
    assert_eq!(names, ["golden", "empty"]);
    let manifest = Ledger::open(store.clone(), golden().manifest(), Manifest::empty(&golden()))
        .await
        .expect("read");
    assert_eq!(covered(manifest.state()), [0..15, 15..21]);
    assert_eq!(manifest.state().log_start(), Offset(2));
    let cold = ColdLog::new(
        store,
        golden(),
        Arc::new(manifest.state().clone()),
        ChunkCache::in_memory(CacheLimits::default()),
    );
    let mut offsets = Vec::new();
    let mut from = Offset::ZERO;
    while from < Offset(21) {
        let read = Read {
            from,
            until: Offset(21),
            times: None,
            max_bytes: 1 << 20,
            first: FirstBatch::Whole,
        };
        let slice = cold.read(&read).await.expect("read");
        for batch in Batches::over(slice.bytes, 0) {
            let (_, batch) = batch.expect("sound");
            for record in batch.records(DecompressLimit(1 << 20)).expect("sound") {
                offsets.push(record.expect("sound").offset.0);
            }
        }
        from = slice.next_offset;
    }
    assert_eq!(offsets, (0..21).collect::<Vec<i64>>());
}

#[test]
fn the_page_for_strangers_has_the_pictures_of_the_code() {
    let page = include_str!("../../docs/archive-format.md");
    let sources = [
        ("keys", include_str!("keys.rs")),
        ("ledger_entry", include_str!("ledger_entry.rs")),
        ("catalog", include_str!("catalog.rs")),
        ("manifest", include_str!("manifest.rs")),
        ("epoch", include_str!("epoch.rs")),
        ("object", include_str!("object.rs")),
        (
            "segment_summary",
            include_str!("../storage/format/segment_summary.rs"),
        ),
    ];
    for (name, source) in sources {
        let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
        let header: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        let header = header.join("\n");
        let picture = header
            .split("```text\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let picture = picture.expect("it has a picture");
        assert!(
            page.contains(picture),
            "docs/archive-format.md has another picture than {name}:\n{picture}"
        );
    }
}
