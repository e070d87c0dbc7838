//! The service against a broker in this process: the clock, faults and forks are the test's.

use std::time::{Duration, Instant};

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
async fn a_broken_disk_holds_the_service_up_and_no_longer() -> Outcome {
    let broker = seeded().await?.fork().await?;
    broker.faults().order(Fault::fail(Operation::Append).on(COUNTS));
    let counts = count(&broker.client().await?, broker.producer_options()).await?;
    assert_eq!(known(&broker.client().await?).await?, counts);
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

/// Threads of this process that a broker started.
fn threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("siltstone") || name.starts_with("sync-"))
        .count()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

/// Run alone, for its figures: `cargo test --release -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "it measures, and wants the process for itself"]
async fn figures() -> Outcome {
    println!("resident before: {} MiB", resident_mib());
    for memory in [false, true] {
        let what = if memory { "memory" } else { "directory" };
        let builder = || {
            if memory {
                Broker::builder().in_memory()
            } else {
                Broker::builder()
            }
        };
        for _ in 0..3 {
            let begin = Instant::now();
            let broker = builder().start().await?;
            let started = begin.elapsed();
            broker.create_topic(ORDERS, 1, &[]).await?;
            broker.produce(ORDERS, [record("a", "1")]).await?;
            assert_eq!(broker.read(ORDERS).await?.len(), 1);
            let first = begin.elapsed();
            let begin = Instant::now();
            drop(broker);
            println!(
                "{what}: started {started:?}, first record read {first:?}, dropped {:?}, threads left {}",
                begin.elapsed(),
                threads()
            );
        }
        let broker = builder().start().await?;
        println!("{what}: resident idle {} MiB", resident_mib());
        broker.create_topic(ORDERS, 1, &[]).await?;
        let value = vec![7_u8; 1 << 10];
        for _ in 0..100 {
            broker
                .produce(ORDERS, (0..1024).map(|_| record("a", value.clone())))
                .await?;
        }
        println!("{what}: resident with 100 MiB written {} MiB", resident_mib());
        let begin = Instant::now();
        let seeded = broker.snapshot().await?;
        let taken = begin.elapsed();
        for _ in 0..3 {
            let begin = Instant::now();
            let fork = seeded.fork().await?;
            let took = begin.elapsed();
            println!(
                "{what}: snapshot {taken:?}, fork {took:?}, {} records",
                fork.read(ORDERS).await?.len()
            );
        }
        drop((broker, seeded));
        let begin = Instant::now();
        let mut many = Vec::new();
        for _ in 0..100 {
            many.push(builder().start().await?);
        }
        println!(
            "{what}: 100 brokers in {:?}, resident {} MiB, {} threads",
            begin.elapsed(),
            resident_mib(),
            threads()
        );
        drop(many);
        println!("{what}: threads left {}", threads());
    }
    Ok(())
}
