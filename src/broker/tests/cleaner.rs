//! The cleaner behind the broker: commands, the schedule, promises, failures, and what is told about them. Turns are taken by
//! hand, so that nothing depends on when a thread wakes.

use super::*;
use crate::broker::cleaner::Turn;

/// A broker whose clock and cleaner move when told.
pub(super) struct Workshop {
    pub(super) house: House,
    pub(super) clock: Arc<ManualClock>,
}

impl Workshop {
    pub(super) async fn open() -> Self {
        Self::on(SimFs::new(), |_| {}).await
    }

    pub(super) async fn on(fs: SimFs, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let clock = Arc::new(ManualClock::starting_at(NOW));
        let world = World {
            fs: Arc::new(fs.clone()),
            clock: Arc::<ManualClock>::clone(&clock),
        };
        let mut config = config();
        config.cleaner.threads = 0;
        change(&mut config);
        let broker = Broker::start(config, world).await.expect("a good disk");
        let house = House {
            fs,
            clock: Arc::clone(&clock),
            broker,
        };
        Self { house, clock }
    }

    pub(super) fn turn(&self) -> Turn {
        self.house.broker.core.clean_next()
    }

    pub(super) fn explain(&self, topic: &TopicName) -> CompactionExplanation {
        let explained = self
            .house
            .broker
            .explain_compaction(topic, &AskedPartitions::all());
        explained.expect("known").pop().expect("one partition")
    }

    pub(super) async fn write(&self, topic: &TopicName, records: &[(&str, &str)]) {
        for (key, value) in records {
            let written = self.house.append(topic, 0, vec![keyed(key, value)]).await;
            written.expect("written");
        }
    }

    pub(super) async fn compact(&self, topic: &TopicName) -> CompactionJob {
        let wish = command(topic);
        let job = self
            .house
            .broker
            .compact_now(&wish, CompactWait::AtMostMs(0))
            .await
            .expect("a compacted topic");
        assert_eq!(job.partitions[0].state, JobState::Waiting);
        assert_eq!(self.turn(), Turn::Worked);
        self.job(job.handle).await
    }

    pub(super) async fn job(&self, handle: u64) -> CompactionJob {
        let job = self.house.broker.compaction_job(handle, CompactWait::AtMostMs(0));
        job.await.expect("known")
    }

    /// Offsets and values of all records.
    pub(super) async fn records(&self, topic: &TopicName) -> Vec<(i64, String)> {
        let spec = read(topic, ReadStart::Earliest, ReadEnd::Now);
        let mut stream = self.house.broker.open_read(spec).await.expect("known");
        let mut found = Vec::new();
        while let Some(step) = stream.next().await.expect("sound") {
            let records = step.chunk.records().expect("sound");
            found.extend(records.iter().map(|record| (record.offset.0, text(record))));
        }
        found
    }
}

pub(super) fn command(topic: &TopicName) -> CompactNow {
    CompactNow {
        topic: topic.clone(),
        partitions: Vec::new(),
    }
}

pub(super) fn owned(records: &[(i64, &str)]) -> Vec<(i64, String)> {
    let owned = |(offset, value): &(i64, &str)| (*offset, (*value).to_owned());
    records.iter().map(owned).collect()
}

pub(super) const COMPACT: (&str, &str) = ("cleanup.policy", "compact");

#[tokio::test]
async fn a_command_leaves_the_newest_record_of_each_key_at_its_offset_and_says_so() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(
        &topic,
        &[("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("b", "b2")],
    )
    .await;
    let job = shop.compact(&topic).await;
    assert!(job.is_over());
    let one = &job.partitions[0];
    assert_eq!(one.state, JobState::Done { left: None });
    assert_eq!((one.values_kept, one.records_dropped), (3, 2));
    assert!(one.after_bytes < one.before_bytes, "{one:?}");
    assert_eq!(
        shop.records(&topic).await,
        owned(&[(2, "a2"), (3, "c1"), (4, "b2")])
    );
    let explained = shop.explain(&topic);
    let keys = explained.keys.expect("a pass counted");
    assert_eq!((keys.live, keys.exactness), (3, Exactness::Exact));
    assert_eq!(explained.cleaner_point, Offset(5));
}

#[tokio::test]
async fn a_thread_of_the_cleaner_answers_a_command_without_a_turn_by_hand() {
    let shop = Workshop::on(SimFs::new(), |config| config.cleaner.threads = 2).await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    let wish = command(&topic);
    let done = shop.house.broker.compact_now(&wish, CompactWait::UntilDone);
    let job = tokio::time::timeout(PATIENCE, done)
        .await
        .expect("in time")
        .expect("known");
    assert!(job.is_over());
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
    shop.house.broker.shutdown().await.expect("a good disk");
}

#[tokio::test]
async fn a_topic_that_is_not_compacted_cannot_be_and_the_error_says_what_to_do() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[]).await;
    let wish = command(&topic);
    let refused = shop.house.broker.compact_now(&wish, CompactWait::UntilDone).await;
    let error = refused.expect_err("it is not compacted").to_string();
    assert_eq!(
        error,
        "topic t is not compacted; to have it so: siltstone topic alter t --config cleanup.policy=compact"
    );
    let unknown = shop.house.broker.compaction_job(7, CompactWait::UntilDone).await;
    assert!(
        unknown
            .expect_err("never given")
            .to_string()
            .contains("compaction 7 is not known")
    );
}

#[tokio::test]
async fn a_record_without_a_key_is_refused_at_the_door_of_a_compacted_topic() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    let refused = shop.house.append(&topic, 0, vec![record("no key")]).await;
    assert!(matches!(refused, Err(Error::InvalidRecord { .. })), "{refused:?}");
    assert_eq!(shop.records(&topic).await, []);
}

#[tokio::test]
async fn an_idle_log_is_cleaned_before_its_promise_breaks_and_explain_said_when() {
    let shop = Workshop::open().await;
    let lag = ("max.compaction.lag.ms", "20000");
    let topic = shop.house.create("t", 1, &[COMPACT, lag]).await;
    shop.write(&topic, &[("a", "old"), ("a", "new")]).await;
    let told = shop.explain(&topic);
    let deadline = told.promise_deadline.expect("there is a promise");
    assert_eq!(deadline, Timestamp(NOW.0 + 20_000));
    let next_run = told.next_run.expect("time alone decides");
    assert!(NOW < next_run && next_run < deadline, "{next_run:?}");
    assert_eq!(
        told.why_not_now.as_deref(),
        Some("what is dirty lies in the active segment")
    );

    let ahead = next_run.0 - NOW.0;
    let pause = Duration::from_millis(u64::try_from(ahead).expect("ahead"));
    assert_eq!(
        shop.turn(),
        Turn::Idle(pause),
        "a thread sleeps until then and no longer"
    );
    shop.clock.advance_ms(ahead - 1);
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_millis(1)));
    shop.clock.advance_ms(1);
    assert_eq!(shop.explain(&topic).why_not_now, None);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "new")]));
    assert_eq!(shop.explain(&topic).promise_deadline, None);
}

#[tokio::test]
async fn the_ratio_decides_for_sealed_segments_and_what_explain_predicts_happens() {
    let shop = Workshop::open().await;
    let small = ("segment.bytes", "16384");
    let half = ("min.cleanable.dirty.ratio", "0.5");
    let topic = shop.house.create("t", 1, &[COMPACT, half, small]).await;
    let value = "x".repeat(5_000);
    let value = value.as_str();
    shop.write(&topic, &[("a", value), ("b", value), ("c", value), ("d", value)])
        .await;
    shop.compact(&topic).await;
    let mut turns = 0;
    for _ in 0..20 {
        shop.write(&topic, &[("a", value)]).await;
        let predicted = shop.explain(&topic);
        match shop.turn() {
            Turn::Worked => {
                turns += 1;
                assert_eq!(predicted.next_run, Some(NOW), "{predicted:?}");
                assert!(predicted.dirty_ratio > 0.5);
                assert_eq!(shop.explain(&topic).dirty_bytes, 0);
            }
            Turn::Idle(_) => {
                assert!(predicted.why_not_now.is_some(), "{predicted:?}");
                assert!(predicted.dirty_ratio <= 0.5);
            }
        }
    }
    assert!(turns > 0, "it became dirty enough at some time");
}

#[tokio::test]
async fn a_pass_by_ratio_waits_for_no_sync_of_what_it_does_not_clean() {
    let shop = Workshop::open().await;
    let settings = [COMPACT, ("segment.bytes", "16384"), ("durability", "written")];
    let topic = shop.house.create("t", 1, &settings).await;
    let value = "x".repeat(5_000);
    shop.write(
        &topic,
        &[("a", &value), ("a", &value), ("a", &value), ("a", &value)],
    )
    .await;
    let core = &shop.house.broker.core;
    let served = Arc::clone(&core.topics.find(&topic).expect("it is there").partitions[0]);
    drop(core.syncer.round(vec![Arc::clone(&served)]));
    shop.write(&topic, &[("b", "1")]).await;
    assert_eq!(shop.turn(), Turn::Worked);
    let view = served.log.compaction(NOW);
    assert_eq!((view.dirty_bytes, view.cleaner_point), (0, Offset(3)));
    let marks = served.log.watermarks();
    assert_eq!((marks.recovery_point, marks.log_end), (Offset(4), Offset(5)));
}

#[tokio::test]
async fn a_roll_wakes_an_idle_thread() {
    let shop = Workshop::open().await;
    let small = ("segment.bytes", "16384");
    let topic = shop.house.create("t", 1, &[COMPACT, small]).await;
    let desk = Arc::clone(&shop.house.broker.core.cleaner);
    let sleeper = tokio::task::spawn_blocking(move || desk.sleep(2 * PATIENCE));
    let value = "x".repeat(10_000);
    shop.write(&topic, &[("a", &value), ("a", &value)]).await;
    let woken = tokio::time::timeout(PATIENCE, sleeper).await;
    woken.expect("long before its pause is over").expect("no panic");
}

#[tokio::test]
async fn a_thread_sleeps_while_a_command_waits_for_a_log_that_another_has_until_that_is_given_back() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    let core = Arc::clone(&shop.house.broker.core);
    let served = Arc::clone(&core.topics.find(&topic).expect("it is there").partitions[0]);
    let claimed = core.claim(&served).expect("nobody has it");
    let wish = command(&topic);
    let asked = shop.house.broker.compact_now(&wish, CompactWait::AtMostMs(0));
    let handle = asked.await.expect("a compacted topic").handle;
    let slept = |pause| {
        let begun = std::time::Instant::now();
        core.cleaner.sleep(pause);
        begun.elapsed() >= pause
    };
    let (short, long) = (Duration::from_millis(50), PATIENCE);
    assert!(!slept(long), "the command rings");
    for _ in 0..3 {
        assert!(matches!(shop.turn(), Turn::Idle(_)));
        assert!(slept(short), "there is nothing that it could do");
    }
    drop(claimed);
    assert!(!slept(long), "now there is");
    assert_eq!(shop.turn(), Turn::Worked);
    assert!(shop.job(handle).await.is_over());
}

#[tokio::test]
async fn of_a_command_every_partition_is_told_and_it_is_over_with_the_last() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 3, &[COMPACT]).await;
    let wish = command(&topic);
    let asked = shop.house.broker.compact_now(&wish, CompactWait::AtMostMs(0));
    let handle = asked.await.expect("a compacted topic").handle;
    for done in 1..=3 {
        assert_eq!(shop.turn(), Turn::Worked);
        let job = shop.job(handle).await;
        let waiting = |one: &&crate::broker::PartitionJob| one.state == JobState::Waiting;
        assert_eq!(job.partitions.iter().filter(waiting).count(), 3 - done);
        assert_eq!(job.is_over(), done == 3);
    }
    let job = shop.house.broker.compaction_job(handle, CompactWait::UntilDone);
    let told = tokio::time::timeout(PATIENCE, job).await.expect("at once");
    assert!(told.expect("known").is_over());
}

#[tokio::test]
async fn keys_are_told_as_exact_until_something_is_deleted_that_was_counted() {
    let shop = Workshop::open().await;
    let topic = shop
        .house
        .create("t", 1, &[("cleanup.policy", "compact,delete")])
        .await;
    shop.write(&topic, &[("a", "1"), ("a", "2"), ("b", "1")]).await;
    shop.compact(&topic).await;
    let told = |shop: &Workshop| {
        let keys = shop.explain(&topic).keys.expect("a pass counted");
        (keys.live, keys.exactness)
    };
    assert_eq!(told(&shop), (2, Exactness::Exact));
    let before = [(PartitionId(0), Some(Offset(2)))];
    let deleted = shop.house.broker.delete_records(&topic, &before).await;
    deleted.expect("it may be deleted");
    assert_eq!(told(&shop), (2, Exactness::Estimated));
}

#[tokio::test]
async fn after_a_restart_explain_tells_how_the_log_stands_and_nothing_of_passes_before_it() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2"), ("b", "1")]).await;
    shop.compact(&topic).await;
    let before = shop.explain(&topic);
    assert!(before.last_pass.is_some() && before.keys.is_some());
    let house = shop.house.restart().await;
    let explained = house.broker.explain_compaction(&topic, &AskedPartitions::all());
    let after = explained.expect("known").pop().expect("one partition");
    assert_eq!(
        (after.last_pass, after.keys, after.last_error),
        (None, None, None)
    );
    assert_eq!(after.cleaner_point, before.cleaner_point);
    assert_eq!(
        (after.clean_bytes, after.dirty_bytes, after.uncleanable_bytes),
        (before.clean_bytes, 0, 0)
    );
    assert_eq!(after.why_not_now.as_deref(), Some("nothing is dirty"));
    assert!(
        after.next_run.is_some(),
        "what tombstones there are a pass finds out"
    );
}

#[tokio::test]
async fn a_promise_is_kept_in_a_log_that_nobody_syncs() {
    let shop = Workshop::open().await;
    let settings = [
        COMPACT,
        ("max.compaction.lag.ms", "20000"),
        ("durability", "written"),
    ];
    let topic = shop.house.create("t", 1, &settings).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    shop.clock.advance_ms(10_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
}

#[tokio::test]
async fn every_kind_of_disk_failure_shows_is_tried_again_and_clears() {
    for call in [Call::Open, Call::Write, Call::SyncData, Call::Rename] {
        let shop = Workshop::open().await;
        let topic = shop.house.create("t", 1, &[COMPACT]).await;
        shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
        shop.house.fs.inject(Fault {
            call,
            path_contains: ".cleaned".to_owned(),
            times: 1,
            failure: Failure::Kind(IoErrorKind::Other),
        });
        let job = shop.compact(&topic).await;
        assert!(
            matches!(&job.partitions[0].state, JobState::Failed { reason } if reason.contains("t-0")),
            "{call:?}: {job:?}"
        );
        let told = shop.explain(&topic);
        let error = told.last_error.expect("it failed");
        assert_eq!(
            (error.failures, error.retry_at),
            (1, Timestamp(NOW.0 + 1_000)),
            "{call:?}"
        );
        assert_eq!(shop.records(&topic).await.last(), Some(&(1, "2".to_owned())));
        assert!(
            shop.house
                .broker
                .metrics_text(Exposition::OpenMetrics)
                .contains("siltstone_cleaner_failures_total 1")
        );

        let again = shop.compact(&topic).await;
        assert_eq!(
            again.partitions[0].state,
            JobState::Done { left: None },
            "{call:?}"
        );
        assert_eq!(shop.explain(&topic).last_error, None, "{call:?}");
        assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]), "{call:?}");
    }
}

#[tokio::test]
async fn a_log_that_refuses_writes_keeps_no_other_from_being_cleaned() {
    let shop = Workshop::open().await;
    let settings = [COMPACT, ("max.compaction.lag.ms", "60000")];
    let stuck = shop.house.create("stuck", 1, &settings).await;
    let fine = shop.house.create("fine", 1, &settings).await;
    shop.write(&stuck, &[("a", "1"), ("a", "2")]).await;
    shop.clock.advance_ms(1_000);
    shop.write(&fine, &[("a", "1"), ("a", "2")]).await;
    // Neither a sync nor the copy of a repair finds room.
    shop.house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: "stuck-0".to_owned(),
        times: u32::MAX,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    let refused = shop.house.append(&stuck, 0, vec![keyed("a", "3")]).await;
    refused.expect_err("it cannot be synced");
    shop.clock.advance_ms(59_000);
    for _ in 0..2 {
        assert_eq!(shop.turn(), Turn::Worked);
    }
    assert_eq!(shop.records(&fine).await, owned(&[(1, "2")]));
    let told = shop.explain(&stuck).last_error.expect("it shows");
    assert!(told.reason.contains("before writes resume"), "{told:?}");
    assert!(shop.explain(&fine).last_error.is_none());
}

#[tokio::test]
async fn a_log_whose_pass_failed_is_cleaned_by_the_schedule_after_its_pause() {
    let shop = Workshop::open().await;
    let lag = ("max.compaction.lag.ms", "20000");
    let topic = shop.house.create("t", 1, &[COMPACT, lag]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    shop.house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: ".cleaned".to_owned(),
        times: 2,
        failure: Failure::Kind(IoErrorKind::Other),
    });
    shop.clock.advance_ms(10_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.turn(), Turn::Idle(Duration::from_secs(1)));
    shop.clock.advance_ms(1_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(
        shop.turn(),
        Turn::Idle(Duration::from_secs(2)),
        "the pause doubles"
    );
    shop.clock.advance_ms(2_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
}

#[tokio::test]
async fn the_topics_own_log_is_compacted_too_and_a_restart_finds_all_topics() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 2, &[]).await;
    for days in 1..20 {
        let change = ConfigChange {
            set: [("retention.ms".to_owned(), days.to_string())].into(),
            unset: Vec::new(),
        };
        let altered = shop
            .house
            .broker
            .alter_topic(&topic, change, Execution::Apply)
            .await;
        altered.expect("valid");
    }
    let internal = crate::broker::metadata::partition().topic;
    let job = shop.compact(&internal).await;
    assert!(job.partitions[0].records_dropped >= 19, "{job:?}");
    let before = shop.house.broker.describe_topic(&topic).expect("known");
    let house = shop.house.restart().await;
    assert_eq!(house.broker.describe_topic(&topic).expect("known"), before);
}

#[tokio::test]
async fn a_command_for_a_topic_that_is_deleted_meanwhile_ends() {
    let shop = Workshop::open().await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1")]).await;
    let wish = command(&topic);
    let job = shop
        .house
        .broker
        .compact_now(&wish, CompactWait::AtMostMs(0))
        .await;
    let handle = job.expect("a compacted topic").handle;
    shop.house.broker.delete_topic(&topic).await.expect("deleted");
    assert_eq!(shop.turn(), Turn::Worked);
    let job = shop.job(handle).await;
    assert!(
        matches!(job.partitions[0].state, JobState::Failed { .. }),
        "{job:?}"
    );
}

/// A broker whose passes may read and write one byte a second, and one of them under way.
async fn creeping() -> (Workshop, TopicName, u64) {
    let shop = Workshop::on(SimFs::new(), |config| {
        config.cleaner.threads = 1;
        config.cleaner.io_max_bytes_per_second = 1;
    })
    .await;
    let topic = shop.house.create("t", 1, &[COMPACT]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    let wish = command(&topic);
    let begun = shop
        .house
        .broker
        .compact_now(&wish, CompactWait::AtMostMs(0))
        .await;
    let handle = begun.expect("a compacted topic").handle;
    while !matches!(
        shop.job(handle).await.partitions[0].state,
        JobState::Running { .. }
    ) {
        tokio::task::yield_now().await;
    }
    (shop, topic, handle)
}

#[tokio::test]
async fn a_pass_that_waits_for_its_budget_ends_when_the_broker_stops() {
    let (shop, topic, _) = creeping().await;
    let stopped = tokio::time::timeout(PATIENCE, shop.house.broker.shutdown()).await;
    stopped.expect("in time").expect("a good disk");
    // Nobody cleans here: a thread of the next broker would do at once what the pass was kept from.
    let next = Workshop::on(shop.house.fs, |_| {}).await;
    assert_eq!(next.records(&topic).await, owned(&[(0, "1"), (1, "2")]));
}

#[tokio::test]
async fn a_pass_that_waits_for_its_budget_ends_when_its_topic_is_deleted() {
    let (shop, topic, handle) = creeping().await;
    let deleted = tokio::time::timeout(PATIENCE, shop.house.broker.delete_topic(&topic)).await;
    deleted.expect("in time").expect("deleted");
    let over = shop.house.broker.compaction_job(handle, CompactWait::UntilDone);
    let job = tokio::time::timeout(PATIENCE, over)
        .await
        .expect("in time")
        .expect("known");
    assert!(
        matches!(job.partitions[0].state, JobState::Failed { .. }),
        "{job:?}"
    );
}

#[tokio::test]
async fn a_pass_goes_beyond_a_budget_that_would_break_its_promise_and_raises_an_alarm() {
    let shop = Workshop::on(SimFs::new(), |config| config.cleaner.io_max_bytes_per_second = 1).await;
    let lag = ("max.compaction.lag.ms", "20000");
    let topic = shop.house.create("t", 1, &[COMPACT, lag]).await;
    shop.write(&topic, &[("a", "1"), ("a", "2")]).await;
    shop.clock.advance_ms(10_000);
    assert_eq!(shop.turn(), Turn::Worked);
    assert_eq!(shop.records(&topic).await, owned(&[(1, "2")]));
    let metrics = shop.house.broker.metrics_text(Exposition::OpenMetrics);
    assert!(
        metrics.contains("siltstone_cleaner_promise_alarms_total 1"),
        "{metrics}"
    );
}
