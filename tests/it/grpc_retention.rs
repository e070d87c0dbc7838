//! Retention and holds over gRPC: the preview is what happens, and what is held is refused by name.

use siltstone::proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{TestServer, records};

async fn filled(server: &TestServer, topic: &str) {
    let settings = [("durability", "written"), ("segment.bytes", "16384")];
    let request = v1::CreateTopicRequest {
        name: topic.to_owned(),
        partitions: Some(1),
        config: settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        validate_only: false,
    };
    server.admin().await.create_topic(request).await.unwrap();
    let mut log = server.log().await;
    for _ in 0..60 {
        log.produce(records(topic, 0, &[&"x".repeat(1000)]))
            .await
            .unwrap();
    }
}

async fn preview(server: &TestServer, topic: &str) -> v1::RetentionPreview {
    let request = v1::PreviewRetentionRequest {
        topic: topic.to_owned(),
        from: None,
    };
    let answer = server.admin().await.preview_retention(request).await.unwrap();
    answer.into_inner().partitions.remove(0)
}

fn offsets(from: i64, to: i64) -> Option<v1::Hold> {
    Some(v1::Hold {
        name: "case-7".to_owned(),
        partition: Some(0),
        range: Some(v1::hold::Range::Offsets(v1::HeldOffsets { from, to })),
    })
}

/// Has everything of a topic but what is held deleted by the next look, and returns what the preview says of it.
async fn previewed(server: &TestServer, topic: &str) -> v1::RetentionPreview {
    filled(server, topic).await;
    let idle = preview(server, topic).await;
    assert_eq!(
        (idle.deletions.len(), idle.stay()),
        (0, v1::RetentionStay::NotDue)
    );

    let mut admin = server.admin().await;
    let hold = v1::AddHoldRequest {
        topic: topic.to_owned(),
        hold: offsets(20, 21),
    };
    admin.add_hold(hold).await.unwrap();
    let alter = v1::AlterTopicRequest {
        name: topic.to_owned(),
        set: [("retention.bytes".to_owned(), "0".to_owned())].into(),
        ..Default::default()
    };
    admin.alter_topic(alter).await.unwrap();
    preview(server, topic).await
}

async fn log_start(server: &TestServer, topic: &str) -> i64 {
    let request = v1::DescribeTopicRequest {
        name: topic.to_owned(),
        ..Default::default()
    };
    let answer = server.admin().await.describe_topic(request).await.unwrap();
    answer.into_inner().topic.unwrap().partitions[0].log_start_offset
}

#[tokio::test]
async fn a_preview_names_segments_reasons_and_the_hold_that_ends_it() {
    let server = TestServer::start().await;
    let mut topic = "flights".to_owned();
    let mut held = previewed(&server, &topic).await;
    while held.deletions.is_empty() {
        // A look came before the preview, and did it: there was something to delete.
        assert_eq!(log_start(&server, &topic).await, held.log_start_offset);
        assert!((1..=20).contains(&held.log_start_offset));
        topic.push('x');
        held = previewed(&server, &topic).await;
    }
    assert_eq!(held.stay(), v1::RetentionStay::Held);
    assert_eq!(held.hold.unwrap().name, "case-7");
    assert!(
        held.deletions
            .iter()
            .all(|gone| gone.reason() == v1::DeletionReason::Size)
    );
    assert_eq!(held.deletions.last().unwrap().end_offset, held.log_start_offset);
    assert!((1..=20).contains(&held.log_start_offset));
}

#[tokio::test]
async fn a_hold_is_listed_after_a_restart_refuses_deletion_and_is_removed_once() {
    let server = TestServer::start().await;
    filled(&server, "flights").await;
    let hold = v1::AddHoldRequest {
        topic: "flights".to_owned(),
        hold: offsets(3, 9),
    };
    server.admin().await.add_hold(hold).await.unwrap();
    let server = server.restart().await;
    let mut admin = server.admin().await;
    let list = v1::ListHoldsRequest {
        topic: "flights".to_owned(),
    };
    let holds = admin.list_holds(list).await.unwrap().into_inner().holds;
    assert_eq!(holds, offsets(3, 9).into_iter().collect::<Vec<_>>());

    let delete = v1::DeleteTopicRequest {
        name: "flights".to_owned(),
    };
    let status = admin.delete_topic(delete.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("case-7"), "{}", status.message());

    let remove = v1::RemoveHoldRequest {
        topic: "flights".to_owned(),
        name: "case-7".to_owned(),
    };
    admin.remove_hold(remove.clone()).await.unwrap();
    let status = admin.remove_hold(remove).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.get_details_error_info().unwrap().reason, "UNKNOWN_HOLD");
    admin.delete_topic(delete).await.unwrap();
}

#[tokio::test]
async fn a_hold_without_a_range_is_refused_with_what_would_be_right() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let hold = v1::Hold {
        name: "case-7".to_owned(),
        ..Default::default()
    };
    let request = v1::AddHoldRequest {
        topic: "flights".to_owned(),
        hold: Some(hold),
    };
    let status = server.admin().await.add_hold(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "hold has no range; set offsets or times");
}
