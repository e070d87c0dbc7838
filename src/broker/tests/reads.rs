//! Reading: fetches, long polls, reads between two points, followers, lookups.

use super::*;
use crate::broker::fetch::Stretch;
use crate::broker::read::OPEN_POSITIONS_MAX;
use crate::storage::{FirstBatch, Origin, Read};
use crate::types::LeaderEpoch;

#[tokio::test]
async fn a_long_poll_is_answered_by_the_append_it_waits_for() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let broker = house.broker.clone();
    let targets = vec![target(&topic, 0, 0), target(&topic, 1, 0)];
    let waiting = tokio::spawn(async move { broker.fetch(fetch(targets, 60_000)).await });
    tokio::task::yield_now().await;
    house.append(&topic, 1, vec![record("a")]).await.expect("good");
    let chunks = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("woken")
        .expect("no panic");
    let found: Vec<_> = chunks
        .iter()
        .map(|chunk| texts(chunk.as_ref().expect("in range")))
        .collect();
    assert_eq!(found, [vec![], vec!["a".to_owned()]]);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_without_data_ends_when_its_time_is_over() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let before = tokio::time::Instant::now();
    let chunk = house.fetch(&topic, 0, 5000).await.expect("in range");
    assert!(chunk.batches.is_empty());
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    assert!(
        house
            .broker
            .metrics_text(Exposition::Prometheus)
            .contains("siltstone_wait_registrations 0")
    );
}

#[tokio::test]
async fn a_long_poll_waits_for_as_many_bytes_as_it_asked_for_in_all_its_partitions() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let large = || vec![record(&"x".repeat(1200))];
    house.append(&topic, 0, large()).await.expect("good");
    let poll = || Fetch {
        min_bytes: 2000,
        ..fetch(vec![target(&topic, 0, 0), target(&topic, 1, 0)], 5000)
    };
    let records = |chunks: Vec<Result<Chunk, Error>>| -> Vec<usize> {
        let records = |chunk: &Result<Chunk, Error>| texts(chunk.as_ref().expect("in range")).len();
        chunks.iter().map(records).collect()
    };
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let chunks = house.broker.fetch(poll()).await;
    // A timer rings within the millisecond after its time.
    let waited = before.elapsed().as_millis();
    assert!((5000..5010).contains(&waited), "it is too little: {waited} ms");
    assert_eq!(records(chunks), [1, 0], "and better than nothing");
    tokio::time::resume();

    let broker = house.broker.clone();
    let patient = Fetch {
        max_wait_ms: u32::MAX,
        ..poll()
    };
    let waiting = tokio::spawn(async move { broker.fetch(patient).await });
    tokio::task::yield_now().await;
    house.append(&topic, 1, large()).await.expect("good");
    let chunks = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("both together are enough")
        .expect("no panic");
    assert_eq!(records(chunks), [1, 1]);
}

#[tokio::test]
async fn one_wrong_target_answers_the_fetch_at_once_and_spoils_no_other() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    let mut nameless = target(&topic, 0, 0);
    nameless.topic = "no/name".to_owned();
    let targets = vec![
        target(&topic, 0, 0),
        nameless,
        target(&topic, 7, 0),
        target(&topic, 0, 5),
    ];
    let many = Fetch {
        min_bytes: 1 << 20,
        ..fetch(targets, 60_000)
    };
    let chunks = tokio::time::timeout(PATIENCE, house.broker.fetch(many))
        .await
        .expect("answered at once");
    assert_eq!(texts(chunks[0].as_ref().expect("in range")), ["a"]);
    assert!(matches!(&chunks[1], Err(Error::UnknownTopic { topic }) if topic == "no/name"));
    assert!(matches!(chunks[2], Err(Error::UnknownPartition { count: 1, .. })));
    assert!(matches!(
        chunks[3],
        Err(Error::OffsetOutOfRange {
            offset: Offset(5),
            high_watermark: Offset(1),
            ..
        })
    ));
}

#[tokio::test]
async fn the_first_batch_comes_whole_and_later_ones_only_if_they_fit() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    for partition in 0..2 {
        house
            .append(&topic, partition, vec![record(&"x".repeat(5000))])
            .await
            .expect("good");
    }
    let targets = vec![target(&topic, 0, 0), target(&topic, 1, 0)];
    let small = Fetch {
        max_bytes: 1000,
        ..fetch(targets, 0)
    };
    let lens: Vec<_> = house
        .broker
        .fetch(small)
        .await
        .iter()
        .map(|chunk| chunk.as_ref().expect("in range").batches.len())
        .collect();
    assert!(lens[0] > 5000 && lens[1] == 0, "{lens:?}");
}

#[tokio::test]
async fn a_read_to_the_end_delivers_everything_once_and_completes_at_the_end_as_of_the_call() {
    let house = start().await;
    let topic = house.create("t", 3, &[]).await;
    for number in 0..30 {
        house
            .append(&topic, number % 3, vec![record(&format!("{number:03}"))])
            .await
            .expect("good");
    }
    let mut stream = house
        .broker
        .open_read(read(&topic, ReadStart::Earliest, ReadEnd::Now))
        .await
        .expect("known");
    house.append(&topic, 0, vec![record("late")]).await.expect("good");
    let (mut values, mut last) = (Vec::new(), None);
    let mut partitions = Vec::new();
    while let Some(step) = stream.next().await.expect("good") {
        values.extend(texts(&step.chunk));
        partitions.push(step.partition.0);
        last = Some(step);
    }
    values.sort_unstable();
    assert_eq!(
        values,
        (0..30).map(|number| format!("{number:03}")).collect::<Vec<_>>()
    );
    assert_eq!(partitions[..6], [0, 1, 2, 0, 1, 2], "partitions take turns");
    let last = last.expect("there were steps");
    assert_eq!(last.progress, Progress::Complete);
    let ten = |partition| (PartitionId(partition), Offset(10));
    assert_eq!(stream.positions(), [ten(0), ten(1), ten(2)]);
}

#[tokio::test]
async fn a_read_of_nothing_completes_in_one_empty_step() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let mut stream = house
        .broker
        .open_read(read(&topic, ReadStart::Latest, ReadEnd::Now))
        .await
        .expect("known");
    let step = stream.next().await.expect("good").expect("one step");
    assert!(step.chunk.batches.is_empty() && step.progress == Progress::Complete);
    assert!(stream.next().await.expect("good").is_none());
}

#[tokio::test]
async fn a_read_bounded_by_time_is_exact_also_out_of_order() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let times = [50, 10, 40, 20, 30, 15, 45, 25, 20, 39, 40];
    for (index, time) in times.iter().enumerate() {
        let partition = i32::try_from(index % 2).expect("small");
        let pair = vec![timed(&format!("{time}"), *time), timed("far", 1000 + time)];
        house.append(&topic, partition, pair).await.expect("good");
    }
    let spec = read(
        &topic,
        ReadStart::Time(Timestamp(20)),
        ReadEnd::Time(Timestamp(40)),
    );
    let mut values = house.values(spec).await.expect("good");
    values.sort_unstable();
    assert_eq!(values, ["20", "20", "25", "30", "39"]);
    let nothing = read(&topic, ReadStart::Time(Timestamp(5000)), ReadEnd::Now);
    assert!(house.values(nothing).await.expect("good").is_empty());
}

#[tokio::test]
async fn a_read_bounded_by_time_fetches_no_batch_that_ends_before_its_time() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    for time in [1000, 10, 20, 30, 1001, 40] {
        let one = vec![timed(&"x".repeat(500), time)];
        house.append(&topic, 0, one).await.expect("good");
    }
    let spec = read(
        &topic,
        ReadStart::Time(Timestamp(900)),
        ReadEnd::Time(Timestamp(1001)),
    );
    assert_eq!(house.values(spec).await.expect("good").len(), 1);
    let metrics = house.broker.metrics_text(Exposition::Prometheus);
    let fetched = metrics.lines().find_map(|line| {
        let bytes = line.strip_prefix("siltstone_fetch_bytes_total ")?;
        bytes.parse::<u64>().ok()
    });
    let fetched = fetched.expect("it is counted");
    assert!(
        (1000..1500).contains(&fetched),
        "{fetched} bytes: two of six batches are late enough, and no index tells that one of them is too late"
    );
}

#[tokio::test]
async fn a_read_goes_on_exactly_where_its_token_says() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    for number in 0..20 {
        house
            .append(&topic, number % 2, vec![record(&format!("{number:02}"))])
            .await
            .expect("good");
    }
    let mut spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    let mut values = Vec::new();
    loop {
        let mut stream = house.broker.open_read(spec.clone()).await.expect("known");
        let step = stream.next().await.expect("good").expect("a step");
        values.extend(texts(&step.chunk));
        spec.resume = stream.positions();
        if step.progress == Progress::Complete {
            break;
        }
    }
    values.sort_unstable();
    assert_eq!(
        values,
        (0..20).map(|number| format!("{number:02}")).collect::<Vec<_>>()
    );
}

#[test]
fn a_step_that_nobody_waited_for_is_not_lost() {
    // One thread for blocking work, so that the test can hold it and with it the read.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let house = start().await;
        let topic = house.create("t", 1, &[]).await;
        house.append(&topic, 0, vec![record("a")]).await.expect("good");
        let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
        let mut stream = house.broker.open_read(spec).await.expect("known");
        let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
        let holder = tokio::task::spawn_blocking(move || held.recv());
        {
            let dropped = pin!(stream.next());
            assert!(
                poll_once(dropped).await.is_pending(),
                "the read has begun and cannot end"
            );
        }
        release.send(()).expect("the holder listens");
        holder.await.expect("no panic").expect("released");
        let step = stream.next().await.expect("good").expect("a step");
        assert_eq!(texts(&step.chunk), ["a"]);
    });
}

#[test]
fn a_log_start_that_moves_between_plan_and_read_ends_a_read_by_offset_alone() {
    // One thread for blocking work, so that the test can hold it and with it the read.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let house = start().await;
        for (name, start) in [
            ("earliest", ReadStart::Earliest),
            ("time", ReadStart::Time(Timestamp(1))),
            ("offset", ReadStart::Offset(Offset(0))),
        ] {
            let topic = house.create(name, 1, &[]).await;
            for value in ["a", "b", "c"] {
                house.append(&topic, 0, vec![record(value)]).await.expect("good");
            }
            let spec = read(&topic, start, ReadEnd::Now);
            let mut stream = house.broker.open_read(spec).await.expect("known");
            let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
            let holder = tokio::task::spawn_blocking(move || held.recv());
            let mut next = pin!(stream.next());
            assert!(poll_once(next.as_mut()).await.is_pending(), "planned");
            let found = house.broker.core.topics.find(&topic).expect("known");
            let log = &found.partition(PartitionId(0)).expect("known").log;
            log.raise_log_start(Offset(2)).expect("in range");
            release.send(()).expect("the holder listens");
            holder.await.expect("no panic").expect("released");
            match (start, next.await) {
                (ReadStart::Offset(_), Err(Error::OffsetOutOfRange { log_start, .. })) => {
                    assert_eq!(log_start, Offset(2));
                }
                (ReadStart::Earliest | ReadStart::Time(_), Ok(Some(step))) => {
                    assert_eq!(texts(&step.chunk), ["c"]);
                }
                (start, step) => panic!("{start:?}: {step:?}"),
            }
        }
    });
}

#[tokio::test]
async fn a_follower_sees_every_record_once_and_ends_with_the_server() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let mut stream = house
        .broker
        .open_read(read(&topic, ReadStart::Latest, ReadEnd::Follow))
        .await
        .expect("known");
    let (seen, mut values) = tokio::sync::mpsc::channel(100);
    let following = tokio::spawn(async move {
        loop {
            match stream.next().await {
                Ok(Some(step)) => {
                    for value in texts(&step.chunk) {
                        seen.send(value).await.expect("the test listens");
                    }
                }
                Ok(None) => panic!("a follower does not complete"),
                Err(error) => return error,
            }
        }
    });
    for number in 0..10 {
        house
            .append(&topic, number % 2, vec![record(&number.to_string())])
            .await
            .expect("good");
        let value = tokio::time::timeout(PATIENCE, values.recv())
            .await
            .expect("woken");
        assert_eq!(value.as_deref(), Some(number.to_string().as_str()));
    }
    house.broker.shutdown().await.expect("a good disk");
    assert!(matches!(following.await.expect("no panic"), Error::ShuttingDown));
}

#[tokio::test]
async fn a_start_outside_the_log_and_a_partition_named_twice_are_refused() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let far = read(&topic, ReadStart::Offset(Offset(1)), ReadEnd::Now);
    assert!(matches!(
        house.values(far).await,
        Err(Error::OffsetOutOfRange { .. })
    ));
    let mut twice = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    twice.partitions = vec![(PartitionId(0), None), (PartitionId(0), None)];
    let error = house.values(twice).await.expect_err("twice");
    assert_eq!(error.to_string(), "partition 0 is named twice in one read");
}

#[tokio::test]
async fn offsets_are_found_at_the_ends_and_by_time() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    let records = vec![timed("a", 10), timed("b", 30), timed("c", 20), timed("d", 30)];
    house.append(&topic, 0, records).await.expect("good");
    let find = async |query| {
        let found = house
            .broker
            .list_offsets(&topic, &[PartitionId(0)], query, Isolation::ReadUncommitted)
            .await;
        let found = found.expect("known").remove(0);
        (
            found.offset.map(|offset| offset.0),
            found.timestamp.map(|timestamp| timestamp.0),
        )
    };
    assert_eq!(find(OffsetQuery::Earliest).await, (Some(0), None));
    assert_eq!(find(OffsetQuery::Latest).await, (Some(4), None));
    assert_eq!(find(OffsetQuery::MaxTimestamp).await, (Some(1), Some(30)));
    assert_eq!(find(OffsetQuery::Time(Timestamp(15))).await, (Some(1), Some(30)));
    assert_eq!(find(OffsetQuery::Time(Timestamp(31))).await, (None, None));
    let all = house
        .broker
        .list_offsets(&topic, &[], OffsetQuery::Latest, Isolation::ReadCommitted)
        .await;
    assert_eq!(all.expect("known").len(), 2);
}

#[tokio::test]
async fn deleted_records_are_gone_for_every_reader() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house
        .append(&topic, 0, ["a", "b", "c", "d"].map(record).to_vec())
        .await
        .expect("good");
    let mut by_offset = house
        .broker
        .open_read(read(&topic, ReadStart::Offset(Offset(0)), ReadEnd::Now))
        .await
        .expect("in range");
    let mut earliest = house
        .broker
        .open_read(read(&topic, ReadStart::Earliest, ReadEnd::Now))
        .await
        .expect("known");
    let delete = async |before: Option<i64>| {
        let before = [(PartitionId(0), before.map(Offset))];
        house.broker.delete_records(&topic, &before).await
    };
    let beyond = delete(Some(5)).await;
    assert!(matches!(beyond, Err(Error::OffsetOutOfRange { .. })));
    assert_eq!(
        delete(Some(2)).await.expect("in range"),
        [(PartitionId(0), Offset(2))]
    );
    assert_eq!(
        delete(Some(1)).await.expect("nothing to do"),
        [(PartitionId(0), Offset(2))]
    );

    let lost = by_offset.next().await.expect_err("offset 0 is gone");
    assert!(
        matches!(
            lost,
            Error::OffsetOutOfRange {
                offset: Offset(0),
                log_start: Offset(2),
                ..
            }
        ),
        "{lost}"
    );
    let step = earliest.next().await.expect("goes on").expect("a step");
    assert_eq!(
        texts(&step.chunk),
        ["c", "d"],
        "the batch begins at 0 and is cut by the log start"
    );
    assert!(matches!(
        house.fetch(&topic, 1, 0).await,
        Err(Error::OffsetOutOfRange { .. })
    ));
    assert_eq!(
        delete(None).await.expect("everything"),
        [(PartitionId(0), Offset(4))]
    );

    let compacted = house.create("c", 1, &[("cleanup.policy", "compact")]).await;
    let refused = house
        .broker
        .delete_records(&compacted, &[(PartitionId(0), None)])
        .await;
    assert!(matches!(refused, Err(Error::PolicyViolation { .. })));
}

#[tokio::test]
async fn a_log_start_within_a_batch_is_where_reads_begin_also_after_a_stop_and_after_a_crash() {
    let mut house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let records = ["a", "b", "c", "d"].map(record).into();
    house.append(&topic, 0, records).await.expect("one batch");
    let before = [(PartitionId(0), Some(Offset(2)))];
    house
        .broker
        .delete_records(&topic, &before)
        .await
        .expect("in range");
    for stop in ["clean", "crash"] {
        house = match stop {
            "clean" => house.restart().await,
            _ => house.crash().await,
        };
        let described = house.broker.describe_topic(&topic).expect("known");
        assert_eq!(described.partitions[0].log_start, Offset(2), "{stop}");
        let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
        assert_eq!(house.values(spec).await.expect("readable"), ["c", "d"], "{stop}");
        let gone = house.fetch(&topic, 1, 0).await;
        assert!(matches!(gone, Err(Error::OffsetOutOfRange { .. })), "{stop}");
    }
}

#[tokio::test]
async fn open_reads_share_a_limit_on_their_partitions_and_give_it_back() {
    let house = start().await;
    let topic = house.create("t", 3, &[]).await;
    let spec = || read(&topic, ReadStart::Earliest, ReadEnd::Follow);
    let open = house.broker.open_read(spec()).await.expect("room");
    let budget = &house.broker.core.open_positions;
    assert_eq!(budget.used(), 3);
    let others = budget.take(OPEN_POSITIONS_MAX - 5).expect("room");
    let refused = house.broker.open_read(spec()).await;
    assert!(
        matches!(
            refused,
            Err(Error::Overloaded {
                what: "partitions of open reads",
                ..
            })
        ),
        "{refused:?}"
    );
    drop(others);
    let second = house.broker.open_read(spec()).await.expect("room again");
    assert_eq!(budget.used(), 6);
    drop((open, second));
    assert_eq!(budget.used(), 0);
}

/// The runtime of these tests has one thread, the one they run on.
#[tokio::test]
async fn nothing_is_read_from_disk_on_a_network_thread() {
    let house = start().await;
    let topic = house.create("t", 1, &[("segment.bytes", "16384")]).await;
    for number in 0..8 {
        let one = vec![timed(&"x".repeat(5000), 1000 - number)];
        house.append(&topic, 0, one).await.expect("good");
    }
    // Nothing of what lies on disk is in memory then.
    let house = house.restart().await;
    let network = std::thread::current().id();
    let reads = Arc::new(parking_lot::Mutex::new((0, 0)));
    let seen = Arc::clone(&reads);
    house.fs.watch_reads(move || {
        let mut seen = seen.lock();
        match std::thread::current().id() == network {
            true => seen.0 += 1,
            false => seen.1 += 1,
        }
    });
    let check = |what: &str, least: usize| {
        let (here, elsewhere) = std::mem::take(&mut *reads.lock());
        assert_eq!(here, 0, "{what}");
        assert!(elsewhere >= least, "{what}: {elsewhere} reads show little");
    };
    let offsets = async |query| {
        let found = house
            .broker
            .list_offsets(&topic, &[PartitionId(0)], query, Isolation::ReadUncommitted);
        found.await.expect("known").remove(0)
    };
    let earliest = offsets(OffsetQuery::Earliest).await;
    assert_eq!(
        (earliest.offset, earliest.leader_epoch),
        (Some(Offset(0)), Some(LeaderEpoch(0)))
    );
    check("the earliest offset", 1);
    offsets(OffsetQuery::Latest).await;
    check("the latest offset", 0);
    let found = offsets(OffsetQuery::Time(Timestamp(996))).await;
    assert_eq!(found.offset, Some(Offset(0)));
    check("an offset by time", 1);
    offsets(OffsetQuery::MaxTimestamp).await;
    check("the greatest time", 1);
    house.fetch(&topic, 0, 0).await.expect("in range");
    check("a fetch", 1);
    let bounded = read(
        &topic,
        ReadStart::Time(Timestamp(994)),
        ReadEnd::Time(Timestamp(996)),
    );
    assert_eq!(house.values(bounded).await.expect("good").len(), 2);
    check("a read bounded by time", 1);
    house.broker.describe_topic(&topic).expect("known");
    let all = AskedPartitions::all();
    house.broker.preview_retention(&topic, &all).expect("known");
    house.broker.describe_log(&topic, &all).expect("known");
    check("descriptions", 0);
}

/// What is told beside the records is of one moment, whatever happens meanwhile.
#[tokio::test]
async fn the_ends_that_an_answer_tells_are_of_one_moment() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house
        .append(&topic, 0, vec![record("opens it")])
        .await
        .expect("good");
    let found = house.broker.core.topics.find(&topic).expect("known");
    let served = Arc::clone(found.partition(PartitionId(0)).expect("known"));
    let (log, store) = (Arc::clone(&served.log), Arc::clone(&house.broker.core.store));
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Some(NOW), None, Some(b"x"), &[]).expect("small");
    let one = builder.build().expect("not empty");
    // The log start follows the high watermark at once: taken one after the other, they would pass each other.
    let writer = std::thread::spawn(move || {
        for _ in 0..5000 {
            log.append(&one, Origin::Client, NOW).expect("good");
            for synced in store.sync(std::slice::from_ref(&log)) {
                let synced = synced.expect("a good disk");
                log.raise_log_start(synced.high_watermark).expect("not held");
            }
        }
    });
    let mut last = Offset::ZERO;
    while !writer.is_finished() {
        let nothing = Stretch {
            read: Read {
                from: last,
                until: last,
                times: None,
                max_bytes: 1,
                first: FirstBatch::IfItFits,
            },
            isolation: Isolation::ReadCommitted,
            max_decompressed_bytes: 1,
        };
        let told = nothing.chunk(&served).expect("nothing is read");
        let ends = [last, told.log_start, told.last_stable, told.high_watermark];
        assert!(ends.is_sorted(), "{ends:?}");
        last = told.log_start;
    }
    writer.join().expect("no panic");
    assert!(
        last > Offset(1000),
        "{last}: they were looked at while they moved"
    );
}
