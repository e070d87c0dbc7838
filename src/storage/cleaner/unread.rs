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
//!   not read either is passed, and told as damage. It is remembered: tombstones from there on stay, since nobody knows what the
//!   segment would have shadowed below them, and when the disk gives it again, it is dirty again, and learned.
//!
//! What is not here: bytes that can be read and are no batches (`pieces`), and files that have become shorter than the log was: what
//! of them is lost is known once somebody has looked, and nobody waits for it ([`Source::finds_its_end_lost`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::storage::StoreError;
use crate::types::Offset;

use super::super::cleaner_state::{DamagedPlace, Left};
use super::gate::UnreadPlace;
use super::source::Source;

/// See the module. By the first offset of the segment.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<Offset, Segment>);

#[derive(Debug)]
struct Segment {
    place: DamagedPlace,
    error: StoreError,
    /// No batch of it reaches so far.
    bound: Offset,
}

/// What a pass knows at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass<'a> {
    /// It has learned from here, all that is dirty or not,
    pub(super) from: Offset,
    /// up to here.
    pub(super) to: Offset,
    pub(super) learned: Learned,
    /// What passes before it left.
    pub(super) before: &'a Left,
    /// The segments before `to` that there were.
    pub(super) segments: &'a [Range<Offset>],
}

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
        self.0.entry(base).or_insert(Segment {
            place: told,
            error,
            bound: source.bound,
        });
    }

    /// Returns the place in the segment that begins at `base`.
    pub(super) fn at(&self, base: Offset) -> Option<&DamagedPlace> {
        self.0.get(&base).map(|segment| &segment.place)
    }

    /// Ends a pass: returns the cleaner point, the error that it ends with, and what it leaves. What the pass before could not read
    /// either is passed, where it would keep the rounds from getting on, or lies before what was to be learned.
    pub(super) fn end(self, pass: &Pass<'_>) -> (Offset, Option<StoreError>, Left) {
        let known = |base: &Offset| pass.before.unread.contains(base);
        let is_passed = |base: &Offset| known(base) && (pass.learned == Learned::Part || *base < pass.from);
        let mut left = Left {
            unread: self.0.keys().copied().collect(),
            unlearned: self.unlearned(pass, &is_passed),
            learn_from: self.readable_again(pass),
        };
        if let Some(offset) = left.learn_from {
            left.unlearned.retain(|base| *base < offset);
        }
        let mut stops = self.0.into_iter().filter(|(base, _)| !is_passed(base));
        match stops.next() {
            Some((base, segment)) => (base.min(pass.to).max(pass.from), Some(segment.error), left),
            None => (pass.to, None, left),
        }
    }

    fn unlearned(&self, pass: &Pass<'_>, is_passed: &dyn Fn(&Offset) -> bool) -> BTreeSet<Offset> {
        let passed = self.0.iter().filter(|(base, _)| is_passed(base));
        let dirty = passed.filter(|(_, segment)| segment.bound > pass.from);
        let before = pass.before.unlearned.iter();
        let still = before.filter(|base| {
            pass.segment_of(**base)
                .is_some_and(|start| self.0.contains_key(&start))
        });
        dirty.map(|(base, _)| base).chain(still).copied().collect()
    }

    /// Returns where the first segment begins that was passed unlearned, is still there, and was read by this pass.
    fn readable_again(&self, pass: &Pass<'_>) -> Option<Offset> {
        let mut before = pass.before.unlearned.range(..pass.from).copied();
        let was_read = |base: &Offset| {
            pass.segment_of(*base)
                .is_some_and(|start| !self.0.contains_key(&start))
        };
        before.find(was_read)
    }
}

impl Pass<'_> {
    /// Returns where the segment begins that holds an offset: what was a segment may be part of a larger one by now.
    fn segment_of(&self, offset: Offset) -> Option<Offset> {
        let at = self.segments.partition_point(|segment| segment.end <= offset);
        let segment = self.segments.get(at).filter(|segment| segment.contains(&offset));
        segment.map(|segment| segment.start)
    }
}

/// Whether the map held every key that is dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learned {
    All,
    Part,
}
