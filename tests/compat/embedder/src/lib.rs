//! A toy service: counts orders by customer. What it has counted, and how far it has read, lies in the topic that it writes.

use std::collections::BTreeMap;

use siltstone::client::{Client, Error, ProducerOptions, ProducerRecord, ReadSpec};

/// The topic that it reads: the key is the customer.
pub const ORDERS: &str = "orders";
/// The topic that it writes, compacted: the newest count of each customer.
pub const COUNTS: &str = "counts";

/// Counts all orders there are and writes down the counts that have changed. Returns the counts.
pub async fn count(client: &Client, options: ProducerOptions) -> Result<BTreeMap<String, u64>, Error> {
    let mut counts = BTreeMap::<String, u64>::new();
    let mut reader = client.read(ORDERS, ReadSpec::default()).await?;
    while let Some(chunk) = reader.next().await? {
        for record in reader.records(&chunk) {
            let customer = record?.key.unwrap_or_default();
            *counts
                .entry(String::from_utf8_lossy(&customer).into_owned())
                .or_default() += 1;
        }
    }
    let known = known(client).await?;
    let mut producer = client.producer(COUNTS, options).await?;
    for (customer, count) in &counts {
        if known.get(customer) != Some(count) {
            let value = count.to_string();
            let record = ProducerRecord {
                key: Some(customer.as_bytes()),
                value: Some(value.as_bytes()),
                ..ProducerRecord::default()
            };
            producer.send(record).await?;
        }
    }
    producer.close().await?;
    Ok(counts)
}

/// The counts that are written down.
pub async fn known(client: &Client) -> Result<BTreeMap<String, u64>, Error> {
    let mut known = BTreeMap::new();
    let mut reader = client.read(COUNTS, ReadSpec::default()).await?;
    while let Some(chunk) = reader.next().await? {
        for record in reader.records(&chunk) {
            let record = record?;
            let (Some(customer), Some(count)) = (record.key, record.value) else {
                continue;
            };
            let (customer, count) = (
                String::from_utf8_lossy(&customer),
                String::from_utf8_lossy(&count),
            );
            known.insert(customer.into_owned(), count.parse().unwrap_or_default());
        }
    }
    Ok(known)
}
