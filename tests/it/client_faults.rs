//! What the Rust client promises while networks and servers fail, against a real server and a model: nothing lost, nothing twice,
//! each partition in order, and an error of a known kind, in time, where it cannot be kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use siltstone::client::{
    Client, ConnectOptions, Delivery, Error, ErrorKind, ProducerOptions, ProducerRecord, ReadEnd, ReadSpec,
};
use siltstone::record::Codec;
use siltstone::types::{Offset, PartitionId};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

use crate::faulty_door::{CuttingDoor, Fault, FaultyDoor};
use crate::support::TestServer;

/// A wait that only a defect makes long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Batches of a few records, so that many are under way.
fn small_batches() -> ProducerOptions {
    ProducerOptions {
        batch_bytes: 300,
        linger: Duration::from_millis(1),
        ..ProducerOptions::default()
    }
}

async fn client(address: SocketAddr) -> Client {
    Client::connect(&address.to_string()).await.unwrap()
}

/// What was sent, by partition, in order.
#[derive(Default)]
struct Model {
    sent: BTreeMap<PartitionId, Vec<String>>,
    deliveries: Vec<(Delivery, Offset)>,
}

impl Model {
    /// Notes a value of the next record of its partition.
    fn sent(&mut self, delivery: Delivery, value: String) {
        let sent = self.sent.entry(delivery.partition()).or_default();
        self.deliveries.push((delivery, Offset(sent.len() as i64)));
        sent.push(value);
    }

    /// Every delivery tells the place of its record, and the log holds all of them, once, in order.
    async fn must_hold(self, server: &TestServer, topic: &str) {
        for (delivery, offset) in self.deliveries {
            let acknowledged = tokio::time::timeout(PATIENCE, delivery).await.unwrap().unwrap();
            assert_eq!(acknowledged.offset, Some(offset));
        }
        let reading = client(server.server.grpc_addr()).await;
        let mut records = reading
            .read(topic, ReadSpec::default())
            .await
            .unwrap()
            .into_records();
        let mut stored: BTreeMap<PartitionId, Vec<String>> = BTreeMap::new();
        while let Some(read) = records.try_next().await.unwrap() {
            let values = stored.entry(read.partition).or_default();
            assert_eq!(read.record.offset, Offset(values.len() as i64));
            values.push(String::from_utf8(read.record.value.unwrap().to_vec()).unwrap());
        }
        assert_eq!(stored, self.sent);
    }
}

/// Sends `numbers` through `producer`, spread by their keys.
async fn send(producer: &siltstone::client::Producer, numbers: std::ops::Range<u32>, model: &mut Model) {
    for number in numbers {
        let value = format!("value-{number:06}");
        let record = ProducerRecord {
            key: Some(&value.as_bytes()[9..]),
            value: Some(value.as_bytes()),
            ..ProducerRecord::default()
        };
        let delivery = producer.send(record).await.unwrap();
        model.sent(delivery, value);
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::Twice),
        1 => Just(Fault::Late),
        1 => Just(Fault::LostBefore),
        1 => Just(Fault::LostAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_a_door_does_to_requests_the_log_holds_each_record_once_and_in_order(
        faults in prop::collection::vec(fault(), 0..48),
        count in 1..400_u32,
        codec in prop::sample::select(vec![Codec::None, Codec::Lz4]),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let server = TestServer::start().await;
            server.topic("t", 3).await;
            let door = FaultyDoor::to(server.server.grpc_addr(), faults).await;
            let options = ProducerOptions { codec, ..small_batches() };
            let mut producer = client(door.address).await.producer("t", options).await.unwrap();
            let mut model = Model::default();
            send(&producer, 0..count, &mut model).await;
            tokio::time::timeout(PATIENCE, producer.close()).await.unwrap().unwrap();
            model.must_hold(&server, "t").await;
        });
    }
}

#[tokio::test]
async fn a_server_that_restarts_again_and_again_under_a_load_loses_nothing_and_repeats_nothing() {
    use Fault::{LostAfter, Twice};
    let mut server = TestServer::start().await;
    server.topic("t", 2).await;
    let door = FaultyDoor::to(server.server.grpc_addr(), [Twice, LostAfter, Twice, LostAfter]).await;
    let mut producer = client(door.address)
        .await
        .producer("t", small_batches())
        .await
        .unwrap();
    let mut model = Model::default();
    for round in 0..4 {
        // Not flushed: some is under way, some in open batches.
        send(&producer, round * 200..(round + 1) * 200, &mut model).await;
        server = server.restart().await;
        door.lead_to(server.server.grpc_addr());
    }
    tokio::time::timeout(PATIENCE, producer.close())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(door.faults_left(), 0);
    assert!(producer.metrics().losses >= 2, "{:?}", producer.metrics());
    model.must_hold(&server, "t").await;
}

#[tokio::test]
async fn reads_over_connections_that_are_cut_anywhere_have_no_gap_and_no_repeat() {
    let server = TestServer::start().await;
    server.topic("t", 2).await;
    let direct = client(server.server.grpc_addr()).await;
    let mut producer = direct.producer("t", small_batches()).await.unwrap();
    let mut model = Model::default();
    send(&producer, 0..4000, &mut model).await;
    producer.close().await.unwrap();
    let cuts = vec![4000, 30_000, 900, 300, 70_001];
    for end in [ReadEnd::Now, ReadEnd::Follow] {
        let door = CuttingDoor::to(server.server.grpc_addr(), cuts.clone()).await;
        let spec = ReadSpec {
            end,
            ..ReadSpec::default()
        };
        let through = client(door.address).await;
        let mut records = loop {
            // The first cut may come before the read has begun.
            match through.read("t", spec.clone()).await {
                Ok(reader) => break reader.into_records(),
                Err(error) => assert!(error.is_retriable(), "{error}"),
            }
        };
        let mut read: BTreeMap<PartitionId, Vec<String>> = BTreeMap::new();
        for _ in 0..4000 {
            let next = tokio::time::timeout(PATIENCE, records.try_next()).await.unwrap();
            let next = next.unwrap().expect("not all has come");
            let values = read.entry(next.partition).or_default();
            assert_eq!(next.record.offset, Offset(values.len() as i64));
            values.push(String::from_utf8(next.record.value.unwrap().to_vec()).unwrap());
        }
        if end == ReadEnd::Now {
            assert!(records.try_next().await.unwrap().is_none());
        }
        assert_eq!(read, model.sent);
        assert_eq!(door.connections(), cuts.len() + 1, "every cut was suffered");
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_is_told_to_its_producer_and_its_follower() {
    let server = TestServer::start().await;
    server.topic("t", 1).await;
    let client = client(server.server.grpc_addr()).await;
    let producer = client.producer("t", small_batches()).await.unwrap();
    let mut model = Model::default();
    send(&producer, 0..1, &mut model).await;
    producer.flush().await.unwrap();
    let follow = ReadSpec {
        end: ReadEnd::Follow,
        ..ReadSpec::default()
    };
    let mut follower = client.read("t", follow).await.unwrap().into_records();
    follower.try_next().await.unwrap().expect("the record");
    client.delete_topic("t").await.unwrap();
    let record = ProducerRecord {
        value: Some(b"late"),
        ..ProducerRecord::default()
    };
    let delivery = producer.send(record).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, async { (delivery.await, follower.try_next().await) });
    let (delivered, followed) = ended.await.unwrap();
    for error in [delivered.unwrap_err(), followed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(!error.is_retriable());
    }
    producer.send(record).await.expect_err("it stopped");
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_an_error_in_time_for_every_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let mut guests = Vec::new();
        while let Ok((guest, _)) = listener.accept().await {
            guests.push(guest);
        }
    });
    let short = Duration::from_millis(200);
    let options = ConnectOptions {
        connect_timeout: short,
        call_timeout: short,
        ..ConnectOptions::default()
    };
    let all = async {
        let client = Client::connect_with(&address, &options).await.unwrap();
        let described = client.describe_topic("t").await.unwrap_err();
        let read = client.read("t", ReadSpec::default()).await.unwrap_err();
        for error in [described, read] {
            assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
            assert!(error.is_retriable());
        }
        let options = ProducerOptions {
            delivery_timeout: 2 * short,
            ..small_batches()
        };
        let begun = client.producer("t", options).await.unwrap_err();
        assert!(matches!(begun, Error::BeginTimeout { .. }), "{begun:?}");
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    silent.abort();
}

#[tokio::test]
async fn a_server_that_is_lost_for_good_ends_all_that_waits_in_time() {
    let server = TestServer::start().await;
    server.topic("t", 1).await;
    let door = FaultyDoor::to(server.server.grpc_addr(), []).await;
    let client = client(door.address).await;
    let options = ProducerOptions {
        delivery_timeout: Duration::from_millis(400),
        ..small_batches()
    };
    let producer = client.producer("t", options).await.unwrap();
    let follow = ReadSpec {
        end: ReadEnd::Follow,
        reconnect_for: Duration::from_millis(400),
        ..ReadSpec::default()
    };
    let mut follower = client.read("t", follow).await.unwrap();
    server.server.stop().await.unwrap();
    let record = ProducerRecord {
        value: Some(b"late"),
        ..ProducerRecord::default()
    };
    let ended = tokio::time::timeout(PATIENCE, async {
        let delivery = producer.send(record).await.unwrap();
        let delivered = delivery.await.unwrap_err();
        loop {
            match follower.next().await {
                Ok(chunk) => assert!(chunk.is_some(), "a follower does not end by itself"),
                Err(error) => break (delivered, error),
            }
        }
    });
    let (delivered, followed) = ended.await.unwrap();
    assert!(
        matches!(delivered, Error::DeliveryTimeout { .. }),
        "{delivered:?}"
    );
    assert!(followed.is_retriable(), "{followed:?}");
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_told_as_such_and_no_retry_is_advised() {
    let file = |name: &str| format!("{}/tests/it/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let server =
        TestServer::start_with(&[("grpc.tls_certificate", &certificate), ("grpc.tls_key", &key)]).await;
    let address = format!("https://localhost:{}", server.server.grpc_addr().port());
    let trusting = |authority: &str| ConnectOptions {
        tls_authorities_pem: Some(std::fs::read(file(authority)).unwrap()),
        ..ConnectOptions::default()
    };
    let client = Client::connect_with(&address, &trusting("ca.pem")).await.unwrap();
    client.describe_topic("t").await.expect_err("no such topic");
    let error = Client::connect_with(&address, &trusting("client.pem"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(!error.is_retriable());
}
