//! A test of a service against an embedded broker: the answer to its write is lost, the broker is killed, a week passes, and every test
//! begins with the same world.
//!
//! ```sh
//! cargo run --example embedded_test --no-default-features --features embedded
//! ```
//!
//! It runs as a program so that it can be run here; in your own project the function below carries `#[tokio::test]`.

use std::time::Duration;

use siltstone::client::{Client, ProducerOptions, ProducerRecord};
use siltstone::embedded::{Broker, Fault, record};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The service under test: writes down how many orders it was told of.
async fn note_count(client: &Client, options: ProducerOptions, count: u64) -> Outcome<()> {
    let mut producer = client.producer("counts", options).await?;
    let count = count.to_string();
    let record = ProducerRecord {
        key: Some(b"orders"),
        value: Some(count.as_bytes()),
        ..ProducerRecord::default()
    };
    producer.send(record).await?;
    producer.close().await?;
    Ok(())
}

/// The test.
pub(crate) async fn counts_are_kept_while_everything_goes_wrong() -> Outcome<()> {
    let broker = Broker::builder()
        .clock_standing_at_ms(1_700_000_000_000)
        .in_memory()
        .start()
        .await?;
    let compacted = [
        ("cleanup.policy", "compact"),
        ("max.compaction.lag.ms", "3600000"),
    ];
    broker.create_topic("counts", 1, &compacted).await?;
    broker.produce("counts", [record("orders", "1")]).await?;
    let world = broker.snapshot().await?;

    // The answer to the write is lost: the producer sends it again, and it is there once.
    let mut lossy = world.fork().await?;
    lossy.faults().order(Fault::lose_answer().on("counts"));
    note_count(&lossy.client().await?, lossy.producer_options(), 2).await?;
    assert_eq!(lossy.faults().ordered(), 0, "it was lost");
    let both = "counts-0\n  0  \"orders\" = \"1\"\n  1  \"orders\" = \"2\"\n";
    assert_eq!(lossy.dump("counts").await?, both);

    // The machine loses its process, and nothing else.
    lossy.kill_and_restart().await?;
    assert_eq!(lossy.dump("counts").await?, both);

    // A week passes: the older count has been compacted away when the call returns.
    lossy.advance(Duration::from_secs(7 * 86_400)).await?;
    assert_eq!(lossy.dump("counts").await?, "counts-0\n  1  \"orders\" = \"2\"\n");

    // Another test begins where the first one did.
    let other = world.fork().await?;
    assert_eq!(other.read("counts").await?.len(), 1);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    counts_are_kept_while_everything_goes_wrong().await
}
