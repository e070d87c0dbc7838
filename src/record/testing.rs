//! What the tests of this module share: golden batches, plain records to build from, and the rules of an easy-going topic.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::header::CRC_START;
use super::{
    Accepted, BatchBuilder, BatchOptions, Codec, DecompressLimit, Header, KeyRule, Record, RecordBatch,
    Rules, TimestampType,
};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// The present of all tests.
pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// More than any test's batch decompresses to, bombs aside.
pub(super) const LIMIT: DecompressLimit = DecompressLimit(1 << 22);

/// Two records of an idempotent producer: (1000, "k", "v", h=x) and a tombstone without key (1010). Written by hand; the
/// checksum comes from a bitwise implementation elsewhere.
pub(super) const GOLDEN: &str = "
    0000000000000000 00000045 ffffffff 02 30552965
    0000 00000001 00000000000003e8 00000000000003f2
    0000000000000007 0003 00000005 00000002
    18 00 00 00 02 6b 02 76 02 02 68 02 78
    0c 00 14 02 01 01 00";

/// A commit marker of producer 9, epoch 2, by coordinator epoch 7, made the same way.
pub(super) const GOLDEN_MARKER: &str = "
    0000000000000000 00000042 ffffffff 02 1e78045b
    0030 00000000 00000000000003e8 00000000000003e8
    0000000000000009 0002 ffffffff 00000001
    20 00 00 00 08 00 00 00 01 0c 00 00 00 00 00 07 00";

/// Reads hexadecimal digits, whatever stands between them.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The rules of a topic that takes anything.
pub(super) fn easy_rules() -> Rules {
    Rules {
        max_batch_bytes: 1 << 24,
        max_decompressed_bytes: LIMIT.0,
        keys: KeyRule::Optional,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        codec: None,
        level: None,
        now: NOW,
    }
}

/// A record before it has an offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plain {
    pub(super) timestamp: Option<Timestamp>,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Vec<Header>,
}

impl Plain {
    pub(super) fn new(timestamp: i64, key: &'static str, value: &'static str) -> Self {
        Self {
            timestamp: Some(Timestamp(timestamp)),
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// The record as a reader sees it at `offset`.
    pub(super) fn at(&self, offset: i64) -> Record {
        Record {
            offset: Offset(offset),
            timestamp: self.timestamp,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers.clone(),
        }
    }
}

/// Builds a batch of `records`.
pub(super) fn build(options: BatchOptions, records: &[Plain]) -> Accepted {
    let mut builder = BatchBuilder::new(options);
    for record in records {
        builder
            .append(
                record.timestamp,
                record.key.as_deref(),
                record.value.as_deref(),
                &record.headers,
            )
            .unwrap();
    }
    builder.build().unwrap()
}

/// Builds an uncompressed batch of `count` small records with keys, and returns its bytes for a test to change.
pub(super) fn small(count: usize) -> Vec<u8> {
    build(
        BatchOptions::default(),
        &vec![Plain::new(NOW.0, "key", "value"); count],
    )
    .bytes()
    .to_vec()
}

/// Makes the checksum of changed bytes true again.
pub(super) fn with_crc(mut batch: Vec<u8>) -> Bytes {
    let crc = super::crc::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// Joins a header, taken from `batch`, and another payload: count, length and checksum are those of the result.
pub(super) fn with_payload(batch: &[u8], codec: Codec, count: i32, payload: &[u8]) -> Bytes {
    let mut bytes = [&batch[..61], payload].concat();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&codec.to_attributes().to_be_bytes());
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    with_crc(bytes)
}

/// Reads all records of a batch.
pub(super) fn read(batch: &RecordBatch) -> Vec<Record> {
    batch.records(LIMIT).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Stores a batch at `base_offset`.
pub(super) fn stored(accepted: &Accepted, base_offset: i64) -> RecordBatch {
    let (offset, epoch) = (Offset(base_offset), LeaderEpoch(3));
    let bytes = [
        &accepted.stamped_prefix(offset, epoch)[..],
        accepted.after_prefix(),
    ]
    .concat();
    let batch = RecordBatch::parse(bytes.into()).unwrap();
    assert_eq!(
        batch,
        accepted.stamped(offset, epoch),
        "both ways of storing agree"
    );
    batch.verify_crc().unwrap();
    batch
}

pub(super) fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..20),
        (any::<u8>(), 0..3000usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
    .prop_map(Bytes::from)
}

fn any_header() -> impl Strategy<Value = Header> {
    (any_bytes(), option::of(any_bytes())).prop_map(|(key, value)| Header { key, value })
}

/// Any time, the extremes among them. -1 stands for "none" in the format, so it is not one.
fn any_time() -> impl Strategy<Value = Option<Timestamp>> {
    option::of(prop_oneof![
        4 => (0..100_000i64).prop_map(|ms| Timestamp(NOW.0 - ms)),
        1 => any::<i64>().prop_filter("none", |&ms| ms != -1).prop_map(Timestamp),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
    ])
}

prop_compose! {
    pub(super) fn any_record()(
        timestamp in any_time(),
        key in option::of(any_bytes()),
        value in option::of(any_bytes()),
        headers in vec(any_header(), 0..3),
    ) -> Plain {
        Plain { timestamp, key, value, headers }
    }
}

/// One to a few dozen records of any kind.
pub(super) fn any_records() -> impl Strategy<Value = Vec<Plain>> {
    vec(any_record(), 1..40)
}

/// The same, each with a time from 1970 on or none: what the door takes. Not the last of times, whose distance from "none" is
/// more than a delta holds.
pub(super) fn any_sound_records() -> impl Strategy<Value = Vec<Plain>> {
    any_records().prop_map(|mut records| {
        for record in &mut records {
            record.timestamp = record
                .timestamp
                .filter(|timestamp| (0..i64::MAX).contains(&timestamp.0));
        }
        records
    })
}
