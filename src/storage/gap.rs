//! Gaps: parts of a log that were on disk once and cannot be read any more.
//!
//! ```text
//!   | batch | batch | ??? ??? ??? | batch | batch |
//!                   '---- gap ----'
//!        positions: from the first unsound byte to the next sound batch
//!        offsets:   from the end of the batch before to the base of the batch behind
//! ```
//!
//! Damage below the recovery point is no torn tail: nothing is cut, and nobody is led past it without a word. A read of an
//! offset in a gap, or one that comes to it, is refused with its place and with the offset where reading can go on; what lies
//! before and behind is served.
//!
//! Where the next sound batch is, is not searched for byte by byte: a record may hold what looks like a batch. It is where the
//! length of the damaged batch says, or where the offset index knows of one, and its checksum holds.
//!
//! A log may also end before what was on disk: bytes are missing that a whole log had. The gap then reaches to where the file
//! ended, as far as that is known, beyond where it ends now ([`Lost::Missing`]). What tells of it below the recovery point:
//! the manifest, by the length that the log had; of the last log the recovery point itself, since a repair that leaves a hole
//! at the end of the log leaves a log behind it; and of a log that is not the last its being empty. Nothing tells of a log that
//! lost whole batches at its end and is neither the last nor in the manifest: compaction and repairs leave holes there, too.
//!
//! Gaps are found by recovery, and when a reader stumbles over one in a segment that the start had no reason to read
//! ([`super::examine`]). They live in memory: a manifest never vouches for a segment that has one, so the next start reads it
//! again, and says so again. It does tell of a log with missing bytes what that was when it was whole, and is not believed by
//! a start, which finds another length.

use std::ops::Range;
use std::path::Path;

use crate::types::Offset;

use super::error::ReadError;

/// A part of a log that cannot be read. Neither range is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// Its bytes in the `.log`.
    pub(super) positions: Range<u32>,
    /// The offsets that may have been in it.
    pub(super) offsets: Range<Offset>,
    /// Whether they are there.
    pub(super) lost: Lost,
    /// What is wrong at its first byte.
    pub(super) reason: String,
}

/// Whether the bytes of a gap are in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// They are, and are not what was written.
    Damaged,
    /// The file ends before they do.
    Missing,
}

impl Gap {
    /// Returns what a read that comes to it is told.
    pub(super) fn told(&self, path: &Path) -> ReadError {
        let (first, behind) = (self.offsets.start, self.offsets.end);
        let last = behind.0 - 1;
        ReadError::Damaged {
            path: path.to_path_buf(),
            position: u64::from(self.positions.start),
            lost: Some(self.offsets.clone()),
            reason: format!(
                "{}; offsets {first} to {last} are lost, reading can go on at {behind}",
                self.reason
            ),
        }
    }
}
