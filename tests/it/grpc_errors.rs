//! Requests that are wrong, hostile or too large: a clear status, and a server that lives.

use proptest::prelude::*;
use siltstone::proto::v1;
use siltstone::record::{BatchBuilder, BatchOptions, Codec};
use siltstone::types::Timestamp;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{TestServer, everything, records};

#[tokio::test]
async fn an_error_names_its_reason_and_what_it_is_about() {
    let server = TestServer::start().await;
    server.topic("flights", 2).await;
    let mut log = server.log().await;
    let status = log.produce(records("nowhere", 0, &["x"])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("UNKNOWN_TOPIC", "siltstone")
    );
    assert_eq!(info.metadata["topic"], "nowhere");
    let status = log.produce(records("flights", 2, &["x"])).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "UNKNOWN_PARTITION");
    assert_eq!(
        (
            info.metadata["partition"].as_str(),
            info.metadata["partition_count"].as_str()
        ),
        ("2", "2")
    );
}

#[tokio::test]
async fn a_batch_that_is_not_sound_is_refused_and_nothing_is_stored() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let request = v1::ProduceRequest {
        batch: Some(vec![0xff; 500].into()),
        records: Vec::new(),
        ..records("flights", 0, &[])
    };
    let status = log.produce(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "CORRUPT_BATCH");
    let responses = crate::support::read_all(&mut log, everything("flights")).await;
    assert!(responses.iter().all(|response| response.records.is_empty()));
}

/// A batch of one value of so many zeros, whole.
fn batch_of_zeros(codec: Codec, len: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    let value = vec![0; len];
    builder
        .append(Some(Timestamp(1)), None, Some(&value), &[])
        .unwrap();
    builder.build().unwrap().bytes().clone()
}

/// Why `batch` is refused as it is sent to `flights`.
async fn refused(server: &TestServer, batch: bytes::Bytes) -> (String, String) {
    let request = v1::ProduceRequest {
        batch: Some(batch),
        ..records("flights", 0, &[])
    };
    let status = server.log().await.produce(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let info = status.get_details_error_info().unwrap();
    (info.reason, status.message().to_owned())
}

#[tokio::test]
async fn batches_that_swell_beyond_the_limit_or_end_early_are_refused_and_nothing_is_stored() {
    let settings = [("storage.max_decompressed_bytes", "1MiB")];
    let server = TestServer::start_with(&settings).await;
    server.topic("flights", 1).await;
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = batch_of_zeros(codec, 2 << 20);
        assert!(
            bomb.len() < 1 << 20,
            "{codec:?}: max.message.bytes is not what refuses it"
        );
        let (reason, message) = refused(&server, bomb).await;
        assert_eq!(reason, "INVALID_RECORD", "{codec:?}: {message}");
        let limit = "the batch decompresses to more than 1048576 bytes, the server's limit";
        assert!(message.contains(limit), "{codec:?}: {message}");
        let whole = batch_of_zeros(codec, 1000);
        for len in [1, 11, 12, 16, 17, 60, 61, whole.len() - 1] {
            let (reason, message) = refused(&server, whole.slice(..len)).await;
            assert_eq!(reason, "INVALID_RECORD", "{codec:?}, {len} bytes: {message}");
            assert!(
                message.contains("no whole batch"),
                "{codec:?}, {len} bytes: {message}"
            );
        }
    }
    let responses = crate::support::read_all(&mut server.log().await, everything("flights")).await;
    assert_eq!(responses.last().unwrap().high_watermark, 0);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_and_the_connection_goes_on() {
    let server = TestServer::start_with(&[("grpc.max_request_bytes", "64KiB")]).await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let status = log
        .produce(records("flights", 0, &[&"x".repeat(100_000)]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    assert!(
        status
            .message()
            .contains("65536 bytes, the server's grpc.max_request_bytes"),
        "{status}"
    );
    log.produce(records("flights", 0, &["x"])).await.unwrap();
}

#[tokio::test]
async fn an_administrative_request_beyond_its_own_limit_is_told_that_limit() {
    let server = TestServer::start().await;
    let request = v1::CreateTopicRequest {
        name: "x".repeat(2 << 20),
        ..v1::CreateTopicRequest::default()
    };
    let status = server.admin().await.create_topic(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    let limit = "more than 1048576 bytes, the most of an administrative request";
    assert!(status.message().contains(limit), "{status}");
}

#[tokio::test]
async fn bytes_that_are_no_request_are_an_invalid_argument_of_a_call_and_of_a_stream() {
    let server = TestServer::start().await;
    // Field 1 is a text in the requests of calls, and a number in that of the stream.
    let (number, text) = (
        v1::ProduceStreamRequest { id: 1, request: None },
        records("flights", 0, &["x"]),
    );
    let refused = [
        refused_by(&server, "/siltstone.v1.LogService/Produce", number.clone()).await,
        refused_by(&server, "/siltstone.v1.AdminService/CreateTopic", number).await,
        refused_by(&server, "/siltstone.v1.LogService/ProduceStream", text).await,
    ];
    for status in refused {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "INVALID_REQUEST");
        assert!(status.message().contains("cannot be decoded"), "{status}");
    }
}

#[tokio::test]
async fn an_error_of_a_setting_or_a_policy_names_both_topic_and_setting() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut admin = server.admin().await;
    let alter = |name: &str, value: &str| v1::AlterTopicRequest {
        name: "flights".to_owned(),
        set: [(name.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    for (name, value) in [
        ("retention.ms", "x"),
        ("retention.m", "1"),
        ("max.message.bytes", "500000000"),
        ("compression.gzip.level", "0"),
        ("min.compaction.lag.ms", "9223372036854775807"),
    ] {
        let mut request = alter(name, value);
        if name.starts_with("min.") {
            request
                .set
                .insert("max.compaction.lag.ms".to_owned(), "1".to_owned());
        }
        let refused = admin.alter_topic(request).await.unwrap_err();
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(info.reason, "INVALID_CONFIG", "{refused}");
        assert_eq!(info.metadata["setting"], name, "{refused}");
        assert_eq!(info.metadata["topic"], "flights", "{refused}");
    }
    let created = v1::CreateTopicRequest {
        name: "new".to_owned(),
        config: [("durability".to_owned(), "no".to_owned())].into(),
        ..Default::default()
    };
    let refused = admin.create_topic(created).await.unwrap_err();
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(
        (info.metadata["setting"].as_str(), info.metadata["topic"].as_str()),
        ("durability", "new")
    );
    admin
        .alter_topic(alter("cleanup.policy", "compact"))
        .await
        .unwrap();
    let delete = v1::DeleteRecordsRequest {
        topic: "flights".to_owned(),
        partitions: vec![v1::DeleteBefore::default()],
    };
    let refused = server.log().await.delete_records(delete).await.unwrap_err();
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.metadata["topic"].as_str()),
        ("POLICY_VIOLATION", "flights")
    );
}

#[tokio::test]
async fn a_stamp_too_far_in_the_future_is_refused_with_the_records_that_have_it() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let mut request = records("flights", 0, &["now", "later"]);
    // The limit is an hour after the server's clock, and nobody's clock is past the year 2200.
    request.records[1].timestamp_ms = Some(7_258_118_400_000);
    let refused = log.produce(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "INVALID_TIMESTAMP");
    assert_eq!(
        ["topic", "partition", "record_indexes"].map(|name| info.metadata[name].as_str()),
        ["flights", "0", "1"]
    );
    let responses = crate::support::read_all(&mut log, everything("flights")).await;
    assert!(responses.iter().all(|response| response.records.is_empty()));
    let admit = v1::AlterTopicRequest {
        name: "flights".to_owned(),
        set: [("message.timestamp.after.max.ms".to_owned(), i64::MAX.to_string())].into(),
        ..Default::default()
    };
    server.admin().await.alter_topic(admit).await.unwrap();
    log.produce(request).await.unwrap();
}

/// Sends `message` to a method that takes another.
async fn refused_by<M>(server: &TestServer, path: &str, message: M) -> tonic::Status
where
    M: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<M, v1::ProduceResponse>::default();
    let call = client.unary(tonic::Request::new(message), path.parse().unwrap(), codec);
    call.await.unwrap_err()
}

#[tokio::test]
async fn millions_of_empty_records_are_refused_on_the_wire_and_on_a_stream_too() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let request = v1::ProduceRequest {
        records: vec![v1::Record::default(); 1 << 20],
        ..records("flights", 0, &[])
    };
    let refused = log.produce(request.clone()).await.unwrap_err();
    let streamed = v1::ProduceStreamRequest {
        id: 1,
        request: Some(request),
    };
    let mut answers = log
        .produce_stream(tokio_stream::iter([streamed]))
        .await
        .unwrap()
        .into_inner();
    for status in [refused, answers.message().await.unwrap_err()] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
        assert!(status.message().contains("262144 parts"), "{status:?}");
    }
    log.produce(records("flights", 0, &["x"])).await.unwrap();
}

#[tokio::test]
async fn a_record_beyond_the_topics_limit_says_which_limit() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let status = server
        .log()
        .await
        .produce(records("flights", 0, &[&"x".repeat(2 << 20)]))
        .await
        .unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "TOO_LARGE");
    assert_eq!(info.metadata["limit_name"], "max.message.bytes");
}

#[tokio::test]
async fn fetches_that_ask_for_the_impossible_are_told_what_is_possible() {
    let server = TestServer::start().await;
    let mut log = server.log().await;
    let target = v1::FetchPartition {
        topic: "flights".to_owned(),
        ..Default::default()
    };
    for (request, hint) in [
        (v1::FetchRequest::default(), "name 1 to 10000"),
        (
            v1::FetchRequest {
                partitions: vec![target.clone(); 10_001],
                ..Default::default()
            },
            "name 1 to 10000",
        ),
        (
            v1::FetchRequest {
                partitions: vec![target.clone()],
                max_wait_ms: 60_001,
                ..Default::default()
            },
            "at most 60000",
        ),
        (
            v1::FetchRequest {
                partitions: vec![v1::FetchPartition {
                    offset: -1,
                    ..target.clone()
                }],
                ..Default::default()
            },
            "counted from 0",
        ),
        (
            v1::FetchRequest {
                partitions: vec![v1::FetchPartition {
                    partition: -1,
                    ..target
                }],
                ..Default::default()
            },
            "numbered from 0",
        ),
    ] {
        let status = log.fetch(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains(hint),
            "{:?} lacks {hint:?}",
            status.message()
        );
    }
}

fn any_request() -> impl Strategy<Value = v1::ProduceRequest> {
    let record = (
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        prop::option::of(any::<i64>()),
    )
        .prop_map(|(value, timestamp_ms)| v1::Record {
            value: value.map(Into::into),
            timestamp_ms,
            ..Default::default()
        });
    let stamp = (any::<i64>(), any::<i32>(), any::<i32>()).prop_map(
        |(producer_id, producer_epoch, base_sequence)| v1::ProducerStamp {
            producer_id,
            producer_epoch,
            base_sequence,
        },
    );
    (
        prop_oneof![Just("flights".to_owned()), ".{0,8}"],
        prop::option::of(prop_oneof![Just(0), any::<i32>()]),
        prop_oneof![0..3, any::<i32>()],
        prop::collection::vec(record, 0..5),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
        prop::option::of(stamp),
        prop_oneof![0..5, any::<i32>()],
    )
        .prop_map(
            |(topic, partition, acks, records, batch, producer, compression)| v1::ProduceRequest {
                topic,
                partition,
                acks,
                records,
                batch: batch.map(Into::into),
                producer,
                compression,
            },
        )
}

#[test]
fn no_request_ends_the_server_and_each_is_answered() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    runtime.block_on(server.topic("flights", 1));
    let mut log = runtime.block_on(server.log());
    proptest!(ProptestConfig::with_cases(300), |(request in any_request())| {
        if let Err(status) = runtime.block_on(log.clone().produce(request)) {
            prop_assert!(
                !matches!(status.code(), Code::Unknown | Code::Internal | Code::Unavailable | Code::Cancelled),
                "{status:?}"
            );
            prop_assert!(status.get_details_error_info().is_some());
        }
    });
    runtime
        .block_on(log.produce(records("flights", 0, &["x"])))
        .unwrap();
    runtime.block_on(server.server.stop()).unwrap();
}
