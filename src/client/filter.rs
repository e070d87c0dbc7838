//! Which records of a chunk count.
//!
//! A chunk is whole batches: the first may begin before what was asked for, the last may reach beyond, control batches
//! and records of aborted transactions lie between. Kafka's rule for the last: going through batches in order, from an
//! aborted transaction's first offset on, its producer's transactional batches are dropped, up to the producer's abort
//! marker.
//!
//! Invariants
//! - Batches are checked (CRC) before a record of them is shown, and before they are left out by what their header says.
//! - After damage nothing more comes of the chunk.
//!
//! What is not here: the connection, positions.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::Error;
use crate::record::{Batches, ControlMarker, Damage, DecompressLimit, Record, RecordBatch, Records};
use crate::types::{Offset, PartitionId, ProducerId, Timestamp, TopicName};

/// The most that one batch may decompress to.
const DECOMPRESSED_MAX: DecompressLimit = DecompressLimit(1 << 30);

/// The bounds of what was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) offsets: Range<Offset>,
    /// A bound on a side means that records without a timestamp are not asked for.
    pub(super) times: Range<Timestamp>,
}

impl Wanted {
    fn has(&self, record: &Record) -> bool {
        self.offsets.contains(&record.offset) && self.has_time(record.timestamp)
    }

    fn has_time(&self, timestamp: Option<Timestamp>) -> bool {
        let everything = self.times.start == Timestamp::MIN && self.times.end == Timestamp::MAX;
        everything || timestamp.is_some_and(|time| self.times.contains(&time))
    }
}

/// Offsets below which a partition may no longer hold everything that was written, because it is compacted.
///
/// ```
/// use siltstone::client::CompactedBelow;
/// use siltstone::types::Offset;
///
/// let compacted = CompactedBelow { records: Offset(90), tombstones: Offset(40) };
/// // Who kept a table up to offset 50 has seen every deletion, and not every record since.
/// assert!(!compacted.may_hide_deletions_from(Offset(50)));
/// assert!(compacted.may_hide_records_from(Offset(50)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompactedBelow {
    /// Records before it may have been replaced by newer ones of their key.
    pub records: Offset,
    /// Tombstones before it may be gone. Who keeps a table and stopped at an older offset may have missed a deletion, and has
    /// to begin anew; see [`CompactedBelow::may_hide_deletions_from`].
    pub tombstones: Offset,
}

impl CompactedBelow {
    /// Tells whether a reader that goes on at `resumed` may have missed a deletion. One that stood at the log's first offset has
    /// no table yet, and missed nothing.
    pub fn may_hide_deletions_from(&self, resumed: Offset) -> bool {
        resumed > Offset::ZERO && resumed < self.tombstones
    }

    /// Tells whether a reader that goes on at `resumed` does not see all that was written from there on.
    pub fn may_hide_records_from(&self, resumed: Offset) -> bool {
        resumed > Offset::ZERO && resumed < self.records
    }
}

/// A stretch of one partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ReadSpec;
///
/// let mut reader = client.read("flights", ReadSpec::default()).await?;
/// while let Some(chunk) = reader.next().await? {
///     println!("{} bytes of {}", chunk.batches().len(), chunk.partition());
///     println!("compacted below {}", chunk.compacted_below().records);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Chunk {
    partition: PartitionId,
    batches: Bytes,
    wanted: Wanted,
    /// Producer and first offset, ascending by offset.
    aborted: Vec<(ProducerId, Offset)>,
    compacted_below: CompactedBelow,
}

impl Chunk {
    pub(super) fn new(
        partition: PartitionId,
        batches: Bytes,
        wanted: Wanted,
        aborted: Vec<(i64, i64)>,
    ) -> Self {
        let mut aborted: Vec<_> = aborted
            .into_iter()
            .map(|(producer, first)| (ProducerId(producer), Offset(first)))
            .collect();
        aborted.sort_by_key(|(_, first)| *first);
        Self {
            partition,
            batches,
            wanted,
            aborted,
            compacted_below: CompactedBelow::default(),
        }
    }

    pub(super) fn told(self, compacted_below: CompactedBelow) -> Self {
        Self {
            compacted_below,
            ..self
        }
    }

    /// Returns the partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Returns the whole batches, back to back, unfiltered: the very bytes of the log.
    pub fn batches(&self) -> &Bytes {
        &self.batches
    }

    /// Returns what the partition may no longer hold, as of this chunk.
    pub fn compacted_below(&self) -> CompactedBelow {
        self.compacted_below
    }

    pub(super) fn records(&self, topic: &TopicName) -> ChunkRecords {
        ChunkRecords {
            topic: topic.clone(),
            partition: self.partition,
            bytes: self.batches.clone(),
            batches: Batches::over(self.batches.clone(), 0),
            at: None,
            records: None,
            wanted: self.wanted.clone(),
            to_come: self.aborted.iter().copied().collect(),
            aborted: BTreeSet::new(),
            over: Over::No,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Yes,
    No,
}

/// The records of a chunk that were asked for, in order.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ReadSpec;
///
/// let mut reader = client.read("flights", ReadSpec::default()).await?;
/// while let Some(chunk) = reader.next().await? {
///     for record in reader.records(&chunk) {
///         println!("{:?}", record?.value);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ChunkRecords {
    topic: TopicName,
    partition: PartitionId,
    bytes: Bytes,
    batches: Batches,
    /// Where the batch under way begins, once its header is read.
    at: Option<Offset>,
    records: Option<Records>,
    wanted: Wanted,
    /// Aborted transactions that begin further on.
    to_come: VecDeque<(ProducerId, Offset)>,
    /// Producers within an aborted transaction.
    aborted: BTreeSet<ProducerId>,
    over: Over,
}

/// What comes next of a chunk.
pub(super) enum Step {
    /// A record that was asked for.
    Record(Record),
    /// A batch that may have some: [`open_batch`] opens it, [`ChunkRecords::begin`] goes on with it.
    Batch(RecordBatch),
}

/// Reads the base offset that a batch begins with.
fn base_offset(batch: &[u8]) -> Option<Offset> {
    batch
        .first_chunk()
        .map(|bytes| Offset(i64::from_be_bytes(*bytes)))
}

/// Reads how long a batch is, with the two fields that its own length does not count.
fn len(batch: &[u8]) -> Option<usize> {
    let rest = u32::from_be_bytes(*batch.get(8..)?.first_chunk()?);
    usize::try_from(rest).ok()?.checked_add(12)
}

/// Checks a batch and decompresses it.
pub(super) fn open_batch(batch: &RecordBatch) -> Result<Records, Damage> {
    batch.verify_crc()?;
    batch.records(DECOMPRESSED_MAX)
}

impl ChunkRecords {
    /// Returns what comes next; after an error and at the end, nothing more.
    pub(super) fn advance(&mut self) -> Result<Option<Step>, Error> {
        if self.over == Over::Yes {
            return Ok(None);
        }
        let step = self.step();
        if !matches!(step, Ok(Some(_))) {
            self.over = Over::Yes;
        }
        step.map_err(|damage| self.damaged(damage))
    }

    /// Goes on with the batch that [`ChunkRecords::advance`] returned, opened.
    pub(super) fn begin(&mut self, opened: Result<Records, Damage>) -> Result<(), Error> {
        match opened {
            Ok(records) => {
                self.records = Some(records);
                Ok(())
            }
            Err(damage) => {
                self.over = Over::Yes;
                Err(self.damaged(damage))
            }
        }
    }

    fn damaged(&self, damage: Damage) -> Error {
        Error::DamagedBatch {
            topic: self.topic.clone(),
            partition: self.partition,
            lost: self.lost(),
            damage,
        }
    }

    /// The offsets of the batch under way that were asked for. How many it spans, what lies behind it says and not its own
    /// header, which may be damaged, too.
    fn lost(&self) -> Option<Range<Offset>> {
        let wanted = &self.wanted.offsets;
        let rest = self
            .bytes
            .get(usize::try_from(self.batches.end_position()).ok()?..)?;
        let (at, behind) = match self.at {
            Some(at) => (at, rest),
            // The walk ended before it. Where it begins and how long it is are not what is damaged, or it would not be here.
            None => (base_offset(rest)?, rest.get(len(rest)?..)?),
        };
        let end = base_offset(behind).unwrap_or(wanted.end).min(wanted.end);
        let lost = at.max(wanted.start)..end;
        (lost.start < lost.end).then_some(lost)
    }

    fn step(&mut self) -> Result<Option<Step>, Damage> {
        if let Some(records) = &mut self.records {
            for record in records {
                let record = record?;
                if self.wanted.has(&record) {
                    return Ok(Some(Step::Record(record)));
                }
            }
            self.records = None;
        }
        loop {
            self.at = None;
            match self.batches.next() {
                None if self.batches.trailing_len() > 0 => {
                    let rest = self.batches.trailing_len();
                    return Err(Damage::Short { len: rest });
                }
                None => return Ok(None),
                Some(batch) => {
                    let (_, batch) = batch?;
                    self.at = Some(batch.header().base_offset);
                    if self.counts(&batch)? {
                        return Ok(Some(Step::Batch(batch)));
                    }
                }
            }
        }
    }

    /// True when records of the batch may have been asked for; one that is left out is sound.
    fn counts(&mut self, batch: &RecordBatch) -> Result<bool, Damage> {
        let counts = self.may_count(batch)?;
        if !counts {
            batch.verify_crc()?;
        }
        Ok(counts)
    }

    fn may_count(&mut self, batch: &RecordBatch) -> Result<bool, Damage> {
        let header = batch.header();
        while let Some((producer, _)) = self
            .to_come
            .pop_front_if(|(_, first)| *first <= header.last_offset())
        {
            self.aborted.insert(producer);
        }
        if header.is_control() {
            let producer = header.producer.map(|stamp| stamp.id);
            let marker = batch.control_marker()?;
            if let (Some(producer), Some(ControlMarker::Abort { .. })) = (producer, marker) {
                self.aborted.remove(&producer);
            }
            return Ok(false);
        }
        let is_aborted = header.is_transactional()
            && header
                .producer
                .is_some_and(|stamp| self.aborted.contains(&stamp.id));
        let overlaps =
            header.base_offset < self.wanted.offsets.end && header.last_offset() >= self.wanted.offsets.start;
        Ok(overlaps && !is_aborted)
    }
}

impl Iterator for ChunkRecords {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.advance().transpose()? {
                Ok(Step::Record(record)) => return Some(Ok(record)),
                Ok(Step::Batch(batch)) => {
                    if let Err(error) = self.begin(open_batch(&batch)) {
                        return Some(Err(error));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
