//! Whole batches: one as a value, many back to back, and the records in one.
//!
//! ```text
//!  RecordBatch   [ header 61 ][ payload: records, or one compressed stream of them ]
//!  Batches       [ batch ][ batch ][ batch ][ bat        a partial tail ends the walk, it is not damage
//!                ^position                  ^end_position, trailing_len = 3
//!  Records       yields exactly `record_count` records, and the payload must then be used up
//! ```
//!
//! Invariants
//! - A [`RecordBatch`] has a sound header and as many bytes as it says. Its checksum holds only where someone looked:
//!   [`RecordBatch::verify_crc`].
//! - Records of a batch come in strictly growing offsets, none past the batch's last one.
//! - Reading an uncompressed batch copies nothing: keys and values share its bytes and keep them alive. A compressed one
//!   is decompressed whole, into at most the limit, and its records share that.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::codec::{Codec, DecompressLimit};
use super::control::ControlMarker;
use super::crc::{Crc32c, crc32c};
use super::damage::{Damage, RecordFault};
use super::header::{
    BatchHeader, CRC_START, HEADER_LEN, LENGTH_END, MAGIC_AT, MAGIC_V2, PREFIX_LEN, TimestampType,
    peek_batch_length, size_from_length,
};
use super::record::{RawRecord, Record};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// One whole batch; cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes `bytes` as exactly one batch. Neither checksum nor records are looked at.
    ///
    /// # Errors
    /// [`Damage`] when the header is unsound or the length another.
    pub fn parse(bytes: Bytes) -> Result<Self, Damage> {
        let header = BatchHeader::parse(&bytes)?;
        let (len, size_bytes) = (bytes.len(), header.size_bytes);
        match len.cmp(&size(&header)) {
            std::cmp::Ordering::Less => Err(Damage::CutOff { len, size_bytes }),
            std::cmp::Ordering::Equal => Ok(Self { header, bytes }),
            std::cmp::Ordering::Greater => Err(Damage::Trailing { len, size_bytes }),
        }
    }

    /// Joins a header and the payload it describes: sets size and checksum, and nothing else.
    /// `bytes` has room for the header in front.
    pub(super) fn seal(mut header: BatchHeader, mut bytes: Vec<u8>) -> Self {
        header.size_bytes = u32::try_from(bytes.len()).expect("whoever builds a batch bounds it");
        write_header(&mut header, &mut bytes);
        Self {
            header,
            bytes: bytes.into(),
        }
    }

    /// Returns the batch with another timestamp type and greatest timestamp. Copies only when others hold the bytes.
    pub(super) fn with_timestamps(
        self,
        timestamp_type: TimestampType,
        max_timestamp: Option<Timestamp>,
    ) -> Self {
        let mut header = self.header;
        header.timestamp_type = timestamp_type;
        header.max_timestamp = max_timestamp;
        let mut bytes = match self.bytes.try_into_mut() {
            Ok(bytes) => bytes,
            Err(shared) => BytesMut::from(&shared[..]),
        };
        write_header(&mut header, &mut bytes);
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }

    /// Returns a copy with the two fields that the server writes at the append.
    pub(super) fn stamped(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        let header = BatchHeader {
            base_offset,
            leader_epoch: Some(leader_epoch),
            ..self.header
        };
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[..PREFIX_LEN].copy_from_slice(&header.prefix());
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }

    /// Returns the decoded header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Returns the whole batch as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Checks the checksum against the bytes it covers: attributes to end.
    ///
    /// # Errors
    /// [`Damage::Crc`] when they differ.
    pub fn verify_crc(&self) -> Result<(), Damage> {
        verify_crc(self.header.crc, &self.bytes)
    }

    /// Returns the records in order. Decompresses at once, reads each record when it is asked for.
    ///
    /// # Errors
    /// [`Damage::Payload`] when the payload does not decompress, or to more than `limit`.
    pub fn records(&self, limit: DecompressLimit) -> Result<Records, Damage> {
        Ok(Records {
            header: self.header,
            payload: self.shared_payload(limit)?,
            walk: Walk::new(self.header.record_count),
            least_delta: 0,
        })
    }

    /// Returns the least and the greatest timestamp of the records, `None` when no record has one. Where the server gives
    /// the time, both are that time, and the records are not read.
    ///
    /// # Errors
    /// [`Damage`] when the payload does not decompress to at most `limit`, or a record is malformed.
    pub fn timestamps(&self, limit: DecompressLimit) -> Result<Option<(Timestamp, Timestamp)>, Damage> {
        if self.header.timestamp_type == TimestampType::LogAppendTime && self.header.record_count > 0 {
            return Ok(self.header.max_timestamp.map(|time| (time, time)));
        }
        let payload = self.payload(limit)?;
        let mut walk = Walk::new(self.header.record_count);
        let mut span: Option<(Timestamp, Timestamp)> = None;
        while let Some(record) = walk.next(&payload) {
            if let Some(time) = self.header.record_timestamp(record?.timestamp_delta) {
                span = Some(span.map_or((time, time), |(least, greatest)| {
                    (least.min(time), greatest.max(time))
                }));
            }
        }
        Ok(span)
    }

    /// Returns what a control batch says; `None` for a batch of records, and for a control batch that was emptied.
    ///
    /// # Errors
    /// [`Damage`] when the marker cannot be read.
    pub fn control_marker(&self) -> Result<Option<ControlMarker>, Damage> {
        if !self.header.is_control() {
            return Ok(None);
        }
        match self.records(ControlMarker::LIMIT)?.next() {
            Some(record) => ControlMarker::parse(&record?).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the records as they are encoded, to be looked at without a copy. Decompresses at once, into at most `limit`.
    ///
    /// # Errors
    /// [`Damage::Payload`] when the payload does not decompress, or to more than `limit`.
    pub fn open(&self, limit: DecompressLimit) -> Result<Payload<'_>, Damage> {
        Ok(Payload {
            header: self.header,
            bytes: self.payload(limit)?,
        })
    }

    /// Returns the encoded records, lent where they are not compressed.
    pub(super) fn payload(&self, limit: DecompressLimit) -> Result<Cow<'_, [u8]>, Damage> {
        Ok(self.header.codec.decompress(&self.bytes[HEADER_LEN..], limit)?)
    }

    fn shared_payload(&self, limit: DecompressLimit) -> Result<Bytes, Damage> {
        Ok(match self.payload(limit)? {
            Cow::Borrowed(_) => self.bytes.slice(HEADER_LEN..),
            Cow::Owned(payload) => payload.into(),
        })
    }
}

/// Puts `header` in front of the batch and gives both the checksum that results.
fn write_header(header: &mut BatchHeader, batch: &mut [u8]) {
    batch[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    header.crc = crc32c(&batch[CRC_START..]);
    batch[..HEADER_LEN].copy_from_slice(&header.to_bytes());
}

/// Checks `stored` against a whole batch.
pub(super) fn verify_crc(stored: u32, batch: &[u8]) -> Result<(), Damage> {
    let computed = crc32c(&batch[CRC_START..]);
    if stored == computed {
        Ok(())
    } else {
        Err(Damage::Crc { stored, computed })
    }
}

/// Checks the checksum of a batch that is read in parts: no memory need be given to a length before it is known to be true.
#[derive(Debug)]
pub struct PartwiseCheck {
    computed: Crc32c,
    stored: u32,
    /// Bytes at the start that the checksum does not cover and that are still to come.
    uncovered: usize,
}

impl PartwiseCheck {
    /// Begins with what the header says.
    pub fn of(header: &BatchHeader) -> Self {
        Self {
            computed: Crc32c::new(),
            stored: header.crc,
            uncovered: CRC_START,
        }
    }

    /// Takes the next part of the batch; the first begins with its header.
    pub fn add(&mut self, part: &[u8]) {
        let uncovered = self.uncovered.min(part.len());
        self.uncovered -= uncovered;
        self.computed.add(&part[uncovered..]);
    }

    /// Ends with the batch's last byte.
    ///
    /// # Errors
    /// [`Damage::Crc`], as of [`RecordBatch::verify_crc`].
    pub fn finish(self) -> Result<(), Damage> {
        let (stored, computed) = (self.stored, self.computed.finish());
        if stored == computed {
            Ok(())
        } else {
            Err(Damage::Crc { stored, computed })
        }
    }
}

/// The size of a batch as a length in memory.
fn size(header: &BatchHeader) -> usize {
    usize::try_from(header.size_bytes).expect("a batch is at most 2 GiB")
}

/// How much of a batch lies at the start of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// Not all of it, or nothing.
    Partial,
    /// All of it: this many bytes.
    Whole(usize),
}

/// Looks at the fields that say where the batch at the start of `bytes` ends.
pub(super) fn extent(bytes: &[u8]) -> Result<Extent, Damage> {
    let Some(batch_length) = peek_batch_length(bytes) else {
        return Ok(Extent::Partial);
    };
    if batch_length <= 0 {
        // Also what a file that was grown and never written holds.
        return Err(Damage::Length { batch_length });
    }
    match bytes.get(MAGIC_AT) {
        None => return Ok(Extent::Partial),
        Some(&magic) if magic.cast_signed() != MAGIC_V2 => {
            return Err(Damage::Magic {
                magic: magic.cast_signed(),
            });
        }
        Some(_) => {}
    }
    let size_bytes = usize::try_from(size_from_length(batch_length)?).expect("a batch is at most 2 GiB");
    if size_bytes <= bytes.len() {
        Ok(Extent::Whole(size_bytes))
    } else {
        Ok(Extent::Partial)
    }
}
const _: () = assert!(LENGTH_END < MAGIC_AT && MAGIC_AT < HEADER_LEN);

/// The batches of a stretch of a segment, in order, each with its position. Ends for good at the first damage.
#[derive(Debug)]
pub struct Batches {
    rest: Bytes,
    position: u64,
    state: WalkState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WalkState {
    Going,
    Over,
}

impl Batches {
    /// Walks `bytes`, which begin with a batch; `start_position` is where they lie in the segment.
    pub fn over(bytes: Bytes, start_position: u32) -> Self {
        Self {
            rest: bytes,
            position: u64::from(start_position),
            state: WalkState::Going,
        }
    }

    /// Returns where the batches read so far end: after the walk, the start of the partial tail or of the damage.
    pub fn end_position(&self) -> u64 {
        self.position
    }

    /// Returns how many bytes lie after the batches read so far: after a walk without damage, the length of the partial
    /// tail.
    pub fn trailing_len(&self) -> usize {
        self.rest.len()
    }

    fn next_batch(&mut self) -> Result<Option<(u32, RecordBatch)>, Damage> {
        let Extent::Whole(len) = extent(&self.rest)? else {
            return Ok(None);
        };
        let position = u32::try_from(self.position).map_err(|_| Damage::Position {
            position: self.position,
        })?;
        let batch = RecordBatch::parse(self.rest.slice(..len))?;
        self.rest = self.rest.slice(len..);
        self.position += u64::from(batch.header.size_bytes);
        Ok(Some((position, batch)))
    }
}

impl Iterator for Batches {
    type Item = Result<(u32, RecordBatch), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == WalkState::Over {
            return None;
        }
        let next = self.next_batch().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = WalkState::Over;
        }
        next
    }
}

/// A walk over the encoded records of a payload: exactly as many as promised, and nothing after them.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    position: usize,
    present: u32,
    count: u32,
    state: WalkState,
}

impl Walk {
    pub(super) fn new(count: u32) -> Self {
        Self {
            position: 0,
            present: 0,
            count,
            state: WalkState::Going,
        }
    }

    /// Returns the next record, or `None` at the end and after an error. `payload` is the same at every call.
    #[inline]
    pub(super) fn next(&mut self, payload: &[u8]) -> Option<Result<RawRecord, Damage>> {
        if self.state == WalkState::Over {
            return None;
        }
        let next = self.step(payload).transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = WalkState::Over;
        }
        next
    }

    #[inline]
    fn step(&mut self, payload: &[u8]) -> Result<Option<RawRecord>, Damage> {
        let Self {
            position,
            present,
            count,
            ..
        } = *self;
        match (present == count, payload.len() - position) {
            (true, 0) => return Ok(None),
            (true, len) => return Err(Damage::RecordsRemain { len }),
            (false, 0) => return Err(Damage::RecordsMissing { present, count }),
            (false, _) => {}
        }
        let record = RawRecord::parse(payload, position).map_err(|source| Damage::Record {
            index: present,
            source,
        })?;
        self.position = record.headers.end;
        self.present += 1;
        Ok(Some(record))
    }

    /// Checks that the record just read lies behind those before it and within its batch; if not, the walk is over.
    #[inline]
    fn order(&mut self, raw: &RawRecord, header: &BatchHeader, least_delta: &mut i64) -> Result<(), Damage> {
        let (delta, greatest) = (raw.offset_delta, header.last_offset_delta);
        let least = *least_delta;
        if i64::from(delta) < least || delta > greatest {
            self.state = WalkState::Over;
            return Err(Damage::Record {
                index: self.present - 1,
                source: RecordFault::OffsetDelta {
                    delta,
                    least,
                    greatest,
                },
            });
        }
        *least_delta = i64::from(delta) + 1;
        Ok(())
    }
}

/// The records of one batch, decompressed, for whoever looks at keys and leaves the rest alone.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    header: BatchHeader,
    bytes: Cow<'a, [u8]>,
}

impl Payload<'_> {
    /// Walks the records in order. Allocates nothing.
    pub fn glances(&self) -> Glances<'_> {
        Glances {
            header: &self.header,
            payload: &self.bytes,
            walk: Walk::new(self.header.record_count),
            least_delta: 0,
        }
    }
}

/// What can be seen of a record without a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time; the batch's append time where the server gives the time.
    pub timestamp: Option<Timestamp>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; a record without one is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Key, value and headers with their lengths, as they are encoded.
    pub(super) fields: &'a [u8],
}

/// The records of one batch as [`Glance`]s, in order. Ends for good at the first damage.
#[derive(Clone, Debug)]
pub struct Glances<'a> {
    header: &'a BatchHeader,
    payload: &'a [u8],
    walk: Walk,
    /// As in [`Records`].
    least_delta: i64,
}

impl<'a> Iterator for Glances<'a> {
    type Item = Result<Glance<'a>, Damage>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let raw = match self.walk.next(self.payload)? {
            Ok(raw) => raw,
            Err(damage) => return Some(Err(damage)),
        };
        if let Err(damage) = self.walk.order(&raw, self.header, &mut self.least_delta) {
            return Some(Err(damage));
        }
        let part = |range: &Range<usize>| &self.payload[range.clone()];
        Some(Ok(Glance {
            offset: self.header.base_offset + i64::from(raw.offset_delta),
            timestamp: self.header.record_timestamp(raw.timestamp_delta),
            key: raw.key.as_ref().map(part),
            value: raw.value.as_ref().map(part),
            fields: part(&raw.fields),
        }))
    }
}

/// The records of one batch, in order. Ends for good at the first damage.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    payload: Bytes,
    walk: Walk,
    /// The least offset delta the next record may have; after the greatest there is, one that none can have.
    least_delta: i64,
}

impl Records {
    fn build(&mut self, raw: &RawRecord) -> Result<Record, Damage> {
        self.walk.order(raw, &self.header, &mut self.least_delta)?;
        let delta = raw.offset_delta;
        let shared = |range: &Range<usize>| self.payload.slice(range.clone());
        Ok(Record {
            offset: self.header.base_offset + i64::from(delta),
            timestamp: self.header.record_timestamp(raw.timestamp_delta),
            key: raw.key.as_ref().map(shared),
            value: raw.value.as_ref().map(shared),
            headers: raw.headers(&self.payload),
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = self.walk.next(&self.payload)?;
        Some(raw.and_then(|raw| self.build(&raw)))
    }
}

impl Codec {
    /// Compresses `records` behind room for a header.
    pub(super) fn compress_behind_header(self, level: Option<i32>, records: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        self.compress(level, records, &mut bytes);
        bytes
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
