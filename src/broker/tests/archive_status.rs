//! What a store does that permits less than it should, and what the status says of it.

use super::archive::{
    SMALL, all_values, alter, archiving, fill, house, marks, start_with, status, until, until_archived,
    until_left, value, values,
};
use super::*;
use crate::tier::testing::{Fault as StoreFault, FaultyStore, Kind, bucket as faulty_bucket, memory};
use crate::tier::{Ledger, Manifest, PartitionKey};

#[tokio::test(start_paused = true)]
async fn a_start_on_a_store_that_permits_no_removal_is_refused_by_the_name_of_the_object() {
    let faulty = FaultyStore::over(memory());
    faulty.always(Kind::Delete, StoreFault::Refuse);
    let store = faulty_bucket(Arc::new(faulty));
    let refused = start_with(SimFs::new(), archiving(&store)).await.map(drop);
    let refused = refused.expect_err("it may not remove its probe").to_string();
    assert!(refused.contains("removal of test://bucket/probe/"), "{refused}");
}

/// Waits until the status tells of failures to remove what has `named` in its key; then fifteen segments go to the archive within the time
/// that one failure after the other is waited for, and once the store is well so is the status.
async fn goes_on_without_removal(house: &House, topic: &TopicName, faulty: &FaultyStore, named: &str) {
    until("the failure shows", || status(house, topic).failures > 4).await;
    let told = status(house, topic);
    let trouble = told.trouble.expect("it says what");
    let expected = format!("removal of test://bucket/topics/{named}/");
    assert!(trouble.contains(&expected), "{trouble}");
    assert!(!told.is_stuck);
    let begin = tokio::time::Instant::now();
    fill(house, topic, 100..340).await;
    house.clock.advance_ms(60_000);
    until_archived(house, topic, 340).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    faulty.heal();
    until("it is well again", || status(house, topic).trouble.is_none()).await;
    assert_eq!(status(house, topic).failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_objects_cannot_be_removed_any_more_goes_to_the_archive_as_before() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 100).await;
    faulty.always(Kind::Delete, StoreFault::Refuse);
    alter(&house, &topic, ("retention.bytes", "40000")).await;
    until("the manifest shrinks", || {
        status(&house, &topic).size_bytes < 60_000
    })
    .await;
    // What comes now is kept, and has to go there.
    alter(&house, &topic, ("retention.bytes", "-1")).await;
    house.clock.advance_ms(3_600_000);
    goes_on_without_removal(&house, &topic, &faulty, "flights").await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_topic_that_cannot_be_removed_keeps_no_other_from_the_archive() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    let gone = house.create("gone", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    fill(&house, &gone, 0..40).await;
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 100).await;
    until_archived(&house, &gone, 40).await;
    faulty.always(Kind::Delete, StoreFault::Refuse);
    house.broker.delete_topic(&gone).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.clock.advance_ms(3_600_000);
    goes_on_without_removal(&house, &topic, &faulty, "gone").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_any_more_shows_in_the_status_until_it_can() {
    let store = faulty_bucket(memory());
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..60).await;
    until_left(&house, &topic, 40).await;
    let id = house.broker.core.topics.find(&topic).expect("there").id;
    let mut listing = store.list(&format!("topics/flights/{id}/0/segments"));
    let mut keys = Vec::new();
    while let Some(found) = listing.next().await.expect("listed") {
        keys.push(found.key);
    }
    let key = keys.into_iter().min().expect("there are some");
    let bytes = store.get(&key, 1 << 20).await.expect("read").expect("there");
    store.delete(&key).await.expect("deleted by hand");
    house.fetch(&topic, 3, 0).await.expect_err("it is gone");
    house.fetch(&topic, 30, 0).await.expect("another is there");
    let told = status(&house, &topic);
    let trouble = told.trouble.expect("it says what");
    assert!(trouble.contains("a read from offset 3 failed"), "{trouble}");
    assert!(trouble.contains(&key), "{trouble}");
    assert_eq!((told.failures, told.is_stuck), (0, false));
    store.publish(&key, bytes).await.expect("put back");
    let chunk = house.fetch(&topic, 3, 0).await.expect("it is there again");
    assert_eq!(texts(&chunk)[0], value(3));
    assert_eq!(status(&house, &topic).trouble, None);
}

#[tokio::test(start_paused = true)]
async fn cold_partitions_of_one_fetch_are_read_side_by_side() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 8, &SMALL).await;
    {
        // Virtual time does not go on while such work is under way, as the thread does that syncs.
        let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
        tokio::task::spawn_blocking(move || is_over.recv());
        for partition in 0..8 {
            for number in 0..20 {
                let record = timed(&value(number), NOW.0 + number);
                let appended = house.append(&topic, partition, vec![record]).await;
                appended.expect("appended");
            }
        }
    }
    let found = house.broker.core.topics.find(&topic).expect("there");
    until("a part of each leaves", || {
        let left =
            |served: &Arc<crate::broker::served::Served>| served.log.watermarks().local_start > Offset(10);
        found.partitions.iter().all(left)
    })
    .await;
    // Each answer takes 0.7 s.
    faulty.always(Kind::Get, StoreFault::Late);
    let begin = tokio::time::Instant::now();
    house.fetch(&topic, 0, 0).await.expect("readable");
    let alone = begin.elapsed();
    let begin = tokio::time::Instant::now();
    let targets = (1..8).map(|partition| target(&topic, partition, 0)).collect();
    let chunks = house.broker.fetch(fetch(targets, 0)).await;
    let together = begin.elapsed();
    assert_eq!(chunks.len(), 7);
    for chunk in chunks {
        let chunk = chunk.expect("readable");
        assert_eq!(texts(&chunk)[0], values(0..1)[0]);
    }
    assert!(alone >= Duration::from_millis(700), "{alone:?}");
    assert!(together < 2 * alone, "{together:?}, one alone {alone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_ten_days_delays_the_sweep_and_nothing_else() {
    let store = faulty_bucket(memory());
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    until_left(&house, &topic, 50).await;
    let day_ms = 24 * 3_600_000;
    house.clock.advance_ms(10 * day_ms);
    alter(&house, &topic, ("retention.bytes", "40000")).await;
    until("the manifest shrinks", || {
        status(&house, &topic).size_bytes < 60_000
    })
    .await;
    let key = PartitionKey {
        topic: topic.clone(),
        topic_id: house.broker.core.topics.find(&topic).expect("there").id,
        partition: PartitionId(0),
    };
    let ledger = Ledger::open(store.clone(), key.manifest(), Manifest::empty(&key)).await;
    let ledger = ledger.expect("readable");
    let waiting: Vec<String> = ledger
        .state()
        .waiting()
        .map(|waiting| key.segment(waiting.id))
        .collect();
    assert!(waiting.len() > 2, "{waiting:?}");
    let left = async || {
        let mut left = 0;
        for key in &waiting {
            left += usize::from(store.len_of(key).await.expect("looked").is_some());
        }
        left
    };
    house.broker.shutdown().await.expect("a good disk");
    // The next start has the clock of ten days ago.
    let again = start_with(house.fs.clone(), archiving(&store)).await;
    let again = again.expect("it starts");
    fill(&again, &topic, 100..160).await;
    until("what is full is archived", || {
        status(&again, &topic).end > Some(Offset(140))
    })
    .await;
    let start = marks(&again, &topic).log_start;
    assert_eq!(all_values(&again, &topic).await, values(start.0..160));
    again.clock.advance_ms(9 * day_ms);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(left().await, waiting.len(), "none of them is swept yet");
    again.clock.advance_ms(2 * day_ms);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(left().await, 0);
    assert_eq!(status(&again, &topic).trouble, None);
    let start = marks(&again, &topic).log_start;
    assert_eq!(all_values(&again, &topic).await, values(start.0..160));
}
