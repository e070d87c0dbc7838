//! Checks the batches of a log as they go by on their way to the bucket: what has rotted on the local disk does not go there as if it were sound.
//!
//! | what | must hold |
//! |---|---|
//! | batches | back to back from byte 0 to the end of the log, each with its CRC |
//! | offsets | ascend from batch to batch, within those of the segment |
//!
//! Invariants
//! - Pure, and without a copy: bytes go by in parts of any length; what is kept is a header that has not come whole yet.
//!
//! What is not here: summary and indexes, which a verification in depth holds against the log ([`super::log_check`]).

use std::ops::Range;

use crate::record::{BatchHeader, HEADER_LEN, PartwiseCheck};
use crate::storage::SegmentSummary;
use crate::types::Offset;

/// The batches of a log, in order.
#[derive(Debug)]
pub(super) struct BatchCheck {
    /// Offsets that may still come.
    offsets: Range<Offset>,
    /// Bytes that are still to come.
    left: u64,
    /// Where the batch begins that is going by.
    position: u64,
    /// The begin of a header that has not come whole yet.
    head: Vec<u8>,
    /// The batch that is going by, and how much of it is to come.
    batch: Option<(PartwiseCheck, u64)>,
    /// Bytes of that batch.
    batch_bytes: u64,
}

impl BatchCheck {
    pub(super) fn of(summary: &SegmentSummary) -> Self {
        Self {
            offsets: summary.base_offset..summary.next_offset,
            left: summary.log_bytes,
            position: 0,
            head: Vec::new(),
            batch: None,
            batch_bytes: 0,
        }
    }

    /// Takes the next bytes; says what is wrong with the first batch that is not sound.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.batch.take() {
                Some((mut check, left)) => {
                    let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (now, later) = bytes.split_at(len);
                    check.add(now);
                    bytes = later;
                    self.went_by(check, left - length(now))?;
                }
                None => {
                    let missing = HEADER_LEN - self.head.len();
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    self.head.extend_from_slice(now);
                    bytes = later;
                    if self.head.len() == HEADER_LEN {
                        self.begin()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        let header = BatchHeader::parse(&self.head).map_err(|damage| self.at(&damage.to_string()))?;
        let (first, last) = (header.base_offset, header.last_offset());
        let size_bytes = u64::from(header.size_bytes);
        if first < self.offsets.start || last >= self.offsets.end || size_bytes > self.left {
            return Err(self.at(&format!(
                "a batch of offsets {first} to {last} and {size_bytes} bytes does not belong there"
            )));
        }
        self.offsets.start = header.next_offset();
        self.batch_bytes = size_bytes;
        self.left -= size_bytes;
        let mut check = PartwiseCheck::of(&header);
        check.add(&self.head);
        let left = size_bytes - length(&self.head);
        self.head.clear();
        self.went_by(check, left)
    }

    fn went_by(&mut self, check: PartwiseCheck, left: u64) -> Result<(), String> {
        if left > 0 {
            self.batch = Some((check, left));
            return Ok(());
        }
        check.finish().map_err(|damage| self.at(&damage.to_string()))?;
        self.position += self.batch_bytes;
        Ok(())
    }

    /// Makes sure that the log ended where it should.
    pub(super) fn finish(&self) -> Result<(), String> {
        if self.left > 0 || self.batch.is_some() || !self.head.is_empty() {
            return Err(self.at("the log ends inside a batch"));
        }
        Ok(())
    }

    fn at(&self, what: &str) -> String {
        format!("at position {}: {what}", self.position)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("64 bits fit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};

    /// Three batches of offsets 5, 6 and 7, and their summary.
    fn log() -> (Vec<u8>, SegmentSummary) {
        let mut log = Vec::new();
        for number in 5..8_u8 {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder
                .append(None, None, Some(&[number; 50]), &[])
                .expect("small");
            let batch = builder.build().expect("it has a record");
            let start = log.len();
            log.extend_from_slice(batch.bytes());
            log[start + 7] = number;
        }
        let summary = SegmentSummary {
            next_offset: Offset(8),
            log_bytes: length(&log),
            ..SegmentSummary::empty(Offset(5))
        };
        (log, summary)
    }

    fn checked(log: &[u8], summary: &SegmentSummary, part: usize) -> Result<(), String> {
        let mut check = BatchCheck::of(summary);
        for part in log.chunks(part) {
            check.push(part)?;
        }
        check.finish()
    }

    #[test]
    fn every_changed_byte_is_found_however_the_log_is_cut_into_parts() {
        let (log, summary) = log();
        for part in [1, 7, 60, 61, 62, 100, 4096] {
            assert_eq!(checked(&log, &summary, part), Ok(()), "parts of {part}");
            for at in 0..log.len() {
                let mut changed = log.clone();
                changed[at] ^= 0x40;
                let batch_len = log.len() / 3;
                // The leader epoch is nobody's to check.
                let is_epoch = (12..16).contains(&(at % batch_len));
                assert_eq!(checked(&changed, &summary, part).is_ok(), is_epoch, "byte {at}");
            }
            for len in 0..log.len() {
                checked(&log[..len], &summary, part).expect_err("it was cut");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_position() {
        let (log, summary) = log();
        let batch_len = log.len() / 3;
        let mut twice = log.clone();
        twice[batch_len + 7] = 5;
        let told = checked(&twice, &summary, 4096).expect_err("it is there twice");
        assert!(
            told.starts_with(&format!("at position {batch_len}: a batch of offsets 5 to 5")),
            "{told}"
        );
    }
}
