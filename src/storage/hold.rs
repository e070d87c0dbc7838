//! Holds: ranges of a log, by offset or by time, that no policy takes anything from: neither retention nor compaction nor a
//! request to delete records.
//!
//! Invariants
//! - Ranges are half-open.
//! - A hold by time holds a record by the record's own timestamp, whatever its place in the log.
//!
//! What is not here: who holds what and why, and where that is written down (`broker`).

use std::fmt;
use std::ops::Range;

use crate::types::{Offset, Timestamp};

/// A range that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// The records at these offsets.
    Offsets(Range<Offset>),
    /// The records with these timestamps.
    Times(Range<Timestamp>),
}

impl Hold {
    /// Tells whether the record at `offset` with `timestamp` is held.
    pub fn holds(&self, offset: Offset, timestamp: Option<Timestamp>) -> bool {
        match self {
            Self::Offsets(range) => range.contains(&offset),
            Self::Times(range) => timestamp.is_some_and(|timestamp| range.contains(&timestamp)),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offsets(range) => write!(f, "offsets {} to {}", range.start, range.end),
            Self::Times(range) => write!(f, "times {} to {}", range.start, range.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_takes_its_first_and_leaves_the_one_after_its_last() {
        let offsets = Hold::Offsets(Offset(3)..Offset(5));
        let held: Vec<i64> = (0..8)
            .filter(|offset| offsets.holds(Offset(*offset), None))
            .collect();
        assert_eq!(held, [3, 4]);
        let times = Hold::Times(Timestamp(10)..Timestamp(20));
        assert!(times.holds(Offset(0), Some(Timestamp(10))));
        assert!(!times.holds(Offset(0), Some(Timestamp(20))));
        assert!(!times.holds(Offset(0), None));
    }
}
