//! What the broker does by itself, in virtual time: syncs, checkpoints, expiry, the guard on the disk.
//!
//! Virtual time does not wait for the commit thread, which is not the runtime's: where an acknowledgement waits for a sync, time
//! is real, or stands still.

use super::*;
use crate::broker::served::Claim;
use crate::env::OpenMode;

impl House {
    fn recovery_point(&self, topic: &TopicName) -> i64 {
        let described = self.broker.describe_topic(topic).expect("known");
        described.partitions[0].recovery_point.0
    }

    fn file(&self, path: &str) -> String {
        let fs: &dyn Fs = &self.fs;
        let path = Path::new(path);
        let len = fs.stat(path).expect("the file is there").len_bytes;
        let mut bytes = vec![0; usize::try_from(len).expect("small")];
        let file = fs.open(path, OpenMode::Read).expect("the file opens");
        file.read_exact_at(&mut bytes, 0).expect("the file is read");
        String::from_utf8(bytes).expect("text")
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_only_written_is_synced_when_flush_ms_is_over() {
    let house = start().await;
    let settings = [("durability", "written"), ("flush.ms", "5000")];
    let topic = house.create("t", 1, &settings).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    house.clock.advance_ms(4999);
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(house.recovery_point(&topic), 0);
    house.clock.advance_ms(1);
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(house.recovery_point(&topic), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_only_written_is_synced_when_there_are_flush_messages_of_it() {
    let house = start().await;
    let settings = [("durability", "written"), ("flush.messages", "3")];
    let topic = house.create("t", 1, &settings).await;
    house
        .append(&topic, 0, vec![record("a"), record("b")])
        .await
        .expect("good");
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(house.recovery_point(&topic), 0);
    house.append(&topic, 0, vec![record("c")]).await.expect("good");
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(house.recovery_point(&topic), 3);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_no_time_makes_due_is_not_looked_at_again_and_again() {
    let house = start().await;
    let timed = house
        .create("timed", 1, &[("durability", "written"), ("flush.ms", "5000")])
        .await;
    let never = house.create("never", 1, &[("durability", "written")]).await;
    house.append(&never, 0, vec![record("a")]).await.expect("good");
    assert!(house.broker.core.flushes.is_empty());
    house.append(&timed, 0, vec![record("a")]).await.expect("good");
    assert!(!house.broker.core.flushes.is_empty());
    let forever = ConfigChange {
        set: [("flush.ms".to_owned(), i64::MAX.to_string())].into(),
        unset: Vec::new(),
    };
    house
        .broker
        .alter_topic(&timed, forever, Execution::Apply)
        .await
        .expect("a good setting");
    tokio::time::sleep(SWEEPS).await;
    assert!(house.broker.core.flushes.is_empty());
}

#[tokio::test]
async fn recovery_points_are_written_down_once_a_minute() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house
        .append(&topic, 0, vec![record("a"), record("b")])
        .await
        .expect("good");
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(61)).await;
    let checkpoint = house.file("/data/recovery-point-offset-checkpoint");
    assert!(checkpoint.lines().any(|line| line == "t 0 2"), "{checkpoint}");
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_was_idle_for_a_day_is_forgotten_and_not_before() {
    let house = start().await;
    let topic = house.create("t", 1, &[("durability", "written")]).await;
    let send = async |sequence| {
        let batch = batch(ProducerId(7), sequence, &["x"]);
        let pending = house
            .broker
            .append_batch(&topic, PartitionId(0), batch, Acks::All);
        pending.await?.wait().await
    };
    send(0).await.expect("the first");
    house.clock.advance_ms(24 * 3_600_000);
    tokio::time::sleep(Duration::from_secs(601)).await;
    let gap = send(5).await.expect_err("1 to 4 are missing");
    assert!(matches!(gap, Error::OutOfOrderSequence { .. }), "{gap}");
    house.clock.advance_ms(1);
    tokio::time::sleep(Duration::from_secs(601)).await;
    send(5).await.expect("nothing is known of it any more");
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_does_not_come_is_given_up_as_undecided() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let found = house.broker.core.topics.find(&topic).expect("known");
    let served = found.partition(PartitionId(0)).expect("known");
    // A sync that never ends: every other waits for it.
    assert_eq!(served.claim_sync(), Claim::Granted);
    let begun = tokio::time::Instant::now();
    let given_up = house
        .append(&topic, 0, vec![record("a")])
        .await
        .expect_err("no sync");
    assert!(
        matches!(given_up, Error::AckTimeout { waited, .. } if waited == ACK_TIMEOUT),
        "{given_up}"
    );
    assert_eq!(begun.elapsed().as_secs(), ACK_TIMEOUT.as_secs());
    assert_eq!(given_up.kind(), ErrorKind::DeadlineExceeded);
    served.release_sync();
    tokio::time::resume();
    house.broker.core.commit.mark(served);
    house.append(&topic, 0, vec![record("b")]).await.expect("synced");
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(
        house.values(spec).await.expect("good"),
        ["a", "b"],
        "it was written all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_produce_lets_reads_go_on_and_recovers_by_itself() {
    let house = start().await;
    let topic = house.create("t", 1, &[("durability", "written")]).await;
    house
        .append(&topic, 0, vec![record("a")])
        .await
        .expect("a good disk");
    house.fs.set_capacity_bytes(1100);
    // Virtual time: the disk guard looks once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = house
        .append(&topic, 0, vec![record("b")])
        .await
        .expect_err("below the reserve");
    assert!(
        matches!(
            full,
            Error::DiskFull {
                min_free_bytes: 1000,
                ..
            }
        ),
        "{full}"
    );
    assert!(full.retry_after().is_some());
    assert_eq!(
        texts(&house.fetch(&topic, 0, 0).await.expect("reads go on")),
        ["a"]
    );
    assert!(
        house
            .broker
            .metrics_text(Exposition::Prometheus)
            .contains("siltstone_disk_full_state 1")
    );

    house.fs.set_capacity_bytes(u64::MAX);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let appended = house
        .append(&topic, 0, vec![record("c")])
        .await
        .expect("space returned");
    assert_eq!(
        appended.base_offset,
        Offset(1),
        "nothing of the refused record is there"
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_that_finds_no_room_refuses_produce_at_once_until_there_is_room_again() {
    let house = start().await;
    let topic = house.create("t", 1, &[("durability", "written")]).await;
    let other = house.create("other", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    // Plenty by the reserve of 1000 bytes, and still a write fails.
    house.fs.set_capacity_bytes(2 << 20);
    house.fs.inject(Fault {
        call: Call::Write,
        path_contains: "t-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    for _ in 0..2 {
        let full = house
            .append(&topic, 0, vec![record("b")])
            .await
            .expect_err("no room");
        assert!(matches!(full, Error::DiskFull { .. }), "{full}");
        assert!(full.retry_after().is_some());
        // The disk is looked at meanwhile, and has as little room as before.
        tokio::time::sleep(SWEEPS).await;
    }
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(house.values(spec).await.expect("reads go on"), ["a"]);
    house.broker.delete_topic(&other).await.expect("deletes go on");
    house.fs.set_capacity_bytes(u64::MAX);
    tokio::time::sleep(SWEEPS).await;
    house
        .append(&topic, 0, vec![record("c")])
        .await
        .expect("there is room");
}

async fn refuses_for_the_disk(house: &House, topic: &TopicName) -> bool {
    let refused = house.append(topic, 0, vec![record("refused")]).await;
    matches!(refused, Err(Error::DiskFull { .. }))
}

#[tokio::test]
async fn a_sync_that_finds_no_room_refuses_produce_of_all_topics_at_once() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let other = house.create("other", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    house.fs.set_capacity_bytes(2 << 20);
    house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: "t-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    let failed = house
        .append(&topic, 0, vec![record("b")])
        .await
        .expect_err("its sync failed");
    assert!(matches!(failed, Error::WritesRefused { .. }), "{failed}");
    assert!(refuses_for_the_disk(&house, &other).await, "at once");
}

#[tokio::test]
async fn a_checkpoint_that_finds_no_room_refuses_produce_at_once() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    house.fs.set_capacity_bytes(2 << 20);
    house.fs.inject(Fault {
        call: Call::Write,
        // Not that of the log starts: the look of retention that a deletion asks for writes it, too, maybe first.
        path_contains: "recovery-point-offset-checkpoint".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    // DeleteRecords writes a checkpoint before it answers, and no look at the disk comes between.
    house
        .broker
        .delete_records(&topic, &[(PartitionId(0), Some(Offset(1)))])
        .await
        .expect_err("its checkpoint failed");
    assert!(refuses_for_the_disk(&house, &topic).await, "at once");
}

#[tokio::test]
async fn a_roll_that_finds_no_room_refuses_produce_of_all_topics_at_once() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = house.create("t", 1, &[("segment.ms", "1000")]).await;
    let other = house.create("other", 1, &[]).await;
    house.append(&topic, 0, vec![record("a")]).await.expect("good");
    house.clock.advance_ms(2000);
    house.fs.set_capacity_bytes(2 << 20);
    house.fs.inject(Fault {
        call: Call::Open,
        path_contains: "t-0/00000000000000000001.log".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    assert!(
        refuses_for_the_disk(&house, &topic).await,
        "the roll found no room"
    );
    assert!(refuses_for_the_disk(&house, &other).await, "at once");
}

#[tokio::test]
async fn a_stop_on_a_disk_without_room_succeeds_and_loses_nothing() {
    let house = start().await;
    let synced = house.create("s", 1, &[]).await;
    let written = house.create("w", 1, &[("durability", "written")]).await;
    for topic in [&synced, &written] {
        house.append(topic, 0, vec![record("kept")]).await.expect("good");
    }
    house.fs.set_capacity_bytes(0);
    house
        .broker
        .shutdown()
        .await
        .expect("what is missing, a start makes anew");
    let marker = house.fs.stat(Path::new("/data/.kafka_cleanshutdown"));
    assert!(marker.is_err(), "nobody vouches for the directory");
    house.fs.set_capacity_bytes(u64::MAX);
    let house = house.crash().await;
    for topic in [&synced, &written] {
        let spec = read(topic, ReadStart::Earliest, ReadEnd::Now);
        assert_eq!(house.values(spec).await.expect("readable"), ["kept"]);
    }
}

#[tokio::test]
async fn a_stop_that_cannot_sync_what_was_appended_says_so() {
    let house = start().await;
    let topic = house.create("w", 1, &[("durability", "written")]).await;
    house
        .append(&topic, 0, vec![record("doubtful")])
        .await
        .expect("good");
    house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: "w-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    let failed = house.broker.shutdown().await.expect_err("data is at risk");
    assert!(failed.to_string().contains("w-0"), "{failed}");
}
