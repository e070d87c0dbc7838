//! The 61-byte header of a record batch, format version 2.
//!
//! ```text
//!   0 base offset        i64 \
//!   8 batch length       i32  | the prefix: written by the server, outside the CRC.
//!  12 leader epoch       i32 /  length counts the bytes after itself, the batch has 12 more
//!  16 magic              i8     2
//!  17 crc                u32    CRC-32C of bytes 21 to the end
//!  21 attributes         i16    bits 0-2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon
//!  23 last offset delta  i32
//!  27 base timestamp     i64    of the first record; with bit 6, the delete horizon
//!  35 max timestamp      i64
//!  43 producer id        i64
//!  51 producer epoch     i16
//!  53 base sequence      i32
//!  57 record count       i32
//!  61 records
//! ```
//!
//! All big-endian; -1 stands for "none" and becomes `None` here.
//!
//! Invariants of a [`BatchHeader`]: `size_bytes >= 61`; `base_offset >= 0`; `last_offset_delta >= 0` and the last offset
//! exists. What the header says of its records (count, greatest timestamp, crc) is not checked here.

use std::ops::Range;

use super::codec::Codec;
use super::damage::Damage;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Bytes at the front that the server writes when it appends: base offset, batch length, leader epoch.
pub const PREFIX_LEN: usize = 16;
/// The greatest batch: what readers can count in a signed 32-bit number.
pub(super) const SIZE_MAX_BYTES: u32 = 0x7FFF_FFFF;
/// Bytes that the batch length field does not count.
pub(super) const LENGTH_END: usize = BATCH_LENGTH.end;
const LENGTH_END_BYTES: u32 = 12;
const HEADER_LEN_BYTES: u32 = 61;
const _: () = assert!(LENGTH_END_BYTES as usize == LENGTH_END && HEADER_LEN_BYTES as usize == HEADER_LEN);
/// Where the bytes covered by the CRC begin.
pub(super) const CRC_START: usize = ATTRIBUTES.start;
/// Where the magic byte lies.
pub(super) const MAGIC_AT: usize = MAGIC.start;
/// The only format version.
pub(super) const MAGIC_V2: i8 = 2;

const BASE_OFFSET: Range<usize> = 0..8;
const BATCH_LENGTH: Range<usize> = 8..12;
const LEADER_EPOCH: Range<usize> = 12..16;
const MAGIC: Range<usize> = 16..17;
const CRC: Range<usize> = 17..21;
const ATTRIBUTES: Range<usize> = 21..23;
const LAST_OFFSET_DELTA: Range<usize> = 23..27;
const BASE_TIMESTAMP: Range<usize> = 27..35;
const MAX_TIMESTAMP: Range<usize> = 35..43;
const PRODUCER_ID: Range<usize> = 43..51;
const PRODUCER_EPOCH: Range<usize> = 51..53;
const BASE_SEQUENCE: Range<usize> = 53..57;
const RECORD_COUNT: Range<usize> = 57..61;
const _: () = assert!(LEADER_EPOCH.end == PREFIX_LEN && RECORD_COUNT.end == HEADER_LEN);
const _: () =
    assert!(CRC.start == MAGIC.end && ATTRIBUTES.start == CRC.end && PRODUCER_ID.end == PRODUCER_EPOCH.start);

const CODEC_MASK: u16 = 0b111;
const LOG_APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;
const DELETE_HORIZON: u16 = 1 << 6;

/// Who gave a batch's records their time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TimestampType {
    /// The producer: every record has its own.
    #[default]
    CreateTime,
    /// The server, at the append: all records read as the batch's greatest timestamp.
    LogAppendTime,
}

/// The idempotent producer that wrote a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerStamp {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of the batch's first record; none in a transaction marker.
    pub base_sequence: Option<Sequence>,
}

/// The flags of the attributes that are neither codec nor timestamp type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Flags(u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    pub(super) const TRANSACTIONAL: Self = Self(TRANSACTIONAL);
    pub(super) const CONTROL: Self = Self(CONTROL);
    pub(super) const DELETE_HORIZON: Self = Self(DELETE_HORIZON);

    pub(super) fn contains(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub(super) fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    pub(super) fn without(self, flag: Self) -> Self {
        Self(self.0 & !flag.0)
    }
}

/// The header of a batch, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Offset from which the records count; 0 until the server assigns one.
    pub base_offset: Offset,
    /// Bytes of the whole batch.
    pub size_bytes: u32,
    /// The server start under which it was appended.
    pub leader_epoch: Option<LeaderEpoch>,
    /// CRC-32C as stored.
    pub crc: u32,
    /// How the records are compressed.
    pub codec: Codec,
    /// Who gave the records their time.
    pub timestamp_type: TimestampType,
    /// Last offset less base offset; kept when the cleaner drops records.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp: Option<Timestamp>,
    /// The greatest timestamp of the records.
    pub max_timestamp: Option<Timestamp>,
    /// The idempotent producer, if one wrote it.
    pub producer: Option<ProducerStamp>,
    /// Number of records; 0 only after the cleaner emptied the batch.
    pub record_count: u32,
    pub(super) flags: Flags,
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`; the records need not be there.
    ///
    /// # Errors
    /// [`Damage`] names the first field that cannot be true.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Damage::Short { len: bytes.len() });
        };
        let magic = i8::from_be_bytes(field(header, MAGIC));
        if magic != MAGIC_V2 {
            return Err(Damage::Magic { magic });
        }
        let attributes = u16::from_be_bytes(field(header, ATTRIBUTES));
        let base_offset = i64::from_be_bytes(field(header, BASE_OFFSET));
        let last_offset_delta = i32::from_be_bytes(field(header, LAST_OFFSET_DELTA));
        let exists = base_offset.checked_add(i64::from(last_offset_delta)).is_some();
        if base_offset < 0 || last_offset_delta < 0 || !exists {
            return Err(Damage::Offsets {
                base_offset,
                last_offset_delta,
            });
        }
        let count = i32::from_be_bytes(field(header, RECORD_COUNT));
        let bits = attributes & CODEC_MASK;
        Ok(Self {
            base_offset: Offset(base_offset),
            size_bytes: size_from_length(i32::from_be_bytes(field(header, BATCH_LENGTH)))?,
            leader_epoch: not_negative_i32(i32::from_be_bytes(field(header, LEADER_EPOCH))).map(LeaderEpoch),
            crc: u32::from_be_bytes(field(header, CRC)),
            codec: Codec::from_attributes(bits).ok_or(Damage::Codec { bits })?,
            timestamp_type: if attributes & LOG_APPEND_TIME == 0 {
                TimestampType::CreateTime
            } else {
                TimestampType::LogAppendTime
            },
            last_offset_delta,
            base_timestamp: timestamp_from_raw(i64::from_be_bytes(field(header, BASE_TIMESTAMP))),
            max_timestamp: timestamp_from_raw(i64::from_be_bytes(field(header, MAX_TIMESTAMP))),
            producer: producer(header),
            record_count: u32::try_from(count).map_err(|_| Damage::RecordCount { count })?,
            flags: Flags(attributes & (TRANSACTIONAL | CONTROL | DELETE_HORIZON)),
        })
    }

    /// Returns the offset of the last record the batch had when it was appended.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Returns the offset after the batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// True for a batch that holds a marker, not records of a client.
    pub fn is_control(&self) -> bool {
        self.flags.contains(Flags::CONTROL)
    }

    /// True for a batch written, or a marker set, within a transaction.
    pub fn is_transactional(&self) -> bool {
        self.flags.contains(Flags::TRANSACTIONAL)
    }

    /// Returns the time from which the cleaner may drop the batch's tombstones, once a cleaning has set it.
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.base_timestamp
            .filter(|_| self.flags.contains(Flags::DELETE_HORIZON))
    }

    /// Returns the sequence of the last record, when the batch has sequences.
    pub fn last_sequence(&self) -> Option<Sequence> {
        let first = self.producer?.base_sequence?;
        Some(first.plus(self.last_offset_delta))
    }

    /// Returns the timestamp of a record from its delta. The sum wraps, as every reader of the format has it.
    pub(super) fn record_timestamp(&self, delta: i64) -> Option<Timestamp> {
        match self.timestamp_type {
            TimestampType::CreateTime => {
                timestamp_from_raw(raw_timestamp(self.base_timestamp).wrapping_add(delta))
            }
            TimestampType::LogAppendTime => self.max_timestamp,
        }
    }

    /// Returns whether base and delta of a record make a time: their sum does not overflow, and is at least -1, which is none.
    pub(super) fn tells_time(&self, delta: i64) -> bool {
        let sum = raw_timestamp(self.base_timestamp).checked_add(delta);
        sum.is_some_and(|raw| raw >= raw_timestamp(None))
    }

    /// Returns the header as it stands in a batch, `crc` as it is.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |range: Range<usize>, value: &[u8]| bytes[range].copy_from_slice(value);
        let producer = self.producer;
        put(0..PREFIX_LEN, &self.prefix());
        put(MAGIC, &MAGIC_V2.to_be_bytes());
        put(CRC, &self.crc.to_be_bytes());
        put(ATTRIBUTES, &self.attributes().to_be_bytes());
        put(LAST_OFFSET_DELTA, &self.last_offset_delta.to_be_bytes());
        put(BASE_TIMESTAMP, &raw_timestamp(self.base_timestamp).to_be_bytes());
        put(MAX_TIMESTAMP, &raw_timestamp(self.max_timestamp).to_be_bytes());
        put(
            PRODUCER_ID,
            &producer.map_or(-1, |producer| producer.id.0).to_be_bytes(),
        );
        put(
            PRODUCER_EPOCH,
            &producer.map_or(-1, |producer| producer.epoch.0).to_be_bytes(),
        );
        let sequence = producer.and_then(|producer| producer.base_sequence);
        put(
            BASE_SEQUENCE,
            &sequence.map_or(-1, |sequence| sequence.0).to_be_bytes(),
        );
        put(RECORD_COUNT, &self.record_count.to_be_bytes());
        bytes
    }

    /// Returns the first 16 bytes as they stand in a batch.
    pub(super) fn prefix(&self) -> [u8; PREFIX_LEN] {
        let mut prefix = [0; PREFIX_LEN];
        prefix[BASE_OFFSET].copy_from_slice(&self.base_offset.0.to_be_bytes());
        prefix[BATCH_LENGTH].copy_from_slice(&(self.size_bytes - LENGTH_END_BYTES).to_be_bytes());
        prefix[LEADER_EPOCH].copy_from_slice(&self.leader_epoch.map_or(-1, |epoch| epoch.0).to_be_bytes());
        prefix
    }

    fn attributes(&self) -> u16 {
        let timestamp_type = match self.timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => LOG_APPEND_TIME,
        };
        self.codec.to_attributes() | timestamp_type | self.flags.0
    }
}

/// Returns the base offset of a batch whose header may not parse; `bytes` holds at least its first 8 bytes.
pub(super) fn peek_base_offset(bytes: &[u8]) -> Option<i64> {
    bytes.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

/// Returns the length field of a batch whose header may not parse.
pub(super) fn peek_batch_length(bytes: &[u8]) -> Option<i32> {
    let field = bytes.get(BATCH_LENGTH)?;
    Some(i32::from_be_bytes(field.try_into().ok()?))
}

/// Returns the checksum field; `bytes` holds at least a header.
pub(super) fn peek_crc(bytes: &[u8]) -> Option<u32> {
    let field = bytes.get(CRC)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// Returns what a format without "none" writes for a timestamp.
pub(super) fn raw_timestamp(timestamp: Option<Timestamp>) -> i64 {
    timestamp.map_or(-1, |timestamp| timestamp.0)
}

/// Returns the size of a batch from its length field.
pub(super) fn size_from_length(batch_length: i32) -> Result<u32, Damage> {
    let size = u32::try_from(batch_length).map(|length| length + LENGTH_END_BYTES);
    match size {
        Ok(size @ HEADER_LEN_BYTES..=SIZE_MAX_BYTES) => Ok(size),
        _ => Err(Damage::Length { batch_length }),
    }
}

fn timestamp_from_raw(raw: i64) -> Option<Timestamp> {
    (raw != -1).then_some(Timestamp(raw))
}

fn not_negative_i32(raw: i32) -> Option<i32> {
    (raw >= 0).then_some(raw)
}

fn producer(header: &[u8; HEADER_LEN]) -> Option<ProducerStamp> {
    let id = i64::from_be_bytes(field(header, PRODUCER_ID));
    (id >= 0).then(|| ProducerStamp {
        id: ProducerId(id),
        epoch: ProducerEpoch(i16::from_be_bytes(field(header, PRODUCER_EPOCH))),
        base_sequence: not_negative_i32(i32::from_be_bytes(field(header, BASE_SEQUENCE))).map(Sequence),
    })
}

fn field<const LEN: usize>(header: &[u8; HEADER_LEN], range: Range<usize>) -> [u8; LEN] {
    header[range]
        .try_into()
        .expect("every range has the length of its field")
}
