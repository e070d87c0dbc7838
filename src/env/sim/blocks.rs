//! The bytes of one simulated file, in blocks that copies of it share until one of them is written to: a disk of any size is copied by
//! counting its blocks.
//!
//! Invariants
//! - Every block but the last has [`BLOCK_LEN`] bytes, the last one at least one byte.

use std::ops::Range;
use std::sync::Arc;

/// What is copied at once when a block that is shared is written to.
const BLOCK_LEN: usize = 256 << 10;

/// Bytes that are cheap to copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks(Vec<Arc<Vec<u8>>>);

impl Blocks {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let blocks = bytes.chunks(BLOCK_LEN);
        Self(blocks.map(|block| Arc::new(block.to_vec())).collect())
    }

    pub(super) fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * BLOCK_LEN + last.len(),
            None => 0,
        }
    }

    /// Fills `buffer` from `position`; the caller has made sure that there is as much.
    pub(super) fn read(&self, position: usize, buffer: &mut [u8]) {
        let mut at = position;
        let mut left = buffer;
        while !left.is_empty() {
            let block = &self.0[at / BLOCK_LEN][at % BLOCK_LEN..];
            let (part, rest) = left.split_at_mut(block.len().min(left.len()));
            part.copy_from_slice(&block[..part.len()]);
            at += part.len();
            left = rest;
        }
    }

    /// Copies a range, which lies inside.
    pub(super) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut copy = vec![0; range.len()];
        self.read(range.start, &mut copy);
        copy
    }

    /// Puts `bytes` at `position`, with zeros before it where the file ends earlier. No bytes, no change, as `write` has it.
    pub(super) fn overwrite(&mut self, position: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.len() < position {
            self.resize(position);
        }
        let (mut at, mut rest) = (position, bytes);
        while !rest.is_empty() {
            let (number, inside) = (at / BLOCK_LEN, at % BLOCK_LEN);
            if number == self.0.len() {
                self.0.push(Arc::default());
            }
            let block = Arc::make_mut(&mut self.0[number]);
            let (part, behind) = rest.split_at(rest.len().min(BLOCK_LEN - inside));
            let known = block.len().min(inside + part.len()) - inside;
            block[inside..inside + known].copy_from_slice(&part[..known]);
            block.extend_from_slice(&part[known..]);
            at += part.len();
            rest = behind;
        }
    }

    /// Cuts the bytes to `len`, or makes them longer with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.0.truncate(len.div_ceil(BLOCK_LEN));
        if let Some((last, full)) = self.0.split_last_mut() {
            let wanted = (len - full.len() * BLOCK_LEN).min(BLOCK_LEN);
            if last.len() != wanted {
                Arc::make_mut(last).resize(wanted, 0);
            }
        }
        while self.len() < len {
            let missing = (len - self.len()).min(BLOCK_LEN);
            self.0.push(Arc::new(vec![0; missing]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn blocks_hold_what_one_row_of_bytes_would_and_copies_keep_what_they_had(
            steps in prop::collection::vec((0..4_usize, 0..3 * BLOCK_LEN, 0..2 * BLOCK_LEN, any::<u8>()), 1..12)
        ) {
            let (mut blocks, mut row) = (Blocks::default(), Vec::new());
            let mut copies = Vec::new();
            for (kind, at, len, fill) in steps {
                match kind {
                    0 => {
                        blocks.resize(at);
                        row.resize(at, 0);
                    }
                    1 => copies.push((blocks.clone(), row.clone())),
                    _ => {
                        let bytes = vec![fill; len];
                        blocks.overwrite(at, &bytes);
                        if len > 0 {
                            row.resize(row.len().max(at + len), 0);
                            row[at..at + len].copy_from_slice(&bytes);
                        }
                    }
                }
                prop_assert_eq!(blocks.len(), row.len());
            }
            copies.push((blocks, row));
            for (blocks, row) in copies {
                prop_assert!(blocks.copy(0..row.len()) == row);
                prop_assert!(Blocks::of(&row).copy(0..row.len()) == row);
            }
        }
    }
}
