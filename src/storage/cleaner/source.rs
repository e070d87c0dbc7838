//! A segment as a pass takes it in.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::types::Offset;

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
