//! The broker: topics over partitions, routing, waiting, limits and schedules; asynchronous, and the same for every door.
//!
//! ```text
//!  produce --> served partition --> log        fetch, read, lookup --> log
//!                 |        ^                      |         ^
//!               commit ----' acknowledges       wait <------' rings
//!  admin --> metadata, topics       schedule --> checkpoints, flush, repair, disk guard
//! ```
//!
//! Invariants
//! - No protobuf and no Kafka request struct comes in here.
//! - Whatever touches a disk for reading, or syncs, runs off the network threads, also what a partition needs before its
//!   first append. The append itself runs on the caller's: a check, and a write into the page cache.
//! - What is under way is counted by the gate; nothing begins once it closed, and a shutdown waits for the rest.
//! - What a caller was told about a topic is in the metadata, synced, before it was told.
//!
//! What is not here: bytes and files (`record`, `storage`), authentication, wire formats.

mod admin;
mod adopt;
mod archive;
mod budget;
mod chunk;
mod cleaner;
mod cold;
mod commit;
mod core;
mod cursor;
mod disk;
mod due;
mod error;
mod fetch;
mod flush;
mod gate;
mod holds;
mod lookup;
mod metadata;
mod opening;
mod produce;
mod producer_ids;
mod read;
mod removal;
mod repair;
mod requests;
mod retention;
mod schedule;
mod served;
mod setting_table;
mod settings;
mod start;
mod topics;
mod translate;
mod wait;

#[cfg(feature = "tier")]
pub use crate::storage::RestoredPlace;
pub use crate::storage::{DamagedPlace, Deletion, DeletionReason, Hold as HeldRange, RetentionPlan, Stay};
pub use archive::{Access, ArchiveConfig, PartitionArchive, Restore, TopicPatterns};
#[cfg(feature = "tier")]
pub use archive::{RestoreProgress, RestoreReport, RestoredTopic};
pub use budget::BudgetShare;
pub use cleaner::{
    CleanerConfig, CompactNow, CompactWait, CompactionExplanation, CompactionJob, Courtesy, Exactness,
    JobState, KeyCounts, LastPass, LogDescription, LogSegment, PartitionJob, PassError, RoundsLeft,
    Running as PassRunning, SegmentState, Traffic,
};
pub use error::{Error, ErrorKind};
pub use fetch::FETCH_BYTES_MAX;
pub use holds::TopicHold;
pub use produce::{ACK_TIMEOUT, PendingAck};
pub use read::{MOVED_MAX, ReadStream};
pub use requests::{
    Aborted, Acks, Adopted, Appended, AskedPartitions, Chunk, ConfigChange, ConfigEntry, ConfigSource,
    Execution, Fetch, FetchTarget, FoundOffset, NewRecord, NewRecords, NewTopic, Novelty, OffsetQuery,
    PartitionDescription, Placed, Progress, ReadEnd, ReadSpec, ReadStart, ReadStep, TopicDescription,
    TopicSummary,
};
pub use retention::RetentionPreview;
pub use settings::{CompressionLevels, Settings, TopicConfig};

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Clock, Fs};
use crate::telemetry::{Exposition, Metrics};
use crate::types::{Isolation, Offset, PartitionId, ProducerEpoch, ProducerId, Timestamp, TopicName};

use self::core::Core;
use start::Running;

/// Everything the broker can be told about itself; every field has a default but the directory.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where the data lies.
    pub data_dir: PathBuf,
    /// Create a topic on its first write? Off by default.
    pub auto_create_topics: AutoCreate,
    /// Partitions of a topic made without a number. 1 to 10,000.
    pub num_partitions: i32,
    /// Produce is refused while the disk has less free, in bytes.
    pub min_free_bytes: u64,
    /// Server-wide defaults of topic settings, by Kafka's topic-level or broker-level names (`log.retention.ms`).
    pub topic_defaults: std::collections::BTreeMap<String, String>,
    /// Files and mappings open at once.
    pub max_open_files: usize,
    /// See `max_open_files`.
    pub max_maps: usize,
    /// Threads that recover partitions after an unclean stop; `0` means one per core.
    pub recovery_threads: usize,
    /// Largest decompressed size of one batch, in bytes.
    pub max_decompressed_bytes: u32,
    /// Bytes of produce requests that may be under way at once, over all clients: waiting for their topic, their partition or
    /// their acknowledgement.
    pub max_inflight_produce_bytes: u64,
    /// Largest request that a door lets in, in bytes: no topic is given a `max.message.bytes` that would not fit.
    pub max_request_bytes: usize,
    /// How compacted topics are cleaned.
    pub cleaner: CleanerConfig,
    /// Where segments go for good.
    pub archive: ArchiveConfig,
}

/// Whether topics come into being by being named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AutoCreate {
    /// They do not.
    #[default]
    Off,
    /// They do, with the server's defaults.
    On,
}

/// The world a broker lives in.
#[derive(Clone, Debug)]
pub struct World {
    /// Its disk.
    pub fs: Arc<dyn Fs>,
    /// Its time.
    pub clock: Arc<dyn Clock>,
}

/// A running broker; cheap to clone, all clones are the same one. Needs a tokio runtime. When the last clone is dropped
/// without a shutdown, everything ends as after a crash.
#[derive(Clone, Debug)]
pub struct Broker {
    core: Arc<Core>,
    running: Arc<Running>,
}

impl Broker {
    /// Opens the data directory, recovers what needs it and starts the schedules.
    ///
    /// # Errors
    /// When the directory cannot be used; the text says why and what to do.
    pub async fn start(config: BrokerConfig, world: World) -> Result<Self, Error> {
        let (core, running) = start::start(config, world).await?;
        Ok(Self { core, running })
    }

    /// Makes a data directory of what the archive has, without a byte written to that. With [`Execution::ValidateOnly`] it only tells
    /// what would come back. Directory, archive and what is downloaded are those of the configuration.
    ///
    /// # Errors
    /// A directory that is not empty; what the archive or the disk says. What was made until then is marked, and no server takes it for
    /// whole.
    #[cfg(feature = "tier")]
    pub async fn restore(
        config: BrokerConfig,
        world: World,
        execution: Execution,
        tell: impl Fn(RestoreProgress) + Send + Sync + 'static,
    ) -> Result<RestoreReport, Error> {
        let work = move || {
            let job = archive::RestoreJob {
                files: Arc::new(start::file_cache(&config, world.fs)),
                config: &config,
                now: world.clock.now(),
                tell: &tell,
            };
            job.run(execution)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::ShuttingDown),
        }
    }

    /// Stops: refuses new work, finishes what is under way, syncs everything and writes the clean-shutdown marker.
    ///
    /// # Errors
    /// What could not be synced.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.running.shutdown().await
    }

    /// Ends as after a crash: nothing is synced or written down any more. On return none of its threads and tasks is left.
    pub async fn abort(&self) {
        self.running.abort().await;
    }

    /// Does what the schedules would do at their next looks: syncs, compacts, archives and removes whatever is due by the clock of its
    /// world. Returns when a compacted log next wants a look though nothing is written to it, if time alone brings that about.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`]. What fails of the work is told and tried again as by the schedules.
    pub async fn do_what_is_due(&self) -> Result<Option<Timestamp>, Error> {
        self.core.do_what_is_due().await
    }

    /// Seals every active segment, syncs everything and writes the checkpoints: a copy of the data directory opens without reading
    /// what was appended before the call.
    ///
    /// # Errors
    /// What the disk says; [`Error::ShuttingDown`].
    pub async fn settle(&self) -> Result<(), Error> {
        self.core.settle_all().await
    }

    /// Gives a new producer id, never given before on this data directory.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn init_producer(&self) -> Result<(ProducerId, ProducerEpoch), Error> {
        let result = match self.core.writable() {
            Ok(()) => self.core.init_producer().await,
            Err(error) => Err(error),
        };
        self.core.counted(result)
    }

    /// Appends one raw batch; the result is the acknowledgement to wait for. Waits itself only for a topic that is made by being
    /// named, and for a partition to be opened, at its first append after a start; awaited one after the other, batches lie in
    /// the order of the calls. Counts against the limit on what is under way from before it waits until it is acknowledged.
    ///
    /// # Errors
    /// Everything that keeps the batch out of the log.
    pub async fn append_batch(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        batch: Bytes,
        acks: Acks,
    ) -> Result<PendingAck, Error> {
        let result = match self.core.writable() {
            Ok(()) => self.core.append_batch(topic, partition, batch, acks).await,
            Err(error) => Err(error),
        };
        self.core.counted(result)
    }

    /// Takes `size_bytes` of the limit on requests under way, for one that is kept before it is appended: an append takes its
    /// own share.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at the limit.
    pub fn reserve(&self, size_bytes: u64) -> Result<BudgetShare, Error> {
        self.core.counted(self.core.inflight.take(size_bytes))
    }

    /// Begins to open a partition for appends that are to come, so that those to many partitions do not wait for one after the
    /// other. The result completes when it is open or cannot be opened, and the append tells which; `None` when there is
    /// nothing to wait for. Needs not be called.
    pub fn open_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.core.open_ahead(topic, partition)
    }

    /// Appends plain records, split over partitions where none is named; waits as [`Broker::append_batch`] does.
    ///
    /// # Errors
    /// What concerns the request as a whole; a partition's own error is in its [`Placed`].
    pub async fn append_records(
        &self,
        records: NewRecords,
        acks: Acks,
    ) -> Result<Vec<Placed<PendingAck>>, Error> {
        let result = match self.core.writable() {
            Ok(()) => self.core.append_records(&records, acks).await,
            Err(error) => Err(error),
        };
        self.core.counted(result)
    }

    /// Reads from any number of partitions, waiting for data as asked. As many results as targets, in their order.
    pub async fn fetch(&self, fetch: Fetch) -> Vec<Result<Chunk, Error>> {
        self.core.fetch(fetch).await
    }

    /// Opens a read over partitions of one topic.
    ///
    /// # Errors
    /// An unknown topic or partition, or a start outside the log; [`Error::Overloaded`] when open reads have too many
    /// partitions between them.
    pub async fn open_read(&self, spec: ReadSpec) -> Result<ReadStream, Error> {
        let result = self.core.open_read(spec).await;
        self.core.counted(result)
    }

    /// Finds offsets; no partitions named means all. Ascending by partition.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub async fn list_offsets(
        &self,
        topic: &TopicName,
        partitions: &[PartitionId],
        query: OffsetQuery,
        isolation: Isolation,
    ) -> Result<Vec<FoundOffset>, Error> {
        let result = self.core.list_offsets(topic, partitions, query, isolation).await;
        self.core.counted(result)
    }

    /// Raises log start offsets to the given ones, `None` meaning the high watermark; returns the new ones, durable.
    ///
    /// # Errors
    /// An unknown partition, an offset beyond the high watermark, a policy that forbids it.
    pub async fn delete_records(
        &self,
        topic: &TopicName,
        before: &[(PartitionId, Option<Offset>)],
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let result = match self.core.writable() {
            Ok(()) => self.core.delete_records(topic, before).await,
            Err(error) => Err(error),
        };
        self.core.counted(result)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// A name, a number or a setting that is wrong; a topic that exists.
    pub async fn create_topic(
        &self,
        topic: NewTopic,
        execution: Execution,
    ) -> Result<TopicDescription, Error> {
        let result = self.core.create_topic(topic, execution).await;
        self.core.counted(result)
    }

    /// Makes sure that a topic can be written: with [`AutoCreate::On`], creates a missing one with the server's defaults, as an
    /// append does.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`] where topics are not made by being named; what [`Broker::create_topic`] says.
    pub async fn ensure_topic(&self, topic: &TopicName) -> Result<(), Error> {
        let result = self.core.ensure_topic(topic).await;
        self.core.counted(result)
    }

    /// Lists topics by name, the internal ones included.
    pub fn list_topics(&self) -> Vec<TopicSummary> {
        self.core
            .topics
            .all()
            .iter()
            .map(|topic| topic.summary())
            .collect()
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// An unknown topic.
    pub fn describe_topic(&self, topic: &TopicName) -> Result<TopicDescription, Error> {
        let topic = self.core.counted(self.core.topics.find(topic))?;
        Ok(self.core.describe(&topic))
    }

    /// Changes a topic's settings, all or none.
    ///
    /// # Errors
    /// An unknown topic, an unknown setting, a value out of range.
    pub async fn alter_topic(
        &self,
        topic: &TopicName,
        change: ConfigChange,
        execution: Execution,
    ) -> Result<TopicDescription, Error> {
        let result = self.core.alter_topic(topic.clone(), change, execution).await;
        self.core.counted(result)
    }

    /// Gives a topic more partitions.
    ///
    /// # Errors
    /// An unknown topic; a total below what it has or above the limit.
    pub async fn add_partitions(&self, topic: &TopicName, total: i32) -> Result<TopicDescription, Error> {
        let result = self.core.add_partitions(topic.clone(), total).await;
        self.core.counted(result)
    }

    /// Deletes a topic and its data.
    ///
    /// # Errors
    /// An unknown or internal topic.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), Error> {
        let result = self.core.delete_topic(topic.clone()).await;
        self.core.counted(result)
    }

    /// Compacts partitions now, as far as holds, open transactions and `min.compaction.lag.ms` allow: seals their active
    /// segments and does not ask whether it is worth it. The work goes on also when nobody waits for it.
    ///
    /// # Errors
    /// An unknown topic or partition, a topic that is not compacted, too many commands at once.
    pub async fn compact_now(&self, wish: &CompactNow, wait: CompactWait) -> Result<CompactionJob, Error> {
        let result = match self.core.writable() {
            Ok(()) => self.core.compact_now(wish, wait).await,
            Err(error) => Err(error),
        };
        self.core.counted(result)
    }

    /// Returns how an earlier command stands, waiting for its end as asked.
    ///
    /// # Errors
    /// A handle that is not known.
    pub async fn compaction_job(&self, handle: u64, wait: CompactWait) -> Result<CompactionJob, Error> {
        let result = self.core.compaction_job(handle, wait).await;
        self.core.counted(result)
    }

    /// Explains the compaction of partitions: what is dirty, what comes next and when, and if nothing, why not. Ascending by
    /// partition.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub fn explain_compaction(
        &self,
        topic: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<CompactionExplanation>, Error> {
        self.core.counted(self.core.explain_compaction(topic, asked))
    }

    /// Describes logs segment by segment. Ascending by partition.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub fn describe_log(
        &self,
        topic: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<LogDescription>, Error> {
        self.core.counted(self.core.describe_log(topic, asked))
    }

    /// Verifies a partition directory and brings it in; a topic that does not exist is made, with just enough partitions.
    ///
    /// # Errors
    /// What is wrong with the directory, or with its place here.
    pub async fn adopt_partition(
        &self,
        directory: &Path,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        let result = self.core.adopt_partition(directory, topic, partition).await;
        self.core.counted(result)
    }

    /// Keeps a range of a topic from retention, compaction, deletion of records and of the topic; durable on return. The same
    /// hold again is no failure.
    ///
    /// # Errors
    /// An unknown topic or partition, an empty range, another hold of that name.
    pub async fn add_hold(&self, topic: &TopicName, hold: TopicHold) -> Result<(), Error> {
        let result = self.core.add_hold(topic.clone(), hold).await;
        self.core.counted(result)
    }

    /// Removes a hold, durably.
    ///
    /// # Errors
    /// An unknown topic or hold.
    pub async fn remove_hold(&self, topic: &TopicName, name: &str) -> Result<(), Error> {
        let result = self.core.remove_hold(topic.clone(), name.to_owned()).await;
        self.core.counted(result)
    }

    /// Lists a topic's holds in the order in which they were added.
    ///
    /// # Errors
    /// An unknown topic.
    pub fn holds(&self, topic: &TopicName) -> Result<Vec<TopicHold>, Error> {
        let topic = self.core.counted(self.core.topics.find(topic))?;
        Ok(topic.config.holds.clone())
    }

    /// Says what the next look of retention would delete of a topic, and why the rest stays; ascending by partition.
    ///
    /// # Errors
    /// An unknown topic or partition.
    pub fn preview_retention(
        &self,
        topic: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<RetentionPreview>, Error> {
        self.core.counted(self.core.preview_retention(topic, asked))
    }

    /// Renders the broker's metrics.
    pub fn metrics_text(&self, exposition: Exposition) -> String {
        self.core.metrics_text(exposition)
    }

    /// Returns the broker's metrics; the doors count their calls there.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.core.metrics
    }

    /// Completes, with the reason, when another server has taken the archive over: this one publishes nothing any more and is to stop.
    pub fn archive_lost(&self) -> impl Future<Output = String> + Send + 'static {
        let lost = self.core.archive.as_ref().map(|archive| archive.lost());
        async move {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether it serves: open, not stopping.
    pub fn is_ready(&self) -> bool {
        self.core.gate.is_open()
    }

    /// Completes when the broker begins to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.core.gate.stopping()
    }
}

#[cfg(test)]
mod tests;
