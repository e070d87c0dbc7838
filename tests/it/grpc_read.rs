//! Reading over gRPC: streams with bounds and tokens, fetches that wait, offsets.

use prost::Message;
use siltstone::proto::v1;
use tonic_types::StatusExt;

use crate::http::metric;
use crate::support::{TestServer, everything, read_all, record, records, values};

const MAX_RESPONSE_BYTES: usize = 4 << 20;

async fn timed(server: &TestServer, timestamps: &[i64]) {
    let records = timestamps.iter().map(|timestamp| v1::Record {
        timestamp_ms: Some(*timestamp),
        ..record("key", &timestamp.to_string())
    });
    let request = v1::ProduceRequest {
        topic: "flights".to_owned(),
        partition: Some(0),
        records: records.collect(),
        ..Default::default()
    };
    server.log().await.produce(request).await.unwrap();
}

#[tokio::test]
async fn a_token_goes_on_exactly_after_its_response_also_in_the_middle_of_a_batch() {
    let server = TestServer::start().await;
    server.topic("flights", 2).await;
    let mut log = server.log().await;
    let large = "x".repeat(1000);
    for partition in 0..2 {
        let sent: Vec<_> = (0..50).map(|n| format!("{partition} {n} {large}")).collect();
        let sent: Vec<_> = sent.iter().map(String::as_str).collect();
        log.produce(records("flights", partition, &sent)).await.unwrap();
    }
    let mut expected = values(&read_all(&mut log, everything("flights")).await);
    expected.sort();
    assert_eq!(expected.len(), 100);
    let (mut seen, mut resume) = (Vec::new(), None);
    loop {
        let request = v1::ReadRequest {
            resume: resume.take(),
            max_response_bytes: 5000,
            ..everything("flights")
        };
        let mut responses = log.read(request).await.unwrap().into_inner();
        // One response of each read, then another read from its token.
        let response = responses.message().await.unwrap().unwrap();
        assert!(response.encoded_len() <= 5000, "{}", response.encoded_len());
        seen.extend(values(std::slice::from_ref(&response)));
        if response.complete {
            assert!(
                responses.message().await.unwrap().is_none(),
                "complete is said last"
            );
            break;
        }
        resume = response.resume;
        assert!(resume.is_some());
    }
    seen.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_read_bounded_by_time_returns_exactly_the_records_of_the_half_open_range() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    timed(&server, &[50, 10, 30]).await;
    timed(&server, &[20, 40, 10, 60]).await;
    let request = v1::ReadRequest {
        start: Some(v1::ReadStart {
            at: Some(v1::read_start::At::TimestampMs(20)),
        }),
        end: Some(v1::ReadEnd {
            at: Some(v1::read_end::At::TimestampMs(50)),
        }),
        ..everything("flights")
    };
    let responses = read_all(&mut server.log().await, request).await;
    assert_eq!(values(&responses), ["30", "20", "40"]);
    let complete: Vec<_> = responses.iter().map(|response| response.complete).collect();
    assert_eq!(complete.iter().filter(|complete| **complete).count(), 1);
    assert_eq!(complete.last(), Some(&true));
}

#[tokio::test]
async fn no_response_exceeds_its_bound_however_well_the_batches_are_compressed() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let value = "0".repeat(10_000);
    let request = v1::ProduceRequest {
        compression: i32::from(v1::Compression::Zstd),
        ..records("flights", 0, &vec![value.as_str(); 1000])
    };
    log.produce(request).await.unwrap();
    let request = v1::ReadRequest {
        max_response_bytes: u32::MAX,
        ..everything("flights")
    };
    let responses = read_all(&mut log, request).await;
    assert_eq!(values(&responses).len(), 1000);
    assert!(responses.len() >= 3, "10 MB of records");
    assert!(
        responses
            .iter()
            .all(|response| response.encoded_len() <= MAX_RESPONSE_BYTES)
    );
    let (mut offset, mut fetches) = (0, 0);
    while offset < 1000 {
        let fetch = fetch(&[("flights", offset)]);
        let response = log.fetch(fetch).await.unwrap().into_inner();
        assert!(response.encoded_len() <= MAX_RESPONSE_BYTES);
        let fetched = &response.partitions[0];
        assert_eq!(fetched.records.first().map(|record| record.offset), Some(offset));
        assert!(fetched.next_offset > offset);
        offset = fetched.next_offset;
        fetches += 1;
    }
    assert!(fetches >= 3);
}

fn fetch(targets: &[(&str, i64)]) -> v1::FetchRequest {
    let partitions = targets
        .iter()
        .map(|(topic, offset)| v1::FetchPartition {
            topic: (*topic).to_owned(),
            partition: 0,
            offset: *offset,
            max_bytes: 0,
        })
        .collect();
    v1::FetchRequest {
        partitions,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_waiting_fetch_is_answered_when_a_record_comes_and_errors_stay_with_their_partition() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let mut waiting = server.log().await;
    let request = v1::FetchRequest {
        max_wait_ms: 60_000,
        min_bytes: 1,
        ..fetch(&[("flights", 0)])
    };
    let fetched = tokio::spawn(async move { waiting.fetch(request).await });
    log.produce(records("flights", 0, &["x"])).await.unwrap();
    let fetched = fetched.await.unwrap().unwrap().into_inner();
    assert_eq!(fetched.partitions[0].records.len(), 1);
    let request = fetch(&[("flights", 0), ("nowhere", 0), ("flights", 99)]);
    let partitions = log.fetch(request).await.unwrap().into_inner().partitions;
    assert_eq!(partitions[0].records.len(), 1);
    let reasons: Vec<_> = partitions
        .iter()
        .map(|partition| partition.error.as_ref().map(|error| error.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [None, Some("UNKNOWN_TOPIC"), Some("OFFSET_OUT_OF_RANGE")]
    );
    assert_eq!(
        partitions[2].error.as_ref().unwrap().metadata["high_watermark"],
        "1"
    );
}

#[tokio::test]
async fn a_follower_sees_what_is_written_after_it_came() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    log.produce(records("flights", 0, &["before"])).await.unwrap();
    let request = v1::ReadRequest {
        start: Some(v1::ReadStart {
            at: Some(v1::read_start::At::Earliest(true)),
        }),
        end: Some(v1::ReadEnd {
            at: Some(v1::read_end::At::Follow(true)),
        }),
        ..everything("flights")
    };
    let mut responses = server.log().await.read(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.is_empty() {
        seen.extend(values(&[responses.message().await.unwrap().unwrap()]));
    }
    log.produce(records("flights", 0, &["after"])).await.unwrap();
    while seen.len() < 2 {
        seen.extend(values(&[responses.message().await.unwrap().unwrap()]));
    }
    assert_eq!(seen, ["before", "after"]);
}

#[tokio::test]
async fn offsets_are_found_by_time_and_by_boundary_and_deleted_records_are_gone() {
    use v1::list_offsets_request::At;
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    timed(&server, &[50, 10, 70, 20]).await;
    let boundary = |boundary| At::Boundary(i32::from(boundary));
    for (at, offset, timestamp_ms) in [
        (boundary(v1::Boundary::Earliest), Some(0), None),
        (boundary(v1::Boundary::Latest), Some(4), None),
        (boundary(v1::Boundary::MaxTimestamp), Some(2), Some(70)),
        (At::TimestampMs(15), Some(0), Some(50)),
        (At::TimestampMs(60), Some(2), Some(70)),
        (At::TimestampMs(71), None, None),
    ] {
        let request = v1::ListOffsetsRequest {
            topic: "flights".to_owned(),
            at: Some(at),
            ..Default::default()
        };
        let found = log.list_offsets(request).await.unwrap().into_inner().offsets;
        assert_eq!(
            (found[0].offset, found[0].timestamp_ms),
            (offset, timestamp_ms),
            "{at:?}"
        );
    }
    let request = v1::DeleteRecordsRequest {
        topic: "flights".to_owned(),
        partitions: vec![v1::DeleteBefore {
            partition: 0,
            before_offset: Some(3),
        }],
    };
    let deleted = log.delete_records(request).await.unwrap().into_inner();
    assert_eq!(deleted.partitions[0].log_start_offset, 3);
    assert_eq!(values(&read_all(&mut log, everything("flights")).await), ["20"]);
}

/// What the answers to reads hold in the server, in bytes.
async fn held(server: &TestServer) -> f64 {
    metric(server, "siltstone_door_sending_bytes", "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_share_one_budget_and_stop_nobody() {
    const STREAMS: usize = 48;
    const BUDGET: usize = 8 << 20;
    let server = TestServer::start_with(&[("grpc.max_buffered_bytes", "8MiB")]).await;
    let topic = v1::CreateTopicRequest {
        name: "flights".to_owned(),
        partitions: Some(1),
        config: [("compression.type".to_owned(), "zstd".to_owned())].into(),
        ..Default::default()
    };
    server.admin().await.create_topic(topic).await.unwrap();
    let mut log = server.log().await;
    let value = "x".repeat(16 << 10);
    for _ in 0..4 {
        log.produce(records("flights", 0, &[value.as_str(); 32]))
            .await
            .unwrap();
    }
    let endpoint = format!("http://{}", server.server.grpc_addr());
    let channel = tonic::transport::Channel::from_shared(endpoint)
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(64 << 20)
        .connect()
        .await
        .unwrap();
    let idle = v1::log_service_client::LogServiceClient::new(channel);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let stream = idle.clone().read(everything("flights")).await.unwrap();
        streams.push(stream.into_inner());
    }
    // Each small answer is of 64 KiB, in a buffer that may have doubled, and what stands beside its records.
    let bound = (BUDGET + STREAMS * 2 * ((64 << 10) + 1024)) as f64;
    // At most 4 answers of 1 MiB fit, in their buffers; all others are small.
    while metric(&server, "siltstone_door_reduced_answers_total", "").await < (STREAMS - 4) as f64 {
        assert!(held(&server).await <= bound);
    }
    let now = held(&server).await;
    assert!(now <= bound && now > (BUDGET / 2) as f64, "{now} bytes are held");

    let responses = read_all(&mut log, everything("flights")).await;
    assert_eq!(values(&responses).len(), 128, "who reads is served");
    assert!(responses.len() >= 32, "in small answers: {}", responses.len());

    let fetched = log.fetch(fetch(&[("flights", 0)])).await.unwrap().into_inner();
    let first = &fetched.partitions[0];
    assert_eq!(
        (first.records.len(), first.next_offset),
        (3, 3),
        "as little as one read"
    );

    drop((streams, idle));
    while held(&server).await > 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(read_all(&mut log, everything("flights")).await.len() < 8);
}

#[tokio::test]
async fn a_read_of_many_partitions_costs_what_their_records_do_for_who_keeps_what_it_was_told() {
    const PARTITIONS: i32 = 400;
    let server = TestServer::start().await;
    server.topic("flights", PARTITIONS).await;
    let mut log = server.log().await;
    for partition in 0..PARTITIONS {
        let value = format!("{partition}");
        log.produce(records("flights", partition, &[&value]))
            .await
            .unwrap();
    }
    let request = || v1::ReadRequest {
        changed_positions: true,
        ..everything("flights")
    };
    let responses = read_all(&mut log, request()).await;
    let len: usize = responses.iter().map(Message::encoded_len).sum();
    assert_eq!(values(&responses).len(), 400);
    assert!(
        len < 400 * 150,
        "{len} bytes; whole tokens alone are 400 x 400 x 4"
    );
    let named = |response: &v1::ReadResponse| response.resume.as_ref().unwrap().positions.len();
    assert_eq!(named(&responses[0]), 400);
    assert!(responses[1..].iter().all(|response| named(response) == 1));

    // After any response, what was told so far is a token like any other.
    let mut kept = std::collections::BTreeMap::new();
    for response in &responses[..250] {
        let positions = &response.resume.as_ref().unwrap().positions;
        kept.extend(
            positions
                .iter()
                .map(|position| (position.partition, position.offset)),
        );
    }
    let positions = kept
        .into_iter()
        .map(|(partition, offset)| v1::PartitionOffset { partition, offset });
    let resumed = v1::ReadRequest {
        resume: Some(v1::ResumeToken {
            positions: positions.collect(),
        }),
        ..request()
    };
    let rest = values(&read_all(&mut log, resumed).await);
    let mut all = [values(&responses[..250]), rest].concat();
    all.sort_by_key(|value| value.parse::<i32>().unwrap());
    assert_eq!(
        all,
        (0..PARTITIONS)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
    let whole = read_all(&mut log, everything("flights")).await;
    assert!(
        whole.iter().all(|response| named(response) == 400),
        "unless asked otherwise"
    );
}

/// Flips a bit of the last record of `batch`, counted from 0, in the partition's first segment; all batches are of one size.
fn damage(server: &TestServer, topic: &str, batch: usize, of: usize) {
    let log = format!("data/{topic}-0/00000000000000000000.log");
    let path = server.dir.path().join(log);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() / of * (batch + 1);
    bytes[end - 1] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn sound_records_before_damage_are_read_and_the_damage_tells_where_to_go_on() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    for value in ["0", "1", "2", "3", "4"] {
        log.produce(records("flights", 0, &[value])).await.unwrap();
    }
    damage(&server, "flights", 3, 5);
    let mut stream = log.read(everything("flights")).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(values(std::slice::from_ref(&first)), ["0", "1", "2"]);
    let told = |metadata: &std::collections::HashMap<String, String>| {
        ["partition", "offset", "next_offset"].map(|name| metadata[name].clone())
    };
    let damaged = stream.message().await.unwrap_err();
    assert_eq!(damaged.code(), tonic::Code::DataLoss);
    let info = damaged.get_details_error_info().unwrap();
    assert_eq!(info.reason, "DAMAGED");
    assert_eq!(told(&info.metadata), ["0", "3", "4"]);
    assert!(damaged.message().contains("go on at offset 4"), "{damaged}");

    let resumed = v1::ReadRequest {
        resume: first.resume,
        ..everything("flights")
    };
    let mut stream = log.read(resumed).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), tonic::Code::DataLoss);
    let fetched = log.fetch(fetch(&[("flights", 0)])).await.unwrap().into_inner();
    let first = &fetched.partitions[0];
    assert_eq!(
        (first.records.len(), first.next_offset),
        (3, 3),
        "{:?}",
        first.error
    );
    let fetched = log.fetch(fetch(&[("flights", 3)])).await.unwrap().into_inner();
    let error = fetched.partitions[0].error.as_ref().unwrap();
    assert_eq!(told(&error.metadata), ["0", "3", "4"]);
    let fetched = log.fetch(fetch(&[("flights", 4)])).await.unwrap().into_inner();
    assert_eq!(fetched.partitions[0].records[0].offset, 4);
}

#[tokio::test]
async fn a_fetch_of_partitions_that_all_fail_keeps_to_its_bound_and_tells_each_its_reason() {
    let server = TestServer::start().await;
    let topic = "x".repeat(249);
    let request = fetch(&vec![(topic.as_str(), 0); 10_000]);
    let response = server.log().await.fetch(request).await.unwrap().into_inner();
    assert!(
        response.encoded_len() <= MAX_RESPONSE_BYTES,
        "{} bytes",
        response.encoded_len()
    );
    assert_eq!(response.partitions.len(), 10_000);
    let error = |at: usize| response.partitions[at].error.as_ref().unwrap();
    for at in 0..10_000 {
        assert_eq!(
            (error(at).reason.as_str(), error(at).code),
            ("UNKNOWN_TOPIC", i32::from(tonic::Code::NotFound))
        );
    }
    assert!(
        error(0).message.contains("create it first"),
        "the first ones at length: {:?}",
        error(0)
    );
    let beyond = fetch(&vec![("t", 0); 10_001]);
    let refused = server.log().await.fetch(beyond).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("10001 partitions; name 1 to 10000, the rest in further fetches"),
        "{refused}"
    );
}

#[tokio::test]
async fn changed_positions_together_are_the_whole_token_also_where_nothing_was_found() {
    let server = TestServer::start().await;
    let topic = v1::CreateTopicRequest {
        name: "flights".to_owned(),
        partitions: Some(3),
        config: [("segment.bytes".to_owned(), "16384".to_owned())].into(),
        validate_only: false,
    };
    server.admin().await.create_topic(topic).await.unwrap();
    let mut log = server.log().await;
    let value = "x".repeat(7000);
    // Two records a segment: of those with a later time than is asked for, each partition passes over all on its own.
    for (partition, timestamp) in (0..3).flat_map(|partition| (1..=10).map(move |time| (partition, time))) {
        let mut request = records("flights", partition, &[&value]);
        request.records[0].timestamp_ms = Some(timestamp);
        log.produce(request).await.unwrap();
    }
    let bounded = |changed_positions| v1::ReadRequest {
        changed_positions,
        end: Some(v1::ReadEnd {
            at: Some(v1::read_end::At::TimestampMs(5)),
        }),
        ..everything("flights")
    };
    let positions = |response: &v1::ReadResponse| {
        let positions = response.resume.clone().unwrap().positions;
        positions.into_iter().map(|at| (at.partition, at.offset))
    };
    let whole = read_all(&mut log, bounded(false)).await;
    let mut kept = std::collections::BTreeMap::new();
    for response in read_all(&mut log, bounded(true)).await {
        kept.extend(positions(&response));
    }
    assert_eq!(kept, positions(whole.last().unwrap()).collect());
}
