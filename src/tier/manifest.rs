//! The manifest of a partition: which objects are its segments, in the bucket. A state, and the edits that move it.
//!
//! ```text
//! body of a delta                              body of a snapshot
//!  0 topic id, 16 bytes                         0 topic id, 16 bytes
//! 16 partition i32                             16 partition i32
//! 20 edits u32                                 20 log start i64
//! 24 edits: kind u8 and then                   28 segments u32
//!    1 added      segment                      32 segments: each as in an edit
//!    2 replaced   removed u32, object each;       waiting u32: object, since i64, each
//!                 added u32, segment each
//!    3 dropped    objects u32, object each     object:  base offset i64, epoch i32, attempt u64
//!    4 log start  offset i64                   segment: object, object bytes u64, footer bytes u32, footer CRC-32 u32,
//!    5 swept      objects u32, object each              flags u32 = 0, summary bytes u16,
//!                                                       summary (storage/format/segment_summary.rs)
//! ```
//!
//! A segment names its object, and by the CRC of the object's footer, which has the CRC of everything else, also its bytes.
//!
//! An object that is replaced or dropped **waits**: it stays in the bucket, for readers who hold an older state, until it is
//! removed and then swept from the list. So whatever lies in the bucket and is neither a segment nor waiting is an orphan, or
//! an upload on its way.
//!
//! Invariants
//! - Segments ascend by base offset and do not overlap. Holes between them are possible: a log may have lost a part, and a
//!   cleaned segment ends with its last record.
//! - The log start does not fall. Segments below it may still be there: they are dropped by an edit of their own.
//! - An object is in the list of segments or waits, never both; it never comes back.
//! - An edit that does not fit changes nothing.
//!
//! What is not here: numbers, writers and checksums ([`super::ledger_entry`]), finding the newest ([`super::ledger`]), and when
//! to drop or sweep.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{ObjectId, PartitionKey};
use super::ledger_entry::LedgerKind;
use super::state::{Contradiction, State};
use crate::storage::{Fields, SegmentSummary};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

const ADDED: u8 = 1;
const REPLACED: u8 = 2;
const DROPPED: u8 = 3;
const LOG_START: u8 = 4;
const SWEPT: u8 = 5;

/// A segment in the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TieredSegment {
    /// Which object it is.
    pub id: ObjectId,
    /// The object's length in bytes.
    pub object_bytes: u64,
    /// The footer's length in bytes.
    pub footer_len: u32,
    /// The footer's CRC-32.
    pub footer_crc: u32,
    /// Offsets, times and sizes.
    pub summary: SegmentSummary,
}

impl TieredSegment {
    /// Returns the offset after its last.
    pub fn next_offset(&self) -> Offset {
        self.summary.next_offset
    }

    fn encode(&self, into: &mut Vec<u8>) {
        encode_object(self.id, into);
        into.extend_from_slice(&self.object_bytes.to_be_bytes());
        into.extend_from_slice(&self.footer_len.to_be_bytes());
        into.extend_from_slice(&self.footer_crc.to_be_bytes());
        into.extend_from_slice(&[0; 4]);
        let mut summary = Vec::new();
        self.summary.encode(&mut summary);
        let len = u16::try_from(summary.len()).expect("a summary is at most a few KiB");
        into.extend_from_slice(&len.to_be_bytes());
        into.extend_from_slice(&summary);
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let id = decode_object(fields)?;
        let object_bytes = fields.u64()?;
        let footer_len = fields.u32()?;
        let footer_crc = fields.u32()?;
        fields.u32()?;
        let summary_len = usize::from(fields.u16()?);
        let summary = SegmentSummary::from_bytes(fields.bytes(summary_len)?)?;
        let sound = summary.base_offset == id.base && summary.next_offset > id.base;
        sound.then_some(Self {
            id,
            object_bytes,
            footer_len,
            footer_crc,
            summary,
        })
    }
}

/// An object that is no longer a segment and still in the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Which.
    pub id: ObjectId,
    /// Since when.
    pub since: Timestamp,
}

/// A change of the manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestEdit {
    /// A segment was uploaded, behind all others.
    Added(TieredSegment),
    /// The cleaner wrote these anew; the added ones lie within the offsets of the removed ones, or reach further where nothing is
    /// behind those: it put them together with segments that were not in the bucket yet.
    Replaced {
        /// What goes, neighbours.
        removed: Vec<ObjectId>,
        /// What comes; may be nothing.
        added: Vec<TieredSegment>,
    },
    /// Retention let these go.
    Dropped(Vec<ObjectId>),
    /// The log starts here from now on.
    LogStart(Offset),
    /// These were removed from the bucket.
    Swept(Vec<ObjectId>),
}

/// Which segments a partition has in the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    topic_id: TopicId,
    partition: PartitionId,
    log_start: Offset,
    segments: BTreeMap<Offset, Arc<TieredSegment>>,
    waiting: BTreeMap<ObjectId, Timestamp>,
}

impl Manifest {
    /// Makes the manifest of a partition of which nothing is in the bucket.
    pub fn empty(partition: &PartitionKey) -> Self {
        Self {
            topic_id: partition.topic_id,
            partition: partition.partition,
            log_start: Offset::ZERO,
            segments: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Returns the segments by base offset.
    pub fn segments(&self) -> &BTreeMap<Offset, Arc<TieredSegment>> {
        &self.segments
    }

    /// Returns the first offset of the partition.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Returns the offset after the last one in the bucket: where the next upload begins. The log start, when nothing is there.
    pub fn end(&self) -> Offset {
        let last = self.segments.last_key_value();
        last.map_or(self.log_start, |(_, segment)| segment.next_offset())
    }

    /// Returns the objects that wait to be removed, by key.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.waiting.iter().map(|(&id, &since)| Waiting { id, since })
    }

    /// Returns the first segment that ends after `offset`.
    pub fn segment_at(&self, offset: Offset) -> Option<&Arc<TieredSegment>> {
        let before = self.segments.range(..=offset).next_back();
        before
            .map(|(_, segment)| segment)
            .filter(|segment| segment.next_offset() > offset)
            .or_else(|| self.segments.range(offset..).next().map(|(_, segment)| segment))
    }

    fn empty_like(other: &Self) -> Self {
        Self {
            topic_id: other.topic_id,
            partition: other.partition,
            log_start: Offset::ZERO,
            segments: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn add(&mut self, segment: TieredSegment) -> Result<(), Contradiction> {
        let next = self.end();
        let is_first = self.segments.is_empty();
        if (segment.id.base < next && !is_first) || self.waiting.contains_key(&segment.id) {
            return Err(Contradiction(format!(
                "segment {} does not lie behind offset {next}",
                segment.id
            )));
        }
        self.segments.insert(segment.id.base, Arc::new(segment));
        Ok(())
    }

    fn replace(
        &mut self,
        removed: &[ObjectId],
        added: Vec<TieredSegment>,
        at: Timestamp,
    ) -> Result<(), Contradiction> {
        let mut next = self.clone();
        let (Some(first), Some(last)) = (removed.first(), removed.last()) else {
            return Err(Contradiction("nothing is replaced".to_owned()));
        };
        let is_there = next.segments.get(&last.base);
        let is_last = next
            .segments
            .last_key_value()
            .is_some_and(|(base, _)| *base == last.base);
        let end = is_there.map(|segment| {
            if is_last {
                Offset::MAX
            } else {
                segment.next_offset()
            }
        });
        let between = next
            .segments
            .range(first.base..=last.base.max(first.base))
            .map(|(_, segment)| segment.id);
        let (Some(end), true) = (end, between.eq(removed.iter().copied())) else {
            return Err(Contradiction(format!("segments from {first} on are not there")));
        };
        next.drop_all(removed, at)?;
        let mut from = first.base;
        for segment in added {
            if segment.id.base < from || segment.next_offset() > end || next.waiting.contains_key(&segment.id)
            {
                return Err(Contradiction(format!(
                    "segment {} does not fit into offsets {from} to {end}",
                    segment.id
                )));
            }
            from = segment.next_offset();
            next.segments.insert(segment.id.base, Arc::new(segment));
        }
        *self = next;
        Ok(())
    }

    fn drop_all(&mut self, ids: &[ObjectId], at: Timestamp) -> Result<(), Contradiction> {
        let is_there = |id: &ObjectId| self.segments.get(&id.base).is_some_and(|found| found.id == *id);
        let mut seen = ids.to_vec();
        seen.sort();
        seen.dedup();
        if seen.len() != ids.len() || !ids.iter().all(is_there) {
            return Err(Contradiction("a dropped segment is not there".to_owned()));
        }
        for id in ids {
            self.segments.remove(&id.base);
            self.waiting.insert(*id, at);
        }
        Ok(())
    }
}

impl State for Manifest {
    type Edit = ManifestEdit;
    const KIND: LedgerKind = LedgerKind::Manifest;

    fn apply(&mut self, edit: ManifestEdit, at: Timestamp) -> Result<(), Contradiction> {
        match edit {
            ManifestEdit::Added(segment) => self.add(segment),
            ManifestEdit::Replaced { removed, added } => self.replace(&removed, added, at),
            ManifestEdit::Dropped(ids) => self.drop_all(&ids, at),
            ManifestEdit::LogStart(offset) if offset < self.log_start => Err(Contradiction(format!(
                "the log start falls from {} to {offset}",
                self.log_start
            ))),
            ManifestEdit::LogStart(offset) => {
                self.log_start = offset;
                Ok(())
            }
            ManifestEdit::Swept(ids) => {
                if !ids.iter().all(|id| self.waiting.contains_key(id)) {
                    return Err(Contradiction("a swept object does not wait".to_owned()));
                }
                for id in &ids {
                    self.waiting.remove(id);
                }
                Ok(())
            }
        }
    }

    fn encode_edits(&self, edits: &[ManifestEdit]) -> Vec<u8> {
        let mut into = Vec::new();
        into.extend_from_slice(&self.topic_id.0);
        into.extend_from_slice(&self.partition.0.to_be_bytes());
        put_count(edits.len(), &mut into);
        for edit in edits {
            encode_edit(edit, &mut into);
        }
        into
    }

    fn decode_edits(&self, body: &[u8]) -> Option<Vec<ManifestEdit>> {
        let mut fields = Fields(body);
        self.check_owner(&mut fields)?;
        let edits = decode_all(&mut fields, decode_edit)?;
        fields.is_empty().then_some(edits)
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let mut into = Vec::new();
        into.extend_from_slice(&self.topic_id.0);
        into.extend_from_slice(&self.partition.0.to_be_bytes());
        into.extend_from_slice(&self.log_start.0.to_be_bytes());
        put_count(self.segments.len(), &mut into);
        for segment in self.segments.values() {
            segment.encode(&mut into);
        }
        put_count(self.waiting.len(), &mut into);
        for waiting in self.waiting() {
            encode_object(waiting.id, &mut into);
            into.extend_from_slice(&waiting.since.0.to_be_bytes());
        }
        into
    }

    fn decode_snapshot(&self, body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        self.check_owner(&mut fields)?;
        let mut manifest = Self {
            log_start: Offset(fields.i64()?),
            ..Self::empty_like(self)
        };
        for segment in decode_all(&mut fields, TieredSegment::decode)? {
            manifest.add(segment).ok()?;
        }
        let waiting = decode_all(&mut fields, |fields| {
            Some((decode_object(fields)?, Timestamp(fields.i64()?)))
        })?;
        for (id, since) in waiting {
            let is_segment = manifest
                .segments
                .get(&id.base)
                .is_some_and(|found| found.id == id);
            if is_segment || manifest.waiting.insert(id, since).is_some() {
                return None;
            }
        }
        (fields.is_empty() && manifest.log_start >= Offset::ZERO).then_some(manifest)
    }
}

impl Manifest {
    fn check_owner(&self, fields: &mut Fields<'_>) -> Option<()> {
        let (topic_id, partition) = (TopicId(fields.array()?), PartitionId(fields.i32()?));
        (topic_id == self.topic_id && partition == self.partition).then_some(())
    }
}

fn put_count(count: usize, into: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("what fits an object of 256 MiB fits 32 bits");
    into.extend_from_slice(&count.to_be_bytes());
}

/// Reads a count and so many items, each of at least one byte: what is not there is not made room for.
fn decode_all<T>(fields: &mut Fields<'_>, decode: impl Fn(&mut Fields<'_>) -> Option<T>) -> Option<Vec<T>> {
    let count = fields.u32()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(decode(fields)?);
    }
    Some(items)
}

fn encode_object(id: ObjectId, into: &mut Vec<u8>) {
    into.extend_from_slice(&id.base.0.to_be_bytes());
    into.extend_from_slice(&id.epoch.0.to_be_bytes());
    into.extend_from_slice(&id.attempt.to_be_bytes());
}

fn decode_object(fields: &mut Fields<'_>) -> Option<ObjectId> {
    let id = ObjectId {
        base: Offset(fields.i64()?),
        epoch: LeaderEpoch(fields.i32()?),
        attempt: fields.u64()?,
    };
    (id.base >= Offset::ZERO && id.epoch.0 >= 0).then_some(id)
}

fn encode_edit(edit: &ManifestEdit, into: &mut Vec<u8>) {
    let objects = |ids: &[ObjectId], into: &mut Vec<u8>| {
        put_count(ids.len(), into);
        ids.iter().for_each(|&id| encode_object(id, into));
    };
    match edit {
        ManifestEdit::Added(segment) => {
            into.push(ADDED);
            segment.encode(into);
        }
        ManifestEdit::Replaced { removed, added } => {
            into.push(REPLACED);
            objects(removed, into);
            put_count(added.len(), into);
            added.iter().for_each(|segment| segment.encode(into));
        }
        ManifestEdit::Dropped(ids) => {
            into.push(DROPPED);
            objects(ids, into);
        }
        ManifestEdit::LogStart(offset) => {
            into.push(LOG_START);
            into.extend_from_slice(&offset.0.to_be_bytes());
        }
        ManifestEdit::Swept(ids) => {
            into.push(SWEPT);
            objects(ids, into);
        }
    }
}

fn decode_edit(fields: &mut Fields<'_>) -> Option<ManifestEdit> {
    Some(match fields.u8()? {
        ADDED => ManifestEdit::Added(TieredSegment::decode(fields)?),
        REPLACED => ManifestEdit::Replaced {
            removed: decode_all(fields, decode_object)?,
            added: decode_all(fields, TieredSegment::decode)?,
        },
        DROPPED => ManifestEdit::Dropped(decode_all(fields, decode_object)?),
        LOG_START => ManifestEdit::LogStart(Offset(fields.i64()?)),
        SWEPT => ManifestEdit::Swept(decode_all(fields, decode_object)?),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
