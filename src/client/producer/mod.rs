//! The producer: records in, batches out, each written once and in order.
//!
//! ```text
//!  send --> Accumulator --sealed--> Window per partition --> one pipelined stream --> server
//!           open batches             unacknowledged <------- acknowledgements -------'
//!           '------ at most buffer_bytes in all ------'
//!  Delivery <---- Fate of each batch <----------------------- settled, failed, or dropped
//! ```
//!
//! Invariants
//! - Within a partition, records lie in the log in the order in which they were sent, each once, whatever happens to
//!   connections and servers: every batch carries the producer's id and a sequence, and a retry carries the same.
//! - After a failure that leaves a gap, nothing more is sent: the producer stops and says why. Where the server refuses single
//!   records, all that was sent before the first of them in its partition is written before the producer stops.
//! - Memory is bounded by `buffer_bytes`; `send` waits for room.
//! - No record waits without an end: from its first record on a batch has the delivery timeout, sealed or not.
//! - Every delivery is told an outcome, also by a producer that fails or is dropped.
//! - Locks: `accumulator` before `windows`; neither is held across an await, nor while a waker is called.
//!
//! The number of partitions is read once, when the producer is made. What is not here: transactions.

mod accumulator;
mod begin;
mod delivery;
mod options;
mod prefix;
mod sender;
mod window;
mod windows;

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::accumulator::{Accumulator, Began, Plan, ProducerIdentity, Sealed};
use self::delivery::News;
use self::sender::Sender;
use self::windows::Windows;
use super::{Client, Error, Written, admin};
use crate::record::HEADER_LEN;
use crate::types::{PartitionId, TopicName};

pub use self::delivery::{Acknowledged, Delivery};
pub use self::options::{Acks, Clock, PartitionChoice, Partitioner, ProducerOptions, ProducerRecord};

/// No batch grows past this, whatever the topic admits: far below what the format holds, compressed or not.
const BATCH_MAX_BYTES: usize = 1 << 30;

/// What became of a producer's records so far, and what it holds now.
///
/// ```no_run
/// # fn example(producer: &siltstone::client::Producer) {
/// let metrics = producer.metrics();
/// println!("{} records under way", metrics.unacknowledged_records());
/// println!("{} bytes for {}", metrics.acknowledged_batch_bytes, metrics.acknowledged_bytes);
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProducerMetrics {
    /// Records taken by [`Producer::send`].
    pub sent_records: u64,
    /// Records acknowledged; with [`Acks::None`], handed to the connection.
    pub acknowledged_records: u64,
    /// Bytes of their keys and values.
    pub acknowledged_bytes: u64,
    /// Their batches.
    pub acknowledged_batches: u64,
    /// Bytes of these batches as they were sent.
    pub acknowledged_batch_bytes: u64,
    /// Requests sent, those again after a loss or a refusal among them.
    pub requests: u64,
    /// How often the connection was lost.
    pub losses: u64,
    /// How often a record found the buffer full.
    pub buffer_full: u64,
    /// Bytes that the records take which are not acknowledged.
    pub buffered_bytes: usize,
    /// Requests sent and not answered.
    pub in_flight_requests: usize,
}

impl ProducerMetrics {
    /// Returns how many records are not acknowledged.
    pub fn unacknowledged_records(&self) -> u64 {
        self.sent_records.saturating_sub(self.acknowledged_records)
    }
}

/// Counts as they go; [`ProducerMetrics`] tells what each is.
#[derive(Default)]
struct Counters {
    sent_records: AtomicU64,
    acknowledged_records: AtomicU64,
    acknowledged_bytes: AtomicU64,
    acknowledged_batches: AtomicU64,
    acknowledged_batch_bytes: AtomicU64,
    requests: AtomicU64,
    losses: AtomicU64,
    buffer_full: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
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
    /// Set with the first rejection: whoever adds a record asks this alone.
    is_rejected: AtomicBool,
    counters: Counters,
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
        if self.is_rejected.load(Ordering::Acquire)
            && let Some(rejection) = &*self.rejection.lock()
        {
            return Err(rejection.error.clone());
        }
        self.failure()
    }

    /// Takes no more records: one was refused. That of the least place is the one that is told.
    fn reject(&self, place: Option<u64>, error: Error) {
        let mut rejection = self.rejection.lock();
        let is_first = rejection.as_ref().is_none_or(|other| place < other.place);
        if is_first {
            *rejection = Some(Rejection { place, error });
            self.is_rejected.store(true, Ordering::Release);
        }
    }

    /// Stops the producer for good, and tells all that waits; the first error stays.
    fn fail(&self, error: Error) {
        let error = self.failure.get_or_init(|| error).clone();
        // Whoever adds a record looks for a failure under the lock, so none comes behind this.
        let mut accumulator = self.accumulator.lock();
        let mut news = accumulator.fail(&error.clone().with_written(Written::No));
        news.extend(self.windows.lock().fail(&error));
        drop(accumulator);
        news.tell();
        self.settled.notify_waiters();
    }

    /// Returns what became of the records so far.
    fn metrics(&self) -> ProducerMetrics {
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let open_bytes = self.accumulator.lock().open_bytes();
        ProducerMetrics {
            // First, so that no record is acknowledged that was not sent.
            acknowledged_records: told(&counters.acknowledged_records),
            sent_records: told(&counters.sent_records),
            acknowledged_bytes: told(&counters.acknowledged_bytes),
            acknowledged_batches: told(&counters.acknowledged_batches),
            acknowledged_batch_bytes: told(&counters.acknowledged_batch_bytes),
            requests: told(&counters.requests),
            losses: told(&counters.losses),
            buffer_full: told(&counters.buffer_full),
            buffered_bytes: open_bytes + self.sealed_bytes.load(Ordering::Relaxed),
            in_flight_requests: self.windows.lock().in_flight_requests(),
        }
    }

    /// Passes sealed batches on; the accumulator is locked by the caller, so that their order holds. Returns what is to be told
    /// once it is not.
    fn push(&self, sealed: Vec<Sealed>) -> News {
        let mut news = News::default();
        if sealed.is_empty() {
            return news;
        }
        let mut windows = self.windows.lock();
        let taken = sealed.into_iter().map(|sealed| {
            let fate = sealed.batch.fate.clone();
            let bytes = windows.push(sealed.partition, sealed.batch);
            if let (0, Some(rejection)) = (bytes, &*self.rejection.lock()) {
                news.failed(&fate, rejection.error.clone());
            }
            bytes
        });
        let bytes = taken.sum();
        // Still locked: nothing is settled before it is counted.
        self.sealed_bytes.fetch_add(bytes, Ordering::Relaxed);
        news
    }

    /// Adds the record; `None` when there is no room for it now.
    fn add(&self, record: &ProducerRecord<'_>) -> Result<Option<Delivery>, Error> {
        let growth = Accumulator::greatest_growth(record);
        let mut accumulator = self.accumulator.lock();
        self.open_for_records()?;
        let held = accumulator.open_bytes() + self.sealed_bytes.load(Ordering::Relaxed);
        if held > 0 && held + growth > self.options.buffer_bytes {
            return Ok(None);
        }
        let mut sealed = Vec::new();
        let (delivery, began) = accumulator.append(record, growth, &mut sealed)?;
        count(&self.counters.sent_records, 1);
        let wake = began == Began::Batch || !sealed.is_empty();
        let news = self.push(sealed);
        drop(accumulator);
        news.tell();
        if wake {
            self.work.notify_one();
        }
        Ok(Some(delivery))
    }

    /// Passes on every open batch.
    fn seal_all(&self) {
        let mut accumulator = self.accumulator.lock();
        let mut sealed = Vec::new();
        accumulator.seal_all(&mut sealed);
        let news = self.push(sealed);
        drop(accumulator);
        news.tell();
    }

    fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.work.notify_one();
    }
}

/// Writes records to one topic; `send` takes `&self`, so that an `Arc` of it serves many tasks.
///
/// Dropped without [`Producer::close`] or [`Producer::flush`], it loses what is not acknowledged, logs how much, and ends what
/// waits for it in [`Error::Dropped`].
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{ProducerOptions, ProducerRecord};
/// use siltstone::record::Codec;
///
/// let options = ProducerOptions { codec: Codec::Zstd, ..ProducerOptions::default() };
/// let mut producer = client.producer("flights", options).await?;
/// for tail in ["N14228", "N24211"] {
///     // Waits for room in the buffer; the answer can be waited for, or left to `flush`.
///     let record = ProducerRecord { key: Some(tail.as_bytes()), value: Some(b"departed"), ..Default::default() };
///     producer.send(record).await?;
/// }
/// producer.flush().await?; // all of it is in the log
/// match producer.try_send(ProducerRecord { value: Some(b"late"), ..Default::default() }) {
///     Err(error) if error.is_retriable() => println!("no room now: {error}"),
///     other => println!("{:?}", other?.await?.offset),
/// }
/// producer.close().await
/// # }
/// ```
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
            partitioner: options.partitioner.clone(),
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
            is_rejected: AtomicBool::new(false),
            counters: Counters::default(),
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
    /// Takes a record to be written: copies it into a batch and returns, or waits while the buffer is full, at most until what
    /// fills it reaches the delivery timeout. What becomes of it, the [`Delivery`] tells, or [`Producer::flush`].
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], [`Error::UnknownPartition`] and [`Error::NoPartition`] concern this record alone. Any other
    /// error stopped the producer, and every later call returns it; [`Error::RecordRefused`] concerns an earlier record, and
    /// [`Producer::flush`] returns it when all that was sent before that record is acknowledged.
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<Delivery, Error> {
        loop {
            if let Some(delivery) = self.shared.add(&record)? {
                return Ok(delivery);
            }
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            // Looked at again after the waiter is known, so that no wake-up is missed.
            if let Some(delivery) = self.shared.add(&record)? {
                return Ok(delivery);
            }
            count(&self.shared.counters.buffer_full, 1);
            self.shared.hurry();
            settled.await;
        }
    }

    /// As [`Producer::send`], and never waits.
    ///
    /// # Errors
    /// Those of `send`, and [`Error::BufferFull`], which concerns this record alone.
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Delivery, Error> {
        self.shared.add(&record)?.ok_or_else(|| {
            count(&self.shared.counters.buffer_full, 1);
            self.shared.hurry();
            Error::BufferFull {
                topic: self.shared.topic.clone(),
                limit_bytes: self.shared.options.buffer_bytes,
            }
        })
    }

    /// Waits until every record sent before the call is acknowledged.
    ///
    /// # Errors
    /// The error that stopped the producer.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.seal_all();
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
            // A task that panicked, or was dropped with its runtime, has told the failure below.
            let _ = task.await;
            self.task = None;
        }
        self.shared.failure()
    }

    /// Returns the topic's `max.message.bytes`: no record larger than this can be sent.
    pub fn max_message_bytes(&self) -> usize {
        self.shared.max_message_bytes
    }

    /// Returns what became of the records so far.
    pub fn metrics(&self) -> ProducerMetrics {
        self.shared.metrics()
    }

    /// Tells whether nobody holds a lock of the producer.
    #[cfg(test)]
    pub(super) fn locks_are_free(&self) -> bool {
        let shared = &self.shared;
        let accumulator = shared.accumulator.try_lock().is_some();
        accumulator && shared.windows.try_lock().is_some() && shared.rejection.try_lock().is_some()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let task = self.task.take();
        self.tell_what_is_lost();
        // Its own end is the second to be told.
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Producer {
    fn tell_what_is_lost(&self) {
        let topic = self.shared.topic.clone();
        let lost_records = self.metrics().unacknowledged_records();
        if lost_records == 0 {
            return self.shared.fail(Error::Closed { topic });
        }
        let written = match self.shared.windows.lock().may_be_written() {
            true => Written::Perhaps,
            false => Written::No,
        };
        tracing::warn!(%topic, lost_records, ?written, "producer dropped before its records were acknowledged");
        self.shared.fail(Error::Dropped {
            topic,
            lost_records,
            written,
        });
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("topic", &self.shared.topic)
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}

/// Returns the number of the partition in this place of a topic.
fn partition_id(place: usize) -> PartitionId {
    PartitionId(i32::try_from(place).expect("a topic has far fewer than 2^31 partitions"))
}
