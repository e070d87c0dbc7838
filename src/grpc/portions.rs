//! A stretch of the log as plain messages, in portions that fit a response.
//!
//! Batches are decoded one at a time, as the budget asks for them: a stretch of well compressed batches costs the memory of
//! one decompressed batch and one response, not of all of it. Where aborted transactions overlap, the stretch is decoded
//! whole, since only their markers in later batches tell where they end.
//!
//! What it does not do: I/O. It computes, for long when batches are compressed; [`decoding`] says when to leave the network threads.

use std::collections::VecDeque;

use prost::Message;

use crate::broker::{Chunk, Error};
use crate::proto::v1;
use crate::types::Offset;

use super::{Work, convert};

/// Where the batch length stands in a batch (Kafka's record batch, version 2), and how much it does not count.
const BATCH_LENGTH: std::ops::Range<usize> = 8..12;
const UNCOUNTED_LEN: usize = 12;
/// Stretches longer than this, in bytes, are decoded off the network threads: about 20 microseconds of work.
const LONG: usize = 64 << 10;

/// What is left of a stretch.
#[derive(Debug)]
pub(super) struct Portions {
    rest: Chunk,
    decoded: VecDeque<v1::StoredRecord>,
}

/// Records that fit.
#[derive(Debug)]
pub(super) struct Portion {
    /// In order of offsets.
    pub(super) records: Vec<v1::StoredRecord>,
    /// Where the next portion, or the next read, goes on.
    pub(super) next_offset: Offset,
    /// Whether that was all.
    pub(super) rest: Rest,
}

/// Whether there is another portion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// There is.
    More,
    /// There is none.
    Done,
}

/// Says whether decoding `len` bytes of batches may keep a network thread.
pub(super) fn decoding(len: usize) -> Work {
    match len {
        ..=LONG => Work::Short,
        _ => Work::Long,
    }
}

impl Portions {
    pub(super) fn of(chunk: Chunk) -> Self {
        Self { rest: chunk, decoded: VecDeque::new() }
    }

    /// Bytes of batches not decoded yet.
    pub(super) fn undecoded_bytes(&self) -> usize {
        self.rest.batches.len()
    }

    /// Takes what fits `budget` bytes as fields of a message; the first record always fits.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are not sound.
    pub(super) fn take(&mut self, budget: usize) -> Result<Portion, Error> {
        let mut records = Vec::new();
        let mut used = 0;
        loop {
            if fill(&mut self.decoded, &mut records, &mut used, budget) == Rest::More {
                let next_offset = match (records.last(), self.decoded.front()) {
                    (Some(last), _) => Offset(last.offset).next(),
                    (None, Some(first)) => Offset(first.offset),
                    (None, None) => self.rest.next_offset,
                };
                return Ok(Portion { records, next_offset, rest: Rest::More });
            }
            if self.rest.batches.is_empty() {
                return Ok(Portion { records, next_offset: self.rest.next_offset, rest: Rest::Done });
            }
            let mut next = self.rest.clone();
            next.batches = match self.rest.aborted.is_empty() {
                true => self.rest.batches.split_to(first_batch_len(&self.rest.batches)),
                false => std::mem::take(&mut self.rest.batches),
            };
            self.decoded = next.records()?.into_iter().map(convert::stored_record).collect();
        }
    }
}

/// Moves records while they fit; says whether some are left.
fn fill(
    from: &mut VecDeque<v1::StoredRecord>,
    to: &mut Vec<v1::StoredRecord>,
    used: &mut usize,
    budget: usize,
) -> Rest {
    while let Some(record) = from.front() {
        let len = field_len(record);
        if !to.is_empty() && *used + len > budget {
            return Rest::More;
        }
        *used += len;
        to.extend(from.pop_front());
    }
    Rest::Done
}

/// Length of a message as a field numbered below 16 of another.
pub(super) fn field_len(message: &impl Message) -> usize {
    let len = message.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}

/// Length of the first batch; everything when the bytes do not say, and then decoding tells what is wrong with them.
fn first_batch_len(batches: &[u8]) -> usize {
    batches
        .get(BATCH_LENGTH)
        .and_then(|bytes| bytes.try_into().ok().map(u32::from_be_bytes))
        .and_then(|len| usize::try_from(len).ok()?.checked_add(UNCOUNTED_LEN))
        .filter(|len| *len <= batches.len())
        .unwrap_or(batches.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(offset: i64, value_len: usize) -> v1::StoredRecord {
        v1::StoredRecord {
            offset,
            timestamp_ms: Some(1_357_000_000_000),
            value: Some(vec![7; value_len].into()),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn no_portion_exceeds_its_budget_unless_one_record_does_and_none_is_lost(
            lens in prop::collection::vec(0..500_usize, 0..60),
            budget in 0..2000_usize,
        ) {
            let all: Vec<_> = (0..).zip(&lens).map(|(offset, len)| record(offset, *len)).collect();
            let mut from: VecDeque<_> = all.clone().into();
            let mut seen = Vec::new();
            loop {
                let (mut portion, mut used) = (Vec::new(), 0);
                let rest = fill(&mut from, &mut portion, &mut used, budget);
                let response = v1::ReadResponse { records: portion.clone(), ..Default::default() };
                prop_assert_eq!(response.encoded_len(), used);
                prop_assert!(used <= budget || portion.len() == 1);
                seen.extend(portion);
                if rest == Rest::Done {
                    break;
                }
            }
            prop_assert_eq!(seen, all);
        }

        #[test]
        fn the_length_of_a_first_batch_never_reaches_past_the_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(first_batch_len(&bytes) <= bytes.len());
            prop_assert!(bytes.is_empty() || first_batch_len(&bytes) > 0);
        }
    }

    #[test]
    fn a_batch_ends_where_its_length_field_says() {
        let mut batches = vec![0; 100];
        batches[BATCH_LENGTH].copy_from_slice(&49_u32.to_be_bytes());
        assert_eq!(first_batch_len(&batches), 61);
        batches[BATCH_LENGTH].copy_from_slice(&89_u32.to_be_bytes());
        assert_eq!(first_batch_len(&batches), 100, "a torn batch is left to the decoder");
    }
}
