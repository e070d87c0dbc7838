//! Segments that the disk does not give: what a pass leaves alone, and how far it counts as done.
//!
//! ```text
//!   | clean |  dirty  | unreadable |  dirty  | active |
//!                     ^ the cleaner point stays here; what lies before and behind is cleaned all the same
//! ```
//!
//! - A segment of which a part cannot be read stays as it is. What was learned of it counts: it is there. Tombstones behind it stay:
//!   it may hold a record of any key.
//! - The pass ends with the error, and is tried again: the cleaner point does not pass the segment, so that it is learned once
//!   the disk gives it.
//! - Where the map did not hold all keys, that would keep the rounds from getting on. Then a segment that the pass before could
//!   not read either is passed, and told as damage.
//!
//! What is not here: bytes that can be read and are no batches (`pieces`).

use std::collections::{BTreeMap, BTreeSet};

use crate::storage::StoreError;
use crate::types::Offset;

use super::super::cleaner_state::DamagedPlace;
use super::gate::UnreadPlace;
use super::source::Source;

/// See the module. By the first offset of the segment.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<Offset, (DamagedPlace, StoreError)>);

impl Unread {
    /// Takes note of a segment; the first place counts.
    pub(super) fn add(&mut self, source: &Source, place: UnreadPlace, error: StoreError) {
        let told = DamagedPlace {
            path: source.path().to_path_buf(),
            position: place.position,
            len_bytes: place.len_bytes,
            offset: place.offset,
            reason: error.to_string(),
        };
        let base = source.sealed.extent.base;
        self.0.entry(base).or_insert((told, error));
    }

    /// Returns the place in the segment that begins at `base`.
    pub(super) fn at(&self, base: Offset) -> Option<&DamagedPlace> {
        self.0.get(&base).map(|(place, _)| place)
    }

    /// Ends a pass that has learned from `from` to `to`, all that is dirty or not: returns the cleaner point, the error that the
    /// pass ends with, and the segments, for the next pass. Those in `known` the pass before could not read either.
    pub(super) fn end(
        self,
        (from, to): (Offset, Offset),
        learned: Learned,
        known: &BTreeSet<Offset>,
    ) -> (Offset, Option<StoreError>, BTreeSet<Offset>) {
        let bases = self.0.keys().copied().collect();
        let passed = |base: Offset| known.contains(&base) && (learned == Learned::Part || base < from);
        let mut stops = self.0.into_iter().filter(|(base, _)| !passed(*base));
        match stops.next() {
            Some((base, (_, error))) => (base.min(to).max(from), Some(error), bases),
            None => (to, None, bases),
        }
    }
}

/// Whether the map held every key that is dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learned {
    All,
    Part,
}
