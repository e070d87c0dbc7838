//! Which segments the cleaner wrote since the start: of two of the same size, the one that the archive has and the one that is here.
//!
//! What is not here: telling them apart after another start ([`super::ArchivedExtent`]).

use std::collections::BTreeMap;

use crate::types::Offset;

/// Segments that the cleaner wrote since the start and that are still there, each by a number of its own.
#[derive(Debug, Default)]
pub(super) struct WrittenAnew {
    count: u64,
    by_base: BTreeMap<Offset, u64>,
}

impl WrittenAnew {
    pub(super) fn note(&mut self, bases: impl Iterator<Item = Offset>) {
        for base in bases {
            self.count += 1;
            self.by_base.insert(base, self.count);
        }
    }

    pub(super) fn forget(&mut self, bases: impl Iterator<Item = Offset>) {
        for base in bases {
            self.by_base.remove(&base);
        }
    }

    /// What begins before `start` is gone.
    pub(super) fn forget_before(&mut self, start: Offset) {
        self.by_base = self.by_base.split_off(&start);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_base.len()
    }

    /// Returns the number of a segment; 0 of one that the start found.
    pub(super) fn number(&self, base: Offset) -> u64 {
        self.by_base.get(&base).copied().unwrap_or(0)
    }
}
