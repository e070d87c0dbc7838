//! How a producer works, and what a record is made of.
//!
//! What is not here: the work.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{Codec, Header};
use crate::types::{PartitionId, Timestamp};

/// Tells the time that a record without one gets.
///
/// ```
/// use std::sync::Arc;
/// use siltstone::client::{Clock, ProducerOptions};
/// use siltstone::types::Timestamp;
///
/// let noon: Clock = Arc::new(|| Timestamp(1_357_041_600_000));
/// let options = ProducerOptions { clock: noon, ..ProducerOptions::default() };
/// assert_eq!((options.clock)(), Timestamp(1_357_041_600_000));
/// ```
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A caller's own choice of partitions: the record and the number of partitions in, the partition out. `None` leaves the record
/// to [`Partitioner::Sticky`].
///
/// ```
/// use std::sync::Arc;
/// use siltstone::client::{PartitionChoice, Partitioner};
/// use siltstone::types::PartitionId;
///
/// // Tombstones go last.
/// let choice: PartitionChoice = Arc::new(|record, count| match record.value {
///     None => Some(PartitionId(count - 1)),
///     Some(_) => None,
/// });
/// # let _ =
/// Partitioner::Own(choice);
/// ```
pub type PartitionChoice = Arc<dyn Fn(&ProducerRecord<'_>, i32) -> Option<PartitionId> + Send + Sync>;

/// Which partition a record goes to that does not name one itself.
///
/// ```
/// use std::sync::Arc;
/// use siltstone::client::{Partitioner, ProducerOptions};
/// use siltstone::types::PartitionId;
///
/// // Large records have a partition of their own.
/// let by_size = Partitioner::Own(Arc::new(|record, _count| {
///     record.value.filter(|value| value.len() > 100_000).map(|_| PartitionId(0))
/// }));
/// let options = ProducerOptions { partitioner: by_size, ..ProducerOptions::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Default)]
pub enum Partitioner {
    /// Kafka's default: by murmur2 of the key; records without a key as [`Partitioner::Sticky`].
    #[default]
    KeyHash,
    /// Whatever the key: one partition until its batch is sealed, then the next.
    Sticky,
    /// None: every record names its partition, and one that does not is refused.
    Explicit,
    /// The caller's.
    Own(PartitionChoice),
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyHash => "KeyHash",
            Self::Sticky => "Sticky",
            Self::Explicit => "Explicit",
            Self::Own(_) => "Own",
        })
    }
}

/// When a batch counts as written.
///
/// ```
/// use siltstone::client::{Acks, ProducerOptions};
///
/// let options = ProducerOptions { acks: Acks::Leader, ..ProducerOptions::default() };
/// assert_eq!(ProducerOptions::default().acks, Acks::All);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// When it is as durable as the topic's `durability` says.
    #[default]
    All,
    /// When it is appended.
    Leader,
    /// When it is sent: it may be lost, and nobody says so.
    None,
}

/// How a producer works.
///
/// ```
/// use std::time::Duration;
/// use siltstone::client::ProducerOptions;
/// use siltstone::record::Codec;
///
/// let throughput = ProducerOptions {
///     codec: Codec::Zstd,
///     batch_bytes: 1 << 20,
///     linger: Duration::from_millis(20),
///     ..ProducerOptions::default()
/// };
/// // For who waits for each record.
/// let latency = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
/// # let _ = (throughput, latency);
/// ```
#[derive(Clone)]
pub struct ProducerOptions {
    /// When a batch counts as written.
    pub acks: Acks,
    /// How batches are compressed.
    pub codec: Codec,
    /// Where records go that do not name a partition.
    pub partitioner: Partitioner,
    /// The size of a batch to aim for, in bytes before compression; the topic's `max.message.bytes` bounds it.
    pub batch_bytes: usize,
    /// How long a record waits for others to share its batch, at most half of `delivery_timeout`.
    pub linger: Duration,
    /// The most bytes that unacknowledged records take, at least one batch.
    pub buffer_bytes: usize,
    /// How long a record may stay unacknowledged before the producer gives up.
    pub delivery_timeout: Duration,
    /// How long one answer may take before the connection is given up and the batch sent again.
    pub request_timeout: Duration,
    /// Tells the time that a record without one gets.
    pub clock: Clock,
}

impl Default for ProducerOptions {
    /// All acks, no compression, Kafka's partitioner, 256 KiB, 5 ms, 64 MiB, 2 minutes, 30 seconds, the machine's clock.
    fn default() -> Self {
        Self {
            acks: Acks::All,
            codec: Codec::None,
            partitioner: Partitioner::default(),
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            clock: Arc::new(machine_clock),
        }
    }
}

impl fmt::Debug for ProducerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerOptions")
            .field("acks", &self.acks)
            .field("codec", &self.codec)
            .field("partitioner", &self.partitioner)
            .field("batch_bytes", &self.batch_bytes)
            .field("linger", &self.linger)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

impl ProducerOptions {
    /// Returns how long a record lingers: enough of its time is left to be sent and acknowledged.
    pub(super) fn linger(&self) -> Duration {
        self.linger.min(self.delivery_timeout / 2)
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the edge: where a producer is given no other clock"
)]
fn machine_clock() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A record to be sent; its parts are copied by [`Producer::send`](super::Producer::send).
///
/// ```no_run
/// # async fn example(producer: &siltstone::client::Producer) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ProducerRecord;
/// use siltstone::record::Header;
/// use siltstone::types::Timestamp;
///
/// let headers = [Header { key: "source".into(), value: Some("tower".into()) }];
/// let departed = ProducerRecord {
///     key: Some(b"N14228"),
///     value: Some(b"departed"),
///     timestamp: Some(Timestamp(1_357_034_400_000)),
///     headers: &headers,
///     ..ProducerRecord::default()
/// };
/// producer.send(departed).await?;
/// println!("at most {} bytes", producer.max_message_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerRecord<'a> {
    /// Decides the partition under [`Partitioner::KeyHash`], and is what compaction goes by.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Absent: the producer's clock.
    pub timestamp: Option<Timestamp>,
    /// Overrides the partitioner's choice.
    pub partition: Option<PartitionId>,
    /// In order.
    pub headers: &'a [Header],
    /// The caller's own number of the record, such as its line: told when the server refuses it. Numbers take 8 bytes a record
    /// beside `buffer_bytes`; give them to all records or to none.
    pub place: Option<u64>,
}
