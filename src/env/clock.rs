//! The wall clock as a value. Storage never asks for the time; whoever calls it does, from here.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Tells the time of day. It may jump, also backwards: nothing that must be monotonic is derived from it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the operating system"
    )]
    fn now(&self) -> Timestamp {
        timestamp_of(SystemTime::now())
    }
}

/// Returns `time` in whole milliseconds; times that do not fit become the nearest that does.
pub(super) fn timestamp_of(time: SystemTime) -> Timestamp {
    Timestamp(match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    })
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts at `now`.
    pub fn starting_at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves the clock by `ms` milliseconds, backwards when negative.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_whole_milliseconds_on_both_sides_of_the_epoch() {
        let time = |us| Duration::from_micros(us);
        assert_eq!(timestamp_of(UNIX_EPOCH + time(1_999)), Timestamp(1));
        assert_eq!(timestamp_of(UNIX_EPOCH), Timestamp(0));
        assert_eq!(timestamp_of(UNIX_EPOCH - time(5_000)), Timestamp(-5));
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::starting_at(Timestamp(10));
        assert_eq!(clock.now(), Timestamp(10));
        clock.advance_ms(-3);
        assert_eq!(clock.now(), Timestamp(7));
    }
}
