//! Producers: what a partition remembers of each idempotent or transactional producer, to refuse duplicates, gaps and
//! fenced incarnations, and to know which transactions are open.
//!
//! ```text
//! producer id -> epoch, coordinator epoch, first offset of the open transaction,
//!                the last five batches: (first sequence .. last sequence) at (base offset .. last offset)
//! ```
//!
//! The order at the door: [`Producers::check`] under the append lock, before anything is written; then the bytes; then
//! [`Producers::apply`]. Markers go the same way. After a restart a [snapshot](super::producer_snapshot) brings one batch
//! per producer, and [`Producers::apply_recovered`] over the tail of the log brings the rest of the five.
//!
//! Invariants
//! - `check` changes nothing, `apply` refuses nothing: what was written is always applied.
//! - All batches kept of a producer are of its current epoch, in the order of their offsets.
//! - An open transaction is in exactly one producer's state and in the order by first offset; its producer is never
//!   forgotten.
//! - At most a stated number of producers is remembered; beyond it those seen least recently go. One that was forgotten
//!   may go on with any sequence, as if it were new.
//! - "Seen" is the time of the append, not the timestamp of its records: old data would forget its own producer.
//!
//! Rules and their order are Kafka's. What it does not do: verify a transaction with its coordinator, read batches, do
//! I/O, or know the high watermark (the caller gives it).

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;

use super::format::producer_snapshot::{CoordinatorEpoch, LastBatch, ProducerEntry};
use super::format::txn_index::AbortedTransaction;
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Batches remembered of each producer: as many as a client may have in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// Producers remembered of each partition, unless told otherwise; about 6 MB of memory at most.
pub const MAX_PRODUCERS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// One in so many of the producers goes when the limit is met, so that the search for them is rare.
const FORGOTTEN_SHARE: usize = 16;

/// Who asks for an append.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// A client, over the wire: everything is checked.
    Client,
    /// A coordinator inside this server: sequences are not checked, epochs are.
    Coordinator,
}

/// Whether a batch belongs to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transactional {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What a data batch says of its producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerBatch {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record; only a coordinator's batch has none.
    pub base_sequence: Option<Sequence>,
    /// Last offset less base offset, not negative; also last sequence less base sequence.
    pub last_offset_delta: i32,
    /// Whether it belongs to a transaction.
    pub transactional: Transactional,
    /// Greatest timestamp of its records.
    pub timestamp: Option<Timestamp>,
}

impl ProducerBatch {
    fn last_sequence(&self) -> Option<Sequence> {
        self.base_sequence.map(|base| base.plus(self.last_offset_delta))
    }
}

/// Where a batch or marker was written, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its first offset.
    pub base_offset: Offset,
    /// Its last offset.
    pub last_offset: Offset,
    /// The time of the append, or of the recovery that found it.
    pub now: Timestamp,
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Its records count.
    Commit,
    /// They do not.
    Abort,
}

/// Which protocol a marker follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MarkerProtocol {
    /// The producer's epoch stays as it is.
    EpochKept,
    /// Every marker raises the producer's epoch, so that a late request of the ended transaction is fenced.
    EpochRaised,
}

/// What an end-of-transaction marker says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marker {
    /// Whose transaction ends.
    pub id: ProducerId,
    /// The producer's incarnation from now on.
    pub epoch: ProducerEpoch,
    /// The incarnation of the coordinator that wrote it.
    pub coordinator_epoch: CoordinatorEpoch,
    /// How the transaction ends.
    pub outcome: Outcome,
    /// Which protocol it follows.
    pub protocol: MarkerProtocol,
    /// Its timestamp.
    pub timestamp: Option<Timestamp>,
}

/// What to do with a batch that may be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Write it.
    Append,
    /// It is already there: acknowledge it with where it went then.
    Duplicate {
        /// Its first offset.
        base_offset: Offset,
        /// Its last offset.
        last_offset: Offset,
        /// Its greatest timestamp.
        timestamp: Option<Timestamp>,
    },
}

/// A transaction that a marker has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompletedTransaction {
    /// Whose.
    pub producer_id: ProducerId,
    /// Its first data offset.
    pub first_offset: Offset,
    /// The offset of the marker.
    pub marker_offset: Offset,
    /// How it ended.
    pub outcome: Outcome,
    /// The first offset of the earliest transaction still open, or the offset after the marker.
    pub last_stable_offset: Offset,
}

impl CompletedTransaction {
    /// Returns the entry for the transaction index; none for a commit.
    pub fn aborted(&self) -> Option<AbortedTransaction> {
        (self.outcome == Outcome::Abort).then_some(AbortedTransaction {
            producer_id: self.producer_id,
            first_offset: self.first_offset,
            last_offset: self.marker_offset,
            last_stable_offset: self.last_stable_offset,
        })
    }
}

/// Why a batch or marker may not be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProducerError {
    /// Of an incarnation that a newer one has replaced.
    #[error("producer {id} has epoch {current}, the batch is of epoch {got}")]
    InvalidEpoch {
        /// The producer.
        id: ProducerId,
        /// The newest epoch seen.
        current: ProducerEpoch,
        /// The epoch of the batch or marker.
        got: ProducerEpoch,
    },
    /// A gap, or a duplicate too old to be known.
    #[error("producer {id} must go on with sequence {expected}, the batch begins with {got}")]
    OutOfOrderSequence {
        /// The producer.
        id: ProducerId,
        /// The sequence that may come next.
        expected: Sequence,
        /// The sequence of the batch.
        got: Sequence,
    },
    /// A client's batch without a sequence.
    #[error("a batch of producer {id} has no sequence")]
    NoSequence {
        /// The producer.
        id: ProducerId,
    },
    /// A batch outside a transaction while the producer's is open.
    #[error("producer {id} has a transaction open since offset {first_offset}, the batch is not part of it")]
    InvalidTransactionState {
        /// The producer.
        id: ProducerId,
        /// Where the transaction began.
        first_offset: Offset,
    },
    /// A marker of a coordinator that a newer one has replaced.
    #[error(
        "producer {id} has seen coordinator epoch {}, the marker is of epoch {}",
        current.0,
        got.0
    )]
    CoordinatorFenced {
        /// The producer.
        id: ProducerId,
        /// The newest coordinator epoch seen.
        current: CoordinatorEpoch,
        /// The one of the marker.
        got: CoordinatorEpoch,
    },
    /// All producers that may be remembered have open transactions; it works again when some have ended.
    #[error("producer {id} cannot be added: {limit} producers have open transactions")]
    TooManyProducers {
        /// The producer.
        id: ProducerId,
        /// How many may be remembered.
        limit: NonZeroUsize,
    },
}

/// One remembered batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SeenBatch {
    last_sequence: Option<Sequence>,
    last_offset: Offset,
    last_offset_delta: i32,
    timestamp: Option<Timestamp>,
}

impl SeenBatch {
    fn is(&self, batch: &ProducerBatch) -> bool {
        self.last_sequence.is_some()
            && self.last_sequence == batch.last_sequence()
            && self.last_offset_delta == batch.last_offset_delta
    }
}

/// What is remembered of one producer.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Producer {
    epoch: ProducerEpoch,
    coordinator_epoch: Option<CoordinatorEpoch>,
    open_since: Option<Offset>,
    timestamp: Option<Timestamp>,
    last_seen: Timestamp,
    batches: Vec<SeenBatch>,
}

impl Producer {
    fn new(epoch: ProducerEpoch, now: Timestamp) -> Self {
        Self {
            epoch,
            coordinator_epoch: None,
            open_since: None,
            timestamp: None,
            last_seen: now,
            batches: Vec::new(),
        }
    }

    fn enter_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    /// Puts a batch in its place by offset and keeps the newest five.
    fn remember(&mut self, batch: SeenBatch) {
        let before = self
            .batches
            .partition_point(|seen| seen.last_offset < batch.last_offset);
        if self
            .batches
            .get(before)
            .is_some_and(|seen| seen.last_offset == batch.last_offset)
        {
            return;
        }
        if self.batches.len() < BATCHES_PER_PRODUCER {
            // Doubling would take room for eight.
            self.batches.reserve_exact(1);
            self.batches.insert(before, batch);
        } else if let Some(place) = before.checked_sub(1) {
            self.batches.remove(0);
            self.batches.insert(place, batch);
        }
    }

    /// The sequence that may come next in the current epoch.
    fn expected(&self) -> Sequence {
        self.batches
            .last()
            .and_then(|last| last.last_sequence)
            .map_or(Sequence(0), |last| last.plus(1))
    }
}

/// The producers of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Producers {
    limit: NonZeroUsize,
    producers: HashMap<ProducerId, Producer>,
    /// First offset of each open transaction, and whose it is.
    open: BTreeMap<Offset, ProducerId>,
    /// First offset of each transaction that has ended above the high watermark, and the offset of its marker.
    completed: BTreeMap<Offset, Offset>,
    end: Offset,
}

impl Default for Producers {
    fn default() -> Self {
        Self::with_limit(MAX_PRODUCERS)
    }
}

impl Producers {
    /// Starts empty, at offset 0, and remembers at most `limit` producers.
    pub fn with_limit(limit: NonZeroUsize) -> Self {
        Self {
            limit,
            producers: HashMap::new(),
            open: BTreeMap::new(),
            completed: BTreeMap::new(),
            end: Offset::ZERO,
        }
    }

    /// Starts from a snapshot that holds everything before `end`. `now` counts as the time all of them were seen.
    pub fn from_snapshot(entries: &[ProducerEntry], end: Offset, now: Timestamp) -> Self {
        let mut producers = Self {
            end,
            ..Self::default()
        };
        for entry in entries {
            producers.make_room(entry.id);
            let mut producer = Producer::new(entry.epoch, now);
            producer.coordinator_epoch = entry.coordinator_epoch;
            producer.open_since = entry.open_since;
            producer.timestamp = entry.timestamp;
            producer.batches.extend(entry.last_batch.map(|last| SeenBatch {
                last_sequence: last.last_sequence,
                last_offset: last.last_offset,
                last_offset_delta: last.last_offset_delta,
                timestamp: entry.timestamp,
            }));
            producers
                .open
                .extend(entry.open_since.map(|first| (first, entry.id)));
            producers.producers.insert(entry.id, producer);
        }
        producers
    }

    /// Returns what a snapshot holds, sorted by producer. Its file is named after [`end`](Self::end).
    pub fn snapshot(&self) -> Vec<ProducerEntry> {
        let mut entries: Vec<_> = self
            .producers
            .iter()
            .map(|(&id, producer)| ProducerEntry {
                id,
                epoch: producer.epoch,
                last_batch: producer.batches.last().map(|last| LastBatch {
                    last_sequence: last.last_sequence,
                    last_offset: last.last_offset,
                    last_offset_delta: last.last_offset_delta,
                }),
                timestamp: producer.timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                open_since: producer.open_since,
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    /// Returns the offset before which everything is applied.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Notes that everything before `end` is applied: batches without a producer have nothing to apply.
    pub fn advance(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }

    /// Returns how many producers are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Says whether `batch` may be appended, in Kafka's order: duplicate, epoch, sequence, transaction.
    ///
    /// # Errors
    /// [`ProducerError`]; nothing may then be written.
    pub fn check(&self, batch: &ProducerBatch, origin: Origin) -> Result<Verdict, ProducerError> {
        let id = batch.id;
        if origin == Origin::Client && batch.base_sequence.is_none() {
            return Err(ProducerError::NoSequence { id });
        }
        let Some(producer) = self.producers.get(&id) else {
            return self.check_room(id).map(|()| Verdict::Append);
        };
        if origin == Origin::Client
            && batch.epoch == producer.epoch
            && let Some(seen) = producer.batches.iter().find(|seen| seen.is(batch))
        {
            return Ok(Verdict::Duplicate {
                base_offset: Offset(seen.last_offset.0 - i64::from(seen.last_offset_delta)),
                last_offset: seen.last_offset,
                timestamp: seen.timestamp,
            });
        }
        if batch.epoch < producer.epoch {
            return Err(ProducerError::InvalidEpoch {
                id,
                current: producer.epoch,
                got: batch.epoch,
            });
        }
        if origin == Origin::Client
            && let Some(got) = batch.base_sequence
        {
            let expected = if batch.epoch == producer.epoch {
                producer.expected()
            } else {
                Sequence(0)
            };
            if got != expected {
                return Err(ProducerError::OutOfOrderSequence { id, expected, got });
            }
        }
        match (producer.open_since, batch.transactional) {
            (Some(first_offset), Transactional::No) => {
                Err(ProducerError::InvalidTransactionState { id, first_offset })
            }
            _ => Ok(Verdict::Append),
        }
    }

    /// Takes note of a batch that was written.
    pub fn apply(&mut self, batch: &ProducerBatch, placed: Placed) {
        let producer = self.enter(batch.id, batch.epoch, placed.now);
        producer.remember(SeenBatch {
            last_sequence: batch.last_sequence(),
            last_offset: placed.last_offset,
            last_offset_delta: batch.last_offset_delta,
            timestamp: batch.timestamp,
        });
        producer.timestamp = batch.timestamp;
        if batch.transactional == Transactional::Yes && producer.open_since.is_none() {
            producer.open_since = Some(placed.base_offset);
            self.open.insert(placed.base_offset, batch.id);
        }
        self.advance(placed.last_offset.next());
    }

    /// Takes note of a batch that recovery found in the log. From [`end`](Self::end) on it is applied. Before, the
    /// snapshot knows what came of it, and it only fills up what is remembered of its producer.
    pub fn apply_recovered(&mut self, batch: &ProducerBatch, placed: Placed) {
        if placed.last_offset >= self.end {
            self.apply(batch, placed);
        } else if let Some(producer) = self.producers.get_mut(&batch.id)
            && producer.epoch == batch.epoch
            && producer
                .batches
                .last()
                .is_some_and(|last| placed.last_offset < last.last_offset)
        {
            producer.remember(SeenBatch {
                last_sequence: batch.last_sequence(),
                last_offset: placed.last_offset,
                last_offset_delta: batch.last_offset_delta,
                timestamp: batch.timestamp,
            });
        }
    }

    /// Says whether `marker` may be appended.
    ///
    /// # Errors
    /// [`ProducerError`]; nothing may then be written.
    pub fn check_marker(&self, marker: &Marker) -> Result<(), ProducerError> {
        let id = marker.id;
        let Some(producer) = self.producers.get(&id) else {
            return self.check_room(id);
        };
        let fenced = match marker.protocol {
            MarkerProtocol::EpochKept => marker.epoch < producer.epoch,
            // A marker written again after its transaction has ended is a retry.
            MarkerProtocol::EpochRaised if producer.open_since.is_none() => marker.epoch < producer.epoch,
            MarkerProtocol::EpochRaised => marker.epoch <= producer.epoch,
        };
        if fenced {
            return Err(ProducerError::InvalidEpoch {
                id,
                current: producer.epoch,
                got: marker.epoch,
            });
        }
        match producer.coordinator_epoch {
            Some(current) if marker.coordinator_epoch < current => Err(ProducerError::CoordinatorFenced {
                id,
                current,
                got: marker.coordinator_epoch,
            }),
            _ => Ok(()),
        }
    }

    /// Takes note of a marker that was written or that recovery found, and returns the transaction that it ended; none
    /// when the producer had none open here. A marker before [`end`](Self::end) is already known.
    pub fn apply_marker(&mut self, marker: &Marker, placed: Placed) -> Option<CompletedTransaction> {
        if placed.last_offset < self.end {
            return None;
        }
        let producer = self.enter(marker.id, marker.epoch, placed.now);
        producer.coordinator_epoch = Some(marker.coordinator_epoch);
        producer.timestamp = marker.timestamp;
        let first_offset = producer.open_since.take();
        self.advance(placed.last_offset.next());

        let first_offset = first_offset?;
        self.open.remove(&first_offset);
        self.completed.insert(first_offset, placed.last_offset);
        Some(CompletedTransaction {
            producer_id: marker.id,
            first_offset,
            marker_offset: placed.last_offset,
            outcome: marker.outcome,
            last_stable_offset: self.first_open().unwrap_or(placed.last_offset.next()),
        })
    }

    /// Returns the first offset that is not decided below `high_watermark`: of an open transaction, or of one whose
    /// marker readers cannot see yet. The last stable offset is the lesser of it and the high watermark.
    pub fn first_unstable(&self, high_watermark: Offset) -> Option<Offset> {
        let unseen = self
            .completed
            .iter()
            .find(|(_, marker)| **marker >= high_watermark)
            .map(|(first, _)| *first);
        match (unseen, self.first_open()) {
            (Some(unseen), Some(open)) => Some(unseen.min(open)),
            (unseen, open) => unseen.or(open),
        }
    }

    /// Forgets ended transactions whose markers lie before `offset`: the high watermark, or a log start beyond it.
    pub fn release_completed(&mut self, offset: Offset) {
        self.completed.retain(|_, marker| *marker >= offset);
    }

    /// Forgets producers not seen for longer than `expiration_ms`, and returns how many. Never one with an open
    /// transaction.
    pub fn expire(&mut self, now: Timestamp, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, producer| {
            producer.open_since.is_some() || now.ms_since(producer.last_seen) <= expiration_ms
        });
        before - self.producers.len()
    }

    fn first_open(&self) -> Option<Offset> {
        self.open.first_key_value().map(|(first, _)| *first)
    }

    fn check_room(&self, id: ProducerId) -> Result<(), ProducerError> {
        if self.open.len() >= self.limit.get() {
            return Err(ProducerError::TooManyProducers {
                id,
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// The state of a producer seen now, in `epoch`.
    fn enter(&mut self, id: ProducerId, epoch: ProducerEpoch, now: Timestamp) -> &mut Producer {
        self.make_room(id);
        let producer = self
            .producers
            .entry(id)
            .or_insert_with(|| Producer::new(epoch, now));
        producer.enter_epoch(epoch);
        // The clock may jump back; a producer must not look idle for it.
        producer.last_seen = producer.last_seen.max(now);
        producer
    }

    /// Forgets producers so that `id` finds room. Only a log written under a greater limit can leave none to forget;
    /// its open transactions are kept all the same.
    fn make_room(&mut self, id: ProducerId) {
        if self.producers.len() < self.limit.get() || self.producers.contains_key(&id) {
            return;
        }
        let mut idle: Vec<_> = self
            .producers
            .iter()
            .filter(|(_, producer)| producer.open_since.is_none())
            .map(|(id, producer)| {
                let last_offset = producer.batches.last().map(|last| last.last_offset);
                (producer.last_seen, last_offset, *id)
            })
            .collect();
        let over = self.producers.len() - self.limit.get();
        let share = (over + self.limit.get().div_ceil(FORGOTTEN_SHARE)).min(idle.len());
        if share > 0 {
            idle.select_nth_unstable(share - 1);
        }
        for (_, _, id) in &idle[..share] {
            self.producers.remove(id);
        }
    }
}

#[cfg(test)]
#[path = "producers_tests.rs"]
mod tests;
