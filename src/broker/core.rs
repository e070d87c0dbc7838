//! What all parts of the broker share. The parts are in files of their own, each an `impl Core`; this file is the list of
//! what there is.

use std::sync::Arc;

use crate::env::{Clock, FileCache};
use crate::record::Rules;
use crate::storage::{PartitionSpec, Store};
use crate::telemetry::{Metrics, RefusalLabels};
use crate::types::{PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

use super::admin::Admin;
use super::archive::{Access, Archive};
use super::budget::Budget;
use super::cleaner::Desk;
use super::commit::{Commit, Syncer};
use super::disk::DiskGuard;
use super::flush::Flushes;
use super::gate::{Gate, Pass};
use super::opening::Openings;
use super::removal::Removals;
use super::repair::Repairs;
use super::retention::RetentionWork;
use super::settings::{Settings, TopicConfig};
use super::topics::Topics;
use super::wait::WaitSet;
use super::{BrokerConfig, Error, translate};

/// The broker behind its handles.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: BrokerConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) files: Arc<FileCache>,
    pub(super) store: Arc<Store>,
    pub(super) settings: Settings,
    pub(super) topics: Topics,
    /// Held by whoever changes topics or gives out producer ids, one after the other.
    pub(super) admin: Arc<tokio::sync::Mutex<Admin>>,
    /// Held by whoever reads a foreign directory: one at a time.
    pub(super) adopting: tokio::sync::Mutex<()>,
    pub(super) gate: Arc<Gate>,
    pub(super) commit: Arc<Commit>,
    pub(super) syncer: Arc<Syncer>,
    pub(super) flushes: Flushes,
    pub(super) repairs: Arc<Repairs>,
    pub(super) removals: Removals,
    pub(super) openings: Openings,
    pub(super) cleaner: Arc<Desk>,
    pub(super) retention: RetentionWork,
    /// Where segments go for good, if the server has such a place.
    pub(super) archive: Option<Arc<Archive>>,
    pub(super) disk: Arc<DiskGuard>,
    /// Bytes of produce requests.
    pub(super) inflight: Arc<Budget>,
    /// Partitions of open reads.
    pub(super) open_positions: Arc<Budget>,
    pub(super) waits: Arc<WaitSet>,
    pub(super) metrics: Arc<Metrics>,
}

impl Core {
    /// Returns the current time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns what a topic asks of a batch that arrives at `now`.
    pub(super) fn rules(&self, config: &TopicConfig, now: Timestamp) -> Rules {
        Rules {
            max_batch_bytes: config.max_message_bytes,
            max_decompressed_bytes: self.config.max_decompressed_bytes,
            keys: config.key_rule(),
            timestamp_type: config.timestamp_type,
            before_max_ms: config.timestamp_before_max_ms,
            after_max_ms: config.timestamp_after_max_ms,
            codec: config.codec,
            level: config.codec.and_then(|codec| config.level(codec)),
            now,
        }
    }

    /// Describes one partition of a topic to storage.
    pub(super) fn spec(
        &self,
        topic: &TopicName,
        number: i32,
        id: TopicId,
        config: &TopicConfig,
    ) -> PartitionSpec {
        PartitionSpec {
            id: TopicPartition::new(topic.clone(), PartitionId(number)),
            topic_id: id,
            config: self.config.log_config(topic, config, PartitionId(number)),
        }
    }

    /// Makes sure that this server may change anything.
    ///
    /// # Errors
    /// [`Error::ArchiveRefused`] on one that only shows an archive.
    pub(super) fn writable(&self) -> Result<(), Error> {
        match self.config.archive.access {
            Access::Own => Ok(()),
            Access::Read => Err(Error::ArchiveRefused {
                reason: format!(
                    "this server only reads the archive at {}, by tier.read_only: ask the server that owns it",
                    self.config.archive.url.as_deref().unwrap_or_default()
                ),
            }),
        }
    }

    /// Counts a refusal on its way out.
    pub(super) fn counted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            count_refusal(&self.metrics, error);
        }
        result
    }

    /// Runs `work`, which may block for the disk, off the network threads. It is finished also when nobody waits for it
    /// any more.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] once the broker stops; what `work` returns.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let pass = self.gate.enter()?;
        let core = Arc::clone(self);
        off_thread(pass, move || work(&core)).await
    }
}

/// Runs `work` on a thread that may block, holding `pass` until it is done.
pub(super) async fn off_thread<T: Send + 'static>(
    pass: Pass,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(pass);
        result
    });
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(_) => Err(Error::ShuttingDown),
    }
}

/// Counts a refusal by its reason.
pub(super) fn count_refusal(metrics: &Metrics, error: &Error) {
    let reason = translate::refusal(error);
    metrics.refused.get_or_create(&RefusalLabels { reason }).inc();
}
