//! The archive behind a broker: what goes there, what leaves the disk, and that every call answers as before.

use super::golden::{end, one};
use super::*;
use crate::record::{Accepted, Outcome};
use crate::storage::Origin;
use crate::tier::testing::{Fault, FaultyStore, Kind, bucket as faulty_bucket, memory};
use crate::tier::{CallLimits, Catalog, Ledger, TierStore};

/// How long virtual time goes on, at most, until what the background does is to be seen.
const LONG: Duration = Duration::from_secs(600);
/// In real time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn bucket() -> TierStore {
    TierStore::open("memory://", CallLimits::default()).expect("memory")
}

pub(super) fn archiving(store: &TierStore) -> BrokerConfig {
    BrokerConfig {
        archive: ArchiveConfig {
            url: Some("memory://".to_owned()),
            store: Some(store.clone()),
            ..ArchiveConfig::default()
        },
        ..config()
    }
}

pub(super) async fn start_with(fs: SimFs, config: BrokerConfig) -> Result<House, Error> {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let world = World {
        fs: Arc::new(fs.clone()),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
    };
    Broker::start(config, world)
        .await
        .map(|broker| House { fs, clock, broker })
}

pub(super) async fn house(store: &TierStore) -> House {
    start_with(SimFs::new(), archiving(store))
        .await
        .expect("it starts")
}

pub(super) const SMALL: [(&str, &str); 2] = [("segment.bytes", "16384"), ("local.retention.bytes", "0")];

/// As [`SMALL`], of keys; compacted only by command.
pub(super) const COMPACTED: [(&str, &str); 3] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16384"),
    ("min.cleanable.dirty.ratio", "1"),
];

pub(super) fn value(number: i64) -> String {
    format!("{number:06} {}", "x".repeat(1000))
}

/// Appends records of increasing times, one for each call.
pub(super) async fn fill(house: &House, topic: &TopicName, numbers: std::ops::Range<i64>) {
    // Virtual time does not go on while such work is under way, as the thread does that syncs.
    let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
    tokio::task::spawn_blocking(move || is_over.recv());
    for number in numbers {
        let record = timed(&value(number), NOW.0 + number);
        house.append(topic, 0, vec![record]).await.expect("appended");
    }
}

pub(super) fn marks(house: &House, topic: &TopicName) -> crate::storage::WatermarkView {
    let found = house.broker.core.topics.find(topic).expect("it is there");
    found.partitions[0].log.watermarks()
}

pub(super) fn status(house: &House, topic: &TopicName) -> PartitionArchive {
    let found = house.broker.core.topics.find(topic).expect("it is there");
    let archive = house.broker.core.archive.as_ref().expect("it has one");
    archive.status(&found.partitions[0]).expect("it is archived")
}

/// Lets the background work until `is_done`. Virtual time runs ahead of threads that the runtime does not know, as the
/// cleaner's: they get real time.
pub(super) async fn until(what: &str, mut is_done: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_done() {
        assert!(begin.elapsed() < PATIENCE, "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let others = tokio::task::spawn_blocking(std::thread::yield_now);
        others.await.expect("it only yields");
    }
}

/// Waits until so much of the log has left the local disk.
pub(super) async fn until_left(house: &House, topic: &TopicName, behind: i64) {
    let has_left = || marks(house, topic).local_start > Offset(behind);
    until("the local part leaves", has_left).await;
}

/// Waits until the archive has the log up to this offset.
pub(super) async fn until_archived(house: &House, topic: &TopicName, end: i64) {
    let is_there = || status(house, topic).end == Some(Offset(end));
    until("all is archived", is_there).await;
}

/// Changes one setting.
pub(super) async fn alter(house: &House, topic: &TopicName, (setting, value): (&str, &str)) {
    let change = ConfigChange {
        set: BTreeMap::from([(setting.to_owned(), value.to_owned())]),
        unset: Vec::new(),
    };
    let altered = house.broker.alter_topic(topic, change, Execution::Apply).await;
    altered.expect("altered");
}

/// Waits until the archive has heard of the topic.
async fn until_known(house: &House, topic: &TopicName) {
    until("the catalog is there", || {
        house.broker.core.topics.find(topic).is_ok_and(|topic| {
            let archive = house.broker.core.archive.as_ref().expect("it has one");
            archive.status(&topic.partitions[0]).is_some()
        })
    })
    .await;
}

pub(super) async fn all_values(house: &House, topic: &TopicName) -> Vec<String> {
    let values = house.values(read(topic, ReadStart::Earliest, ReadEnd::Now)).await;
    values.expect("readable")
}

pub(super) fn values(numbers: std::ops::Range<i64>) -> Vec<String> {
    numbers.map(value).collect()
}

#[tokio::test(start_paused = true)]
async fn a_log_that_left_the_disk_is_read_as_before_by_every_call() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    until_left(&house, &topic, 50).await;
    let check = async |house: &House| {
        let marks = marks(house, &topic);
        assert_eq!(marks.log_start, Offset(0));
        assert!(marks.local_start > Offset(50));
        assert_eq!(all_values(house, &topic).await, values(0..100));
        let times = read(
            &topic,
            ReadStart::Time(Timestamp(NOW.0 + 20)),
            ReadEnd::Time(Timestamp(NOW.0 + 30)),
        );
        assert_eq!(house.values(times).await.expect("readable"), values(20..30));
        let chunk = house.fetch(&topic, 7, 0).await.expect("readable");
        assert_eq!(texts(&chunk)[0], value(7));
        for (query, offset) in [
            (OffsetQuery::Earliest, Some(0)),
            (OffsetQuery::Time(Timestamp(NOW.0 + 33)), Some(33)),
            (OffsetQuery::Time(Timestamp(NOW.0 + 99)), Some(99)),
            (OffsetQuery::Time(Timestamp(NOW.0 + 100)), None),
            (OffsetQuery::MaxTimestamp, Some(99)),
        ] {
            let found = house
                .broker
                .list_offsets(&topic, &[], query, Isolation::ReadCommitted)
                .await
                .expect("found");
            assert_eq!(found[0].offset.map(|offset| offset.0), offset, "{query:?}");
        }
    };
    check(&house).await;
    let fs = house.fs.clone();
    house.broker.shutdown().await.expect("a good disk");
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    check(&house).await;
    let fs = house.fs.crash(CrashChoice::LoseAll);
    drop(house);
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    check(&house).await;
    house.broker.shutdown().await.expect("a good disk");
}

#[tokio::test(start_paused = true)]
async fn without_its_archive_a_log_says_where_the_rest_is_and_loses_nothing() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..60).await;
    until_left(&house, &topic, 20).await;
    house.broker.shutdown().await.expect("a good disk");
    let without = start_with(house.fs.clone(), config()).await.expect("it starts");
    let error = without.fetch(&topic, 0, 0).await.expect_err("it is not here");
    assert!(
        error.to_string().contains("start the server with its tier.url"),
        "{error}"
    );
    let query = OffsetQuery::Time(NOW);
    let found = without
        .broker
        .list_offsets(&topic, &[], query, Isolation::ReadCommitted)
        .await;
    assert!(matches!(found, Err(Error::ArchiveOnly { .. })), "{found:?}");
    fill(&without, &topic, 60..62).await;
    without.broker.shutdown().await.expect("a good disk");
    let house = start_with(without.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    assert_eq!(all_values(&house, &topic).await, values(0..62));
}

#[tokio::test(start_paused = true)]
async fn an_idle_segment_is_archived_within_the_lag_and_a_stop_takes_the_rest() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &[("tier.max.lag.ms", "60000")]).await;
    fill(&house, &topic, 0..3).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(status(&house, &topic).end, None);
    house.clock.advance_ms(60_000);
    until("the idle segment goes", || {
        status(&house, &topic).end == Some(Offset(3))
    })
    .await;
    assert_eq!(status(&house, &topic).lag_bytes, 0);
    fill(&house, &topic, 3..5).await;
    house.broker.shutdown().await.expect("a good disk");
    let again = start_with(house.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    assert_eq!(status(&again, &topic).end, Some(Offset(5)));
}

#[tokio::test(start_paused = true)]
async fn retention_of_the_whole_shrinks_the_archive_and_objects_are_swept_after_a_delay() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    until_left(&house, &topic, 50).await;
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 100).await;
    let before = objects(&store, "/segments/").await;
    alter(&house, &topic, ("retention.bytes", "40000")).await;
    until("the log start rises", || {
        marks(&house, &topic).log_start > Offset(30)
    })
    .await;
    let start = marks(&house, &topic).log_start;
    assert!(start < marks(&house, &topic).local_start);
    until("the manifest shrinks", || {
        status(&house, &topic).size_bytes < 60_000
    })
    .await;
    assert_eq!(all_values(&house, &topic).await, values(start.0..100));
    assert_eq!(
        objects(&store, "/segments/").await,
        before,
        "nothing is swept yet"
    );
    house.clock.advance_ms(3_600_000);
    let (mut left, begin) = (before, tokio::time::Instant::now());
    while left >= before {
        assert!(begin.elapsed() < LONG, "objects were never swept");
        tokio::time::sleep(Duration::from_secs(1)).await;
        left = objects(&store, "/segments/").await;
    }
    assert_eq!(all_values(&house, &topic).await, values(start.0..100));
    let fs = house.fs.crash(CrashChoice::LoseAll);
    drop(house);
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    assert_eq!(marks(&house, &topic).log_start, start);
}

/// Counts objects whose key has `part` in it.
async fn objects(store: &TierStore, part: &str) -> usize {
    let mut listing = store.list("topics/");
    let mut count = 0;
    while let Some(found) = listing.next().await.expect("listed") {
        count += usize::from(found.key.contains(part) && found.key.contains("/flights/"));
    }
    count
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_on_one_archive_the_older_stops_publishing_and_says_so() {
    let store = bucket();
    let first = house(&store).await;
    let topic = first.create("flights", 1, &SMALL).await;
    fill(&first, &topic, 0..20).await;
    let copy = first.fs.crash(CrashChoice::KeepAll);
    let second = start_with(copy, archiving(&store)).await.expect("it starts");
    let lost = tokio::time::timeout(LONG, first.broker.archive_lost()).await;
    let reason = lost.expect("it learns that it was replaced");
    assert!(
        reason.contains("another server has taken this archive over"),
        "{reason}"
    );
    fill(&first, &topic, 20..60).await;
    first.broker.shutdown().await.expect("its own disk is good");
    fill(&second, &topic, 20..40).await;
    second.broker.shutdown().await.expect("a good disk");
    let again = start_with(second.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    assert_eq!(all_values(&again, &topic).await, values(0..40));
    assert_eq!(status(&again, &topic).end, Some(Offset(40)));
}

#[tokio::test(start_paused = true)]
async fn a_start_on_another_clusters_archive_or_on_an_older_disk_is_refused() {
    let store = bucket();
    let first = house(&store).await;
    let topic = first.create("flights", 1, &SMALL).await;
    fill(&first, &topic, 0..3).await;
    let old = first.fs.crash(CrashChoice::KeepAll);
    fill(&first, &topic, 3..40).await;
    first.broker.shutdown().await.expect("a good disk");
    let stranger = start_with(SimFs::new(), archiving(&store)).await;
    let refused = stranger.map(drop).expect_err("another cluster's").to_string();
    assert!(refused.contains("belongs to cluster"), "{refused}");
    let older = start_with(old, archiving(&store)).await;
    let refused = older
        .map(drop)
        .expect_err("it would give offsets again")
        .to_string();
    assert!(
        refused.contains("the archive has flights-0 up to offset 40"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_compacted_topic_is_archived_again_where_the_cleaner_rewrote_it_and_keeps_its_data_local() {
    let store = bucket();
    let house = house(&store).await;
    let refused = house
        .broker
        .create_topic(
            new_topic(
                "t",
                1,
                &[("cleanup.policy", "compact"), ("local.retention.ms", "1")],
            ),
            Execution::Apply,
        )
        .await;
    let refused = refused.expect_err("it keeps its data local").to_string();
    assert!(
        refused.contains("keeps all of its data on the local disk"),
        "{refused}"
    );
    let topic = house.create("flights", 1, &COMPACTED).await;
    write_keys(&house, &topic, 0..40).await;
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 40).await;
    let before = status(&house, &topic);
    compact(&house, &topic).await;
    let found = house.broker.core.topics.find(&topic).expect("there");
    let local_bytes = || found.partitions[0].log.describe().size_bytes;
    assert!(local_bytes() < before.size_bytes / 2);
    until("the archive follows", || {
        status(&house, &topic).size_bytes == local_bytes()
    })
    .await;
    assert_eq!(marks(&house, &topic).local_start, Offset(0));
}

/// Appends records of two keys in turn, one for each call.
pub(super) async fn write_keys(house: &House, topic: &TopicName, numbers: std::ops::Range<i64>) {
    let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
    tokio::task::spawn_blocking(move || is_over.recv());
    for number in numbers {
        let record = keyed(&format!("key {}", number % 2), &value(number));
        house.append(topic, 0, vec![record]).await.expect("appended");
    }
}

pub(super) async fn compact(house: &House, topic: &TopicName) {
    let wish = CompactNow {
        topic: topic.clone(),
        partitions: Vec::new(),
    };
    let compacted = house.broker.compact_now(&wish, CompactWait::UntilDone).await;
    compacted.expect("compacted");
}

#[tokio::test(start_paused = true)]
async fn what_the_cleaner_puts_together_over_the_end_of_the_archive_goes_there_whole() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &COMPACTED).await;
    write_keys(&house, &topic, 0..20).await;
    house.clock.advance_ms(60_000);
    until("the first half is archived", || {
        status(&house, &topic).end == Some(Offset(20))
    })
    .await;
    faulty.always(Kind::Put, Fault::Refuse);
    // The second pass puts together what the first left little of.
    write_keys(&house, &topic, 20..30).await;
    compact(&house, &topic).await;
    write_keys(&house, &topic, 30..40).await;
    compact(&house, &topic).await;
    let found = house.broker.core.topics.find(&topic).expect("there");
    let log = &found.partitions[0].log;
    assert!(
        log.describe().segments <= 2,
        "one from both sides, and the active one"
    );
    assert_eq!(status(&house, &topic).end, Some(Offset(20)));
    faulty.heal();
    house.clock.advance_ms(60_000);
    until_archived(&house, &topic, 40).await;
    let told = status(&house, &topic);
    assert_eq!((told.is_stuck, told.segments), (false, 1), "{told:?}");
    assert_eq!(told.size_bytes, log.describe().size_bytes);
}

#[tokio::test(start_paused = true)]
async fn records_of_aborted_transactions_stay_unread_wherever_the_transaction_lies() {
    let store = bucket();
    let house = house(&store).await;
    let settings = [("segment.bytes", "16384"), ("local.retention.bytes", "40000")];
    let topic = house.create("flights", 1, &settings).await;
    let found = house.broker.core.topics.find(&topic).expect("there");
    let log = Arc::clone(&found.partitions[0].log);
    let put = |batch: Accepted, origin: Origin| {
        log.append(&batch, origin, NOW).expect("appended");
    };
    // 6, 7 and 8 begin in what leaves the disk. 7 ends there, the others in what stays, in which 9 begins and ends.
    put(one(Some(7), "aborted 7"), Origin::Client);
    put(one(Some(8), "aborted 8"), Origin::Client);
    fill(&house, &topic, 0..20).await;
    put(end(7, Outcome::Abort), Origin::Coordinator);
    put(one(Some(6), "committed 6"), Origin::Client);
    fill(&house, &topic, 20..80).await;
    put(end(6, Outcome::Commit), Origin::Coordinator);
    put(end(8, Outcome::Abort), Origin::Coordinator);
    put(one(Some(9), "aborted 9"), Origin::Client);
    put(end(9, Outcome::Abort), Origin::Coordinator);
    fill(&house, &topic, 80..81).await;
    let committed = [values(0..20), vec!["committed 6".to_owned()], values(20..81)].concat();
    let check = async |house: &House| {
        let spec = ReadSpec {
            isolation: Isolation::ReadCommitted,
            ..read(&topic, ReadStart::Earliest, ReadEnd::Now)
        };
        assert_eq!(house.values(spec).await.expect("readable"), committed);
        let everything = all_values(house, &topic).await;
        assert_eq!(everything.len(), committed.len() + 3);
        let chunk = house.broker.fetch(Fetch {
            isolation: Isolation::ReadCommitted,
            ..fetch(vec![target(&topic, 0, 0)], 0)
        });
        let chunk = chunk.await.pop().expect("one").expect("readable");
        let got = texts(&chunk);
        assert!(!got.is_empty() && got == committed[..got.len()], "{got:?}");
    };
    until("the first part leaves", || {
        let marks = marks(&house, &topic);
        marks.local_start > Offset(25) && marks.local_start < Offset(80)
    })
    .await;
    check(&house).await;
    alter(&house, &topic, ("local.retention.bytes", "0")).await;
    house.clock.advance_ms(60_000);
    until("all of it leaves", || {
        let marks = marks(&house, &topic);
        marks.local_start == marks.log_end
    })
    .await;
    check(&house).await;
    let fs = house.fs.crash(CrashChoice::LoseAll);
    drop(house);
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    check(&house).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_leaves_the_disk_and_stays_in_the_archive_until_the_hold_is_removed() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..100).await;
    let hold = TopicHold {
        name: "case 7".to_owned(),
        partition: Some(PartitionId(0)),
        range: HeldRange::Offsets(Offset(20)..Offset(21)),
    };
    house.broker.add_hold(&topic, hold).await.expect("held");
    until_left(&house, &topic, 50).await;
    alter(&house, &topic, ("retention.bytes", "0")).await;
    until("what lies before goes", || {
        marks(&house, &topic).log_start > Offset(0)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    house.clock.advance_ms(3_600_000);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let kept = marks(&house, &topic).log_start;
    assert!(kept <= Offset(20), "{kept}");
    assert_eq!(all_values(&house, &topic).await, values(kept.0..100));
    let removed = house.broker.remove_hold(&topic, "case 7").await;
    removed.expect("it is there");
    until("it goes, too", || marks(&house, &topic).log_start > Offset(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_half_a_minute_for_a_store_that_does_not_answer_and_the_next_start_goes_on() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &[]).await;
    fill(&house, &topic, 0..5).await;
    faulty.always(Kind::Put, Fault::Hang);
    let begin = tokio::time::Instant::now();
    house.broker.shutdown().await.expect("the disk is good");
    let waited = begin.elapsed();
    assert!(
        waited >= Duration::from_secs(30) && waited < Duration::from_secs(40),
        "{waited:?}"
    );
    faulty.heal();
    let again = start_with(house.fs.clone(), archiving(&store)).await;
    let again = again.expect("it starts");
    again.clock.advance_ms(60_000);
    until("the rest is archived", || {
        status(&again, &topic).end == Some(Offset(5))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_topic_leaves_the_catalog_and_after_the_delay_the_bucket() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..40).await;
    until("something is archived", || status(&house, &topic).end.is_some()).await;
    let names = async || -> Vec<String> {
        let ledger = Ledger::open(store.clone(), "catalog".to_owned(), Catalog::default()).await;
        let ledger = ledger.expect("readable");
        let topics = ledger.state().topics().values();
        topics.map(|topic| topic.name.to_string()).collect()
    };
    assert!(names().await.contains(&"flights".to_owned()));
    house.broker.delete_topic(&topic).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!names().await.contains(&"flights".to_owned()));
    assert!(objects(&store, "").await > 0, "its objects wait");
    house.clock.advance_ms(3_600_000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(objects(&store, "").await, 0);
}

#[tokio::test(start_paused = true)]
async fn topics_that_the_server_or_they_themselves_leave_out_are_not_archived() {
    let store = bucket();
    let mut config = archiving(&store);
    config.archive.topics = TopicPatterns::parse("flights*").expect("sound");
    let house = start_with(SimFs::new(), config).await.expect("it starts");
    let by_rule = house.create("flights-2013", 1, &SMALL).await;
    let by_wish = house
        .create("other", 1, &[("remote.storage.enable", "true")])
        .await;
    let not = house
        .create("flights-not", 1, &[("remote.storage.enable", "false")])
        .await;
    let neither = house.create("neither", 1, &[]).await;
    for topic in [&by_rule, &by_wish, &not, &neither] {
        fill(&house, topic, 0..40).await;
    }
    house.clock.advance_ms(60_000);
    for topic in [&by_rule, &by_wish] {
        until("it is archived", || status(&house, topic).end == Some(Offset(40))).await;
    }
    let archive = house.broker.core.archive.as_ref().expect("it has one");
    for topic in [&not, &neither] {
        let found = house.broker.core.topics.find(topic).expect("there");
        assert_eq!(archive.status(&found.partitions[0]), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_keeps_no_append_waiting_and_is_told_until_it_is_well() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    until_known(&house, &topic).await;
    faulty.always(Kind::Put, Fault::Refuse);
    fill(&house, &topic, 0..60).await;
    until("the failure shows", || status(&house, &topic).failures > 2).await;
    let told = status(&house, &topic);
    let trouble = told.trouble.expect("it says what");
    assert!(
        trouble.contains("topics/flights/") || trouble.contains("catalog/"),
        "{trouble}"
    );
    assert!(trouble.contains("the store is not available"), "{trouble}");
    assert_eq!((told.end, told.is_stuck), (None, false));
    assert!(told.lag_bytes > 60_000);
    assert_eq!(marks(&house, &topic).local_start, Offset(0), "nothing leaves");
    faulty.heal();
    until("it goes on", || marks(&house, &topic).local_start > Offset(20)).await;
    assert_eq!(status(&house, &topic).failures, 0);
    faulty.always(Kind::Get, Fault::Hang);
    let cold = house.fetch(&topic, 0, 0).await.expect_err("no answer comes");
    assert!(matches!(cold, Error::ArchiveUnavailable { .. }), "{cold}");
    assert!(cold.retry_after().is_some());
    let local = marks(&house, &topic).local_start;
    house
        .fetch(&topic, local.0, 0)
        .await
        .expect("what is local is read as ever");
    faulty.heal();
    assert_eq!(all_values(&house, &topic).await, values(0..60));
    faulty.always(Kind::Get, Fault::Hang);
    let again = house.fetch(&topic, 0, 0).await;
    assert_eq!(
        texts(&again.expect("it was read before, and is kept"))[0],
        value(0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_cannot_be_written_is_told_by_the_partitions_that_wait_for_it() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    faulty.always(Kind::Put, Fault::Refuse);
    let topic = house.create("flights", 1, &SMALL).await;
    fill(&house, &topic, 0..20).await;
    until_known(&house, &topic).await;
    until("the failure shows", || status(&house, &topic).failures > 2).await;
    let trouble = status(&house, &topic).trouble.expect("it says what");
    assert!(trouble.contains("catalog/"), "{trouble}");
    faulty.heal();
    until("it goes on", || status(&house, &topic).end.is_some()).await;
    assert_eq!(status(&house, &topic).trouble, None);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_named_and_one_that_nobody_names_is_removed() {
    let store = bucket();
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    let id = house.broker.core.topics.find(&topic).expect("there").id;
    let orphan = format!(
        "topics/flights/{id}/0/segments/{:020}-{:010}-{:016x}.segment",
        0, 0, 7
    );
    store.publish(&orphan, "left behind".into()).await.expect("put");
    fill(&house, &topic, 0..60).await;
    until_left(&house, &topic, 20).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.len_of(&orphan).await.expect("looked"), None);
    let mut listing = store.list(&format!("topics/flights/{id}/0/segments"));
    let mut keys = Vec::new();
    while let Some(found) = listing.next().await.expect("listed") {
        keys.push(found.key);
    }
    let first = keys.into_iter().min().expect("there are some");
    store.delete(&first).await.expect("deleted by hand");
    let error = house.fetch(&topic, 0, 0).await.expect_err("it is gone");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&first), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_freed_by_what_the_archive_has_and_nothing_is_lost_by_a_crash_then() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let topic = house.create("flights", 1, &SMALL).await;
    let fill_the_disk = |times: u32| {
        house.fs.inject(crate::env::Fault {
            call: Call::Write,
            path_contains: "local-start-offset-checkpoint".to_owned(),
            times,
            failure: Failure::Kind(IoErrorKind::StorageFull),
        });
    };
    until_known(&house, &topic).await;
    faulty.always(Kind::Put, Fault::Refuse);
    fill(&house, &topic, 0..60).await;
    // Without a word of what is only in the archive nothing may leave; it is tried again.
    fill_the_disk(4);
    faulty.heal();
    until("there is room again", || {
        marks(&house, &topic).local_start > Offset(20)
    })
    .await;
    until("the disk is looked at", || !house.broker.core.disk.is_full()).await;
    faulty.always(Kind::Put, Fault::Refuse);
    fill(&house, &topic, 60..120).await;
    // From then on the directory itself tells.
    fill_the_disk(u32::MAX);
    faulty.heal();
    until("segments leave, without the checkpoint", || {
        marks(&house, &topic).local_start > Offset(80)
    })
    .await;
    assert_eq!(marks(&house, &topic).log_start, Offset(0));
    assert_eq!(all_values(&house, &topic).await, values(0..120));
    for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll] {
        let again = start_with(house.fs.crash(choice), archiving(&store)).await;
        let again = again.expect("it starts");
        assert_eq!(marks(&again, &topic).log_start, Offset(0), "{choice:?}");
        assert_eq!(all_values(&again, &topic).await, values(0..120), "{choice:?}");
    }
}
