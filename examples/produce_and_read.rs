//! Writes three records, says where each lies, and reads them back.
//!
//! ```text
//! siltstone serve &
//! cargo run --example produce_and_read -- 127.0.0.1:9095
//! ```

#![allow(clippy::print_stdout, reason = "what an example has to say")]

use std::collections::BTreeMap;
use std::error::Error;

use siltstone::client::{Client, ErrorKind, ProducerOptions, ProducerRecord, ReadSpec};
use tokio_stream::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1);
    let client = Client::connect(server.as_deref().unwrap_or("127.0.0.1:9095")).await?;
    for line in produce_and_read(&client, "flights").await? {
        println!("{line}");
    }
    Ok(())
}

/// Writes three departures to `topic` and returns, as text, every record that it holds then.
pub(crate) async fn produce_and_read(client: &Client, topic: &str) -> Result<Vec<String>, Box<dyn Error>> {
    match client.create_topic(topic, Some(1), &BTreeMap::new()).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let mut producer = client.producer(topic, ProducerOptions::default()).await?;
    let mut deliveries = Vec::new();
    for tail in ["N14228", "N24211", "N619AA"] {
        let record = ProducerRecord {
            key: Some(tail.as_bytes()),
            value: Some(b"departed"),
            ..ProducerRecord::default()
        };
        // Waits only for room in the buffer; all three go in one batch.
        deliveries.push(producer.send(record).await?);
    }
    for delivery in deliveries {
        let acknowledged = delivery.await?;
        println!(
            "written to partition {} at {:?}",
            acknowledged.partition, acknowledged.offset
        );
    }
    producer.close().await?;

    let mut records = client.read(topic, ReadSpec::default()).await?.into_records();
    let mut lines = Vec::new();
    while let Some(read) = records.try_next().await? {
        let text = |part: Option<bytes::Bytes>| part.map(|part| String::from_utf8_lossy(&part).into_owned());
        let (key, value) = (text(read.record.key), text(read.record.value));
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        lines.push(format!("{}@{} {key} {value}", read.partition, read.record.offset));
    }
    Ok(lines)
}
