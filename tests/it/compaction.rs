//! Compaction over gRPC and on the command line: commands, handles, explanations, and what a reader is told.

use siltstone::client::{Client, InternalTopics};
use siltstone::proto::v1;
use siltstone::types::PartitionId;
use tonic::Code;

use crate::process::server;
use crate::support::{TestServer, everything, read_all, record, values};

async fn compacted(server: &TestServer) {
    let request = v1::CreateTopicRequest {
        name: "planes".to_owned(),
        partitions: Some(1),
        config: [("cleanup.policy".to_owned(), "compact".to_owned())].into(),
        validate_only: false,
    };
    server.admin().await.create_topic(request).await.unwrap();
}

async fn write(server: &TestServer, records: &[(&str, &str)]) {
    let request = v1::ProduceRequest {
        topic: "planes".to_owned(),
        partition: Some(0),
        records: records.iter().map(|(key, value)| record(key, value)).collect(),
        ..Default::default()
    };
    server.log().await.produce(request).await.unwrap();
}

fn now() -> v1::CompactNowRequest {
    v1::CompactNowRequest {
        topic: "planes".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_command_waits_until_a_reader_sees_the_newest_records_alone_and_is_told_where_history_ends() {
    let server = TestServer::start().await;
    compacted(&server).await;
    write(&server, &[("a", "a1"), ("b", "b1"), ("a", "a2")]).await;
    let before = read_all(&mut server.log().await, everything("planes")).await;
    assert!(before.iter().all(|response| response.compacted_below == 0));

    let response = server
        .admin()
        .await
        .compact_now(now())
        .await
        .unwrap()
        .into_inner();
    assert!(response.complete);
    let one = &response.partitions[0];
    assert_eq!(one.state(), v1::CompactionState::Done);
    assert_eq!((one.values_kept, one.records_dropped), (2, 1));
    let after = read_all(&mut server.log().await, everything("planes")).await;
    assert_eq!(values(&after), ["b1", "a2"]);
    assert!(after.iter().all(|response| response.compacted_below == 3));

    let asked = v1::CompactNowRequest {
        handle: Some(response.handle),
        ..Default::default()
    };
    let again = server
        .admin()
        .await
        .compact_now(asked)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, response);
}

#[tokio::test]
async fn after_a_restart_tombstones_below_the_cleaner_point_count_as_gone() {
    let server = TestServer::start().await;
    compacted(&server).await;
    write(&server, &[("a", "a1"), ("a", "a2")]).await;
    server.admin().await.compact_now(now()).await.unwrap();
    let before = read_all(&mut server.log().await, everything("planes")).await;
    assert!(before.iter().all(|response| response.tombstones_gone_below == 0));
    let server = server.restart().await;
    let after = read_all(&mut server.log().await, everything("planes")).await;
    let told = |response: &v1::ReadResponse| (response.compacted_below, response.tombstones_gone_below);
    assert!(after.iter().all(|response| told(response) == (2, 2)));
    let request = v1::DescribeLogRequest {
        topic: "planes".to_owned(),
        partitions: vec![0],
        ..Default::default()
    };
    let described = server.admin().await.describe_log(request).await.unwrap();
    let log = &described.into_inner().partitions[0];
    assert_eq!((log.compacted_below, log.tombstones_gone_below), (2, 2));
}

#[tokio::test]
async fn a_log_is_described_segment_by_segment_and_explained() {
    let server = TestServer::start().await;
    compacted(&server).await;
    write(&server, &[("a", "a1"), ("a", "a2")]).await;
    server.admin().await.compact_now(now()).await.unwrap();
    write(&server, &[("a", "a3")]).await;
    let request = v1::DescribeLogRequest {
        topic: "planes".to_owned(),
        partitions: vec![0],
        from: None,
    };
    let described = server
        .admin()
        .await
        .describe_log(request)
        .await
        .unwrap()
        .into_inner();
    let log = &described.partitions[0];
    assert_eq!((log.cleaner_point, log.log_end_offset), (2, 3));
    assert_eq!((log.compacted_below, log.tombstones_gone_below), (2, 0));
    let states: Vec<_> = log.segments.iter().map(|segment| segment.state()).collect();
    assert_eq!(states, [v1::SegmentState::Clean, v1::SegmentState::Active]);

    let request = v1::ExplainCompactionRequest {
        topic: "planes".to_owned(),
        ..v1::ExplainCompactionRequest::default()
    };
    let explained = server.admin().await.explain_compaction(request).await.unwrap();
    let one = &explained.into_inner().partitions[0];
    assert_eq!(one.why_not_now, "what is dirty lies in the active segment");
    assert_eq!(one.active_start_offset, 2);
    let keys = one.keys.unwrap();
    assert_eq!((keys.live, keys.exact), (1, false));
    assert_eq!(one.last_pass.as_ref().unwrap().records_dropped, 1);
}

#[tokio::test]
async fn a_topic_that_is_not_compacted_and_an_unknown_handle_are_refused() {
    let server = TestServer::start().await;
    server.topic("planes", 1).await;
    let refused = server.admin().await.compact_now(now()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("--config cleanup.policy=compact"),
        "{refused}"
    );
    let unknown = v1::CompactNowRequest {
        handle: Some(7),
        ..Default::default()
    };
    let refused = server.admin().await.compact_now(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[test]
fn the_command_waits_exits_0_and_tells_sizes_before_and_after() {
    let (server, _dir) = server();
    server.done(&["topic", "create", "t", "--config", "cleanup.policy=compact"]);
    let lines = b"k\tv1\nk\tv2\n";
    let produced = server.pipe(&["produce", "t", "--key-separator", "\\t"], lines);
    assert_eq!(produced.0, Some(0), "{produced:?}");
    let told = server.done(&["topic", "compact", "t", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["state"], "done");
    assert_eq!(
        (told["values_kept"].as_i64(), told["records_dropped"].as_i64()),
        (Some(1), Some(1))
    );
    assert!(
        told["after_bytes"].as_i64() < told["before_bytes"].as_i64(),
        "{told}"
    );
    let drawn = server.done(&["topic", "explain", "t"]);
    assert!(drawn.starts_with("t-0\n  0 [="), "{drawn}");
    let explained = server.done(&["topic", "explain", "t", "--json"]);
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["cleaner_point"], 2);
}

#[tokio::test]
async fn what_is_known_of_thousands_of_partitions_comes_in_pages_and_the_client_follows_them() {
    const PARTITIONS: i32 = 9000;
    let server = TestServer::start().await;
    let create = v1::CreateTopicRequest {
        name: "wide".to_owned(),
        partitions: Some(PARTITIONS),
        config: [("cleanup.policy".to_owned(), "compact".to_owned())].into(),
        validate_only: false,
    };
    let mut admin = server.admin().await;
    admin.create_topic(create).await.unwrap();
    server.topic("xylo", 1).await;

    let explain = v1::ExplainCompactionRequest {
        topic: "wide".to_owned(),
        first_partition: 5000,
        ..v1::ExplainCompactionRequest::default()
    };
    let page = admin.explain_compaction(explain).await.unwrap().into_inner();
    assert_eq!(page.partitions[0].partition, 5000);
    assert_eq!((page.partitions.len(), page.next_partition), (1000, Some(6000)));
    let (mut seen, mut from) = (0, Some(v1::LogPlace::default()));
    while let Some(place) = from {
        let request = v1::DescribeLogRequest {
            topic: "wide".to_owned(),
            partitions: Vec::new(),
            from,
        };
        let page = admin.describe_log(request).await.unwrap().into_inner();
        assert_eq!((page.partitions[0].partition, place.partition), (seen, seen));
        seen += i32::try_from(page.partitions.len()).unwrap();
        from = page.next;
    }
    assert_eq!(seen, PARTITIONS);
    let listed = admin.list_topics(v1::ListTopicsRequest {
        first_name: "wide+".to_owned(),
        ..v1::ListTopicsRequest::default()
    });
    let names: Vec<_> = listed
        .await
        .unwrap()
        .into_inner()
        .topics
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    assert_eq!(names, ["xylo"]);

    let client = Client::connect(&server.server.grpc_addr().to_string())
        .await
        .unwrap();
    let all: Vec<_> = (0..PARTITIONS).map(PartitionId).collect();
    let explained = client.explain_compaction("wide").await.unwrap();
    assert_eq!(
        explained.into_iter().map(|one| one.partition).collect::<Vec<_>>(),
        all
    );
    let previews = client.preview_retention("wide").await.unwrap();
    assert_eq!(
        previews.into_iter().map(|one| one.partition).collect::<Vec<_>>(),
        all
    );
    let job = client.compact_now("wide").await.unwrap();
    assert_eq!(
        job.partitions
            .into_iter()
            .map(|one| one.partition)
            .collect::<Vec<_>>(),
        all
    );
    let topics = client.list_topics(InternalTopics::Excluded).await.unwrap();
    assert_eq!(topics.len(), 2);
}
