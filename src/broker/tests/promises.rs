//! The cleaner's promises: that it never parks, that `max.compaction.lag.ms` is kept whatever else is to do, and that it says so
//! where it is not. Turns are taken by hand, as in `cleaner`.

use super::cleaner::{COMPACT, Workshop, command, owned};
use super::*;
use crate::broker::cleaner::Turn;

const LAG: (&str, &str) = ("max.compaction.lag.ms", "20000");

fn broken(call: Call, times: u32) -> Fault {
    Fault {
        call,
        path_contains: ".cleaned".to_owned(),
        times,
        failure: Failure::Kind(IoErrorKind::Other),
    }
}

impl Workshop {
    fn metric(&self, name: &str) -> String {
        let text = self.house.broker.metrics_text(Exposition::OpenMetrics);
        let name = format!("siltstone_cleaner_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} in\n{text}")).to_owned()
    }

    /// Takes turns until there is nothing to do.
    fn turns(&self) -> usize {
        let turns = (0..100).take_while(|_| self.turn() == Turn::Worked);
        turns.count()
    }

    async fn asked(&self, topic: &TopicName) -> u64 {
        let wish = command(topic);
        let asked = self.house.broker.compact_now(&wish, CompactWait::AtMostMs(0));
        asked.await.expect("a compacted topic").handle
    }

    async fn bury(&self, topic: &TopicName, key: &str) {
        let tombstone = NewRecord {
            value: None,
            ..keyed(key, "")
        };
        let written = self.house.append(topic, 0, vec![tombstone]).await;
        written.expect("written");
    }
}

#[tokio::test]
async fn a_command_whose_pass_failed_is_tried_again_after_a_pause_though_nothing_is_written() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("b", "1"), ("a", "2")]).await;
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(15)));
    shop.house.fs.inject(broken(Call::Write, 1));
    let job = shop.compact(&topic).await;
    assert!(
        matches!(job.partitions[0].state, JobState::Failed { .. }),
        "{job:?}"
    );
    let told = shop.explain(&topic);
    assert_eq!(told.next_run, Some(Timestamp(NOW.0 + 1_000)));
    assert!(told.why_not_now.is_some_and(|why| why.contains("failed")));
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(1)));
    assert_eq!(shop.metric("failing_partitions"), "1");
    shop.clock.advance_ms(1_000);
    assert_eq!(shop.explain(&topic).why_not_now, None);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.explain(&topic).last_error, None);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "1"), (2, "2")]));
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(15)));
    assert_eq!(shop.metric("failing_partitions"), "0");
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_park_a_log_that_failed() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    shop.house.fs.inject(broken(Call::Write, 1));
    shop.compact(&topic).await;
    shop.clock.advance_ms(-10 * 3_600_000);
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(1)));
    shop.clock.advance_ms(1_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
}

#[tokio::test]
async fn a_promise_comes_before_a_command() {
    let shop = Workshop::open().await;
    let promised = shop.house.create("promised", 1, &[COMPACT, LAG]).await;
    let asked = shop.house.create("asked", 1, &[COMPACT]).await;
    for topic in [&promised, &asked] {
        shop.write(topic, &[("a", "1"), ("a", "2")]).await;
    }
    let handle = shop.asked(&asked).await;
    shop.clock.advance_ms(10_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&promised).await, owned(&[(1, "2")]));
    assert_eq!(shop.job(handle).await.partitions[0].state, JobState::Waiting);
    assert_eq!(shop.turn(), Turn::Worked);
    assert!(shop.job(handle).await.is_over());
}

#[tokio::test]
async fn a_promise_is_kept_while_the_only_thread_is_at_another_log_that_its_budget_holds_up() {
    let shop = Workshop::on(SimFs::new(), |config| config.cleaner.io_max_bytes_per_second = 1).await;
    let promised = shop.house.create("promised", 1, &[COMPACT, LAG]).await;
    let slow = shop.house.create("slow", 1, &[COMPACT]).await;
    for topic in [&promised, &slow] {
        shop.write(topic, &[("a", "1"), ("a", "2")]).await;
    }
    let handle = shop.asked(&slow).await;
    let core = Arc::clone(&shop.house.broker.core);
    let thread = tokio::task::spawn_blocking(move || core.clean_next());
    let running = async || {
        let state = shop.job(handle).await.partitions[0].state.clone();
        matches!(state, JobState::Running { .. })
    };
    while !running().await {
        tokio::task::yield_now().await;
    }
    shop.clock.advance_ms(10_000);
    let kept = async {
        while shop.records(&promised).await.len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, kept)
        .await
        .expect("the thread sees to it");
    assert!(running().await, "the other pass goes on where it was");
    assert_eq!(shop.records(&slow).await.len(), 2);
    shop.house.broker.core.cleaner.end();
    assert_eq!(thread.await.expect("no panic"), Turn::Worked);
}

#[tokio::test]
async fn a_promise_that_is_broken_whatever_broke_it_raises_one_alarm_and_explain_says_why() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT, LAG]).await;
    shop.turn();
    // The topics' own log is compacted, too.
    let dirty_offsets = |shop: &Workshop| -> u64 { shop.metric("dirty_offsets").parse().expect("a number") };
    let before = dirty_offsets(&shop);
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    shop.house.fs.inject(broken(Call::SyncData, 8));
    for _ in 0..40 {
        shop.clock.advance_ms(500);
        shop.turn();
    }
    assert_eq!(shop.explain(&topic).budget_alarm, None, "not yet");
    assert_eq!(shop.metric("promise_alarms_total"), "0");
    for _ in 0..4 {
        shop.clock.advance_ms(500);
        shop.turn();
    }
    let told = shop.explain(&topic);
    let alarm = told.budget_alarm.expect("it is broken");
    assert!(
        alarm.contains("broken since 2000 ms: the last pass failed"),
        "{alarm}"
    );
    assert!(told.next_run.is_some() && told.why_not_now.is_some());
    assert_eq!(shop.metric("promise_alarms_total"), "1");
    assert_eq!(shop.metric("overdue_partitions"), "1");
    assert_ne!(shop.metric("dirty_bytes"), "0");
    assert_eq!(dirty_offsets(&shop), before + 2);
    assert_eq!(shop.metric("dirty_ratio"), "1.0");
    assert_eq!(shop.metric("oldest_dirty_seconds"), "22");
    for _ in 0..20 {
        shop.clock.advance_ms(60_000);
        shop.turn();
    }
    assert_eq!(shop.explain(&topic).budget_alarm, None);
    assert_eq!(shop.metric("overdue_partitions"), "0");
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
}

#[tokio::test]
async fn somebody_who_writes_on_and_on_does_not_put_off_the_promise_beyond_its_lag() {
    let shop = Workshop::open().await;
    let settings = [COMPACT, LAG, ("min.compaction.lag.ms", "15000")];
    let topic = shop.house.create("t", 1, &settings).await;
    let mut oldest = 0;
    for index in 0..160 {
        shop.write(&topic, &[("a", &index.to_string())]).await;
        shop.clock.advance_ms(500);
        shop.turns();
        oldest = oldest.max(shop.explain(&topic).oldest_dirty_age_ms.unwrap_or(0));
    }
    assert!((15_000..=20_000).contains(&oldest), "{oldest} ms");
    assert!(shop.records(&topic).await.len() <= 41, "what is older is gone");
    assert_eq!(shop.metric("promise_alarms_total"), "0");
    shop.clock.advance_ms(20_000);
    shop.turns();
    assert_eq!(shop.records(&topic).await, owned(&[(159, "159")]));
}

#[tokio::test]
async fn lags_that_leave_no_room_for_the_promise_are_told() {
    let shop = Workshop::open().await;
    let settings = [COMPACT, LAG, ("min.compaction.lag.ms", "20000")];
    let topic = shop.house.create("t", 1, &settings).await;
    let alarm = shop.explain(&topic).budget_alarm.expect("there is no room");
    assert!(
        alarm.contains("min.compaction.lag.ms leaves less than 2 seconds"),
        "{alarm}"
    );
}

#[tokio::test]
async fn the_first_record_with_a_promise_wakes_a_thread_that_would_sleep_longer() {
    let shop = Workshop::open().await;
    let lag = ("max.compaction.lag.ms", "2000");
    let topic = shop.house.create("t", 1, &[COMPACT, lag]).await;
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(15)));
    let desk = Arc::clone(&shop.house.broker.core.cleaner);
    let sleeper = tokio::task::spawn_blocking(move || desk.sleep(2 * PATIENCE));
    shop.write(&topic, &[("a", "1")]).await;
    let woken = tokio::time::timeout(PATIENCE, sleeper).await;
    woken.expect("long before its pause is over").expect("no panic");
    assert_eq!(
        shop.turn(),
        Turn::Idle(Duration::from_secs(1)),
        "and sleeps no longer"
    );
}

#[tokio::test]
async fn tombstones_of_a_log_that_nobody_writes_to_go_when_explain_said() {
    let shop = Workshop::open().await;
    let topic = shop
        .house
        .create("t", 1, &[COMPACT, ("delete.retention.ms", "60000")])
        .await;
    shop.write(&topic, &[("a", "1"), ("b", "1")]).await;
    shop.bury(&topic, "a").await;
    assert_eq!(shop.compact(&topic).await.partitions[0].tombstones_kept, 1);
    let horizon = Timestamp(NOW.0 + 60_000);
    assert_eq!(shop.explain(&topic).next_run, Some(horizon));
    shop.clock.advance_ms(59_000);
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(1)));
    shop.clock.advance_ms(1_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.explain(&topic).keys.expect("counted").tombstones, 0);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "1")]));
    assert_eq!(shop.explain(&topic).next_run, None, "one pass for a horizon");
}

#[tokio::test]
async fn tombstones_from_before_a_restart_go_though_nobody_writes() {
    let shop = Workshop::open().await;
    let topic = shop
        .house
        .create("t", 1, &[COMPACT, ("delete.retention.ms", "60000")])
        .await;
    shop.write(&topic, &[("a", "1"), ("b", "1")]).await;
    shop.bury(&topic, "a").await;
    shop.compact(&topic).await;
    shop.house.broker.shutdown().await.expect("a good disk");
    let shop = Workshop::on(shop.house.fs, |_| {}).await;
    for _ in 0..4 {
        shop.turns();
        shop.clock.advance_ms(60_000);
    }
    assert_eq!(shop.records(&topic).await, owned(&[(1, "1")]));
}

#[tokio::test]
async fn a_command_stops_before_the_minimum_lag_and_says_so() {
    let shop = Workshop::open().await;
    let lag = ("min.compaction.lag.ms", "60000");
    let topic = shop.house.create("t", 1, &[COMPACT, lag]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    let left = shop.compact(&topic).await.partitions[0].state.clone();
    assert!(
        matches!(&left, JobState::Done { left: Some(left) } if left.contains("min.compaction.lag.ms")),
        "{left:?}"
    );
    assert_eq!(shop.records(&topic).await, owned(&[(0, "1"), (1, "2")]));
}

#[tokio::test]
async fn a_command_stops_before_an_open_transaction_and_says_so() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    assert_eq!(
        shop.compact(&topic).await.partitions[0].state,
        JobState::Done { left: None }
    );
    // Not through the door, which begins no transactions: as a log has them that another server wrote.
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: Some(ProducerStamp {
            id: ProducerId(7),
            epoch: ProducerEpoch(0),
            base_sequence: Some(Sequence(0)),
        }),
        transactional: Transactional::Yes,
        ..BatchOptions::default()
    });
    let added = builder.append(Some(NOW), Some(b"a"), Some(b"3"), &[]);
    added.expect("small");
    let found = shop.house.broker.core.topics.find(&topic).expect("known");
    let log = &found.partition(PartitionId(0)).expect("known").log;
    let batch = builder.build().expect("it has a record");
    log.append(&batch, crate::storage::Origin::Client, NOW)
        .expect("appended");
    let left = shop.compact(&topic).await.partitions[0].state.clone();
    let text = "a transaction is open since offset 2".to_owned();
    assert_eq!(left, JobState::Done { left: Some(text) });
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2"), (2, "3")]));
}

#[tokio::test]
async fn a_command_keeps_what_is_held_and_says_so() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2"), ("a", "3")]).await;
    let hold = TopicHold {
        name: "case 7".to_owned(),
        partition: Some(PartitionId(0)),
        range: HeldRange::Offsets(Offset(0)..Offset(1)),
    };
    shop.house.broker.add_hold(&topic, hold).await.expect("held");
    let left = shop.compact(&topic).await.partitions[0].state.clone();
    let text = "records that a hold keeps, shadowed or not: 1".to_owned();
    assert_eq!(left, JobState::Done { left: Some(text) });
    assert_eq!(shop.records(&topic).await, owned(&[(0, "1"), (2, "3")]));
}

#[tokio::test]
async fn compaction_goes_on_while_a_full_disk_refuses_produce() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    let disk = &shop.house.broker.core.disk;
    assert!(matches!(disk.write_found_no_room(), Error::DiskFull { .. }));
    let job = shop.compact(&topic).await;
    assert_eq!(job.partitions[0].state, JobState::Done { left: None });
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
}

#[tokio::test]
async fn a_pass_that_finds_no_room_has_produce_refused_at_once() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    // Plenty by the reserve, so no look at the disk sets the state; too little for one to clear it.
    shop.house.fs.set_capacity_bytes(2 << 20);
    shop.house.fs.inject(Fault {
        failure: Failure::Kind(IoErrorKind::StorageFull),
        ..broken(Call::Write, 1)
    });
    shop.compact(&topic).await;
    let refused = shop.house.append(&topic, 0, vec![keyed("b", "1")]).await;
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_the_cleaner_seals_is_looked_at_by_retention_at_once() {
    let still = Stillness::begin();
    let shop = Workshop::open().await;
    let settings = [
        ("cleanup.policy", "compact,delete"),
        LAG,
        ("retention.ms", "5000"),
    ];
    let topic = shop.house.create("t", 1, &settings).await;
    shop.write(&topic, &[("a", "1"), ("b", "1")]).await;
    shop.clock.advance_ms(10_000);
    assert_eq!(shop.turn(), Turn::Worked);
    // Not as far as the look at all partitions, which comes after 30 seconds.
    drop(still);
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(shop.records(&topic).await, []);
}

#[tokio::test]
async fn retention_looks_at_every_partition_every_thirty_seconds() {
    let still = Stillness::begin();
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[("retention.ms", "5000")]).await;
    let written = shop.house.append(&topic, 0, vec![record("1")]).await;
    written.expect("written");
    shop.clock.advance_ms(10_000);
    drop(still);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(shop.records(&topic).await.len(), 1, "nothing asked for a look");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(shop.records(&topic).await, []);
}

#[tokio::test]
async fn a_hold_that_ends_breaks_no_promise_and_what_it_kept_goes_at_once() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT, LAG]).await;
    let hold = TopicHold {
        name: "case".to_owned(),
        partition: None,
        range: HeldRange::Offsets(Offset(0)..Offset(1)),
    };
    shop.house.broker.add_hold(&topic, hold).await.expect("added");
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    for _ in 0..10 {
        shop.clock.advance_ms(10_000);
        shop.turns();
    }
    assert_eq!(shop.records(&topic).await, owned(&[(0, "1"), (1, "2")]));
    let removed = shop.house.broker.remove_hold(&topic, "case").await;
    removed.expect("removed");
    let told = shop.explain(&topic);
    assert_eq!((told.budget_alarm, told.why_not_now), (None, None));
    assert_eq!(told.promise_deadline, Some(Timestamp(NOW.0 + 120_000)));
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
    assert_eq!(shop.metric("promise_alarms_total"), "0");
}

#[tokio::test]
async fn lags_that_leave_no_room_raise_one_alarm_and_not_one_for_each_deadline() {
    let shop = Workshop::open().await;
    let settings = [COMPACT, LAG, ("min.compaction.lag.ms", "20000")];
    let topic = shop.house.create("t", 1, &settings).await;
    for index in 0..200 {
        shop.write(&topic, &[("a", &index.to_string())]).await;
        shop.clock.advance_ms(500);
        shop.turns();
    }
    assert_eq!(shop.metric("promise_alarms_total"), "1");
}

#[tokio::test]
async fn metrics_tell_keys_tombstones_the_last_pass_and_the_next() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT, LAG]).await;
    shop.turn();
    let keys_before: u64 = shop.metric("live_keys").parse().expect("a number");
    assert_eq!(shop.metric("last_pass_timestamp_seconds"), "0");
    shop.write(&topic, &[("a", "1"), ("b", "1"), ("a", "2")]).await;
    shop.bury(&topic, "b").await;
    shop.turn();
    let next = shop.explain(&topic).next_run.expect("there is a promise").0 / 1_000;
    assert_eq!(shop.metric("next_run_timestamp_seconds"), next.to_string());
    shop.clock.advance_ms(10_000);
    shop.turns();
    let now = NOW.0 / 1_000 + 10;
    assert_eq!(shop.metric("last_pass_timestamp_seconds"), now.to_string());
    assert_eq!(shop.metric("live_keys"), (keys_before + 1).to_string());
    assert_eq!(shop.metric("tombstones"), "1");
}

#[tokio::test]
async fn explain_tells_how_many_rounds_are_left_and_for_how_many_keys_there_is_room() {
    let shop = Workshop::on(SimFs::new(), |config| config.cleaner.dedupe_buffer_bytes = 40).await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("b", "1"), ("b", "2")]).await;
    // The first round finds nothing to change, and the second does not come to its end.
    shop.house.fs.inject(broken(Call::Write, 1));
    let job = shop.compact(&topic).await;
    assert_eq!(job.partitions[0].passes, 1, "{job:?}");
    let left = |shop: &Workshop| {
        let told = shop.explain(&topic).last_pass.expect("one came to its end");
        told.rounds_left.map(|left| (left.estimate, left.map_keys))
    };
    assert_eq!(left(&shop), Some((2, 1)));
    shop.turn();
    assert_eq!(shop.metric("rounds_left"), "2");
    shop.clock.advance_ms(1_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(left(&shop), None);
    shop.turn();
    assert_eq!(shop.metric("rounds_left"), "0");
    assert_eq!(shop.records(&topic).await, owned(&[(0, "1"), (2, "2")]));
}
