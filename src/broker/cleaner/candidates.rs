//! Which log is cleaned next, and when to look again. Pure.
//!
//! | rank | which | among each other |
//! |---|---|---|
//! | 1 | a promise of `max.compaction.lag.ms` falls due | the earliest deadline first |
//! | 2 | the dirty ratio is above `min.cleanable.dirty.ratio` | the dirtiest first |
//! | 3 | the time of its tombstones is over | the longest over first |
//! | 4 | its last pass failed, whatever it was for | any |
//!
//! What is not here: commands, which come after promises and before the rest (`desk`), and back-off (`state`).

use std::cmp::Ordering;

use crate::storage::{Bound, CompactionView, Due, NotDue};
use crate::types::Timestamp;

/// When to look again at a log whose newest sealed segment is not yet synced, in milliseconds.
const SYNC_LOOK_MS: i64 = 1_000;

/// Why a log wants a pass.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Urgency {
    /// Its promise breaks at this time.
    Promise(Timestamp),
    /// So much of it is dirty.
    Ratio(f64),
    /// Tombstones may go since this time.
    Horizon(Timestamp),
    /// Its last pass failed.
    Again,
}

impl Urgency {
    /// Orders by who comes first: the least is next.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Promise(mine), Self::Promise(theirs)) | (Self::Horizon(mine), Self::Horizon(theirs)) => {
                mine.cmp(theirs)
            }
            (Self::Ratio(mine), Self::Ratio(theirs)) => theirs.total_cmp(mine),
            (mine, theirs) => mine.rank().cmp(&theirs.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Promise(_) => 1,
            Self::Ratio(_) => 2,
            Self::Horizon(_) => 3,
            Self::Again => 4,
        }
    }
}

/// Says whether a log wants a pass at `now`, sealed and synced first where only that is in the way of a promise.
pub(super) fn urgency(view: &CompactionView, now: Timestamp) -> Option<Urgency> {
    let promised = view.promise_at.is_some_and(|at| at <= now);
    // Ends when the cleaner syncs.
    let syncable = matches!(view.bound, Some(Bound::NotSafe(_)));
    let to_roll = view.roll_at.filter(|at| *at <= now);
    match (view.due, view.deadline) {
        (Due::Promise, Some(deadline)) => Some(Urgency::Promise(deadline)),
        (Due::No(NotDue::NotCleanable), Some(deadline)) if promised && syncable => {
            Some(Urgency::Promise(deadline))
        }
        (due, deadline) => match (to_roll, due) {
            (Some(at), _) => Some(Urgency::Promise(deadline.unwrap_or(at))),
            (None, Due::Ratio | Due::Promise) => Some(Urgency::Ratio(view.ratio)),
            (None, Due::Horizon) => view.horizon_at.map(Urgency::Horizon),
            (None, Due::No(_)) => None,
        },
    }
}

/// Returns the time from which on a log that is not due may be, though nothing is written to it.
pub(super) fn wakes_at(view: &CompactionView, now: Timestamp) -> Option<Timestamp> {
    let lag = match view.bound {
        Some(Bound::MinLag(at)) => Some(at),
        Some(Bound::NotSafe(_)) => Some(now.saturating_add_ms(SYNC_LOOK_MS)),
        _ => None,
    };
    [view.promise_at, view.roll_at, view.horizon_at, lag]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    const NOW: Timestamp = Timestamp(1_000);

    fn view(due: Due) -> CompactionView {
        CompactionView {
            log_start: Offset(0),
            cleaner_point: Offset(0),
            first_uncleanable: Offset(10),
            bound: Some(Bound::ActiveSegment),
            clean_bytes: 10,
            dirty_bytes: 10,
            uncleanable_bytes: 10,
            ratio: 0.5,
            deadline: None,
            promise_at: None,
            roll_at: None,
            horizon_at: None,
            dirty_since: None,
            due,
            last_pass: None,
            last_error: None,
        }
    }

    fn promised(due: Due, at: i64) -> CompactionView {
        CompactionView {
            deadline: Some(Timestamp(at + 500)),
            promise_at: Some(Timestamp(at)),
            roll_at: Some(Timestamp(at)),
            ..view(due)
        }
    }

    #[test]
    fn promises_come_before_ratios_the_earliest_deadline_and_the_dirtiest_log_first() {
        let mut all = [
            Urgency::Again,
            Urgency::Horizon(Timestamp(3)),
            Urgency::Ratio(0.6),
            Urgency::Promise(Timestamp(20)),
            Urgency::Ratio(0.9),
            Urgency::Promise(Timestamp(10)),
        ];
        all.sort_by(Urgency::order);
        let expected = [
            Urgency::Promise(Timestamp(10)),
            Urgency::Promise(Timestamp(20)),
            Urgency::Ratio(0.9),
            Urgency::Ratio(0.6),
            Urgency::Horizon(Timestamp(3)),
            Urgency::Again,
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_promise_that_waits_only_for_a_roll_or_a_sync_is_due_and_one_behind_a_lag_is_not() {
        let due = Due::No(NotDue::NotCleanable);
        let waiting = promised(due, 900);
        assert_eq!(urgency(&waiting, NOW), Some(Urgency::Promise(Timestamp(1_400))));
        let early = promised(due, 1_001);
        assert_eq!(urgency(&early, NOW), None);
        assert_eq!(wakes_at(&early, NOW), Some(Timestamp(1_001)));
        let lagging = CompactionView {
            bound: Some(Bound::MinLag(Timestamp(1_200))),
            roll_at: None,
            ..waiting.clone()
        };
        assert_eq!(urgency(&lagging, NOW), None);
        assert_eq!(wakes_at(&lagging, NOW), Some(Timestamp(1_200)));
        let unsynced = CompactionView {
            bound: Some(Bound::NotSafe(Offset(3))),
            roll_at: None,
            ..waiting.clone()
        };
        assert_eq!(urgency(&unsynced, NOW), Some(Urgency::Promise(Timestamp(1_400))));
        assert_eq!(wakes_at(&unsynced, NOW), Some(Timestamp(2_000)));
        let over = CompactionView {
            bound: Some(Bound::MinLag(NOW)),
            ..waiting.clone()
        };
        assert_eq!(wakes_at(&over, NOW), None, "what is over wakes nobody");
        let held = CompactionView {
            due: Due::No(NotDue::Held),
            roll_at: None,
            ..waiting
        };
        assert_eq!(urgency(&held, NOW), None);
    }

    #[test]
    fn a_log_below_its_ratio_sleeps_until_it_changes() {
        let quiet = view(Due::No(NotDue::BelowRatio));
        assert_eq!((urgency(&quiet, NOW), wakes_at(&quiet, NOW)), (None, None));
        assert_eq!(urgency(&view(Due::Ratio), NOW), Some(Urgency::Ratio(0.5)));
    }

    #[test]
    fn an_active_segment_is_sealed_for_its_promise_also_while_a_lag_keeps_the_one_before_it() {
        let lagging = CompactionView {
            bound: Some(Bound::MinLag(Timestamp(1_200))),
            roll_at: Some(NOW),
            ..promised(Due::No(NotDue::NotCleanable), 1_300)
        };
        assert_eq!(urgency(&lagging, NOW), Some(Urgency::Promise(Timestamp(1_800))));
        assert_eq!(wakes_at(&lagging, Timestamp(999)), Some(NOW));
    }
}
