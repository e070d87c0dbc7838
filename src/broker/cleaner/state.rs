//! What the cleaner keeps of one partition between two looks. It lives and dies with the partition, so that no table of the
//! cleaner's own has to be bounded.
//!
//! Invariants
//! - The lock is held for memory work.
//! - `running` is set by the one thread that cleans the partition, and taken back by it, however the work ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::storage::{CompactionView, Due, NotDue, RollFor, Rounds, WatermarkView};
use crate::types::Timestamp;

/// First pause after a failure, in milliseconds.
const RETRY_MIN_MS: i64 = 1_000;
/// Longest pause after a failure, in milliseconds.
const RETRY_MAX_MS: i64 = 5 * 60 * 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Cleaning {
    known: Mutex<Known>,
    /// The desk knows of its promise, so that an append needs not tell.
    promised: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// The offsets of the log when it was found not due, and time alone could not change that.
    idle_at: Option<(WatermarkView, Standing)>,
    /// The deadline that an alarm was raised for.
    alarmed: Option<Timestamp>,
    failing: Option<Failing>,
    running: Option<Arc<Progress>>,
    last_took: Duration,
}

/// How a log stands, for the metrics.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Standing {
    pub(super) dirty_bytes: u64,
    pub(super) dirty_offsets: i64,
    pub(super) ratio: f64,
    pub(super) dirty_since: Option<Timestamp>,
    pub(super) is_overdue: bool,
    pub(super) rounds_left: u32,
    /// As the last pass counted.
    pub(super) live_keys: u64,
    /// As the last pass counted.
    pub(super) tombstones: u64,
}

impl Standing {
    /// Reads it off a view.
    pub(super) fn of(view: &CompactionView, marks: &WatermarkView, now: Timestamp) -> Self {
        let report = view.last_pass.as_ref().map(|(_, report)| report);
        let rounds_left = match report.map(|report| report.rounds) {
            Some(Rounds::More { estimate, .. }) => estimate,
            Some(Rounds::Done) | None => 0,
        };
        Self {
            dirty_bytes: view.dirty_bytes + view.uncleanable_bytes,
            dirty_offsets: marks.log_end.0.saturating_sub(view.cleaner_point.0).max(0),
            ratio: view.ratio,
            dirty_since: view.dirty_since,
            is_overdue: is_overdue(view, now),
            rounds_left,
            live_keys: report.map_or(0, |report| report.records.values_kept),
            tombstones: report.map_or(0, |report| report.records.tombstones_kept),
        }
    }
}

/// Tells whether a promise is broken. What is held comes before a promise.
pub(super) fn is_overdue(view: &CompactionView, now: Timestamp) -> bool {
    let bound = !matches!(view.due, Due::No(NotDue::Policy | NotDue::Held | NotDue::Clean));
    bound && view.deadline.is_some_and(|deadline| deadline < now)
}

/// A partition whose last pass failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failing {
    /// Failures in a row.
    pub(super) failures: u32,
    /// When the last of them was.
    pub(super) at: Timestamp,
    /// What went wrong.
    pub(super) reason: String,
    /// When it is tried again.
    pub(super) retry_at: Timestamp,
    /// What it is tried again for.
    pub(super) wish: RollFor,
    pause_ms: i64,
}

impl Failing {
    /// Returns what another failure makes of it.
    fn again(before: Option<&Self>, now: Timestamp, reason: String, wish: RollFor) -> Self {
        let failures = before.map_or(1, |failing| failing.failures.saturating_add(1));
        let doublings = (failures - 1).min(30);
        let pause_ms = (RETRY_MIN_MS << doublings).min(RETRY_MAX_MS);
        Self {
            failures,
            at: now,
            reason,
            retry_at: now.saturating_add_ms(pause_ms),
            wish,
            pause_ms,
        }
    }
}

/// How far the work under way is.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) since: Timestamp,
    pub(super) done_bytes: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    /// The budget would break a promise.
    pub(super) alarm: AtomicBool,
}

impl Progress {
    fn new(since: Timestamp) -> Self {
        Self {
            since,
            done_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            alarm: AtomicBool::new(false),
        }
    }

    /// Returns bytes done and bytes in all, the second never below the first.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let done = self.done_bytes.load(Ordering::Relaxed);
        (done, self.total_bytes.load(Ordering::Relaxed).max(done))
    }
}

impl Cleaning {
    /// Returns how the log stands if it is as it was when nothing was due, so that no look is needed.
    pub(super) fn unchanged(&self, marks: &WatermarkView) -> Option<Standing> {
        let known = self.known.lock();
        let (at, standing) = known.idle_at.as_ref()?;
        (at == marks && known.failing.is_none()).then_some(*standing)
    }

    /// Remembers that nothing is due until the log changes.
    pub(super) fn idle(&self, marks: WatermarkView, standing: Standing) {
        self.known.lock().idle_at = Some((marks, standing));
    }

    /// Has the next look look again: the settings changed.
    pub(in crate::broker) fn forget(&self) {
        self.known.lock().idle_at = None;
    }

    /// An append was made that has a promise. Returns true if the desk does not know of any promise of this log.
    pub(in crate::broker) fn is_first_promise(&self) -> bool {
        !self.promised.load(Ordering::Acquire) && !self.promised.swap(true, Ordering::AcqRel)
    }

    /// A look begins: an append from now on may not be in it.
    pub(super) fn begin_look(&self) {
        self.promised.store(false, Ordering::Release);
    }

    /// A look found a promise; the desk knows.
    pub(super) fn set_promised(&self) {
        self.promised.store(true, Ordering::Release);
    }

    /// A promise is, or will be, broken. Returns true if that was not told yet.
    pub(super) fn raise_alarm(&self, deadline: Timestamp) -> bool {
        let mut known = self.known.lock();
        known.alarmed.replace(deadline) != Some(deadline)
    }

    /// Begins work; `None` if another thread is at it.
    pub(super) fn claim(&self, now: Timestamp) -> Option<Arc<Progress>> {
        let mut known = self.known.lock();
        if known.running.is_some() {
            return None;
        }
        let progress = Arc::new(Progress::new(now));
        known.running = Some(Arc::clone(&progress));
        Some(progress)
    }

    /// Ends work.
    pub(super) fn release(&self) {
        let mut known = self.known.lock();
        known.running = None;
        // Its segments may have changed, and no offset of the log tells.
        known.idle_at = None;
    }

    /// A pass came to its end.
    pub(super) fn passed(&self, took: Duration) {
        let mut known = self.known.lock();
        known.failing = None;
        known.last_took = took;
    }

    /// A pass failed; returns how many in a row.
    pub(super) fn failed(&self, now: Timestamp, reason: String, wish: RollFor) -> u32 {
        let mut known = self.known.lock();
        let failing = Failing::again(known.failing.as_ref(), now, reason, wish);
        let failures = failing.failures;
        known.failing = Some(failing);
        failures
    }

    /// There is nothing left to do for what failed.
    pub(super) fn settled(&self) {
        self.known.lock().failing = None;
    }

    /// Returns what failed. However the clock was set since, the pause from now on is never longer than it was.
    pub(super) fn failing(&self, now: Timestamp) -> Option<Failing> {
        let mut known = self.known.lock();
        let failing = known.failing.as_mut()?;
        failing.retry_at = failing.retry_at.min(now.saturating_add_ms(failing.pause_ms));
        Some(failing.clone())
    }

    pub(super) fn running(&self) -> Option<Arc<Progress>> {
        self.known.lock().running.clone()
    }

    pub(super) fn last_took(&self) -> Duration {
        self.known.lock().last_took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_failures_double_from_a_second_to_five_minutes_and_end_with_a_success() {
        let cleaning = Cleaning::default();
        let retry_at = |now: i64| {
            cleaning.failed(Timestamp(now), "the disk is gone".to_owned(), RollFor::Promise);
            cleaning.failing(Timestamp(now)).expect("it failed").retry_at.0
        };
        let pauses: Vec<i64> = (0..11).map(|_| retry_at(0) / 1_000).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        for _ in 0..100 {
            assert_eq!(retry_at(0), RETRY_MAX_MS);
        }
        cleaning.passed(Duration::ZERO);
        assert_eq!(cleaning.failing(Timestamp(0)), None);
        assert_eq!(retry_at(7), 1_007);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let cleaning = Cleaning::default();
        cleaning.failed(Timestamp(9_000_000), "no room".to_owned(), RollFor::Promise);
        let retry_at = |now| cleaning.failing(Timestamp(now)).expect("it failed").retry_at;
        assert_eq!(retry_at(5_000), Timestamp(6_000));
        assert_eq!(
            retry_at(5_900),
            Timestamp(6_000),
            "the pause goes on, it does not begin anew"
        );
    }

    #[test]
    fn only_the_first_append_after_a_look_that_found_no_promise_tells_of_one() {
        let cleaning = Cleaning::default();
        cleaning.begin_look();
        assert!(cleaning.is_first_promise());
        assert!(!cleaning.is_first_promise());
        cleaning.begin_look();
        cleaning.set_promised();
        assert!(!cleaning.is_first_promise());
    }

    #[test]
    fn one_thread_at_a_time_has_a_partition() {
        let cleaning = Cleaning::default();
        assert!(cleaning.claim(Timestamp(1)).is_some());
        assert!(cleaning.claim(Timestamp(2)).is_none());
        cleaning.release();
        assert!(cleaning.claim(Timestamp(3)).is_some());
    }
}
