//! Turns records into batches: chooses partitions, fills one open batch for each, numbers what it seals.
//!
//! Invariants
//! - Batches of a partition are sealed in the order of their records, with gapless sequences.
//! - A batch is sealed when the next record would take it past its size, when it has waited as long as records may
//!   linger, or when all are to go.
//! - A batch is at most as large as the topic admits, counted before compression.
//! - Records that neither key nor caller gives a partition share one until its batch is sealed, then move to the next.
//!
//! What is sealed goes out, for the caller to pass on. What is not here: limits on memory, locks, the network.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::delivery::{Delivery, Fate, News};
use super::window::SealedBatch;
use super::{BatchLimits, Clock, Partitioner, ProducerRecord, partition_id};
use crate::client::Error;
use crate::record::{BatchBuilder, BatchOptions, Codec, HEADER_LEN, ProducerStamp, partition_for_key};
use crate::types::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicName};

/// How much [`BatchBuilder::record_len`] may be too low.
const RECORD_LEN_SLACK: usize = 30;

/// The identity of an idempotent producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProducerIdentity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// What batches are like.
pub(super) struct Plan {
    pub(super) topic: TopicName,
    /// How many the topic has; at least 1.
    pub(super) partitions: i32,
    pub(super) limits: BatchLimits,
    pub(super) codec: Codec,
    /// Absent: batches are not numbered.
    pub(super) producer: Option<ProducerIdentity>,
    pub(super) partitioner: Partitioner,
    pub(super) clock: Clock,
}

/// A batch on its way out.
pub(super) struct Sealed {
    /// The partition's place in the topic.
    pub(super) partition: usize,
    pub(super) batch: SealedBatch,
}

/// Whether a record began a batch: its time to linger starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Began {
    Batch,
    Nothing,
}

struct OpenBatch {
    builder: BatchBuilder,
    payload_bytes: u64,
    opened_at: Instant,
    /// See [`ProducerRecord::place`].
    places: Vec<u64>,
    fate: Arc<Fate>,
}

struct Slot {
    open: Option<OpenBatch>,
    next_sequence: Sequence,
    /// Where the batch before was full, as many bytes are made ready for the next at once.
    full_bytes: usize,
    /// How many batches were opened: tells an open batch from the partition's earlier ones.
    opened: u64,
}

/// The open batches of a topic.
pub(super) struct Accumulator {
    plan: Plan,
    slots: Vec<Slot>,
    /// Open batches by age, as partition and `Slot::opened`; some may be sealed since.
    ages: VecDeque<(Instant, usize, u64)>,
    /// Where records go that nothing gives a partition.
    sticky: usize,
    open_bytes: usize,
}

impl Accumulator {
    /// Begins with no open batch.
    pub(super) fn new(plan: Plan) -> Self {
        let slots = (0..plan.partitions).map(|_| Slot {
            open: None,
            next_sequence: Sequence(0),
            full_bytes: 0,
            opened: 0,
        });
        let slots = slots.collect();
        Self {
            plan,
            slots,
            ages: VecDeque::new(),
            sticky: 0,
            open_bytes: 0,
        }
    }

    /// Returns the bytes of all open batches.
    pub(super) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Returns the most bytes that a record adds to the open batches.
    pub(super) fn greatest_growth(record: &ProducerRecord<'_>) -> usize {
        HEADER_LEN + RECORD_LEN_SLACK + BatchBuilder::record_len(record.key, record.value, record.headers)
    }

    /// Adds a record of the `growth` that [`Accumulator::greatest_growth`] says; batches that had no room for it go to `sealed`.
    ///
    /// # Errors
    /// The record is too large for any batch, or has no partition that exists. Nothing is added then.
    pub(super) fn append(
        &mut self,
        record: &ProducerRecord<'_>,
        growth: usize,
        sealed: &mut Vec<Sealed>,
    ) -> Result<(Delivery, Began), Error> {
        if growth > self.plan.limits.greatest_bytes {
            return Err(self.too_large(growth));
        }
        let chosen = self.choose_partition(record)?;
        let partition = loop {
            let partition = chosen.unwrap_or(self.sticky);
            if !self.lacks_room(partition, growth - HEADER_LEN) {
                break partition;
            }
            let slot = &mut self.slots[partition];
            let len = slot.open.as_ref().map_or(0, |open| open.builder.size_bytes());
            slot.full_bytes = self.plan.limits.target_bytes.min(len + growth);
            sealed.extend(self.seal(partition));
        };
        let timestamp = record.timestamp.unwrap_or_else(|| (self.plan.clock)());
        let (open, began) = self.open(partition);
        let (before, index) = (open.builder.size_bytes(), open.builder.record_count());
        open.builder
            .append(Some(timestamp), record.key, record.value, record.headers)
            .expect("a batch of at most BATCH_MAX_BYTES is far below what the format holds");
        open.payload_bytes += len(record.key) + len(record.value);
        open.places.extend(record.place);
        let grown = open.builder.size_bytes() - before;
        let fate = open.fate.clone();
        self.open_bytes += grown;
        let delivery = Delivery::new(fate, partition_id(partition), index, timestamp);
        Ok((delivery, began))
    }

    /// Ends every open batch as failed; none of it was sent.
    pub(super) fn fail(&mut self, error: &Error) -> News {
        let mut news = News::default();
        for open in self.slots.iter_mut().filter_map(|slot| slot.open.take()) {
            self.open_bytes -= open.builder.size_bytes();
            news.failed(&open.fate, error.clone());
        }
        news
    }

    /// Seals every open batch into `sealed`.
    pub(super) fn seal_all(&mut self, sealed: &mut Vec<Sealed>) {
        while let Some(&(_, partition, _)) = self.oldest() {
            sealed.extend(self.seal(partition));
        }
    }

    /// Seals into `sealed` what was opened at `opened_before` or earlier.
    pub(super) fn seal_older(&mut self, opened_before: Instant, sealed: &mut Vec<Sealed>) {
        while let Some(&(opened_at, partition, _)) = self.oldest() {
            if opened_at > opened_before {
                break;
            }
            sealed.extend(self.seal(partition));
        }
    }

    /// Returns when the oldest open batch was opened.
    pub(super) fn oldest_opened_at(&mut self) -> Option<Instant> {
        self.oldest().map(|(opened_at, _, _)| *opened_at)
    }

    fn oldest(&mut self) -> Option<&(Instant, usize, u64)> {
        while let Some((_, partition, opened)) = self.ages.front() {
            let slot = &self.slots[*partition];
            if slot.open.is_some() && slot.opened == *opened {
                break;
            }
            self.ages.pop_front();
        }
        self.ages.front()
    }

    /// Returns the partition that the record or the partitioner names; `None` leaves it to the sticky one.
    fn choose_partition(&self, record: &ProducerRecord<'_>) -> Result<Option<usize>, Error> {
        let named = match (record.partition, &self.plan.partitioner) {
            (Some(partition), _) => Some(partition),
            (None, Partitioner::KeyHash) => {
                record.key.map(|key| partition_for_key(key, self.plan.partitions))
            }
            (None, Partitioner::Sticky) => None,
            (None, Partitioner::Explicit) => {
                let topic = self.plan.topic.clone();
                return Err(Error::NoPartition { topic });
            }
            (None, Partitioner::Own(choose)) => choose(record, self.plan.partitions),
        };
        named.map(|partition| self.slot_of(partition)).transpose()
    }

    fn slot_of(&self, partition: PartitionId) -> Result<usize, Error> {
        usize::try_from(partition.0)
            .ok()
            .filter(|place| *place < self.slots.len())
            .ok_or_else(|| Error::UnknownPartition {
                topic: self.plan.topic.clone(),
                partition,
                count: self.slots.len(),
            })
    }

    fn lacks_room(&self, partition: usize, record_bytes: usize) -> bool {
        self.slots[partition]
            .open
            .as_ref()
            .is_some_and(|open| open.builder.size_bytes() + record_bytes > self.plan.limits.target_bytes)
    }

    /// Returns the partition's open batch, a new one if need be.
    fn open(&mut self, partition: usize) -> (&mut OpenBatch, Began) {
        let slot = &mut self.slots[partition];
        let began = if slot.open.is_some() {
            Began::Nothing
        } else {
            Began::Batch
        };
        let open = slot.open.get_or_insert_with(|| {
            let producer = self.plan.producer.map(|producer| ProducerStamp {
                id: producer.id,
                epoch: producer.epoch,
                base_sequence: Some(slot.next_sequence),
            });
            let options = BatchOptions {
                codec: self.plan.codec,
                producer,
                ..BatchOptions::default()
            };
            let opened_at = Instant::now();
            slot.opened += 1;
            self.ages.push_back((opened_at, partition, slot.opened));
            let mut builder = BatchBuilder::new(options);
            builder.reserve(std::mem::take(&mut slot.full_bytes));
            self.open_bytes += builder.size_bytes();
            OpenBatch {
                builder,
                payload_bytes: 0,
                opened_at,
                places: Vec::new(),
                fate: Arc::default(),
            }
        });
        (open, began)
    }

    fn seal(&mut self, partition: usize) -> Option<Sealed> {
        let open = self.slots[partition].open.take()?;
        self.open_bytes -= open.builder.size_bytes();
        if partition == self.sticky {
            self.sticky = (self.sticky + 1) % self.slots.len();
        }
        let slot = &mut self.slots[partition];
        let records = open.builder.record_count();
        let count = i32::try_from(records).expect("a batch counts its records in 31 bits");
        slot.next_sequence = slot.next_sequence.plus(count);
        let built = open
            .builder
            .build()
            .expect("an open batch has a record and is far below what the format holds");
        let batch = SealedBatch {
            bytes: built.bytes().clone(),
            records,
            payload_bytes: open.payload_bytes,
            opened_at: open.opened_at,
            places: open.places,
            fate: open.fate,
        };
        Some(Sealed { partition, batch })
    }

    fn too_large(&self, size_bytes: usize) -> Error {
        Error::RecordTooLarge {
            topic: self.plan.topic.clone(),
            size_bytes,
            limit_bytes: self.plan.limits.greatest_bytes,
        }
    }
}

fn len(part: Option<&[u8]>) -> u64 {
    part.map_or(0, |part| {
        u64::try_from(part.len()).expect("a length fits 64 bits")
    })
}
