//! Creating, changing and deleting topics, and giving out producer ids: one after the other, under one lock.
//!
//! Each operation writes the metadata first and changes what is served after: what a caller was told is what the next start
//! finds. What was written and then could not be served is taken back. Operations run to their end also when the caller stops
//! waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::storage::PartitionSpec;
use crate::types::{Offset, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicName, TopicPartition};

use super::archive::PartitionArchive;
use super::core::{Core, off_thread};
use super::metadata::{self, Change, MetadataLog, TopicEntry};
use super::producer_ids::ProducerIds;
use super::requests::{
    ConfigChange, Execution, NewTopic, PartitionDescription, TopicDescription, TopicSummary,
};
use super::served::Served;
use super::setting_table::REMOTE_STORAGE_ENABLE;
use super::settings::{TopicConfig, changed};
use super::topics::{PARTITIONS_MAX, Topic, unknown};
use super::{AutoCreate, Error, translate};

/// What the admin lock guards.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) metadata: MetadataLog,
    pub(super) producer_ids: ProducerIds,
    /// Topics whose deletion has begun and did not come to its end.
    pub(super) deleting: BTreeMap<TopicName, TopicEntry>,
}

/// A topic that is not there yet and may be made.
pub(super) struct Checked {
    pub(super) name: TopicName,
    pub(super) count: i32,
    pub(super) config: TopicConfig,
}

impl Core {
    /// Runs `work` under the admin lock, where it may block.
    pub(super) async fn administer<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>, &mut Admin) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.writable()?;
        let pass = self.gate.enter()?;
        let mut admin = Arc::clone(&self.admin).lock_owned().await;
        let core = Arc::clone(self);
        let done = off_thread(pass, move || work(&core, &mut admin)).await;
        self.topics_changed();
        done
    }

    /// Topics may have been made, changed or deleted.
    pub(super) fn topics_changed(&self) {
        if let Some(archive) = &self.archive {
            archive.look_at_topics();
        }
    }

    /// See [`super::Broker::create_topic`].
    pub(super) async fn create_topic(
        self: &Arc<Self>,
        new: NewTopic,
        execution: Execution,
    ) -> Result<TopicDescription, Error> {
        self.administer(move |core, admin| core.create(admin, new, execution))
            .await
    }

    /// See [`super::Broker::ensure_topic`].
    pub(super) async fn ensure_topic(self: &Arc<Self>, name: &TopicName) -> Result<(), Error> {
        let found = self.topics.find(name);
        if found.is_ok() || self.config.auto_create_topics == AutoCreate::Off {
            return found.map(drop);
        }
        let new = NewTopic {
            name: name.to_string(),
            partitions: None,
            config: BTreeMap::new(),
        };
        match self.create_topic(new, Execution::Apply).await {
            Ok(_) | Err(Error::TopicExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn create(
        &self,
        admin: &mut Admin,
        new: NewTopic,
        execution: Execution,
    ) -> Result<TopicDescription, Error> {
        let Checked { name, count, config } = self.check_new(new)?;
        if execution == Execution::ValidateOnly {
            return Ok(self.planned(name, count, &config));
        }
        let id = new_topic_id()?;
        self.record_new(admin, &name, &TopicEntry::active(id, count, &config))?;
        let partitions = self
            .open(&name, 0..count, id, &config)
            .inspect_err(|_| self.take_back(admin, &name, None))?;
        let topic = self.topics.put(Topic::new(name, id, config, partitions));
        tracing::info!(topic = %topic.name, id = %topic.id, partitions = count, "topic created");
        Ok(self.describe(&topic))
    }

    /// Checks all that a new topic asks for.
    pub(super) fn check_new(&self, new: NewTopic) -> Result<Checked, Error> {
        let name = TopicName::new(&new.name).map_err(|error| Error::InvalidRequest {
            reason: format!("topic name {:?}: {error}", new.name),
        })?;
        if name.is_internal() {
            let reason =
                format!("topic name {name}: names that begin with two underscores belong to the store");
            return Err(Error::InvalidRequest { reason });
        }
        if self.topics.find(&name).is_ok() {
            return Err(Error::TopicExists { topic: name });
        }
        let count = new.partitions.unwrap_or(self.config.num_partitions);
        self.check_count(&name, count, 0)?;
        let config = self
            .settings
            .resolve(&new.config)
            .map_err(|error| error.of_topic(&name))?;
        self.check_requests(&new.config, &config)
            .map_err(|error| error.of_topic(&name))?;
        Ok(Checked { name, count, config })
    }

    /// Writes the entry of a new topic, after the last of an older topic of that name is gone.
    pub(super) fn record_new(
        &self,
        admin: &mut Admin,
        name: &TopicName,
        entry: &TopicEntry,
    ) -> Result<(), Error> {
        if let Some(entry) = admin.deleting.get(name).cloned() {
            self.finish_deletion(admin, name, &entry)?;
        }
        self.record(admin, Change::topic(name, Some(entry)), None)
    }

    fn check_count(&self, name: &TopicName, total: i32, present: usize) -> Result<(), Error> {
        if !(1..=PARTITIONS_MAX).contains(&total) {
            let reason = format!("topic {name}: partitions must be 1 to {PARTITIONS_MAX}, got {total}");
            return Err(Error::InvalidRequest { reason });
        }
        let total = usize::try_from(total).expect("it is positive");
        let max = usize::try_from(PARTITIONS_MAX).expect("it is positive");
        if self.topics.user_partitions() + total.saturating_sub(present) > max {
            let limit = u64::try_from(PARTITIONS_MAX).expect("it is positive");
            return Err(Error::Overloaded {
                what: "partitions of the server",
                limit,
            });
        }
        Ok(())
    }

    /// Opens partitions that hold nothing yet, or what an earlier start left in them.
    pub(super) fn open(
        &self,
        name: &TopicName,
        numbers: std::ops::Range<i32>,
        id: TopicId,
        config: &TopicConfig,
    ) -> Result<Vec<Arc<Served>>, Error> {
        let specs: Vec<PartitionSpec> = numbers
            .map(|number| self.spec(name, number, id, config))
            .collect();
        let opened = self.store.make_partitions(specs, self.now());
        let serve = |log| Ok(Served::new(log?));
        let served: Result<_, _> = opened.into_iter().map(serve).collect();
        served
            .inspect_err(|error| self.disk.heed(error))
            .map_err(|error| translate::store(name, &error))
    }

    /// Writes one change of the metadata; a disk that fails puts the metadata partition into repair.
    pub(super) fn record(
        &self,
        admin: &mut Admin,
        change: Change,
        before: Option<bytes::Bytes>,
    ) -> Result<(), Error> {
        let written = admin.metadata.write(change, before, &self.store, self.now());
        self.metadata_written(admin, &written);
        written.map(drop)
    }

    fn metadata_written(&self, admin: &Admin, written: &Result<Offset, Error>) {
        let served = admin.metadata.served();
        match written {
            Ok(high_watermark) => served.advance(*high_watermark, &self.metrics.ack_latency),
            Err(_) if served.log.refusal().is_some() => self.repairs.add(served),
            Err(_) => {}
        }
    }

    /// Writes the entry of a topic as it was before a change that was written and could not be carried out. Where the disk
    /// takes neither, that is owed: the next write that it takes puts it right, or [`settle_metadata`](Self::settle_metadata);
    /// only a crash before either finds the change made.
    pub(super) fn take_back(&self, admin: &mut Admin, name: &TopicName, before: Option<&TopicEntry>) {
        let change = Change::topic(name, before);
        if let Err(error) = self.record(admin, change.clone(), before.map(metadata::stored)) {
            admin.metadata.owe(change);
            tracing::warn!(topic = %name, %error, "a topic is not what its entry says; the entry is written when the disk takes it");
        }
    }

    /// Writes what the metadata still owes. Who holds the admin lock is about to write it, or the next call does.
    pub(super) fn settle_metadata(&self) {
        let Ok(mut admin) = self.admin.try_lock() else {
            return;
        };
        match admin.metadata.settle(&self.store, self.now()) {
            Ok(None) => {}
            Ok(Some(high_watermark)) => self.metadata_written(&admin, &Ok(high_watermark)),
            Err(error) => {
                tracing::warn!(%error, "what was taken back of topics cannot be written yet; it is tried again");
                self.metadata_written(&admin, &Err(error));
            }
        }
    }

    /// Checks a change of a topic's settings, and returns them as they are to be.
    fn altered(&self, topic: &Topic, change: &ConfigChange) -> Result<TopicConfig, Error> {
        let overrides = changed(&topic.config.overrides, change)?;
        let config = self.settings.resolve(&overrides)?;
        self.check_requests(&change.set, &config)?;
        Ok(config)
    }

    /// Checks what was just asked for against what this server can do; what a topic has from before stays.
    fn check_requests(&self, set: &BTreeMap<String, String>, config: &TopicConfig) -> Result<(), Error> {
        self.settings.check_requests(set, self.config.max_request_bytes)?;
        let wants_archive = set.contains_key(REMOTE_STORAGE_ENABLE) && config.archived == Some(true);
        if wants_archive && self.config.archive.url.is_none() {
            return Err(Error::InvalidConfig {
                topic: None,
                setting: REMOTE_STORAGE_ENABLE.to_owned(),
                reason: "this server has no archive: start it with tier.url, or leave it at auto".to_owned(),
            });
        }
        Ok(())
    }

    /// See [`super::Broker::alter_topic`].
    pub(super) async fn alter_topic(
        self: &Arc<Self>,
        name: TopicName,
        change: ConfigChange,
        execution: Execution,
    ) -> Result<TopicDescription, Error> {
        self.administer(move |core, admin| {
            let topic = core.topics.find_writable(&name)?;
            let mut config = core
                .altered(&topic, &change)
                .map_err(|error| error.of_topic(&name))?;
            config.holds = topic.config.holds.clone();
            check_all_is_local(&topic, &config)?;
            if execution == Execution::ValidateOnly {
                return Ok(core.describe(&topic.with_config(config)));
            }
            let before = entry_of(&topic);
            let entry = TopicEntry::active(topic.id, topic.count(), &config);
            core.record(
                admin,
                Change::topic(&name, Some(&entry)),
                Some(metadata::stored(&before)),
            )?;
            let topic = core.topics.put(topic.with_config(config));
            core.configure(&topic);
            for served in &topic.partitions {
                let marks = served.log.watermarks();
                if marks.recovery_point < marks.log_end {
                    // What was only written may be promised as synced from now on.
                    core.commit.mark(served);
                }
            }
            Ok(core.describe(&topic))
        })
        .await
    }

    /// Tells the logs of a topic what its settings and holds are. On return no look of retention is under way that had planned
    /// without them.
    pub(super) fn configure(&self, topic: &Topic) {
        let _no_look = self.retention.alone();
        for served in &topic.partitions {
            let partition = served.id().partition;
            let config = self.config.log_config(&topic.name, &topic.config, partition);
            served.log.configure(config, self.now());
            served.cleaning.forget();
        }
        self.cleaner.look();
    }

    /// See [`super::Broker::add_partitions`].
    pub(super) async fn add_partitions(
        self: &Arc<Self>,
        name: TopicName,
        total: i32,
    ) -> Result<TopicDescription, Error> {
        self.administer(move |core, admin| {
            let topic = core.topics.find_writable(&name)?;
            let present = topic.count();
            if total < present {
                let reason =
                    format!("topic {name} has {present} partitions; there can only be more, not {total}");
                return Err(Error::InvalidRequest { reason });
            }
            core.check_count(&name, total, topic.partitions.len())?;
            let before = entry_of(&topic);
            let entry = TopicEntry::active(topic.id, total, &topic.config);
            core.record(
                admin,
                Change::topic(&name, Some(&entry)),
                Some(metadata::stored(&before)),
            )?;
            let mut partitions = topic.partitions.clone();
            let opened = core.open(&name, present..total, topic.id, &topic.config);
            partitions.extend(opened.inspect_err(|_| core.take_back(admin, &name, Some(&before)))?);
            let topic = core.topics.put(topic.with_partitions(partitions));
            Ok(core.describe(&topic))
        })
        .await
    }

    /// See [`super::Broker::delete_topic`].
    pub(super) async fn delete_topic(self: &Arc<Self>, name: TopicName) -> Result<(), Error> {
        self.administer(move |core, admin| {
            let topic = core.topics.find_writable(&name)?;
            if let Some(hold) = topic.config.holds.first() {
                let reason = format!(
                    "topic {name} has hold {:?} ({}); remove its holds before you delete it",
                    hold.name, hold.range
                );
                return Err(Error::PolicyViolation {
                    topic: Some(name.clone()),
                    reason,
                });
            }
            let before = entry_of(&topic);
            let entry = before.deleting();
            core.record(
                admin,
                Change::topic(&name, Some(&entry)),
                Some(metadata::stored(&before)),
            )?;
            core.topics.remove(&name);
            admin.deleting.insert(name.clone(), entry.clone());
            for served in &topic.partitions {
                served.close(&unknown(&name));
            }
            core.finish_deletion(admin, &name, &entry)?;
            tracing::info!(topic = %name, id = %topic.id, "topic deleted");
            Ok(())
        })
        .await
    }

    /// Takes the partitions of a topic whose entry says `deleting` away, then the entry; their files go in the background.
    pub(super) fn finish_deletion(
        &self,
        admin: &mut Admin,
        name: &TopicName,
        entry: &TopicEntry,
    ) -> Result<(), Error> {
        let id = |number| TopicPartition::new(name.clone(), PartitionId(number));
        let ids: Vec<_> = (0..entry.partitions).map(id).collect();
        let removed = self.store.remove_partitions(&ids);
        let removed = removed.inspect_err(|error| self.disk.heed(error));
        self.remove_later(removed.map_err(|error| translate::store(name, &error))?);
        self.record(admin, Change::topic(name, None), Some(metadata::stored(entry)))?;
        admin.deleting.remove(name);
        Ok(())
    }

    /// See [`super::Broker::init_producer`].
    pub(super) async fn init_producer(self: &Arc<Self>) -> Result<(ProducerId, ProducerEpoch), Error> {
        self.administer(|core, admin| {
            let id = match admin.producer_ids.take() {
                Some(id) => id,
                None => {
                    let (end, recorded) = admin.producer_ids.next_block();
                    let before = Change::producer_ids(recorded).into_value();
                    core.record(admin, Change::producer_ids(end), before)?;
                    admin.producer_ids.recorded(end);
                    admin.producer_ids.take().ok_or_else(|| Error::PolicyViolation {
                        topic: None,
                        reason: "all producer ids were given".to_owned(),
                    })?
                }
            };
            Ok((id, ProducerEpoch(0)))
        })
        .await
    }

    /// Sees to it that no id up to `upto` is given from now on. On return that is durable.
    pub(super) fn pass_producer_ids(&self, admin: &mut Admin, upto: ProducerId) -> Result<(), Error> {
        if let Some((end, recorded)) = admin.producer_ids.block_behind(upto) {
            let before = Change::producer_ids(recorded).into_value();
            self.record(admin, Change::producer_ids(end), before)?;
            admin.producer_ids.recorded(end);
        }
        admin.producer_ids.pass(upto);
        Ok(())
    }

    /// Describes a topic as it is now, from memory.
    pub(super) fn describe(&self, topic: &Topic) -> TopicDescription {
        TopicDescription {
            summary: topic.summary(),
            partitions: topic
                .partitions
                .iter()
                .map(|served| self.describe_partition(served))
                .collect(),
            config: self.settings.entries(&topic.config.overrides),
        }
    }

    /// Describes a topic as it would be.
    fn planned(&self, name: TopicName, count: i32, config: &TopicConfig) -> TopicDescription {
        TopicDescription {
            summary: TopicSummary {
                name,
                id: TopicId([0; 16]),
                partitions: count,
            },
            partitions: Vec::new(),
            config: self.settings.entries(&config.overrides),
        }
    }
}

/// Compaction looks at all of a log: what is only in the archive it could not see.
fn check_all_is_local(topic: &Topic, config: &TopicConfig) -> Result<(), Error> {
    let is_cold = |served: &&Arc<Served>| {
        let marks = served.log.watermarks();
        marks.log_start < marks.local_start
    };
    match topic.partitions.iter().find(is_cold) {
        Some(served) if config.cleanup.compacts() && !topic.config.cleanup.compacts() => {
            let reason = format!(
                "{} is partly in the archive alone, below offset {}: cleanup.policy=compact needs all of a topic on the local disk",
                served.id(),
                served.log.watermarks().local_start
            );
            Err(Error::PolicyViolation {
                topic: Some(topic.name.clone()),
                reason,
            })
        }
        _ => Ok(()),
    }
}

pub(super) fn entry_of(topic: &Topic) -> TopicEntry {
    TopicEntry::active(topic.id, topic.count(), &topic.config)
}

pub(super) fn new_topic_id() -> Result<TopicId, Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Error::Storage {
        target: "the system's random source".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(TopicId(id))
}

impl Core {
    /// Tells how a partition stands in the archive.
    pub(super) fn archive_status(&self, served: &Served) -> Option<PartitionArchive> {
        let archive = self.archive.as_ref()?;
        archive.status(served).or_else(|| {
            // It was made a moment ago: nobody who uploads has looked at it yet.
            let topic = self.topics.find(&served.id().topic).ok()?;
            let lag = served.log.archive_lag(served.log.watermarks().log_start);
            let is_archived = self.config.archives(&topic.name, &topic.config);
            is_archived.then(|| PartitionArchive {
                lag_bytes: lag.bytes,
                lag_since: lag.since,
                ..PartitionArchive::default()
            })
        })
    }

    fn describe_partition(&self, served: &Served) -> PartitionDescription {
        let stats = served.log.describe();
        PartitionDescription {
            partition: served.id().partition,
            log_start: stats.watermarks.log_start,
            last_stable: stats.watermarks.last_stable,
            high_watermark: stats.watermarks.high_watermark,
            log_end: stats.watermarks.log_end,
            recovery_point: stats.watermarks.recovery_point,
            segments: stats.segments,
            size_bytes: stats.size_bytes,
            least_timestamp: stats.least_timestamp,
            greatest_timestamp: stats.greatest_timestamp,
            write_refusal: stats.refusal,
            local_start: stats.watermarks.local_start,
            archive: self.archive_status(served),
        }
    }
}
