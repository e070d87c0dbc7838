//! The data directory of a whole broker, of format version 1, checked in: every build must start on it and find its topics, their
//! settings and holds, its producer ids, how far its logs are clean, and which of its transactions were aborted.
//!
//! `tests/fixtures/v1/broker` was stopped cleanly. It was made once by [`make`], which is kept to say what is in it, and is never
//! edited: a build that cannot read it cannot read its users' data either.

use std::io::IoSlice;

use super::cleaner::Workshop;
use super::*;
use crate::env::{FileKind, OpenMode, RealFs};
use crate::record::{Accepted, Outcome, TransactionEnd};
use crate::storage::Origin;

/// What a stopped broker leaves that no other fixture has.
const TRANSACTION_INDEX: &str = "/data/transactions-0/00000000000000000000.txnindex";
const CLEANER_POINTS: &str = "/data/cleaner-offset-checkpoint";
const COMPACTED: &str = "/data/compacted-offset-checkpoint";
/// The id that `plain` got when the fixture was made.
const PLAIN_ID: &str = "248025ddcbe4e048b874ed46926ed8d7";
const CLEAN_MARKER: &str = "/data/.kafka_cleanshutdown";

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("valid")
}

fn stamp(id: i64) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId(id),
        epoch: ProducerEpoch(0),
        base_sequence: Some(Sequence(0)),
    }
}

/// A batch of the transaction of a producer, or a plain one.
pub(super) fn one(producer: Option<i64>, value: &str) -> Accepted {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: producer.map(stamp),
        transactional: producer.map_or(Transactional::No, |_| Transactional::Yes),
        ..BatchOptions::default()
    });
    builder
        .append(Some(NOW), None, Some(value.as_bytes()), &[])
        .expect("small");
    builder.build().expect("not empty")
}

pub(super) fn end(producer: i64, outcome: Outcome) -> Accepted {
    TransactionEnd {
        outcome,
        producer: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 0,
        at: NOW,
    }
    .to_batch()
}

/// What the fixture holds; the broker is stopped.
async fn make() -> SimFs {
    let shop = Workshop::open().await;
    let house = &shop.house;
    let plain = house
        .create("plain", 2, &[("retention.ms", "7000000000000")])
        .await;
    for (partition, value) in [(0, "first"), (1, "second"), (0, "third")] {
        let written = house
            .append(&plain, partition, vec![timed(value, NOW.0 + 5)])
            .await;
        written.expect("written");
    }
    let hold = TopicHold {
        name: "case-7".to_owned(),
        partition: Some(PartitionId(0)),
        range: HeldRange::Offsets(Offset(0)..Offset(1)),
    };
    house.broker.add_hold(&plain, hold).await.expect("held");
    let gone = house.create("gone", 1, &[]).await;
    house.broker.delete_topic(&gone).await.expect("known");
    assert_eq!(
        house.broker.init_producer().await.expect("given").0,
        ProducerId(0)
    );

    let table = house.create("table", 1, &[("cleanup.policy", "compact")]).await;
    shop.write(&table, &[("a", "a1"), ("b", "b1"), ("a", "a2")]).await;
    shop.compact(&table).await;

    let name = house.create("transactions", 1, &[]).await;
    let served = house.broker.core.topics.find(&name).expect("known");
    let log = &served.partition(PartitionId(0)).expect("known").log;
    let batches = [
        (one(Some(7), "aborted"), Origin::Client),
        (one(Some(8), "committed"), Origin::Client),
        (end(7, Outcome::Abort), Origin::Coordinator),
        (end(8, Outcome::Commit), Origin::Coordinator),
        (one(None, "plain"), Origin::Client),
    ];
    for (batch, origin) in batches {
        log.append(&batch, origin, NOW).expect("appended");
    }
    house.broker.shutdown().await.expect("a good disk");
    house.fs.clone()
}

/// Loads the fixture into memory, so that starting on it does not change the checkout.
fn load() -> SimFs {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/broker");
    let (real, fs) = (RealFs::default(), SimFs::new());
    let mut left = vec![(dir, PathBuf::from("/data"))];
    while let Some((from, to)) = left.pop() {
        fs.create_dir(&to).expect("made");
        for entry in real.list(&from).expect("listed") {
            let (from, to) = (from.join(&entry.name), to.join(&entry.name));
            if entry.kind == FileKind::Dir {
                left.push((from, to));
            } else {
                let file = fs.open(&to, OpenMode::CreateNew).expect("made");
                let bytes = content(&real, &from);
                file.write_all_at(&[IoSlice::new(&bytes)], 0).expect("written");
            }
        }
    }
    fs
}

fn content(fs: &dyn Fs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).expect("it is there");
    let mut bytes = vec![0; usize::try_from(file.len_bytes().expect("known")).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

/// Starts on a disk and holds everything that is found against what was put there.
async fn check(fs: SimFs) {
    let house = start_on(fs).await.expect("it starts");
    let listed = house.broker.list_topics().into_iter();
    let user = listed.filter(|topic| !topic.name.is_internal());
    let user: Vec<_> = user
        .map(|topic| format!("{}/{}", topic.name, topic.partitions))
        .collect();
    assert_eq!(user, ["plain/2", "table/1", "transactions/1"]);
    let described = house.broker.describe_topic(&topic("plain")).expect("known");
    let retention = described.config.iter().find(|entry| entry.name == "retention.ms");
    assert_eq!(retention.expect("listed").value, "7000000000000");
    let holds = house.broker.holds(&topic("plain")).expect("known");
    assert_eq!(holds.len(), 1);
    assert_eq!(holds[0].range, HeldRange::Offsets(Offset(0)..Offset(1)));

    let everything = |name: &str| read(&topic(name), ReadStart::Earliest, ReadEnd::Now);
    let mut plain = house.values(everything("plain")).await.expect("readable");
    plain.sort_unstable();
    assert_eq!(plain, ["first", "second", "third"]);
    let table = house.values(everything("table")).await.expect("readable");
    assert_eq!(table, ["b1", "a2"]);
    let chunk = house.fetch(&topic("table"), 0, 0).await.expect("in range");
    assert_eq!(chunk.compacted_below, Offset(3));
    let explained = house
        .broker
        .explain_compaction(&topic("table"), &AskedPartitions::all());
    let explained = explained.expect("known").pop().expect("one partition");
    assert_eq!(explained.cleaner_point, Offset(3));
    for (isolation, expected) in [
        (Isolation::ReadUncommitted, &["aborted", "committed", "plain"][..]),
        (Isolation::ReadCommitted, &["committed", "plain"]),
    ] {
        let spec = ReadSpec {
            isolation,
            ..everything("transactions")
        };
        assert_eq!(house.values(spec).await.expect("readable"), expected);
    }
    let (next, _) = house.broker.init_producer().await.expect("given");
    assert_eq!(next, ProducerId(1000), "a new block");
}

#[tokio::test]
async fn the_directory_of_a_broker_of_version_1_has_its_topics_and_all_that_is_known_of_them() {
    check(load()).await;
}

#[tokio::test]
async fn the_directory_of_a_broker_of_version_1_is_recovered_where_its_marker_is_missing() {
    let fs = load();
    fs.remove_file(Path::new(CLEAN_MARKER)).expect("removed");
    check(fs.clone()).await;
    let house = start_on(fs.crash(CrashChoice::KeepAll)).await.expect("it starts");
    let plain = house.broker.describe_topic(&topic("plain")).expect("known");
    assert_eq!(plain.summary.id.to_string(), PLAIN_ID);
}

#[tokio::test]
async fn what_the_fixture_of_a_broker_holds_is_what_its_recipe_makes() {
    let (made, found) = (make().await, load());
    for path in [TRANSACTION_INDEX, CLEANER_POINTS, COMPACTED] {
        let path = Path::new(path);
        assert_eq!(content(&made, path), content(&found, path), "{}", path.display());
    }
    assert_eq!(content(&found, Path::new(CLEANER_POINTS)), b"0\n1\ntable 0 3\n");
    assert_eq!(content(&found, Path::new(COMPACTED)), b"0\n1\ntable 0 3\n");
    check(made).await;
}
