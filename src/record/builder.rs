//! The one builder of batches: for plain records, and for what the cleaner keeps of a batch.
//!
//! ```text
//!  append, append, append ...          build
//!  [ room for a header ][ record ][ record ]  --none--> header filled in, nothing copied
//!                                             --codec-> [ header ][ compressed ]
//! ```
//!
//! Invariants
//! - [`BatchBuilder`] numbers its records from 0 without gaps; the result stands for offset 0, as a client sends it.
//! - [`BatchRebuild`] changes which records a batch has and, for once, when its tombstones may go. Offsets, sequences,
//!   producer, leader epoch, flags, codec and timestamp type stay as they were.
//! - A batch never exceeds what its 32-bit length field can say.

use super::accepted::Accepted;
use super::batch::{Glance, RecordBatch, Walk};
use super::codec::Codec;
use super::damage::Damage;
use super::header::{
    BatchHeader, Flags, HEADER_LEN, ProducerStamp, SIZE_MAX_BYTES, TimestampType, raw_timestamp,
};
use super::record::Header;
use super::varint;
use crate::types::{Offset, Timestamp};

/// Who gives the records of a new batch their time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stamping {
    /// Each record comes with its own.
    #[default]
    CreateTime,
    /// All read as this one, the time of the append.
    LogAppendTime(Timestamp),
}

/// Whether a new batch belongs to its producer's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Transactional {
    /// It stands for itself.
    #[default]
    No,
    /// It counts when the transaction commits; the batch must name its producer.
    Yes,
}

/// What a new batch is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchOptions {
    /// How its records are compressed.
    pub codec: Codec,
    /// One of [`Codec::levels`], or the codec's default.
    pub level: Option<i32>,
    /// Who gives the time.
    pub stamping: Stamping,
    /// The idempotent producer that writes it.
    pub producer: Option<ProducerStamp>,
    /// Whether it belongs to the producer's transaction.
    pub transactional: Transactional,
}

/// Builds a batch of plain records.
#[derive(Debug)]
pub struct BatchBuilder {
    encoder: Encoder,
    level: Option<i32>,
    header: BatchHeader,
}

impl BatchBuilder {
    /// Begins a batch.
    pub fn new(options: BatchOptions) -> Self {
        Self::with_flags(options, Flags::NONE)
    }

    pub(super) fn with_flags(options: BatchOptions, flags: Flags) -> Self {
        let (timestamp_type, max_timestamp) = match options.stamping {
            Stamping::CreateTime => (TimestampType::CreateTime, None),
            Stamping::LogAppendTime(at) => (TimestampType::LogAppendTime, Some(at)),
        };
        Self {
            encoder: Encoder::new(None),
            level: options.level,
            header: BatchHeader {
                base_offset: Offset::ZERO,
                size_bytes: 0,
                leader_epoch: None,
                crc: 0,
                codec: options.codec,
                timestamp_type,
                last_offset_delta: 0,
                base_timestamp: None,
                max_timestamp,
                producer: options.producer,
                record_count: 0,
                flags: match options.transactional {
                    Transactional::No => flags,
                    Transactional::Yes => flags.with(Flags::TRANSACTIONAL),
                },
            },
        }
    }

    /// Adds a record. Without a value it is a tombstone.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`] when the batch would exceed the format; it is then as before.
    pub fn append(
        &mut self,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), BuildError> {
        let offset_delta = i32::try_from(self.encoder.count).map_err(|_| BuildError::TooManyRecords)?;
        self.encoder.push(&NewRecord {
            offset_delta,
            timestamp,
            key,
            value,
            headers,
        })
    }

    /// Makes room for a batch of `bytes` before compression at once, rather than as it grows.
    pub fn reserve(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.encoder.bytes.len());
        self.encoder.bytes.reserve_exact(more);
    }

    /// Returns the size of the batch so far in bytes, before compression: exact without a codec, else mostly far above.
    pub fn size_bytes(&self) -> usize {
        self.encoder.bytes.len()
    }

    /// Returns how many records were added.
    pub fn record_count(&self) -> u32 {
        self.encoder.count
    }

    /// Returns the least number of bytes that [`append`](Self::append) with these parts may add, at most 30 too few:
    /// a client asks before it adds to a batch that is nearly full.
    pub fn record_len(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
        let record = NewRecord {
            offset_delta: 0,
            timestamp: None,
            key,
            value,
            headers,
        };
        let body = record.body_len(0);
        body + i32::try_from(body).map_or(varint::MAX_LEN_32, varint::len_i32)
    }

    /// Finishes the batch.
    ///
    /// # Errors
    /// [`BuildError::Empty`] without a record, [`BuildError::TooLarge`] when compression made it exceed the format.
    pub fn build(self) -> Result<Accepted, BuildError> {
        let Self {
            encoder,
            level,
            mut header,
        } = self;
        let last = encoder.count.checked_sub(1).ok_or(BuildError::Empty)?;
        header.last_offset_delta = i32::try_from(last).map_err(|_| BuildError::TooManyRecords)?;
        header.record_count = encoder.count;
        header.base_timestamp = encoder.base_timestamp.flatten();
        let mut span = encoder.span;
        match header.timestamp_type {
            TimestampType::CreateTime => header.max_timestamp = span.map(|(_, greatest)| greatest),
            TimestampType::LogAppendTime => span = header.max_timestamp.map(|at| (at, at)),
        }
        let batch = seal(header, level, encoder.bytes)?;
        Ok(Accepted::built(batch, span))
    }
}

/// Builds what the cleaner keeps of a batch.
#[derive(Debug)]
pub struct BatchRebuild {
    encoder: Encoder,
    header: BatchHeader,
}

impl BatchRebuild {
    /// Begins a batch that stands in for the one with `header`. `delete_horizon` is the time from which its tombstones, or
    /// its marker, may go; a horizon that the batch already has stays when it is `None`.
    pub fn of(header: &BatchHeader, delete_horizon: Option<Timestamp>) -> Self {
        let mut header = *header;
        if delete_horizon.is_some() {
            header.flags = header.flags.with(Flags::DELETE_HORIZON);
            header.base_timestamp = delete_horizon;
        } else if header.delete_horizon().is_none() {
            // A flag without a time would turn the first record's timestamp into a horizon.
            header.flags = header.flags.without(Flags::DELETE_HORIZON);
        }
        let mut encoder = Encoder::new(header.delete_horizon());
        // Without a codec no more than there was is kept.
        encoder.bytes.reserve_exact(size_hint(&header));
        Self { encoder, header }
    }

    /// Begins a batch that stands in for a part of the one with `header`: for its `offsets`, which are not empty. Its sequence
    /// is that of its first offset, so parts one behind the other say together what the whole said.
    pub fn part_of(
        header: &BatchHeader,
        offsets: std::ops::Range<Offset>,
        delete_horizon: Option<Timestamp>,
    ) -> Result<Self, BuildError> {
        let delta = |offset: Offset| {
            let delta = offset.0.checked_sub(header.base_offset.0);
            let delta = delta.and_then(|delta| i32::try_from(delta).ok());
            delta
                .filter(|delta| (0..=header.last_offset_delta).contains(delta))
                .ok_or(BuildError::Foreign { offset })
        };
        let first = delta(offsets.start)?;
        let last = delta(Offset(offsets.end.0.saturating_sub(1)))?;
        let mut part = *header;
        part.base_offset = offsets.start;
        part.last_offset_delta = last
            .checked_sub(first)
            .filter(|count| *count >= 0)
            .ok_or(BuildError::Foreign { offset: offsets.end })?;
        if let Some(producer) = &mut part.producer {
            producer.base_sequence = producer.base_sequence.map(|sequence| sequence.plus(first));
        }
        Ok(Self::of(&part, delete_horizon))
    }

    /// Returns how many bytes the records kept so far take before compression.
    pub fn payload_len(&self) -> usize {
        self.encoder.bytes.len() - HEADER_LEN
    }

    /// Keeps a record of the batch; records come in the order in which the batch had them.
    ///
    /// # Errors
    /// [`BuildError::Foreign`] when its offset does not grow or is none of the batch's, [`BuildError::TooLarge`] when the
    /// batch would exceed the format.
    pub fn keep(&mut self, record: &Glance<'_>) -> Result<(), BuildError> {
        let offset_delta = record
            .offset
            .0
            .checked_sub(self.header.base_offset.0)
            .and_then(|delta| i32::try_from(delta).ok())
            .filter(|delta| (self.encoder.least_delta..=self.header.last_offset_delta).contains(delta))
            .ok_or(BuildError::Foreign {
                offset: record.offset,
            })?;
        self.encoder.push_encoded(offset_delta, record)
    }

    /// Returns how many records are kept so far.
    pub fn record_count(&self) -> u32 {
        self.encoder.count
    }

    /// Finishes the batch. Without a record it becomes an emptied one: a header alone, which keeps its place, its producer's
    /// state and its greatest timestamp, but no codec and no delete horizon.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`] when compression made it exceed the format.
    pub fn build(self) -> Result<RecordBatch, BuildError> {
        let Self { encoder, mut header } = self;
        header.record_count = encoder.count;
        match encoder.base_timestamp {
            Some(base_timestamp) if encoder.count > 0 => {
                header.base_timestamp = base_timestamp;
                if header.timestamp_type == TimestampType::CreateTime {
                    header.max_timestamp = encoder.span.map(|(_, greatest)| greatest);
                }
            }
            _ => {
                header.codec = Codec::None;
                header.flags = header.flags.without(Flags::DELETE_HORIZON);
                header.base_timestamp = None;
            }
        }
        seal(header, None, encoder.bytes)
    }
}

/// Bytes that a batch which replaces the one with `header` mostly needs behind its own header.
fn size_hint(header: &BatchHeader) -> usize {
    let size = usize::try_from(header.size_bytes).unwrap_or(HEADER_LEN);
    size.saturating_sub(HEADER_LEN)
}

fn fits_batch(len: usize) -> bool {
    u32::try_from(len).is_ok_and(|len| len <= SIZE_MAX_BYTES)
}

/// Compresses the records in `bytes`, which lie behind room for a header, and puts the header in front.
fn seal(header: BatchHeader, level: Option<i32>, bytes: Vec<u8>) -> Result<RecordBatch, BuildError> {
    let bytes = match header.codec {
        Codec::None => bytes,
        codec => codec.compress_behind_header(level, &bytes[HEADER_LEN..]),
    };
    if !fits_batch(bytes.len()) {
        return Err(BuildError::TooLarge { len: bytes.len() });
    }
    Ok(RecordBatch::seal(header, bytes))
}

/// Returns `payload`, a batch's `count` encoded records, with offset deltas 0, 1, 2 ....
pub(super) fn renumbered(payload: &[u8], count: u32) -> Result<Vec<u8>, Damage> {
    let mut bytes = Vec::with_capacity(payload.len());
    let mut walk = Walk::new(count);
    let mut offset_delta = 0;
    while let Some(record) = walk.next(payload) {
        let record = record?;
        let fields = &payload[record.fields];
        let body_len =
            1 + varint::len_i64(record.timestamp_delta) + varint::len_i32(offset_delta) + fields.len();
        varint::write_i32(&mut bytes, length_of(body_len));
        bytes.push(0);
        varint::write_i64(&mut bytes, record.timestamp_delta);
        varint::write_i32(&mut bytes, offset_delta);
        bytes.extend_from_slice(fields);
        offset_delta += 1;
    }
    Ok(bytes)
}

/// A record on its way into a batch.
struct NewRecord<'a> {
    offset_delta: i32,
    timestamp: Option<Timestamp>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [Header],
}

impl NewRecord<'_> {
    /// Bytes of the record after its length field.
    fn body_len(&self, timestamp_delta: i64) -> usize {
        let attributes_len = 1;
        let headers_len: usize = self
            .headers
            .iter()
            .map(|header| field_len(Some(&header.key)) + field_len(header.value.as_deref()))
            .sum();
        attributes_len
            + varint::len_i64(timestamp_delta)
            + varint::len_i32(self.offset_delta)
            + field_len(self.key)
            + field_len(self.value)
            + varint::len_i32(length_of(self.headers.len()))
            + headers_len
    }

    fn write(&self, timestamp_delta: i64, body_len: usize, out: &mut Vec<u8>) {
        varint::write_i32(out, length_of(body_len));
        out.push(0);
        varint::write_i64(out, timestamp_delta);
        varint::write_i32(out, self.offset_delta);
        write_field(out, self.key);
        write_field(out, self.value);
        varint::write_i32(out, length_of(self.headers.len()));
        for header in self.headers {
            write_field(out, Some(&header.key));
            write_field(out, header.value.as_deref());
        }
    }
}

/// A length as the format has it. One that does not fit stands as the greatest: such a record is refused for its size before
/// it is written.
fn length_of(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |field| varint::len_i32(length_of(field.len())) + field.len())
}

fn write_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::write_i32(out, -1),
        Some(field) => {
            varint::write_i32(out, length_of(field.len()));
            out.extend_from_slice(field);
        }
    }
}

/// Records as they are encoded, behind room for a header.
#[derive(Debug)]
struct Encoder {
    bytes: Vec<u8>,
    count: u32,
    /// What timestamps count from: the delete horizon, else the first record's; unknown before that one.
    base_timestamp: Option<Option<Timestamp>>,
    /// Least and greatest timestamp so far.
    span: Option<(Timestamp, Timestamp)>,
    /// The least offset delta the next record may have.
    least_delta: i32,
}

impl Encoder {
    fn new(delete_horizon: Option<Timestamp>) -> Self {
        Self {
            bytes: vec![0; HEADER_LEN],
            count: 0,
            base_timestamp: delete_horizon.map(Some),
            span: None,
            least_delta: 0,
        }
    }

    fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BuildError> {
        let timestamp_delta = self.timestamp_delta(record.timestamp);
        let body_len = record.body_len(timestamp_delta);
        self.make_room(body_len)?;
        record.write(timestamp_delta, body_len, &mut self.bytes);
        self.pushed(record.offset_delta, record.timestamp);
        Ok(())
    }

    /// Adds a record of another batch; what does not depend on the batch is copied as it is encoded.
    fn push_encoded(&mut self, offset_delta: i32, record: &Glance<'_>) -> Result<(), BuildError> {
        let timestamp_delta = self.timestamp_delta(record.timestamp);
        let body_len =
            1 + varint::len_i64(timestamp_delta) + varint::len_i32(offset_delta) + record.fields.len();
        self.make_room(body_len)?;
        varint::write_i32(&mut self.bytes, length_of(body_len));
        self.bytes.push(0);
        varint::write_i64(&mut self.bytes, timestamp_delta);
        varint::write_i32(&mut self.bytes, offset_delta);
        self.bytes.extend_from_slice(record.fields);
        self.pushed(offset_delta, record.timestamp);
        Ok(())
    }

    /// What stands for the record's time, counted from the batch's. Wraps, as readers do when they add the two.
    fn timestamp_delta(&self, timestamp: Option<Timestamp>) -> i64 {
        let base_timestamp = self.base_timestamp.unwrap_or(timestamp);
        raw_timestamp(timestamp).wrapping_sub(raw_timestamp(base_timestamp))
    }

    fn make_room(&mut self, body_len: usize) -> Result<(), BuildError> {
        let len = self
            .bytes
            .len()
            .saturating_add(varint::MAX_LEN_32)
            .saturating_add(body_len);
        if !fits_batch(len) {
            return Err(BuildError::TooLarge { len });
        }
        self.bytes.reserve(varint::MAX_LEN_32 + body_len);
        Ok(())
    }

    fn pushed(&mut self, offset_delta: i32, timestamp: Option<Timestamp>) {
        self.base_timestamp = self.base_timestamp.or(Some(timestamp));
        self.count += 1;
        self.least_delta = offset_delta.saturating_add(1);
        if let Some(time) = timestamp {
            self.span = Some(self.span.map_or((time, time), |(least, greatest)| {
                (least.min(time), greatest.max(time))
            }));
        }
    }
}

/// Why records do not make a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BuildError {
    /// The format cannot hold so much.
    #[error("a record batch of {len} bytes exceeds the format's {SIZE_MAX_BYTES}")]
    TooLarge {
        /// What it would take.
        len: usize,
    },
    /// The format cannot count so many.
    #[error("a record batch holds at most 2147483647 records")]
    TooManyRecords,
    /// There is none.
    #[error("a record batch has at least one record")]
    Empty,
    /// The record to keep is not one of the batch's, or not in order.
    #[error("offset {offset} is not one of the batch's, or out of order")]
    Foreign {
        /// The record's offset.
        offset: Offset,
    },
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
