//! The examples of the Rust client do what they say.

use std::path::Path;

use siltstone::client::{Client, ProducerOptions, ProducerRecord, ReadSpec};
use siltstone::types::PartitionId;
use tokio_stream::StreamExt;

use crate::support::TestServer;

#[path = "../../examples/exactly_once.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod exactly_once;
#[path = "../../examples/micro_batches.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod micro_batches;
#[path = "../../examples/produce_and_read.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod produce_and_read;

async fn client(server: &TestServer) -> Client {
    Client::connect(&server.server.grpc_addr().to_string())
        .await
        .unwrap()
}

/// Writes `numbers` to partition 0 and 1 in turn.
async fn load(client: &Client, topic: &str, numbers: std::ops::Range<i32>) {
    let mut producer = client.producer(topic, ProducerOptions::default()).await.unwrap();
    for number in numbers {
        let value = format!("v{number}");
        let record = ProducerRecord {
            value: Some(value.as_bytes()),
            partition: Some(PartitionId(number % 2)),
            ..ProducerRecord::default()
        };
        producer.send(record).await.unwrap();
    }
    producer.close().await.unwrap();
}

/// Values of a topic, by partition and offset.
async fn values(client: &Client, topic: &str) -> Vec<String> {
    let records = client
        .read(topic, ReadSpec::default())
        .await
        .unwrap()
        .into_records();
    let mut records: Vec<_> = records.collect::<Result<_, _>>().await.unwrap();
    records.sort_by_key(|read| (read.partition, read.record.offset));
    let text = |value: bytes::Bytes| String::from_utf8(value.to_vec()).unwrap();
    records
        .into_iter()
        .map(|read| text(read.record.value.unwrap()))
        .collect()
}

#[tokio::test]
async fn produce_and_read_shows_its_three_records() {
    let server = TestServer::start().await;
    let client = client(&server).await;
    let lines = produce_and_read::produce_and_read(&client, "flights")
        .await
        .unwrap();
    assert_eq!(
        lines,
        [
            "0@0 N14228 departed",
            "0@1 N24211 departed",
            "0@2 N619AA departed"
        ]
    );
    let again = produce_and_read::produce_and_read(&client, "flights")
        .await
        .unwrap();
    assert_eq!(again.len(), 6, "the topic may be there already");
}

#[tokio::test]
async fn the_pipeline_makes_each_output_once_over_several_runs() {
    let server = TestServer::start().await;
    server.topic("in", 2).await;
    server.topic("out", 2).await;
    let client = client(&server).await;
    // The second run finds an output for one partition alone.
    for (numbers, made) in [(0..1, 1), (1..500, 499), (500..500, 0), (500..703, 203)] {
        load(&client, "in", numbers).await;
        assert_eq!(exactly_once::pipeline(&client, "in", "out").await.unwrap(), made);
    }
    let expected: Vec<_> = values(&client, "in")
        .await
        .iter()
        .map(|value| value.to_uppercase())
        .collect();
    assert_eq!(values(&client, "out").await, expected);
}

/// Lines of all batches, and of the token of the last.
fn batches(dir: &Path) -> (Vec<String>, String) {
    let (mut lines, mut token) = (Vec::new(), String::new());
    for number in 0.. {
        let Ok(text) = std::fs::read_to_string(dir.join(format!("{number}.batch"))) else {
            break;
        };
        let mut batch = text.lines();
        token = batch.next().unwrap().to_owned();
        lines.extend(batch.map(str::to_owned));
    }
    lines.sort();
    (lines, token)
}

#[tokio::test]
async fn the_micro_batches_hold_each_record_once_over_several_runs() {
    let server = TestServer::start().await;
    server.topic("in", 2).await;
    let client = client(&server).await;
    let dir = tempfile::tempdir().unwrap();
    load(&client, "in", 0..100).await;
    assert_eq!(
        micro_batches::consume(&client, "in", dir.path()).await.unwrap(),
        1
    );
    // A run that died before its batch counted.
    std::fs::write(dir.path().join("unfinished"), "0:99,1:99\nlost").unwrap();
    load(&client, "in", 100..3000).await;
    assert!(micro_batches::consume(&client, "in", dir.path()).await.unwrap() > 0);
    assert_eq!(
        micro_batches::consume(&client, "in", dir.path()).await.unwrap(),
        0
    );
    let mut expected = values(&client, "in").await;
    expected.sort();
    assert_eq!(batches(dir.path()), (expected, "0:1500,1:1500".to_owned()));
}
