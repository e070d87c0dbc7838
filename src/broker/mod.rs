//! The broker: topics over partitions, routing, waiting, limits and schedules; asynchronous, and the same for every door.
//!
//! Invariants
//! - No protobuf and no Kafka request struct comes in here.
//! - Whatever touches a disk for reading, or syncs, runs off the network threads.

mod error;
mod requests;

pub use error::{Error, ErrorKind};
pub use requests::{
    Aborted, Acks, Adopted, Appended, Chunk, ConfigChange, ConfigEntry, ConfigSource, Execution, Fetch,
    FetchTarget, FoundOffset, NewRecord, NewRecords, NewTopic, Novelty, OffsetQuery, PartitionDescription,
    Placed, Progress, ReadEnd, ReadSpec, ReadStart, ReadStep, TopicDescription, TopicSummary,
};

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{Clock, Fs};
use crate::record::Record;
use crate::types::{Isolation, Offset, PartitionId, ProducerEpoch, ProducerId, TopicName};

/// Everything the broker can be told about itself; every field has a default but the directory.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where the data lies.
    pub data_dir: PathBuf,
    /// Create a topic on its first write or read? Off by default.
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
    /// Bytes of produce requests that may be waiting for acknowledgement at once, over all clients.
    pub max_inflight_produce_bytes: u64,
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

/// A running broker; cheap to clone, all clones are the same one. Needs a tokio runtime.
#[derive(Clone, Debug)]
pub struct Broker {}

/// An acknowledgement on its way. Acknowledgements of one partition complete in the order of its appends.
#[derive(Debug)]
pub struct PendingAck {}

impl PendingAck {
    /// Waits until the write is as durable as was asked for.
    ///
    /// # Errors
    /// What kept it from being so.
    pub async fn wait(self) -> Result<Appended, Error> {
        todo!()
    }
}

/// A read under way: see [`Broker::open_read`].
#[derive(Debug)]
pub struct ReadStream {}

impl ReadStream {
    /// Returns the next step, waiting for records when the read follows; `None` after [`Progress::Complete`]. Cancel safe:
    /// a step that was not returned is not lost.
    ///
    /// # Errors
    /// The read ends with the first error.
    pub async fn next(&mut self) -> Result<Option<ReadStep>, Error> {
        todo!()
    }
}

impl Chunk {
    /// Decodes the records that were asked for: within offsets and times, without control records and aborted ones. Checks
    /// each batch's CRC.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are not sound.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        todo!()
    }
}

#[expect(unused_variables, clippy::unused_async)]
impl Broker {
    /// Opens the data directory, recovers what needs it and starts the schedules.
    ///
    /// # Errors
    /// When the directory cannot be used; the text says why and what to do.
    pub async fn start(config: BrokerConfig, world: World) -> Result<Self, Error> {
        todo!()
    }

    /// Stops: refuses new work, finishes what is under way, syncs everything and writes the clean-shutdown marker.
    ///
    /// # Errors
    /// What could not be synced.
    pub async fn shutdown(&self) -> Result<(), Error> {
        todo!()
    }

    /// Gives a new producer id, never given before on this data directory.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn init_producer(&self) -> Result<(ProducerId, ProducerEpoch), Error> {
        todo!()
    }

    /// Appends one raw batch now, in the order of calls; the result is the acknowledgement to wait for.
    ///
    /// # Errors
    /// Everything that keeps the batch out of the log.
    pub fn append_batch(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        batch: Bytes,
        acks: Acks,
    ) -> Result<PendingAck, Error> {
        todo!()
    }

    /// Appends plain records now, split over partitions where none is named.
    ///
    /// # Errors
    /// What concerns the request as a whole; a partition's own error is in its [`Placed`].
    pub fn append_records(&self, records: NewRecords, acks: Acks) -> Result<Vec<Placed<PendingAck>>, Error> {
        todo!()
    }

    /// Reads from any number of partitions, waiting for data as asked. As many results as targets, in their order.
    pub async fn fetch(&self, fetch: Fetch) -> Vec<Result<Chunk, Error>> {
        todo!()
    }

    /// Opens a read over partitions of one topic.
    ///
    /// # Errors
    /// An unknown topic or partition, or a start outside the log.
    pub async fn open_read(&self, spec: ReadSpec) -> Result<ReadStream, Error> {
        todo!()
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
        todo!()
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
        todo!()
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
        todo!()
    }

    /// Lists topics by name, the internal ones included.
    pub fn list_topics(&self) -> Vec<TopicSummary> {
        todo!()
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// An unknown topic.
    pub fn describe_topic(&self, topic: &TopicName) -> Result<TopicDescription, Error> {
        todo!()
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
        todo!()
    }

    /// Gives a topic more partitions.
    ///
    /// # Errors
    /// An unknown topic; a total below what it has or above the limit.
    pub async fn add_partitions(&self, topic: &TopicName, total: i32) -> Result<TopicDescription, Error> {
        todo!()
    }

    /// Deletes a topic and its data.
    ///
    /// # Errors
    /// An unknown or internal topic.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), Error> {
        todo!()
    }

    /// Verifies a partition directory and brings it in.
    ///
    /// # Errors
    /// What is wrong with the directory, or with its place here.
    pub async fn adopt_partition(
        &self,
        directory: &Path,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        todo!()
    }

    /// Renders the broker's metrics as Prometheus text.
    pub fn metrics_text(&self) -> String {
        todo!()
    }

    /// Whether it serves: open, not stopping.
    pub fn is_ready(&self) -> bool {
        todo!()
    }

    /// Completes when the broker begins to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        async { todo!() }
    }
}
