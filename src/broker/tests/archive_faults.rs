//! The archive behind a broker whose disk and store fail: a life that ends at any change of either, and a store that fails at random.

use std::sync::atomic::{AtomicU64, Ordering};

use super::archive::{SMALL, all_values, archiving, marks, start_with, until, value, values};
use super::*;
use crate::tier::testing::{FaultyStore, Kind, bucket, memory};
use crate::tier::{Depth, TierStore, Told, VerifyOptions, verify};

/// A broker over a disk and a store, and what it has acknowledged.
struct Life {
    house: House,
    topic: TopicName,
    /// Numbers of the records that were acknowledged, from 0 on.
    acknowledged: i64,
}

/// The life is over.
#[derive(Debug)]
struct Died;

fn is_dead(fs: &SimFs) -> bool {
    fs.free_bytes(Path::new("/")).is_err()
}

impl Life {
    async fn begin(fs: &SimFs, store: &TierStore) -> Result<Self, Died> {
        let house = start_with(fs.clone(), archiving(store)).await;
        let house = house.inspect_err(|error| assert!(is_dead(fs), "{error}"));
        let house = house.map_err(|_| Died)?;
        let made = house
            .broker
            .create_topic(new_topic("flights", 1, &SMALL), Execution::Apply);
        let topic = match made.await {
            Ok(made) => made.summary.name,
            Err(Error::TopicExists { topic }) => topic,
            Err(error) => {
                assert!(is_dead(fs), "{error}");
                return Err(Died);
            }
        };
        Ok(Self {
            house,
            topic,
            acknowledged: 0,
        })
    }

    async fn fill(&mut self, count: i64) -> Result<(), Died> {
        // Virtual time does not go on while such work is under way, as the thread does that syncs.
        let (_over, is_over) = std::sync::mpsc::sync_channel::<()>(0);
        tokio::task::spawn_blocking(move || is_over.recv());
        for _ in 0..count {
            let record = timed(&value(self.acknowledged), NOW.0 + self.acknowledged);
            if let Err(error) = self.house.append(&self.topic, 0, vec![record]).await {
                assert!(is_dead(&self.house.fs), "{error}");
                return Err(Died);
            }
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// Returns how the topic stands in the archive; of one that the archive has not heard of, that it has nothing there.
    fn archive(&self) -> PartitionArchive {
        let found = self
            .house
            .broker
            .core
            .topics
            .find(&self.topic)
            .expect("it is there");
        let archive = self.house.broker.core.archive.as_ref().expect("it has one");
        archive.status(&found.partitions[0]).unwrap_or_default()
    }

    /// Lets the background work until `is_done`, or the life ends.
    async fn until(&self, what: &str, is_done: impl Fn(&Self) -> bool) -> Result<(), Died> {
        until(what, || is_dead(&self.house.fs) || is_done(self)).await;
        if is_dead(&self.house.fs) {
            Err(Died)
        } else {
            Ok(())
        }
    }

    async fn until_archived(&self) -> Result<(), Died> {
        let end = Offset(self.acknowledged);
        self.house.clock.advance_ms(60_000);
        self.until("all is archived", |life| life.archive().end == Some(end))
            .await
    }

    async fn stop(self) -> Result<(), Died> {
        let stopped = self.house.broker.shutdown().await;
        stopped.map_err(|error| {
            assert!(is_dead(&self.house.fs), "{error}");
            Died
        })
    }

    /// Holds what is read against what was acknowledged, from the log start on.
    async fn check(&self, acknowledged: i64) -> i64 {
        let log_start = || marks(&self.house, &self.topic).log_start.0;
        let (mut start, mut found) = (log_start(), all_values(&self.house, &self.topic).await);
        // Retention may be faster.
        while start != log_start() {
            (start, found) = (log_start(), all_values(&self.house, &self.topic).await);
        }
        let end = start + i64::try_from(found.len()).expect("few");
        assert!(
            end >= acknowledged,
            "up to {end}, acknowledged were {acknowledged}"
        );
        assert!(found == values(start..end), "from {start}");
        end
    }
}

/// Uploads, drops what is local, shrinks the whole, sweeps, stops, starts.
async fn live(fs: &SimFs, store: &TierStore, acknowledged: &AtomicU64) -> Result<(), Died> {
    let mut life = Life::begin(fs, store).await?;
    let note = |life: &Life| acknowledged.store(life.acknowledged.unsigned_abs(), Ordering::Relaxed);
    let filled = life.fill(50).await;
    note(&life);
    filled?;
    life.until("the local part leaves", |life| {
        marks(&life.house, &life.topic).local_start > Offset(20)
    })
    .await?;
    life.until_archived().await?;
    let change = ConfigChange {
        set: BTreeMap::from([("retention.bytes".to_owned(), "30000".to_owned())]),
        unset: Vec::new(),
    };
    let altered = life
        .house
        .broker
        .alter_topic(&life.topic, change, Execution::Apply)
        .await;
    altered.map(drop).map_err(|_| Died)?;
    life.until("the manifest shrinks", |life| life.archive().size_bytes < 40_000)
        .await?;
    life.house.clock.advance_ms(3_600_000);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let filled = life.fill(20).await;
    note(&life);
    filled?;
    life.stop().await
}

async fn is_sound(store: &TierStore) {
    let options = VerifyOptions {
        depth: Depth::Bytes,
        now: NOW,
        in_flight_ms: 3_600_000,
    };
    let findings = parking_lot::Mutex::new(Vec::new());
    let tell = |told: Told<'_>| {
        if let Told::Finding(finding) = told {
            findings.lock().push(format!("{finding:?}"));
        }
    };
    verify(store, options, &tell).await.expect("the store answers");
    assert!(findings.lock().is_empty(), "{:?}", findings.lock());
}

/// With which change, counted from 0, disk and store end together.
#[derive(Clone, Copy, Debug)]
enum Death {
    OfDisk(u64),
    OfStore(u64),
}

/// Lives until the death, if it comes that far, and again on what is left. Tells whether it came.
async fn dies(death: Death) -> bool {
    let (fs, inner) = (SimFs::new(), memory());
    let faulty = FaultyStore::over(Arc::clone(&inner));
    let (counted, disk) = (AtomicU64::new(0), fs.clone());
    let number = match death {
        Death::OfDisk(number) => {
            faulty.lives_while(move |_| !is_dead(&disk));
            fs.fail_after(number);
            number
        }
        Death::OfStore(number) => {
            faulty.lives_while(move |kind| {
                let changes = matches!(kind, Kind::Put | Kind::Part | Kind::Complete | Kind::Delete);
                if changes && counted.fetch_add(1, Ordering::Relaxed) == number {
                    disk.fail_after(0);
                }
                !is_dead(&disk)
            });
            number
        }
    };
    let acknowledged = AtomicU64::new(0);
    let lived = live(&fs, &bucket(Arc::new(faulty)), &acknowledged).await;
    let choice = match number % 3 {
        0 => CrashChoice::LoseAll,
        1 => CrashChoice::KeepAll,
        _ => CrashChoice::Random(number),
    };
    let (fs, store) = (fs.crash(choice), bucket(inner));
    let acknowledged = i64::try_from(acknowledged.into_inner()).expect("small");
    let mut again = Life::begin(&fs, &store)
        .await
        .expect("nobody ordered another death");
    again.acknowledged = again.check(acknowledged).await;
    again.fill(5).await.expect("it goes on");
    again.until_archived().await.expect("it goes on");
    let acknowledged = again.acknowledged;
    again.stop().await.expect("a good disk");
    is_sound(&store).await;
    let last = Life::begin(&fs, &store).await.expect("it starts");
    last.check(acknowledged).await;
    lived.is_err()
}

/// Dies at each change there is, one life after the other.
async fn dies_at_every(death: fn(u64) -> Death) -> u64 {
    let mut deaths = 0;
    while dies(death(deaths)).await {
        deaths += 1;
    }
    deaths
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_any_change_of_the_disk_loses_nothing_that_was_acknowledged() {
    let deaths = dies_at_every(Death::OfDisk).await;
    assert!(deaths > 200, "{deaths} deaths show little");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_any_change_of_the_store_loses_nothing_that_was_acknowledged() {
    let deaths = dies_at_every(Death::OfStore).await;
    assert!(deaths > 15, "{deaths} deaths show little");
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_reads_tell_the_truth_and_in_the_end_all_is_there() {
    let (mut read, mut refused) = (0, 0);
    for seed in 0..6 {
        let (fs, inner) = (SimFs::new(), memory());
        let faulty = FaultyStore::over(Arc::clone(&inner));
        let store = bucket(Arc::new(faulty.clone()));
        let mut life = Life::begin(&fs, &store).await.expect("all is well");
        faulty.fail_at_random(seed, 120);
        for round in 0..6_u64 {
            life.fill(15).await.expect("no append waits for the store");
            life.house.clock.advance_ms(60_000);
            tokio::time::sleep(Duration::from_secs(10)).await;
            match life
                .house
                .values(super::read(&life.topic, ReadStart::Earliest, ReadEnd::Now))
                .await
            {
                Ok(found) => {
                    assert!(
                        found == values(0..life.acknowledged),
                        "seed {seed}, round {round}"
                    );
                    read += 1;
                }
                Err(Error::ArchiveUnavailable { .. } | Error::Damaged { .. }) => refused += 1,
                Err(error) => panic!("seed {seed}, round {round}: {error}"),
            }
            if round % 2 == 1 {
                let fs = life.house.fs.crash(CrashChoice::Random(seed));
                let Life {
                    topic,
                    acknowledged,
                    house,
                } = life;
                drop(house);
                // A start waits on a thread of its own, and virtual time with it: no call of it may hang.
                faulty.heal();
                life = Life {
                    house: start_with(fs, archiving(&store)).await.expect("it starts"),
                    topic,
                    acknowledged,
                };
                faulty.fail_at_random(100 * seed + round, 120);
            }
        }
        faulty.heal();
        life.until_archived().await.expect("the store is well again");
        life.check(life.acknowledged).await;
        assert!(marks(&life.house, &life.topic).local_start > Offset(0));
        life.stop().await.expect("a good disk");
        is_sound(&bucket(inner)).await;
    }
    assert!(read > 5 && refused > 0, "{read} reads, {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_rots_before_it_is_archived_is_told_and_keeps_what_is_behind_it_on_the_disk() {
    let (fs, faulty) = (SimFs::new(), FaultyStore::over(memory()));
    let store = bucket(Arc::new(faulty.clone()));
    let mut life = Life::begin(&fs, &store).await.expect("all is well");
    faulty.lives_while(|_| false);
    life.fill(60).await.expect("no append waits for the store");
    let dir = Path::new("/data/flights-0");
    let mut logs: Vec<String> = fs
        .list(dir)
        .expect("listed")
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    logs.retain(|name| name.ends_with(".log"));
    logs.sort();
    let file = fs
        .open(&dir.join(&logs[1]), crate::env::OpenMode::ReadWrite)
        .expect("there");
    file.write_all_at(&[std::io::IoSlice::new(b"rot")], 5000)
        .expect("written");
    let rotten: i64 = logs[1][..20].parse().expect("an offset");
    faulty.heal();
    until("it is told", || life.archive().is_stuck).await;
    let told = life.archive();
    assert_eq!(told.end, Some(Offset(rotten)), "what lies before it is there");
    assert!(
        told.trouble
            .as_deref()
            .is_some_and(|trouble| trouble.contains("damaged")),
        "{told:?}"
    );
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(marks(&life.house, &life.topic).local_start <= Offset(rotten));
    assert!(life.archive().is_stuck);
}

#[tokio::test]
async fn a_topic_that_wants_an_archive_is_refused_where_there_is_none() {
    let house = start().await;
    let wish = [("remote.storage.enable", "true")];
    let refused = house
        .broker
        .create_topic(new_topic("t", 1, &wish), Execution::Apply)
        .await;
    let refused = refused.map(drop).expect_err("there is no archive").to_string();
    assert!(refused.contains("start it with tier.url"), "{refused}");
    let topic = house.create("t", 1, &[("remote.storage.enable", "auto")]).await;
    let change = ConfigChange {
        set: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
        unset: Vec::new(),
    };
    let refused = house.broker.alter_topic(&topic, change, Execution::Apply).await;
    assert!(matches!(refused, Err(Error::InvalidConfig { .. })), "{refused:?}");
}
