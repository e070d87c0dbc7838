//! A segment as a pass takes it in.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::env::FileCache;
use crate::storage::AbortedTransaction;
use crate::types::Offset;

use super::super::cleaner_state::DamagedPlace;
use super::super::examine::Examined;
use super::super::segment::Sealed;
use super::gate::CompactError;
use super::grouping::{Member, Soundness};

/// Tells, for who reads a segment, the aborted transactions that reach into some offsets from there on.
pub(super) type AbortedIn<'a> =
    &'a dyn Fn(&Source, &Range<Offset>) -> Result<Vec<AbortedTransaction>, CompactError>;

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

    /// It could not be read: where that is because its file has become shorter than the log was, finds out what of it is lost, as
    /// a reader who came to that place would. Returns true if that is known now, and was not before. Reads the file to its end, once.
    pub(super) fn finds_its_end_lost(&self, files: &FileCache) -> bool {
        let whole = u64::from(self.sealed.extent.end);
        let stat = files.fs().stat(self.path());
        self.sealed.gaps().is_empty()
            && stat.is_ok_and(|stat| stat.len_bytes < whole)
            // What keeps it from being read even so far is no reason to give up the rest of the log: it is told as unreadable.
            && matches!(self.sealed.examine(files), Ok(Examined::NewGaps))
            && self.sealed.ends_early()
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
