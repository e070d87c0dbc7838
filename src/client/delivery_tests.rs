//! Tests of deliveries and partitioners against a scripted server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::sync::mpsc;

use super::testing::{Fate, Scripted};
use super::{
    Acknowledged, Acks, Client, Delivery, Error, ErrorKind, PartitionChoice, Partitioner, Producer,
    ProducerOptions, ProducerRecord, Written,
};
use crate::types::{Offset, PartitionId, Timestamp};

/// A time that no test waits for.
const LONG: Duration = Duration::from_secs(60);
/// A wait that only a defect makes long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Batches that are full after a few records.
fn small_batches() -> ProducerOptions {
    ProducerOptions {
        batch_bytes: 200,
        linger: Duration::from_millis(1),
        clock: Arc::new(|| Timestamp(77)),
        ..ProducerOptions::default()
    }
}

async fn producer(server: &Scripted, options: ProducerOptions) -> Producer {
    let client = Client::connect(&server.address.to_string())
        .await
        .expect("the server listens");
    client.producer("t", options).await.expect("the topic is there")
}

fn to(partition: i32, value: &str) -> ProducerRecord<'_> {
    ProducerRecord {
        value: Some(value.as_bytes()),
        partition: Some(PartitionId(partition)),
        ..ProducerRecord::default()
    }
}

async fn send_all(producer: &Producer, values: &[String]) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for value in values {
        deliveries.push(producer.send(to(0, value)).await.expect("sent"));
    }
    deliveries
}

fn values(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("value-{number:05}")).collect()
}

/// Waits for an outcome, without a flush.
async fn outcome(delivery: Delivery) -> Result<Acknowledged, Error> {
    tokio::time::timeout(PATIENCE, delivery)
        .await
        .expect("no delivery waits for ever")
}

#[tokio::test]
async fn every_delivery_tells_the_offset_at_which_its_record_lies_whatever_befell_its_batch() {
    use Fate::{Answered, LostAfter, LostBefore, Refused, WrittenButRefused};
    let script = [
        Answered,
        LostAfter,
        Answered,
        WrittenButRefused,
        Refused,
        LostBefore,
        Answered,
        LostAfter,
    ];
    let server = Scripted::start(1, script).await;
    let producer = producer(&server, small_batches()).await;
    let values = values(100);
    let deliveries = send_all(&producer, &values).await;
    for (value, delivery) in values.iter().zip(deliveries) {
        let acknowledged = outcome(delivery).await.expect("written");
        let offset = acknowledged.offset.expect("the server says where");
        let place = usize::try_from(offset.0).expect("an offset");
        assert_eq!(&server.log(0)[place], value);
        assert_eq!(
            (acknowledged.partition, acknowledged.timestamp),
            (PartitionId(0), Timestamp(77))
        );
    }
    assert_eq!(server.log(0), values);
    let metrics = producer.metrics();
    assert_eq!(
        (metrics.acknowledged_records, metrics.unacknowledged_records()),
        (100, 0)
    );
    assert_eq!((metrics.losses, metrics.buffered_bytes), (3, 0));
    assert!(metrics.requests > metrics.acknowledged_batches, "{metrics:?}");
}

#[tokio::test]
async fn without_acks_a_delivery_ends_when_its_record_is_sent_and_tells_no_offset() {
    let server = Scripted::start(1, []).await;
    let options = ProducerOptions {
        acks: Acks::None,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let delivery = producer.send(to(0, "v")).await.expect("sent");
    assert_eq!(outcome(delivery).await.expect("sent").offset, None);
}

#[tokio::test]
async fn a_record_that_nobody_flushes_ends_in_a_timeout_while_no_stream_opens() {
    let server = Scripted::start(1, []).await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(200),
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    server.state.lock().is_mute = true;
    let delivery = producer.send(to(0, "v")).await.expect("there is room");
    let error = outcome(delivery).await.expect_err("nobody answers");
    assert!(
        matches!(
            error,
            Error::DeliveryTimeout {
                written: Written::No,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_refused_record_fails_alone_with_those_behind_it_and_those_before_it_are_written() {
    let server = Scripted::start(1, []).await;
    let options = ProducerOptions {
        linger: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    outcome({
        let delivery = producer.send(to(0, "warm")).await.expect("sent");
        producer.flush().await.expect("acknowledged");
        delivery
    })
    .await
    .expect("written");
    server.state.lock().script = [Fate::RejectedRecord(2)].into();
    let deliveries = send_all(&producer, &values(6)).await;
    producer.flush().await.expect_err("one is refused");
    for (number, delivery) in (1_i64..).zip(deliveries) {
        match (number, outcome(delivery).await) {
            (1 | 2, Ok(acknowledged)) => assert_eq!(acknowledged.offset, Some(Offset(number))),
            (3.., Err(Error::RecordRefused { .. })) => {}
            (_, other) => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(server.log(0), ["warm", "value-00000", "value-00001"]);
}

#[tokio::test]
async fn a_refusal_of_a_record_that_is_not_there_ends_its_whole_batch() {
    let server = Scripted::start(1, [Fate::RejectedRecord(99)]).await;
    let producer = producer(&server, small_batches()).await;
    let delivery = producer.send(to(0, "v")).await.expect("sent");
    let error = outcome(delivery).await.expect_err("refused");
    assert!(matches!(error, Error::RecordRefused { .. }), "{error:?}");
    assert!(server.log(0).is_empty());
}

#[tokio::test]
async fn a_record_that_would_linger_past_its_time_is_sent_before() {
    let server = Scripted::start(1, []).await;
    let options = ProducerOptions {
        linger: LONG,
        delivery_timeout: Duration::from_millis(400),
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let delivery = producer.send(to(0, "v")).await.expect("sent");
    outcome(delivery).await.expect("written in time");
}

#[tokio::test]
async fn a_dropped_producer_tells_each_delivery_what_was_lost_and_whether_it_may_be_written() {
    let server = Scripted::start(2, [Fate::Held]).await;
    let options = ProducerOptions {
        linger: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let sent = producer.send(to(0, &"x".repeat(150))).await.expect("sent");
    // Seals the batch before it, and stays open.
    let open = producer.send(to(0, &"y".repeat(150))).await.expect("sent");
    server.has_received(0, 1).await;
    drop(producer);
    for (delivery, expected) in [(sent, Written::Perhaps), (open, Written::No)] {
        match outcome(delivery).await {
            Err(Error::Dropped {
                lost_records: 2,
                written,
                ..
            }) => assert_eq!(written, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_that_does_not_say_where_the_batch_is_stops_the_producer() {
    let server = Scripted::start(1, [Fate::Nowhere]).await;
    let producer = producer(&server, small_batches()).await;
    let delivery = producer.send(to(0, "v")).await.expect("sent");
    let error = outcome(delivery).await.expect_err("against the protocol");
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    producer.send(to(0, "v")).await.expect_err("stopped");
}

#[tokio::test]
async fn a_full_buffer_is_an_error_to_whom_does_not_wait_and_the_next_record_finds_room_again() {
    let server = Scripted::start(1, [Fate::Held]).await;
    let options = ProducerOptions {
        buffer_bytes: 400,
        linger: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let value = "x".repeat(100);
    let first = producer.try_send(to(0, &value)).expect("there is room");
    producer.try_send(to(0, &value)).expect("there is room");
    let error = producer.try_send(to(0, &value)).expect_err("full");
    assert_eq!(
        (error.kind(), error.is_retriable()),
        (ErrorKind::ResourceExhausted, true)
    );
    // What fills the buffer is on its way, though it could linger.
    server.has_received(0, 1).await;
    server.release.notify_one();
    outcome(first).await.expect("written");
    let third = producer.send(to(0, &value)).await.expect("there is room");
    producer.flush().await.expect("written");
    assert_eq!(outcome(third).await.expect("written").offset, Some(Offset(2)));
    assert_eq!(producer.metrics().buffer_full, 1);
}

/// Looks, when it is woken, whether somebody holds a lock of the producer.
struct Watcher {
    producer: Arc<Producer>,
    free: mpsc::Sender<bool>,
}

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        let _ = self.free.try_send(self.producer.locks_are_free());
    }
}

/// Sends two records, of which each fills a batch, under `script`; returns what the wakers of both find.
async fn found_by_wakers(script: Fate) -> Vec<bool> {
    let server = Scripted::start(1, [script]).await;
    let options = ProducerOptions {
        linger: LONG,
        ..small_batches()
    };
    let producer = Arc::new(producer(&server, options).await);
    let (free, mut found) = mpsc::channel(9);
    let watcher = Arc::new(Watcher {
        producer: Arc::clone(&producer),
        free,
    });
    let waker = Waker::from(watcher);
    let value = "x".repeat(150);
    let mut deliveries = Vec::new();
    for _ in 0..2 {
        let mut delivery = producer.send(to(0, &value)).await.expect("there is room");
        let poll = Pin::new(&mut delivery).poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
        deliveries.push(delivery);
    }
    // The second goes on its way, or is failed where it is: the first batch is refused by now or later.
    let flushed = tokio::time::timeout(PATIENCE, producer.flush()).await;
    flushed.expect("it ends").expect_err("refused");
    let mut both = Vec::new();
    while both.len() < 2 {
        let told = tokio::time::timeout(PATIENCE, found.recv()).await;
        both.push(told.expect("both are woken").expect("the wakers are there"));
    }
    both
}

#[tokio::test]
async fn whoever_is_woken_finds_no_lock_of_the_producer_held() {
    for script in [Fate::Rejected, Fate::RejectedRecord(0), Fate::RejectedRecord(99)] {
        assert_eq!(found_by_wakers(script).await, [true, true], "{script:?}");
    }
}

#[tokio::test]
async fn times_that_no_clock_can_tell_are_waits_without_an_end() {
    let server = Scripted::start(1, [Fate::Refused, Fate::LostAfter]).await;
    let options = ProducerOptions {
        linger: Duration::MAX,
        request_timeout: Duration::MAX,
        delivery_timeout: Duration::MAX,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let delivery = producer.send(to(0, "v")).await.expect("sent");
    tokio::task::yield_now().await;
    producer.flush().await.expect("written");
    assert_eq!(outcome(delivery).await.expect("written").offset, Some(Offset(0)));
}

/// Where records with keys go under a partitioner.
async fn partitions_of(partitioner: Partitioner, keys: &[&str]) -> Vec<Result<i32, Error>> {
    let server = Scripted::start(3, []).await;
    let options = ProducerOptions {
        partitioner,
        linger: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let mut partitions = Vec::new();
    for key in keys {
        let record = ProducerRecord {
            key: Some(key.as_bytes()),
            value: Some(b"v"),
            ..ProducerRecord::default()
        };
        let delivery = producer.send(record).await;
        producer.flush().await.expect("written");
        partitions.push(match delivery {
            Ok(delivery) => Ok(outcome(delivery).await.expect("written").partition.0),
            Err(error) => Err(error),
        });
    }
    partitions
}

#[tokio::test]
async fn each_partitioner_sends_records_where_it_says() {
    let told = |outcomes: Vec<Result<i32, Error>>| -> Vec<i32> {
        outcomes
            .into_iter()
            .map(|outcome| outcome.expect("sent"))
            .collect()
    };
    let sticky = partitions_of(Partitioner::Sticky, &["a", "a", "a", "a"]).await;
    assert_eq!(told(sticky), [0, 1, 2, 0], "the next with each batch");
    let choice: PartitionChoice = Arc::new(|record, count| match record.key {
        Some(b"last") => Some(PartitionId(count - 1)),
        Some(b"beyond") => Some(PartitionId(count)),
        _ => None,
    });
    let own = partitions_of(Partitioner::Own(choice), &["last", "a", "last", "a", "beyond"]).await;
    let (own, beyond) = own.split_at(4);
    let own: Vec<i32> = own
        .iter()
        .map(|outcome| *outcome.as_ref().expect("sent"))
        .collect();
    assert_eq!(own, [2, 0, 2, 1]);
    assert!(
        matches!(beyond[0], Err(Error::UnknownPartition { .. })),
        "{beyond:?}"
    );
    let explicit = partitions_of(Partitioner::Explicit, &["a"]).await;
    assert!(
        matches!(explicit[0], Err(Error::NoPartition { .. })),
        "{explicit:?}"
    );
}
