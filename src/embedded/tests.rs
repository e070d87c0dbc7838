//! An embedded broker as a test has it: over a directory and in memory alike.

use std::time::Duration;

use super::*;
use crate::broker::Error as BrokerError;
use crate::client::{Producer, ProducerRecord, ReadSpec};

const DAY: Duration = Duration::from_secs(86_400);
const START_MS: i64 = 1_700_000_000_000;

/// Brokers over both media.
async fn both() -> [Broker; 2] {
    let builder = || Broker::builder().clock_standing_at_ms(START_MS);
    [
        builder().start().await.unwrap(),
        builder().in_memory().start().await.unwrap(),
    ]
}

async fn values(broker: &Broker, topic: &str) -> Vec<String> {
    let stored = broker.read(topic).await.unwrap();
    let value = |stored: &Stored| String::from_utf8(stored.record.value.clone().unwrap_or_default().to_vec());
    stored.iter().map(|stored| value(stored).unwrap()).collect()
}

/// A producer as a service has it.
async fn producer(broker: &Broker, topic: &str) -> Producer {
    let client = broker.client().await.unwrap();
    client.producer(topic, broker.producer_options()).await.unwrap()
}

async fn send(producer: &Producer, value: &str) {
    let record = ProducerRecord {
        value: Some(value.as_bytes()),
        ..ProducerRecord::default()
    };
    producer.send(record).await.unwrap();
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_read_by_handle_and_by_client_and_is_gone_after_the_drop() {
    for broker in both().await {
        broker.create_topic("orders", 3, &[]).await.unwrap();
        let places = broker
            .produce("orders", (0..50).map(|n| record(format!("k{n}"), format!("{n}"))))
            .await
            .unwrap();
        let client = broker.client().await.unwrap();
        let mut reader = client.read("orders", ReadSpec::default()).await.unwrap();
        let mut read = 0;
        while let Some(chunk) = reader.next().await.unwrap() {
            read += reader.records(&chunk).count();
        }
        assert_eq!(read, 50);
        for stored in broker.wait_for("orders", 50).await.unwrap() {
            let value: usize = std::str::from_utf8(&stored.record.value.unwrap())
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(places[value], (stored.partition, stored.record.offset));
            assert_eq!(stored.record.timestamp, Some(Timestamp(START_MS)));
        }
        let (addr, dir) = (broker.grpc_addr(), broker.data_dir().to_owned());
        drop(broker);
        assert!(tokio::net::TcpStream::connect(addr).await.is_err());
        assert!(!dir.exists());
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_not_care_that_the_time_of_the_test_stands_still() {
    let broker = Broker::in_memory().await.unwrap();
    broker.create_topic("orders", 1, &[]).await.unwrap();
    broker.produce("orders", [record("a", "1")]).await.unwrap();
    assert_eq!(broker.wait_for("orders", 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_wait_that_is_too_long_says_what_there_is() {
    let broker = Broker::in_memory().await.unwrap();
    broker.create_topic("orders", 2, &[]).await.unwrap();
    broker.produce("orders", [record("a", "1")]).await.unwrap();
    let waited = broker.wait_for("orders", 2).await.unwrap_err();
    assert_eq!(
        waited.to_string(),
        "topic orders holds 1 records after 10s, not 2"
    );
}

#[tokio::test]
async fn retention_and_compaction_that_fell_due_have_happened_when_the_clock_has_moved() {
    for broker in both().await {
        broker
            .create_topic("events", 1, &[("retention.ms", "86400000")])
            .await
            .unwrap();
        let table = [
            ("cleanup.policy", "compact"),
            ("max.compaction.lag.ms", "3600000"),
            ("delete.retention.ms", "86400000"),
        ];
        broker.create_topic("table", 1, &table).await.unwrap();
        broker.produce("events", [record("a", "1")]).await.unwrap();
        broker
            .produce(
                "table",
                [
                    record("a", "1"),
                    record("b", "1"),
                    record("a", "2"),
                    tombstone("b"),
                ],
            )
            .await
            .unwrap();

        broker.advance(Duration::from_secs(7_200)).await.unwrap();
        assert_eq!(values(&broker, "events").await, ["1"]);
        assert_eq!(
            broker.dump("table").await.unwrap(),
            "table-0\n  2  \"a\" = \"2\"\n  3  \"b\" = nothing\n"
        );
        broker.advance(3 * DAY).await.unwrap();
        assert_eq!(values(&broker, "events").await, [""; 0]);
        assert_eq!(
            broker.dump("table").await.unwrap(),
            "table-0\n  2  \"a\" = \"2\"\n"
        );
        assert_eq!(broker.now(), Timestamp(START_MS + 7_200_000 + 3 * 86_400_000));
        let metrics = broker
            .direct()
            .unwrap()
            .metrics_text(crate::telemetry::Exposition::OpenMetrics);
        assert!(
            metrics.contains("siltstone_cleaner_overdue_partitions 0"),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn a_segment_that_has_become_too_old_is_sealed_though_nobody_appends() {
    for broker in both().await {
        broker
            .create_topic("events", 1, &[("segment.ms", "3600000")])
            .await
            .unwrap();
        broker.produce("events", [record("a", "1")]).await.unwrap();
        let segments = async || {
            let topic = crate::types::TopicName::new("events").unwrap();
            let asked = crate::broker::AskedPartitions::all();
            let described = broker.direct().unwrap().describe_log(&topic, &asked).unwrap();
            let bases = described[0].segments.iter().map(|segment| segment.base.0);
            bases.collect::<Vec<_>>()
        };
        broker.advance(Duration::from_secs(3_600)).await.unwrap();
        assert_eq!(segments().await, [0], "exactly as old is not too old");
        broker.advance(Duration::from_secs(1)).await.unwrap();
        assert_eq!(segments().await, [0, 1]);
        broker.advance(DAY).await.unwrap();
        assert_eq!(segments().await, [0, 1], "an empty one does not age");
    }
}

#[cfg(feature = "tier")]
#[tokio::test]
async fn segments_that_the_archive_is_to_have_by_then_are_there_and_gone_from_here() {
    let broker = Broker::builder()
        .clock_standing_at_ms(START_MS)
        .in_memory()
        .tier_url("memory://")
        .start()
        .await
        .unwrap();
    let settings = [("local.retention.ms", "3600000"), ("tier.max.lag.ms", "60000")];
    broker.create_topic("events", 1, &settings).await.unwrap();
    broker.produce("events", [record("a", "1")]).await.unwrap();
    broker.advance(DAY).await.unwrap();
    let topic = crate::types::TopicName::new("events").unwrap();
    let described = broker.direct().unwrap().describe_topic(&topic).unwrap();
    let partition = &described.partitions[0];
    assert_eq!(partition.local_start.0, 1, "{partition:?}");
    assert_eq!(values(&broker, "events").await, ["1"], "read from the archive");
}

/// Brokers with an archive, in memory and in a folder.
#[cfg(feature = "tier")]
async fn archiving(folder: &std::path::Path) -> [Broker; 2] {
    let builder = || Broker::builder().clock_standing_at_ms(START_MS);
    let url = format!("file://{}", folder.display());
    [
        builder().tier_url(&url).start().await.unwrap(),
        builder().in_memory().tier_url("memory://").start().await.unwrap(),
    ]
}

#[cfg(feature = "tier")]
#[tokio::test]
async fn a_broker_with_an_archive_is_forked_with_it_and_starts_again_on_it() {
    let folder = tempfile::tempdir().unwrap();
    for mut broker in archiving(folder.path()).await {
        let settings = [
            ("local.retention.ms", "3600000"),
            ("tier.max.lag.ms", "60000"),
            ("retention.ms", "172800000"),
        ];
        broker.create_topic("events", 1, &settings).await.unwrap();
        broker.produce("events", [record("a", "1")]).await.unwrap();
        broker.advance(DAY).await.unwrap();
        let local_start = |broker: &Broker| {
            let topic = crate::types::TopicName::new("events").unwrap();
            let described = broker.direct().unwrap().describe_topic(&topic).unwrap();
            described.partitions[0].local_start.0
        };
        let seeded = broker.snapshot().await.unwrap();
        let fork = seeded.fork().await.unwrap();
        // The archive of the one goes on without the other's: here all of it is gone.
        broker.produce("events", [record("a", "2")]).await.unwrap();
        broker.advance(3 * DAY).await.unwrap();
        assert_eq!(values(&broker, "events").await, [""; 0]);
        assert_eq!(local_start(&fork), 1, "nothing of it lies on the fork's disk");
        assert_eq!(values(&fork, "events").await, ["1"]);
        assert_eq!(values(&seeded.fork().await.unwrap(), "events").await, ["1"]);

        broker.produce("events", [record("a", "3")]).await.unwrap();
        broker.advance(DAY).await.unwrap();
        assert_eq!(local_start(&broker), 3);
        broker.kill_and_restart().await.unwrap();
        assert_eq!(local_start(&broker), 3);
        assert_eq!(values(&broker, "events").await, ["3"], "read from the archive");
    }
}

#[tokio::test]
async fn an_append_or_a_sync_that_is_to_fail_fails_once_and_the_log_is_repaired() {
    for broker in both().await {
        for (operation, durability) in [(Operation::Append, "written"), (Operation::Sync, "synced")] {
            let topic = format!("{operation:?}").to_lowercase();
            broker
                .create_topic(&topic, 1, &[("durability", durability)])
                .await
                .unwrap();
            broker
                .create_topic(&format!("{topic}-other"), 1, &[])
                .await
                .unwrap();
            broker.produce(&topic, [record("a", "1")]).await.unwrap();
            broker.faults().order(Fault::fail(operation).on(&topic));
            broker
                .produce(&format!("{topic}-other"), [record("a", "1")])
                .await
                .unwrap();
            let refused = broker.produce(&topic, [record("a", "2")]).await.unwrap_err();
            assert!(matches!(refused, Error::Broker(_)), "{refused}");
            assert_eq!(broker.faults().ordered(), 0);
            // A client tries again until the log is repaired.
            send(&producer(&broker, &topic).await, "3").await;
            let values = values(&broker, &topic).await;
            assert_eq!(
                (values.first().unwrap().as_str(), values.last().unwrap().as_str()),
                ("1", "3")
            );
        }
    }
}

#[tokio::test]
async fn a_read_that_is_to_fail_fails_and_the_next_one_does_not() {
    for broker in both().await {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        broker.produce("orders", [record("a", "1")]).await.unwrap();
        broker.faults().order(Fault::fail(Operation::Read).on("orders"));
        assert!(broker.read("orders").await.is_err());
        assert_eq!(values(&broker, "orders").await, ["1"]);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_one_record_however_often_the_producer_tries() {
    for broker in both().await {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        let producer = producer(&broker, "orders").await;
        broker.faults().order(Fault::lose_answer().on("orders").times(2));
        for value in ["1", "2", "3"] {
            send(&producer, value).await;
        }
        assert_eq!(broker.faults().ordered(), 0, "both have happened");
        assert_eq!(values(&broker, "orders").await, ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_takes_again_once_there_is_room() {
    for broker in both().await {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        broker.produce("orders", [record("a", "1")]).await.unwrap();
        broker.fill_disk().await.unwrap();
        let refused = broker.produce("orders", [record("a", "2")]).await.unwrap_err();
        assert!(
            matches!(refused, Error::Broker(BrokerError::DiskFull { .. })),
            "{refused:?}"
        );
        broker.free_disk().await.unwrap();
        broker.produce("orders", [record("a", "3")]).await.unwrap();
        assert_eq!(values(&broker, "orders").await, ["1", "3"]);
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_or_late_is_one_that_was_ordered() {
    let broker = Broker::in_memory().await.unwrap();
    broker.faults().refuse_connections(1);
    let mut refused = tokio::net::TcpStream::connect(broker.grpc_addr()).await.unwrap();
    let said = tokio::io::AsyncReadExt::read(&mut refused, &mut [0; 1]).await;
    assert!(matches!(said, Ok(0) | Err(_)), "closed without a word");
    broker.faults().delay_connection(Duration::from_millis(50));
    let begun = std::time::Instant::now();
    let late = broker.client().await.unwrap();
    late.list_topics(crate::client::InternalTopics::Excluded)
        .await
        .unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_killed_broker_goes_on_with_its_data_at_its_address() {
    for mut broker in both().await {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        let producer = producer(&broker, "orders").await;
        for value in ["1", "2", "3"] {
            send(&producer, value).await;
            broker.kill_and_restart().await.unwrap();
        }
        assert_eq!(values(&broker, "orders").await, ["1", "2", "3"]);
        broker.stop().await.unwrap();
        assert!(matches!(broker.read("orders").await, Err(Error::NotRunning)));
        broker.start_again().await.unwrap();
        assert_eq!(values(&broker, "orders").await, ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn a_fork_begins_with_the_same_and_goes_its_own_way() {
    for broker in both().await {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        broker.produce("orders", [record("a", "1")]).await.unwrap();
        let seeded = broker.snapshot().await.unwrap();
        broker.produce("orders", [record("a", "2")]).await.unwrap();
        let (one, other) = (seeded.fork().await.unwrap(), seeded.fork().await.unwrap());
        drop(broker);
        one.advance(DAY).await.unwrap();
        one.produce("orders", [record("a", "one")]).await.unwrap();
        other.produce("orders", [record("a", "other")]).await.unwrap();
        assert_eq!(values(&one, "orders").await, ["1", "one"]);
        assert_eq!(values(&other, "orders").await, ["1", "other"]);
        assert_eq!(other.now(), Timestamp(START_MS));
        assert_eq!(values(&seeded.fork().await.unwrap(), "orders").await, ["1"]);
    }
}

#[tokio::test]
async fn a_directory_that_is_kept_is_closed_by_the_drop() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let broker = Broker::builder().data_dir(&data).start().await.unwrap();
    broker.create_topic("orders", 1, &[]).await.unwrap();
    broker.produce("orders", [record("a", "1")]).await.unwrap();
    let client = broker.client().await.unwrap();
    assert!(matches!(broker.snapshot().await, Err(Error::Kept)));
    drop(broker);
    assert!(
        data.join(".kafka_cleanshutdown").exists(),
        "though a client is connected"
    );
    drop(client);
    let again = Broker::builder().data_dir(&data).start().await.unwrap();
    assert_eq!(values(&again, "orders").await, ["1"]);
}

#[tokio::test]
async fn a_setting_that_is_wrong_is_told() {
    let refused = Broker::builder()
        .set("grpc.listn", "x")
        .start()
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("did you mean grpc.listen"),
        "{refused}"
    );
}
