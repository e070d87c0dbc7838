//! Whether offsets follow one another without holes, and what a batch out of its place looks like.
//!
//! ```text
//!   never compacted     | 0..3 | 3..5 | 5..9 |          each begins where the one before it ends
//!   compacted           | 0..3 |      | 5..9 |          holes, and never back
//!   damaged             | 0..3 | 7..9 | 5..9 |          the one behind it begins where it would begin if it had not moved
//! ```
//!
//! The base offset of a batch lies outside its checksum. What can be known of it is where its neighbours are, and how many
//! records the segment has: as many as offsets, and there is no hole.

use crate::record::BatchHeader;
use crate::types::Offset;

/// Whether a segment's batches may leave offsets out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holes {
    /// They do not: compaction has taken nothing from it.
    None,
    /// They may, or it is not known.
    Legal,
}

impl Holes {
    /// Tells it of `records` in the offsets from `base` to `next`.
    pub(super) fn of(records: u64, base: Offset, next: Offset) -> Self {
        let offsets = next
            .0
            .checked_sub(base.0)
            .and_then(|count| u64::try_from(count).ok());
        if offsets == Some(records) {
            Self::None
        } else {
            Self::Legal
        }
    }
}

/// Tells whether a batch was moved to greater offsets, by the one behind it: that one begins before it ends, and would be in
/// order behind it if it began at `expected`.
pub(super) fn was_moved(expected: Offset, header: &BatchHeader, behind: &BatchHeader) -> bool {
    let end = expected.0.saturating_add(i64::from(header.last_offset_delta));
    header.base_offset > expected && behind.base_offset <= header.last_offset() && behind.base_offset.0 > end
}

/// Returns what is told of a batch out of its place.
pub(super) fn told(expected: Offset, header: &BatchHeader) -> String {
    format!(
        "batch begins at offset {}, expected {expected}",
        header.base_offset
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::plain;

    fn at(base: i64, records: i32) -> BatchHeader {
        let mut header = *plain("x").header();
        header.base_offset = Offset(base);
        header.last_offset_delta = records - 1;
        header
    }

    #[test]
    fn as_many_records_as_offsets_leave_no_hole() {
        assert_eq!(Holes::of(5, Offset(3), Offset(8)), Holes::None);
        assert_eq!(Holes::of(4, Offset(3), Offset(8)), Holes::Legal);
        assert_eq!(Holes::of(0, Offset(3), Offset(3)), Holes::None);
        assert_eq!(Holes::of(0, Offset(i64::MAX), Offset(i64::MIN)), Holes::Legal);
    }

    #[test]
    fn of_two_batches_that_overlap_the_one_that_was_moved_is_told() {
        let expected = Offset(3);
        assert!(was_moved(expected, &at(7, 2), &at(5, 1)));
        assert!(was_moved(expected, &at(4, 2), &at(5, 1)));
        assert!(!was_moved(expected, &at(7, 2), &at(9, 1)), "a hole");
        assert!(!was_moved(expected, &at(3, 2), &at(5, 1)), "no hole");
        assert!(!was_moved(expected, &at(7, 2), &at(1, 1)), "the one behind was");
    }
}
