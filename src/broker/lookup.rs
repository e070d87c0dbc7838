//! Finding offsets, and deleting records before one.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use crate::storage::StartError;
use crate::types::{Isolation, Offset, PartitionId, TopicName};

use super::core::Core;
use super::fetch::{bound, out_of_range};
use super::holds::name_of;
use super::requests::{FoundOffset, OffsetQuery};
use super::served::Served;
use super::topics::Topic;
use super::{Error, translate};

/// Partitions of one call that are searched at the same time.
const LOOKUPS_AT_ONCE: usize = 16;

impl Core {
    /// See [`super::Broker::list_offsets`].
    pub(super) async fn list_offsets(
        self: &Arc<Self>,
        name: &TopicName,
        partitions: &[PartitionId],
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<Vec<FoundOffset>, Error> {
        let topic = self.topics.find(name)?;
        let served: Vec<Arc<Served>> = if partitions.is_empty() {
            topic.partitions.clone()
        } else {
            let ascending: BTreeSet<_> = partitions.iter().copied().collect();
            ascending
                .into_iter()
                .map(|partition| topic.partition(partition).map(Arc::clone))
                .collect::<Result<_, _>>()?
        };
        let found = served.into_iter().map(|served| {
            let core = Arc::clone(self);
            async move { core.find(&served, query, isolation).await }.boxed()
        });
        let found: Vec<_> = found.collect();
        stream::iter(found).buffered(LOOKUPS_AT_ONCE).try_collect().await
    }

    async fn find(
        self: &Arc<Self>,
        served: &Arc<Served>,
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<FoundOffset, Error> {
        let marks = served.log.watermarks();
        let readable = bound(&marks, isolation);
        let partition = served.id().partition;
        let at = |offset, leader_epoch| FoundOffset {
            partition,
            offset: Some(offset),
            timestamp: None,
            leader_epoch,
        };
        let by_time = match query {
            OffsetQuery::Earliest => {
                let (log_start, local) = (marks.log_start, Arc::clone(served));
                // The epochs of a log that nobody wrote to since the start are in its files.
                let epoch = self.blocking(move |_| Ok(local.log.epoch_at(log_start)));
                return Ok(at(log_start, epoch.await?));
            }
            OffsetQuery::Latest => return Ok(at(readable, Some(self.store.epoch()))),
            OffsetQuery::MaxTimestamp => self.find_max_timestamp(served, readable).await,
            OffsetQuery::Time(time) => self.find_time(served, time, readable).await,
        };
        let found = by_time?;
        Ok(FoundOffset {
            partition,
            offset: found.map(|found| found.offset),
            timestamp: found.map(|found| found.timestamp),
            leader_epoch: found.and_then(|found| found.leader_epoch),
        })
    }

    /// See [`super::Broker::delete_records`]. All partitions and their holds are checked before the first is changed; only a
    /// hold that is added in between is met half way. The data below is removed by retention.
    pub(super) async fn delete_records(
        self: &Arc<Self>,
        name: &TopicName,
        before: &[(PartitionId, Option<Offset>)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let topic = self.topics.find_writable(name)?;
        let cleanup = topic.config.cleanup;
        if cleanup.compacts() && !cleanup.deletes() {
            let reason =
                format!("topic {name} has cleanup.policy=compact: records leave it by compaction alone");
            return Err(Error::PolicyViolation {
                topic: Some(name.clone()),
                reason,
            });
        }
        let mut raises = Vec::with_capacity(before.len());
        let mut seen = BTreeSet::new();
        for (partition, offset) in before {
            if !seen.insert(*partition) {
                let reason = format!("partition {partition} of topic {name} is named twice");
                return Err(Error::InvalidRequest { reason });
            }
            let served = Arc::clone(topic.partition(*partition)?);
            let marks = served.log.watermarks();
            let to = offset.unwrap_or(marks.high_watermark);
            if to < Offset::ZERO || to > marks.high_watermark {
                return Err(out_of_range(&served, to, &marks));
            }
            raises.push((served, to));
        }
        self.blocking(move |core| {
            for (served, to) in &raises {
                let allowed = served.log.may_raise_log_start(*to);
                allowed.map_err(|error| start_refused(&topic, served, error))?;
            }
            let mut raised = Vec::with_capacity(raises.len());
            for (served, to) in raises {
                let log_start = served.log.raise_log_start(to);
                let log_start = log_start.map_err(|error| start_refused(&topic, &served, error))?;
                core.retention.want(&served);
                raised.push((served.id().partition, log_start));
            }
            core.store
                .checkpoint()
                .inspect_err(|error| core.disk.heed(error))
                .map_err(|error| translate::store(&core.config.data_dir.display(), &error))?;
            Ok(raised)
        })
        .await
    }
}

fn start_refused(topic: &Topic, served: &Served, error: StartError) -> Error {
    match error {
        StartError::BeyondHighWatermark { to, .. } => out_of_range(served, to, &served.log.watermarks()),
        StartError::Held { to, hold } => {
            let name = name_of(topic, served.id().partition, &hold).unwrap_or_default();
            let id = served.id();
            let reason = format!(
                "records of {id} before offset {to} are held by {name:?} ({hold}); remove the hold first"
            );
            Error::PolicyViolation {
                topic: Some(id.topic.clone()),
                reason,
            }
        }
    }
}
