//! Tests of the producer against a scripted server over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::testing::{Fate, MAX_MESSAGE_BYTES, Scripted};
use super::{Acks, Client, Error, ErrorKind, Producer, ProducerOptions, ProducerRecord, Written};
use crate::record::{Codec, partition_for_key};
use crate::types::PartitionId;

/// A timeout that no slow machine reaches.
const LONG: Duration = Duration::from_secs(60);

/// Lets so much time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Batches of a few records, so that many are under way.
fn small_batches() -> ProducerOptions {
    ProducerOptions {
        batch_bytes: 200,
        linger: Duration::from_millis(1),
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

fn values(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("value-{number:05}")).collect()
}

/// Sends records to two partitions under `script` and checks that each log holds them once and in order.
async fn check(script: Vec<Fate>, count: usize, options: ProducerOptions) {
    let server = Scripted::start(2, script.clone()).await;
    let mut producer = producer(&server, options).await;
    let values = values(count);
    for value in &values {
        producer.send(to(0, value)).await.expect("sent");
        producer.send(to(1, value)).await.expect("sent");
    }
    producer.close().await.expect("all acknowledged");
    let metrics = producer.metrics();
    assert_eq!(
        metrics.acknowledged_records,
        2 * u64::try_from(count).expect("small")
    );
    assert_eq!(metrics.sent_records, metrics.acknowledged_records);
    assert_eq!(server.log(0), values, "{script:?}");
    assert_eq!(server.log(1), values, "{script:?}");
}

#[tokio::test]
async fn every_record_is_written_once_and_in_order() {
    check(vec![], 500, small_batches()).await;
}

#[tokio::test]
async fn every_codec_is_written() {
    for codec in Codec::ALL {
        check(
            vec![],
            50,
            ProducerOptions {
                codec,
                ..small_batches()
            },
        )
        .await;
    }
}

#[tokio::test]
async fn what_was_written_before_the_answer_was_lost_is_not_written_again() {
    check(vec![Fate::LostAfter; 4], 100, small_batches()).await;
}

#[tokio::test]
async fn a_refused_batch_holds_back_those_after_it_until_it_is_written() {
    use Fate::{Answered, Refused, WrittenButRefused};
    check(
        vec![
            Answered,
            Answered,
            Refused,
            Answered,
            WrittenButRefused,
            Refused,
            Answered,
        ],
        100,
        small_batches(),
    )
    .await;
}

#[tokio::test]
async fn the_very_first_batch_may_be_refused_without_losing_its_place() {
    check(
        vec![Fate::Refused, Fate::LostBefore, Fate::Refused],
        100,
        small_batches(),
    )
    .await;
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Refused),
        1 => Just(Fate::WrittenButRefused),
        1 => Just(Fate::LostBefore),
        1 => Just(Fate::LostAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_befalls_requests_each_record_is_written_once_and_in_order(
        script in prop::collection::vec(fate(), 0..24),
        count in 1..120_usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(check(script, count, small_batches()));
    }
}

/// Passes connections on to `server`, and cuts each after as many bytes from the client as `cuts` says in turn.
async fn cutting_proxy(server: SocketAddr, cuts: Vec<usize>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        let mut cuts = cuts.into_iter();
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let upstream = TcpStream::connect(server).await.expect("the server listens");
            tokio::spawn(pass_on(client, upstream, cuts.next().unwrap_or(usize::MAX)));
        }
    });
    (address, connections)
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream, mut left: usize) {
    let (mut from_client, mut from_server) = (vec![0; 4096], vec![0; 4096]);
    while left > 0 {
        let passed = tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(len @ 1..) => {
                    let len = len.min(left);
                    left -= len;
                    server.write_all(&from_client[..len]).await
                }
                _ => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(len @ 1..) => client.write_all(&from_server[..len]).await,
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn connections_cut_anywhere_neither_lose_nor_repeat_nor_reorder() {
    let server = Scripted::start(2, []).await;
    let cuts = vec![3000, 2500, 1777, 900, 4001, 2222];
    let cut_count = cuts.len();
    let (proxy, connections) = cutting_proxy(server.address, cuts).await;
    let client = Client::connect(&proxy.to_string())
        .await
        .expect("the proxy listens");
    let mut producer = client
        .producer("t", small_batches())
        .await
        .expect("the topic is there");
    let values = values(400);
    for value in &values {
        producer.send(to(0, value)).await.expect("sent");
        producer.send(to(1, value)).await.expect("sent");
    }
    producer.close().await.expect("all acknowledged");
    assert_eq!(server.log(0), values);
    assert_eq!(server.log(1), values);
    assert_eq!(
        connections.load(Ordering::Relaxed),
        cut_count + 1,
        "every cut was suffered"
    );
}

#[tokio::test]
async fn a_rejected_batch_stops_the_producer_and_the_rest_is_not_written() {
    let server = Scripted::start(1, [Fate::Answered, Fate::Rejected]).await;
    let producer = producer(&server, small_batches()).await;
    producer.send(to(0, "first")).await.expect("sent");
    producer.flush().await.expect("acknowledged");
    producer.send(to(0, "second")).await.expect("sent");
    let error = producer.flush().await.expect_err("rejected");
    assert_eq!(
        (error.kind(), error.reason()),
        (ErrorKind::InvalidArgument, Some("INVALID_RECORD"))
    );
    let again = producer.send(to(0, "third")).await.expect_err("stopped");
    assert_eq!(again.reason(), Some("INVALID_RECORD"));
    assert_eq!(producer.metrics().acknowledged_records, 1);
    assert_eq!(server.log(0), ["first"]);
}

#[tokio::test]
async fn five_batches_of_a_partition_are_under_way_and_no_sixth() {
    let server = Scripted::start(1, [vec![Fate::Answered], vec![Fate::Held; 20]].concat()).await;
    let producer = producer(&server, small_batches()).await;
    producer.send(to(0, "first")).await.expect("sent");
    producer.flush().await.expect("acknowledged");
    let values = values(100);
    for value in &values {
        producer
            .send(to(0, value))
            .await
            .expect("sent without waiting for answers");
    }
    // The scripted server reads one request at a time while it holds an answer; five lie before it or on the way.
    server.has_received(0, 2).await;
    assert_eq!(producer.metrics().in_flight_requests, 5);
}

/// How a record ends that a server with this script never acknowledges.
async fn timed_out(script: Vec<Fate>) -> Written {
    let server = Scripted::start(1, script).await;
    let options = ProducerOptions {
        delivery_timeout: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    producer.send(to(0, "v")).await.expect("sent");
    // Sent again: the first answer has come.
    server.has_received(0, 3).await;
    pass(LONG).await;
    match producer.flush().await {
        Err(Error::DeliveryTimeout { written, .. }) => written,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_timeout_says_whether_what_was_refused_may_be_written_all_the_same() {
    let full = || vec![Fate::NoRoom; 10_000];
    assert_eq!(timed_out(full()).await, Written::No);
    let mut lost_first = full();
    lost_first[0] = Fate::LostAfter;
    assert_eq!(timed_out(lost_first).await, Written::Perhaps);
    let mut unsure_first = full();
    unsure_first[0] = Fate::WrittenButRefused;
    assert_eq!(timed_out(unsure_first).await, Written::Perhaps);
}

#[tokio::test]
async fn a_refused_record_is_told_by_its_number_when_all_before_it_is_written() {
    let server = Scripted::start(2, []).await;
    let options = ProducerOptions {
        linger: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    producer.send(to(0, "warm")).await.expect("sent");
    producer.flush().await.expect("acknowledged");
    server.state.lock().script = [Fate::Answered, Fate::RejectedRecord(2)].into();
    for number in 0..30 {
        let value = format!("{number:>20}");
        let sent = producer.send(ProducerRecord {
            place: Some(number),
            ..to(0, &value)
        });
        sent.await.expect("sent");
    }
    match producer.flush().await {
        Err(Error::RecordRefused { place, refusal }) => {
            let place = usize::try_from(place.expect("records had numbers")).unwrap();
            assert_eq!(refusal.reason, "INVALID_RECORD");
            let log = server.log(0);
            assert_eq!(log.len(), 1 + place, "all before it, and nothing after it");
            assert_eq!(log[place].trim(), (place - 1).to_string());
            assert_eq!(producer.metrics().acknowledged_records, 1 + place as u64);
        }
        other => panic!("{other:?}"),
    }
    let late = producer.send(to(1, "late")).await;
    assert!(matches!(late, Err(Error::RecordRefused { .. })), "{late:?}");
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait_until_answers_make_room() {
    let server = Scripted::start(1, [Fate::Held]).await;
    let options = ProducerOptions {
        buffer_bytes: 400,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    let value = "x".repeat(100);
    producer.send(to(0, &value)).await.expect("there is room");
    producer.send(to(0, &value)).await.expect("there is room");
    server.has_received(0, 1).await;
    let mut waiting = Box::pin(async {
        for _ in 0..4 {
            producer
                .send(to(0, &value))
                .await
                .expect("there is room in the end");
        }
    });
    tokio::select! {
        biased;
        () = &mut waiting => panic!("there was room for everything"),
        () = std::future::ready(()) => {}
    }
    server.release.notify_one();
    waiting.await;
    producer.flush().await.expect("acknowledged");
    assert_eq!(server.log(0).len(), 6);
}

#[tokio::test]
async fn a_record_that_stays_unacknowledged_ends_in_a_delivery_timeout() {
    let server = Scripted::start(1, vec![Fate::Refused; 10_000]).await;
    let options = ProducerOptions {
        delivery_timeout: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    producer.send(to(0, "v")).await.expect("sent");
    // Sent again: the first refusal has come.
    server.has_received(0, 2).await;
    pass(LONG).await;
    let error = producer.flush().await.expect_err("never acknowledged");
    assert!(matches!(error, Error::DeliveryTimeout { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("last error: scripted WRITES_REFUSED"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_lost_connection_and_the_batch_is_sent_again() {
    let server = Scripted::start(1, [Fate::Held]).await;
    let options = ProducerOptions {
        request_timeout: LONG,
        ..small_batches()
    };
    let producer = producer(&server, options).await;
    producer.send(to(0, "v")).await.expect("sent");
    server.has_received(0, 1).await;
    pass(LONG).await;
    producer.flush().await.expect("acknowledged by the second try");
    assert_eq!(server.log(0), ["v"]);
    assert_eq!(server.state.lock().received[0], 2);
}

#[tokio::test]
async fn a_record_that_no_batch_can_hold_is_refused_alone() {
    let server = Scripted::start(1, []).await;
    let mut producer = producer(&server, small_batches()).await;
    let value = "x".repeat(MAX_MESSAGE_BYTES);
    let error = producer.send(to(0, &value)).await.expect_err("too large");
    assert!(
        matches!(
            error,
            Error::RecordTooLarge {
                limit_bytes: MAX_MESSAGE_BYTES,
                ..
            }
        ),
        "{error:?}"
    );
    let error = producer.send(to(1, "v")).await.expect_err("no such partition");
    assert_eq!(error.to_string(), "topic t has 1 partitions, no partition 1");
    producer
        .send(to(0, &value[200..]))
        .await
        .expect("a record larger than a batch's aim goes alone");
    producer.close().await.expect("acknowledged");
    assert_eq!(server.log(0), [&value[200..]]);
}

#[tokio::test]
async fn keys_go_where_kafkas_partitioner_puts_them_and_the_rest_is_spread() {
    let server = Scripted::start(3, []).await;
    let mut producer = producer(&server, small_batches()).await;
    let values = values(60);
    for value in &values {
        let key = Some(value.as_bytes());
        producer
            .send(ProducerRecord {
                key,
                value: key,
                ..ProducerRecord::default()
            })
            .await
            .expect("sent");
    }
    producer.flush().await.expect("acknowledged");
    for partition in 0..3_i32 {
        let here = |value: &&String| partition_for_key(value.as_bytes(), 3) == PartitionId(partition);
        let expected: Vec<String> = values.iter().filter(here).cloned().collect();
        assert_eq!(server.log(usize::try_from(partition).expect("small")), expected);
    }
    server.state.lock().logs.iter_mut().for_each(Vec::clear);
    for value in &values {
        let value = Some(value.as_bytes());
        producer
            .send(ProducerRecord {
                value,
                ..ProducerRecord::default()
            })
            .await
            .expect("sent");
    }
    producer.close().await.expect("acknowledged");
    let mut all: Vec<String> = (0..3).flat_map(|partition| server.log(partition)).collect();
    all.sort();
    assert_eq!(all, values);
    assert!(
        (0..3).all(|partition| server.log(partition).len() > 10),
        "no partition is left out"
    );
}

#[tokio::test]
async fn without_acks_everything_arrives_in_order_and_close_waits_for_it() {
    let server = Scripted::start(1, []).await;
    let mut producer = producer(
        &server,
        ProducerOptions {
            acks: Acks::None,
            ..small_batches()
        },
    )
    .await;
    let values = values(100);
    for value in &values {
        producer.send(to(0, value)).await.expect("sent");
    }
    producer.close().await.expect("the stream ended in order");
    assert_eq!(server.log(0), values);
}

#[tokio::test]
async fn nobody_at_an_address_is_said_in_one_line() {
    // Taken, so that nobody else gets the port, and not listened on.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port");
    let address = socket.local_addr().expect("it is bound").to_string();
    let error = Client::connect(&address).await.expect_err("nobody listens");
    assert_eq!(
        error.to_string(),
        format!("cannot reach a server at {address}: connection refused")
    );
    assert!(error.is_retriable());
}
