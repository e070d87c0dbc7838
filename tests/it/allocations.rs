//! The raw paths allocate for batches, not for records: what is counted stays far below the number of records.
//!
//! Allocations are counted on the calling thread alone; the broker lives on threads of its own. What is not here: plain messages, whose
//! records are values of their own.

use allocation_counter::measure;
use bytes::Bytes;
use siltstone::client::{Client, ProducerOptions, ProducerRecord, ReadSpec};
use siltstone::embedded::Broker;
use siltstone::record::{BatchBuilder, BatchOptions, KeyRule, Rules, TimestampType, accept};
use siltstone::types::Timestamp;

const RECORDS: u64 = 20_000;
/// Far more than batches and chunks take, far less than one for each record.
const MOST: u64 = RECORDS / 40;

/// A broker, a client, and a producer to its only topic.
async fn house() -> (Broker, Client) {
    let broker = Broker::in_memory().await.unwrap();
    broker.create_topic("t", 1, &[]).await.unwrap();
    let client = broker.client().await.unwrap();
    (broker, client)
}

fn record() -> ProducerRecord<'static> {
    ProducerRecord {
        key: Some(b"N14228"),
        value: Some(&[7; 100]),
        ..ProducerRecord::default()
    }
}

#[tokio::test]
async fn a_producer_allocates_for_batches_and_a_reader_for_chunks() {
    let (_broker, client) = house().await;
    let mut producer = client.producer("t", ProducerOptions::default()).await.unwrap();
    let sent = measure(|| {
        for _ in 0..RECORDS {
            drop(producer.try_send(record()).unwrap());
        }
    });
    assert!(sent.count_total < MOST, "{sent:?}");
    producer.close().await.unwrap();

    let mut reader = client.read("t", ReadSpec::default()).await.unwrap();
    let mut read = 0;
    while let Some(chunk) = reader.next().await.unwrap() {
        let taken = measure(|| {
            for record in reader.records(&chunk) {
                assert!(record.unwrap().value.is_some());
                read += 1;
            }
        });
        assert!(taken.count_total < MOST, "{taken:?}");
    }
    assert_eq!(read, RECORDS);
}

#[test]
fn the_door_checks_a_batch_without_an_allocation_for_each_record() {
    let rules = Rules {
        max_batch_bytes: 16 << 20,
        max_decompressed_bytes: 16 << 20,
        keys: KeyRule::Required,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        codec: None,
        level: None,
        now: Timestamp(1_700_000_000_000),
    };
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let (key, value) = (record().key, record().value);
    for _ in 0..RECORDS {
        builder.append(Some(rules.now), key, value, &[]).unwrap();
    }
    let batch: Bytes = builder.build().unwrap().bytes().clone();
    let mut accepted = None;
    let checked = measure(|| accepted = Some(accept(batch, &rules)));
    assert_eq!(u64::from(accepted.unwrap().unwrap().record_count()), RECORDS);
    assert!(checked.count_total < 20, "{checked:?}");
}
