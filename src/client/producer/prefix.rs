//! The records of a batch before one that the server refused, as a batch of their own.
//!
//! A batch is refused whole, also where one record is at fault. What comes before that record is sent again without it, under
//! the same first sequence: nothing of the refused batch was written, so no gap and no duplicate can come of it.

use super::window::SealedBatch;
use crate::record::{BatchBuilder, BatchOptions, DecompressLimit, RecordBatch};

/// Why a batch of our own can be read and built again.
const OWN: &str = "the producer built the batch itself";

/// Returns the first `count` records of `batch`; nothing when that is none, or all of them.
pub(super) fn prefix(batch: &SealedBatch, count: u32) -> Option<SealedBatch> {
    if count == 0 || count >= batch.records {
        return None;
    }
    let whole = RecordBatch::parse(batch.bytes.clone()).expect(OWN);
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: whole.header().codec,
        producer: whole.header().producer,
        ..BatchOptions::default()
    });
    let mut payload_bytes = 0;
    let len = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
    let records = whole.records(DecompressLimit(u32::MAX)).expect(OWN);
    for record in records.take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let record = record.expect(OWN);
        payload_bytes += len(&record.key) + len(&record.value);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder
            .append(record.timestamp, key, value, &record.headers)
            .expect(OWN);
    }
    let built = builder.build().expect(OWN);
    let mut places = batch.places.clone();
    places.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    Some(SealedBatch {
        bytes: built.bytes().clone(),
        records: count,
        payload_bytes: u64::try_from(payload_bytes).expect("a length fits 64 bits"),
        opened_at: batch.opened_at,
        places,
        fate: batch.fate.clone(),
    })
}
