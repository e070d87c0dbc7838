//! The crash sweep of the broker: a life of administrative calls, ended at every call that changes the disk.
//!
//! What was answered is done, what was not is done whole or not at all; no directory is left without a topic, and no producer
//! id is given twice. What storage promises of records its own sweep asks; here they are only the data of the topics.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::env::FileKind;
use crate::types::TopicPartition;

/// What a topic is from outside: partitions, and its `retention.ms`.
type Shape = (i32, String);
/// All user topics, by name.
type Shapes = BTreeMap<String, Shape>;

/// What is known from outside.
#[derive(Clone, Default, Debug)]
struct Ledger {
    topics: Shapes,
    /// What they are if the call under way is done.
    pending: Option<Shapes>,
    ids: BTreeSet<i64>,
    /// Acknowledged records by topic and partition.
    values: BTreeMap<(String, i32), Vec<String>>,
}

/// A running broker, and what is known of its disk.
struct Life {
    fs: SimFs,
    house: Option<House>,
    ledger: Ledger,
}

/// The life is over, as ordered.
#[derive(Debug)]
struct Died;

impl Life {
    fn on(fs: SimFs) -> Self {
        Self {
            fs,
            house: None,
            ledger: Ledger::default(),
        }
    }

    /// Nothing but the death that was ordered may fail a call.
    fn heed<T>(&self, what: &str, outcome: Result<T, Error>) -> Result<T, Died> {
        outcome.map_err(|error| {
            let is_dead = self.fs.free_bytes(Path::new("/")).is_err();
            assert!(is_dead, "{what}: {error}");
            Died
        })
    }

    fn broker(&self) -> &Broker {
        &self.house.as_ref().expect("it was started").broker
    }

    async fn start(&mut self) -> Result<(), Died> {
        let started = start_on(self.fs.clone()).await;
        self.house = Some(self.heed("start", started)?);
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), Died> {
        let house = self.house.take().expect("it was started");
        let stopped = house.broker.shutdown().await;
        self.heed("stop", stopped)
    }

    /// From here on a crash finds the topics as they were, or with this change, until it is answered.
    fn begin(&mut self, change: impl FnOnce(&mut Shapes)) {
        let mut after = self.ledger.topics.clone();
        change(&mut after);
        self.ledger.pending = Some(after);
    }

    fn end<T>(&mut self, what: &str, outcome: Result<T, Error>) -> Result<(), Died> {
        self.heed(what, outcome)?;
        self.ledger.topics = self.ledger.pending.take().expect("it was begun");
        Ok(())
    }

    async fn create(&mut self, name: &str, partitions: i32) -> Result<(), Died> {
        self.begin(|topics| {
            topics.insert(name.to_owned(), (partitions, "-1".to_owned()));
        });
        let new = new_topic(name, partitions, &[]);
        let created = self.broker().create_topic(new, Execution::Apply).await;
        self.end("create", created)
    }

    async fn alter(&mut self, name: &str, retention: &str) -> Result<(), Died> {
        self.begin(|topics| topics.get_mut(name).expect("it is there").1 = retention.to_owned());
        let change = ConfigChange {
            set: [("retention.ms".to_owned(), retention.to_owned())].into(),
            unset: Vec::new(),
        };
        let name = topic(name);
        let altered = self.broker().alter_topic(&name, change, Execution::Apply);
        let altered = altered.await;
        self.end("alter", altered)
    }

    async fn add(&mut self, name: &str, total: i32) -> Result<(), Died> {
        self.begin(|topics| topics.get_mut(name).expect("it is there").0 = total);
        let added = self.broker().add_partitions(&topic(name), total).await;
        self.end("add", added)
    }

    async fn delete(&mut self, name: &str) -> Result<(), Died> {
        self.begin(|topics| drop(topics.remove(name)));
        self.ledger.values.retain(|(topic, _), _| topic != name);
        let deleted = self.broker().delete_topic(&topic(name)).await;
        self.end("delete", deleted)
    }

    async fn produce(&mut self, name: &str, partition: i32) -> Result<(), Died> {
        let place = (name.to_owned(), partition);
        let value = format!("{name}/{partition}: {}", self.ledger.values.len());
        let house = self.house.as_ref().expect("it was started");
        let appended = house.append(&topic(name), partition, vec![record(&value)]).await;
        self.heed("produce", appended)?;
        self.ledger.values.entry(place).or_default().push(value);
        Ok(())
    }

    /// Takes producer ids; each is new.
    async fn ids(&mut self, count: usize) -> Result<(), Died> {
        for _ in 0..count {
            let given = self.broker().init_producer().await;
            let (id, _) = self.heed("a producer id", given)?;
            assert!(self.ledger.ids.insert(id.0), "{id} is given twice");
        }
        Ok(())
    }

    /// Everything that is administered.
    async fn live(&mut self) -> Result<(), Died> {
        self.start().await?;
        self.create("a", 2).await?;
        self.produce("a", 0).await?;
        self.ids(2).await?;
        self.alter("a", "7000").await?;
        self.add("a", 3).await?;
        self.produce("a", 2).await?;
        self.create("b", 2).await?;
        self.produce("b", 0).await?;
        self.produce("b", 1).await?;
        self.delete("b").await?;
        self.stop().await?;
        self.start().await?;
        self.ids(1).await?;
        self.create("b", 1).await?;
        self.produce("b", 0).await?;
        self.delete("a").await?;
        self.create("a", 1).await?;
        self.stop().await
    }

    /// What the broker says of its topics.
    fn shapes(&self) -> Shapes {
        let listed = self.broker().list_topics().into_iter();
        let user = listed.filter(|topic| !topic.name.is_internal());
        user.map(|summary| {
            let described = self.broker().describe_topic(&summary.name).expect("listed");
            let entries = described.config.into_iter();
            let retention = entries.filter(|entry| entry.name == "retention.ms");
            let retention = retention.map(|entry| entry.value).collect();
            (summary.name.to_string(), (summary.partitions, retention))
        })
        .collect()
    }

    /// Directories of partitions, whatever else their names say of them.
    fn dirs(&self) -> Vec<String> {
        let listed = self.fs.list(Path::new("/data")).expect("listed").into_iter();
        let dirs = listed.filter(|entry| entry.kind == FileKind::Dir);
        dirs.map(|entry| entry.name).collect()
    }

    /// Starts on what a death left, holds it against what is known, and goes on.
    async fn live_again(&mut self) -> Result<(), Died> {
        self.start().await?;
        let found = self.shapes();
        let is_known = found == self.ledger.topics || Some(&found) == self.ledger.pending.as_ref();
        assert!(is_known, "found {found:?}, known {:?}", self.ledger);
        for ((name, partition), values) in &self.ledger.values {
            if found.contains_key(name) {
                let spec = ReadSpec {
                    partitions: vec![(PartitionId(*partition), None)],
                    ..read(&topic(name), ReadStart::Earliest, ReadEnd::Now)
                };
                let house = self.house.as_ref().expect("it was started");
                let kept = house.values(spec).await.expect("readable");
                assert!(kept.starts_with(values), "{name}-{partition}: {kept:?}");
            }
        }
        self.ledger.topics = found;
        self.ledger.pending = None;
        self.ids(1).await?;
        if !self.ledger.topics.contains_key("c") {
            self.create("c", 1).await?;
        }
        self.produce("c", 0).await?;
        self.stop().await?;
        // Files that nobody looks for go in the background, or here.
        self.start().await?;
        assert_eq!(self.shapes(), self.ledger.topics);
        for dir in self.dirs() {
            let id = TopicPartition::parse_dir_name(&dir);
            let owner = id
                .as_ref()
                .and_then(|id| self.ledger.topics.get(id.topic.as_str()));
            let is_owned = owner.is_some_and(|(count, _)| id.is_some_and(|id| id.partition.0 < *count));
            assert!(is_owned || dir == "__siltstone_topics-0", "{dir} has no topic");
        }
        Ok(())
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("valid")
}

/// Lives until the `death`-th change of the disk; `None` when the life ended before.
async fn live_until(death: u64) -> Option<Life> {
    let fs = SimFs::new();
    fs.fail_after(death);
    let mut life = Life::on(fs);
    life.live().await.err().map(|Died| life)
}

#[tokio::test]
async fn an_administrative_call_that_dies_is_done_or_not_and_what_was_answered_is_done() {
    let _still = Stillness::begin();
    let mut deaths = 0;
    while let Some(Life { fs, ledger, house }) = live_until(deaths).await {
        drop(house);
        for choice in [
            CrashChoice::LoseAll,
            CrashChoice::KeepAll,
            CrashChoice::Random(deaths),
        ] {
            let mut again = Life {
                ledger: ledger.clone(),
                ..Life::on(fs.crash(choice))
            };
            let lived = again.live_again().await;
            assert!(lived.is_ok(), "nobody ordered a death after {deaths}, {choice:?}");
        }
        deaths += 1;
    }
    assert!(deaths > 100, "{deaths} deaths show little");
}
