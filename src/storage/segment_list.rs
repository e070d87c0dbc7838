//! Which segments a log has, for readers: found by offset, or by time.
//!
//! Invariants
//! - Ascending by base, without overlap. The active segment, if there is one, is the last.
//! - `running[i]` is the greatest timestamp of `sealed[0..=i]`: it only grows, so the first segment that can hold a time is
//!   found by halving, however out of order the timestamps are.

use std::sync::Arc;

use crate::types::{Offset, Timestamp};

use super::segment::{Active, Sealed, Segment};

/// The segments of one log.
#[derive(Debug, Default)]
pub(super) struct SegmentList {
    sealed: Vec<Arc<Sealed>>,
    running: Vec<Timestamp>,
    active: Option<Arc<Active>>,
}

impl SegmentList {
    /// Makes the list of a log that is not being written. `sealed` ascends.
    pub(super) fn of(sealed: Vec<Arc<Sealed>>) -> Self {
        let mut list = Self::default();
        sealed.into_iter().for_each(|segment| list.push(segment));
        list
    }

    pub(super) fn push(&mut self, segment: Arc<Sealed>) {
        let known = self.running.last().copied().unwrap_or(Timestamp::MIN);
        self.running
            .push(known.max(segment.extent.content.greatest.unwrap_or(Timestamp::MIN)));
        self.sealed.push(segment);
    }

    /// Puts `new` in the place of `old`, neighbours in this list; tells whether they were there. Both ascend.
    pub(super) fn replace(&mut self, old: &[Arc<Sealed>], new: &[Arc<Sealed>]) -> bool {
        let Some(first) = old.first() else { return false };
        let from = self
            .sealed
            .partition_point(|segment| segment.extent.base < first.extent.base);
        let there = self
            .sealed
            .get(from..from + old.len())
            .is_some_and(|found| found.iter().zip(old).all(|(found, old)| Arc::ptr_eq(found, old)));
        if !there {
            return false;
        }
        let behind = self.sealed.split_off(from + old.len());
        self.sealed.truncate(from);
        self.running.truncate(from);
        for segment in new.iter().cloned().chain(behind) {
            self.push(segment);
        }
        true
    }

    /// Takes the last sealed segment away, to be written again.
    pub(super) fn pop(&mut self) -> Option<Arc<Sealed>> {
        self.running.pop();
        self.sealed.pop()
    }

    /// Takes the first sealed segments away, up to the one that ends at `end`. What lies behind keeps its order; the greatest
    /// timestamps are counted anew, since those of the segments that go say nothing any more.
    pub(super) fn remove_until(&mut self, end: Offset) -> Vec<Arc<Sealed>> {
        let gone = self.sealed.partition_point(|segment| segment.extent.next <= end);
        let kept = self.sealed.split_off(gone);
        let active = self.active.take();
        let gone = std::mem::take(&mut self.sealed);
        *self = Self::of(kept);
        self.active = active;
        gone
    }

    pub(super) fn sealed(&self) -> &[Arc<Sealed>] {
        &self.sealed
    }

    pub(super) fn active(&self) -> Option<&Arc<Active>> {
        self.active.as_ref()
    }

    pub(super) fn set_active(&mut self, active: Option<Arc<Active>>) {
        self.active = active;
    }

    pub(super) fn len(&self) -> usize {
        self.sealed.len() + usize::from(self.active.is_some())
    }

    /// Returns a segment by its index.
    pub(super) fn at(&self, index: usize) -> Option<Segment> {
        match self.sealed.get(index) {
            Some(sealed) => Some(Segment::Sealed(Arc::clone(sealed))),
            None if index == self.sealed.len() => self.active.clone().map(Segment::Active),
            None => None,
        }
    }

    /// Returns the index of the first segment that ends after `offset`.
    pub(super) fn index_at(&self, offset: Offset) -> usize {
        self.sealed
            .partition_point(|segment| segment.extent.next <= offset)
    }

    /// Returns the index, `from` or greater, of the first segment that may hold a record of `at` or later. The active
    /// segment always may.
    pub(super) fn index_at_time(&self, at: Timestamp, from: usize) -> usize {
        // A running greatest that was reached before `from` says nothing about what follows.
        let reached = self.running.partition_point(|greatest| *greatest < at);
        if reached >= from {
            return reached;
        }
        (from..self.sealed.len())
            .find(|&index| {
                self.sealed[index]
                    .extent
                    .content
                    .greatest
                    .is_some_and(|greatest| greatest >= at)
            })
            .unwrap_or(self.sealed.len())
            .max(from)
    }
}
