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

use crate::storage::WatermarkView;
use crate::types::Timestamp;

/// First pause after a failure, in milliseconds.
const RETRY_MIN_MS: i64 = 1_000;
/// Longest pause after a failure, in milliseconds.
const RETRY_MAX_MS: i64 = 5 * 60 * 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Cleaning(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The offsets of the log when it was found not due, and time alone could not change that.
    idle_at: Option<WatermarkView>,
    failing: Option<Failing>,
    running: Option<Arc<Progress>>,
    last_took: Duration,
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
}

impl Failing {
    /// Returns what another failure makes of it.
    fn again(before: Option<&Self>, now: Timestamp, reason: String) -> Self {
        let failures = before.map_or(1, |failing| failing.failures.saturating_add(1));
        let doublings = (failures - 1).min(30);
        let pause_ms = (RETRY_MIN_MS << doublings).min(RETRY_MAX_MS);
        Self {
            failures,
            at: now,
            reason,
            retry_at: now.saturating_add_ms(pause_ms),
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
    /// Tells whether a look is needed: not while the log is as it was when nothing was due.
    pub(super) fn needs_look(&self, marks: &WatermarkView) -> bool {
        let known = self.0.lock();
        known.running.is_none() && known.idle_at.as_ref() != Some(marks)
    }

    /// Remembers that nothing is due until the log changes.
    pub(super) fn idle(&self, marks: WatermarkView) {
        self.0.lock().idle_at = Some(marks);
    }

    /// Has the next look look again: the settings changed.
    pub(in crate::broker) fn forget(&self) {
        self.0.lock().idle_at = None;
    }

    /// Begins work; `None` if another thread is at it.
    pub(super) fn claim(&self, now: Timestamp) -> Option<Arc<Progress>> {
        let mut known = self.0.lock();
        if known.running.is_some() {
            return None;
        }
        let progress = Arc::new(Progress::new(now));
        known.running = Some(Arc::clone(&progress));
        Some(progress)
    }

    /// Ends work.
    pub(super) fn release(&self) {
        self.0.lock().running = None;
    }

    /// A pass came to its end.
    pub(super) fn passed(&self, took: Duration) {
        let mut known = self.0.lock();
        known.failing = None;
        known.last_took = took;
    }

    /// A pass failed; returns how many in a row.
    pub(super) fn failed(&self, now: Timestamp, reason: String) -> u32 {
        let mut known = self.0.lock();
        let failing = Failing::again(known.failing.as_ref(), now, reason);
        let failures = failing.failures;
        known.failing = Some(failing);
        failures
    }

    pub(super) fn failing(&self) -> Option<Failing> {
        self.0.lock().failing.clone()
    }

    pub(super) fn running(&self) -> Option<Arc<Progress>> {
        self.0.lock().running.clone()
    }

    pub(super) fn last_took(&self) -> Duration {
        self.0.lock().last_took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_failures_double_from_a_second_to_five_minutes_and_end_with_a_success() {
        let cleaning = Cleaning::default();
        let retry_at = |now: i64| {
            cleaning.failed(Timestamp(now), "the disk is gone".to_owned());
            cleaning.failing().expect("it failed").retry_at.0
        };
        let pauses: Vec<i64> = (0..11).map(|_| retry_at(0) / 1_000).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        for _ in 0..100 {
            assert_eq!(retry_at(0), RETRY_MAX_MS);
        }
        cleaning.passed(Duration::ZERO);
        assert_eq!(cleaning.failing(), None);
        assert_eq!(retry_at(7), 1_007);
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
