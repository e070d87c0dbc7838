//! What readers and operators are told of a compacted log: below which offsets it is no longer the whole history, and which
//! segments it has. From memory.
//!
//! What is not here: why nothing is cleaned just now (`choose`).

use crate::storage::{FirstAppend, Partition};
use crate::types::{Offset, Timestamp};

use super::super::segment::Segment;

/// Offsets below which a log may no longer hold everything that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactedBelow {
    /// Records before it may have been replaced by newer ones of their key.
    pub records: Offset,
    /// Tombstones before it may be gone. A reader that stopped at an older offset may have missed one: it has to begin anew.
    pub tombstones: Offset,
}

/// One segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentView {
    /// The first offset that may lie in it.
    pub base: Offset,
    /// The offset after its last.
    pub next: Offset,
    /// Bytes of its batches.
    pub size_bytes: u64,
    /// When its first batch was appended, where known.
    pub first_append: Option<Timestamp>,
    /// When its last batch was appended, where known.
    pub last_append: Option<Timestamp>,
    /// What it is for.
    pub role: SegmentRole,
}

/// What a segment is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentRole {
    /// It does not change any more.
    Sealed,
    /// It takes appends.
    Active,
}

impl Partition {
    /// Returns the offsets below which the log may be incomplete. Arithmetic only: every read may ask.
    pub fn compacted_below(&self) -> CompactedBelow {
        let log_start = self.watermarks().log_start;
        CompactedBelow {
            records: self.cleaner.compacted_below(log_start),
            tombstones: self.cleaner.tombstones_gone_below(log_start),
        }
    }

    /// Returns the cleaner point: everything before it is clean.
    pub fn cleaner_point(&self) -> Offset {
        self.cleaner.point(self.watermarks().log_start)
    }

    /// Tells whether somebody waits for a pass over this log to end, or to come to its next chunk: a change of settings,
    /// retention, a removal.
    pub fn wants_pass_to_end(&self) -> bool {
        self.maintenance.is_wanted() || self.maintenance.is_wanted_to_delete()
    }

    /// Returns all segments in the order of their offsets.
    pub fn segment_views(&self) -> Vec<SegmentView> {
        let view = |segment: &Segment| {
            let extent = segment.extent();
            SegmentView {
                base: extent.base,
                next: extent.next,
                size_bytes: u64::from(extent.end),
                first_append: extent
                    .append_times
                    .first()
                    .filter(|_| extent.append_times.first_is() == FirstAppend::Known)
                    .map(|sample| sample.time),
                last_append: extent.append_times.last().map(|sample| sample.time),
                role: match segment {
                    Segment::Sealed(_) => SegmentRole::Sealed,
                    Segment::Active(_) => SegmentRole::Active,
                },
            }
        };
        super::super::read::snapshot(&self.segments)
            .iter()
            .map(view)
            .collect()
    }
}
