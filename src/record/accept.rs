//! The door: what an untrusted batch must be before it may be stored.
//!
//! ```text
//!  bytes --> one whole batch, base offset 0, not too large, crc      header alone, cheapest first
//!        --> counts, flags, producer                                 header alone
//!        --> every record to its last byte: keys, times              decompressed where needed
//!        --> nothing to change                  same bytes
//!            time type or greatest time         header patched, crc computed again
//!            other codec, or offsets with gaps  payload built again; size checked again
//! ```
//!
//! Invariants
//! - A batch is accepted whole or refused whole.
//! - An [`Accepted`] has offset deltas 0, 1, 2 ..., exactly the records it counts, the codec and timestamp type of the topic,
//!   and a greatest timestamp that is true.
//! - Checking an uncompressed batch allocates nothing per record. A compressed one is held decompressed while it is checked,
//!   at most `max_decompressed_bytes`, and once more where its payload is built again.
//!
//! What is not here: sequences against earlier ones, transactions, offsets: they need state. Stricter than Kafka, for bytes
//! that none of its clients write: a delete horizon, a transactional batch without producer, a negative producer epoch and
//! the log append time as a producer's claim are always refused.

use bytes::Bytes;

use super::accepted::Accepted;
use super::batch::{Extent, RecordBatch, Walk, extent, verify_crc};
use super::builder;
use super::codec::{Codec, DecompressLimit};
use super::header::{
    BatchHeader, Flags, SIZE_MAX_BYTES, TimestampType, peek_base_offset, peek_crc, raw_timestamp,
};
use super::record::RawRecord;
use super::rejection::{BatchFault, RecordError, RecordErrors, RecordReason, Rejection};
use crate::types::Timestamp;

/// Whether every record must have a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum KeyRule {
    /// With or without.
    #[default]
    Optional,
    /// With: the topic is compacted.
    Required,
}

/// What a topic asks of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The greatest batch as it is stored, header included.
    pub max_batch_bytes: u32,
    /// The most its records may decompress to; this much memory a compressed batch may cost while it is checked.
    pub max_decompressed_bytes: u32,
    /// Whether records need keys.
    pub keys: KeyRule,
    /// Who gives the records their time.
    pub timestamp_type: TimestampType,
    /// How far a record's own time may lie before `now`, in milliseconds; the greatest number is no bound.
    pub before_max_ms: i64,
    /// How far it may lie after `now`, in the same way.
    pub after_max_ms: i64,
    /// The codec in which the topic is stored; `None` leaves the producer's.
    pub codec: Option<Codec>,
    /// One of [`Codec::levels`], or the codec's default; used only when the batch comes in another codec.
    pub level: Option<i32>,
    /// The time of the append.
    pub now: Timestamp,
}

/// Checks the one batch in `bytes` and makes it what the topic's rules ask for. Bytes after it that do not make a second
/// whole batch are dropped.
///
/// # Errors
/// [`Rejection`] says what is wrong; nothing of the batch may then be stored.
pub fn accept(bytes: Bytes, rules: &Rules) -> Result<Accepted, Rejection> {
    let bytes = one_batch(bytes)?;
    check_frame(&bytes, rules)?;
    let batch = RecordBatch::parse(bytes).map_err(Rejection::of_header)?;
    check_header(batch.header())?;
    let limit = DecompressLimit(rules.max_decompressed_bytes);
    let payload = batch.payload(limit).map_err(Rejection::of_payload)?;
    let survey = Survey::of(batch.header(), &payload, rules)?;

    let (span, max_timestamp) = match rules.timestamp_type {
        TimestampType::CreateTime => (survey.span, survey.span.map(|(_, greatest)| greatest)),
        TimestampType::LogAppendTime => (Some((rules.now, rules.now)), Some(rules.now)),
    };
    let codec = rules.codec.unwrap_or(batch.header().codec);
    if codec != batch.header().codec || survey.numbering == Numbering::Gapped {
        let header = BatchHeader {
            codec,
            timestamp_type: rules.timestamp_type,
            max_timestamp,
            ..*batch.header()
        };
        let batch = rebuild(header, &payload, survey.numbering, rules)?;
        return Ok(Accepted::built(batch, span));
    }
    drop(payload);
    let header = batch.header();
    let unchanged = header.timestamp_type == rules.timestamp_type && header.max_timestamp == max_timestamp;
    let batch = if unchanged {
        batch
    } else {
        batch.with_timestamps(rules.timestamp_type, max_timestamp)
    };
    Ok(Accepted::built(batch, span))
}

fn one_batch(bytes: Bytes) -> Result<Bytes, Rejection> {
    let Extent::Whole(len) = extent(&bytes).map_err(Rejection::of_header)? else {
        return Err(BatchFault::Missing { len: bytes.len() }.into());
    };
    match extent(&bytes[len..]).map_err(Rejection::of_header)? {
        Extent::Partial => Ok(bytes.slice(..len)),
        Extent::Whole(_) => Err(BatchFault::Several.into()),
    }
}

/// What Kafka checks before it looks at any field that the checksum covers.
fn check_frame(batch: &Bytes, rules: &Rules) -> Result<(), Rejection> {
    const WHOLE: &str = "a whole batch has a header";
    let base_offset = peek_base_offset(batch).expect(WHOLE);
    if base_offset != 0 {
        return Err(BatchFault::BaseOffset { base_offset }.into());
    }
    check_size(batch.len(), rules)?;
    verify_crc(peek_crc(batch).expect(WHOLE), batch).map_err(Rejection::Corrupt)
}

fn check_size(len: usize, rules: &Rules) -> Result<(), Rejection> {
    let size_bytes = u32::try_from(len).unwrap_or(u32::MAX);
    let max_bytes = rules.max_batch_bytes.min(SIZE_MAX_BYTES);
    if size_bytes > max_bytes {
        return Err(Rejection::TooLarge {
            size_bytes,
            max_bytes,
        });
    }
    Ok(())
}

fn check_header(header: &BatchHeader) -> Result<(), Rejection> {
    let BatchHeader {
        record_count,
        last_offset_delta,
        ..
    } = *header;
    if i64::from(record_count) != i64::from(last_offset_delta) + 1 {
        return Err(BatchFault::Count {
            record_count,
            last_offset_delta,
        }
        .into());
    }
    if header.is_control() {
        return Err(BatchFault::Control.into());
    }
    if header.flags.contains(Flags::DELETE_HORIZON) {
        return Err(BatchFault::DeleteHorizon.into());
    }
    match header.producer {
        Some(producer) if producer.base_sequence.is_none() || producer.epoch.0 < 0 => {
            Err(BatchFault::ProducerWithoutSequence.into())
        }
        None if header.is_transactional() => Err(BatchFault::TransactionWithoutProducer.into()),
        _ => Ok(()),
    }
}

/// Whether offset deltas count 0, 1, 2 ...
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Numbering {
    Consecutive,
    Gapped,
}

/// What one pass over the records of a batch finds.
struct Survey {
    span: Option<(Timestamp, Timestamp)>,
    numbering: Numbering,
}

impl Survey {
    fn of(header: &BatchHeader, payload: &[u8], rules: &Rules) -> Result<Self, Rejection> {
        let mut survey = Self {
            span: None,
            numbering: Numbering::Consecutive,
        };
        let mut errors = RecordErrors::default();
        let mut walk = Walk::new(header.record_count);
        let mut index = 0;
        while let Some(record) = walk.next(payload) {
            let record = record.map_err(Rejection::of_payload)?;
            let time = header.record_timestamp(record.timestamp_delta);
            if let Some(time) = time {
                survey.span = Some(survey.span.map_or((time, time), |(least, greatest)| {
                    (least.min(time), greatest.max(time))
                }));
            }
            if i64::from(record.offset_delta) != i64::from(index) {
                survey.numbering = Numbering::Gapped;
            }
            if let Some(reason) = refuse(header, &record, time, rules) {
                errors.add(RecordError { index, reason });
            }
            index += 1;
        }
        if errors.count() == 0 {
            Ok(survey)
        } else {
            Err(Rejection::InvalidRecords { errors })
        }
    }
}

fn refuse(
    header: &BatchHeader,
    record: &RawRecord,
    time: Option<Timestamp>,
    rules: &Rules,
) -> Option<RecordReason> {
    if rules.keys == KeyRule::Required && record.key.is_none() {
        return Some(RecordReason::MissingKey);
    }
    if header.timestamp_type == TimestampType::LogAppendTime {
        return Some(RecordReason::ClaimsLogAppendTime);
    }
    // Whatever the topic's times: the sum would wrap to one that the bounds below have not seen.
    if !header.tells_time(record.timestamp_delta) {
        return Some(RecordReason::NoTime {
            base: raw_timestamp(header.base_timestamp),
            delta: record.timestamp_delta,
        });
    }
    let timestamp = time.filter(|_| rules.timestamp_type == TimestampType::CreateTime)?;
    if rules.now.ms_since(timestamp) > rules.before_max_ms {
        Some(RecordReason::TooOld {
            timestamp,
            earliest: rules.now.saturating_add_ms(rules.before_max_ms.saturating_neg()),
        })
    } else if timestamp.ms_since(rules.now) > rules.after_max_ms {
        Some(RecordReason::TooNew {
            timestamp,
            latest: rules.now.saturating_add_ms(rules.after_max_ms),
        })
    } else {
        None
    }
}

fn rebuild(
    header: BatchHeader,
    payload: &[u8],
    numbering: Numbering,
    rules: &Rules,
) -> Result<RecordBatch, Rejection> {
    let renumbered;
    let records = match numbering {
        Numbering::Consecutive => payload,
        Numbering::Gapped => {
            renumbered = builder::renumbered(payload, header.record_count).map_err(Rejection::of_payload)?;
            &renumbered[..]
        }
    };
    let bytes = header.codec.compress_behind_header(rules.level, records);
    check_size(bytes.len(), rules)?;
    Ok(RecordBatch::seal(header, bytes))
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
