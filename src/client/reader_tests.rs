//! Tests of the reader against a scripted server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_stream::{Stream, StreamExt};

use super::testing::Scripted;
use super::{Client, CompactedBelow, Connection, Error, ReadEnd, ReadSpec, ReadStart, Reader};
use crate::proto::v1;
use crate::record::{BatchBuilder, BatchOptions, Codec};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp};

/// A batch of records at `base`, whose values are their offsets and whose times are ten times as much.
fn batch(base: i64, count: i64) -> Bytes {
    batch_in(Codec::None, base, count)
}

fn batch_in(codec: Codec, base: i64, count: i64) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    for offset in base..base + count {
        let value = offset.to_string();
        builder
            .append(Some(Timestamp(offset * 10)), None, Some(value.as_bytes()), &[])
            .expect("small");
    }
    let built = builder.build().expect("it has records");
    built.stamped(Offset(base), LeaderEpoch(0)).bytes().clone()
}

fn response(batches: Bytes, next: i64) -> v1::ReadResponse {
    v1::ReadResponse {
        partition: 0,
        batches,
        resume: Some(v1::ResumeToken {
            positions: vec![v1::PartitionOffset {
                partition: 0,
                offset: next,
            }],
        }),
        high_watermark: 100,
        ..v1::ReadResponse::default()
    }
}

fn last(mut response: v1::ReadResponse) -> v1::ReadResponse {
    response.complete = true;
    response
}

async fn reader(server: &Scripted, spec: ReadSpec) -> Reader {
    let client = Client::connect(&server.address.to_string())
        .await
        .expect("the server listens");
    client.read("t", spec).await.expect("the topic is there")
}

/// Reads until the end, an error, or `count` records.
async fn offsets(reader: &mut Reader, count: usize) -> Result<Vec<i64>, Error> {
    let mut offsets = Vec::new();
    while offsets.len() < count
        && let Some(chunk) = reader.next().await?
    {
        for record in reader.records(&chunk) {
            offsets.push(record?.offset.0);
        }
    }
    Ok(offsets)
}

#[tokio::test]
async fn a_read_gives_exactly_the_offsets_asked_for_though_batches_reach_beyond() {
    let server = Scripted::start(1, []).await;
    server.state.lock().reads.push_back(vec![
        response(batch(0, 10), 10),
        response(batch(10, 10), 15),
        last(response(Bytes::new(), 15)),
    ]);
    let spec = ReadSpec {
        start: ReadStart::Offset(Offset(7)),
        end: ReadEnd::Offset(Offset(15)),
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    assert_eq!(
        offsets(&mut reader, usize::MAX).await.expect("it ends"),
        (7..15).collect::<Vec<_>>()
    );
    assert_eq!(reader.resume_token().to_string(), "0:15");
}

#[tokio::test]
async fn a_read_by_time_gives_exactly_the_half_open_range() {
    let server = Scripted::start(1, []).await;
    server
        .state
        .lock()
        .reads
        .push_back(vec![last(response(batch(0, 10), 10))]);
    let spec = ReadSpec {
        start: ReadStart::Time(Timestamp(30)),
        end: ReadEnd::Time(Timestamp(60)),
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    assert_eq!(
        offsets(&mut reader, usize::MAX).await.expect("it ends"),
        [3, 4, 5]
    );
}

#[tokio::test]
async fn records_below_the_log_start_are_gone_though_their_batch_is_there() {
    let server = Scripted::start(1, []).await;
    let mut first = last(response(batch(0, 10), 10));
    first.log_start_offset = 4;
    server.state.lock().reads.push_back(vec![first]);
    let mut reader = reader(&server, ReadSpec::default()).await;
    assert_eq!(
        offsets(&mut reader, usize::MAX).await.expect("it ends"),
        (4..10).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_follower_that_lost_its_connection_goes_on_without_gap_or_repeat() {
    let server = Scripted::start(1, []).await;
    server.state.lock().reads.extend([
        vec![response(batch(0, 5), 3)],
        vec![],
        vec![response(batch(0, 5), 5), response(batch(5, 5), 10)],
    ]);
    let mut reader = reader(
        &server,
        ReadSpec {
            end: ReadEnd::Follow,
            ..ReadSpec::default()
        },
    )
    .await;
    assert_eq!(
        offsets(&mut reader, 10).await.expect("it comes back"),
        (0..10).collect::<Vec<_>>()
    );
    let requests = &server.state.lock().read_requests;
    let resumed = |request: &v1::ReadRequest| {
        request
            .resume
            .as_ref()
            .map(|token| token.positions.iter().map(|at| at.offset).collect::<Vec<_>>())
    };
    assert_eq!(
        requests.iter().map(resumed).collect::<Vec<_>>(),
        [None, Some(vec![3]), Some(vec![3])]
    );
}

#[tokio::test]
async fn a_token_that_goes_back_repeats_no_record() {
    let server = Scripted::start(1, []).await;
    let reads = vec![
        response(batch(0, 5), 5),
        response(Bytes::new(), 2),
        last(response(batch(0, 8), 8)),
    ];
    server.state.lock().reads.push_back(reads);
    let mut reader = reader(&server, ReadSpec::default()).await;
    let read = offsets(&mut reader, usize::MAX).await.expect("it ends");
    assert_eq!(read, (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_tells_once_that_it_lost_its_connection_and_once_that_it_is_back() {
    let server = Scripted::start(1, []).await;
    server
        .state
        .lock()
        .reads
        .extend([vec![response(batch(0, 5), 5)], vec![response(batch(5, 5), 10)]]);
    let mut reader = reader(
        &server,
        ReadSpec {
            end: ReadEnd::Follow,
            ..ReadSpec::default()
        },
    )
    .await;
    let turns = Arc::new(Mutex::new(Vec::new()));
    let told = turns.clone();
    reader.watch(move |turn| {
        told.lock().push(match turn {
            Connection::Lost(error) => error.to_string(),
            Connection::Restored => "restored".to_owned(),
        });
    });
    offsets(&mut reader, 10).await.expect("it comes back");
    let lost = format!("connection to {} is lost: scripted loss", server.address);
    assert_eq!(*turns.lock(), [lost, "restored".to_owned()]);
}

#[tokio::test]
async fn a_follower_that_is_to_waste_no_time_gives_up_at_once() {
    let server = Scripted::start(1, []).await;
    server
        .state
        .lock()
        .reads
        .extend([vec![response(batch(0, 5), 5)], vec![response(batch(5, 5), 10)]]);
    let mut reader = reader(
        &server,
        ReadSpec {
            end: ReadEnd::Follow,
            reconnect_for: Duration::ZERO,
            ..ReadSpec::default()
        },
    )
    .await;
    let error = offsets(&mut reader, 10).await.expect_err("it gave up");
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
    assert_eq!(server.state.lock().read_requests.len(), 1);
}

#[tokio::test]
async fn a_follower_from_the_latest_keeps_its_beginning_over_a_loss() {
    let server = Scripted::start(2, []).await;
    server.state.lock().logs[0] = vec![Bytes::new(); 5];
    server
        .state
        .lock()
        .reads
        .extend([vec![], vec![response(batch(5, 1), 6)]]);
    let spec = ReadSpec {
        start: ReadStart::Latest,
        end: ReadEnd::Follow,
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    assert_eq!(offsets(&mut reader, 1).await.expect("it comes back"), [5]);
    let requests = &server.state.lock().read_requests;
    for request in requests {
        let positions = &request.resume.as_ref().expect("pinned").positions;
        assert_eq!(
            positions
                .iter()
                .map(|at| (at.partition, at.offset))
                .collect::<Vec<_>>(),
            [(0, 5), (1, 0)]
        );
    }
}

#[tokio::test]
async fn a_bounded_read_that_is_not_to_come_back_says_that_it_lost_its_connection() {
    let server = Scripted::start(1, []).await;
    server
        .state
        .lock()
        .reads
        .push_back(vec![response(batch(0, 5), 5)]);
    let spec = ReadSpec {
        reconnect_for: Duration::ZERO,
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    let error = offsets(&mut reader, usize::MAX).await.expect_err("it broke");
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
    assert_eq!(reader.resume_token().0[&PartitionId(0)], Offset(5));
    assert!(reader.next().await.expect("it is over").is_none());
}

#[tokio::test]
async fn a_bounded_read_that_lost_its_connection_goes_on_to_its_end_without_gap_or_repeat() {
    let server = Scripted::start(1, []).await;
    server.state.lock().reads.extend([
        vec![response(batch(0, 5), 3)],
        vec![response(batch(0, 5), 5), last(response(batch(5, 5), 8))],
    ]);
    let spec = ReadSpec {
        end: ReadEnd::Offset(Offset(8)),
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    let read = offsets(&mut reader, usize::MAX).await.expect("it comes back");
    assert_eq!(read, (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn partitions_begin_where_each_is_told_to() {
    let server = Scripted::start(3, []).await;
    server.state.lock().logs[2] = vec![Bytes::new(); 5];
    let mut second = response(batch(0, 10), 10);
    second.partition = 1;
    second.resume.as_mut().expect("it has one").positions[0].partition = 1;
    let reads = vec![response(batch(0, 10), 10), last(second)];
    server.state.lock().reads.push_back(reads);
    let spec = ReadSpec {
        partitions: vec![PartitionId(0), PartitionId(2)],
        start: ReadStart::Offset(Offset(6)),
        starts: [
            (PartitionId(1), ReadStart::Time(Timestamp(80))),
            (PartitionId(2), ReadStart::Latest),
        ]
        .into(),
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    let read = offsets(&mut reader, usize::MAX).await.expect("it ends");
    assert_eq!(read, [6, 7, 8, 9, 8, 9], "by offset, then by time");
    let request = server.state.lock().read_requests.remove(0);
    let asked: Vec<_> = request
        .partitions
        .iter()
        .map(|partition| partition.partition)
        .collect();
    assert_eq!(asked, [1, 2, 0]);
    let positions = request.resume.expect("the latest is pinned").positions;
    assert_eq!(positions.len(), 1);
    assert_eq!((positions[0].partition, positions[0].offset), (2, 5));
}

#[tokio::test]
async fn records_one_by_one_are_those_of_the_chunks_and_the_token_covers_each() {
    for codec in Codec::ALL {
        let server = Scripted::start(1, []).await;
        // The second is large enough to be decompressed on another thread.
        let reads = vec![
            response(batch_in(codec, 0, 10), 10),
            response(batch_in(codec, 10, 20_000), 20_010),
            last(response(Bytes::new(), 20_010)),
        ];
        server.state.lock().reads.push_back(reads);
        let spec = ReadSpec {
            start: ReadStart::Offset(Offset(7)),
            ..ReadSpec::default()
        };
        let mut records = reader(&server, spec).await.into_records();
        for expected in 7..20_010 {
            let read = records.next().await.expect("a record").expect("sound");
            assert_eq!(read.record.offset, Offset(expected), "{codec:?}");
            if expected % 1000 == 8 {
                assert_eq!(records.resume_token().to_string(), format!("0:{}", expected + 1));
            }
        }
        assert!(records.next().await.is_none());
        assert_eq!(records.resume_token().to_string(), "0:20010");
    }
}

/// Tells whether the first record of a batch waits for the runtime's only thread for work that blocks, which is taken.
async fn waits_for_a_blocking_thread(codec: Codec, count: i64) -> bool {
    let server = Scripted::start(1, []).await;
    let reads = vec![last(response(batch_in(codec, 0, count), count))];
    server.state.lock().reads.push_back(reads);
    let reader = reader(&server, ReadSpec::default()).await;
    while reader.queued() == 0 {
        tokio::task::yield_now().await;
    }
    let (release, held) = std::sync::mpsc::sync_channel(1);
    let taken = tokio::task::spawn_blocking(move || held.recv());
    let mut records = reader.into_records();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let waits = std::pin::Pin::new(&mut records)
        .poll_next(&mut context)
        .is_pending();
    release.send(()).expect("the thread waits");
    taken.await.expect("no panic").expect("released");
    if waits {
        records.next().await.expect("a record").expect("sound");
    }
    waits
}

#[test]
fn only_a_large_compressed_batch_is_decompressed_aside() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    for (codec, count, expected) in [
        (Codec::Zstd, 20_000, true),
        (Codec::None, 20_000, false),
        (Codec::Zstd, 10, false),
    ] {
        let waits = runtime.block_on(waits_for_a_blocking_thread(codec, count));
        assert_eq!(waits, expected, "{codec:?} {count}");
    }
}

#[tokio::test]
async fn a_damaged_batch_ends_the_records_after_the_sound_ones_and_the_token_stays_before_it() {
    let server = Scripted::start(1, []).await;
    let mut bytes = [batch(0, 2), batch(2, 2)].concat();
    *bytes.last_mut().expect("not empty") ^= 1;
    let reads = vec![last(response(bytes.into(), 4))];
    server.state.lock().reads.push_back(reads);
    let mut records = reader(&server, ReadSpec::default()).await.into_records();
    let read: Vec<_> = (&mut records).collect().await;
    assert_eq!(read.len(), 3);
    assert!(
        matches!(read[2], Err(Error::DamagedBatch { .. })),
        "{:?}",
        read[2]
    );
    assert_eq!(records.resume_token().to_string(), "0:2");
}

#[tokio::test]
async fn no_more_is_fetched_ahead_than_was_allowed() {
    let server = Scripted::start(1, []).await;
    let chunks = (0..9).map(|number| response(batch(number, 1), number + 1));
    let mut reads: Vec<_> = chunks.collect();
    reads.push(last(response(Bytes::new(), 9)));
    server.state.lock().reads.push_back(reads);
    let spec = ReadSpec {
        // Two of them, and not three.
        prefetch_bytes: batch(0, 1).len() * 5 / 2,
        ..ReadSpec::default()
    };
    let mut reader = reader(&server, spec).await;
    while reader.queued() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(reader.queued() <= 2);
    }
    let read = offsets(&mut reader, usize::MAX).await.expect("it ends");
    assert_eq!(read, (0..9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_damaged_batch_is_named_after_the_sound_ones_before_it() {
    let server = Scripted::start(1, []).await;
    let mut bytes = [batch(0, 2), batch(2, 2)].concat();
    *bytes.last_mut().expect("not empty") ^= 1;
    server
        .state
        .lock()
        .reads
        .push_back(vec![last(response(bytes.into(), 4))]);
    let mut reader = reader(&server, ReadSpec::default()).await;
    let chunk = reader.next().await.expect("a chunk").expect("a chunk");
    let records: Vec<_> = reader.records(&chunk).collect();
    assert_eq!(records.iter().filter(|record| record.is_ok()).count(), 2);
    let error = records[2].as_ref().expect_err("damaged").to_string();
    assert!(
        error.starts_with("batch of t-0 from the server is damaged: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_chunk_tells_below_which_offsets_its_partition_is_compacted() {
    let server = Scripted::start(1, []).await;
    let told = v1::ReadResponse {
        compacted_below: 9,
        tombstones_gone_below: 7,
        ..response(batch(5, 2), 7)
    };
    let reads = vec![told, last(response(Bytes::new(), 7))];
    server.state.lock().reads.push_back(reads);
    let mut reader = reader(&server, ReadSpec::default()).await;
    let chunk = reader.next().await.expect("read").expect("a chunk");
    let below = chunk.compacted_below();
    let expected = CompactedBelow {
        records: Offset(9),
        tombstones: Offset(7),
    };
    assert_eq!(below, expected);
    let plain = reader.next().await.expect("read").expect("the last chunk");
    assert_eq!(plain.compacted_below(), CompactedBelow::default());
}

#[test]
fn who_goes_on_below_what_is_compacted_may_have_missed_something_and_who_begins_has_not() {
    let below = CompactedBelow {
        records: Offset(9),
        tombstones: Offset(7),
    };
    let hidden = |resumed: i64| {
        let resumed = Offset(resumed);
        (
            below.may_hide_records_from(resumed),
            below.may_hide_deletions_from(resumed),
        )
    };
    assert_eq!(hidden(0), (false, false));
    assert_eq!(hidden(6), (true, true));
    assert_eq!(hidden(7), (true, false));
    assert_eq!(hidden(8), (true, false));
    assert_eq!(hidden(9), (false, false));
}
