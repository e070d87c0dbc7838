//! The Rust client against a real server, where both sides' limits meet.

use siltstone::client::{Client, ProducerOptions, ProducerRecord, ReadSpec};

use crate::http::metric;
use crate::support::{TestServer, records};

/// A wait that only a defect makes long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn readers_that_are_not_polled_hold_up_nobody_else_on_their_connection() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let value = "x".repeat(900_000);
    for _ in 0..24 {
        log.produce(records("flights", 0, &[&value])).await.unwrap();
    }
    let client = Client::connect(&server.server.grpc_addr().to_string())
        .await
        .unwrap();
    let idle = [
        client.read("flights", ReadSpec::default()).await.unwrap(),
        client.read("flights", ReadSpec::default()).await.unwrap(),
    ];
    // For each the server is at its tenth batch, in which the reader's own window of 8 MiB ends.
    while metric(&server, "siltstone_fetch_bytes_total", "").await < 20.0 * 900_000.0 {
        tokio::task::yield_now().await;
    }
    let load = async {
        let mut producer = client
            .producer("flights", ProducerOptions::default())
            .await
            .unwrap();
        let record = ProducerRecord {
            value: Some(b"late"),
            ..ProducerRecord::default()
        };
        producer.send(record).await.unwrap();
        producer.close().await.unwrap();
    };
    tokio::time::timeout(PATIENCE, load)
        .await
        .expect("a producer of the same client is not held up");
    for mut reader in idle {
        let mut count = 0;
        while let Some(chunk) = reader.next().await.unwrap() {
            count += reader.records(&chunk).count();
        }
        assert_eq!(count, 24, "and they go on where they are polled again");
    }
}
