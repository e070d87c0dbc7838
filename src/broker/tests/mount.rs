//! What a mount sees of an owner that goes on: settings, compaction, and topics that are gone before anybody looked.

use super::archive::{
    COMPACTED, SMALL, alter, archiving, bucket, compact, fill, house, marks, start_with, status, until,
    until_archived, write_keys,
};
use super::restore::mounting;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_mount_follows_settings_and_what_its_owner_compacts() {
    let store = bucket();
    let owner = house(&store).await;
    let keys = owner.create("keys", 1, &COMPACTED).await;
    write_keys(&owner, &keys, 0..40).await;
    owner.clock.advance_ms(60_000);
    until_archived(&owner, &keys, 40).await;
    let mount = start_with(SimFs::new(), mounting(&store)).await;
    let mount = mount.expect("it starts");
    let below = || {
        let found = mount.broker.core.topics.find(&keys).expect("there");
        found.partitions[0].log.compacted_below().records
    };
    assert_eq!(below(), Offset(0), "nothing is compacted yet");
    let before = status(&owner, &keys).size_bytes;
    compact(&owner, &keys).await;
    alter(&owner, &keys, ("delete.retention.ms", "12345")).await;
    until("the archive is compacted", || {
        status(&owner, &keys).size_bytes < before / 2
    })
    .await;
    until("readers of the mount are told", || below() > Offset(20)).await;
    until("and of the setting", || {
        let found = mount.broker.core.topics.find(&keys).expect("there");
        let set = found.config.overrides.get("delete.retention.ms");
        set.is_some_and(|set| set == "12345")
    })
    .await;
    owner.broker.shutdown().await.expect("a good disk");
    mount.broker.shutdown().await.expect("a good disk");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_removed_and_swept_between_two_looks_leaves_the_mount() {
    let store = bucket();
    let mut config = archiving(&store);
    // The catalog has forgotten a topic as soon as it is deleted.
    config.archive.sweep_delay = Duration::ZERO;
    let owner = start_with(SimFs::new(), config).await.expect("it starts");
    let topics = [
        owner.create("flights", 1, &SMALL).await,
        owner.create("empty", 1, &SMALL).await,
    ];
    let not = owner
        .create("not", 1, &[("remote.storage.enable", "false")])
        .await;
    fill(&owner, &topics[0], 0..20).await;
    // The mount learns of it by the log of the metadata alone.
    owner.clock.advance_ms(60_000);
    let internal = TopicName::new("__siltstone_topics").expect("valid");
    until("all is archived", || {
        let end = marks(&owner, &internal).log_end;
        status(&owner, &topics[0]).end == Some(Offset(20)) && status(&owner, &internal).end == Some(end)
    })
    .await;
    let mount = start_with(SimFs::new(), mounting(&store)).await;
    let mount = mount.expect("it starts");
    for topic in topics.iter().chain([&not]) {
        mount.broker.core.topics.find(topic).expect("it is there");
    }
    for topic in &topics {
        owner.broker.delete_topic(topic).await.expect("deleted");
    }
    until("they leave the mount", || {
        let find = |topic| mount.broker.core.topics.find(topic);
        topics.iter().all(|topic| find(topic).is_err())
    })
    .await;
    mount.broker.core.topics.find(&not).expect("it stays");
    owner.broker.shutdown().await.expect("a good disk");
    mount.broker.shutdown().await.expect("a good disk");
}
