//! Bringing a partition directory in, under the admin lock: into an empty partition of a topic, or as a topic of its own.
//!
//! A topic that does not exist gets just enough partitions, and nobody sees it before the directory is in:
//! 1. Its entry is written to the metadata. If it dies here: the next start serves an empty topic, into which one adopts.
//! 2. The partitions before it are opened, empty; then the directory is verified and brought in. If that fails, the entry is
//!    taken back.
//! 3. The topic is served.
//!
//! What a sound directory is, and that the original stays as it is: [`crate::storage`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::{AdoptReport, Partition, PartitionSpec, StoreError};
use crate::types::{Offset, PartitionId, TopicName};

use super::admin::{Admin, Checked};
use super::core::Core;
use super::requests::{Adopted, NewTopic};
use super::served::Served;
use super::topics::Topic;
use super::{Error, translate};

impl Core {
    /// See [`super::Broker::adopt_partition`].
    pub(super) async fn adopt_partition(
        self: &Arc<Self>,
        directory: &Path,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        let (directory, name) = (directory.to_path_buf(), topic.clone());
        self.administer(move |core, admin| core.adopt(admin, directory, &name, partition))
            .await
    }

    fn adopt(
        &self,
        admin: &mut Admin,
        from: PathBuf,
        name: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        // What is not linked is copied, and must fit.
        self.disk.check()?;
        let report = match self.topics.find_writable(name) {
            Ok(topic) => self.adopt_into(&topic, &from, partition)?,
            Err(Error::UnknownTopic { .. }) => self.adopt_as_new(admin, &from, name, partition)?,
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
        })
    }

    fn adopt_into(&self, topic: &Topic, from: &Path, partition: PartitionId) -> Result<AdoptReport, Error> {
        let old = Arc::clone(topic.partition(partition)?);
        let turn = old.turn_alone()?;
        let marks = old.log.watermarks();
        if marks.log_end > Offset::ZERO {
            let reason = format!(
                "{} holds records, up to offset {}; adopt into an empty partition",
                old.id(),
                marks.log_end
            );
            return Err(Error::PolicyViolation { reason });
        }
        let adopting = Error::WritesRefused {
            partition: old.id().clone(),
            reason: "a directory is being brought in; try again".to_owned(),
        };
        old.close_in_turn(turn, &adopting);
        let spec = self.spec(&topic.name, partition.0, topic.id, &topic.config);
        let brought_in = match self.store.remove_partitions(std::slice::from_ref(old.id())) {
            Ok(()) => self.bring_in(from, spec),
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
        report
    }

    fn adopt_as_new(
        &self,
        admin: &mut Admin,
        from: &Path,
        name: &TopicName,
        partition: PartitionId,
    ) -> Result<AdoptReport, Error> {
        let Checked { name, count, config } = self.check_new(NewTopic {
            name: name.to_string(),
            partitions: Some(partition.0.saturating_add(1)),
            config: BTreeMap::new(),
        })?;
        let id = self.record_new(admin, &name, count, &config)?;
        let spec = self.spec(&name, partition.0, id, &config);
        // What can fail beside the directory comes first: once that is in, nothing does.
        let opened = self.open(&name, 0..partition.0, id, &config);
        let brought_in = opened.and_then(|partitions| Ok((partitions, self.bring_in(from, spec)?)));
        let (mut partitions, (log, report)) =
            brought_in.inspect_err(|_| self.take_back(admin, &name, None))?;
        partitions.push(Served::new(log));
        self.topics.put(Topic::new(name, id, config, partitions));
        Ok(report)
    }

    fn bring_in(&self, from: &Path, spec: PartitionSpec) -> Result<(Arc<Partition>, AdoptReport), Error> {
        self.store
            .adopt(from, spec, self.now())
            .map_err(|error| self.not_adopted(from, &error))
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
