//! When retention looks, and what it tells: after each roll at the partition that rolled, at all of them every 30 seconds,
//! and at once where records were deleted by request.
//!
//! A look goes over partitions in memory; only where something is due it touches the disk. It runs off the network threads
//! and goes on while the disk is full. What fails is told, counted, and tried again by the next look.
//!
//! What is not here: what is due, and doing it (`storage`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::storage::{DeletionReason, Retained, RetentionPlan, Stay};
use crate::telemetry::{Retention, RetentionLabels};
use crate::types::{PartitionId, TopicName, TopicPartition};

use super::archive::Access;
use super::core::Core;
use super::holds::name_of;
use super::schedule::run;
use super::served::Served;
use super::{AskedPartitions, Error};

/// How often all partitions are looked at.
const INTERVAL: Duration = Duration::from_secs(30);

/// The partitions to look at before the next look at all, and the lock that keeps looks apart.
#[derive(Debug, Default)]
pub(super) struct RetentionWork {
    /// At most one entry a partition.
    wanted: Mutex<BTreeMap<TopicPartition, Arc<Served>>>,
    wake: Notify,
    looking: Mutex<()>,
}

impl RetentionWork {
    /// Wants a look at a partition, soon.
    pub(super) fn want(&self, served: &Arc<Served>) {
        self.wanted.lock().insert(served.id().clone(), Arc::clone(served));
        self.wake.notify_one();
    }

    /// Waits for a look under way; there is none while the guard lives.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        self.looking.lock()
    }

    fn take(&self) -> Vec<Arc<Served>> {
        std::mem::take(&mut *self.wanted.lock()).into_values().collect()
    }
}

/// What the next look does to one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionPreview {
    /// Which partition.
    pub partition: PartitionId,
    /// The plan.
    pub plan: RetentionPlan,
    /// The name of the hold that ends it, if one does.
    pub hold: Option<String>,
}

/// The background task.
pub(super) async fn look_again_and_again(core: Arc<Core>) {
    if core.config.archive.access == Access::Read {
        // It is the owner's.
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => run(&core, |core| core.retain_all()).await,
            () = core.retention.wake.notified() => run(&core, |core| core.retain_wanted()).await,
        }
    }
}

impl Core {
    /// Looks at every partition.
    pub(super) fn retain_all(&self) {
        let topics = self.topics.all();
        let all: Vec<_> = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().cloned())
            .collect();
        let _alone = self.retention.alone();
        self.retain(&all);
        self.metrics
            .retention_last_look
            .set(self.now().0.div_euclid(1000));
    }

    /// Looks at the partitions that are wanted.
    pub(super) fn retain_wanted(&self) {
        let _alone = self.retention.alone();
        self.retain(&self.retention.take());
    }

    fn retain(&self, partitions: &[Arc<Served>]) {
        let open = partitions.iter().filter(|served| served.closed().is_none());
        let logs: Vec<_> = open.map(|served| Arc::clone(&served.log)).collect();
        for retained in self.store.retain(&logs, self.now()) {
            self.tell(&retained);
            let served = partitions
                .iter()
                .find(|served| Arc::ptr_eq(&served.log, &retained.partition));
            let Some(served) = served else { continue };
            if served.log.refusal().is_some() {
                self.repairs.add(served);
            }
            // The look may have synced what acknowledgements wait for.
            served.advance(served.log.watermarks().high_watermark, &self.metrics.ack_latency);
        }
    }

    /// Counts and logs what a look did to one partition.
    fn tell(&self, retained: &Retained) {
        let partition = retained.partition.id();
        for deletion in &retained.deleted {
            let labels = RetentionLabels {
                reason: match deletion.reason {
                    DeletionReason::Start => Retention::Start,
                    DeletionReason::Size => Retention::Size,
                    DeletionReason::Time => Retention::Time,
                },
            };
            self.metrics.retention_segments.get_or_create(&labels).inc();
            let bytes = self.metrics.retention_bytes.get_or_create(&labels);
            bytes.inc_by(deletion.size_bytes);
        }
        if let Some(last) = retained.deleted.last() {
            tracing::info!(%partition, segments = retained.deleted.len(), log_start = %last.end, reason = ?last.reason, "retention deleted segments");
        }
        if let Some(error) = &retained.failure {
            self.disk.heed(error);
            self.metrics.retention_failures.inc();
            tracing::error!(%partition, %error, "retention failed; it is tried again in 30 seconds");
        }
    }

    /// See [`super::Broker::preview_retention`].
    pub(super) fn preview_retention(
        &self,
        name: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<RetentionPreview>, Error> {
        let topic = self.topics.find(name)?;
        let now = self.now();
        let preview = |served: &Arc<Served>| {
            let partition = served.id().partition;
            let plan = served.log.retention_plan(now);
            let hold = match &plan.stay {
                Stay::Held(range) => name_of(&topic, partition, range),
                Stay::NothingLeft | Stay::NotDue { .. } | Stay::NotSafe { .. } => None,
            };
            RetentionPreview {
                partition,
                plan,
                hold,
            }
        };
        Ok(topic.asked(asked)?.iter().map(preview).collect())
    }
}
