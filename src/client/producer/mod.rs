//! The producer: records in, batches out, each written once and in order.
//!
//! ```text
//!  send --> Accumulator --sealed--> Window per partition --> one pipelined stream --> server
//!           open batches             unacknowledged <------- acknowledgements -------'
//!           '------ at most buffer_bytes in all ------'
//! ```
//!
//! Invariants
//! - Within a partition, records lie in the log in the order in which they were sent, each once, whatever happens to
//!   connections and servers: every batch carries the producer's id and a sequence, and a retry carries the same.
//! - After a failure that leaves a gap, nothing more is sent: the producer stops and says why. Where the server refuses single
//!   records, all that was sent before the first of them in its partition is written before the producer stops.
//! - Memory is bounded by `buffer_bytes`; `send` waits for room.
//! - Locks: `accumulator` before `windows`; neither is held across an await.
//!
//! The number of partitions is read once, when the producer is made. What is not here: transactions, an answer for each
//! record.

mod accumulator;
mod begin;
mod prefix;
mod sender;
mod window;
mod windows;

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::accumulator::{Accumulator, Began, Plan, ProducerIdentity, Sealed};
use self::sender::Sender;
use self::windows::Windows;
use super::{Client, Error, admin};
use crate::record::{Codec, HEADER_LEN, Header};
use crate::types::{PartitionId, Timestamp, TopicName};

/// No batch grows past this, whatever the topic admits: far below what the format holds, compressed or not.
const BATCH_MAX_BYTES: usize = 1 << 30;

/// Tells the time that a record without one gets.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// When a batch counts as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// When it is as durable as the topic's `durability` says.
    #[default]
    All,
    /// When it is appended.
    Leader,
    /// When it is sent: it may be lost, and a retry may write it twice.
    None,
}

/// How a producer works.
#[derive(Clone)]
pub struct ProducerOptions {
    /// When a batch counts as written.
    pub acks: Acks,
    /// How batches are compressed.
    pub codec: Codec,
    /// The size of a batch to aim for, in bytes before compression; the topic's `max.message.bytes` bounds it.
    pub batch_bytes: usize,
    /// How long a record waits for others to share its batch.
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
    /// All acks, no compression, 256 KiB, 5 ms, 64 MiB, 2 minutes, 30 seconds, the machine's clock.
    fn default() -> Self {
        Self {
            acks: Acks::All,
            codec: Codec::None,
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
            .field("batch_bytes", &self.batch_bytes)
            .field("linger", &self.linger)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
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

/// A record to be sent; its parts are copied by [`Producer::send`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerRecord<'a> {
    /// Decides the partition, as Kafka's default partitioner does.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Absent: the producer's clock.
    pub timestamp: Option<Timestamp>,
    /// Overrides the key's choice.
    pub partition: Option<PartitionId>,
    /// In order.
    pub headers: &'a [Header],
    /// The caller's own number of the record, such as its line: told when the server refuses it. Numbers take 8 bytes a record
    /// beside `buffer_bytes`; give them to all records or to none.
    pub place: Option<u64>,
}

impl ProducerRecord<'_> {
    /// True when neither key nor caller says where it goes.
    fn is_free(&self) -> bool {
        self.key.is_none() && self.partition.is_none()
    }
}

/// What became of a producer's records so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerSummary {
    /// Records taken by [`Producer::send`].
    pub sent_records: u64,
    /// Records acknowledged; with [`Acks::None`], handed to the connection.
    pub acknowledged_records: u64,
    /// Bytes of their keys and values.
    pub acknowledged_bytes: u64,
}

/// The bounds of a batch, in bytes before compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BatchLimits {
    /// A batch is sealed before it grows past this, unless it is one record.
    target_bytes: usize,
    /// What the topic admits.
    greatest_bytes: usize,
}

/// A record that the server refused.
struct Rejection {
    place: Option<u64>,
    error: Error,
}

/// What callers and the sending task share.
struct Shared {
    topic: TopicName,
    max_message_bytes: usize,
    options: ProducerOptions,
    accumulator: Mutex<Accumulator>,
    windows: Mutex<Windows>,
    /// Bytes of sealed batches that are not settled.
    sealed_bytes: AtomicUsize,
    /// Seal all open batches without waiting for them to fill or to grow old.
    hurry: AtomicBool,
    closing: AtomicBool,
    failure: OnceLock<Error>,
    /// The first by place of the records refused: no more are taken, and what goes before them is still sent. Locked after
    /// `windows`.
    rejection: Mutex<Option<Rejection>>,
    sent_records: AtomicU64,
    acknowledged_records: AtomicU64,
    acknowledged_bytes: AtomicU64,
    /// Wakes the sending task: there is something to seal or to send, or the producer closes.
    work: Notify,
    /// Wakes callers: something is settled, or the producer failed.
    settled: Notify,
}

impl Shared {
    fn failure(&self) -> Result<(), Error> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Fails when nothing more can be sent.
    fn open_for_records(&self) -> Result<(), Error> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::Closed {
                topic: self.topic.clone(),
            });
        }
        match &*self.rejection.lock() {
            Some(rejection) => Err(rejection.error.clone()),
            None => self.failure(),
        }
    }

    /// Takes no more records: one was refused. That of the least place is the one that is told.
    fn reject(&self, place: Option<u64>, error: Error) {
        let mut rejection = self.rejection.lock();
        let is_first = rejection.as_ref().is_none_or(|other| place < other.place);
        if is_first {
            *rejection = Some(Rejection { place, error });
        }
    }

    /// Stops the producer for good; the first error stays.
    fn fail(&self, error: Error) {
        let _ = self.failure.set(error);
        self.settled.notify_waiters();
    }

    /// Passes sealed batches on; the accumulator is locked by the caller, so that their order holds.
    fn push(&self, sealed: Vec<Sealed>) {
        if sealed.is_empty() {
            return;
        }
        let mut windows = self.windows.lock();
        let taken = sealed
            .into_iter()
            .map(|sealed| windows.push(sealed.partition, sealed.batch));
        let bytes = taken.sum();
        // Still locked: nothing is settled before it is counted.
        self.sealed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds the record if there is room for it now.
    fn try_send(&self, record: &ProducerRecord<'_>) -> Result<Room, Error> {
        self.open_for_records()?;
        let mut accumulator = self.accumulator.lock();
        let held = accumulator.open_bytes() + self.sealed_bytes.load(Ordering::Relaxed);
        if held > 0 && held + Accumulator::greatest_growth(record) > self.options.buffer_bytes {
            return Ok(Room::None);
        }
        let mut sealed = Vec::new();
        let began = accumulator.append(record, &mut sealed)?;
        self.sent_records.fetch_add(1, Ordering::Relaxed);
        let wake = began == Began::Batch || !sealed.is_empty();
        self.push(sealed);
        drop(accumulator);
        if wake {
            self.work.notify_one();
        }
        Ok(Room::Some)
    }

    fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.work.notify_one();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Some,
    None,
}

/// Writes records to one topic.
///
/// Dropped without [`Producer::close`] or [`Producer::flush`], it loses what is not acknowledged, and logs how much.
pub struct Producer {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Client {
    /// Makes a producer for `topic`. Asks the server for the topic's partitions and limits and for a producer id, again and
    /// again for `delivery_timeout` while a retry may help. A missing topic is made if the server's `topics.auto_create` is
    /// on.
    ///
    /// # Errors
    /// `NotFound` when there is no such topic; [`Error::BeginTimeout`].
    pub async fn producer(&self, topic: &str, options: ProducerOptions) -> Result<Producer, Error> {
        let name = admin::topic_name(topic)?;
        let beginning = self.begin(&name, &options).await?;
        let description = beginning.topic;
        let partitions = i32::try_from(description.partitions.len())
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| self.protocol_error("a topic has no partition"))?;
        let greatest_bytes = description
            .setting("max.message.bytes")
            .and_then(|value| value.parse::<usize>().ok())
            .map(|bytes| bytes.min(BATCH_MAX_BYTES))
            .ok_or_else(|| self.protocol_error("a topic has no max.message.bytes"))?;
        let plan = Plan {
            topic: name.clone(),
            partitions,
            limits: BatchLimits {
                target_bytes: options
                    .batch_bytes
                    .clamp(HEADER_LEN, greatest_bytes.max(HEADER_LEN)),
                greatest_bytes,
            },
            codec: options.codec,
            producer: beginning.producer,
            clock: options.clock.clone(),
        };
        let shared = Arc::new(Shared {
            topic: name,
            max_message_bytes: greatest_bytes,
            windows: Mutex::new(Windows::new(description.partitions.len())),
            accumulator: Mutex::new(Accumulator::new(plan)),
            options,
            sealed_bytes: AtomicUsize::new(0),
            hurry: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            failure: OnceLock::new(),
            rejection: Mutex::new(None),
            sent_records: AtomicU64::new(0),
            acknowledged_records: AtomicU64::new(0),
            acknowledged_bytes: AtomicU64::new(0),
            work: Notify::new(),
            settled: Notify::new(),
        });
        let task = tokio::spawn(Sender::new(self.clone(), shared.clone()).run());
        Ok(Producer {
            shared,
            task: Some(task),
        })
    }
}

impl Producer {
    /// Takes a record to be written: copies it into a batch and returns, or waits while the buffer is full. What
    /// becomes of it, [`Producer::flush`] tells.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] and [`Error::UnknownPartition`] concern this record alone. Any other error stopped the
    /// producer, and every later call returns it; [`Error::RecordRefused`] concerns an earlier record, and
    /// [`Producer::flush`] returns it when all that was sent before that record is acknowledged.
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<(), Error> {
        loop {
            if self.shared.try_send(&record)? == Room::Some {
                return Ok(());
            }
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            // Looked at again after the waiter is known, so that no wake-up is missed.
            if self.shared.try_send(&record)? == Room::Some {
                return Ok(());
            }
            self.shared.hurry();
            settled.await;
        }
    }

    /// Waits until every record sent before the call is acknowledged.
    ///
    /// # Errors
    /// The error that stopped the producer.
    pub async fn flush(&self) -> Result<(), Error> {
        {
            let mut accumulator = self.shared.accumulator.lock();
            let mut sealed = Vec::new();
            accumulator.seal_all(&mut sealed);
            self.shared.push(sealed);
        }
        self.shared.work.notify_one();
        let target = self.shared.windows.lock().pushed();
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            self.shared.failure()?;
            let has_settled = self.shared.windows.lock().has_settled(&target);
            // Looked at after: a window that ended at a refused record is settled, too, and the failure is still to come.
            if has_settled && self.shared.rejection.lock().is_none() {
                return Ok(());
            }
            settled.await;
        }
    }

    /// Flushes, and ends the connection's stream. Nothing can be sent after it.
    ///
    /// # Errors
    /// The error that stopped the producer.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.shared.closing.store(true, Ordering::Release);
        self.shared.work.notify_one();
        if let Some(task) = &mut self.task {
            // A task that panicked has nothing to say that the failure below does not.
            let _ = task.await;
            self.task = None;
        }
        self.shared.failure()
    }

    /// Returns the topic's `max.message.bytes`: no record larger than this can be sent.
    pub fn max_message_bytes(&self) -> usize {
        self.shared.max_message_bytes
    }

    /// Returns how many requests were sent and not answered.
    #[cfg(test)]
    pub(super) fn in_flight_requests(&self) -> usize {
        self.shared.windows.lock().in_flight_requests()
    }

    /// Returns what became of the records so far.
    pub fn summary(&self) -> ProducerSummary {
        ProducerSummary {
            sent_records: self.shared.sent_records.load(Ordering::Relaxed),
            acknowledged_records: self.shared.acknowledged_records.load(Ordering::Relaxed),
            acknowledged_bytes: self.shared.acknowledged_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.fail(Error::Closed {
            topic: self.shared.topic.clone(),
        });
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let summary = self.summary();
        let lost_records = summary.sent_records.saturating_sub(summary.acknowledged_records);
        if lost_records > 0 {
            tracing::warn!(topic = %self.shared.topic, lost_records, "producer dropped before its records were acknowledged");
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("topic", &self.shared.topic)
            .field("summary", &self.summary())
            .finish_non_exhaustive()
    }
}
