//! Writing: acknowledgement, order, retries, refusals, failing disks.

use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::*;
use crate::broker::served::Served;
use crate::env::OpenMode;

#[tokio::test]
async fn an_acknowledged_record_is_on_disk_and_can_be_read() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let appended = house
        .append(&topic, 0, vec![record("a"), record("b")])
        .await
        .expect("good");
    assert_eq!(
        (appended.base_offset, appended.last_offset),
        (Offset(0), Offset(1))
    );
    assert_eq!(appended.novelty, Novelty::New);

    let house = house.crash().await;
    assert_eq!(
        texts(&house.fetch(&topic, 0, 0).await.expect("in range")),
        ["a", "b"]
    );
}

#[tokio::test]
async fn pipelined_appends_lie_in_the_order_of_calls_and_are_acknowledged_as_such() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let (producer, _) = house.broker.init_producer().await.expect("good");
    let mut pending = Vec::new();
    for sequence in 0..200 {
        let batch = batch(producer, sequence, &["x"]);
        let append = house
            .broker
            .append_batch(&topic, PartitionId(0), batch, Acks::All);
        pending.push(append.await.expect("in sequence"));
    }
    for (expected, pending) in (0..).zip(pending) {
        assert_eq!(pending.wait().await.expect("good").base_offset, Offset(expected));
    }
}

#[tokio::test]
async fn a_retry_is_acknowledged_with_its_first_offsets_also_after_a_restart() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let (producer, _) = house.broker.init_producer().await.expect("good");
    let send = async |house: &House, sequence, values: &[&str]| {
        let batch = batch(producer, sequence, values);
        house
            .broker
            .append_batch(&topic, PartitionId(0), batch, Acks::All)
            .await?
            .wait()
            .await
    };
    send(&house, 0, &["a"]).await.expect("new");
    let first = send(&house, 1, &["b", "c"]).await.expect("new");
    let again = send(&house, 1, &["b", "c"]).await.expect("known");
    assert_eq!(
        again,
        Appended {
            novelty: Novelty::Duplicate,
            ..first
        }
    );

    let house = house.restart().await;
    let again = send(&house, 1, &["b", "c"]).await.expect("known");
    assert_eq!(
        (again.base_offset, again.novelty),
        (first.base_offset, Novelty::Duplicate)
    );
    let gap = send(&house, 9, &["d"]).await.expect_err("6 to 8 are missing");
    assert!(
        matches!(
            gap,
            Error::OutOfOrderSequence {
                expected: 3,
                got: 9,
                ..
            }
        ),
        "{gap}"
    );
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(house.values(spec).await.expect("good"), ["a", "b", "c"]);
}

#[tokio::test]
async fn keys_choose_the_partition_and_records_without_one_stay_together_and_take_turns() {
    let house = start().await;
    let topic = house.create("t", 7, &[]).await;
    let records = vec![
        keyed("21", "a"),
        record("b"),
        keyed("abc", "c"),
        record("d"),
        keyed("21", "e"),
    ];
    let sent = async |records| {
        let sent = house
            .broker
            .append_records(to(&topic, None, records), Acks::Leader);
        sent.await.expect("good")
    };
    let placed = sent(records).await;
    let of = |key: &[u8]| partition_for_key(key, 7);
    let indexes = |partition| {
        let found = placed.iter().find(|placed| placed.partition == partition);
        found.expect("records went there").indexes.clone()
    };
    assert_eq!(of(b"21"), PartitionId(1_173_551_340 % 7));
    assert!(indexes(of(b"21")).contains(&0) && indexes(of(b"21")).contains(&4));
    assert!(indexes(of(b"abc")).contains(&2));
    let mut all: Vec<_> = placed.iter().flat_map(|placed| placed.indexes.clone()).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4], "each record goes to one partition");

    let mut turns = Vec::new();
    for _ in 0..7 {
        turns.push(sent(vec![record("x"), record("y")]).await);
    }
    assert!(
        turns.iter().all(|placed| placed.len() == 1),
        "one partition per request"
    );
    let mut partitions: Vec<_> = turns.iter().map(|placed| placed[0].partition.0).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn many_records_become_several_batches_back_to_back() {
    let house = start().await;
    let topic = house.create("t", 1, &[("max.message.bytes", "300")]).await;
    let records: Vec<_> = (0..40).map(|number| record(&format!("{number:050}"))).collect();
    let appended = house.append(&topic, 0, records).await.expect("good");
    assert_eq!(
        (appended.base_offset, appended.last_offset),
        (Offset(0), Offset(39))
    );
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    let expected: Vec<_> = (0..40).map(|number| format!("{number:050}")).collect();
    assert_eq!(house.values(spec).await.expect("good"), expected);
}

#[tokio::test]
async fn a_producer_with_sequences_must_fit_one_batch_and_nothing_of_it_is_written_otherwise() {
    let house = start().await;
    let topic = house.create("t", 1, &[("max.message.bytes", "300")]).await;
    let producer = Some(ProducerStamp {
        id: ProducerId(1),
        epoch: ProducerEpoch(0),
        base_sequence: Some(Sequence(0)),
    });
    let records = vec![record(&"x".repeat(150)), record(&"y".repeat(150))];
    let new = NewRecords {
        producer,
        ..to(&topic, Some(0), records)
    };
    let outcome = house
        .broker
        .append_records(new, Acks::All)
        .await
        .expect("checked")
        .remove(0)
        .outcome;
    assert!(matches!(
        outcome,
        Err(Error::TooLarge {
            limit_name: "max.message.bytes",
            limit_bytes: 300,
            ..
        })
    ));
    assert_eq!(
        house.broker.describe_topic(&topic).expect("known").partitions[0].log_end,
        Offset(0)
    );

    let nowhere = NewRecords {
        producer,
        ..to(&topic, None, vec![record("x")])
    };
    let error = house
        .broker
        .append_records(nowhere, Acks::All)
        .await
        .expect_err("names no partition");
    assert_eq!(
        error.to_string(),
        "records with a producer's sequence name their partition"
    );
}

#[tokio::test]
async fn records_that_the_topic_does_not_admit_are_named_by_their_place_in_the_request() {
    let house = start().await;
    let topic = house.create("t", 3, &[("cleanup.policy", "compact")]).await;
    let records = vec![keyed("abc", "a"), record("b"), keyed("abc", "c"), record("d")];
    let placed = house
        .broker
        .append_records(to(&topic, None, records), Acks::Leader)
        .await
        .expect("checked");
    let mut refused: Vec<u32> = Vec::new();
    for placed in placed {
        if let Err(Error::InvalidRecord { indexes, .. }) = placed.outcome {
            refused.extend(indexes);
        }
    }
    assert_eq!(refused, [1, 3]);

    let far = timed("x", NOW.0 + 3_600_001);
    let future = house
        .append(
            &topic,
            0,
            vec![
                keyed("k", "v"),
                NewRecord {
                    key: Some("k".into()),
                    ..far
                },
            ],
        )
        .await;
    assert!(matches!(future, Err(Error::InvalidTimestamp { indexes, .. }) if indexes == [1]));
    assert!(matches!(
        house.append(&topic, 9, vec![keyed("k", "v")]).await,
        Err(Error::UnknownPartition { .. })
    ));
    let empty = house
        .append(&topic, 0, Vec::new())
        .await
        .expect_err("nothing to append");
    assert_eq!(empty.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn text_and_numbers_of_a_refusal_name_the_same_records_of_the_request() {
    let house = start().await;
    let settings = [("cleanup.policy", "compact"), ("max.message.bytes", "300")];
    let topic = house.create("t", 1, &settings).await;
    // Several batches, and the record without a key not in the first.
    let mut records: Vec<_> = (0..20)
        .map(|number| keyed("k", &format!("{number:050}")))
        .collect();
    records[17].key = None;
    let refused = house.append(&topic, 0, records).await.expect_err("no key");
    assert!(
        matches!(&refused, Error::InvalidRecord { reason, indexes, .. }
            if *indexes == [17] && reason.starts_with("record 17 ")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn bytes_that_are_no_batch_are_refused_and_counted() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let mut bytes = batch(ProducerId(1), 0, &["a"]).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let corrupt = house
        .broker
        .append_batch(&topic, PartitionId(0), bytes.into(), Acks::All)
        .await;
    assert!(matches!(corrupt, Err(Error::CorruptBatch { .. })), "{corrupt:?}");
    let metrics = house.broker.metrics_text(Exposition::Prometheus);
    assert!(
        metrics.contains("siltstone_door_refused_requests_total{reason=\"corrupt_batch\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn internal_topics_are_read_and_not_written() {
    let house = start().await;
    let topic = house.broker.list_topics()[0].name.clone();
    assert_eq!(topic.as_str(), "__siltstone_topics");
    assert!(matches!(
        house.append(&topic, 0, vec![record("x")]).await,
        Err(Error::InternalTopic { .. })
    ));
    assert!(matches!(
        house.broker.delete_topic(&topic).await,
        Err(Error::InternalTopic { .. })
    ));
    house.fetch(&topic, 0, 0).await.expect("it can be read");
}

#[tokio::test]
async fn a_failed_sync_is_no_acknowledgement_and_the_partition_comes_back_by_itself() {
    let still = Stillness::begin();
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house
        .append(&topic, 0, vec![record("a")])
        .await
        .expect("a good disk");
    house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: "t-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::Other),
    });
    let lost = house
        .append(&topic, 0, vec![record("b")])
        .await
        .expect_err("the sync failed");
    assert!(matches!(lost, Error::WritesRefused { .. }), "{lost}");
    assert!(lost.retry_after().is_some());

    still.end();
    let repaired = async {
        loop {
            match house.append(&topic, 0, vec![record("c")]).await {
                Ok(appended) => return appended,
                Err(Error::WritesRefused { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, repaired)
        .await
        .expect("it is repaired without anybody's help");
    let description = house.broker.describe_topic(&topic).expect("known");
    assert_eq!(description.partitions[0].write_refusal, None);
    let values = house
        .values(read(&topic, ReadStart::Earliest, ReadEnd::Now))
        .await
        .expect("good");
    assert_eq!(
        (
            values.first().map(String::as_str),
            values.last().map(String::as_str)
        ),
        (Some("a"), Some("c"))
    );
}

#[tokio::test]
async fn a_stopping_broker_finishes_what_is_under_way_and_refuses_the_rest() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let (producer, _) = house.broker.init_producer().await.expect("good");
    let send = |sequence| {
        let batch = batch(producer, sequence, &["x"]);
        house
            .broker
            .append_batch(&topic, PartitionId(0), batch, Acks::All)
    };
    let pending = send(0).await.expect("open");
    house.broker.shutdown().await.expect("a good disk");
    house.broker.stopping().await;
    assert!(!house.broker.is_ready());
    pending.wait().await.expect("it was under way");
    assert!(matches!(send(1).await, Err(Error::ShuttingDown)));
    assert!(matches!(
        house.broker.delete_topic(&topic).await,
        Err(Error::ShuttingDown)
    ));
    house
        .broker
        .shutdown()
        .await
        .expect("a second call changes nothing");
    let house = start_on(house.fs).await.expect("the lock was given back");
    assert_eq!(texts(&house.fetch(&topic, 0, 0).await.expect("in range")), ["x"]);
}

/// The runtime of these tests has one thread, the one they run on.
#[tokio::test]
async fn nothing_of_an_append_syncs_on_a_network_thread() {
    let house = start().await;
    let topic = house.create("t", 1, &[("segment.bytes", "16384")]).await;
    let network = std::thread::current().id();
    let here = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&here);
    house.fs.watch_syncs(move |site| {
        if std::thread::current().id() == network {
            seen.lock().push(site);
        }
    });
    let append = |partition, value: &str| house.append(&topic, partition, vec![record(value)]);
    append(0, "makes a directory").await.expect("good");
    let log = "/data/t-0/00000000000000000000.log";
    let len = |name: &str| house.fs.stat(Path::new(name)).expect("there").len_bytes;
    let published = len(log);
    let file = house.fs.open(Path::new(log), OpenMode::ReadWrite).expect("there");
    file.set_len(published + 7).expect("what a failed write leaves");
    append(0, &"x".repeat(16_250)).await.expect("good");
    assert!(len("/data/t-0/00000000000000000001.log") > 16_250, "it rolled");
    assert_eq!(len(log), published, "what the failed write left was cut");
    assert!(here.lock().is_empty(), "{:?}", here.lock());
}

#[tokio::test]
async fn a_partition_that_must_be_opened_is_opened_off_the_network_threads() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    let house = house.restart().await;
    let again = house
        .broker
        .append_records(to(&topic, Some(0), vec![record("b")]), Acks::Leader);
    let mut again = pin!(again);
    let served = house.broker.core.topics.find(&topic).expect("it is there");
    let served = served.partition(PartitionId(0)).expect("it is there");
    // Whoever opens it waits for this turn; on this thread that would be for ever.
    let turn = served.turn_alone().expect("open");
    let first = again.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending() && !served.log.is_open());
    drop(turn);
    again.await.expect("good");
    let open = house
        .broker
        .append_records(to(&topic, Some(0), vec![record("c")]), Acks::Leader);
    assert!(
        poll_once(pin!(open)).await.is_ready(),
        "an open one is written to at once"
    );
}

/// Takes the turn of a partition on a thread of its own, until it is told to give it back.
async fn turn_taken(of: &Arc<Served>) -> (std::sync::mpsc::SyncSender<()>, std::thread::JoinHandle<()>) {
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let served = Arc::clone(of);
    let holder = std::thread::spawn(move || {
        let _turn = served.turn_alone().expect("open");
        begun.send(()).expect("somebody waits");
        held.recv().expect("told");
    });
    beginning.await.expect("it has the turn");
    (release, holder)
}

#[tokio::test]
async fn one_request_opens_its_partitions_side_by_side() {
    let house = start().await;
    let topic = house.create("t", 32, &[]).await;
    let served = house.broker.core.topics.find(&topic).expect("known");
    let served = served.partitions.clone();
    let keys: Vec<String> = (0..1000).map(|key| format!("key {key}")).collect();
    let records = keys.iter().map(|key| keyed(key, "value")).collect();
    let (release, holder) = turn_taken(&served[0]).await;
    let broker = house.broker.clone();
    let request = to(&topic, None, records);
    let producing = tokio::spawn(async move { broker.append_records(request, Acks::Leader).await });
    // The first partition is not to be had; most others are opened all the same.
    let others = async {
        while served.iter().filter(|served| served.log.is_open()).count() < 30 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, others)
        .await
        .expect("they wait for no other");
    assert!(!served[0].log.is_open());
    release.send(()).expect("somebody waits");
    holder.join().expect("no panic");
    let placed = producing.await.expect("no panic").expect("good");
    assert_eq!(placed.len(), 32);
    assert!(placed.iter().all(|placed| placed.outcome.is_ok()));
}

#[tokio::test]
async fn what_waits_for_its_partition_to_open_is_counted_before_it_waits() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let served = house.broker.core.topics.find(&topic).expect("known");
    let (release, holder) = turn_taken(&served.partitions[0]).await;
    let used = || house.broker.core.inflight.used();
    for acks in [Acks::All, Acks::None] {
        let append = house
            .broker
            .append_records(to(&topic, Some(0), vec![record(&"x".repeat(1000))]), acks);
        let mut append = pin!(append);
        assert!(
            poll_once(append.as_mut()).await.is_pending(),
            "it is to be opened"
        );
        assert!(used() > 1000, "{} bytes", used());
    }
    let sent = batch(ProducerId(7), 0, &["x"]);
    let len = u64::try_from(sent.len()).expect("small");
    let append = house
        .broker
        .append_batch(&topic, PartitionId(0), sent, Acks::Leader);
    let mut append = pin!(append);
    assert!(
        poll_once(append.as_mut()).await.is_pending(),
        "it is to be opened"
    );
    assert_eq!(used(), len, "the others were given up");
    release.send(()).expect("somebody waits");
    holder.join().expect("no panic");
}
