//! Tests of `super`: for each kind of damage one that shows it, and none where there is none.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::{Expect, expect};
use object_store::ObjectStore;

use super::super::testing::{
    Fault, FaultyStore, Kind, Local, NOW, author, bucket, manifest_of, memory, partition, ticket,
};
use super::*;
use crate::record::{BatchBuilder, BatchOptions};
use crate::storage::LogConfig;
use crate::tier::{
    CatalogEdit, Claimant, Claims, Form, ManifestEdit, ObjectFacts, ObjectWriter, Published, SectionKind,
    WriterId,
};

/// Long after anything was put.
const LATER: Timestamp = Timestamp(i64::MAX / 2);
const HOUR_MS: i64 = 3_600_000;

fn local() -> Local {
    let batches: Vec<_> = (0..40)
        .map(|number| {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder
                .append(Some(Timestamp(NOW.0 + number)), None, Some(&[7; 40]), &[])
                .expect("small");
            builder.build().expect("it has a record")
        })
        .collect();
    let config = LogConfig {
        segment_bytes: 1200,
        index_interval_bytes: 200,
        ..LogConfig::default()
    };
    Local::of(&batches, config)
}

/// Claims the bucket, and names the topic.
async fn named(store: &TierStore, settings: &[(&str, &str)]) {
    let claimant = Claimant {
        cluster_id: "c".to_owned(),
        host: "h".to_owned(),
        least_epoch: LeaderEpoch(1),
        writer: WriterId([1; 16]),
    };
    let mut claims = Claims::read(store.clone()).await.expect("read");
    claims.claim(&claimant, NOW).await.expect("claimed");
    let topic = ArchivedTopic {
        id: partition().topic_id,
        name: partition().topic,
        partitions: 1,
        settings: settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let mut catalog = Ledger::open(store.clone(), CATALOG.to_owned(), Catalog::default())
        .await
        .expect("read");
    catalog
        .append(author(1, 1), NOW, |_| Some(vec![CatalogEdit::Put(topic.clone())]))
        .await
        .expect("named");
}

/// An archive of a few segments.
async fn archive(inner: &Arc<dyn ObjectStore>) -> (TierStore, Ledger<Manifest>) {
    let store = bucket(Arc::clone(inner));
    named(&store, &[]).await;
    let manifest = local().upload_all(&store).await;
    assert!(manifest.state().segments().len() >= 4);
    (store, manifest)
}

async fn verified(store: &TierStore, depth: Depth, now: Timestamp) -> (Result<Report, TierError>, String) {
    let told = Mutex::new(String::new());
    let options = VerifyOptions {
        depth,
        now,
        in_flight_ms: HOUR_MS,
    };
    let tell = |said: Told<'_>| {
        if let Told::Finding(finding) = said {
            let key = finding.key.replace(&partition().to_string(), "T");
            *told.lock() += &format!("{}: {key}: {}\n", finding.kind.name(), finding.reason);
        }
    };
    let report = verify(store, options, &tell).await;
    (report, told.into_inner())
}

/// What is found in both depths, where everything is old.
async fn check(store: &TierStore, expected: Expect) -> Report {
    let (shallow, told) = verified(store, Depth::Footers, LATER).await;
    let (deep, deep_told) = verified(store, Depth::Bytes, LATER).await;
    expected.assert_eq(&told);
    expected.assert_eq(&deep_told);
    assert_eq!(
        shallow.expect("verified").root,
        deep.as_ref().expect("verified").root
    );
    deep.expect("verified")
}

fn key_of(manifest: &Ledger<Manifest>, index: usize) -> String {
    let segment = manifest.state().segments().values().nth(index).expect("there");
    partition().segment(segment.id)
}

async fn replace(store: &TierStore, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store
        .get(key, 1 << 20)
        .await
        .expect("read")
        .expect("there")
        .to_vec();
    change(&mut bytes);
    store.delete(key).await.expect("removed");
    store.publish(key, bytes.into()).await.expect("put");
}

#[tokio::test]
async fn a_sound_archive_has_a_root_that_neither_a_sweep_nor_another_server_moves() {
    let inner = memory();
    let (store, mut manifest) = archive(&inner).await;
    let report = check(&store, expect![""]).await;
    let segments = u64::try_from(manifest.state().segments().len()).expect("few");
    assert_eq!((report.counts.topics, report.counts.segments), (1, segments));
    assert!(report.counts.read_bytes == report.counts.object_bytes);
    let root = report.root.expect("all was read");
    manifest
        .append(author(2, 2), NOW, |_| Some(vec![]))
        .await
        .expect("fenced");
    assert_eq!(check(&store, expect![""]).await.root, Some(root));
    let last = manifest.state().segments().values().last().expect("there").id;
    manifest
        .append(author(2, 2), NOW, |_| {
            Some(vec![ManifestEdit::Dropped(vec![last])])
        })
        .await
        .expect("dropped");
    let report = check(&store, expect![""]).await;
    assert_eq!(report.counts.waiting, 1);
    let dropped = report.root.expect("all was read");
    assert_ne!(dropped, root);
    store.delete(&partition().segment(last)).await.expect("swept");
    let report = check(&store, expect![""]).await;
    assert_eq!((report.counts.waiting, report.root), (0, Some(dropped)));
}

#[tokio::test]
async fn an_object_that_is_gone_is_missing() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    store.delete(&key_of(&manifest, 1)).await.expect("removed");
    let report = check(
        &store,
        expect![[r#"
            missing: test://bucket/T/segments/00000000000000000011-0000000001-0000000000000002.segment: the manifest names it, and it is not there
        "#]],
    )
    .await;
    assert_eq!(report.root, None);
}

#[tokio::test]
async fn an_object_that_was_cut_has_another_length() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    replace(&store, &key_of(&manifest, 0), |bytes| bytes.truncate(700)).await;
    check(&store, expect![[r#"
        length: test://bucket/T/segments/00000000000000000000-0000000001-0000000000000001.segment: it has 700 bytes of 1792
    "#]]).await;
}

#[tokio::test]
async fn every_changed_byte_of_an_object_is_found_in_depth() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    let segment = Arc::clone(&manifest.state().segments()[&Offset::ZERO]);
    let key = partition().segment(segment.id);
    let end = segment.object_bytes - u64::from(segment.footer_len) - 32;
    for at in (0..segment.object_bytes).step_by(7) {
        let index = usize::try_from(at).expect("small");
        replace(&store, &key, |bytes| bytes[index] ^= 1).await;
        let (_, told) = verified(&store, Depth::Bytes, LATER).await;
        assert!(
            told.starts_with("damaged: ") && told.lines().count() == 1,
            "byte {at}: {told}"
        );
        let (_, told) = verified(&store, Depth::Footers, LATER).await;
        assert_eq!(told.is_empty(), at < end, "byte {at}: {told}");
        replace(&store, &key, |bytes| bytes[index] ^= 1).await;
    }
    check(&store, expect![""]).await;
}

/// Uploads the first segment with other bytes in its log or in one of its sections, checksums of the object and all.
async fn uploaded(
    log: impl FnOnce(&mut Vec<u8>),
    section: SectionKind,
    change: impl Fn(&mut Vec<u8>),
) -> String {
    let local = local();
    let store = bucket(memory());
    named(&store, &[]).await;
    let summary = local.sealed().remove(0).summary;
    let name = |suffix: &str| format!("00000000000000000000.{suffix}");
    let mut object = local.file(&name("log"));
    log(&mut object);
    // By hand: an uploader would not take such a log.
    let id = ObjectId {
        base: summary.base_offset,
        epoch: ticket(1).author.epoch,
        attempt: 1,
    };
    let mut writer = ObjectWriter::begin(ObjectFacts {
        partition: partition(),
        id,
        written: NOW,
        summary: summary.clone(),
    });
    writer.write(&object);
    for (kind, suffix) in [
        (SectionKind::OFFSET_INDEX, "index"),
        (SectionKind::TIME_INDEX, "timeindex"),
    ] {
        let mut bytes = local.file(&name(suffix));
        if kind == section {
            change(&mut bytes);
        }
        writer.section(kind);
        writer.write(&bytes);
        object.extend_from_slice(&bytes);
    }
    let tail = writer.finish().expect("it fits");
    object.extend_from_slice(&tail.bytes);
    let put = store.publish(&partition().segment(id), object.into()).await;
    assert_eq!(put.expect("put"), Published::Ours);
    let tiered = TieredSegment {
        id,
        object_bytes: tail.object_len(),
        footer_len: tail.trailer.footer_len,
        footer_crc: tail.trailer.footer_crc,
        summary,
    };
    let added = |_: &Manifest| Some(vec![ManifestEdit::Added(tiered.clone())]);
    let mut manifest = manifest_of(&store).await;
    manifest
        .append(ticket(1).author, NOW, added)
        .await
        .expect("named");
    let (_, told) = verified(&store, Depth::Footers, LATER).await;
    assert_eq!(told, "");
    let (_, told) = verified(&store, Depth::Bytes, LATER).await;
    told.replace(
        "test://bucket/T/segments/00000000000000000000-0000000001-0000000000000001.segment",
        "S",
    )
}

#[tokio::test]
async fn a_segment_that_was_wrong_when_it_was_uploaded_is_found_in_depth() {
    let (offsets, times) = (SectionKind::OFFSET_INDEX, SectionKind::TIME_INDEX);
    let same = |_: &mut Vec<u8>| {};
    assert_eq!(uploaded(same, offsets, same).await, "");
    let batch_len = 108;
    expect![[r#"
        damaged: S: at position 108: record batch has crc 0x1cffe88a, expected 0x55c395ad
    "#]]
    .assert_eq(&uploaded(|log| log[batch_len + 100] ^= 1, offsets, same).await);
    expect![[r#"
        damaged: S: at position 108: a batch of offsets 0 to 0, expected within 1 to 10
    "#]]
    .assert_eq(&uploaded(|log| log[batch_len + 7] = 0, offsets, same).await);
    expect![[r#"
        damaged: S: its offset index has a batch that ends with offset 3 at position 216, its log has none
    "#]]
    .assert_eq(&uploaded(same, offsets, |index| index[3] += 1).await);
    expect![[r#"
        damaged: S: its offset index has a batch that ends with offset 2 at position 217, its log has none
    "#]]
    .assert_eq(&uploaded(same, offsets, |index| index[7] += 1).await);
    expect![[r#"
        damaged: S: its time index says that nothing up to offset 2 is later than 1700000000001, and a batch of 1700000000002 is there
    "#]]
    .assert_eq(&uploaded(same, times, |index| index[7] -= 1).await);
    expect![[r#"
        damaged: S: its time index has an entry of offset 2 where none can be
    "#]]
    .assert_eq(&uploaded(same, times, |index| index.copy_within(0..12, 12)).await);
}

#[tokio::test]
async fn what_nothing_names_is_an_orphan_once_it_cannot_be_on_its_way() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    let whole = store
        .get(&key_of(&manifest, 0), 1 << 20)
        .await
        .expect("read")
        .expect("there");
    for epoch in [0, 1] {
        let id = ObjectId {
            base: Offset(99),
            epoch: LeaderEpoch(epoch),
            attempt: 7,
        };
        let key = partition().segment(id);
        store.publish(&key, whole.clone()).await.expect("put");
    }
    check(&store, expect![[r#"
        orphan: test://bucket/T/segments/00000000000000000099-0000000000-0000000000000007.segment: no manifest names it
        orphan: test://bucket/T/segments/00000000000000000099-0000000001-0000000000000007.segment: no manifest names it
    "#]]).await;
    let mut listing = store.list("topics");
    let put = listing.next().await.expect("listed").expect("there").modified;
    let at = |hours: i64| Timestamp(put.0 + hours * HOUR_MS + HOUR_MS / 2);
    for (now, orphans) in [(at(0), 0), (at(1), 1), (at(23), 1), (at(24), 2)] {
        let (report, told) = verified(&store, Depth::Footers, now).await;
        assert_eq!(told.lines().count(), orphans, "{told}");
        let in_flight = usize::try_from(report.expect("verified").counts.in_flight).expect("few");
        assert_eq!(in_flight, 2 - orphans);
    }
}

#[tokio::test]
async fn keys_that_no_archive_has_and_topics_that_nobody_knows_are_told() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    for key in ["readme.txt", "epochs/12", "probe/0000000000000001"] {
        store.publish(key, Bytes::from_static(b"x")).await.expect("put");
    }
    let key = key_of(&manifest, 0);
    let moved = [
        key.replace(".segment", ".log"),
        key.replace("/0/", "/1/"),
        key.replace("/0/", "/00/"),
        key.replace("topics/t/", "topics/u/"),
    ];
    for key in &moved {
        store.publish(key, Bytes::from_static(b"x")).await.expect("put");
    }
    let report = check(&store, expect![[r#"
        name: test://bucket/epochs/12: an archive has no such key
        name: test://bucket/readme.txt: an archive has no such key
        name: test://bucket/T/segments/00000000000000000000-0000000001-0000000000000001.log: an archive has no such key
        name: test://bucket/T0/segments/00000000000000000000-0000000001-0000000000000001.segment: an archive has no such key
        orphan: test://bucket/topics/t/01010101010101010101010101010101/1/segments/00000000000000000000-0000000001-0000000000000001.segment: the catalog has no such partition
        orphan: test://bucket/topics/u/01010101010101010101010101010101/0/segments/00000000000000000000-0000000001-0000000000000001.segment: the catalog has no such partition
    "#]]).await;
    assert_eq!(report.counts.probes, 1);
}

#[tokio::test]
async fn offsets_that_are_in_no_segment_are_a_gap_unless_they_were_compacted_away() {
    for (settings, gaps) in [(&[][..], 1), (&[("cleanup.policy", "compact")][..], 0)] {
        let local = local();
        let store = bucket(memory());
        named(&store, settings).await;
        let mut manifest = manifest_of(&store).await;
        let mut segments = local.sealed();
        segments.remove(1);
        for (attempt, segment) in (1..).zip(segments) {
            local
                .uploader(&store)
                .upload(&partition(), &mut manifest, &segment, ticket(attempt))
                .await
                .expect("uploaded");
        }
        let (report, told) = verified(&store, Depth::Footers, LATER).await;
        assert_eq!(report.expect("verified").counts.findings, gaps, "{told}");
        if gaps > 0 {
            expect![[r#"
                gap: test://bucket/T/segments/00000000000000000022-0000000001-0000000000000002.segment: offsets 11 to 21 before it are in no segment
            "#]].assert_eq(&told);
        }
    }
}

/// Puts an entry behind the newest that no server of ours would write.
async fn forge(store: &TierStore, manifest: &Ledger<Manifest>, form: Form, body: Vec<u8>) {
    let head = manifest.head().expect("it has entries");
    let number = head.number + 1;
    let before = store
        .get(&numbered(manifest.path(), head.number), MAX_LEN)
        .await
        .expect("read")
        .expect("there");
    let entry = LedgerEntry {
        kind: Manifest::KIND,
        form,
        epoch: LeaderEpoch(1),
        writer: WriterId([1; 16]),
        number,
        snapshot: if form == Form::Snapshot {
            number
        } else {
            head.snapshot()
        },
        written: NOW,
        previous_crc: crc32fast::hash(&before),
        body: body.into(),
    };
    let key = numbered(manifest.path(), number);
    store
        .publish(&key, entry.encode().expect("short"))
        .await
        .expect("put");
}

#[tokio::test]
async fn segments_that_overlap_are_told_by_the_entry_that_says_so() {
    let inner = memory();
    let (store, manifest) = archive(&inner).await;
    let first = manifest.state().segments()[&Offset::ZERO].as_ref().clone();
    let mut again = first;
    again.id.attempt = 99;
    let body = manifest.state().encode_edits(&[ManifestEdit::Added(again)]);
    forge(&store, &manifest, Form::Delta, body).await;
    let report = check(&store, expect![[r#"
        damaged: test://bucket/T/manifest/00000000000000000004: it does not fit those before it: segment 00000000000000000000-0000000001-0000000000000063 does not lie behind offset 40
    "#]]).await;
    assert_eq!(report.root, None);
}

#[tokio::test]
async fn old_entries_of_a_ledger_are_read_in_depth() {
    let inner = memory();
    let (store, mut manifest) = archive(&inner).await;
    for _ in 0..70 {
        manifest
            .append(author(1, 1), NOW, |_| Some(vec![]))
            .await
            .expect("appended");
    }
    check(&store, expect![""]).await;
    let key = |number| numbered(manifest.path(), number);
    replace(&store, &key(1), |bytes| bytes[60] ^= 1).await;
    store.delete(&key(3)).await.expect("removed");
    let (_, told) = verified(&store, Depth::Footers, LATER).await;
    assert_eq!(told, "");
    let (_, told) = verified(&store, Depth::Bytes, LATER).await;
    let told: Vec<String> = told
        .lines()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        told,
        [
            "damaged test://bucket/T/manifest/00000000000000000001",
            "missing test://bucket/T/manifest/00000000000000000003"
        ]
    );
}

#[tokio::test]
async fn a_listing_that_lags_accuses_nobody() {
    let faulty = FaultyStore::over(memory());
    let inner = Arc::new(faulty.clone()) as Arc<dyn ObjectStore>;
    let (store, manifest) = archive(&inner).await;
    let root = check(&store, expect![""]).await.root;
    faulty.always(Kind::List, Fault::ListNothing);
    let report = check(&store, expect![""]).await;
    assert_eq!(report.root, root);
    assert_eq!(
        usize::try_from(report.counts.segments).expect("few"),
        manifest.state().segments().len()
    );
}

#[tokio::test]
async fn what_the_store_does_not_give_is_told_and_a_store_that_is_away_ends_it() {
    let faulty = FaultyStore::over(memory());
    let inner = Arc::new(faulty.clone()) as Arc<dyn ObjectStore>;
    let (store, manifest) = archive(&inner).await;
    let key = key_of(&manifest, 2);
    faulty.next(Kind::Get, &key, Fault::Refuse);
    let (report, told) = verified(&store, Depth::Footers, LATER).await;
    assert_eq!(report.expect("verified").root, None);
    assert!(
        told.starts_with("unread: ") && told.contains("503") && told.lines().count() == 1,
        "{told}"
    );
    faulty.always(Kind::Get, Fault::Refuse);
    let (report, _) = verified(&store, Depth::Footers, LATER).await;
    let error = report.expect_err("the store is away");
    assert_eq!(error.trouble(), Some(Trouble::Unavailable));
}

#[tokio::test]
async fn an_empty_bucket_is_no_archive() {
    let (report, told) = verified(&bucket(memory()), Depth::Bytes, LATER).await;
    assert_eq!(told, "");
    assert_eq!(
        report.expect_err("nothing is there").to_string(),
        "verification of test://bucket failed: it is not there: there is no archive"
    );
}
