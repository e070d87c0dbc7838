//! The service against a broker in this process: the clock, faults and forks are the test's.

use std::time::Duration;

use siltstone::embedded::{Broker, Fault, Operation, Snapshot, record};
use siltstone_embedder::{COUNTS, ORDERS, count, known};

const DAY: Duration = Duration::from_secs(86_400);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Three orders of two customers, nothing counted yet.
async fn seeded() -> Result<Snapshot, Box<dyn std::error::Error>> {
    let broker = Broker::builder()
        .clock_standing_at_ms(1_700_000_000_000)
        .in_memory()
        .start()
        .await?;
    broker
        .create_topic(ORDERS, 2, &[("retention.ms", "604800000")])
        .await?;
    let compacted = [
        ("cleanup.policy", "compact"),
        ("max.compaction.lag.ms", "3600000"),
    ];
    broker.create_topic(COUNTS, 1, &compacted).await?;
    broker
        .produce(
            ORDERS,
            [record("ada", "tea"), record("bob", "jam"), record("ada", "rye")],
        )
        .await?;
    Ok(broker.snapshot().await?)
}

fn text(counts: &std::collections::BTreeMap<String, u64>) -> String {
    format!("{counts:?}")
}

#[tokio::test]
async fn orders_are_counted_by_customer() -> Outcome {
    let broker = seeded().await?.fork().await?;
    let client = broker.client().await?;
    let counts = count(&client, broker.producer_options()).await?;
    assert_eq!(text(&counts), r#"{"ada": 2, "bob": 1}"#);
    assert_eq!(known(&client).await?, counts);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_lost_counts_nothing_twice() -> Outcome {
    let broker = seeded().await?.fork().await?;
    let client = broker.client().await?;
    broker.faults().order(Fault::lose_answer().on(COUNTS));
    count(&client, broker.producer_options()).await?;
    assert_eq!(broker.faults().ordered(), 0, "it was lost");
    assert_eq!(
        broker.dump(COUNTS).await?,
        "counts-0\n  0  \"ada\" = \"2\"\n  1  \"bob\" = \"1\"\n"
    );
    Ok(())
}

#[tokio::test]
async fn a_broken_disk_is_told_and_the_next_run_finds_it_repaired() -> Outcome {
    let broker = seeded().await?.fork().await?;
    let client = broker.client().await?;
    broker.faults().order(Fault::fail(Operation::Append).on(COUNTS));
    let told = count(&client, broker.producer_options()).await;
    assert!(told.is_err_and(|error| error.to_string().contains("a fault that was ordered")));
    assert_eq!(broker.read(COUNTS).await?.len(), 0);
    let counts = count(&client, broker.producer_options()).await?;
    assert_eq!(known(&client).await?, counts);
    Ok(())
}

#[tokio::test]
async fn a_year_later_the_orders_are_gone_and_each_customer_has_one_count() -> Outcome {
    let broker = seeded().await?.fork().await?;
    let client = broker.client().await?;
    count(&client, broker.producer_options()).await?;
    broker.produce(ORDERS, [record("ada", "oil")]).await?;
    count(&client, broker.producer_options()).await?;
    assert_eq!(broker.read(COUNTS).await?.len(), 3);
    broker.advance(365 * DAY).await?;
    assert_eq!(broker.read(ORDERS).await?.len(), 0);
    assert_eq!(text(&known(&client).await?), r#"{"ada": 3, "bob": 1}"#);
    assert_eq!(broker.read(COUNTS).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn what_was_counted_outlives_a_kill() -> Outcome {
    let mut broker = Broker::start().await?;
    broker.create_topic(ORDERS, 1, &[]).await?;
    broker.create_topic(COUNTS, 1, &[]).await?;
    broker.produce(ORDERS, [record("ada", "tea")]).await?;
    let counts = count(&broker.client().await?, broker.producer_options()).await?;
    broker.kill_and_restart().await?;
    assert_eq!(known(&broker.client().await?).await?, counts);
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_for_one_fork_does_not_for_another() -> Outcome {
    let world = seeded().await?;
    let (broken, sound) = (world.fork().await?, world.fork().await?);
    broken.fill_disk().await?;
    assert!(broken.produce(ORDERS, [record("ada", "oil")]).await.is_err());
    sound.produce(ORDERS, [record("ada", "oil")]).await?;
    assert_eq!(
        (broken.read(ORDERS).await?.len(), sound.read(ORDERS).await?.len()),
        (3, 4)
    );
    Ok(())
}
