//! Where a read begins and ends, as the wire asks for it: every start, every end, a start for each partition.

use siltstone::proto::v1;
use siltstone::proto::v1::read_end::At as EndAt;
use siltstone::proto::v1::read_start::At as StartAt;

use crate::support::{TestServer, everything, read_all, record};

fn start(at: StartAt) -> Option<v1::ReadStart> {
    Some(v1::ReadStart { at: Some(at) })
}

/// A server with a topic of so many partitions, each with six records, at the times 10 to 60.
async fn filled(partitions: i32) -> TestServer {
    let server = TestServer::start().await;
    server.topic("flights", partitions).await;
    for partition in 0..partitions {
        write(&server, partition, &[10, 20, 30, 40, 50, 60]).await;
    }
    server
}

async fn write(server: &TestServer, partition: i32, times: &[i64]) {
    let records = times.iter().map(|time| v1::Record {
        timestamp_ms: Some(*time),
        ..record("key", "value")
    });
    let request = v1::ProduceRequest {
        topic: "flights".to_owned(),
        partition: Some(partition),
        records: records.collect(),
        ..Default::default()
    };
    server.log().await.produce(request).await.unwrap();
}

/// Partition and offset of every record of a read that ends, by partition.
async fn read(server: &TestServer, request: v1::ReadRequest) -> Vec<(i32, i64)> {
    let responses = read_all(&mut server.log().await, request).await;
    assert!(responses.last().unwrap().complete);
    let places = responses.iter().flat_map(|response| {
        let offsets = response.records.iter().map(|record| record.offset);
        offsets.map(|offset| (response.partition, offset))
    });
    let mut places: Vec<_> = places.collect();
    places.sort_unstable();
    places
}

#[tokio::test]
async fn every_start_and_every_end_is_taken_at_its_word() {
    let server = filled(1).await;
    let starts = [
        (None, 0),
        (start(StartAt::Earliest(true)), 0),
        (start(StartAt::Offset(2)), 2),
        (start(StartAt::TimestampMs(31)), 3),
        (start(StartAt::Latest(true)), 6),
    ];
    let ends = [
        (None, 6),
        (Some(EndAt::Now(true)), 6),
        (Some(EndAt::Offset(4)), 4),
        (Some(EndAt::TimestampMs(50)), 4),
        (Some(EndAt::TimestampMs(51)), 5),
    ];
    for (start, first) in starts {
        for (at, end) in ends {
            let request = v1::ReadRequest {
                start,
                end: at.map(|at| v1::ReadEnd { at: Some(at) }),
                ..everything("flights")
            };
            let expected: Vec<_> = (first..end).map(|offset| (0, offset)).collect();
            assert_eq!(read(&server, request).await, expected, "{start:?} to {at:?}");
        }
    }
}

#[tokio::test]
async fn each_partition_begins_where_it_is_told_to_and_the_others_where_the_read_does() {
    let server = filled(4).await;
    let own = |partition, start| v1::ReadPartition { partition, start };
    let named = [
        own(0, start(StartAt::Offset(4))),
        own(1, start(StartAt::Latest(true))),
        own(3, None),
    ];
    let request = v1::ReadRequest {
        partitions: named.to_vec(),
        start: start(StartAt::TimestampMs(60)),
        ..everything("flights")
    };
    assert_eq!(read(&server, request).await, [(0, 4), (0, 5), (3, 5)]);
}

#[tokio::test]
async fn a_follower_from_the_latest_sees_nothing_that_was_there_before_it() {
    let server = filled(1).await;
    let request = v1::ReadRequest {
        start: start(StartAt::Latest(true)),
        end: Some(v1::ReadEnd {
            at: Some(EndAt::Follow(true)),
        }),
        ..everything("flights")
    };
    let mut stream = server.log().await.read(request).await.unwrap().into_inner();
    write(&server, 0, &[70]).await;
    let first = loop {
        let response = stream.message().await.unwrap().unwrap();
        if let Some(record) = response.records.first() {
            break record.offset;
        }
    };
    assert_eq!(first, 6);
}
