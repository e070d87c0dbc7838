//! Restoring a data directory from the archive: everything is as before, whatever it dies at, and of two servers one goes on.

use super::archive::{
    COMPACTED, SMALL, all_values, archiving, bucket, compact, fill, house, marks, start_with, until, value,
    values, write_keys,
};
use super::*;
use crate::storage::RestoredPlace;
use crate::tier::testing::{Fault as StoreFault, FaultyStore, Kind, bucket as faulty_bucket, memory};
use crate::tier::{ArchivedTopic, Author, Catalog, CatalogEdit, Ledger, ObjectId, TierStore, WriterId};
use crate::types::{LeaderEpoch, TopicId};

pub(super) fn restoring(store: &TierStore, restore: Restore) -> BrokerConfig {
    let mut config = archiving(store);
    config.archive.restore = restore;
    config
}

/// Restores by command onto a disk.
pub(super) async fn restore(
    store: &TierStore,
    fs: &SimFs,
    restore: Restore,
    execution: Execution,
) -> Result<RestoreReport, Error> {
    let world = World {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(ManualClock::starting_at(NOW)),
    };
    Broker::restore(restoring(store, restore), world, execution, |_| {}).await
}

/// Every batch of a partition, as it is stored.
async fn batches(house: &House, topic: &TopicName, from: Offset) -> Vec<Bytes> {
    let (mut offset, end) = (from, marks(house, topic).high_watermark);
    let mut batches = Vec::new();
    while offset < end {
        let chunk = house.fetch(topic, offset.0, 0).await.expect("readable");
        batches.push(chunk.batches.clone());
        offset = chunk.next_offset;
    }
    let all: Vec<u8> = batches.iter().flatten().copied().collect();
    vec![all.into()]
}

/// Up to where a topic is archived; `None` also while the archive has not heard of it.
pub(super) fn archived_end(house: &House, topic: &TopicName) -> Option<Offset> {
    let found = house.broker.core.topics.find(topic).expect("it is there");
    let archive = house.broker.core.archive.as_ref().expect("it has one");
    archive.status(&found.partitions[0])?.end
}

/// Appends a batch of a producer.
async fn put(house: &House, topic: &TopicName, batch: Bytes) -> Appended {
    // Virtual time does not go on while such work is under way, as the thread does that syncs.
    let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
    tokio::task::spawn_blocking(move || is_over.recv());
    let appended = house.broker.append_batch(topic, PartitionId(0), batch, Acks::All);
    appended.await.expect("sound").wait().await.expect("written")
}

/// An archive with topics of all kinds, its server stopped.
pub(super) async fn archive() -> (TierStore, House, Vec<Bytes>) {
    let store = bucket();
    let house = house(&store).await;
    let flights = house.create("flights", 1, &SMALL).await;
    fill(&house, &flights, 0..60).await;
    let (producer, _) = house.broker.init_producer().await.expect("good");
    for sequence in 0..3 {
        let batch = batch(producer, sequence, &[&value(60 + i64::from(sequence))]);
        put(&house, &flights, batch).await;
    }
    let keys = house.create("keys", 1, &COMPACTED).await;
    write_keys(&house, &keys, 0..40).await;
    compact(&house, &keys).await;
    house.create("empty", 3, &[("retention.ms", "7000000")]).await;
    let gone = house.create("gone", 1, &SMALL).await;
    fill(&house, &gone, 0..20).await;
    until("it is archived", || archived_end(&house, &gone).is_some()).await;
    house.broker.delete_topic(&gone).await.expect("deleted");
    let not = house
        .create("not", 1, &[("remote.storage.enable", "false")])
        .await;
    fill(&house, &not, 0..2).await;
    let hold = TopicHold {
        name: "case 7".to_owned(),
        partition: None,
        range: HeldRange::Offsets(Offset(3)..Offset(4)),
    };
    house.broker.add_hold(&flights, hold).await.expect("held");
    let all = batches(&house, &flights, Offset(0)).await;
    house.broker.shutdown().await.expect("a good disk");
    (store, house, all)
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("valid")
}

/// Keys and values of a topic, by offset.
async fn table(house: &House, name: &str) -> Vec<(Option<Bytes>, Option<Bytes>, Offset)> {
    let mut stream = house
        .broker
        .open_read(read(&topic(name), ReadStart::Earliest, ReadEnd::Now))
        .await
        .expect("there");
    let mut all = Vec::new();
    while let Some(step) = stream.next().await.expect("readable") {
        let records = step.chunk.records().expect("sound");
        all.extend(
            records
                .into_iter()
                .map(|record| (record.key, record.value, record.offset)),
        );
    }
    all
}

fn descriptions(house: &House) -> Vec<(TopicSummary, BTreeMap<String, String>)> {
    let topics = house.broker.core.topics.all();
    let described = topics
        .iter()
        .map(|topic| (topic.summary(), topic.config.overrides.clone()));
    described.collect()
}

#[tokio::test(start_paused = true)]
async fn everything_comes_back_from_the_bucket_alone_cold_or_downloaded_by_command_or_by_a_server() {
    let (store, old, all) = archive().await;
    let was = descriptions(&old);
    let original = start_with(old.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    let keys = table(&original, "keys").await;
    original.broker.shutdown().await.expect("a good disk");
    for (how, by_command) in [
        (Restore::Cold, true),
        (Restore::Download, true),
        (Restore::Cold, false),
        (Restore::Download, false),
    ] {
        let fs = SimFs::new();
        let config = if by_command {
            let report = restore(&store, &fs, how, Execution::Apply)
                .await
                .expect("restored");
            let names: Vec<_> = report.topics.iter().map(|topic| topic.name.as_str()).collect();
            assert_eq!(names, ["__siltstone_topics", "empty", "flights", "keys", "not"]);
            let flights = &report.topics[2];
            let place = match how {
                Restore::Download => RestoredPlace::Local,
                _ => RestoredPlace::Archive,
            };
            assert_eq!((flights.records, flights.place), (63, Some(place)));
            assert_eq!(
                (report.topics[3].place, report.topics[4].place),
                (Some(RestoredPlace::Local), None)
            );
            archiving(&store)
        } else {
            restoring(&store, how)
        };
        let house = start_with(fs, config).await.expect("it starts");
        assert_eq!(descriptions(&house), was, "{how:?}");
        let flights = topic("flights");
        let marks = marks(&house, &flights);
        assert_eq!(
            (marks.log_start, marks.high_watermark, marks.log_end),
            (Offset(0), Offset(63), Offset(63))
        );
        let cold = matches!(how, Restore::Cold);
        assert_eq!(marks.local_start, Offset(if cold { 63 } else { 0 }), "{how:?}");
        assert_eq!(all_values(&house, &flights).await, values(0..63));
        assert_eq!(batches(&house, &flights, Offset(0)).await, all);
        assert_eq!(table(&house, "keys").await, keys);
        assert_eq!(table(&house, "empty").await, []);
        assert_eq!(table(&house, "not").await, []);
        let found = house.broker.core.topics.find(&flights).expect("there");
        assert_eq!(found.config.holds.len(), 1, "holds stand in the metadata alone");
        house.broker.shutdown().await.expect("a good disk");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restore_offsets_go_on_under_a_greater_epoch_and_retries_are_no_second_records() {
    let (store, old, _) = archive().await;
    let flights = topic("flights");
    for how in [Restore::Cold, Restore::Download] {
        let house = start_with(SimFs::new(), restoring(&store, how))
            .await
            .expect("it starts");
        let end = marks(&house, &flights).log_end;
        // The producer of before sends its last batch again.
        let again = batch(ProducerId(0), 2, &[&value(62)]);
        let appended = put(&house, &flights, again).await;
        assert_eq!(
            (appended.base_offset, appended.novelty),
            (Offset(62), Novelty::Duplicate)
        );
        assert_eq!(marks(&house, &flights).log_end, end);
        let (producer, _) = house.broker.init_producer().await.expect("good");
        assert!(producer.0 >= 1_000_000, "{producer:?} may have been given before");
        fill(&house, &flights, end.0..end.0 + 1).await;
        let chunk = house.fetch(&flights, end.0, 0).await.expect("readable");
        let headers = crate::record::Batches::over(chunk.batches.clone(), 0);
        let epochs: Vec<_> = headers
            .map(|batch| batch.expect("sound").1.header().leader_epoch.expect("it has one"))
            .collect();
        assert_eq!(epochs.len(), 1);
        assert!(epochs[0] > old.broker.core.store.epoch(), "{epochs:?}");
        house.broker.shutdown().await.expect("a good disk");
        let house = start_with(house.fs.clone(), archiving(&store))
            .await
            .expect("it starts");
        assert_eq!(all_values(&house, &flights).await, values(0..end.0 + 1));
        house.broker.shutdown().await.expect("a good disk");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_makes_nothing_and_a_directory_with_anything_in_it_is_refused() {
    let (store, old, _) = archive().await;
    let fs = SimFs::new();
    let calls = fs.mutations();
    let planned = restore(&store, &fs, Restore::Cold, Execution::ValidateOnly).await;
    let planned = planned.expect("planned");
    assert_eq!(fs.mutations(), calls);
    let done = restore(&store, &fs, Restore::Cold, Execution::Apply).await;
    assert_eq!(done.expect("restored"), planned);
    for fs in [&fs, &old.fs] {
        let refused = restore(&store, fs, Restore::Cold, Execution::Apply).await;
        let refused = refused.expect_err("it has data").to_string();
        assert!(refused.contains("it is a data directory already"), "{refused}");
    }
    let strange = SimFs::new();
    strange.create_dir(Path::new("/data")).expect("made");
    strange.create_dir(Path::new("/data/photos")).expect("made");
    let refused = restore(&store, &strange, Restore::Cold, Execution::Apply).await;
    let refused = refused.expect_err("it is not empty").to_string();
    assert!(refused.contains("photos is in it"), "{refused}");
    assert_eq!(strange.list(Path::new("/data")).expect("there").len(), 1);
    let nothing = restore(&bucket(), &SimFs::new(), Restore::Cold, Execution::Apply).await;
    let nothing = nothing.expect_err("nobody was there").to_string();
    assert!(nothing.contains("there is no archive at"), "{nothing}");
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_dies_anywhere_is_never_served_as_whole_and_the_next_one_is() {
    let (store, _, all) = archive().await;
    let flights = topic("flights");
    let whole = SimFs::new();
    let report = restore(&store, &whole, Restore::Download, Execution::Apply).await;
    let report = report.expect("restored");
    let calls = whole.mutations();
    assert!(calls > 50, "{calls}");
    let mut refused = 0;
    // Each call at which it may die, several ways to lose what was not synced.
    for dies_at in (0..calls).step_by(3) {
        let fs = SimFs::new();
        fs.fail_after(dies_at);
        let died = restore(&store, &fs, Restore::Download, Execution::Apply).await;
        let is_over = died.is_ok();
        for choice in [
            CrashChoice::LoseAll,
            CrashChoice::KeepAll,
            CrashChoice::Random(dies_at),
        ] {
            let left = fs.crash(choice);
            match start_with(left.crash(CrashChoice::KeepAll), config()).await {
                // Nothing was there yet: an empty server is no restored one.
                Ok(house) if house.broker.core.topics.all().len() == 1 => {
                    assert!(!is_over, "{dies_at} {choice:?}")
                }
                Ok(house) => assert_eq!(
                    all_values(&house, &flights).await,
                    values(0..63),
                    "{dies_at} {choice:?}"
                ),
                Err(error) => {
                    assert!(
                        error.to_string().contains("was cut off"),
                        "{dies_at} {choice:?}: {error}"
                    );
                    refused += 1;
                }
            }
            match restore(&store, &left, Restore::Download, Execution::Apply).await {
                Ok(again) => assert_eq!(again, report),
                Err(error) => assert!(
                    error.to_string().contains("data directory already"),
                    "{dies_at} {choice:?}: {error}"
                ),
            }
            if dies_at % 9 == 0 {
                let house = start_with(left, config()).await.expect("it starts");
                assert_eq!(
                    batches(&house, &flights, Offset(0)).await,
                    all,
                    "{dies_at} {choice:?}"
                );
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_still_alive_loses_the_archive_and_what_it_wrote_meanwhile_refuses_the_restored_one()
{
    let store = bucket();
    let first = house(&store).await;
    let flights = first.create("flights", 1, &SMALL).await;
    fill(&first, &flights, 0..40).await;
    first.clock.advance_ms(60_000);
    until("all is archived", || {
        archived_end(&first, &flights) == Some(Offset(40))
    })
    .await;
    let early = SimFs::new();
    restore(&store, &early, Restore::Cold, Execution::Apply)
        .await
        .expect("restored");
    fill(&first, &flights, 40..60).await;
    first.clock.advance_ms(60_000);
    until("it goes on", || {
        archived_end(&first, &flights) == Some(Offset(60))
    })
    .await;
    let refused = start_with(early, archiving(&store)).await.map(drop);
    let refused = refused.expect_err("it is older than the archive").to_string();
    assert!(
        refused.contains("the archive went on after this data directory was restored"),
        "{refused}"
    );
    assert!(refused.contains("another server wrote to it"), "{refused}");
    // It was not touched, so the living server goes on.
    fill(&first, &flights, 60..62).await;
    first.clock.advance_ms(60_000);
    until("it still goes on", || {
        archived_end(&first, &flights) == Some(Offset(62))
    })
    .await;
    let second = start_with(SimFs::new(), restoring(&store, Restore::Cold))
        .await
        .expect("it starts");
    assert_eq!(all_values(&second, &flights).await, values(0..62));
    fill(&second, &flights, 62..70).await;
    let lost = tokio::time::timeout(Duration::from_secs(600), first.broker.archive_lost()).await;
    let reason = lost.expect("it learns that it was replaced");
    assert!(
        reason.contains("another server has taken this archive over"),
        "{reason}"
    );
    fill(&first, &flights, 62..80).await;
    first.broker.shutdown().await.expect("its own disk is good");
    second.broker.shutdown().await.expect("a good disk");
    let again = start_with(second.fs.clone(), restoring(&store, Restore::Cold)).await;
    let again = again.expect("there is nothing to restore, and it goes on");
    assert_eq!(all_values(&again, &flights).await, values(0..70));
    assert_eq!(archived_end(&again, &flights), Some(Offset(70)));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_missing_or_damaged_is_named_and_nothing_is_served() {
    let (store, ..) = archive().await;
    let mut listing = store.list("topics/flights");
    let mut keys = Vec::new();
    while let Some(found) = listing.next().await.expect("listed") {
        if ObjectId::parse_key(&found.key).is_some() {
            keys.push(found.key);
        }
    }
    keys.sort();
    let key = &keys[1];
    let bytes = store.get(key, 1 << 20).await.expect("read").expect("there");
    store.delete(key).await.expect("deleted by hand");
    let fs = SimFs::new();
    let missing = restore(&store, &fs, Restore::Download, Execution::Apply).await;
    let missing = missing.expect_err("it is gone").to_string();
    assert!(missing.contains(key.as_str()), "{missing}");
    let refused = start_with(fs.clone(), config())
        .await
        .map(drop)
        .expect_err("half made");
    assert!(refused.to_string().contains("was cut off"), "{refused}");
    // What stays in the archive is not looked at: not before it is read.
    let cold = restoring(&store, Restore::Cold);
    let house = start_with(SimFs::new(), cold).await.expect("it starts");
    let first = house.fetch(&topic("flights"), 0, 0).await.expect("readable");
    assert_eq!(texts(&first)[0], value(0));
    house.broker.shutdown().await.expect("a good disk");
    let mut flipped = bytes.to_vec();
    flipped[9_000] ^= 1;
    store.publish(key, flipped.into()).await.expect("put by hand");
    let damaged = restore(&store, &fs, Restore::Download, Execution::Apply).await;
    let damaged = damaged.expect_err("a bit is wrong").to_string();
    assert!(
        damaged.contains(key.as_str()) && damaged.contains("is damaged"),
        "{damaged}"
    );
    store.delete(key).await.expect("deleted by hand");
    store.publish(key, bytes).await.expect("put back");
    restore(&store, &fs, Restore::Download, Execution::Apply)
        .await
        .expect("restored");
    let house = start_with(fs, archiving(&store)).await.expect("it starts");
    assert_eq!(all_values(&house, &topic("flights")).await, values(0..63));
}

pub(super) fn mounting(store: &TierStore) -> BrokerConfig {
    let mut config = archiving(store);
    config.archive.access = Access::Read;
    config
}

/// Every object of a store, with its bytes.
pub(super) async fn contents(store: &TierStore) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for folder in ["epochs", "catalog", "topics", "probe"] {
        let mut listing = store.list(folder);
        while let Some(found) = listing.next().await.expect("listed") {
            let bytes = store
                .get(&found.key, 1 << 22)
                .await
                .expect("read")
                .expect("there");
            all.insert(found.key, bytes);
        }
    }
    all
}

/// Every change is refused by who only reads.
async fn refuses_changes(house: &House, topic: &TopicName) {
    let refusals = [
        house.append(topic, 0, vec![record("x")]).await.map(drop),
        house.broker.init_producer().await.map(drop),
        house
            .broker
            .create_topic(new_topic("t", 1, &[]), Execution::Apply)
            .await
            .map(drop),
        house.broker.delete_topic(topic).await,
        house
            .broker
            .delete_records(topic, &[(PartitionId(0), None)])
            .await
            .map(drop),
    ];
    for refused in refusals {
        let refused = refused.expect_err("it only reads").to_string();
        assert!(refused.contains("only reads the archive"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mounted_archive_answers_every_read_refuses_every_change_and_not_a_byte_is_written_to_it() {
    let (store, old, all) = archive().await;
    let original = start_with(old.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    let keys = table(&original, "keys").await;
    original.broker.shutdown().await.expect("a good disk");
    let faulty = FaultyStore::over(memory());
    let copy = faulty_bucket(Arc::new(faulty.clone()));
    let before = contents(&store).await;
    for (key, bytes) in &before {
        copy.publish(key, bytes.clone()).await.expect("put");
    }
    for kind in [Kind::Put, Kind::Part, Kind::Complete, Kind::Delete] {
        faulty.always(kind, StoreFault::Refuse);
    }
    let fs = SimFs::new();
    for start in 0..2 {
        let house = start_with(fs.clone(), mounting(&copy))
            .await
            .expect("it starts, again too");
        let flights = topic("flights");
        assert_eq!(all_values(&house, &flights).await, values(0..63), "{start}");
        assert_eq!(batches(&house, &flights, Offset(0)).await, all);
        assert_eq!(table(&house, "keys").await, keys);
        let times = read(
            &flights,
            ReadStart::Time(Timestamp(NOW.0 + 20)),
            ReadEnd::Time(Timestamp(NOW.0 + 30)),
        );
        assert_eq!(house.values(times).await.expect("readable"), values(20..30));
        refuses_changes(&house, &flights).await;
        house.clock.advance_ms(7_200_000);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(
            marks(&house, &flights).log_start,
            Offset(0),
            "retention is the owner's"
        );
        house.broker.shutdown().await.expect("a good disk");
    }
    let owned = start_with(fs, archiving(&store))
        .await
        .map(drop)
        .expect_err("it is no data");
    assert!(
        owned.to_string().contains("only stands for the archive"),
        "{owned}"
    );
    faulty.heal();
    assert_eq!(contents(&copy).await, before);
    let taken = start_with(old.fs.clone(), mounting(&store)).await.map(drop);
    let taken = taken.expect_err("data is not made anew").to_string();
    assert!(taken.contains("it is a data directory already"), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn a_mounted_archive_is_followed_as_its_owner_goes_on() {
    let store = bucket();
    let owner = house(&store).await;
    let flights = owner.create("flights", 1, &SMALL).await;
    fill(&owner, &flights, 0..20).await;
    owner.clock.advance_ms(60_000);
    until("all is archived", || {
        archived_end(&owner, &flights) == Some(Offset(20))
    })
    .await;
    let mount = start_with(SimFs::new(), mounting(&store))
        .await
        .expect("it starts");
    assert_eq!(all_values(&mount, &flights).await, values(0..20));
    fill(&owner, &flights, 20..50).await;
    let late = owner.create("late", 2, &SMALL).await;
    fill(&owner, &late, 0..3).await;
    let gone = owner.create("gone", 1, &SMALL).await;
    owner.clock.advance_ms(60_000);
    until("all is archived", || {
        let end = |topic: &TopicName| archived_end(&owner, topic);
        end(&flights) == Some(Offset(50)) && end(&late) == Some(Offset(3))
    })
    .await;
    until("the mount has seen it", || {
        mount.broker.core.topics.find(&late).is_ok() && marks(&mount, &late).log_end == Offset(3)
    })
    .await;
    until("and the rest", || marks(&mount, &flights).log_end == Offset(50)).await;
    assert_eq!(all_values(&mount, &flights).await, values(0..50));
    assert_eq!(all_values(&mount, &late).await, values(0..3));
    owner.broker.delete_topic(&gone).await.expect("deleted");
    owner.broker.delete_topic(&late).await.expect("deleted");
    until("it goes", || mount.broker.core.topics.find(&late).is_err()).await;
    fill(&owner, &flights, 50..51).await;
    owner
        .broker
        .shutdown()
        .await
        .expect("the archive is still its own");
    mount.broker.shutdown().await.expect("a good disk");
}

#[tokio::test(start_paused = true)]
async fn records_that_are_deleted_of_a_log_that_is_only_in_the_archive_stay_deleted_after_a_crash() {
    let (store, ..) = archive().await;
    let flights = topic("flights");
    let fs = SimFs::new();
    restore(&store, &fs, Restore::Cold, Execution::Apply)
        .await
        .expect("restored");
    // Without its archive, which would know.
    let house = start_with(fs, config()).await.expect("it starts");
    let held = house.broker.remove_hold(&flights, "case 7").await;
    held.expect("it is there");
    let before = [(PartitionId(0), Some(Offset(10)))];
    house
        .broker
        .delete_records(&flights, &before)
        .await
        .expect("deleted");
    let again = start_with(house.fs.crash(CrashChoice::LoseAll), config()).await;
    let again = again.expect("it starts");
    let marks = marks(&again, &flights);
    assert_eq!(
        (marks.log_start, marks.local_start, marks.log_end),
        (Offset(10), Offset(63), Offset(63))
    );
}

#[tokio::test(start_paused = true)]
async fn topics_that_were_made_or_deleted_in_the_last_seconds_are_as_the_catalog_says() {
    let faulty = FaultyStore::over(memory());
    let store = faulty_bucket(Arc::new(faulty.clone()));
    let house = house(&store).await;
    let old = house.create("old", 1, &SMALL).await;
    fill(&house, &old, 0..20).await;
    house.clock.advance_ms(60_000);
    let internal = topic("__siltstone_topics");
    until("all is archived", || {
        let is_there = archived_end(&house, &internal) == Some(marks(&house, &internal).log_end);
        is_there && archived_end(&house, &old) == Some(Offset(20))
    })
    .await;
    for _ in 0..1000 {
        faulty.next(Kind::Put, "__siltstone_topics", StoreFault::Refuse);
    }
    let late = house.create("late", 2, &SMALL).await;
    fill(&house, &late, 0..20).await;
    let (producer, _) = house.broker.init_producer().await.expect("good");
    house.broker.delete_topic(&old).await.expect("deleted");
    house.clock.advance_ms(60_000);
    until("the newest is archived", || {
        archived_end(&house, &late) == Some(Offset(20))
    })
    .await;
    assert!(archived_end(&house, &internal) < Some(marks(&house, &internal).log_end));
    let fs = SimFs::new();
    restore(&store, &fs, Restore::Cold, Execution::Apply)
        .await
        .expect("restored");
    let was = house.broker.core.topics.find(&late).expect("there");
    let again = start_with(fs, config())
        .await
        .expect("it starts, without its archive too");
    let is = again.broker.core.topics.find(&late).expect("it came back");
    assert_eq!((is.id, is.count()), (was.id, 2));
    assert!(again.broker.core.topics.find(&old).is_err());
    let (next, _) = again.broker.init_producer().await.expect("good");
    assert!(next > producer);
    again.broker.shutdown().await.expect("a good disk");
    drop((house, was));
    faulty.heal();
    let again = start_with(again.fs.clone(), archiving(&store))
        .await
        .expect("it starts");
    assert_eq!(all_values(&again, &late).await, values(0..20));
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_no_server_wrote_is_refused_before_anything_is_made() {
    let (store, ..) = archive().await;
    let mut catalog = Ledger::open(store.clone(), "catalog".to_owned(), Catalog::default())
        .await
        .expect("readable");
    let author = Author {
        epoch: LeaderEpoch(1000),
        writer: WriterId([7; 16]),
    };
    let put = ArchivedTopic {
        id: TopicId([7; 16]),
        name: topic("huge"),
        partitions: 2_000_000_000,
        settings: BTreeMap::new(),
    };
    let edits = |_: &Catalog| Some(vec![CatalogEdit::Put(put.clone())]);
    catalog.append(author, NOW, edits).await.expect("written");
    let fs = SimFs::new();
    let refused = restore(&store, &fs, Restore::Cold, Execution::Apply).await;
    let refused = refused.expect_err("nobody has so many").to_string();
    assert!(
        refused.contains("topic huge has 2000000000 partitions"),
        "{refused}"
    );
    assert_eq!(fs.mutations(), 0);
}
