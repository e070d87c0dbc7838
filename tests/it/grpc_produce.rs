//! Writing over gRPC: plain records and raw batches, one request at a time and many under way.

use futures_util::stream;
use siltstone::proto::v1;
use siltstone::proto::v1::produce_stream_response::Outcome;
use siltstone::record::{BatchBuilder, BatchOptions, Codec, ProducerStamp};
use siltstone::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::support::{TestServer, everything, read_all, record, records, values};

fn batch(values: &[&str], options: BatchOptions) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(options);
    for value in values {
        builder
            .append(Some(Timestamp(1)), None, Some(value.as_bytes()), &[])
            .unwrap();
    }
    builder.build().unwrap().bytes().clone()
}

fn raw(batch: bytes::Bytes) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: "flights".to_owned(),
        partition: Some(0),
        batch: Some(batch),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_plain_record_comes_back_as_it_was_sent() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let sent = [
        record("N14228", "first"),
        v1::Record {
            key: None,
            value: None,
            timestamp_ms: Some(0),
            headers: vec![],
        },
        v1::Record {
            value: Some(bytes::Bytes::new()),
            ..record("", "")
        },
    ];
    let request = v1::ProduceRequest {
        records: sent.to_vec(),
        ..records("flights", 0, &[])
    };
    let appended = log.produce(request).await.unwrap().into_inner().appended;
    assert_eq!(appended.len(), 1);
    assert_eq!(
        (appended[0].base_offset, appended[0].last_offset),
        (Some(0), Some(2))
    );
    let read = read_all(&mut log, everything("flights")).await;
    let read: Vec<_> = read.into_iter().flat_map(|response| response.records).collect();
    assert_eq!(read.len(), sent.len());
    for (offset, (read, sent)) in (0..).zip(read.iter().zip(&sent)) {
        assert_eq!(read.offset, offset);
        assert_eq!(
            (&read.key, &read.value, read.timestamp_ms, &read.headers),
            (&sent.key, &sent.value, sent.timestamp_ms, &sent.headers)
        );
    }
}

#[tokio::test]
async fn a_raw_batch_comes_back_byte_for_byte_outside_the_fields_the_server_owns() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let sent = batch(
            &["a", "b", "c"],
            BatchOptions {
                codec,
                ..Default::default()
            },
        );
        let appended = log
            .produce(raw(sent.clone()))
            .await
            .unwrap()
            .into_inner()
            .appended;
        let request = v1::FetchRequest {
            partitions: vec![v1::FetchPartition {
                topic: "flights".to_owned(),
                partition: 0,
                offset: appended[0].base_offset.unwrap(),
                max_bytes: 0,
            }],
            format: i32::from(v1::RecordFormat::Batches),
            ..Default::default()
        };
        let fetched = log
            .fetch(request)
            .await
            .unwrap()
            .into_inner()
            .partitions
            .remove(0);
        assert_eq!(fetched.error, None);
        assert_eq!(fetched.batches[8..12], sent[8..12], "{codec:?}: the length");
        assert_eq!(
            fetched.batches[16..],
            sent[16..],
            "{codec:?}: all but base offset and epoch"
        );
        assert_eq!(
            Some(fetched.next_offset),
            appended[0].last_offset.map(|last| last + 1)
        );
    }
}

#[tokio::test]
async fn records_without_a_partition_go_where_their_keys_say_and_each_is_accounted_for() {
    let server = TestServer::start().await;
    server.topic("flights", 4).await;
    let mut log = server.log().await;
    let sent: Vec<_> = (0..100)
        .map(|n| record(&format!("key {}", n % 10), &n.to_string()))
        .collect();
    let request = v1::ProduceRequest {
        partition: None,
        records: sent.clone(),
        ..records("flights", 0, &[])
    };
    let appended = log.produce(request).await.unwrap().into_inner().appended;
    assert!(appended.is_sorted_by_key(|one| one.partition));
    let read = read_all(&mut log, everything("flights")).await;
    let mut accounted = 0;
    for one in &appended {
        let there: Vec<_> = read
            .iter()
            .filter(|response| response.partition == one.partition)
            .flat_map(|response| &response.records)
            .collect();
        assert_eq!(there.len(), one.record_indexes.len());
        for (record, index) in there.iter().zip(&one.record_indexes) {
            assert_eq!(record.value, sent[usize::try_from(*index).unwrap()].value);
        }
        accounted += there.len();
    }
    assert_eq!(accounted, sent.len());
}

/// Records without a key, for whichever partition the server chooses.
fn keyless(values: &[&str]) -> v1::ProduceRequest {
    let keyless = |value: &&str| v1::Record {
        key: None,
        ..record("", value)
    };
    v1::ProduceRequest {
        partition: None,
        records: values.iter().map(keyless).collect(),
        ..records("flights", 0, &[])
    }
}

/// Every request went whole to one partition, as one batch, and those of a round of four to each of the four.
async fn assert_took_turns(server: &TestServer, answers: Vec<v1::ProduceResponse>) {
    let mut partitions = Vec::new();
    for answer in &answers {
        assert_eq!(answer.appended.len(), 1, "records without a key stay together");
        let one = &answer.appended[0];
        assert_eq!(one.record_indexes, [0, 1, 2]);
        let base = one.base_offset.unwrap();
        assert_eq!(one.last_offset, Some(base + 2));
        let fetch = v1::FetchRequest {
            partitions: vec![v1::FetchPartition {
                topic: "flights".to_owned(),
                partition: one.partition,
                offset: base,
                max_bytes: 1,
            }],
            max_bytes: 1,
            format: i32::from(v1::RecordFormat::Batches),
            ..Default::default()
        };
        let fetched = server.log().await.fetch(fetch).await.unwrap().into_inner();
        assert_eq!(
            fetched.partitions[0].next_offset,
            base + 3,
            "one batch holds all three"
        );
        partitions.push(one.partition);
    }
    for round in partitions.chunks(4) {
        let mut round = round.to_vec();
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3], "the next request goes to the next partition");
    }
}

#[tokio::test]
async fn records_without_key_and_partition_stay_together_and_requests_take_turns() {
    let server = TestServer::start().await;
    server.topic("flights", 4).await;
    let mut log = server.log().await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        let answer = log.produce(keyless(&["a", "b", "c"])).await.unwrap();
        answers.push(answer.into_inner());
    }
    assert_took_turns(&server, answers).await;

    // Among records with keys, too, which go elsewhere.
    let mut mixed = keyless(&["0"; 40]);
    for (number, record) in mixed
        .records
        .iter_mut()
        .enumerate()
        .filter(|(number, _)| number % 2 == 1)
    {
        record.key = Some(format!("key {number}").into());
    }
    let appended = log.produce(mixed).await.unwrap().into_inner().appended;
    assert!(appended.len() > 1, "keys spread: {appended:?}");
    let with_keyless = |one: &&v1::Appended| one.record_indexes.iter().any(|index| index % 2 == 0);
    let keyless: Vec<_> = appended.iter().filter(with_keyless).collect();
    assert_eq!(keyless.len(), 1, "{appended:?}");
    let indexes = keyless[0].record_indexes.iter().filter(|index| *index % 2 == 0);
    assert_eq!(indexes.count(), 20);
}

#[tokio::test]
async fn records_without_key_and_partition_stay_together_on_a_stream_too() {
    let server = TestServer::start().await;
    server.topic("flights", 4).await;
    let requests = (0..8).map(|id| v1::ProduceStreamRequest {
        id,
        request: Some(keyless(&["a", "b", "c"])),
    });
    let requests = stream::iter(requests.collect::<Vec<_>>());
    let answers = server.log().await.produce_stream(requests).await.unwrap();
    let mut answers = answers.into_inner();
    let mut acknowledged = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.outcome.unwrap() {
            Outcome::Acknowledged(response) => acknowledged.push(response),
            Outcome::Error(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(acknowledged.len(), 8);
    assert_took_turns(&server, acknowledged).await;
}

#[tokio::test]
async fn a_numbered_batch_sent_again_is_acknowledged_and_not_written_again_also_after_a_restart() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let producer = log
        .init_producer(v1::InitProducerRequest {})
        .await
        .unwrap()
        .into_inner();
    let stamp = ProducerStamp {
        id: ProducerId(producer.producer_id),
        epoch: ProducerEpoch(i16::try_from(producer.producer_epoch).unwrap()),
        base_sequence: Some(Sequence(0)),
    };
    let request = raw(batch(
        &["a", "b"],
        BatchOptions {
            producer: Some(stamp),
            ..Default::default()
        },
    ));
    let first = log
        .produce(request.clone())
        .await
        .unwrap()
        .into_inner()
        .appended
        .remove(0);
    assert!(!first.duplicate);
    let again = log
        .produce(request.clone())
        .await
        .unwrap()
        .into_inner()
        .appended
        .remove(0);
    assert!(again.duplicate);
    assert_eq!(
        (again.base_offset, again.last_offset),
        (first.base_offset, first.last_offset)
    );
    let server = server.restart().await;
    let mut log = server.log().await;
    let later = log
        .produce(request)
        .await
        .unwrap()
        .into_inner()
        .appended
        .remove(0);
    assert!(later.duplicate);
    assert_eq!(later.base_offset, first.base_offset);
    assert_eq!(
        values(&read_all(&mut log, everything("flights")).await),
        ["a", "b"]
    );
    let other = log
        .init_producer(v1::InitProducerRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_ne!(other.producer_id, producer.producer_id, "an id is given once");
}

#[tokio::test]
async fn a_stream_answers_in_order_and_an_error_answers_its_own_request_alone() {
    let server = TestServer::start().await;
    server.topic("flights", 2).await;
    let mut log = server.log().await;
    let requests = (0..1000_u64).map(|id| {
        let topic = if id % 100 == 7 { "nowhere" } else { "flights" };
        let request = records(topic, i32::try_from(id % 2).unwrap(), &[&id.to_string()]);
        v1::ProduceStreamRequest {
            id: id + 5000,
            request: Some(request),
        }
    });
    let mut answers = log
        .produce_stream(stream::iter(requests.collect::<Vec<_>>()))
        .await
        .unwrap()
        .into_inner();
    for id in 0..1000 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.id, id + 5000);
        match answer.outcome.unwrap() {
            Outcome::Acknowledged(_) => assert_ne!(id % 100, 7),
            Outcome::Error(error) => {
                assert_eq!(id % 100, 7);
                assert_eq!(error.reason, "UNKNOWN_TOPIC");
                assert_eq!(error.metadata["topic"], "nowhere");
            }
        }
    }
    assert!(
        answers.message().await.unwrap().is_none(),
        "the stream ends with the client's side"
    );
    let read = read_all(&mut log, everything("flights")).await;
    for partition in 0..2 {
        let of_partition: Vec<_> = read
            .iter()
            .filter(|one| one.partition == partition)
            .cloned()
            .collect();
        let expected: Vec<_> = (0..1000)
            .filter(|id| id % 2 == partition && id % 100 != 7)
            .map(|id| id.to_string())
            .collect();
        assert_eq!(values(&of_partition), expected);
    }
}

#[tokio::test]
async fn without_acknowledgement_no_offset_is_told_and_a_stream_stays_silent() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let quiet = |topic| v1::ProduceRequest {
        acks: i32::from(v1::Acks::None),
        ..records(topic, 0, &["x"])
    };
    let appended = log.produce(quiet("flights")).await.unwrap().into_inner().appended;
    assert_eq!((appended[0].base_offset, appended[0].last_offset), (None, None));
    let requests = [quiet("flights"), quiet("nowhere"), records("flights", 0, &["y"])];
    let requests = (0..).zip(requests).map(|(id, request)| v1::ProduceStreamRequest {
        id,
        request: Some(request),
    });
    let mut answers = log
        .produce_stream(stream::iter(requests.collect::<Vec<_>>()))
        .await
        .unwrap()
        .into_inner();
    let mut answered = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        answered.push(answer.id);
    }
    assert_eq!(answered, [1, 2]);
    assert_eq!(
        values(&read_all(&mut log, everything("flights")).await),
        ["x", "x", "y"]
    );
}

#[tokio::test]
async fn a_retry_after_a_restart_is_known_though_every_batch_has_a_segment_of_its_own() {
    let server = TestServer::start().await;
    let config = [("durability", "written"), ("segment.bytes", "16384")];
    let request = v1::CreateTopicRequest {
        name: "small".to_owned(),
        partitions: Some(1),
        config: config
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        validate_only: false,
    };
    server.admin().await.create_topic(request).await.unwrap();
    let numbered = |sequence: i32| v1::ProduceRequest {
        producer: Some(v1::ProducerStamp {
            producer_id: 7,
            producer_epoch: 0,
            base_sequence: sequence,
        }),
        ..records("small", 0, &[&"x".repeat(12_000)])
    };
    let mut log = server.log().await;
    for sequence in 0..8 {
        log.produce(numbered(sequence)).await.unwrap();
    }
    let server = server.restart().await;
    let mut log = server.log().await;
    for sequence in 3..8 {
        let response = log.produce(numbered(sequence)).await.unwrap().into_inner();
        let appended = &response.appended[0];
        assert!(appended.duplicate, "sequence {sequence}");
        assert_eq!(appended.base_offset, Some(i64::from(sequence)));
    }
}
