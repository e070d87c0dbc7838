//! The topics that are served, in memory.
//!
//! A [`Topic`] is a snapshot: a change makes a new one and puts it in place of the old. Look one up, keep the `Arc`, work
//! without a lock. What is on disk about topics is `metadata`'s; who may change this registry holds the admin lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use crate::types::{PartitionId, TopicId, TopicName};

use super::served::Served;
use super::settings::TopicConfig;
use super::{AskedPartitions, Error, TopicSummary};

/// Partitions of one topic, and of all user topics of one server together.
pub(super) const PARTITIONS_MAX: i32 = 100_000;

/// A topic as it is served.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) id: TopicId,
    pub(super) config: Arc<TopicConfig>,
    /// By number.
    pub(super) partitions: Vec<Arc<Served>>,
    /// Counts requests of records without a key, which take partitions in turn. Shared by all snapshots.
    turn: Arc<AtomicU32>,
}

impl Topic {
    /// Makes a topic; `partitions` are in order of their numbers.
    pub(super) fn new(
        name: TopicName,
        id: TopicId,
        config: TopicConfig,
        partitions: Vec<Arc<Served>>,
    ) -> Self {
        Self {
            name,
            id,
            config: Arc::new(config),
            partitions,
            turn: Arc::default(),
        }
    }

    /// Returns this topic with other settings.
    pub(super) fn with_config(&self, config: TopicConfig) -> Self {
        Self {
            config: Arc::new(config),
            ..self.copy()
        }
    }

    /// Returns this topic with other partitions.
    pub(super) fn with_partitions(&self, partitions: Vec<Arc<Served>>) -> Self {
        Self {
            partitions,
            ..self.copy()
        }
    }

    fn copy(&self) -> Self {
        Self {
            name: self.name.clone(),
            id: self.id,
            config: Arc::clone(&self.config),
            partitions: self.partitions.clone(),
            turn: Arc::clone(&self.turn),
        }
    }

    /// Returns how many partitions it has.
    pub(super) fn count(&self) -> i32 {
        i32::try_from(self.partitions.len()).expect("the number of partitions has a limit")
    }

    /// Returns one of its partitions.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`].
    pub(super) fn partition(&self, partition: PartitionId) -> Result<&Arc<Served>, Error> {
        let found = usize::try_from(partition.0)
            .ok()
            .and_then(|number| self.partitions.get(number));
        found.ok_or_else(|| Error::UnknownPartition {
            topic: self.name.clone(),
            partition,
            count: self.count(),
        })
    }

    /// Returns those of these partitions that there are, ascending, each once; all where none is named.
    pub(super) fn chosen(&self, named: &[PartitionId]) -> Result<Vec<Arc<Served>>, Error> {
        if named.is_empty() {
            return Ok(self.partitions.clone());
        }
        let numbers: BTreeSet<_> = named.iter().copied().collect();
        let found = numbers
            .into_iter()
            .map(|number| self.partition(number).map(Arc::clone));
        found.collect()
    }

    /// Returns the partitions that are asked about, ascending.
    pub(super) fn asked(&self, asked: &AskedPartitions) -> Result<Vec<Arc<Served>>, Error> {
        let mut found = self.chosen(&asked.named)?;
        found.retain(|served| served.id().partition >= asked.from);
        found.truncate(asked.at_most);
        Ok(found)
    }

    /// Chooses the partition for one request's records without a key: each in turn.
    pub(super) fn partition_in_turn(&self) -> PartitionId {
        let request = self.turn.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
        let request = i32::try_from(request).expect("31 bits fit");
        PartitionId(request % self.count())
    }

    /// Returns name, id and number of partitions.
    pub(super) fn summary(&self) -> TopicSummary {
        TopicSummary {
            name: self.name.clone(),
            id: self.id,
            partitions: self.count(),
        }
    }
}

/// All topics by name.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_name: RwLock<HashMap<TopicName, Arc<Topic>>>,
}

impl Topics {
    /// Returns a topic.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub(super) fn find(&self, name: &TopicName) -> Result<Arc<Topic>, Error> {
        let found = self.by_name.read().get(name).map(Arc::clone);
        found.ok_or_else(|| unknown(name))
    }

    /// Returns a topic that clients may change.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::InternalTopic`].
    pub(super) fn find_writable(&self, name: &TopicName) -> Result<Arc<Topic>, Error> {
        let topic = self.find(name)?;
        if name.is_internal() {
            Err(Error::InternalTopic { topic: name.clone() })
        } else {
            Ok(topic)
        }
    }

    /// Puts a topic in, in place of an older snapshot of it.
    pub(super) fn put(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.by_name
            .write()
            .insert(topic.name.clone(), Arc::clone(&topic));
        topic
    }

    /// Takes a topic out.
    pub(super) fn remove(&self, name: &TopicName) {
        self.by_name.write().remove(name);
    }

    /// Returns all topics, ascending by name.
    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        let mut all: Vec<_> = self.by_name.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns how many partitions the user topics have together.
    pub(super) fn user_partitions(&self) -> usize {
        let by_name = self.by_name.read();
        let user = by_name.values().filter(|topic| !topic.name.is_internal());
        user.map(|topic| topic.partitions.len()).sum()
    }
}

/// The error for a name that no topic has.
pub(super) fn unknown(name: &TopicName) -> Error {
    Error::UnknownTopic {
        topic: name.to_string(),
    }
}
