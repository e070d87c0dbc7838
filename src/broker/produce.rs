//! Appending: a raw batch, or plain records that become batches here; and the acknowledgement to wait for.
//!
//! ```text
//!  raw batch ------------------------> accept --> append --> acknowledgement
//!  records --> partitions --> batches --'           '--> group commit, or flush
//! ```
//!
//! All of it runs on the caller's thread: a check, and a write into the page cache. Only a partition that takes its first
//! append since the start is opened before, on a thread that may block; several of one request side by side. Calls awaited one after the other lie in the log in
//! their order. Records of one request and partition lie back to back, also as several batches. A request takes its share of the
//! limit on what is under way before it waits for anything.
//!
//! Partial success: of a request of records each partition stands for itself. Its records are checked, all of them, before its
//! first batch is appended; one that refuses its own reports that beside those that took theirs. Only a failing disk can stop a
//! partition between two batches: it reports the failure, and a retry may write the first batches again. A producer with
//! sequences sends one batch at a time and has no such case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::record::{
    Accepted, BatchBuilder, BatchOptions, Rejection, Stamping, TimestampType, Transactional, accept,
    partition_for_key,
};
use crate::storage::{Append, AppendError, Durability, Origin, SyncDue, Written};
use crate::telemetry::Metrics;
use crate::types::{PartitionId, Timestamp, TopicName, TopicPartition};

use super::budget::BudgetShare;
use super::core::{Core, count_refusal};
use super::flush::Urgency;
use super::gate::Pass;
use super::requests::{Acks, Appended, NewRecord, NewRecords, Novelty, Placed};
use super::served::{Hold, Served};
use super::settings::TopicConfig;
use super::topics::Topic;
use super::{Error, translate};

/// How long an acknowledgement is waited for.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What one record may take more than [`BatchBuilder::record_len`] says.
const RECORD_LEN_SLACK: usize = 30;

/// An acknowledgement on its way. Acknowledgements of one partition complete in the order of its appends.
#[derive(Debug)]
pub struct PendingAck {
    appended: Appended,
    /// `None`: nothing to wait for.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    partition: TopicPartition,
    receiver: oneshot::Receiver<Result<(), Error>>,
    metrics: Arc<Metrics>,
}

impl PendingAck {
    /// Waits until the write is as durable as was asked for.
    ///
    /// # Errors
    /// What kept it from being so; [`Error::AckTimeout`] after [`ACK_TIMEOUT`].
    pub async fn wait(self) -> Result<Appended, Error> {
        let Some(waiting) = self.waiting else {
            return Ok(self.appended);
        };
        let outcome = match tokio::time::timeout(ACK_TIMEOUT, waiting.receiver).await {
            Ok(Ok(outcome)) => outcome,
            // The queue is gone, and the broker with it.
            Ok(Err(_)) => Err(Error::ShuttingDown),
            Err(_) => Err(Error::AckTimeout {
                partition: waiting.partition,
                waited: ACK_TIMEOUT,
            }),
        };
        if let Err(error) = &outcome {
            count_refusal(&waiting.metrics, error);
        }
        outcome.map(|()| self.appended)
    }
}

/// Records of one request for one partition.
struct Share {
    served: Arc<Served>,
    /// Which records of the request; ascending.
    indexes: Vec<usize>,
}

/// Where batches go and what is asked of them.
struct Target<'a> {
    served: &'a Arc<Served>,
    config: &'a TopicConfig,
    acks: Acks,
    now: Timestamp,
}

impl Core {
    /// See [`super::Broker::append_batch`].
    pub(super) async fn append_batch(
        self: &Arc<Self>,
        name: &TopicName,
        partition: PartitionId,
        batch: Bytes,
        acks: Acks,
    ) -> Result<PendingAck, Error> {
        let share = Arc::new(self.inflight.take(as_u64(batch.len()))?);
        self.ensure_topic(name).await?;
        let (pass, topic) = self.admit(name)?;
        let served = topic.partition(partition)?;
        let started = Instant::now();
        let target = Target {
            served,
            config: &topic.config,
            acks,
            now: self.now(),
        };
        let accepted = accept(batch, &self.rules(target.config, target.now))
            .map_err(|rejection| translate::rejection(served.id(), rejection))?;
        if accepted.header().is_transactional() {
            // Nobody could end it, and it would hold back every committed reader for good.
            return Err(Error::InvalidTransactionState {
                partition: served.id().clone(),
                reason: "no transaction can be begun on this server; send the batch without the transactional flag"
                    .to_owned(),
            });
        }
        self.open_for_append(served, target.now).await?;
        let pending = self.append(&target, &[accepted], Hold::new(pass, share));
        self.metrics.append_latency.record(started.elapsed());
        pending
    }

    /// See [`super::Broker::append_records`].
    pub(super) async fn append_records(
        self: &Arc<Self>,
        new: &NewRecords,
        acks: Acks,
    ) -> Result<Vec<Placed<PendingAck>>, Error> {
        let held = Arc::new(self.inflight.take(memory_of(new))?);
        self.ensure_topic(&new.topic).await?;
        let (_pass, topic) = self.admit(&new.topic)?;
        let started = Instant::now();
        let shares = shares(&topic, new)?;
        let now = self.now();
        let whole = new.partition.is_some();
        let closed = shares.iter().filter(|share| !share.served.log.is_open());
        let closed: Vec<_> = closed.map(|share| Arc::clone(&share.served)).collect();
        if closed.len() > 1 {
            self.open_side_by_side(closed).await;
        }
        let mut placed = Vec::with_capacity(shares.len());
        for share in shares {
            let target = Target {
                served: &share.served,
                config: &topic.config,
                acks,
                now,
            };
            let outcome = match self.open_for_append(target.served, now).await {
                Ok(()) => self.append_share(&target, new, &share.indexes, Arc::clone(&held)),
                Err(error) => Err(error),
            };
            let indexes = if whole {
                Vec::new()
            } else {
                share.indexes.iter().map(|index| as_u32(*index)).collect()
            };
            placed.push(Placed {
                partition: share.served.id().partition,
                indexes,
                outcome: self.counted(outcome),
            });
        }
        self.metrics.append_latency.record(started.elapsed());
        Ok(placed)
    }

    /// Makes a partition ready for appends where it may block for the disk; one that is ready costs a look.
    async fn open_for_append(self: &Arc<Self>, served: &Arc<Served>, now: Timestamp) -> Result<(), Error> {
        if served.log.is_open() {
            return Ok(());
        }
        let served = Arc::clone(served);
        self.blocking(move |core| {
            // In turn with whoever removes the partition: nothing is made in its place.
            let _turn = served.turn()?;
            let opened = served.log.open(now);
            opened.map_err(|error| core.not_written(&served, error))
        })
        .await
    }

    /// Lets a write to a topic begin.
    fn admit(&self, name: &TopicName) -> Result<(Pass, Arc<Topic>), Error> {
        let pass = self.gate.enter()?;
        let topic = self.topics.find_writable(name)?;
        self.disk.check()?;
        Ok((pass, topic))
    }

    fn append_share(
        self: &Arc<Self>,
        target: &Target<'_>,
        new: &NewRecords,
        indexes: &[usize],
        held: Arc<BudgetShare>,
    ) -> Result<PendingAck, Error> {
        let partition = target.served.id();
        let rules = self.rules(target.config, target.now);
        let mut accepted = Vec::new();
        for built in build(target, new, indexes)? {
            let first = built.first;
            let batch = accept(built.batch.bytes().clone(), &rules).map_err(|rejection| {
                translate::rejection(partition, in_request(rejection, &indexes[first..]))
            })?;
            accepted.push(batch);
        }
        if new.producer.is_some() && accepted.len() > 1 {
            let size_bytes = accepted.iter().map(|batch| u64::from(batch.size_bytes())).sum();
            return Err(Error::TooLarge {
                partition: partition.clone(),
                size_bytes,
                limit_name: "max.message.bytes",
                limit_bytes: target.config.max_message_bytes.into(),
            });
        }
        self.append(target, &accepted, Hold::new(self.gate.enter()?, held))
    }

    /// Appends batches back to back and prepares their one acknowledgement.
    fn append(
        self: &Arc<Self>,
        target: &Target<'_>,
        batches: &[Accepted],
        hold: Hold,
    ) -> Result<PendingAck, Error> {
        let hold = match target.acks {
            Acks::All => Some(hold),
            Acks::Leader | Acks::None => None,
        };
        if let [batch] = batches {
            let _turn = target.served.turn()?;
            let append = self.write(target, batch)?;
            return Ok(self.appended(target, (append, append), hold));
        }
        let _turn = target.served.turn_alone()?;
        let mut both = None;
        for batch in batches {
            let append = match self.write(target, batch) {
                Ok(append) => append,
                Err(error) => {
                    // What went in before is there and must be synced, though nobody is told of it.
                    self.appended_to(target);
                    return Err(error);
                }
            };
            both = Some(both.map_or((append, append), |(first, _)| (first, append)));
        }
        let both = both.ok_or_else(|| Error::InvalidRequest {
            reason: "there is no record to append".to_owned(),
        })?;
        Ok(self.appended(target, both, hold))
    }

    fn write(&self, target: &Target<'_>, batch: &Accepted) -> Result<Append, Error> {
        let served = target.served;
        match served.log.append(batch, Origin::Client, target.now) {
            Ok(append) if append.written == Written::Now => {
                self.disk.appended(batch.size_bytes().into());
                self.metrics.produce_batches.inc();
                self.metrics.produce_bytes.inc_by(batch.size_bytes().into());
                self.metrics.produce_records.inc_by(batch.record_count().into());
                Ok(append)
            }
            Ok(append) => {
                self.metrics.produce_duplicates.inc();
                Ok(append)
            }
            Err(error) => Err(self.not_written(served, error)),
        }
    }

    /// Sees to what a failed append says about the disk.
    fn not_written(&self, served: &Arc<Served>, error: AppendError) -> Error {
        match error {
            AppendError::Storage(error) if error.is_disk_full() => {
                tracing::warn!(partition = %served.id(), %error, "no room for an append");
                if served.log.refusal().is_some() {
                    self.repairs.add(served);
                }
                self.disk.write_found_no_room()
            }
            AppendError::Storage(error) => {
                tracing::error!(partition = %served.id(), %error, "append failed");
                if served.log.refusal().is_some() {
                    self.repairs.add(served);
                }
                translate::append(served.id(), AppendError::Storage(error))
            }
            refused @ AppendError::Refused { .. } => {
                self.repairs.add(served);
                translate::append(served.id(), refused)
            }
            other => translate::append(served.id(), other),
        }
    }

    fn appended(
        &self,
        target: &Target<'_>,
        (first, last): (Append, Append),
        hold: Option<Hold>,
    ) -> PendingAck {
        let served = target.served;
        let log_append_time = match (target.config.timestamp_type, last.written) {
            (TimestampType::CreateTime, _) => None,
            (TimestampType::LogAppendTime, Written::Now) => Some(target.now),
            (TimestampType::LogAppendTime, Written::Before { timestamp }) => timestamp,
        };
        let appended = Appended {
            base_offset: first.base_offset,
            last_offset: last.last_offset,
            log_append_time,
            log_start: last.log_start,
            novelty: match last.written {
                Written::Now => Novelty::New,
                Written::Before { .. } => Novelty::Duplicate,
            },
        };
        let waiting = hold
            .filter(|_| last.high_watermark <= last.last_offset)
            .map(|hold| Waiting {
                partition: served.id().clone(),
                receiver: served.expect_ack(
                    &Append {
                        era: first.era,
                        ..last
                    },
                    hold,
                ),
                metrics: Arc::clone(&self.metrics),
            });
        self.appended_to(target);
        PendingAck { appended, waiting }
    }

    /// Tells the background and the readers that something was appended. After [`Served::expect_ack`]: the watermark may
    /// have passed between the append and it.
    fn appended_to(&self, target: &Target<'_>) {
        let served = target.served;
        match target.config.durability {
            Durability::Synced => self.commit.mark(served),
            Durability::Written => {
                let timed = target.config.flush_ms < i64::MAX;
                let ask = !timed || target.config.flush_messages < i64::MAX;
                if ask && served.log.sync_due(target.now) == SyncDue::Now {
                    self.flushes.watch(served, Urgency::Now);
                } else if timed {
                    self.flushes.watch(served, Urgency::Sweep);
                }
            }
        }
        if served.log.take_rolled() {
            self.retention.want(served);
            if let Some(archive) = &self.archive {
                archive.look();
            }
            if target.config.cleanup.compacts() {
                self.cleaner.look();
            }
        }
        let config = target.config;
        let promised = config.cleanup.compacts() && config.max_compaction_lag_ms < i64::MAX;
        if promised && served.cleaning.is_first_promise() {
            self.cleaner
                .expect_promise(served.log.promise_of_an_append(target.now).unwrap_or(target.now));
        }
        served.advance(served.log.watermarks().high_watermark, &self.metrics.ack_latency);
    }
}

/// Divides the records of a request over partitions.
fn shares(topic: &Topic, new: &NewRecords) -> Result<Vec<Share>, Error> {
    let invalid = |reason: &str| {
        Err(Error::InvalidRequest {
            reason: reason.to_owned(),
        })
    };
    if new.records.is_empty() {
        return invalid("a request has at least one record");
    }
    if let Some(partition) = new.partition {
        let served = Arc::clone(topic.partition(partition)?);
        return Ok(vec![Share {
            served,
            indexes: (0..new.records.len()).collect(),
        }]);
    }
    if new.producer.is_some() {
        return invalid("records with a producer's sequence name their partition");
    }
    let mut keyless = None;
    let mut chosen: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
    for (index, record) in new.records.iter().enumerate() {
        let partition = match &record.key {
            Some(key) => partition_for_key(key, topic.count()),
            None => *keyless.get_or_insert_with(|| topic.partition_in_turn()),
        };
        chosen.entry(partition).or_default().push(index);
    }
    let share = |(partition, indexes)| {
        let served = Arc::clone(topic.partition(partition)?);
        Ok(Share { served, indexes })
    };
    chosen.into_iter().map(share).collect()
}

struct Built {
    /// Place, among the partition's indexes, of the batch's first record.
    first: usize,
    batch: Accepted,
}

/// Builds as few batches of records as the topic's limit allows.
fn build(target: &Target<'_>, new: &NewRecords, indexes: &[usize]) -> Result<Vec<Built>, Error> {
    let config = target.config;
    let codec = config.codec.unwrap_or(new.codec);
    let limit = config.max_message_bytes.min(config.segment_bytes);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let begin = || {
        BatchBuilder::new(BatchOptions {
            codec,
            level: config.level(codec),
            stamping: Stamping::CreateTime,
            producer: new.producer,
            transactional: Transactional::No,
        })
    };
    let impossible = |error: crate::record::BuildError| Error::InvalidRequest {
        reason: error.to_string(),
    };
    let mut built = Vec::new();
    let mut builder = begin();
    let mut first = 0;
    for (place, index) in indexes.iter().enumerate() {
        let NewRecord {
            key,
            value,
            timestamp,
            headers,
        } = &new.records[*index];
        let (key, value) = (key.as_deref(), value.as_deref());
        let len = BatchBuilder::record_len(key, value, headers) + RECORD_LEN_SLACK;
        if builder.record_count() > 0 && builder.size_bytes() + len > limit {
            let full = std::mem::replace(&mut builder, begin());
            built.push(Built {
                first,
                batch: full.build().map_err(impossible)?,
            });
            first = place;
        }
        let timestamp = timestamp.unwrap_or(target.now);
        builder
            .append(Some(timestamp), key, value, headers)
            .map_err(impossible)?;
    }
    built.push(Built {
        first,
        batch: builder.build().map_err(impossible)?,
    });
    Ok(built)
}

/// Names refused records by their numbers in the request; `indexes` begins with the batch's first record.
fn in_request(rejection: Rejection, indexes: &[usize]) -> Rejection {
    let number = |in_batch: u32| {
        let index = usize::try_from(in_batch)
            .ok()
            .and_then(|place| indexes.get(place));
        index.map_or(in_batch, |index| as_u32(*index))
    };
    match rejection {
        Rejection::InvalidRecords { errors } => Rejection::InvalidRecords {
            errors: errors.renumbered(number),
        },
        other => other,
    }
}

/// What a request of records takes in memory, in bytes.
fn memory_of(new: &NewRecords) -> u64 {
    let record = |record: &NewRecord| {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        BatchBuilder::record_len(key, value, &record.headers)
            + size_of::<NewRecord>()
            + size_of_val(&record.headers[..])
    };
    as_u64(new.records.iter().map(record).sum())
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

fn as_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a request holds fewer than 2^32 records")
}
