//! When segments go to the archive and leave the disk, and what the metrics count of it.

use super::archive::{bucket, fill, house, marks, status, until, until_archived, until_left};
use super::*;

#[tokio::test(start_paused = true)]
async fn the_stores_own_topics_are_archived_within_five_seconds() {
    let store = bucket();
    let house = house(&store).await;
    house.create("flights", 1, &[]).await;
    let internal = TopicName::new("__siltstone_topics").expect("valid");
    let end = || marks(&house, &internal).log_end;
    house.clock.advance_ms(4_000);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_ne!(status(&house, &internal).end, Some(end()), "it is not due yet");
    house.clock.advance_ms(1_000);
    until("it is archived", || status(&house, &internal).end == Some(end())).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_archived_leaves_at_once_or_when_its_time_has_come() {
    let store = bucket();
    let house = house(&store).await;
    let small = ("segment.bytes", "16384");
    let soon = house
        .create("soon", 1, &[small, ("local.retention.bytes", "0")])
        .await;
    let later = house
        .create("later", 1, &[small, ("local.retention.ms", "86400000")])
        .await;
    // A look of retention has just been, the next would be half a minute later.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let begin = tokio::time::Instant::now();
    fill(&house, &soon, 0..60).await;
    until_left(&house, &soon, 40).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    fill(&house, &later, 0..60).await;
    house.clock.advance_ms(60_000);
    until_archived(&house, &later, 60).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(marks(&house, &later).local_start, Offset(0));
    house.clock.advance_ms(86_400_000);
    until_left(&house, &later, 40).await;
}

#[tokio::test(start_paused = true)]
async fn metrics_count_uploads_cold_reads_and_what_is_behind() {
    let store = bucket();
    let house = house(&store).await;
    let small = [("segment.bytes", "16384"), ("local.retention.bytes", "0")];
    let topic = house.create("flights", 1, &small).await;
    fill(&house, &topic, 0..60).await;
    until_left(&house, &topic, 40).await;
    let core = &house.broker.core;
    let archive = core.archive.as_ref().expect("it has one");
    let metrics = &core.metrics;
    house.clock.advance_ms(3_000);
    archive.count_gauges(core);
    let behind = status(&house, &topic).lag_bytes;
    assert!(behind > 0);
    assert!(metrics.tier_lag_bytes.get() >= i64::try_from(behind).expect("small"));
    assert_eq!(metrics.tier_lag_seconds.get(), 3);
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 60).await;
    until("all of it is", || {
        archive.count_gauges(core);
        metrics.tier_lag_bytes.get() == 0
    })
    .await;
    let told = status(&house, &topic);
    assert!(metrics.tier_uploads.get() >= told.segments);
    assert!(metrics.tier_upload_bytes.get() >= told.size_bytes);
    let before = metrics.tier_cold_bytes.get();
    let chunk = house.fetch(&topic, 0, 0).await.expect("readable");
    let read = u64::try_from(chunk.batches.len()).expect("small");
    assert_eq!(metrics.tier_cold_bytes.get(), before + read);
    assert!(metrics.tier_cold_reads.get() > 0 && metrics.tier_cold_failures.get() == 0);
    assert_eq!((metrics.tier_stuck.get(), metrics.tier_failing.get()), (0, 0));
}
