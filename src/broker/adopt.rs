//! Bringing a partition directory in: into an empty partition of a topic, or as a topic of its own.
//!
//! The directory is verified and filled into a place of its own first, however long that takes, and nobody waits for it but
//! another adoption. Only then the admin lock is taken, and what was true at the beginning is looked at again.
//!
//! A topic that does not exist gets just enough partitions, and nobody sees it before the directory is in:
//! 1. Its entry is written to the metadata. If it dies here: the next start serves an empty topic, into which one adopts.
//! 2. The partitions before it are opened, empty; then the directory is brought in. If that fails, the entry is taken back.
//! 3. The topic is served.
//!
//! What a sound directory is, and that the original stays as it is: [`crate::storage`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::{AdoptReport, Partition, PartitionSpec, StoreError, Verified};
use crate::types::{Offset, PartitionId, TopicName};

use super::admin::{Admin, Checked, new_topic_id};
use super::core::Core;
use super::metadata::TopicEntry;
use super::requests::{Adopted, NewTopic};
use super::served::Served;
use super::topics::Topic;
use super::{Error, translate};

/// A directory that is ready to be brought in.
struct Foreign {
    from: PathBuf,
    verified: Verified,
}

impl Core {
    /// See [`super::Broker::adopt_partition`].
    pub(super) async fn adopt_partition(
        self: &Arc<Self>,
        directory: &Path,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        let _one_at_a_time = self.adopting.lock().await;
        let (from, name) = (directory.to_path_buf(), topic.clone());
        let verifying = self.blocking(move |core| core.verify_foreign(from, &name, partition));
        let verified = verifying.await?;
        let name = topic.clone();
        self.administer(move |core, admin| core.adopt(admin, verified, &name, partition))
            .await
    }

    /// Reads the directory, off every lock.
    fn verify_foreign(
        &self,
        from: PathBuf,
        name: &TopicName,
        partition: PartitionId,
    ) -> Result<Foreign, Error> {
        // What is not linked is copied, and must fit.
        self.disk.check()?;
        let spec = match self.topics.find_writable(name) {
            Ok(topic) => {
                is_empty(topic.partition(partition)?)?;
                self.spec(name, partition.0, topic.id, &topic.config)
            }
            Err(Error::UnknownTopic { .. }) => {
                let Checked { name, config, .. } = self.check_new(just_enough(name, partition))?;
                self.spec(&name, partition.0, new_topic_id()?, &config)
            }
            Err(error) => return Err(error),
        };
        let go_on = || self.gate.is_open();
        match self.store.verify_foreign(&from, &spec, self.now(), &go_on) {
            Ok(verified) => Ok(Foreign { from, verified }),
            Err(_) if !go_on() => Err(Error::ShuttingDown),
            Err(error) => Err(self.not_adopted(&from, &error)),
        }
    }

    fn adopt(
        &self,
        admin: &mut Admin,
        foreign: Foreign,
        name: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        let from = foreign.from.clone();
        if let Some(id) = foreign.verified.greatest_producer() {
            self.pass_producer_ids(admin, id)?;
        }
        let report = match self.topics.find_writable(name) {
            Ok(topic) if topic.id == foreign.verified.topic_id() => {
                self.adopt_into(&topic, foreign, partition)?
            }
            Ok(_) => {
                let reason = format!(
                    "topic {name} was made while {} was verified; adopt it again",
                    from.display()
                );
                return Err(Error::PolicyViolation {
                    topic: Some(name.clone()),
                    reason,
                });
            }
            Err(Error::UnknownTopic { .. }) => self.adopt_as_new(admin, foreign, name, partition)?,
            Err(error) => return Err(error),
        };
        tracing::info!(topic = %name, partition = %partition, from = %from.display(), records = report.records, "partition adopted");
        Ok(Adopted {
            log_start: report.log_start,
            log_end: report.log_end,
            segments: report.segments,
            batches: report.batches,
            records: report.records,
            size_bytes: report.size_bytes,
            dropped_tail_bytes: report.dropped_tail_bytes,
            missing_offsets: report.missing_offsets,
        })
    }

    fn adopt_into(
        &self,
        topic: &Topic,
        foreign: Foreign,
        partition: PartitionId,
    ) -> Result<AdoptReport, Error> {
        let old = Arc::clone(topic.partition(partition)?);
        let turn = old.turn_alone()?;
        is_empty(&old)?;
        let adopting = Error::WritesRefused {
            partition: old.id().clone(),
            reason: "a directory is being brought in; try again".to_owned(),
        };
        old.close_in_turn(turn, &adopting);
        let spec = self.spec(&topic.name, partition.0, topic.id, &topic.config);
        let brought_in = match self.store.remove_partitions(std::slice::from_ref(old.id())) {
            Ok(removed) => {
                self.remove_later(removed);
                self.bring_in(foreign, spec)
            }
            Err(error) => Err(translate::store(old.id(), &error)),
        };
        let (served, report) = match brought_in {
            Ok((log, report)) => (Served::new(log), Ok(report)),
            Err(error) => {
                let numbers = partition.0..partition.0 + 1;
                let again = self.open(&topic.name, numbers, topic.id, &topic.config)?;
                (again.into_iter().next().expect("one was asked for"), Err(error))
            }
        };
        let place = usize::try_from(partition.0).expect("the partition was found");
        let mut partitions = topic.partitions.clone();
        partitions[place] = served;
        self.topics.put(topic.with_partitions(partitions));
        self.topics_changed();
        report
    }

    fn adopt_as_new(
        &self,
        admin: &mut Admin,
        foreign: Foreign,
        name: &TopicName,
        partition: PartitionId,
    ) -> Result<AdoptReport, Error> {
        let Checked { name, count, config } = self.check_new(just_enough(name, partition))?;
        let id = foreign.verified.topic_id();
        self.record_new(admin, &name, &TopicEntry::active(id, count, &config))?;
        let spec = self.spec(&name, partition.0, id, &config);
        // What can fail beside the directory comes first: once that is in, nothing does.
        let opened = self.open(&name, 0..partition.0, id, &config);
        let brought_in = opened.and_then(|partitions| Ok((partitions, self.bring_in(foreign, spec)?)));
        let (mut partitions, (log, report)) =
            brought_in.inspect_err(|_| self.take_back(admin, &name, None))?;
        partitions.push(Served::new(log));
        self.topics.put(Topic::new(name, id, config, partitions));
        self.topics_changed();
        Ok(report)
    }

    fn bring_in(
        &self,
        foreign: Foreign,
        spec: PartitionSpec,
    ) -> Result<(Arc<Partition>, AdoptReport), Error> {
        self.store
            .bring_in(foreign.verified, spec, self.now())
            .map_err(|error| self.not_adopted(&foreign.from, &error))
    }

    /// Tells what is wrong with the directory from what is wrong with the disk.
    fn not_adopted(&self, from: &Path, error: &StoreError) -> Error {
        match error {
            full if full.is_disk_full() => {
                tracing::warn!(from = %from.display(), %error, "no room to adopt a directory");
                self.disk.write_found_no_room()
            }
            StoreError::Io { path, .. } if !path.starts_with(from) => {
                translate::store(&from.display(), error)
            }
            StoreError::Io { .. } | StoreError::Unusable { .. } | StoreError::Locked { .. } => {
                Error::InvalidRequest {
                    reason: format!("cannot adopt {}: {error}", from.display()),
                }
            }
        }
    }
}

/// The topic that is made for partition number `partition`.
fn just_enough(name: &TopicName, partition: PartitionId) -> NewTopic {
    NewTopic {
        name: name.to_string(),
        partitions: Some(partition.0.saturating_add(1)),
        config: BTreeMap::new(),
    }
}

fn is_empty(served: &Served) -> Result<(), Error> {
    let log_end = served.log.watermarks().log_end;
    if log_end == Offset::ZERO {
        return Ok(());
    }
    let id = served.id();
    let reason = format!("{id} holds records, up to offset {log_end}; adopt into an empty partition");
    Err(Error::PolicyViolation {
        topic: Some(id.topic.clone()),
        reason,
    })
}
