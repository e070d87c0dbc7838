//! A segment as a pass takes it in.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::types::Offset;

use super::super::cleaner_state::DamagedPlace;
use super::super::segment::Sealed;
use super::grouping::{Member, Soundness};

/// A sealed segment, and where the next one begins.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) sealed: Arc<Sealed>,
    /// The base of what follows: no batch of the segment reaches so far.
    pub(super) bound: Offset,
    pub(super) soundness: Soundness,
}

impl Source {
    pub(super) fn offsets(&self) -> Range<Offset> {
        self.sealed.extent.base..self.bound
    }

    pub(super) fn path(&self) -> &Arc<Path> {
        &self.sealed.log_path
    }

    /// Returns what its file has no longer, where it ends before the log did. A copy would end there as if nothing had been
    /// behind, so such a file stays as it is, to tell of it.
    pub(super) fn missing(&self) -> Option<DamagedPlace> {
        let gap = self.sealed.gaps().last().filter(|_| self.sealed.ends_early())?;
        Some(DamagedPlace {
            path: self.path().to_path_buf(),
            position: u64::from(gap.positions.start),
            len_bytes: u64::from(gap.positions.end - gap.positions.start),
            offset: gap.offsets.start,
            reason: gap.reason.clone(),
        })
    }

    pub(super) fn member(&self) -> Member {
        let lens = self.sealed.index_lens();
        Member {
            base: self.sealed.extent.base,
            bound: self.bound,
            log_bytes: u64::from(self.sealed.extent.end),
            offset_index_bytes: u64::from(lens.offsets),
            time_index_bytes: u64::from(lens.times),
            soundness: self.soundness,
        }
    }
}
